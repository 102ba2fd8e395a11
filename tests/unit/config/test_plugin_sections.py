"""The bulkhead section of a plugin's configuration."""

from __future__ import annotations

import pytest

from goplugins.config import BulkheadConfig, ManagerConfig, PluginConfig
from goplugins.errors import ConfigError

PLUGIN = {"name": "geo", "transport": "http", "endpoint": "http://127.0.0.1:8080"}


def read(bulkhead: object) -> ManagerConfig:
    return ManagerConfig.from_mapping({"plugins": [{**PLUGIN, "bulkhead": bulkhead}]})


def problems(bulkhead: object) -> dict[str, str]:
    with pytest.raises(ConfigError) as info:
        read(bulkhead).validate()
    return {problem.path.removeprefix("plugins[0].bulkhead."): problem.message for problem in info.value.problems}


def test_a_plugin_without_the_section_has_no_bulkhead():
    config = ManagerConfig.from_mapping({"plugins": [PLUGIN]}).with_defaults()
    assert config.plugins[0].bulkhead is None


def test_fields_left_out_have_their_defaults():
    config = read({"max_concurrent": 10})
    config.validate()
    assert config.with_defaults().plugins[0].bulkhead == BulkheadConfig(
        max_concurrent=10, max_waiting=0, max_wait=None, adaptive=False, min_concurrent=1
    )
    assert config.with_defaults().with_defaults() == config.with_defaults()


def test_a_section_is_read_and_written():
    config = read({"max_concurrent": 10, "max_waiting": 5, "max_wait": "250ms", "adaptive": True, "min_concurrent": 2})
    config.validate()
    assert config.plugins[0].bulkhead == BulkheadConfig(
        max_concurrent=10, max_waiting=5, max_wait=0.25, adaptive=True, min_concurrent=2
    )
    assert ManagerConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("bulkhead", "path", "message"),
    [
        ({}, "max_concurrent", "missing"),
        ({"adaptive": True}, "max_concurrent", "missing"),
        ({"max_concurrent": 0}, "max_concurrent", "expected an integer of 1 or more, got 0"),
        ({"max_concurrent": 2.5}, "max_concurrent", "expected an integer, got 2.5"),
        ({"max_concurrent": 2, "max_waiting": -1}, "max_waiting", "expected an integer of 0 or more, got -1"),
        (
            {"max_concurrent": 2, "max_waiting": 1, "max_wait": 0},
            "max_wait",
            "expected a duration longer than 0, got 0",
        ),
        ({"max_concurrent": 2, "max_wait": 1}, "max_waiting", "is required with max_wait"),
        ({"max_concurrent": 2, "min_concurrent": 1}, "min_concurrent", "has no effect unless the limit is adaptive"),
        (
            {"max_concurrent": 2, "min_concurrent": 3, "adaptive": True},
            "min_concurrent",
            "is more than max_concurrent",
        ),
    ],
)
def test_wrong_values_are_refused_with_their_paths(bulkhead, path, message):
    assert problems(bulkhead) == {path: message}


def test_an_unknown_field_is_refused():
    assert list(problems({"max_concurrent": 2, "max_concurent": 3})) == ["max_concurent"]


def test_a_plugin_registered_in_code_is_checked_too():
    config = PluginConfig(name="geo", bulkhead=BulkheadConfig(max_waiting=3))
    with pytest.raises(ConfigError, match=r"bulkhead\.max_concurrent: missing"):
        config.validate_policies()
