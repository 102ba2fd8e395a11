"""Policies that contradict each other or have no effect."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from goplugins.config import (
    CacheConfig,
    CircuitBreakerConfig,
    FallbackConfig,
    HedgeConfig,
    ManagerConfig,
    PluginConfig,
)
from goplugins.enums import TransportType
from goplugins.errors import ConfigError
from tests.unit.config.helpers import GOOD, codes_of, problems_of


@pytest.mark.parametrize(
    ("breaker", "missing"),
    [
        (CircuitBreakerConfig(failure_rate=0.5, window=10.0), None),
        (CircuitBreakerConfig(failure_rate=0.5), "window"),
        (CircuitBreakerConfig(slow_call_rate=0.5, window=1.0), "slow_call_duration"),
        (CircuitBreakerConfig(slow_call_duration=0.5), "slow_call_rate"),
    ],
)
def test_an_incomplete_breaker_rule_is_refused(breaker: CircuitBreakerConfig, missing: str | None) -> None:
    assert set(codes_of(attrs.evolve(GOOD, circuit_breaker=breaker))) == (
        {f"circuit_breaker.{missing}"} if missing else set()
    )
    found = codes_of(ManagerConfig(plugins=[GOOD], default_circuit_breaker=breaker))
    assert set(found) == ({f"default_circuit_breaker.{missing}"} if missing else set())


def test_the_missing_part_of_a_breaker_rule_may_be_inherited() -> None:
    plugin = attrs.evolve(GOOD, circuit_breaker=CircuitBreakerConfig(failure_rate=0.5))
    assert codes_of(ManagerConfig(plugins=[plugin], default_circuit_breaker=CircuitBreakerConfig(window=5.0))) == {}


def test_fallback_and_cache() -> None:
    def codes(**fields: Any) -> dict[str, str]:
        return codes_of(attrs.evolve(GOOD, **fields))

    assert codes(fallback=FallbackConfig(value=None)) == codes(fallback=FallbackConfig(plugin="b")) == {}
    assert codes(fallback=FallbackConfig(function=lambda request, error: 1), cache=CacheConfig(ttl=1.0)) == {}
    assert set(codes(fallback=FallbackConfig())) == {"fallback"}
    assert set(codes(fallback=FallbackConfig(plugin="b", value=1))) == {"fallback"}
    assert set(codes(fallback=FallbackConfig(plugin="a"))) == {"fallback.plugin"}
    assert set(codes(fallback=FallbackConfig(value=1, on=["timeout"]))) == {"fallback.on[0]"}
    assert set(codes(cache=CacheConfig())) == {"cache.ttl"}
    assert set(codes(cache=CacheConfig(ttl=1.0, vary_headers=["X-Ok", "no name"]))) == {"cache.vary_headers[1]"}


def test_a_rate_limit_that_is_not_enabled_is_refused() -> None:
    plugin = {"name": "a", "transport": "http", "endpoint": "http://127.0.0.1:1"}
    limited = plugin | {"rate_limit": {"requests_per_second": 5}}
    with pytest.raises(
        ConfigError, match=r"plugins\[0\]\.rate_limit\.enabled: is required: the rate limit is off by default"
    ):
        ManagerConfig.from_mapping({"plugins": [limited]}).validate()
    ManagerConfig.from_mapping({"plugins": [limited], "default_rate_limit": {"enabled": True}}).validate()
    ManagerConfig.from_mapping({"plugins": [plugin | {"rate_limit": {"enabled": False, "burst_size": 5}}]}).validate()
    ManagerConfig.from_mapping({"plugins": [plugin | {"rate_limit": {"max_wait": 1}}]}).validate()


def test_a_rate_limit_of_a_group_that_is_not_enabled_is_refused() -> None:
    group = {"name": "g", "members": ["a"], "rate_limit": {"requests_per_second": 5}}
    found = problems_of(ManagerConfig.from_mapping({"plugins": [HTTP], "load_balancers": [group]}))
    assert list(found) == ["load_balancers[0].rate_limit.enabled"]


@pytest.mark.parametrize(
    ("retry", "path", "message"),
    [
        ({"initial_interval": 2, "max_interval": 1}, "initial_interval", "is longer than max_interval, 1 s"),
        ({"initial_interval": 6}, "initial_interval", "is longer than max_interval, 5 s"),
        ({"max_interval": 0.05}, "max_interval", "is shorter than initial_interval, 0.1 s"),
    ],
)
def test_an_initial_interval_above_the_maximum_is_refused(retry: dict[str, Any], path: str, message: str) -> None:
    group = {"name": "g", "members": ["a"], "retry": retry}
    for config, base in [
        ({"plugins": [{**HTTP, "retry": retry}]}, "plugins[0].retry"),
        ({"plugins": [HTTP], "default_retry": retry}, "default_retry"),
        ({"plugins": [HTTP], "load_balancers": [group]}, "load_balancers[0].retry"),
    ]:
        found = problems_of(ManagerConfig.from_mapping(config))
        assert {where: error.message for where, error in found.items()} == {f"{base}.{path}": message}


def test_consistent_intervals_are_accepted_also_with_defaults() -> None:
    for retry in ({"initial_interval": 1, "max_interval": 1}, {"initial_interval": 0, "max_interval": 0}):
        config = ManagerConfig.from_mapping({"plugins": [{**HTTP, "retry": retry}]})
        assert not problems_of(config)
        assert not problems_of(config.with_defaults())


HTTP = {"name": "a", "transport": "http", "endpoint": "http://127.0.0.1:1"}


def hedged(hedge: dict[str, Any], **fields: Any) -> PluginConfig:
    return PluginConfig.from_mapping({**HTTP, **fields, "hedge": hedge})


def hedge_problems(config: PluginConfig) -> set[str]:
    with pytest.raises(ConfigError) as caught:
        config.validate()
    return {problem.path for problem in caught.value.problems}


def test_hedging_is_off_by_default() -> None:
    resolved = ManagerConfig().resolve(PluginConfig.from_mapping(HTTP))
    assert resolved.hedge is None


def test_fields_of_hedge_have_defaults() -> None:
    resolved = ManagerConfig().resolve(hedged({"enabled": True, "percentile": 0.99}))
    assert resolved.hedge == HedgeConfig(enabled=True, delay=None, percentile=0.99, min_delay=0.01)
    resolved = ManagerConfig().resolve(hedged({"enabled": True, "delay": "50ms"}))
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
def test_valid_hedge_sections(hedge: dict[str, Any]) -> None:
    hedged(hedge).validate()
    grpc = {"transport": "grpc", "endpoint": "127.0.0.1:1"}
    hedged(hedge, **grpc).validate()
    hedged(hedge, transport="unix", endpoint="/run/a").validate()


def test_a_hedge_section_without_effect_is_refused() -> None:
    assert hedge_problems(hedged({})) == {"hedge.enabled"}
    assert hedge_problems(hedged({"percentile": 0.9})) == {"hedge.enabled"}
    assert hedge_problems(hedged({"enabled": True, "delay": 1, "percentile": 0.9})) == {"hedge.percentile"}
    assert hedge_problems(hedged({"enabled": True, "delay": 1, "min_delay": 0.1})) == {"hedge.min_delay"}


@pytest.mark.parametrize(
    "fields",
    [
        {"transport": "exec", "endpoint": "", "executable": "/bin/true"},
        {"transport": "python", "endpoint": "package.module:name"},
    ],
)
def test_calls_that_can_not_be_cancelled_can_not_be_hedged(fields: dict[str, Any]) -> None:
    assert hedge_problems(hedged({"enabled": True}, **fields)) == {"hedge.enabled"}
    hedged({"enabled": False}, **fields).validate()


def test_hedging_of_an_object_registered_in_code_needs_a_transport() -> None:
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
        hedged(hedge)
    assert [problem.path for problem in caught.value.problems] == [path]
