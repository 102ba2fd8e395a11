"""The sections of a plugin's configuration, with the field names of the Go library's JSON.

A field that is left out is None. The plugin inherits it from the manager's ``default_*`` section, or else from the
production defaults below. Durations are seconds.
"""

from __future__ import annotations

from collections.abc import Iterable
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
    ReplyStatus,
    Seconds,
    SecondsOrZero,
    Share,
)
from goplugins.config.schema import UNSET, Section, as_texts, as_tuple
from goplugins.config.sizes import Bytes


def _statuses(value: Iterable[int | str] | None) -> tuple[int | str, ...] | None:
    return None if value is None else as_tuple(value)


@attrs.frozen(kw_only=True, repr=False)
class RetryConfig(Section):
    """Retries of failed attempts.

    The wait before retry n is ``min(initial_interval * multiplier ** (n - 1), max_interval)``.

    Attributes:
        max_retries: retries after the first attempt.
        initial_interval: seconds before the first retry.
        max_interval: the longest wait, in seconds, also before the first retry.
        multiplier: factor by which the wait grows with each retry.
        random_jitter: varies each wait by up to 10 % in both directions.
        idempotent: repeating a call has no further effect, so that failures after sending are retried, too.
        budget_ratio: retries and hedged attempts per call, on average over the last seconds; 0 to 1.
        attempt_timeout: seconds for one attempt, within the call's deadline; waits for a token, a slot or a connection
            do not count. No limit but the call's when left out.
        statuses: the replies that are retried, as HTTP statuses (503) or gRPC statuses ("UNAVAILABLE"), instead of 429,
            500, 502, 503 and 504 and of the gRPC statuses that mean the same. All but 429 and a 503 with Retry-After
            only if the call is idempotent.
    """

    max_retries: Count | None = None
    initial_interval: SecondsOrZero | None = None
    max_interval: SecondsOrZero | None = None
    multiplier: Factor | None = None
    random_jitter: bool | None = None
    idempotent: bool | None = None
    budget_ratio: Share | None = None
    attempt_timeout: Seconds | None = None
    statuses: tuple[ReplyStatus, ...] | None = attrs.field(default=None, converter=_statuses)


@attrs.frozen(kw_only=True, repr=False)
class CircuitBreakerConfig(Section):
    """When the circuit to a failing plugin opens, and how it closes again.

    Attributes:
        enabled: if false, no call is refused.
        failure_threshold: consecutive failures that open the circuit.
        recovery_timeout: seconds for which the circuit stays open the first time.
        min_request_threshold: calls since the circuit last closed before it can open.
        success_threshold: successes that close the circuit, and limit of concurrent probes.
        max_recovery_timeout: longest time for which the circuit stays open when probes keep failing; each trip in a
            row doubles the time. 8 times ``recovery_timeout`` (three doublings) when left out, and never less than it.
        window: seconds over which the two rates below are measured.
        failure_rate: share of failed calls that opens the circuit, too; not used when left out.
        slow_call_duration: seconds from which a call counts as slow.
        slow_call_rate: share of slow calls that opens the circuit, too; not used when left out.
        metrics_only: counts and reports, but refuses no call.
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


@attrs.frozen(kw_only=True, repr=False)
class HealthCheckConfig(Section):
    """Regular health checks of a plugin.

    Attributes:
        enabled: whether the plugin is checked regularly.
        kind: how. "auto", also when left out, presumes nothing of the plugin: over HTTP a GET, where 404, 405 and 501
            are no failure; over gRPC the standard health service, if there is one; on a Unix socket a connection; of a
            program whether a process runs, without starting one. "message" is for plugins that understand goplugins'
            own health request; "connect" only connects; "none" checks nothing.
        interval: seconds between two checks.
        timeout: seconds for one check.
        failure_limit: consecutive failed checks that make the plugin OFFLINE.
        endpoint: address of the health endpoint; derived from the plugin's own when left out. On HTTP a text that
            starts with ``/`` is a path on the plugin's host.
    """

    enabled: bool | None = None
    kind: Annotated[str, Choice(("auto", "message", "connect", "none"))] | None = None
    interval: Seconds | None = None
    timeout: Seconds | None = None
    failure_limit: Positive | None = None
    endpoint: str | None = None


@attrs.frozen(kw_only=True, repr=False)
class ConnectionConfig(Section):
    """The connections to a plugin, and timeouts.

    Attributes:
        max_connections: limit of open connections (or processes); further calls wait within their deadlines.
        max_idle_connections: limit of idle connections that are kept; at most ``max_connections``.
        idle_timeout: seconds after which an idle connection is closed.
        max_lifetime: seconds after which a connection is replaced between two calls; no limit when left out.
        connection_timeout: seconds for connecting, TLS handshake included.
        request_timeout: seconds for a whole call, if neither the call nor its context has a timeout.
        keep_alive: whether a connection is used for more than one call.
        disable_compression: requests replies that are not compressed.
        max_response_bytes: size limit of a reply in bytes, after decompression; in files also text such as "4 MiB".
    """

    max_connections: Positive | None = None
    max_idle_connections: Count | None = None
    idle_timeout: Seconds | None = None
    max_lifetime: Seconds | None = None
    connection_timeout: Seconds | None = None
    request_timeout: Seconds | None = None
    keep_alive: bool | None = None
    disable_compression: bool | None = None
    max_response_bytes: Bytes | None = None


@attrs.frozen(kw_only=True, repr=False)
class RateLimitConfig(Section):
    """Limit of the rate of attempts: a token bucket.

    Attributes:
        enabled: if false, there is no limit.
        requests_per_second: tokens that are added per ``time_window``.
        burst_size: capacity of the bucket in tokens.
        time_window: seconds in which ``requests_per_second`` tokens are added; 1 as the name says.
        max_wait: seconds that a call may wait for a token; 0 refuses it at once.
    """

    enabled: bool | None = None
    requests_per_second: Rate | None = None
    burst_size: Positive | None = None
    time_window: Seconds | None = None
    max_wait: SecondsOrZero | None = None


@attrs.frozen(kw_only=True, repr=False)
class BulkheadConfig(Section):
    """Limit of concurrent calls of a plugin. A plugin without this section has no limit.

    Attributes:
        max_concurrent: limit of concurrent calls; a call counts until it ends, retries and waits included. Required.
        max_waiting: further calls that may wait for a slot; 0 refuses them at once.
        max_wait: seconds that a call may wait; until its deadline when left out.
        adaptive: adjusts the limit between ``min_concurrent`` and ``max_concurrent``, downwards while calls queue up
            in the plugin.
        min_concurrent: lower bound of an adaptive limit.
    """

    max_concurrent: Positive | None = None
    max_waiting: Count | None = None
    max_wait: Seconds | None = None
    adaptive: bool | None = None
    min_concurrent: Positive | None = None


@attrs.frozen(kw_only=True, repr=False)
class FallbackConfig(Section):
    """The answer when the plugin can't give one: exactly one of ``plugin``, ``value`` and ``function``.

    Attributes:
        plugin: name of another plugin.
        value: a constant answer, which may be null.
        function: called with the request and the error; only in code.
        on: further errors for which the fallback answers: ``rate-limit``.
        reserve: seconds of the deadline that are reserved for the fallback.
    """

    plugin: str = ""
    value: Any = UNSET
    function: Function | None = None
    on: tuple[Annotated[str, Choice(("rate-limit",))], ...] = attrs.field(default=(), converter=as_texts)
    reserve: SecondsOrZero | None = None


@attrs.frozen(kw_only=True, repr=False)
class CacheConfig(Section):
    """Cache of answers in memory, for idempotent calls only. A plugin without this section has no cache.

    Attributes:
        ttl: seconds for which an answer is valid; required.
        max_entries: limit of cached answers; the least recently used one is evicted.
        stale_if_error: seconds beyond ``ttl`` in which an answer is used if the call fails.
        vary_headers: call headers that are part of the cache key.
    """

    ttl: Seconds | None = None
    max_entries: Positive | None = None
    stale_if_error: SecondsOrZero | None = None
    vary_headers: tuple[str, ...] = attrs.field(default=(), converter=as_texts)


@attrs.frozen(kw_only=True, repr=False)
class HedgeConfig(Section):
    """A second attempt for idempotent calls that take unusually long; the first answer counts.

    Attributes:
        enabled: if false, there is no second attempt.
        delay: seconds after which the second attempt is sent; follows from ``percentile`` when left out.
        percentile: the second attempt is sent after the time in which this share of recent calls was answered.
        min_delay: the second attempt is never sent before these seconds.
    """

    enabled: bool | None = None
    delay: Seconds | None = None
    percentile: PositiveShare | None = None
    min_delay: SecondsOrZero | None = None


# The production defaults. Fields that the Go library has, too, have its defaults.
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
DEFAULT_FALLBACK = FallbackConfig(value=None, reserve=0.0)  # a value that is None stays: it is an answer
DEFAULT_HEDGE = HedgeConfig(enabled=False, percentile=0.95, min_delay=0.01)
# For plugins that have the section: max_concurrent is required, and without max_wait a call waits until its deadline.
DEFAULT_BULKHEAD = BulkheadConfig(max_waiting=0, adaptive=False, min_concurrent=1)
