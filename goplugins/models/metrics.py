"""How many, how often, how long: the counts of plugins and managers, as they stood at one moment."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TypeVar

import attrs

__all__ = ["Latencies", "ManagerMetrics", "PluginMetrics"]

K = TypeVar("K")

_PER_OCTAVE = 16
"""Buckets for each doubling: whatever is told of a latency is within 1 part in 32 of the truth."""


def bucket_of(seconds: float) -> int:
    """The bucket of a latency. Its bounds are :func:`bounds_of`."""
    mantissa, exponent = math.frexp(seconds if seconds > 1e-9 else 1e-9)  # noqa: FURB136 - max() is a call more
    return int(mantissa * 32.0) + exponent * _PER_OCTAVE


def bounds_of(bucket: int) -> tuple[float, float]:
    """The shortest latency of a bucket, and the shortest that is too long for it, in seconds."""
    exponent, step = divmod(bucket - _PER_OCTAVE, _PER_OCTAVE)
    return math.ldexp((_PER_OCTAVE + step) / 32.0, exponent), math.ldexp((_PER_OCTAVE + step + 1) / 32.0, exponent)


@attrs.frozen(repr=False)
class Latencies:
    """How latencies are spread: counts in buckets, 16 for each doubling, so that it takes little room for ever.

    Attributes:
        counts: bucket -> how many; :func:`goplugins.models.metrics.bounds_of` tells a bucket's bounds.

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
        """What ``percent`` of the latencies do not exceed, in seconds, within 1 part in 32; 0 if there are none."""
        total = len(self)
        rank = max(1, math.ceil(total * percent / 100.0))
        for bucket in sorted(self.counts):
            rank -= self.counts[bucket]
            if rank <= 0:
                low, high = bounds_of(bucket)
                return (low + high) / 2.0
        return 0.0

    def since(self, before: Latencies) -> Latencies:
        """Those that have come after ``before``, which was taken of the same plugin."""
        fresh = {bucket: count - before.counts.get(bucket, 0) for bucket, count in self.counts.items()}
        return Latencies({bucket: count for bucket, count in fresh.items() if count > 0})

    @classmethod
    def total(cls, parts: Iterable[Latencies]) -> Latencies:
        """All of several plugins together."""
        return Latencies(_added(part.counts for part in parts))


@attrs.frozen
class PluginMetrics:
    """One plugin's counts since it was added. Durations are seconds.

    Attributes:
        requests_total: calls that have ended, however.
        requests_success: those that were answered, by the plugin or in its place.
        requests_failure: those that raised.
        request_duration: of all ended calls together.
        attempts_total: attempts that were sent, hedges included.
        active_requests: calls under way.
        circuit_breaker_trips: how often the breaker opened.
        health_checks: looks at its health.
        health_check_failures: looks that found it ill.
        refused_rate_limit: attempts that the limiter refused.
        refused_circuit_breaker: attempts that the breaker refused.
        refused_bulkhead: calls that found no room.
        retry_budget_exhausted: replays that the budget refused.
        hedges_sent: second attempts beside a late first one.
        hedges_won: those of them that gave the answer.
        cache_hits: answers that had been kept.
        cache_misses: idempotent calls for which none had been kept.
        cache_coalesced: calls that got the answer to an identical one under way.
        stale_answers: old answers in place of failures.
        fallback_answers: answers of the fallback.
        fallback_failures: calls that failed, and whose fallback failed as well.
        latencies: how long the calls took that were sent, with all their attempts and waits.
        errors: calls that raised, by their error's code.
    """

    requests_total: int = 0
    requests_success: int = 0
    requests_failure: int = 0
    request_duration: float = 0.0
    attempts_total: int = 0
    active_requests: int = 0
    circuit_breaker_trips: int = 0
    health_checks: int = 0
    health_check_failures: int = 0
    refused_rate_limit: int = 0
    refused_circuit_breaker: int = 0
    refused_bulkhead: int = 0
    retry_budget_exhausted: int = 0
    hedges_sent: int = 0
    hedges_won: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    cache_coalesced: int = 0
    stale_answers: int = 0
    fallback_answers: int = 0
    fallback_failures: int = 0
    latencies: Latencies = attrs.field(factory=Latencies)
    errors: Mapping[str, int] = attrs.field(factory=dict)

    @classmethod
    def total(cls, parts: Iterable[PluginMetrics]) -> PluginMetrics:
        """The sums over several plugins."""
        parts = list(parts)
        names = [field.name for field in attrs.fields(PluginMetrics) if field.name not in {"latencies", "errors"}]
        sums = {name: sum(getattr(part, name) for part in parts) for name in names}
        latencies = Latencies(_added(part.latencies.counts for part in parts))
        return PluginMetrics(**sums, latencies=latencies, errors=_added(part.errors for part in parts))


@attrs.frozen
class ManagerMetrics(PluginMetrics):
    """The counts of all plugins, removed ones included, and each one's own by name."""

    plugins: Mapping[str, PluginMetrics] = attrs.field(factory=dict)


def _added(parts: Iterable[Mapping[K, int]]) -> dict[K, int]:
    total: dict[K, int] = {}
    for part in parts:
        for key, count in part.items():
            total[key] = total.get(key, 0) + count
    return total
