"""Metrics with labels: protocols for an application's own collectors, and a collector in memory."""

from __future__ import annotations

import bisect
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import attrs

from goplugins.errors import InvalidArgumentError
from goplugins.runtime.fork import create_lock

__all__ = [
    "DEFAULT_BUCKETS",
    "CounterMetric",
    "EnhancedMetricsCollector",
    "GaugeMetric",
    "HistogramMetric",
    "InMemoryCollector",
    "MetricsCollector",
    "PrometheusBucket",
    "PrometheusMetric",
]

logger = logging.getLogger("goplugins.metrics")

DEFAULT_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of a histogram of durations, in seconds."""

_MAX_SERIES = 10_000
"""Combinations of names and labels that are kept: labels made of user input must not exhaust the memory."""

_Labels: TypeAlias = tuple[tuple[str, str], ...]


class MetricsCollector(Protocol):
    """Receives metrics by name and labels."""

    def increment_counter(self, name: str, labels: Mapping[str, str], value: float = 1) -> None:
        """Adds ``value`` to a counter."""
        ...

    def set_gauge(self, name: str, labels: Mapping[str, str], value: float) -> None:
        """Sets a gauge."""
        ...

    def record_histogram(self, name: str, labels: Mapping[str, str], value: float) -> None:
        """Adds one observation, a duration in seconds for example."""
        ...

    def record_custom_metric(self, name: str, labels: Mapping[str, str], value: Any) -> None:
        """Sets a value of any type."""
        ...

    def get_metrics(self) -> Mapping[str, Any]:
        """All metrics by name."""
        ...


class CounterMetric(Protocol):
    """A counter with labels."""

    def inc(self, *labels: str) -> None:
        """Adds one."""
        ...

    def add(self, value: float, *labels: str) -> None:
        """Adds ``value``, 0 or more."""
        ...


class GaugeMetric(Protocol):
    """A gauge with labels."""

    def set(self, value: float, *labels: str) -> None:
        """Sets it."""
        ...

    def inc(self, *labels: str) -> None:
        """Adds one."""
        ...

    def dec(self, *labels: str) -> None:
        """Subtracts one."""
        ...

    def add(self, value: float, *labels: str) -> None:
        """Adds ``value``."""
        ...


class HistogramMetric(Protocol):
    """A histogram with labels."""

    def observe(self, value: float, *labels: str) -> None:
        """Adds one observation."""
        ...


@runtime_checkable
class EnhancedMetricsCollector(MetricsCollector, Protocol):
    """A collector that also creates metrics which are declared once, with the names of their labels."""

    def counter_with_labels(self, name: str, description: str, *label_names: str) -> CounterMetric:
        """Declares a counter."""
        ...

    def gauge_with_labels(self, name: str, description: str, *label_names: str) -> GaugeMetric:
        """Declares a gauge."""
        ...

    def histogram_with_labels(
        self, name: str, description: str, buckets: Sequence[float], *label_names: str
    ) -> HistogramMetric:
        """Declares a histogram; ``buckets`` are upper bounds, without the infinite one."""
        ...

    def get_prometheus_metrics(self) -> Sequence[PrometheusMetric]:
        """All series in the form of Prometheus."""
        ...


@attrs.frozen
class PrometheusBucket:
    """How many observations of a histogram do not exceed a bound."""

    upper_bound: float
    count: int


@attrs.frozen
class PrometheusMetric:
    """One series.

    Attributes:
        name: the metric's name.
        type: "counter", "gauge" or "histogram".
        description: what it measures.
        value: the count, the gauge's value, or the sum of a histogram's observations.
        labels: the labels of the series.
        buckets: a histogram's, from the lowest bound to infinity; the last one counts all observations.
    """

    name: str
    type: str
    description: str = ""
    value: float = 0.0
    labels: Mapping[str, str] = attrs.field(factory=dict)
    buckets: tuple[PrometheusBucket, ...] = ()


class _Series:
    __slots__ = ("counts", "value")

    def __init__(self, bounds: int = 0) -> None:
        self.value: Any = 0.0
        self.counts = [0] * (bounds + 1) if bounds else []


@attrs.define
class _Family:
    kind: str
    description: str = ""
    label_names: tuple[str, ...] | None = None
    bounds: tuple[float, ...] = ()
    series: dict[_Labels, _Series] = attrs.field(factory=dict)


class InMemoryCollector:
    """Keeps metrics in memory: for tests, and for applications that display them themselves.

    At most 10,000 series are kept; further ones are counted in ``dropped``, with one warning. Safe to use from many
    threads.

    >>> collector = InMemoryCollector()
    >>> jobs = collector.counter_with_labels("jobs_total", "Jobs done.", "queue")
    >>> jobs.inc("mail")
    >>> jobs.add(2, "mail")
    >>> collector.get_metrics()["jobs_total"]
    {'queue=mail': 3.0}
    """

    def __init__(self) -> None:
        self._families: dict[str, _Family] = {}
        self._lock = create_lock(self)
        self._count = 0
        self.dropped = 0

    # --- by name ---------------------------------------------------------------------------------------------------

    def increment_counter(self, name: str, labels: Mapping[str, str], value: float = 1) -> None:
        """Adds ``value``, 0 or more, to a counter.

        Raises:
            InvalidArgumentError: the value is negative, or the name is not a counter's.
        """
        if not value >= 0:
            raise InvalidArgumentError(f"{name}: expected a value of at least 0 for a counter, got {value!r}")
        self._change(name, "counter", labels, add=value)

    def set_gauge(self, name: str, labels: Mapping[str, str], value: float) -> None:
        """Sets a gauge."""
        self._change(name, "gauge", labels, to=value)

    def record_histogram(self, name: str, labels: Mapping[str, str], value: float) -> None:
        """Adds one observation; durations are seconds."""
        self._change(name, "histogram", labels, observed=value)

    def record_custom_metric(self, name: str, labels: Mapping[str, str], value: Any) -> None:
        """Sets a value of any type."""
        self._change(name, "custom", labels, to=value)

    # --- declared --------------------------------------------------------------------------------------------------

    def counter_with_labels(self, name: str, description: str, *label_names: str) -> CounterMetric:
        """A count with labels.

        Raises:
            InvalidArgumentError: the name belongs to another metric.
        """
        return _Counter(self, name, self._declare(name, "counter", description, label_names))

    def gauge_with_labels(self, name: str, description: str, *label_names: str) -> GaugeMetric:
        """A gauge with labels."""
        return _Gauge(self, name, self._declare(name, "gauge", description, label_names))

    def histogram_with_labels(
        self, name: str, description: str, buckets: Sequence[float], *label_names: str
    ) -> HistogramMetric:
        """Declares a histogram; ``buckets`` are ascending upper bounds, without the infinite one."""
        bounds = tuple(buckets) or DEFAULT_BUCKETS
        if list(bounds) != sorted(set(bounds)):
            raise InvalidArgumentError(f"{name}: buckets: expected ascending bounds, got {bounds!r}")
        return _Histogram(self, name, self._declare(name, "histogram", description, label_names, bounds))

    # --- reading ---------------------------------------------------------------------------------------------------

    def get_metrics(self) -> dict[str, dict[str, Any]]:
        """Name -> labels ("plugin=search,kind=timeout") -> value; for a histogram: sum, count and buckets."""
        with self._lock:
            return {
                name: {_text(labels): _shown(family, series) for labels, series in family.series.items()}
                for name, family in self._families.items()
            }

    def get_prometheus_metrics(self) -> list[PrometheusMetric]:
        """All series except custom ones, in the form of Prometheus."""
        with self._lock:
            return [
                PrometheusMetric(
                    name, family.kind, family.description, series.value, dict(labels), _buckets(family, series)
                )
                for name, family in self._families.items()
                for labels, series in family.series.items()
                if family.kind != "custom"
            ]

    # --- inside ----------------------------------------------------------------------------------------------------

    def _declare(
        self, name: str, kind: str, description: str, label_names: tuple[str, ...], bounds: tuple[float, ...] = ()
    ) -> tuple[str, ...]:
        with self._lock:
            family = self._family(name, kind)
            if family.label_names is not None and (family.label_names, family.bounds) != (label_names, bounds):
                raise InvalidArgumentError(f"{name}: already declared, with labels {family.label_names}")
            if family.label_names is None and family.series:
                raise InvalidArgumentError(f"{name}: already in use without a declaration")
            family.description, family.label_names, family.bounds = description, label_names, bounds
        return label_names

    def _family(self, name: str, kind: str) -> _Family:
        """Expects the lock."""
        family = self._families.get(name)
        if family is None:
            family = self._families[name] = _Family(kind, bounds=DEFAULT_BUCKETS if kind == "histogram" else ())
        elif family.kind != kind:
            raise InvalidArgumentError(f"{name}: is a {family.kind}, not a {kind}")
        return family

    def _change(
        self,
        name: str,
        kind: str,
        labels: Mapping[str, str],
        *,
        add: float | None = None,
        to: Any = None,
        observed: float | None = None,
    ) -> None:
        key = tuple(sorted(labels.items()))
        first_dropped = False
        with self._lock:
            full = self._count >= _MAX_SERIES
            if full and name not in self._families:
                self.dropped += 1
                return
            family = self._family(name, kind)
            series = family.series.get(key)
            if series is None:
                if full:
                    self.dropped += 1
                    first_dropped = self.dropped == 1
                else:
                    self._count += 1
                    series = family.series[key] = _Series(len(family.bounds))
            if series is not None:
                if observed is not None:
                    series.value += observed
                    series.counts[bisect.bisect_left(family.bounds, observed)] += 1
                elif add is not None:
                    series.value += add
                else:
                    series.value = to
        if first_dropped:
            logger.warning("%s: %d series are kept already; further ones are dropped", name, _MAX_SERIES)


class _Metric:
    def __init__(self, collector: InMemoryCollector, name: str, label_names: tuple[str, ...]) -> None:
        self._collector = collector
        self._name = name
        self._label_names = label_names

    def _labels(self, values: tuple[str, ...]) -> dict[str, str]:
        if len(values) != len(self._label_names):
            raise InvalidArgumentError(f"{self._name}: expected values of {self._label_names}, got {values}")
        return dict(zip(self._label_names, values, strict=True))


class _Counter(_Metric):
    def inc(self, *labels: str) -> None:
        self.add(1, *labels)

    def add(self, value: float, *labels: str) -> None:
        self._collector.increment_counter(self._name, self._labels(labels), value)


class _Gauge(_Metric):
    def set(self, value: float, *labels: str) -> None:
        self._collector.set_gauge(self._name, self._labels(labels), value)

    def inc(self, *labels: str) -> None:
        self.add(1, *labels)

    def dec(self, *labels: str) -> None:
        self.add(-1, *labels)

    def add(self, value: float, *labels: str) -> None:
        self._collector._change(self._name, "gauge", self._labels(labels), add=value)


class _Histogram(_Metric):
    def observe(self, value: float, *labels: str) -> None:
        self._collector.record_histogram(self._name, self._labels(labels), value)


def _text(labels: _Labels) -> str:
    return ",".join(f"{name}={_escaped(value)}" for name, value in labels)


def _escaped(value: str) -> str:
    r"""A label's value with escaped separators: ``a=1,b=2`` must stay one label.

    >>> _escaped("1,b=2")
    '1\\,b=2'
    """
    return str(value).replace("\\", "\\\\").replace(",", "\\,")


def _shown(family: _Family, series: _Series) -> Any:
    if family.kind != "histogram":
        return series.value
    buckets = {bucket.upper_bound: bucket.count for bucket in _buckets(family, series)}
    return {"sum": series.value, "count": sum(series.counts), "buckets": buckets}


def _buckets(family: _Family, series: _Series) -> tuple[PrometheusBucket, ...]:
    if family.kind != "histogram":
        return ()
    total, buckets = 0, []
    for bound, count in zip((*family.bounds, float("inf")), series.counts, strict=True):
        total += count
        buckets.append(PrometheusBucket(bound, total))
    return tuple(buckets)
