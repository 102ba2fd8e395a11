"""The sections that stand beside the plugins: discovery, observability, balanced groups, and how to reload."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from goplugins.config.field_types import (
    Collector,
    Count,
    Factor,
    LabelName,
    LogLevel,
    MetricsPrefix,
    Percent,
    Positive,
    Seconds,
    SecondsOrZero,
    Share,
    Tracing,
)
from goplugins.config.plugin_sections import (
    BulkheadConfig,
    CacheConfig,
    FallbackConfig,
    HedgeConfig,
    RateLimitConfig,
    RetryConfig,
)
from goplugins.config.schema import as_member, as_texts, as_tuple, sparse_repr
from goplugins.enums import LoadBalancingStrategy, ReloadStrategy

__all__ = ["DiscoveryConfig", "LoadBalancerConfig", "LoadBalancerMember", "ObservabilityConfig", "ReloadOptions"]


@attrs.frozen(kw_only=True, repr=False)
class DiscoveryConfig:
    """Finding plugins in directories, and among installed packages.

    Attributes:
        enabled: off unless set.
        directories: where to look; only directories that others can't write are read.
        patterns: file names to take, such as ``plugin-*``. When empty: all manifests, and no plain programs.
        watch_mode: keep looking.
        entry_points: also take what installed packages offer under ``goplugins.plugins``.
    """

    enabled: bool = False
    directories: tuple[str, ...] = attrs.field(default=(), converter=as_texts)
    patterns: tuple[str, ...] = attrs.field(default=(), converter=as_texts)
    watch_mode: bool = False
    entry_points: bool = False

    __repr__ = sparse_repr


@attrs.frozen(kw_only=True, repr=False)
class ObservabilityConfig:
    """What is measured, traced and logged.

    Attributes:
        metrics_enabled: counts and times of calls.
        metrics_collector: an object that is told of calls, breakers and health; only in code.
        metrics_prefix: beginning of every metric's name.
        metrics_address: where ``metrics_port`` listens; on all addresses if empty.
        metric_labels: labels of plugins that become labels of metrics.
        tracing_enabled: spans for calls.
        tracing_provider: who makes them; only in code. OpenTelemetry's when left out.
        tracing_sample_rate: share of calls that get a span, 0 to 1.
        logging_enabled: log lines for calls.
        log_level: the manager's ``log_level`` when left out.
        structured_logging: log lines carry their facts as fields.
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

    __repr__ = sparse_repr


@attrs.frozen(kw_only=True, repr=False)
class LoadBalancerMember:
    """One plugin of a balanced group. In files its bare name will do.

    Attributes:
        name: the plugin's name.
        weight: its share of the calls, relative to the other members' weights.
        priority: the larger number is preferred, where the strategy goes by it.
        enabled: whether it takes calls from the start.
    """

    name: str = ""
    weight: Positive = 1
    priority: int = 0
    enabled: bool = True

    __repr__ = sparse_repr


def _balancing(value: LoadBalancingStrategy | str | int) -> LoadBalancingStrategy:
    return as_member(LoadBalancingStrategy, value) or LoadBalancingStrategy.ROUND_ROBIN


def _members(value: Iterable[LoadBalancerMember]) -> tuple[LoadBalancerMember, ...]:
    return as_tuple(value)


@attrs.frozen(kw_only=True, repr=False)
class LoadBalancerConfig:
    """A group of plugins that is called by one name. Only the group retries; its members make single attempts.

    Attributes:
        name: what the group is called by.
        strategy: how the member for a call is picked.
        members: the plugins, by name.
        max_ejection_percent: percentage of the members that may be ejected at once; one always may.
        ejection_failures: failures in a row that eject a member.
        ejection_time: seconds of a member's first ejection; each further one in a row is longer.
        max_ejection_time: the longest ejection, in seconds.
        panic_threshold: percentage of eligible members below which ejection and health no longer count.
        slow_start: seconds in which a returning member works up to its full share; 0 for at once.
        hash_load_factor: consistent-hash gives no member more than this many times the mean load...
        hash_min_load: ...but at least so many calls at once.
        request_timeout: seconds for a whole call; ``default_connection``'s when left out.
        retry: over ``default_retry``.
        rate_limit: of the group as a whole; none when left out.
        bulkhead: how many calls the group takes at once; as many as come when left out.
        fallback: what answers when no member could.
        cache: answers kept; none when left out.
        hedge: a second attempt, on another member, for calls that are late; none when left out.
    """

    name: str = ""
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

    __repr__ = sparse_repr


def _reloading(value: ReloadStrategy | str | int) -> ReloadStrategy:
    return as_member(ReloadStrategy, value) or ReloadStrategy.GRACEFUL


@attrs.frozen(kw_only=True, repr=False)
class ReloadOptions:
    """How a new configuration takes the place of the running one.

    Attributes:
        strategy: graceful, recreate or rolling.
        drain_timeout: seconds that calls in flight on a replaced plugin may take to end.
        graceful_timeout: seconds for the whole reload.
        max_concurrent_reloads: plugins replaced at a time by a rolling reload.
        health_check_timeout: seconds in which a new plugin must be reachable.
        rollback_on_failure: go back to the plugins replaced before when one can't be.
    """

    strategy: ReloadStrategy = attrs.field(default=ReloadStrategy.GRACEFUL, converter=_reloading)
    drain_timeout: SecondsOrZero = 30.0
    graceful_timeout: Seconds = 60.0
    max_concurrent_reloads: Positive = 3
    health_check_timeout: Seconds = 10.0
    rollback_on_failure: bool = True

    __repr__ = sparse_repr

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
