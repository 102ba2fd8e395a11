"""A reload from A to B leads to the same state as loading B; a reload back to A to that of loading A."""

from __future__ import annotations

from typing import Any

import attrs
from hypothesis import HealthCheck, given, settings, strategies as st

from goplugins.config import PluginConfig
from goplugins.config.diff import Change, changes_between, diff_of
from goplugins.config.groups import GroupConfig
from goplugins.config.schema import fields_of
from goplugins.enums import ReloadStrategy
from tests.unit.manager.conftest import Harness

NAMES = ("a", "b", "c", "d")


def section(**fields: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in fields.items()})


PLUGIN = st.fixed_dictionaries(
    {"endpoint": st.sampled_from(["m:v1", "m:v2"])},
    optional={
        "enabled": st.booleans(),
        "priority": st.integers(0, 2),
        "auth": st.sampled_from([{"method": "api-key", "api_key": key} for key in ("one", "two")]),
        "retry": section(max_retries=[0, 5], idempotent=[True, False], budget_ratio=[0.1, 0.9], multiplier=[3]),
        "circuit_breaker": section(enabled=[True, False], failure_threshold=[1, 9], recovery_timeout=[1, 60]),
        "health_check": section(enabled=[True, False], interval=[1, 99], endpoint=["x"]),
        "connection": section(request_timeout=[1, 2], max_connections=[3, 4]),
        "rate_limit": st.sampled_from([
            {"enabled": True, "requests_per_second": 1e6, "burst_size": size} for size in (10**6, 10**7)
        ]),
        "bulkhead": st.sampled_from([
            {"max_concurrent": 3},
            {"max_concurrent": 9, "max_waiting": 2},
            {"max_concurrent": 9, "adaptive": True},
        ]),
        "fallback": st.sampled_from([{"value": 1}, {"value": True}, {"value": None}]),
        "cache": st.sampled_from([{"ttl": 1}, {"ttl": 2, "max_entries": 5}]),
        "chaos": st.sampled_from([{"enabled": False}, {"enabled": True, "seed": 1, "latency": 0.5, "delay": 0.0001}]),
        "labels": st.sampled_from([{"team": "x"}, {"team": "y"}]),
        "options": st.sampled_from([{"x": 1}, {"x": True}, {"y": [1, 2]}]),
    },
)  # fmt: skip


@st.composite
def configurations(draw: st.DrawFn) -> dict[str, Any]:
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
    plugins = [{"name": name, "type": "fake", "transport": "python", **draw(PLUGIN)} for name in names]
    config: dict[str, Any] = {"plugins": plugins}
    if draw(st.booleans()):
        config["default_retry"] = draw(section(max_retries=[1, 2]))
    if draw(st.booleans()):
        members = draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
        group = draw(section(strategy=["random", "p2c"], request_timeout=[1, 2], retry=[{"max_retries": 1}]))
        config["load_balancers"] = [{"name": "group", "members": members, **group}]
    return config


UNLIMITED = 1_000_000_000


def sender_settings(config: PluginConfig) -> dict[str, Any]:
    """The settings from which a sender was built."""
    found = {}
    for change in changes_between(PluginConfig(), config) if type(config) is PluginConfig else ():
        if not Change(change.path, "", "").in_place and not change.path.startswith(("connection", "health_check")):
            found[change.path] = change.new
    assert config.connection is not None
    connection = attrs.asdict(config.connection)
    connection.pop("request_timeout")
    return {**found, **connection, "health": config.health_check.endpoint if config.health_check else None}


def state(harness: Harness) -> dict[str, Any]:
    """The state that calls depend on, without counts and measurements."""
    found: dict[str, Any] = {"": sorted(harness.manager._registry.disabled)}
    for name, plugin in harness.manager._registry.plugins.items():
        policies, checker = plugin.pipeline, plugin.checker
        limiter, retry, budget = policies.limiter, policies.retry, policies.budget
        bulkhead = policies.bulkhead
        if bulkhead is not None and bulkhead._limit == UNLIMITED:  # it is no longer configured, and admits all calls
            bulkhead = None
        found[name] = {
            "config": {field.name: getattr(plugin.config, field.name) for field in fields_of(type(plugin.config))},
            "wire": None if isinstance(plugin.config, GroupConfig) else sender_settings(plugin.plugin.config),
            "retry": (retry.max_retries, retry._initial, retry._longest, retry._multiplier, retry._jitter),
            "budget": budget._deposit,
            "breaker": (attrs.asdict(policies.breaker._rules), policies.breaker._mode),
            "limiter": None if limiter is None else (limiter._rate, limiter._burst, limiter._max_wait),
            "timeout": (plugin.pipeline.request_timeout, plugin.pipeline.idempotent),
            "bulkhead": None if bulkhead is None else (bulkhead._adaptive is None, bulkhead._max_waiting),
            "checks": (checker._enabled, checker._configured_interval, checker._timeout, checker._failure_limit),
            "chaos": getattr(plugin.sender, "chaos", ""),
            "layers": [
                [layer for layer in layers(run) if layer != "BulkheadLayer" or bulkhead is not None]
                for run in (policies.run, policies.run_as_member)
            ],
        }
    return found


def layers(run: Any) -> list[str]:
    """The classes of a pipeline's layers, outermost first."""
    found = []
    while run is not None:
        layer = run.__self__
        found.append(type(layer).__name__)
        run = getattr(layer, "_inner", None)
    return found


def loaded(config: dict[str, Any]) -> Harness:
    harness = Harness()
    harness.manager.load_from_config(config)
    return harness


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(configurations(), configurations(), st.sampled_from(list(ReloadStrategy)))
def test_a_reload_leads_to_the_state_of_a_load(
    old: dict[str, Any], new: dict[str, Any], strategy: ReloadStrategy
) -> None:
    harness, fresh = loaded(old), loaded(new)
    try:
        harness.manager.reload_config(new, strategy)
        assert state(harness) == state(fresh)
        assert not diff_of(harness.manager._loader.config, fresh.manager._loader.config)  # type: ignore[arg-type]
        for name, plugin in harness.manager._registry.plugins.items():
            if not isinstance(plugin.config, GroupConfig):
                assert harness.call(name) == fresh.call(name) == [name, plugin.config.endpoint]
        alive = [wire.name for wire in harness.factory.made if not wire.closed]
        assert sorted(alive) == sorted(name for name in harness.manager.list_plugins() if name != "group")
    finally:
        harness.manager.shutdown(1)
        fresh.manager.shutdown(1)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(configurations(), configurations(), st.sampled_from(["graceful", "rolling"]))
def test_a_reload_back_restores_the_first_state(old: dict[str, Any], new: dict[str, Any], strategy: str) -> None:
    harness = loaded(old)
    try:
        for name in harness.manager.list_plugins():
            if name != "group":  # all its members may be disabled
                harness.call(name)
        before, counts = state(harness), harness.manager.metrics()
        report = harness.manager.reload_config(new, strategy)
        survivors = set(harness.manager.list_plugins()) - set(report.added)
        kept = {name: harness.guarded(name) for name in (*report.kept, *report.updated)}
        harness.manager.reload_config(old, strategy)
        assert state(harness) == before
        after = harness.manager.metrics()
        for name in survivors:
            kept_counts, known = after.plugins[name], counts.plugins[name]
            assert kept_counts.health_checks >= known.health_checks  # checks continue
            assert attrs.evolve(kept_counts, health_checks=known.health_checks) == known
        assert after.requests_total == counts.requests_total
        assert all(harness.guarded(name) is plugin for name, plugin in kept.items())
        assert set(harness.manager.reload_config(old, strategy).kept) == set(harness.manager.list_plugins())
    finally:
        harness.manager.shutdown(1)
