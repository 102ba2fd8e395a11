"""The section about second attempts."""

from __future__ import annotations

from typing import Any

import pytest

from goplugins.config import HedgeConfig, ManagerConfig, PluginConfig
from goplugins.enums import TransportType
from goplugins.errors import ConfigError

HTTP = {"name": "a", "transport": "http", "endpoint": "http://127.0.0.1:1"}


def plugin(hedge: dict[str, Any], **fields: Any) -> PluginConfig:
    return PluginConfig.from_mapping({**HTTP, **fields, "hedge": hedge})


def problems(config: PluginConfig) -> set[str]:
    with pytest.raises(ConfigError) as caught:
        config.validate()
    return {problem.path for problem in caught.value.problems}


def test_it_is_off_by_default() -> None:
    resolved = ManagerConfig().resolve(PluginConfig.from_mapping(HTTP))
    assert resolved.hedge is None


def test_what_is_left_out_has_its_default() -> None:
    resolved = ManagerConfig().resolve(plugin({"enabled": True, "percentile": 0.99}))
    assert resolved.hedge == HedgeConfig(enabled=True, delay=None, percentile=0.99, min_delay=0.01)
    resolved = ManagerConfig().resolve(plugin({"enabled": True, "delay": "50ms"}))
    assert resolved.hedge is not None
    assert resolved.hedge.delay == 0.05


@pytest.mark.parametrize(
    "hedge",
    [
        {"enabled": True},
        {"enabled": False, "percentile": 0.9},
        {"enabled": True, "delay": 0.1},
        {"enabled": True, "min_delay": 0},
    ],
)
def test_good_ones(hedge: dict[str, Any]) -> None:
    plugin(hedge).validate()
    grpc = {"transport": "grpc", "endpoint": "127.0.0.1:1"}
    plugin(hedge, **grpc).validate()
    plugin(hedge, transport="unix", endpoint="/run/a").validate()


def test_a_section_that_does_nothing_is_refused() -> None:
    assert problems(plugin({})) == {"hedge.enabled"}
    assert problems(plugin({"percentile": 0.9})) == {"hedge.enabled"}
    assert problems(plugin({"enabled": True, "delay": 1, "percentile": 0.9})) == {"hedge.percentile"}
    assert problems(plugin({"enabled": True, "delay": 1, "min_delay": 0.1})) == {"hedge.min_delay"}


@pytest.mark.parametrize(
    "fields",
    [
        {"transport": "exec", "endpoint": "", "executable": "/bin/true"},
        {"transport": "python", "endpoint": "package.module:name"},
    ],
)
def test_what_can_not_be_taken_back_can_not_be_hedged(fields: dict[str, Any]) -> None:
    assert problems(plugin({"enabled": True}, **fields)) == {"hedge.enabled"}
    plugin({"enabled": False}, **fields).validate()


def test_an_object_registered_in_code_must_say_what_it_is_called_over() -> None:
    hedge = HedgeConfig(enabled=True)
    with pytest.raises(ConfigError, match=r"hedge\.enabled: a call of an object with an unknown transport"):
        PluginConfig(hedge=hedge).validate_policies("a")
    PluginConfig(hedge=hedge, transport=TransportType.HTTP).validate_policies("a")
    PluginConfig(hedge=HedgeConfig(enabled=False)).validate_policies("a")


@pytest.mark.parametrize(
    ("hedge", "path"),
    [
        ({"enabled": 1}, "hedge.enabled"),
        ({"enabled": True, "delay": 0}, "hedge.delay"),
        ({"enabled": True, "percentile": 0}, "hedge.percentile"),
        ({"enabled": True, "percentile": 95}, "hedge.percentile"),
        ({"enabled": True, "min_delay": -1}, "hedge.min_delay"),
        ({"enabled": True, "max_hedges": 2}, "hedge.max_hedges"),
    ],
)
def test_wrong_values(hedge: dict[str, Any], path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plugin(hedge)
    assert [problem.path for problem in caught.value.problems] == [path]
