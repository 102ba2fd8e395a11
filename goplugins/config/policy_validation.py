"""Problems of policy sections that no single field shows: settings that contradict each other or have no effect."""

from __future__ import annotations

from typing import Protocol

from goplugins.config.credentials import is_header
from goplugins.config.plugin_sections import (
    BulkheadConfig,
    CacheConfig,
    CircuitBreakerConfig,
    FallbackConfig,
    HedgeConfig,
    RateLimitConfig,
    RetryConfig,
)
from goplugins.config.problems import Problems
from goplugins.config.schema import UNSET
from goplugins.enums import TransportType
from goplugins.errors import InvalidConfigError

NOT_HEDGED = (TransportType.EXECUTABLE, TransportType.PYTHON)
"""Transports whose calls can't be cancelled once they are sent."""


class Policies(Protocol):
    """The policy sections that plugins and groups have in common."""

    @property
    def name(self) -> str: ...
    @property
    def retry(self) -> RetryConfig | None: ...
    @property
    def rate_limit(self) -> RateLimitConfig | None: ...
    @property
    def bulkhead(self) -> BulkheadConfig | None: ...
    @property
    def fallback(self) -> FallbackConfig | None: ...
    @property
    def cache(self) -> CacheConfig | None: ...
    @property
    def hedge(self) -> HedgeConfig | None: ...


def check_policies(
    raw: Policies, resolved: Policies, problems: Problems, transport: TransportType | None = None
) -> None:
    """Adds what is wrong with the policies of a plugin or a group.

    Args:
        raw: the configuration as it was written.
        resolved: the same with its defaults.
        problems: of the plugin or group.
        transport: the plugin's; None for a group.
    """
    if raw.retry is not None and resolved.retry is not None:
        check_retry(raw.retry, resolved.retry, problems.below("retry"))
    if raw.rate_limit is not None and resolved.rate_limit is not None:
        _check_limit(raw.rate_limit, resolved.rate_limit, problems.below("rate_limit"))
    if raw.fallback is not None:
        _check_fallback(raw.fallback, raw.name, problems.below("fallback"))
    if raw.cache is not None:
        _check_cache(raw.cache, problems.below("cache"))
    if raw.bulkhead is not None:
        _check_bulkhead(raw.bulkhead, problems.below("bulkhead"))
    if raw.hedge is not None:
        _check_hedge(raw.hedge, transport, problems.below("hedge"))


def check_retry(raw: RetryConfig, retry: RetryConfig, problems: Problems) -> None:
    """Adds intervals of which the first is longer than the longest.

    Args:
        raw: the section as it was written.
        retry: the same with its defaults.
        problems: of the section.
    """
    first, longest = retry.initial_interval, retry.max_interval
    if first is None or longest is None or first <= longest:
        return
    if raw.initial_interval is not None:
        message = f"is longer than max_interval, {longest:g} s"
        problems.add(InvalidConfigError, message, "lower it, or raise max_interval", "initial_interval")
    elif raw.max_interval is not None:
        message = f"is shorter than initial_interval, {first:g} s"
        problems.add(InvalidConfigError, message, "raise it, or lower initial_interval", "max_interval")


def check_breaker(breaker: CircuitBreakerConfig, problems: Problems) -> None:
    """Adds rules that can never open the circuit, since a part of them is missing."""
    if breaker.slow_call_rate is not None and breaker.slow_call_duration is None:
        fix = "set the seconds from which a call counts as slow"
        problems.add(InvalidConfigError, "is required with slow_call_rate", fix, "slow_call_duration")
    if breaker.slow_call_duration is not None and breaker.slow_call_rate is None:
        fix = "set the share of slow calls that opens the circuit"
        problems.add(InvalidConfigError, "is required with slow_call_duration", fix, "slow_call_rate")
    rate = "failure_rate" if breaker.failure_rate is not None else "slow_call_rate"
    if breaker.window is None and getattr(breaker, rate) is not None:
        fix = "set the seconds over which the rate is measured"
        problems.add(InvalidConfigError, f"is required with {rate}", fix, "window")


def _check_hedge(raw: HedgeConfig, transport: TransportType | None, problems: Problems) -> None:
    if raw.enabled is None:
        fix = "write enabled: true, or enabled: false to keep it off"
        problems.add(InvalidConfigError, "is required: hedging is off by default", fix, "enabled")
    if raw.enabled and transport in NOT_HEDGED:
        message = f"a call over {transport} can't be cancelled, so it can't be hedged"
        problems.add(InvalidConfigError, message, "leave the section out", "enabled")
    for name in ("percentile", "min_delay"):
        if raw.delay is not None and getattr(raw, name) is not None:
            problems.add(InvalidConfigError, "has no effect if delay is set", f"set either delay or {name}", name)


def _check_limit(raw: RateLimitConfig, resolved: RateLimitConfig, problems: Problems) -> None:
    written = raw.requests_per_second is not None or raw.burst_size is not None
    if written and raw.enabled is None and not resolved.enabled:
        fix = "write enabled: true to apply this limit, or enabled: false to keep it off"
        problems.add(InvalidConfigError, "is required: the rate limit is off by default", fix, "enabled")


def _check_bulkhead(bulkhead: BulkheadConfig, problems: Problems) -> None:
    high, low = bulkhead.max_concurrent, bulkhead.min_concurrent
    if high is None:
        fix = "set how many calls may run at once"
        problems.add(InvalidConfigError, "missing", fix, "max_concurrent")
    if low is not None and not bulkhead.adaptive:
        fix = "write adaptive: true, or leave it out"
        problems.add(InvalidConfigError, "has no effect unless the limit is adaptive", fix, "min_concurrent")
    elif low is not None and high is not None and low > high:
        problems.add(InvalidConfigError, "is more than max_concurrent", f"write at most {high}", "min_concurrent")
    if bulkhead.max_wait is not None and not bulkhead.max_waiting:
        fix = "set how many calls may wait, or leave max_wait out"
        problems.add(InvalidConfigError, "is required with max_wait", fix, "max_waiting")


def _check_cache(cache: CacheConfig, problems: Problems) -> None:
    if cache.ttl is None:
        problems.add(InvalidConfigError, "missing", "set the seconds for which an answer is valid", "ttl")
    for index, header in enumerate(cache.vary_headers):
        if not is_header(header):
            fix = "write a name such as Accept-Language"
            problems.add(InvalidConfigError, "is not a header name", fix, "vary_headers", index)


def _check_fallback(fallback: FallbackConfig, name: str, problems: Problems) -> None:
    given = [bool(fallback.plugin), fallback.value is not UNSET, fallback.function is not None]
    if sum(given) != 1:
        message = "has more than one answer" if any(given) else "has no answer"
        problems.add(InvalidConfigError, message, "set exactly one of plugin and value")
    if fallback.plugin and fallback.plugin == name:
        problems.add(InvalidConfigError, "is the plugin itself", "write the name of another plugin", "plugin")
