"""The metrics that every user of plugins wants, into any collector."""

from __future__ import annotations

from goplugins.enums import CircuitBreakerState
from goplugins.observability.error_kinds import kind_of_error
from goplugins.observability.events import BreakerChanged, CallFinished, Event, HealthChanged
from goplugins.observability.metrics_collector import DEFAULT_BUCKETS, EnhancedMetricsCollector, MetricsCollector

__all__ = ["CollectorSink", "CommonPluginMetrics"]

STATES = {CircuitBreakerState.CLOSED: 0, CircuitBreakerState.HALF_OPEN: 1, CircuitBreakerState.OPEN: 2}
"""What a gauge shows of a breaker."""


class CommonPluginMetrics:
    """Requests, durations, errors, calls under way and breakers, by plugin.

    Args:
        collector: where they go.
        prefix: the beginning of their names.

    Attributes:
        request_count: ``<prefix>_requests_total``, by plugin and outcome.
        request_duration: ``<prefix>_request_duration_seconds``, by plugin.
        active_requests: ``<prefix>_active_requests``, by plugin.
        error_count: ``<prefix>_errors_total``, by plugin and kind of error.
        circuit_breaker_state: ``<prefix>_circuit_breaker_state``, by plugin: 0 closed, 1 half-open, 2 open.

    >>> from goplugins.observability.metrics_collector import InMemoryCollector
    >>> collector = InMemoryCollector()
    >>> CommonPluginMetrics(collector).record_request("search", 0.02, None)
    >>> collector.get_metrics()["goplugins_requests_total"]
    {'outcome=ok,plugin=search': 1.0}
    """

    def __init__(self, collector: EnhancedMetricsCollector, prefix: str = "goplugins") -> None:
        counter, gauge = collector.counter_with_labels, collector.gauge_with_labels
        self.request_count = counter(f"{prefix}_requests_total", "Calls that have ended.", "plugin", "outcome")
        self.request_duration = collector.histogram_with_labels(
            f"{prefix}_request_duration_seconds", "How long calls took.", DEFAULT_BUCKETS, "plugin"
        )
        self.active_requests = gauge(f"{prefix}_active_requests", "Calls under way.", "plugin")
        self.error_count = counter(f"{prefix}_errors_total", "Calls that raised, by kind of error.", "plugin", "kind")
        self.circuit_breaker_state = gauge(
            f"{prefix}_circuit_breaker_state", "0 closed, 1 half-open, 2 open.", "plugin"
        )

    def record_request(self, plugin: str, duration: float, error: BaseException | None) -> None:
        """Counts a call that has ended; ``duration`` in seconds."""
        kind = kind_of_error(error)
        self.request_count.inc(plugin, "ok" if error is None else "error")
        self.request_duration.observe(duration, plugin)
        if error is not None:
            self.error_count.inc(plugin, kind)

    def increment_active_requests(self, plugin: str) -> None:
        """One more call is under way."""
        self.active_requests.inc(plugin)

    def decrement_active_requests(self, plugin: str) -> None:
        """One call less is under way."""
        self.active_requests.dec(plugin)

    def set_circuit_breaker_state(self, plugin: str, state: CircuitBreakerState) -> None:
        """Shows a breaker's state."""
        self.circuit_breaker_state.set(STATES[state], plugin)


class CollectorSink:
    """Tells a collector of a manager's calls, breakers and health.

    Args:
        collector: of either kind; one with ``counter_with_labels`` has its metrics declared.
        prefix: the beginning of their names.
        durations: whether it is told how long calls took.
        errors: whether it is told of kinds of errors.
        health: whether it is told of health.
    """

    def __init__(
        self, collector: MetricsCollector, prefix: str, *, durations: bool, errors: bool, health: bool
    ) -> None:
        self._collector = collector
        self._prefix = prefix
        self._durations, self._errors, self._health = durations, errors, health
        if isinstance(collector, EnhancedMetricsCollector):
            CommonPluginMetrics(collector, prefix)  # declares them, with their texts

    def __call__(self, event: Event) -> None:
        """Takes an event of the stream."""
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
        elif isinstance(event, BreakerChanged):
            state = STATES[event.new]
            collector.set_gauge(f"{prefix}_circuit_breaker_state", {"plugin": event.plugin}, state)
        elif isinstance(event, HealthChanged) and self._health:
            healthy = event.new.value == "healthy"
            collector.set_gauge(f"{prefix}_healthy", {"plugin": event.plugin}, 1.0 if healthy else 0.0)
