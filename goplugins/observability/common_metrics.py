"""Standard metrics of plugin calls, for any metrics collector."""

from __future__ import annotations

import weakref
from collections.abc import Container, Mapping
from typing import Any, Protocol

from goplugins.enums import CircuitBreakerState
from goplugins.errors import InvalidArgumentError
from goplugins.models.explanation import Explanation
from goplugins.models.metrics import OTHER, ManagerMetrics
from goplugins.observability.error_kinds import kind_of_error
from goplugins.observability.events import BreakerChanged, CallFinished, Event, HealthChanged
from goplugins.observability.metrics_collector import DEFAULT_BUCKETS, EnhancedMetricsCollector, MetricsCollector

__all__ = ["CollectorSink", "CommonPluginMetrics", "PluginSource"]

STATES = {CircuitBreakerState.CLOSED: 0, CircuitBreakerState.OPEN: 1, CircuitBreakerState.HALF_OPEN: 2}
"""Values of breaker state gauges, those of the Go library."""


class PluginSource(Protocol):
    """The state of a manager's plugins: its reports, which is a floor above this one."""

    def metrics(self) -> ManagerMetrics: ...
    def explain(self, name: str, /) -> Explanation: ...
    def labels_of(self, name: str, /) -> Mapping[str, str]: ...
    def describe(self, name: str, operation: str, /) -> Mapping[str, Any]: ...
    def operations_of(self, name: str, /) -> Container[str]: ...


def operation_label(source: PluginSource | None, event: CallFinished) -> str:
    """The label for a call's operation: empty for none, and "other" for a name that is not configured.

    Callers may pass any text as the name; the number of series must be bounded.
    """
    operation = event.operation
    if not operation or (source is not None and operation in source.operations_of(event.plugin)):
        return operation
    return OTHER


class CommonPluginMetrics:
    """Requests, durations, errors, calls in flight and breaker states, by plugin.

    Args:
        collector: receives the metrics.
        prefix: the prefix of their names.

    Attributes:
        request_count: ``<prefix>_requests_total``, by plugin and outcome.
        request_duration: ``<prefix>_request_duration_seconds``, by plugin.
        active_requests: ``<prefix>_active_requests``, by plugin.
        error_count: ``<prefix>_errors_total``, by plugin and kind of error.
        circuit_breaker_state: ``<prefix>_circuit_breaker_state``, by plugin: 0 closed, 1 open, 2 half-open.
        operation_count: ``<prefix>_operation_requests_total``, by plugin, operation and outcome. Calls of operations
            are counted here in addition, since the labels of a metric are fixed.
        operation_duration: ``<prefix>_operation_request_duration_seconds``, by plugin and operation.

    >>> from goplugins.observability.metrics_collector import InMemoryCollector
    >>> collector = InMemoryCollector()
    >>> CommonPluginMetrics(collector).record_request("search", 0.02, None)
    >>> collector.get_metrics()["goplugins_requests_total"]
    {'outcome=ok,plugin=search': 1.0}
    """

    def __init__(self, collector: EnhancedMetricsCollector, prefix: str = "goplugins") -> None:
        counter, gauge = collector.counter_with_labels, collector.gauge_with_labels
        self.request_count = counter(f"{prefix}_requests_total", "Finished calls.", "plugin", "outcome")
        self.request_duration = collector.histogram_with_labels(
            f"{prefix}_request_duration_seconds", "Duration of calls.", DEFAULT_BUCKETS, "plugin"
        )
        self.active_requests = gauge(f"{prefix}_active_requests", "Calls in flight.", "plugin")
        self.error_count = counter(f"{prefix}_errors_total", "Failed calls, by kind of error.", "plugin", "kind")
        self.circuit_breaker_state = gauge(
            f"{prefix}_circuit_breaker_state", "0 closed, 1 open, 2 half-open.", "plugin"
        )
        self.operation_count = counter(
            f"{prefix}_operation_requests_total", "Finished calls of operations.", "plugin", "operation", "outcome"
        )
        self.operation_duration = collector.histogram_with_labels(
            f"{prefix}_operation_request_duration_seconds",
            "Duration of calls of operations.",
            DEFAULT_BUCKETS,
            "plugin",
            "operation",
        )

    def record_request(self, plugin: str, duration: float, error: BaseException | None, operation: str = "") -> None:
        """Counts a finished call.

        Args:
            plugin: the plugin's name.
            duration: seconds.
            error: what the call raised; None if it was answered.
            operation: the operation that was called; becomes a label, so it must be one of few.
        """
        kind = kind_of_error(error)
        outcome = "ok" if error is None else "error"
        self.request_count.inc(plugin, outcome)
        self.request_duration.observe(duration, plugin)
        if operation:
            self.operation_count.inc(plugin, operation, outcome)
            self.operation_duration.observe(duration, plugin, operation)
        if error is not None:
            self.error_count.inc(plugin, kind)

    def increment_active_requests(self, plugin: str) -> None:
        """Counts a call that begins."""
        self.active_requests.inc(plugin)

    def decrement_active_requests(self, plugin: str) -> None:
        """Counts a call that ends."""
        self.active_requests.dec(plugin)

    def set_circuit_breaker_state(self, plugin: str, state: CircuitBreakerState | int) -> None:
        """Sets a breaker's state, which may be given as the gauge's value.

        Raises:
            InvalidArgumentError: it is no state.
        """
        value = STATES.get(state, state) if isinstance(state, CircuitBreakerState) else state
        if type(value) is not int or value not in STATES.values():
            raise InvalidArgumentError(f"state: expected a CircuitBreakerState, or 0, 1 or 2, got {state!r}")
        self.circuit_breaker_state.set(value, plugin)


class CollectorSink:
    """Records a manager's calls, breakers and health in a collector. An event sink.

    Args:
        collector: of either kind; in an :class:`EnhancedMetricsCollector` the metrics are declared with descriptions.
        prefix: the prefix of their names.
        source: the manager's plugins; held weakly.
        durations: whether durations of calls are recorded.
        errors: whether errors are counted by kind.
        health: whether health is recorded.
    """

    def __init__(
        self,
        collector: MetricsCollector,
        prefix: str,
        source: PluginSource,
        *,
        durations: bool,
        errors: bool,
        health: bool,
    ) -> None:
        self._collector = collector
        self._prefix = prefix
        self._source = weakref.ref(source)
        self._durations, self._errors, self._health = durations, errors, health
        if isinstance(collector, EnhancedMetricsCollector):
            CommonPluginMetrics(collector, prefix)  # declares the metrics

    def __call__(self, event: Event) -> None:
        """Records an event."""
        collector, prefix = self._collector, self._prefix
        if isinstance(event, CallFinished):
            if event.as_member:
                return
            labels = {"plugin": event.plugin}
            outcome = "ok" if event.error is None else "error"
            collector.increment_counter(f"{prefix}_requests_total", {"plugin": event.plugin, "outcome": outcome}, 1)
            if self._durations:
                collector.record_histogram(f"{prefix}_request_duration_seconds", labels, event.elapsed)
            if self._errors and event.error is not None:
                kind = {"plugin": event.plugin, "kind": kind_of_error(event.error)}
                collector.increment_counter(f"{prefix}_errors_total", kind, 1)
            if event.operation:
                self._record_operation(event, outcome)
        elif isinstance(event, BreakerChanged):
            state = STATES[event.new]
            collector.set_gauge(f"{prefix}_circuit_breaker_state", {"plugin": event.plugin}, state)
        elif isinstance(event, HealthChanged) and self._health:
            healthy = event.new.value == "healthy"
            collector.set_gauge(f"{prefix}_healthy", {"plugin": event.plugin}, 1.0 if healthy else 0.0)

    def _record_operation(self, event: CallFinished, outcome: str) -> None:
        collector, prefix = self._collector, self._prefix
        labels = {"plugin": event.plugin, "operation": operation_label(self._source(), event)}
        collector.increment_counter(f"{prefix}_operation_requests_total", {**labels, "outcome": outcome}, 1)
        if self._durations:
            collector.record_histogram(f"{prefix}_operation_request_duration_seconds", labels, event.elapsed)
