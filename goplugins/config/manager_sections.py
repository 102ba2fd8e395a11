"""The sections beside the plugins: discovery, observability, load-balanced groups, and reload options."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from goplugins.config.field_types import (
    NO_SURROGATE,
    Collector,
    Count,
    Factor,
    FilePath,
    LabelName,
    LogLevel,
    MetricsPrefix,
    Name,
    Percent,
    Positive,
    Seconds,
    SecondsOrZero,
    Share,
    Tracing,
    surrogate_fault,
)
from goplugins.config.plugin_sections import (
    BulkheadConfig,
    CacheConfig,
    FallbackConfig,
    HedgeConfig,
    RateLimitConfig,
    RetryConfig,
)
from goplugins.config.policy_validation import check_policies
from goplugins.config.problems import Problems
from goplugins.config.schema import Section, as_member, as_texts, as_tuple
from goplugins.enums import LoadBalancingStrategy, ReloadStrategy
from goplugins.errors import DuplicatePluginNameError, InvalidConfigError, InvalidPluginNameError

GROUP_POLICIES = ("retry", "rate_limit", "bulkhead", "fallback", "cache", "hedge")
"""Policies that a group has instead of its members; breaker, health checks and connections are the members'."""

_NAME = re.compile(r"[^\s\x00-\x1f\x7f]{1,200}")


@attrs.frozen(kw_only=True, repr=False)
class DiscoveryConfig(Section):
    """Finding plugins in directories, and among installed packages.

    Attributes:
        enabled: off unless set.
        directories: the directories to scan; a directory that other users can write to is skipped.
        patterns: file names to accept, such as ``plugin-*``. When empty: all manifests, and no plain programs.
        watch_mode: scan again when a directory changes.
        entry_points: also use the entry points ``goplugins.plugins`` of installed packages.
    """

    enabled: bool = False
    directories: tuple[FilePath, ...] = attrs.field(default=(), converter=as_texts)
    patterns: tuple[FilePath, ...] = attrs.field(default=(), converter=as_texts)
    watch_mode: bool = False
    entry_points: bool = False


@attrs.frozen(kw_only=True, repr=False)
class ObservabilityConfig(Section):
    """Metrics, traces and log lines.

    Attributes:
        metrics_enabled: counts and durations of calls.
        metrics_collector: an object that receives counts of calls, breakers and health; only in code.
        metrics_prefix: prefix of every metric's name.
        metrics_address: address that ``metrics_port`` listens at; all addresses if empty.
        metric_labels: labels of plugins that become labels of metrics.
        tracing_enabled: spans for calls.
        tracing_provider: creates the spans; only in code. OpenTelemetry when left out.
        tracing_sample_rate: share of calls that get a span, 0 to 1.
        logging_enabled: log lines for calls.
        log_level: level of the lines of calls; that of the logger ``goplugins`` when left out.
        structured_logging: log records have fields such as the plugin's name and the duration.
        health_metrics: metrics of health checks.
        performance_metrics: latencies.
        error_metrics: counts by kind of error.
    """

    metrics_enabled: bool = True
    metrics_collector: Collector | None = None
    metrics_prefix: MetricsPrefix = "goplugins"
    metrics_address: str = ""
    metric_labels: tuple[LabelName, ...] = attrs.field(default=(), converter=as_texts)
    tracing_enabled: bool = False
    tracing_provider: Tracing | None = None
    tracing_sample_rate: Share = 0.1
    logging_enabled: bool = True
    log_level: LogLevel | None = None
    structured_logging: bool = True
    health_metrics: bool = True
    performance_metrics: bool = True
    error_metrics: bool = True


@attrs.frozen(kw_only=True, repr=False)
class LoadBalancerMember(Section):
    """One plugin of a load-balanced group. In files the name alone is enough.

    Attributes:
        name: the plugin's name.
        weight: its share of the calls, relative to the other members' weights.
        priority: members with a larger number are preferred by strategy priority; 0 for the plugin's own ``priority``.
        enabled: whether it takes calls from the start.
    """

    _short_form = "name"  # for conversion: the field that a plain string sets

    name: Name = ""
    weight: Positive = 1
    priority: int = 0
    enabled: bool = True


def _balancing(value: LoadBalancingStrategy | str | int) -> LoadBalancingStrategy:
    return as_member(LoadBalancingStrategy, value) or LoadBalancingStrategy.ROUND_ROBIN


def _members(value: Iterable[LoadBalancerMember]) -> tuple[LoadBalancerMember, ...]:
    return as_tuple(value)


@attrs.frozen(kw_only=True, repr=False)
class LoadBalancerConfig(Section):
    """A load-balanced group of plugins. Only the group retries; its members make single attempts.

    Attributes:
        name: the name that calls use.
        strategy: how the member for a call is picked.
        members: the plugins, by name.
        max_ejection_percent: percentage of the members that may be ejected at once; one always may.
        ejection_failures: consecutive failures after which a member is ejected.
        ejection_time: seconds of a member's first ejection; each further one in a row is longer.
        max_ejection_time: the longest ejection, in seconds.
        panic_threshold: percentage of eligible members below which ejections and health are ignored.
        slow_start: seconds in which the share of a returning member grows to its full size; 0 for at once.
        hash_load_factor: consistent-hash gives no member more than this many times the mean load...
        hash_min_load: ...but accepts at least so many concurrent calls on each.
        request_timeout: seconds for a whole call; ``default_connection``'s when left out.
        retry: over ``default_retry``.
        rate_limit: of the group as a whole; none when left out.
        bulkhead: limit of the group's concurrent calls; none when left out.
        fallback: the answer when no member can give one; none when left out.
        cache: caching of answers; none when left out.
        hedge: a second attempt on another member, for calls that take long; none when left out.
    """

    name: Name = ""
    strategy: LoadBalancingStrategy = attrs.field(default=LoadBalancingStrategy.ROUND_ROBIN, converter=_balancing)
    members: tuple[LoadBalancerMember, ...] = attrs.field(default=(), converter=_members)
    max_ejection_percent: Percent = 50
    ejection_failures: Positive = 5
    ejection_time: Seconds = 30.0
    max_ejection_time: Seconds = 300.0
    panic_threshold: Percent = 50
    slow_start: SecondsOrZero = 10.0
    hash_load_factor: Factor = 1.25
    hash_min_load: Count = 4
    request_timeout: Seconds | None = None
    retry: RetryConfig | None = None
    rate_limit: RateLimitConfig | None = None
    bulkhead: BulkheadConfig | None = None
    fallback: FallbackConfig | None = None
    cache: CacheConfig | None = None
    hedge: HedgeConfig | None = None


def _reloading(value: ReloadStrategy | str | int) -> ReloadStrategy:
    return as_member(ReloadStrategy, value) or ReloadStrategy.GRACEFUL


@attrs.frozen(kw_only=True, repr=False)
class ReloadOptions(Section):
    """How a new configuration replaces the running one.

    Attributes:
        strategy: graceful, recreate or rolling.
        drain_timeout: seconds that calls in flight on a replaced plugin may take to end.
        graceful_timeout: seconds for the whole reload.
        max_concurrent_reloads: plugins that a rolling reload replaces at a time.
        health_check_timeout: seconds in which a new plugin must become reachable.
        rollback_on_failure: restore the plugins that were replaced before one that can't be.
    """

    strategy: ReloadStrategy = attrs.field(default=ReloadStrategy.GRACEFUL, converter=_reloading)
    drain_timeout: SecondsOrZero = 30.0
    graceful_timeout: Seconds = 60.0
    max_concurrent_reloads: Positive = 3
    health_check_timeout: Seconds = 10.0
    rollback_on_failure: bool = True

    def validate(self) -> None:
        """Checks types and ranges.

        Raises:
            ConfigError: one problem, or an :class:`~goplugins.errors.InvalidConfigError` that holds all of them.
        """
        from goplugins.config.conversion import check_types

        check_types(self, source="reload options")

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], *, source: str = "reload options") -> ReloadOptions:
        """Reads plain values, as from JSON.

        Raises:
            ConfigError: unknown fields and wrong values, all of them, each with its path.
        """
        from goplugins.config.conversion import structure

        return structure(cls, mapping, source=source)


# --- checks --------------------------------------------------------------------------------------------------------


def check_name(name: str, problems: Problems) -> None:
    """Adds what is wrong with the name of a plugin, group or member; ``problems`` are those of the named."""
    if not name:
        problems.add(InvalidPluginNameError, "missing", "write the name that calls will use", "name")
    elif not _NAME.fullmatch(name):
        message = f"{name[:60]!r} contains a space or a control character, or has more than 200 characters"
        problems.add(InvalidPluginNameError, message, "use letters, digits, dots, dashes and underscores", "name")
    elif fault := surrogate_fault(name):
        problems.add(InvalidPluginNameError, f"{name[:60]!r} {fault}", NO_SURROGATE, "name")


def check_balancer(raw: LoadBalancerConfig, resolved: LoadBalancerConfig, problems: Problems) -> None:
    """Adds what is wrong with a group whose every field has the right type.

    Args:
        raw: the configuration as it was written.
        resolved: the same with its defaults.
        problems: of the group.
    """
    check_name(raw.name, problems)
    check_policies(raw, resolved, problems)
    if not raw.members:
        problems.add(InvalidConfigError, "missing", "name the plugins of the group", "members")
    seen: set[str] = set()
    for index, member in enumerate(raw.members):
        where = problems.below("members", index)
        check_name(member.name, where)
        if member.name in seen:
            fix = "remove it; weight gives a member a larger share"
            where.add(DuplicatePluginNameError, f"{member.name!r} is listed twice", fix, "name")
        if member.name and member.name == raw.name:
            where.add(InvalidConfigError, "is the group itself", "name a plugin", "name")
        seen.add(member.name)
