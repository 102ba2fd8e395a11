"""Whether the policies of a plugin or a group make sense: a rule that would never take effect is refused."""

from __future__ import annotations

from goplugins.config.chaos import check_chaos
from goplugins.config.credentials import is_header
from goplugins.config.manager_sections import LoadBalancerConfig
from goplugins.config.plugin import PluginConfig
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

__all__ = ["check_breaker", "check_group_policies", "check_policies", "check_retry"]

NOT_HEDGED = (TransportType.EXECUTABLE, TransportType.PYTHON)


def check_policies(raw: PluginConfig, plugin: PluginConfig, problems: Problems) -> None:
    """Notes what is wrong with a plugin's policies, as they are written and with their defaults."""
    if raw.retry is not None and plugin.retry is not None:
        check_retry(raw.retry, plugin.retry, problems.below("retry"))
    if raw.circuit_breaker is not None and plugin.circuit_breaker is not None:
        check_breaker(plugin.circuit_breaker, problems.below("circuit_breaker"))
    if raw.rate_limit is not None and plugin.rate_limit is not None:
        _check_limit(raw.rate_limit, plugin.rate_limit, problems.below("rate_limit"))
    _check_stand_ins(plugin.name, plugin.fallback, plugin.cache, problems)
    if raw.bulkhead is not None:
        _check_bulkhead(raw.bulkhead, problems.below("bulkhead"))
    if raw.hedge is not None:
        _check_hedge(raw.hedge, plugin.transport, problems.below("hedge"))
    if raw.chaos is not None:
        check_chaos(raw.chaos, problems.below("chaos"))


def check_group_policies(raw: LoadBalancerConfig, balancer: LoadBalancerConfig, problems: Problems) -> None:
    """As :func:`check_policies`, for a group."""
    if raw.retry is not None and balancer.retry is not None:
        check_retry(raw.retry, balancer.retry, problems.below("retry"))
    if raw.rate_limit is not None and balancer.rate_limit is not None:
        _check_limit(raw.rate_limit, balancer.rate_limit, problems.below("rate_limit"))
    _check_stand_ins(raw.name, raw.fallback, raw.cache, problems)
    if raw.bulkhead is not None:
        _check_bulkhead(raw.bulkhead, problems.below("bulkhead"))
    if raw.hedge is not None:
        _check_hedge(raw.hedge, None, problems.below("hedge"))


def check_retry(raw: RetryConfig, retry: RetryConfig, problems: Problems) -> None:
    """Notes waits that end before they begin: one of the two does not do what it says.

    Args:
        raw: as it was written.
        retry: the same with its defaults.
        problems: the section's.
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


def _check_hedge(raw: HedgeConfig, transport: TransportType | None, problems: Problems) -> None:
    if raw.enabled is None:
        fix = "write enabled: true, or enabled: false to keep it off"
        problems.add(InvalidConfigError, "the section is there, but hedging is off by default", fix, "enabled")
    if raw.enabled and transport in NOT_HEDGED:
        message = f"a call over {transport} can't be taken back, so it can't be hedged"
        problems.add(InvalidConfigError, message, "leave the section out", "enabled")
    for name in ("percentile", "min_delay"):
        if raw.delay is not None and getattr(raw, name) is not None:
            problems.add(InvalidConfigError, "has no effect beside delay", f"set either delay or {name}", name)


def _check_limit(raw: RateLimitConfig, resolved: RateLimitConfig, problems: Problems) -> None:
    """A limit that is written down but off by inheritance would be found out in an overload."""
    written = raw.requests_per_second is not None or raw.burst_size is not None
    if written and raw.enabled is None and not resolved.enabled:
        fix = "write enabled: true for this limit to hold, or enabled: false to keep it off"
        problems.add(InvalidConfigError, "a limit is given, but the default is off", fix, "enabled")


def _check_bulkhead(bulkhead: BulkheadConfig, problems: Problems) -> None:
    """A limit that limits nothing, or a setting without the one that it belongs to, would be found out too late."""
    high, low = bulkhead.max_concurrent, bulkhead.min_concurrent
    if high is None:
        fix = "set how many calls may be under way at once"
        problems.add(InvalidConfigError, "missing", fix, "max_concurrent")
    if low is not None and not bulkhead.adaptive:
        fix = "write adaptive: true, or leave it out"
        problems.add(InvalidConfigError, "does nothing unless the limit is adaptive", fix, "min_concurrent")
    elif low is not None and high is not None and low > high:
        fix = f"write at most {high}"
        problems.add(InvalidConfigError, "is more than max_concurrent", fix, "min_concurrent")
    if bulkhead.max_wait is not None and not bulkhead.max_waiting:
        fix = "set how many calls may wait, or leave it out"
        problems.add(InvalidConfigError, "missing for max_wait", fix, "max_waiting")


def check_breaker(breaker: CircuitBreakerConfig, problems: Problems) -> None:
    """A rule that lacks one of its parts would never fire, and nobody would know."""
    if breaker.slow_call_rate is not None and breaker.slow_call_duration is None:
        fix = "set the seconds from which a call is slow"
        problems.add(InvalidConfigError, "missing for slow_call_rate", fix, "slow_call_duration")
    if breaker.slow_call_duration is not None and breaker.slow_call_rate is None:
        fix = "set the share of slow calls that opens the circuit"
        problems.add(InvalidConfigError, "missing for slow_call_duration", fix, "slow_call_rate")
    rate = "failure_rate" if breaker.failure_rate is not None else "slow_call_rate"
    if breaker.window is None and getattr(breaker, rate) is not None:
        problems.add(InvalidConfigError, f"missing for {rate}", "set the seconds to look back", "window")


def _check_stand_ins(name: str, fallback: FallbackConfig | None, cache: CacheConfig | None, problems: Problems) -> None:
    if cache is not None and cache.ttl is None:
        problems.add(InvalidConfigError, "missing", "set the seconds that an answer is good for", "cache", "ttl")
    for index, header in enumerate(() if cache is None else cache.vary_headers):
        if not is_header(header):
            fix = "write a name such as Accept-Language"
            problems.add(InvalidConfigError, "is not a header's name", fix, "cache", "vary_headers", index)
    if fallback is None:
        return
    given = [bool(fallback.plugin), fallback.value is not UNSET, fallback.function is not None]
    if sum(given) != 1:
        message = "has no answer" if not any(given) else "has more than one answer"
        problems.add(InvalidConfigError, message, "set exactly one of plugin and value", "fallback")
    if fallback.plugin and fallback.plugin == name:
        problems.add(InvalidConfigError, "is the plugin itself", "name another plugin", "fallback", "plugin")
