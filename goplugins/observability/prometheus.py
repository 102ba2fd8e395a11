"""Metrics for Prometheus, through prometheus_client. Imported only where Prometheus is in use.

Calls are counted when they end. Gauges (calls in flight, breakers, tokens) are set when metrics are collected; in the
multi-process mode of prometheus_client, where another process collects them, they are set every few seconds. Names
follow https://prometheus.io/docs/practices/naming/.
"""

from __future__ import annotations

import re
import sys
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample
from prometheus_client.values import ValueClass

from goplugins.config import ObservabilityConfig
from goplugins.enums import CircuitBreakerState as _State, PluginStatus
from goplugins.errors import InvalidArgumentError
from goplugins.models.metrics import PluginMetrics
from goplugins.observability.common_metrics import STATES, PluginSource, operation_label
from goplugins.observability.error_kinds import code_of_error, kind_of_error
from goplugins.observability.events import BreakerChanged, CallFinished, Event, MemberEjected, ReloadFinished
from goplugins.observability.metrics_collector import DEFAULT_BUCKETS
from goplugins.runtime.fork import create_lock

_LOCK = "_goplugins_lock"
"""Attribute of a registry: held while its metrics are created."""

_COUNTED = {
    field.metadata["series"]: field.name for field in attrs.fields(PluginMetrics) if field.metadata.get("series")
}
"""Counters that are read from a plugin's counts, and the field of each."""

_HEALTH = "health_check"
"""How the names of counts of health checks begin."""

_OPERATION = "operation"

_FLAGS = ("breaker_open", "unhealthy")
"""Gauges that are 1 if they are in any manager or process."""

_BADNESS = [STATES[state] for state in (_State.CLOSED, _State.HALF_OPEN, _State.OPEN)]


def is_multiprocess() -> bool:
    """Whether prometheus_client keeps its values in files, for several processes (PROMETHEUS_MULTIPROC_DIR)."""
    return bool(getattr(ValueClass, "_multiprocess", False))


def current_trace_id() -> str | None:
    """The id of the current OpenTelemetry trace; None without one, or if it is not sampled."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    context = trace.get_current_span().get_span_context()
    return format(context.trace_id, "032x") if context.is_valid and context.trace_flags.sampled else None


class PrometheusFamilies:
    """The metrics with one prefix in one registry; managers share them.

    Args:
        registry: the registry of the metrics.
        prefix: the prefix of their names.
        labels: labels of plugins that become labels of metrics.
    """

    def __init__(self, registry: CollectorRegistry, prefix: str, labels: tuple[str, ...]) -> None:
        self.labels = labels
        self.exporters: weakref.WeakSet[PrometheusExporter] = weakref.WeakSet()
        if is_multiprocess():
            summed = {"multiprocess_mode": "livesum"}
            worst = {"multiprocess_mode": "livemax"}
        else:
            summed = worst = {}
            registry.register(_Refresher(self))  # first, so that it is collected before the gauges
        own = ("manager", "plugin", *(_label_name(label) for label in labels))

        def counter(name: str, text: str, *extra: str) -> Counter:
            return Counter(f"{prefix}_{name}", text, (*own, *extra), registry=registry)

        def counter_by_operation(name: str, text: str, *extra: str) -> Counter:
            made = Counter(f"{prefix}_{name}", text, (*own, _OPERATION, *extra), registry=None)
            registry.register(_WithoutEmptyOperations(made))
            return made

        def gauge(name: str, text: str, mode: Mapping[str, Any]) -> Gauge:
            return Gauge(f"{prefix}_{name}", text, own, registry=registry, **mode)

        self.calls = counter_by_operation("calls", "Finished calls, by kind of error or ok.", "outcome", "source")
        self.errors = counter_by_operation("call_errors", "Failed calls, by error code.", "code")
        self.duration = Histogram(
            f"{prefix}_call_duration_seconds",
            "Duration of calls, with all attempts and waits.",
            (*own, _OPERATION),
            buckets=DEFAULT_BUCKETS,
            registry=None,
        )
        registry.register(_WithoutEmptyOperations(self.duration))
        self.attempts = counter_by_operation("attempts", "Sent attempts, retries and hedges included.")
        self.member_calls = counter("member_calls", "Parts of members in calls of their groups.", "outcome")
        self.member_duration = Histogram(
            f"{prefix}_member_call_duration_seconds",
            "Duration of members' parts in calls.",
            own,
            buckets=DEFAULT_BUCKETS,
            registry=registry,
        )
        self.transitions = counter("breaker_transitions", "State changes of circuit breakers, by new state.", "to")
        self.ejections = counter("member_ejections", "Ejections of members from groups.", "member")
        self.counted = {name: counter(name, f"{name.replace('_', ' ').capitalize()} so far.") for name in _COUNTED}
        self.gauges = {
            "calls_in_flight": gauge("calls_in_flight", "Calls in flight.", summed),
            "rate_limit_tokens": gauge("rate_limit_tokens", "Tokens of the rate limiter.", summed),
            "breaker_state": gauge("breaker_state", "0 closed, 1 open, 2 half-open.", worst),
            "breaker_open": gauge("breaker_open", "1 if the circuit breaker is open, else 0.", worst),
            "unhealthy": gauge(
                "unhealthy", "1 if the last health check found the plugin unhealthy or offline, else 0.", worst
            ),
        }
        self.reloads = Counter(f"{prefix}_reloads", "Reloads by outcome.", ("manager", "outcome"), registry=registry)

    @classmethod
    def shared(cls, registry: CollectorRegistry, prefix: str, labels: tuple[str, ...]) -> PrometheusFamilies:
        """The metrics of the registry; created at the first call.

        Raises:
            InvalidArgumentError: they were created with other labels.
        """
        # Kept on the registry, so that they live as long as it does.
        attributes = registry.__dict__
        by_prefix: dict[str, PrometheusFamilies] = attributes.setdefault("_goplugins", {})
        with attributes.setdefault(_LOCK, create_lock(registry, _LOCK)):
            found = by_prefix.get(prefix)
            if found is None:
                found = by_prefix[prefix] = cls(registry, prefix, labels)
        if found.labels != labels:
            raise InvalidArgumentError(
                f"metric_labels: {labels} differ from those of another manager with the prefix {prefix!r}, "
                f"{found.labels}: give both the same, or another metrics_prefix"
            )
        return found

    def refresh(self) -> None:
        """Sets all gauges."""
        sums: dict[tuple[str, tuple[str, ...]], float] = {}
        for exporter in list(self.exporters):
            for name, labels, value in exporter.gauges():
                before = sums.get((name, labels), 0.0)
                if name == "breaker_state":
                    sums[name, labels] = max(before, value, key=lambda state: _BADNESS.index(int(state)))
                else:
                    sums[name, labels] = max(before, value) if name in _FLAGS else before + value
        for (name, labels), value in sums.items():
            self.gauges[name].labels(*labels).set(value)

    def forget(self, labels: tuple[str, ...]) -> None:
        """Removes all series of a plugin that was removed."""
        families = [self.calls, self.errors, self.duration, self.attempts, self.member_calls, self.member_duration]
        families += [self.transitions, self.ejections, *self.counted.values(), *self.gauges.values()]
        self.remove({labels}, families)

    def remove(self, plugins: set[tuple[str, ...]], families: Iterable[Any]) -> None:
        """Removes the series of plugins, given by their labels, from some families."""
        if is_multiprocess():
            return  # prometheus_client can't remove series from its files
        own = 2 + len(self.labels)
        for family in families:
            for series in [key for key in list(family._metrics) if key[:own] in plugins]:
                family.remove(*series)


class _Refresher(Collector):
    def __init__(self, families: PrometheusFamilies) -> None:
        self._families = weakref.ref(families)

    def describe(self) -> Iterable[Any]:
        return ()

    def collect(self) -> Iterable[Any]:
        families = self._families()
        if families is not None:
            families.refresh()
        return ()


class _WithoutEmptyOperations(Collector):
    """Collects a metric, without the label of the operation where it is empty: the series as they were before it."""

    def __init__(self, metric: Counter | Histogram) -> None:
        self._metric = metric

    def describe(self) -> Iterable[Metric]:
        return self._metric.describe()

    def collect(self) -> Iterable[Metric]:
        for metric in self._metric.collect():
            metric.samples = [_without_empty_operation(sample) for sample in metric.samples]
            yield metric


def _without_empty_operation(sample: Sample) -> Sample:
    if sample.labels.get(_OPERATION):
        return sample
    return sample._replace(labels={name: value for name, value in sample.labels.items() if name != _OPERATION})


class _Series:
    """The series of a plugin's calls, or of those of one operation, cached."""

    __slots__ = ("answers", "attempts", "duration", "labels")

    def __init__(self, families: PrometheusFamilies, labels: tuple[str, ...]) -> None:
        self.labels = labels
        self.answers: dict[str, Counter] = {}  # by source
        self.duration: Histogram | None = None
        self.attempts = families.attempts.labels(*labels)


class _Plugin:
    """One plugin's series, cached."""

    __slots__ = ("counts", "labels", "member_duration", "series")

    def __init__(self, families: PrometheusFamilies, labels: tuple[str, ...]) -> None:
        self.labels = labels
        self.series = {"": _Series(families, (*labels, ""))}  # by operation
        self.member_duration: Any = None
        self.counts = PluginMetrics()


class PrometheusExporter:
    """Exports the metrics of one manager; a sink of its events.

    Args:
        source: the manager's plugins; held weakly.
        registry: the registry of the metrics; by default that of prometheus_client.
        prefix: the prefix of their names.
        name: the label ``manager`` of this manager's series.
        labels: labels of plugins that become labels of metrics.
        durations: whether durations are exported, as histograms.
        errors: whether errors are counted by code.
        health: whether health is exported.
        trace_id: returns the trace id for exemplars.
    """

    def __init__(
        self,
        source: PluginSource,
        *,
        registry: CollectorRegistry = REGISTRY,
        prefix: str = "goplugins",
        name: str = "",
        labels: tuple[str, ...] = (),
        durations: bool = True,
        errors: bool = True,
        health: bool = True,
        trace_id: Callable[[], str | None] = current_trace_id,
    ) -> None:
        self._source = weakref.ref(source)
        self._families = PrometheusFamilies.shared(registry, prefix, labels)
        self._families.exporters.add(self)
        self._name = name
        self._labels = labels
        self._durations, self._errors, self._health = durations, errors, health
        # The families that a configuration may switch off.
        counted = [self._families.counted[name] for name, field in _COUNTED.items() if field.startswith(_HEALTH)]
        self._health_families = [*counted, self._families.gauges["unhealthy"]]
        self._trace_id = trace_id
        self._plugins: dict[str, _Plugin] = {}
        self._removed: set[str] = set()
        self._exemplars = not is_multiprocess()

    def configure(self, config: ObservabilityConfig) -> None:
        """Exports what the configuration has not switched off. Series of what it switches off are removed."""
        families, off = self._families, list[Any]()
        if self._durations and not config.performance_metrics:
            off += [families.duration, families.member_duration]
        if self._errors and not config.error_metrics:
            off.append(families.errors)
        if self._health and not config.health_metrics:
            off += self._health_families
        self._durations, self._errors = config.performance_metrics, config.error_metrics
        self._health = config.health_metrics
        plugins = list(self._plugins.values())
        if not self._durations:
            for plugin in plugins:
                plugin.member_duration = None
                for series in list(plugin.series.values()):
                    series.duration = None
        families.remove({plugin.labels for plugin in plugins}, off)

    def __call__(self, event: Event) -> None:
        """Counts an event."""
        if not isinstance(event, CallFinished):
            self._count_change(event)
            return
        plugin = self._plugins.get(event.plugin) or self._plugin(event.plugin)
        if event.as_member:
            self._count_member(plugin, event)
            return
        error, attempts = event.error, event.attempts
        series = plugin.series.get(event.operation) or self._series(plugin, event)
        if error is not None:
            self._families.calls.labels(*series.labels, kind_of_error(error), "").inc()
            if self._errors:
                self._families.errors.labels(*series.labels, code_of_error(error)).inc()
        else:  # the hot path: one more frame would add a tenth to its cost
            (series.answers.get(event.source) or self._answers(series, event.source)).inc()
        if attempts:
            series.attempts.inc(attempts)
        if self._durations and (attempts or error is None):
            trace = self._trace_id() if self._exemplars else None
            duration = series.duration or self._start_duration(series)
            duration.observe(event.elapsed, {"trace_id": trace} if trace else None)

    def _count_change(self, event: Event) -> None:
        if isinstance(event, BreakerChanged):
            labels = self._plugin(event.plugin).labels
            self._families.transitions.labels(*labels, event.new.value).inc()
        elif isinstance(event, MemberEjected):
            self._families.ejections.labels(*self._plugin(event.plugin).labels, event.member).inc()
        elif isinstance(event, ReloadFinished):
            self._families.reloads.labels(self._name, "ok" if event.error is None else "failed").inc()

    def _series(self, plugin: _Plugin, event: CallFinished) -> _Series:
        label = operation_label(self._source(), event)
        found = plugin.series.get(label)
        if found is None:
            found = plugin.series.setdefault(label, _Series(self._families, (*plugin.labels, label)))
        return found

    def _answers(self, series: _Series, source: str) -> Counter:
        found = series.answers[source] = self._families.calls.labels(*series.labels, "ok", source)
        return found

    def _start_duration(self, series: _Series) -> Histogram:
        found = series.duration = self._families.duration.labels(*series.labels)
        return found

    def _count_member(self, plugin: _Plugin, event: CallFinished) -> None:
        outcome = kind_of_error(event.error)
        self._families.member_calls.labels(*plugin.labels, outcome).inc()
        if self._durations and event.attempts:
            if plugin.member_duration is None:
                plugin.member_duration = self._families.member_duration.labels(*plugin.labels)
            plugin.member_duration.observe(event.elapsed)

    def _plugin(self, name: str) -> _Plugin:
        found = self._plugins.get(name)
        if found is None:
            source = self._source()
            own = {} if source is None else source.labels_of(name)
            labels = (self._name, name, *(own.get(label, "") for label in self._labels))
            found = self._plugins.setdefault(name, _Plugin(self._families, labels))
        return found

    def gauges(self) -> Iterable[tuple[str, tuple[str, ...], float]]:
        """The current values of all gauges. Also adds what was counted since the last time to the counters."""
        source = self._source()
        if source is None:
            return
        metrics = source.metrics().plugins
        self._forget(set(self._plugins) - set(metrics))
        for name, counts in metrics.items():
            plugin = self._plugin(name)
            before, plugin.counts = plugin.counts, counts
            for counter, field in _COUNTED.items():
                if field.startswith(_HEALTH) and not self._health:
                    continue
                fresh = getattr(counts, field) - getattr(before, field)
                if fresh > 0:
                    self._families.counted[counter].labels(*plugin.labels).inc(fresh)
            yield "calls_in_flight", plugin.labels, counts.active_requests
            try:
                explained = source.explain(name)
            except LookupError:  # removed meanwhile
                continue
            yield "breaker_state", plugin.labels, STATES[explained.breaker]
            yield "breaker_open", plugin.labels, float(explained.breaker is _State.OPEN)
            if explained.tokens is not None:
                yield "rate_limit_tokens", plugin.labels, explained.tokens
            if self._health:
                unhealthy = explained.health.status in {PluginStatus.UNHEALTHY, PluginStatus.OFFLINE}
                yield "unhealthy", plugin.labels, float(unhealthy)

    def _forget(self, removed: set[str]) -> None:
        """Forgets plugins that were removed before the last collection: their final numbers are collected once."""
        for name in removed & self._removed:
            self._families.forget(self._plugins.pop(name).labels)
        self._removed = removed

    def tick(self) -> None:
        """Sets the gauges in multi-process mode, where another process collects them."""
        if is_multiprocess():
            self._families.refresh()

    def close(self) -> None:
        """Stops exporting; the series stay as they are."""
        self._families.exporters.discard(self)


def _label_name(label: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_]", "_", f"label_{label}")
