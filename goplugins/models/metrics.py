"""Counts and latencies of plugins and managers at one moment."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import attrs

from goplugins.models.new_fields import with_new_fields

__all__ = ["OTHER", "Latencies", "ManagerMetrics", "OperationMetrics", "PluginMetrics"]

OTHER = "other"
"""Stands for all operations that are not in a plugin's configuration, in counts and metrics: those are bounded."""

K = TypeVar("K")

_PER_OCTAVE = 16
"""Buckets for each doubling of a latency: percentiles are exact to 1 part in 32."""


def bucket_of(seconds: float) -> int:
    """The bucket of a latency in seconds; its bounds are :func:`bounds_of`."""
    mantissa, exponent = math.frexp(seconds if seconds > 1e-9 else 1e-9)  # noqa: FURB136 - max() is a call more
    return int(mantissa * 32.0) + exponent * _PER_OCTAVE


def bounds_of(bucket: int) -> tuple[float, float]:
    """Lower bound (inclusive) and upper bound (exclusive) of a bucket, in seconds."""
    exponent, step = divmod(bucket - _PER_OCTAVE, _PER_OCTAVE)
    return math.ldexp((_PER_OCTAVE + step) / 32.0, exponent), math.ldexp((_PER_OCTAVE + step + 1) / 32.0, exponent)


@attrs.frozen(repr=False)
class Latencies:
    """A histogram of latencies with 16 buckets for each doubling, so that its size stays bounded.

    Attributes:
        counts: bucket -> number; :func:`goplugins.models.metrics.bounds_of` gives a bucket's bounds.

    >>> spread = Latencies({bucket_of(0.010): 98, bucket_of(0.5): 2})
    >>> round(spread.percentile(50), 3), round(spread.percentile(99), 2)
    (0.01, 0.52)
    """

    counts: Mapping[int, int] = attrs.field(factory=dict)

    def __repr__(self) -> str:
        shares = ", ".join(f"p{percent} {self.percentile(percent):.3g} s" for percent in (50, 95, 99))
        return f"<Latencies: {len(self)}{', ' + shares if self.counts else ''}>"

    def __len__(self) -> int:
        return sum(self.counts.values())

    def percentile(self, percent: float) -> float:
        """Seconds that ``percent`` of the latencies do not exceed, exact to 1 part in 32; 0 without latencies."""
        total = len(self)
        rank = max(1, math.ceil(total * percent / 100.0))
        for bucket in sorted(self.counts):
            rank -= self.counts[bucket]
            if rank <= 0:
                low, high = bounds_of(bucket)
                return (low + high) / 2.0
        return 0.0

    def since(self, before: Latencies) -> Latencies:
        """The latencies since ``before``, an earlier histogram of the same plugin."""
        fresh = {bucket: count - before.counts.get(bucket, 0) for bucket, count in self.counts.items()}
        return Latencies({bucket: count for bucket, count in fresh.items() if count > 0})

    @classmethod
    def total(cls, parts: Iterable[Latencies]) -> Latencies:
        """The sum of several histograms."""
        return Latencies(_added(part.counts for part in parts))


def _count(label: str = "", series: str = "") -> Any:
    """A count, with the label that it has in the dashboard and the name of its exported series; "" for none."""
    return attrs.field(default=0, metadata={"label": label, "series": series})


@attrs.frozen
class OperationMetrics:
    """One operation's counts since its plugin was added; see :class:`PluginMetrics` for each."""

    requests_total: int = 0
    requests_success: int = 0
    requests_failure: int = 0
    request_duration: float = 0.0
    latencies: Latencies = attrs.field(factory=Latencies)
    errors: Mapping[str, int] = attrs.field(factory=dict)


@with_new_fields
@attrs.frozen
class PluginMetrics:
    """One plugin's counts since it was added. Durations are seconds.

    Attributes:
        requests_total: calls that have ended, with a value or an error.
        requests_success: calls that returned a value, of the plugin or in its place.
        requests_failure: calls that raised.
        request_duration: of all ended calls together.
        attempts_total: attempts that were sent, hedges included.
        active_requests: calls in flight.
        circuit_breaker_trips: how often the breaker opened.
        health_checks: health checks.
        health_check_failures: health checks that failed.
        refused_rate_limit: attempts that the limiter refused.
        refused_circuit_breaker: attempts that the breaker refused.
        refused_bulkhead: calls that got no slot.
        retry_budget_exhausted: retries that the budget refused.
        hedges_sent: second attempts beside a late first one.
        hedges_won: hedges that gave the answer.
        cache_hits: answers from the cache.
        cache_misses: idempotent calls whose answer was not in the cache.
        cache_coalesced: calls that got the answer to an identical call in flight.
        stale_answers: expired answers from the cache in place of failures.
        fallback_answers: answers of the fallback.
        fallback_failures: calls that failed, and whose fallback failed as well.
        latencies: durations of the calls that were sent, with all their attempts and waits.
        errors: calls that raised, by their error's code.
        operations: counts of each operation that was called; those that are not configured together as "other". Empty
            in sums over several plugins.
    """

    requests_total: int = _count("calls")
    requests_success: int = _count("answered")
    requests_failure: int = _count("raised")
    request_duration: float = 0.0
    attempts_total: int = _count("attempts")
    active_requests: int = 0
    circuit_breaker_trips: int = _count("breaker trips")
    health_checks: int = _count(series="health_checks")
    health_check_failures: int = _count("health checks failed", "health_check_failures")
    refused_rate_limit: int = _count("refused by rate limit", "refusals_rate_limit")
    refused_circuit_breaker: int = _count("refused by breaker", "refusals_breaker")
    refused_bulkhead: int = _count("refused by bulkhead", "refusals_bulkhead")
    retry_budget_exhausted: int = _count("retry budget exhausted", "retry_budget_exhausted")
    hedges_sent: int = _count("hedges sent", "hedges")
    hedges_won: int = _count("hedges won", "hedges_won")
    cache_hits: int = _count("cache hits", "cache_hits")
    cache_misses: int = _count("cache misses", "cache_misses")
    cache_coalesced: int = _count(series="cache_coalesced")
    stale_answers: int = _count("stale answers")
    fallback_answers: int = _count("fallback answers")
    fallback_failures: int = _count("fallback failures")
    latencies: Latencies = attrs.field(factory=Latencies)
    errors: Mapping[str, int] = attrs.field(factory=dict)
    operations: Mapping[str, OperationMetrics] = attrs.field(factory=dict)

    @classmethod
    def total(cls, parts: Iterable[PluginMetrics]) -> PluginMetrics:
        """The sums over several plugins."""
        parts = list(parts)
        tables = {"latencies", "errors", "operations"}
        names = [field.name for field in attrs.fields(PluginMetrics) if field.name not in tables]
        sums: dict[str, Any] = {name: sum(getattr(part, name) for part in parts) for name in names}
        latencies = Latencies(_added(part.latencies.counts for part in parts))
        return PluginMetrics(**sums, latencies=latencies, errors=_added(part.errors for part in parts))


@with_new_fields
@attrs.frozen
class ManagerMetrics(PluginMetrics):
    """The counts of all plugins together, removed ones included, and of each present one by name."""

    plugins: Mapping[str, PluginMetrics] = attrs.field(factory=dict)


def _added(parts: Iterable[Mapping[K, int]]) -> dict[K, int]:
    total: dict[K, int] = {}
    for part in parts:
        for key, count in part.items():
            total[key] = total.get(key, 0) + count
    return total
