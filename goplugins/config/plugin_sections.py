"""The sections of one plugin's configuration. Field names are those of the Go library's JSON.

In every section a field left out is None: the plugin inherits it, field by field, from the manager's ``default_*``
section, and that one from the production defaults below. Durations are seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import attrs

from goplugins.config.field_types import (
    Choice,
    Count,
    Factor,
    Function,
    Positive,
    PositiveShare,
    Rate,
    Seconds,
    SecondsOrZero,
    Share,
)
from goplugins.config.schema import UNSET, as_texts, sparse_repr
from goplugins.config.sizes import Bytes

__all__ = [
    "DEFAULT_BULKHEAD",
    "DEFAULT_CACHE",
    "DEFAULT_CIRCUIT_BREAKER",
    "DEFAULT_CONNECTION",
    "DEFAULT_HEALTH_CHECK",
    "DEFAULT_HEDGE",
    "DEFAULT_RATE_LIMIT",
    "DEFAULT_RETRY",
    "BulkheadConfig",
    "CacheConfig",
    "CircuitBreakerConfig",
    "ConnectionConfig",
    "FallbackConfig",
    "HealthCheckConfig",
    "HedgeConfig",
    "RateLimitConfig",
    "RetryConfig",
]


@attrs.frozen(kw_only=True, repr=False)
class RetryConfig:
    """When and how often a failed attempt is made again.

    The wait before replay n is ``min(initial_interval * multiplier ** (n - 1), max_interval)``.

    Attributes:
        max_retries: replays after the first attempt.
        initial_interval: seconds before the first replay.
        max_interval: the longest wait, in seconds; caps the first one, too.
        multiplier: growth of the wait from one replay to the next.
        random_jitter: varies each wait by up to 10 % either way.
        idempotent: doing it twice does no harm, so that failures after sending may be replayed, too.
        budget_ratio: replays and hedges that may be made per call, on average over the last seconds; 0 to 1.
    """

    max_retries: Count | None = None
    initial_interval: SecondsOrZero | None = None
    max_interval: SecondsOrZero | None = None
    multiplier: Factor | None = None
    random_jitter: bool | None = None
    idempotent: bool | None = None
    budget_ratio: Share | None = None

    __repr__ = sparse_repr


@attrs.frozen(kw_only=True, repr=False)
class CircuitBreakerConfig:
    """When a failing plugin is left alone, and how it is tried again.

    Attributes:
        enabled: without it every call goes out.
        failure_threshold: failures in a row that open the circuit.
        recovery_timeout: seconds that it stays open the first time.
        min_request_threshold: calls since it last closed before it may open.
        success_threshold: successes that close it, and probes that may be under way at once.
        max_recovery_timeout: the longest that it stays open when probes keep failing; each trip in a row doubles
            the time. 8 times ``recovery_timeout`` (three doublings) when left out, and never less than it.
        window: seconds that the two rates below look back.
        failure_rate: share of failed calls that opens it, too; no such rule when left out.
        slow_call_duration: seconds from which a call counts as slow.
        slow_call_rate: share of slow calls that opens it, too; no such rule when left out.
        metrics_only: records and reports, but refuses nothing.
    """

    enabled: bool | None = None
    failure_threshold: Positive | None = None
    recovery_timeout: Seconds | None = None
    min_request_threshold: Positive | None = None
    success_threshold: Positive | None = None
    max_recovery_timeout: Seconds | None = None
    window: Seconds | None = None
    failure_rate: PositiveShare | None = None
    slow_call_duration: Seconds | None = None
    slow_call_rate: PositiveShare | None = None
    metrics_only: bool | None = None

    __repr__ = sparse_repr


@attrs.frozen(kw_only=True, repr=False)
class HealthCheckConfig:
    """How a plugin's health is looked at.

    Attributes:
        enabled: whether it is looked at without being asked.
        interval: seconds between two looks.
        timeout: seconds that one look may take.
        failure_limit: failed looks in a row that make the plugin OFFLINE.
        endpoint: where to look; the plugin's own address when left out. On HTTP a text that starts with ``/`` is a
            path on the plugin's host.
    """

    enabled: bool | None = None
    interval: Seconds | None = None
    timeout: Seconds | None = None
    failure_limit: Positive | None = None
    endpoint: str | None = None

    __repr__ = sparse_repr


@attrs.frozen(kw_only=True, repr=False)
class ConnectionConfig:
    """The connections to a plugin and their times.

    Attributes:
        max_connections: connections (or processes) open at once; further callers wait within their deadlines.
        max_idle_connections: how many of them are kept when idle; what exceeds ``max_connections`` has no effect.
        idle_timeout: seconds after which an idle one is closed.
        connection_timeout: seconds for connecting, TLS included.
        request_timeout: seconds for a whole call, where neither the call nor its context says.
        keep_alive: whether a connection serves more than one call.
        disable_compression: asks for replies that are not compressed.
        max_response_bytes: the largest reply, in bytes, once decompressed; in files also text such as "4 MiB".
    """

    max_connections: Positive | None = None
    max_idle_connections: Count | None = None
    idle_timeout: Seconds | None = None
    connection_timeout: Seconds | None = None
    request_timeout: Seconds | None = None
    keep_alive: bool | None = None
    disable_compression: bool | None = None
    max_response_bytes: Bytes | None = None

    __repr__ = sparse_repr


@attrs.frozen(kw_only=True, repr=False)
class RateLimitConfig:
    """How many attempts this side makes at most: a token bucket.

    Attributes:
        enabled: without it there is no limit.
        requests_per_second: tokens that come back per ``time_window``.
        burst_size: tokens that the bucket holds.
        time_window: seconds in which ``requests_per_second`` tokens come back; 1 makes the name true.
        max_wait: seconds that a call may wait for its token; 0 refuses at once.
    """

    enabled: bool | None = None
    requests_per_second: Rate | None = None
    burst_size: Positive | None = None
    time_window: Seconds | None = None
    max_wait: SecondsOrZero | None = None

    __repr__ = sparse_repr


@attrs.frozen(kw_only=True, repr=False)
class BulkheadConfig:
    """How many calls of a plugin may be under way at once. A plugin without this section has no such limit.

    Attributes:
        max_concurrent: calls under way at once, attempts, backoff and waits included; required.
        max_waiting: further calls that may wait for their turn; 0 refuses them at once.
        max_wait: seconds that a call may wait; until its deadline when left out.
        adaptive: moves the limit between ``min_concurrent`` and ``max_concurrent``, down while calls queue up in
            the plugin.
        min_concurrent: an adaptive limit never falls below this.
    """

    max_concurrent: Positive | None = None
    max_waiting: Count | None = None
    max_wait: Seconds | None = None
    adaptive: bool | None = None
    min_concurrent: Positive | None = None

    __repr__ = sparse_repr


@attrs.frozen(kw_only=True, repr=False)
class FallbackConfig:
    """What answers when the plugin could not: exactly one of ``plugin``, ``value`` and ``function``.

    Attributes:
        plugin: another plugin's name.
        value: a static answer, which may be null.
        function: called with the request and the error; only in code.
        on: further cases in which to use it: ``rate-limit``.
        reserve: seconds of the deadline kept back for the fallback.
    """

    plugin: str = ""
    value: Any = UNSET
    function: Annotated[Callable[[Any, Exception], Any], Function()] | None = None
    on: tuple[Annotated[str, Choice(("rate-limit",))], ...] = attrs.field(default=(), converter=as_texts)
    reserve: SecondsOrZero | None = None

    __repr__ = sparse_repr


@attrs.frozen(kw_only=True, repr=False)
class CacheConfig:
    """Answers kept in memory, for idempotent calls only. A plugin without this section keeps none.

    Attributes:
        ttl: seconds that an answer is good for; required.
        max_entries: answers kept; the least recently used leaves first.
        stale_if_error: seconds beyond ``ttl`` in which an answer may stand in for a failed call.
        vary_headers: call headers that are part of an answer's key.
    """

    ttl: Seconds | None = None
    max_entries: Positive | None = None
    stale_if_error: SecondsOrZero | None = None
    vary_headers: tuple[str, ...] = attrs.field(default=(), converter=as_texts)

    __repr__ = sparse_repr


@attrs.frozen(kw_only=True, repr=False)
class HedgeConfig:
    """A second attempt for idempotent calls that take unusually long; whichever answers first counts.

    Attributes:
        enabled: without it there are none.
        delay: seconds after which the second attempt is sent; by ``percentile`` when left out.
        percentile: the share of recent calls that were answered before a call counts as late.
        min_delay: seconds before which no second attempt is sent, however fast the recent calls were.
    """

    enabled: bool | None = None
    delay: Seconds | None = None
    percentile: PositiveShare | None = None
    min_delay: SecondsOrZero | None = None

    __repr__ = sparse_repr


# The production defaults. Those of the Go library, then those of fields that it lacks.
DEFAULT_RETRY = RetryConfig(
    max_retries=3,
    initial_interval=0.1,
    max_interval=5.0,
    multiplier=2.0,
    random_jitter=True,
    idempotent=False,
    budget_ratio=0.2,
)
DEFAULT_CIRCUIT_BREAKER = CircuitBreakerConfig(
    enabled=True,
    failure_threshold=5,
    recovery_timeout=30.0,
    min_request_threshold=3,
    success_threshold=2,
    metrics_only=False,
)
DEFAULT_HEALTH_CHECK = HealthCheckConfig(enabled=True, interval=30.0, timeout=5.0, failure_limit=3)
DEFAULT_CONNECTION = ConnectionConfig(
    max_connections=10,
    max_idle_connections=5,
    idle_timeout=30.0,
    connection_timeout=10.0,
    request_timeout=30.0,
    keep_alive=True,
    disable_compression=False,
    max_response_bytes=4 * 1024 * 1024,
)
DEFAULT_RATE_LIMIT = RateLimitConfig(
    enabled=False, requests_per_second=10.0, burst_size=20, time_window=1.0, max_wait=0.0
)
DEFAULT_CACHE = CacheConfig(max_entries=1024, stale_if_error=0.0)
DEFAULT_HEDGE = HedgeConfig(enabled=False, percentile=0.95, min_delay=0.01)
# Only where the section is there: max_concurrent has no default, and max_wait none but the deadline.
DEFAULT_BULKHEAD = BulkheadConfig(max_waiting=0, adaptive=False, min_concurrent=1)
