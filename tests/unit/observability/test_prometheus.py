"""Prometheus metrics, read back by the parser of prometheus_client."""

from __future__ import annotations

import contextlib
import gc
import threading
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from goplugins import (
    CircuitBreakerConfig,
    InvalidArgumentError,
    Manager,
    PluginConfig,
    PluginConnectionError,
    PluginRequestError,
    RateLimitConfig,
)
from goplugins.contrib.prometheus import export
from goplugins.errors import PluginError, RateLimitExceededError
from goplugins.observability.prometheus import PrometheusFamilies
from tests.processes import in_child, run


class Plugin:
    def __init__(self):
        self.error = None

    def info(self):
        raise NotImplementedError

    def health(self, timeout):
        raise NotImplementedError

    def close(self):
        pass

    def execute(self, request, context):
        if self.error is not None:
            raise type(self.error)(*self.error.args)
        return request


def read(registry):
    """(name, labels) -> value, through the parser."""
    text = generate_latest(registry).decode()
    families = text_string_to_metric_families(text)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def value(values, name, **labels):
    """The one series that has these labels."""
    found = [v for (n, own), v in values.items() if n == name and labels.items() <= dict(own).items()]
    assert len(found) == 1, (name, labels, found)
    return found[0]


@pytest.fixture
def registry():
    return CollectorRegistry()


@pytest.fixture
def plugin():
    return Plugin()


@pytest.fixture
def manager(plugin):
    with Manager() as manager:
        config = PluginConfig(
            name="search",
            labels={"team": "green", "cost-centre": "7"},
            circuit_breaker=CircuitBreakerConfig(failure_threshold=3, min_request_threshold=1),
        )
        manager.register(plugin, config)
        yield manager


def call(manager, name, times):
    for _ in range(times):
        with contextlib.suppress(PluginError):
            manager.execute(name, "hello")


def test_calls_attempts_and_breakers_are_counted(manager, plugin, registry):
    export(manager, registry=registry)
    call(manager, "search", 40)
    plugin.error = PluginRequestError("no")
    call(manager, "search", 5)
    plugin.error = PluginConnectionError("gone")
    call(manager, "search", 7)  # three are sent, then the breaker refuses
    values = read(registry)
    total = "goplugins_calls_total"
    assert value(values, total, plugin="search", outcome="ok", source="plugin") == 40
    assert value(values, total, plugin="search", outcome="rejected") == 5
    sent, refused = value(values, total, outcome="connection"), value(values, total, outcome="refused")
    assert sent + refused == 7
    counts = manager.metrics().plugins["search"]
    assert value(values, "goplugins_attempts_total") == counts.attempts_total
    assert value(values, "goplugins_refusals_breaker_total") == counts.refused_circuit_breaker  # replays, too
    assert value(values, "goplugins_call_errors_total", code="TRANSPORT_1306") == 5
    assert value(values, "goplugins_call_duration_seconds_count") == 40 + 5 + sent
    assert value(values, "goplugins_call_duration_seconds_bucket", le="+Inf") == 45 + sent
    assert value(values, "goplugins_breaker_state") == value(values, "goplugins_breaker_open") == 1
    assert value(values, "goplugins_breaker_transitions_total", to="open") == 1
    assert value(values, "goplugins_calls_in_flight") == 0


def test_refusals_of_the_limiter_are_counted(registry):
    with Manager() as manager:
        limit = RateLimitConfig(enabled=True, requests_per_second=0.001, burst_size=3)
        manager.register(Plugin(), PluginConfig(name="slow", rate_limit=limit))
        export(manager, registry=registry)
        call(manager, "slow", 3)
        with pytest.raises(RateLimitExceededError):
            manager.execute("slow", "hello")
        values = read(registry)
        assert value(values, "goplugins_refusals_rate_limit_total") == 1
        assert 0 <= value(values, "goplugins_rate_limit_tokens") < 1
        assert value(values, "goplugins_calls_total", outcome="refused") == 1


def test_a_second_collection_does_not_change_the_counts(manager, plugin, registry):
    export(manager, registry=registry)
    plugin.error = PluginConnectionError("gone")
    call(manager, "search", 9)
    assert read(registry) == read(registry)


def test_two_managers_share_a_registry_and_add_up(registry):
    managers = [Manager(), Manager()]
    for manager in managers:
        manager.register(Plugin(), PluginConfig(name="search"))
        export(manager, registry=registry)
        call(manager, "search", 10)
    assert value(read(registry), "goplugins_calls_total", plugin="search") == 20
    for manager in managers:
        manager.shutdown()


def test_named_managers_have_separate_series(registry):
    for name, times in (("web", 3), ("jobs", 4)):
        manager = Manager()
        manager.register(Plugin(), PluginConfig(name="search"))
        export(manager, registry=registry, name=name)
        call(manager, "search", times)
        values = read(registry)
        manager.shutdown()
    assert value(values, "goplugins_calls_total", manager="web") == 3
    assert value(values, "goplugins_calls_total", manager="jobs") == 4


def test_selected_labels_of_a_plugin_become_labels_of_metrics(manager, registry):
    export(manager, registry=registry, labels=["team", "cost-centre", "none"])
    call(manager, "search", 2)
    values = read(registry)
    assert value(values, "goplugins_calls_total", label_team="green", label_cost_centre="7", label_none="") == 2
    with pytest.raises(InvalidArgumentError, match="metric_labels"):
        export(manager, registry=registry, labels=["team"])


def test_exemplars_have_the_trace_id(manager, registry):
    export(manager, registry=registry, trace_id=lambda: "4bf92f3577b34da6a3ce929d0e0e4736")
    call(manager, "search", 1)
    assert '# {trace_id="4bf92f3577b34da6a3ce929d0e0e4736"}' in openmetrics(registry).decode()


def test_a_removed_plugin_is_exported_once_more_and_then_forgotten(manager, registry):
    export(manager, registry=registry)
    for number in range(50):
        name = f"temporary-{number}"
        manager.register(Plugin(), PluginConfig(name=name))
        call(manager, name, 1)
        manager.unregister(name)
    assert value(read(registry), "goplugins_calls_total", plugin="temporary-7") == 1
    read(registry)
    assert "temporary" not in generate_latest(registry).decode()


def test_an_unreferenced_manager_is_not_kept_alive(registry):
    manager = Manager()
    manager.register(Plugin(), PluginConfig(name="search"))
    export(manager, registry=registry)
    call(manager, "search", 3)
    del manager
    gc.collect()
    assert value(read(registry), "goplugins_calls_total") == 3


def test_metric_names_follow_the_prometheus_guide(manager, plugin, registry):
    export(manager, registry=registry)
    call(manager, "search", 1)
    plugin.error = PluginConnectionError("gone")
    call(manager, "search", 9)
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        if family.name.endswith("_created"):
            continue
        assert family.name.startswith("goplugins_")
        assert family.documentation.endswith(".")
        assert not family.name.endswith(("_ms", "_milliseconds"))


SERIES = {
    "performance_metrics": {"call_duration_seconds_count", "member_call_duration_seconds_count"},
    "error_metrics": {"call_errors_total"},
    "health_metrics": {"unhealthy", "health_checks_total"},
}


@pytest.mark.parametrize("exported", ["before the load", "after the load"])
@pytest.mark.parametrize("field", SERIES)
def test_what_the_configuration_switches_off_is_left_out(registry, field, exported):
    config = {"load_balancers": [{"name": "group", "members": ["one"]}]}
    failing = Plugin()
    failing.error = PluginRequestError("no")

    def found():
        for name in ("one", "group", "bad"):
            call(manager, name, 2)
        manager.health()
        present = {name.removeprefix("goplugins_") for name, _ in read(registry)}
        return {each: each in present for names in SERIES.values() for each in names}

    with Manager() as manager:
        manager.register(Plugin(), PluginConfig(name="one"))
        manager.register(failing, PluginConfig(name="bad"))
        if exported == "before the load":
            export(manager, registry=registry)
        manager.load_from_config({**config, "observability": {field: False}})
        if exported == "after the load":
            export(manager, registry=registry)
        all_of_them = dict.fromkeys(found(), True)
        assert found() == {**all_of_them, **dict.fromkeys(SERIES[field], False)}
        manager.reload_config(config)
        assert found() == all_of_them
        manager.reload_config({**config, "observability": {field: False}})
        assert found() == {**all_of_them, **dict.fromkeys(SERIES[field], False)}


class SlowRegistry(CollectorRegistry):
    """Its first metric waits, while the lock of its families is held."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.goes_on = threading.Event(), threading.Event()

    def register(self, collector: Any) -> None:
        if threading.current_thread() is not threading.main_thread():
            self.reached.set()
            self.goes_on.wait(10)
        super().register(collector)


def fork_while_another_thread_creates_metrics() -> Any:
    registry = SlowRegistry()
    thread = threading.Thread(target=PrometheusFamilies.shared, args=(registry, "shop", ()))
    thread.start()
    registry.reached.wait(10)
    created = in_child(lambda: PrometheusFamilies.shared(registry, "web", ()).labels == ())
    registry.goes_on.set()
    thread.join()
    return created


def test_a_child_forked_while_metrics_were_created_creates_its_own() -> None:
    assert run(fork_while_another_thread_creates_metrics) is True
