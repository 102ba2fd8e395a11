"""The standard metrics of calls, in collectors of the application."""

from __future__ import annotations

import pytest

from goplugins import (
    CircuitBreakerState,
    Manager,
    ManagerConfig,
    ObservabilityConfig,
    PluginConfig,
    PluginTimeoutError,
)
from goplugins.errors import ConfigError, InvalidArgumentError
from goplugins.observability.common_metrics import CommonPluginMetrics
from goplugins.observability.metrics_collector import EnhancedMetricsCollector, InMemoryCollector
from tests.unit.observability.fakes import ECHO


def test_a_configured_collector_receives_every_call():
    collector = InMemoryCollector()
    config = ManagerConfig(
        plugins=(PluginConfig(**ECHO),),
        observability=ObservabilityConfig(metrics_collector=collector, metrics_prefix="app"),
    )
    with Manager(str, str) as manager:
        manager.load_from_config(config)
        for _ in range(7):
            manager.execute("echo", "hello")
    metrics = collector.get_metrics()
    assert metrics["app_requests_total"] == {"outcome=ok,plugin=echo": 7}
    assert metrics["app_request_duration_seconds"]["plugin=echo"]["count"] == 7
    assert collector.get_prometheus_metrics()[0].description


@pytest.mark.parametrize("value", ["prometheus", 3, object()])
def test_an_object_that_is_not_a_collector_is_refused(value):
    config = ManagerConfig(plugins=(PluginConfig(**ECHO),), observability=ObservabilityConfig(metrics_collector=value))
    with pytest.raises(ConfigError, match=r"observability\.metrics_collector.*collector"):
        Manager(str, str).load_from_config(config)


def test_the_common_metrics():
    collector = InMemoryCollector()
    assert isinstance(collector, EnhancedMetricsCollector)
    common = CommonPluginMetrics(collector, "p")
    common.increment_active_requests("a")
    common.increment_active_requests("a")
    common.decrement_active_requests("a")
    common.record_request("a", 0.02, None)
    common.record_request("a", 0.04, PluginTimeoutError("late"))
    common.set_circuit_breaker_state("a", CircuitBreakerState.OPEN)
    metrics = collector.get_metrics()
    assert metrics["p_active_requests"] == {"plugin=a": 1}
    assert metrics["p_requests_total"] == {"outcome=ok,plugin=a": 1, "outcome=error,plugin=a": 1}
    assert metrics["p_errors_total"] == {"kind=timeout,plugin=a": 1}
    assert metrics["p_circuit_breaker_state"] == {"plugin=a": 1}
    assert metrics["p_request_duration_seconds"]["plugin=a"]["sum"] == pytest.approx(0.06)


@pytest.mark.parametrize(
    ("state", "value"),
    [*zip(CircuitBreakerState, (0, 1, 2), strict=True), (0, 0), (1, 1), (2, 2)],
)
def test_states_have_the_numbers_of_the_go_library(state, value):
    collector = InMemoryCollector()
    CommonPluginMetrics(collector, "p").set_circuit_breaker_state("a", state)
    assert collector.get_metrics()["p_circuit_breaker_state"] == {"plugin=a": value}


@pytest.mark.parametrize("state", [3, -1, True, 1.0, "closing", None])
def test_other_numbers_are_no_states(state):
    with pytest.raises(InvalidArgumentError, match="state: expected a CircuitBreakerState"):
        CommonPluginMetrics(InMemoryCollector(), "p").set_circuit_breaker_state("a", state)
