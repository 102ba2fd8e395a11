"""The whole configuration: defaults for all plugins, the plugins, and what stands beside them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from os import PathLike
from typing import Any

import attrs

from goplugins.config.defaults import merge_or_none, resolve_auth, resolve_breaker, resolve_fallback
from goplugins.config.field_types import LogLevel, Port
from goplugins.config.manager_sections import DiscoveryConfig, LoadBalancerConfig, ObservabilityConfig
from goplugins.config.plugin import PluginConfig, kind_of_plugin
from goplugins.config.plugin_sections import (
    DEFAULT_BULKHEAD,
    DEFAULT_CACHE,
    DEFAULT_CIRCUIT_BREAKER,
    DEFAULT_CONNECTION,
    DEFAULT_HEALTH_CHECK,
    DEFAULT_HEDGE,
    DEFAULT_RATE_LIMIT,
    DEFAULT_RETRY,
    CircuitBreakerConfig,
    ConnectionConfig,
    HealthCheckConfig,
    RateLimitConfig,
    RetryConfig,
)
from goplugins.config.schema import as_tuple, merge, sparse_repr

__all__ = ["ManagerConfig"]


def _plugins(value: Iterable[PluginConfig]) -> tuple[PluginConfig, ...]:
    return as_tuple(value)


def _balancers(value: Iterable[LoadBalancerConfig]) -> tuple[LoadBalancerConfig, ...]:
    return as_tuple(value)


@attrs.frozen(kw_only=True, repr=False)
class ManagerConfig:
    """The configuration of a manager. As it stands, ``ManagerConfig()`` holds the production defaults.

    Attributes:
        log_level: debug, info, warning, error or critical.
        metrics_port: serve metrics on this port; 0 takes a free one. Off when left out.
        default_retry: for every plugin, where its own section says nothing. So are the next four.
        default_circuit_breaker: see ``default_retry``.
        default_health_check: see ``default_retry``.
        default_connection: see ``default_retry``.
        default_rate_limit: see ``default_retry``.
        plugins: the plugins.
        discovery: finding further plugins in directories.
        load_balancers: groups of plugins that are called by one name.
        observability: what is measured, traced and logged.

    >>> config = ManagerConfig.from_mapping({
    ...     "plugins": [{"name": "auth", "transport": "https", "endpoint": "https://auth.example.com/validate",
    ...                  "retry": {"initial_interval": "250ms"}}],
    ... })
    >>> config.with_defaults().plugins[0].retry
    RetryConfig(max_retries=3, initial_interval=0.25, max_interval=5.0, multiplier=2.0, random_jitter=True, \
idempotent=False, budget_ratio=0.2)
    """

    log_level: LogLevel = "info"
    metrics_port: Port | None = None
    default_retry: RetryConfig = DEFAULT_RETRY
    default_circuit_breaker: CircuitBreakerConfig = DEFAULT_CIRCUIT_BREAKER
    default_health_check: HealthCheckConfig = DEFAULT_HEALTH_CHECK
    default_connection: ConnectionConfig = DEFAULT_CONNECTION
    default_rate_limit: RateLimitConfig = DEFAULT_RATE_LIMIT
    plugins: tuple[PluginConfig, ...] = attrs.field(default=(), converter=_plugins)
    discovery: DiscoveryConfig = attrs.field(factory=DiscoveryConfig)
    load_balancers: tuple[LoadBalancerConfig, ...] = attrs.field(default=(), converter=_balancers)
    observability: ObservabilityConfig = attrs.field(factory=ObservabilityConfig)

    __repr__ = sparse_repr

    def with_defaults(self) -> ManagerConfig:
        """The same configuration with nothing left to inherit; doing it twice changes nothing.

        ``default_circuit_breaker.max_recovery_timeout`` alone may stay None: it follows from each plugin's own
        ``recovery_timeout``.
        """
        base = self._with_default_sections()
        observability = self.observability
        if observability.log_level is None:
            observability = attrs.evolve(observability, log_level=self.log_level)
        breaker = resolve_breaker(base.default_circuit_breaker)
        return attrs.evolve(
            base,
            plugins=tuple(base._resolve(plugin, breaker) for plugin in self.plugins),
            load_balancers=tuple(base._resolve_balancer(balancer) for balancer in self.load_balancers),
            observability=observability,
        )

    def resolve(self, plugin: PluginConfig) -> PluginConfig:
        """One plugin with nothing left to inherit: its own fields, else this configuration's, else the production's.

        For a plugin that comes from elsewhere, such as discovery or code.
        """
        base = self._with_default_sections()
        return base._resolve(plugin, resolve_breaker(base.default_circuit_breaker))

    def validate(self, *, registered: Collection[str] | None = None) -> None:
        """Checks the configuration with its defaults filled in, so that what is left out is never a problem.

        Args:
            registered: names of plugins registered in code. When given, members of balanced groups and fallbacks
                must be among those and the configured ones; else such names are not looked up.

        Raises:
            ConfigError: one problem, or an :class:`~goplugins.errors.InvalidConfigError` that holds all of them.
        """
        from goplugins.config.validation import validate_manager

        validate_manager(self, registered)

    def check_files(self) -> None:
        """Checks that the certificate, key and CA files of enabled plugins are there.

        Apart from :meth:`validate`, so that a configuration can be checked on another machine.

        Raises:
            InvalidCertificateError: for one file, or an :class:`~goplugins.errors.InvalidConfigError` for several.
        """
        from goplugins.config.validation import check_manager_files

        check_manager_files(self)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], *, source: str = "configuration") -> ManagerConfig:
        """Reads plain values, as from JSON; ``${VAR}`` stays as it is (``from_file`` and the manager expand it).

        Args:
            mapping: field names to values; durations as seconds or as text such as ``"1m30s"``.
            source: what error messages call it.

        Raises:
            ConfigError: unknown fields and wrong values, all of them, each with its path.
        """
        from goplugins.config.conversion import structure

        return structure(cls, mapping, source=source)

    @classmethod
    def from_json(cls, text: str | bytes, *, source: str = "configuration") -> ManagerConfig:
        """Reads JSON text as :meth:`from_mapping` reads a mapping.

        Raises:
            ConfigError: as :meth:`from_mapping`; a :class:`~goplugins.errors.ConfigSyntaxError` for text that isn't
                JSON or has a key twice.
        """
        from goplugins.config.json_text import parse_json

        return cls.from_mapping(parse_json(text, source), source=source)

    @classmethod
    def from_go_json(cls, text: str | bytes, *, source: str = "configuration") -> ManagerConfig:
        """Reads JSON that the Go library wrote: durations are integer nanoseconds, and every field is there.

        So a section of zeros, and elsewhere a zero number or ``keep_alive: false``, means "left out".

        Raises:
            ConfigError: as :meth:`from_json`.
        """
        from goplugins.config.go_json import structure_go_json

        return structure_go_json(text, source)

    @classmethod
    def from_file(cls, path: str | PathLike[str]) -> ManagerConfig:
        """Reads a .json, .toml, .yaml or .yml file, expands ``${VAR}`` from the environment, and validates.

        Raises:
            ConfigError: all problems found, each with its path.
        """
        from pathlib import Path

        from goplugins.config.loading import load_config

        return load_config(Path(path))

    def to_json(self, *, include_secrets: bool = False) -> str:
        """JSON text that :meth:`from_json` reads; durations as seconds.

        Args:
            include_secrets: without it, credentials are written as ``***``, and the text can't be loaded again.

        Raises:
            InvalidConfigError: something that only code can set (a fallback function, an object among the options).
        """
        from goplugins.config.json_text import dump_json

        return dump_json(self, include_secrets=include_secrets)

    def _with_default_sections(self) -> ManagerConfig:
        return attrs.evolve(
            self,
            default_retry=merge(self.default_retry, DEFAULT_RETRY),
            default_circuit_breaker=merge(self.default_circuit_breaker, DEFAULT_CIRCUIT_BREAKER),
            default_health_check=merge(self.default_health_check, DEFAULT_HEALTH_CHECK),
            default_connection=merge(self.default_connection, DEFAULT_CONNECTION),
            default_rate_limit=merge(self.default_rate_limit, DEFAULT_RATE_LIMIT),
        )

    def _resolve(self, plugin: PluginConfig, breaker: CircuitBreakerConfig) -> PluginConfig:
        if plugin.circuit_breaker is not None:
            breaker = resolve_breaker(merge(plugin.circuit_breaker, self.default_circuit_breaker))
        return attrs.evolve(
            plugin,
            type=kind_of_plugin(plugin.type, plugin.transport),
            enabled=True if plugin.enabled is None else plugin.enabled,
            auth=resolve_auth(plugin.auth),
            retry=merge(plugin.retry, self.default_retry),
            circuit_breaker=breaker,
            health_check=merge(plugin.health_check, self.default_health_check),
            connection=merge(plugin.connection, self.default_connection),
            rate_limit=merge(plugin.rate_limit, self.default_rate_limit),
            bulkhead=merge_or_none(plugin.bulkhead, DEFAULT_BULKHEAD),
            fallback=resolve_fallback(plugin.fallback),
            cache=merge_or_none(plugin.cache, DEFAULT_CACHE),
            hedge=merge_or_none(plugin.hedge, DEFAULT_HEDGE),
        )

    def _resolve_balancer(self, balancer: LoadBalancerConfig) -> LoadBalancerConfig:
        limit = merge(balancer.rate_limit or RateLimitConfig(enabled=False), self.default_rate_limit)
        return attrs.evolve(
            balancer,
            request_timeout=balancer.request_timeout or self.default_connection.request_timeout,
            retry=merge(balancer.retry, self.default_retry),
            rate_limit=limit,
            bulkhead=merge_or_none(balancer.bulkhead, DEFAULT_BULKHEAD),
            fallback=resolve_fallback(balancer.fallback),
            cache=merge_or_none(balancer.cache, DEFAULT_CACHE),
            hedge=merge_or_none(balancer.hedge, DEFAULT_HEDGE),
        )
