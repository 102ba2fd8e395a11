"""One plugin's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from goplugins.config.chaos import ChaosConfig
from goplugins.config.credentials import AuthConfig
from goplugins.config.field_types import Address, Addresses, Environment, Options
from goplugins.config.manager_sections import LoadBalancerConfig
from goplugins.config.plugin_sections import (
    BulkheadConfig,
    CacheConfig,
    CircuitBreakerConfig,
    ConnectionConfig,
    FallbackConfig,
    HealthCheckConfig,
    HedgeConfig,
    RateLimitConfig,
    RetryConfig,
)
from goplugins.config.schema import as_member, as_table, as_text_table, as_texts, sparse_repr
from goplugins.enums import TransportType

if TYPE_CHECKING:
    from goplugins.config.manager import ManagerConfig

__all__ = ["BUILT_IN_KINDS", "PluginConfig"]

BUILT_IN_KINDS: Mapping[TransportType, str] = {
    TransportType.HTTP: "http",
    TransportType.HTTPS: "http",
    TransportType.GRPC: "grpc",
    TransportType.GRPC_TLS: "grpc",
    TransportType.UNIX: "unix",
    TransportType.EXECUTABLE: "exec",
    TransportType.PYTHON: "python",
}
"""The factory that builds the plugins of each transport, where ``type`` says nothing."""


def _transport(value: TransportType | str | int | None) -> TransportType | None:
    return as_member(TransportType, value)


@attrs.frozen(kw_only=True, repr=False)
class PluginConfig:
    """How one plugin is reached and how calls to it behave. A section left out is inherited whole.

    Attributes:
        name: what the plugin is called by.
        type: the factory that builds it; the built-in one of ``transport`` when left out.
        transport: how it is reached.
        endpoint: where it is: a URL on http and https; ``host:port``, ``dns:///...`` or ``unix:...`` on grpc; the
            socket's path (``@name``: abstract) on unix; ``package.module:callable`` or an entry point's name on python.
        endpoints: instead of ``endpoint``, where several instances do the same: calls are shared out among them.
        balancing: how, with ``endpoints`` or ``options.resolve``; name and members follow from the plugin.
        priority: the larger number is preferred, where something chooses.
        enabled: true when left out.
        executable: the program of an exec plugin.
        args: its arguments.
        env: its further environment, as ``NAME=value``.
        work_dir: the directory that it starts in.
        auth: how calls prove who they come from.
        retry: over the manager's ``default_retry``.
        circuit_breaker: over ``default_circuit_breaker``.
        health_check: over ``default_health_check``.
        connection: over ``default_connection``.
        rate_limit: over ``default_rate_limit``.
        bulkhead: how many calls may be under way at once; no limit when left out.
        fallback: what answers when the plugin could not; nothing when left out.
        cache: answers kept; none when left out.
        hedge: a second attempt for idempotent calls that take long; none when left out.
        chaos: faults injected on purpose; none when left out.
        options: further settings of the transport; those of the built-in ones are checked.
        labels: for people and metrics.
        annotations: for people.
    """

    name: str = ""
    type: str | None = None
    transport: TransportType | None = attrs.field(default=None, converter=_transport)
    endpoint: Address = ""
    endpoints: Addresses = attrs.field(default=(), converter=as_texts)
    balancing: LoadBalancerConfig | None = None
    priority: int = 0
    enabled: bool | None = None
    executable: str = ""
    args: tuple[str, ...] = attrs.field(default=(), converter=as_texts)
    env: Environment = attrs.field(default=(), converter=as_texts)
    work_dir: str = ""
    auth: AuthConfig | None = None
    retry: RetryConfig | None = None
    circuit_breaker: CircuitBreakerConfig | None = None
    health_check: HealthCheckConfig | None = None
    connection: ConnectionConfig | None = None
    rate_limit: RateLimitConfig | None = None
    bulkhead: BulkheadConfig | None = None
    fallback: FallbackConfig | None = None
    cache: CacheConfig | None = None
    hedge: HedgeConfig | None = None
    chaos: ChaosConfig | None = None
    options: Options = attrs.field(factory=dict, converter=as_table)
    labels: Mapping[str, str] = attrs.field(factory=dict, converter=as_text_table)
    annotations: Mapping[str, str] = attrs.field(factory=dict, converter=as_text_table)

    __repr__ = sparse_repr

    def validate(self) -> None:
        """Checks this plugin, with the production defaults where it says nothing.

        Raises:
            ConfigError: one problem, or an :class:`~goplugins.errors.InvalidConfigError` that holds all of them.
        """
        from goplugins.config.validation import validate_plugin

        validate_plugin(self)

    def validate_policies(self, name: str | None = None, *, defaults: ManagerConfig | None = None) -> None:
        """Checks what applies to a plugin registered in code: all but transport, type, endpoint and options.

        Args:
            name: what the plugin will be called by; the configuration's own when None.
            defaults: the manager's configuration, from which fields are inherited; the production defaults when None.

        Raises:
            ConfigError: as :meth:`validate`; also for ``enabled: false``, which would do nothing there.
        """
        from goplugins.config.validation import validate_policies

        validate_policies(self, name, defaults)

    def check_files(self) -> None:
        """Checks that certificate, key and CA files are there: on the machine that will make the calls.

        Raises:
            InvalidCertificateError: for one file, or an :class:`~goplugins.errors.InvalidConfigError` for several.
        """
        from goplugins.config.validation import check_plugin_files

        check_plugin_files(self)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], *, source: str = "configuration") -> PluginConfig:
        """Reads plain values, as from JSON; ``${VAR}`` stays as it is.

        Raises:
            ConfigError: unknown fields and wrong values, all of them, each with its path.
        """
        from goplugins.config.conversion import structure

        return structure(cls, mapping, source=source)


def kind_of_plugin(type_name: str | None, transport: TransportType | None) -> str | None:
    """The factory's name: ``type``, else the built-in one of the transport."""
    return type_name or (BUILT_IN_KINDS.get(transport) if transport is not None else None)
