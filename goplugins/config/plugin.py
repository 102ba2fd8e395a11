"""One plugin's configuration, and what is wrong with it."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from types import NoneType
from typing import Any, Protocol

import attrs

from goplugins.config.chaos import ChaosConfig, check_chaos
from goplugins.config.credentials import AuthConfig, check_auth, check_auth_files
from goplugins.config.defaults import INHERITED, merge_sections, resolve_auth, resolve_breaker
from goplugins.config.endpoints import Endpoint, check_endpoint, check_health_endpoint
from goplugins.config.field_types import Address, Addresses, Environment, FilePath, Name, Options
from goplugins.config.manager_sections import GROUP_POLICIES, LoadBalancerConfig, check_name
from goplugins.config.operations import OperationConfig, check_operations, is_rest, resolve_operations
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
from goplugins.config.policy_validation import NOT_HEDGED, check_breaker, check_policies
from goplugins.config.problems import Problems, raise_for
from goplugins.config.schema import Section, as_member, as_table, as_text_table, as_texts
from goplugins.config.transport_options import BUILT_IN_KINDS, OPTIONS, check_options, kind_of_plugin, read_options
from goplugins.enums import AuthMethod, TransportType
from goplugins.errors import (
    ConfigError,
    InvalidConfigError,
    InvalidTransportError,
    MissingExecutableError,
    UnsupportedTransportError,
)

_HTTP = frozenset({TransportType.HTTP, TransportType.HTTPS})
_GRPC = frozenset({TransportType.GRPC, TransportType.GRPC_TLS})
_DNS_KINDS = frozenset({"http", "grpc"})

_PROCESS_FIELDS = ("executable", "args", "env", "work_dir")
_NO_AUTH = (None, AuthConfig(), AuthConfig(method=AuthMethod.NONE))

_NOT_POLICIES = frozenset({"type", "transport", "endpoint", "options"})
"""Fields that mean nothing for a plugin registered in code."""

_SET_ON_PLUGIN = ("name", "members", "request_timeout", *GROUP_POLICIES)
"""Fields that ``balancing`` must leave out: the group has those of the plugin."""


class PluginResolver(Protocol):
    """A configuration that plugins inherit from: a :class:`~goplugins.ManagerConfig`, which is defined above this."""

    def resolve(self, plugin: PluginConfig) -> PluginConfig:
        """The plugin with nothing left to inherit."""
        ...


def as_operations(value: Mapping[str, OperationConfig]) -> Mapping[str, OperationConfig]:
    """A copy of a mapping; any other object stays, for ``validate`` to report."""
    return as_table(value)


def _transport(value: TransportType | str | int | None) -> TransportType | None:
    return as_member(TransportType, value)


@attrs.frozen(kw_only=True, repr=False)
class PluginConfig(Section):
    """How one plugin is reached, and the policies of its calls. A section that is left out is inherited.

    Attributes:
        name: the name that calls use.
        type: the factory that builds the plugin; the built-in one of ``transport`` when left out.
        transport: how the plugin is reached.
        endpoint: its address: a URL on http and https; ``host:port``, ``dns:///...`` or ``unix:...`` on grpc; the
            socket's path (``@name``: abstract) on unix; ``package.module:callable`` or an entry point's name on python.
        endpoints: addresses of several instances, instead of ``endpoint``: calls are distributed among them.
        balancing: how calls are distributed, with ``endpoints`` or ``options.resolve``; name and members follow from
            the plugin.
        priority: as a member of groups with strategy priority, which prefer larger numbers; a group's ``members`` may
            say otherwise.
        enabled: true when left out.
        executable: the program of an exec plugin.
        args: its arguments.
        env: environment variables added for it, as ``NAME=value``.
        work_dir: the directory in which it is started.
        auth: how calls are authenticated.
        retry: over the manager's ``default_retry``.
        circuit_breaker: over ``default_circuit_breaker``.
        health_check: over ``default_health_check``.
        connection: over ``default_connection``.
        rate_limit: over ``default_rate_limit``.
        bulkhead: limit of concurrent calls; none when left out.
        fallback: the answer when the plugin can't give one; none when left out.
        cache: caching of answers; none when left out.
        hedge: a second attempt for idempotent calls that take long; none when left out.
        chaos: faults injected on purpose; none when left out.
        operations: what there is to call, by name. Where it is given, no other operation can be called.
        options: further settings of the transport; those of built-in transports are checked.
        labels: free texts, which can become labels of metrics.
        annotations: free texts.
    """

    name: Name = ""
    type: str | None = None
    transport: TransportType | None = attrs.field(default=None, converter=_transport)
    endpoint: Address = ""
    endpoints: Addresses = attrs.field(default=(), converter=as_texts)
    balancing: LoadBalancerConfig | None = None
    priority: int = 0
    enabled: bool | None = None
    executable: FilePath = ""
    args: tuple[FilePath, ...] = attrs.field(default=(), converter=as_texts)
    env: Environment = attrs.field(default=(), converter=as_texts)
    work_dir: FilePath = ""
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
    operations: Mapping[str, OperationConfig] = attrs.field(factory=dict, converter=as_operations)
    options: Options = attrs.field(factory=dict, converter=as_table)
    labels: Mapping[str, str] = attrs.field(factory=dict, converter=as_text_table)
    annotations: Mapping[str, str] = attrs.field(factory=dict, converter=as_text_table)

    _read_fields = staticmethod(read_options)  # for conversion: options are read by the rules of the transport

    def validate(self) -> None:
        """Checks this plugin, with the production defaults where it says nothing.

        Raises:
            ConfigError: one problem, or an :class:`~goplugins.errors.InvalidConfigError` that holds all of them.
        """
        from goplugins.config.conversion import type_problems

        problems = Problems(found=type_problems(self))
        if not problems.found:
            check_plugin(self, resolve_plugin(self, INHERITED), problems)
        raise_for(problems.found, f"plugin {self.name!r}")

    def validate_policies(self, name: str | None = None, *, defaults: PluginResolver | None = None) -> None:
        """Checks what applies to a plugin registered in code: all but transport, type, endpoint and options.

        Args:
            name: the name under which the plugin will be called; the configuration's own when None.
            defaults: the manager's configuration, from which fields are inherited; the production defaults when None.

        Raises:
            ConfigError: as :meth:`validate`; also for ``enabled: false``, which has no effect there.
        """
        from goplugins.config.conversion import type_problems

        problems = Problems(found=[problem for problem in type_problems(self) if problem[0][0] not in _NOT_POLICIES])
        if not problems.found:
            named = self if name is None else attrs.evolve(self, name=name)
            resolved = resolve_plugin(named, INHERITED) if defaults is None else defaults.resolve(named)
            _check_registered(named, resolved, problems)
        raise_for(problems.found, f"plugin {self.name if name is None else name!r}")

    def check_files(self) -> None:
        """Checks that certificate, key, CA and token files exist: on the machine that will make the calls.

        Raises:
            InvalidCertificateError: for one file, or an :class:`~goplugins.errors.InvalidConfigError` for several.
        """
        problems = Problems()
        if self.auth is not None:
            check_auth_files(self.auth, problems.below("auth"))
        raise_for(problems.found, f"plugin {self.name!r}")

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], *, source: str = "configuration") -> PluginConfig:
        """Reads plain values, as from JSON; ``${VAR}`` stays as it is.

        Raises:
            ConfigError: unknown fields and wrong types, all of them, each with its path.
        """
        from goplugins.config.conversion import structure

        return structure(cls, mapping, source=source)


def is_dns_group(plugin: PluginConfig) -> bool:
    """Whether the plugin becomes a group of its host's addresses (``options.resolve``).

    >>> is_dns_group(PluginConfig(transport="grpc", endpoint="search:50051", options={"resolve": True}))
    True
    """
    return plugin.options.get("resolve") is True and kind_of_plugin(plugin.type, plugin.transport) in _DNS_KINDS


def resolve_plugin(plugin: PluginConfig, defaults: Mapping[str, Any]) -> PluginConfig:
    """The plugin with nothing left to inherit; ``defaults`` have no field left out, ``max_recovery_timeout`` apart."""
    sections = merge_sections(plugin, defaults)
    sections["circuit_breaker"] = resolve_breaker(sections["circuit_breaker"])
    if plugin.operations:
        sections["operations"] = resolve_operations(plugin)
    health = sections["health_check"]
    if is_rest(plugin) and not health.endpoint and health.kind in {None, "auto"}:
        sections["health_check"] = attrs.evolve(health, kind="none")  # nothing is known of other paths of the service
    return attrs.evolve(
        plugin,
        type=kind_of_plugin(plugin.type, plugin.transport),
        enabled=True if plugin.enabled is None else plugin.enabled,
        auth=resolve_auth(plugin.auth),
        **sections,
    )


# --- checks --------------------------------------------------------------------------------------------------------


def check_plugin(raw: PluginConfig, resolved: PluginConfig, problems: Problems) -> None:
    """Adds what is wrong with a plugin whose every field has the right type.

    Args:
        raw: the configuration as it was written.
        resolved: the same with its defaults.
        problems: of the plugin.
    """
    check_name(raw.name, problems)
    transport = raw.transport
    if transport is None:
        fix = f"write one of {', '.join(BUILT_IN_KINDS)}"
        problems.add(InvalidTransportError, "missing", fix, "transport")
    else:
        _check_transport(raw, resolved, transport, problems)
        _check_endpoints(raw, transport, problems)
    if raw.auth is not None:
        check_auth(raw.auth, problems.below("auth"), transport)
    _check_all_policies(raw, resolved, problems)


def _check_registered(raw: PluginConfig, resolved: PluginConfig, problems: Problems) -> None:
    """As :func:`check_plugin`, for a plugin registered in code."""
    check_name(raw.name, problems)
    if raw.enabled is False:
        fix = "remove it, and register the plugin only where it is used"
        problems.add(InvalidConfigError, "a plugin registered in code is always enabled", fix, "enabled")
    if raw.hedge is not None and raw.hedge.enabled and raw.transport is None:
        message = "a call of an object with an unknown transport can't be cancelled, so it can't be hedged"
        problems.add(InvalidConfigError, message, "set transport, or leave the section out", "hedge", "enabled")
    _check_all_policies(raw, resolved, problems)


def _check_all_policies(raw: PluginConfig, resolved: PluginConfig, problems: Problems) -> None:
    check_policies(raw, resolved, problems, raw.transport)
    if raw.circuit_breaker is not None and resolved.circuit_breaker is not None:
        check_breaker(resolved.circuit_breaker, problems.below("circuit_breaker"))
    if raw.chaos is not None:
        check_chaos(raw.chaos, problems.below("chaos"))


def _check_transport(
    plugin: PluginConfig, resolved: PluginConfig, transport: TransportType, problems: Problems
) -> None:
    kind = kind_of_plugin(plugin.type, transport)
    if kind in OPTIONS:
        _check_unused_fields(plugin, transport, problems)
        if kind != BUILT_IN_KINDS[transport]:
            message = f"the built-in factory {kind!r} has no transport {transport}"
            fix = f"leave type out, or write {BUILT_IN_KINDS[transport]!r}"
            problems.add(UnsupportedTransportError, message, fix, "type")
    check_options(kind, plugin.options, problems.below("options"))
    _check_resolve(plugin, problems)
    if kind in OPTIONS:
        check_operations(plugin, problems)
    if transport is TransportType.EXECUTABLE:
        _check_executable(plugin, problems)
    if resolved.health_check is not None and resolved.health_check.endpoint:
        check_health_endpoint(transport, resolved.health_check.endpoint, problems.below("health_check", "endpoint"))
    _check_health_kind(plugin, transport, problems)


def _check_health_kind(plugin: PluginConfig, transport: TransportType, problems: Problems) -> None:
    """Adds a kind of health check that the transport does not have, and one that needs no endpoint."""
    if plugin.health_check is None:
        return
    kind, endpoint = plugin.health_check.kind, plugin.health_check.endpoint
    if kind == "connect" and transport is TransportType.PYTHON:
        problems.add(
            InvalidConfigError, "a call within this process has no connection", "remove it", "health_check", "kind"
        )
    if kind == "message" and is_rest(plugin):
        message, fix = "is goplugins' own health request", "write endpoint: the path of the service's health endpoint"
        problems.add(InvalidConfigError, message, fix, "health_check", "kind")
    if kind == "message" and plugin.options.get("method"):
        message, fix = "is for PluginService, which options.method replaces", "remove it"
        problems.add(InvalidConfigError, message, fix, "health_check", "kind")
    if endpoint and (kind in {"connect", "none"} or (kind == "message" and transport in _GRPC)):
        message, fix = f"is not used by health_check.kind: {kind}", "remove one of them"
        problems.add(InvalidConfigError, message, fix, "health_check", "endpoint")


def _check_unused_fields(plugin: PluginConfig, transport: TransportType, problems: Problems) -> None:
    """Adds fields that a built-in transport has no use for; a custom factory may use them."""

    def unused(fix: str, *path: str | int) -> None:
        problems.add(InvalidConfigError, f"is not used by transport {transport}", fix, *path)

    if transport is TransportType.EXECUTABLE:
        if plugin.endpoint:
            unused("remove it: executable is the program to run", "endpoint")
    else:
        for name in _PROCESS_FIELDS:
            if getattr(plugin, name):
                fix = "remove it, or write transport: exec" if name == "executable" else "remove it: only exec uses it"
                unused(fix, name)
    if plugin.health_check is not None and plugin.health_check.endpoint and transport not in _HTTP | _GRPC:
        unused("remove it: health checks use the plugin's own address", "health_check", "endpoint")
    for index, status in enumerate((plugin.retry and plugin.retry.statuses) or ()):
        if not isinstance(status, int if transport in _HTTP else str if transport in _GRPC else NoneType):
            unused("remove it: the status is not one of this transport's", "retry", "statuses", index)
    if transport is TransportType.PYTHON and plugin.auth not in _NO_AUTH:
        unused("remove it: a call within this process has no credentials", "auth")


def _check_endpoints(plugin: PluginConfig, transport: TransportType, problems: Problems) -> None:
    if not plugin.endpoints:
        check_endpoint(transport, plugin.endpoint, problems.below("endpoint"))
        if is_dns_group(plugin):
            _check_balancing(plugin.balancing, problems)
        elif plugin.balancing is not None:
            problems.add(InvalidConfigError, "has no effect without endpoints", "write endpoints", "balancing")
        return
    if plugin.endpoint:
        problems.add(InvalidConfigError, "is set, and so is endpoints", "move it into endpoints", "endpoint")
    if transport in NOT_HEDGED:
        fix = "write one plugin for each, and a group under load_balancers"
        problems.add(InvalidConfigError, f"is not used by transport {transport}", fix, "endpoints")
        return
    for index, endpoint in enumerate(plugin.endpoints):
        where = problems.below("endpoints", index)
        check_endpoint(transport, endpoint, where)
        if endpoint in plugin.endpoints[:index]:
            where.add(InvalidConfigError, "is listed twice", "remove it")
    _check_balancing(plugin.balancing, problems)


def _check_balancing(balancing: LoadBalancerConfig | None, problems: Problems) -> None:
    for name in _SET_ON_PLUGIN:
        if balancing is not None and getattr(balancing, name):
            problems.add(InvalidConfigError, "is a setting of the plugin", "move it there", "balancing", name)


def _check_resolve(plugin: PluginConfig, problems: Problems) -> None:
    if kind_of_plugin(plugin.type, plugin.transport) not in _DNS_KINDS:
        return
    if is_dns_group(plugin):
        fault, fix = _resolve_fault(plugin)
        if fault:
            problems.add(InvalidConfigError, fault, fix, "options", "resolve")
    elif "resolve_interval" in plugin.options:
        fix = "write resolve: true beside it, or remove it"
        problems.add(InvalidConfigError, "has no effect without resolve", fix, "options", "resolve_interval")


def _resolve_fault(plugin: PluginConfig) -> tuple[str, str]:
    """Why the host can't be looked up, and the fix; nothing for an invalid endpoint, which is its own problem."""
    if plugin.endpoints:
        return "is for one endpoint, not for several", "write one endpoint, or leave resolve out"
    try:
        found = Endpoint.parse(plugin.transport or TransportType.HTTP, plugin.endpoint).host_to_look_up
    except ConfigError:
        return "", ""
    if found is None:
        return "needs an endpoint of the form host:port", "write host:port without a scheme, or leave resolve out"
    try:
        ipaddress.ip_address(found[0])
    except ValueError:
        return "", ""
    return "needs a host name, and the endpoint is an IP address", "write a name, or leave resolve out"


def _check_executable(plugin: PluginConfig, problems: Problems) -> None:
    if not plugin.executable:
        problems.add(MissingExecutableError, "missing", "write the path of the program to run", "executable")
    for index, item in enumerate(plugin.env):
        name, equals, _ = item.partition("=")
        if not name or not equals or "\x00" in item:
            problems.add(InvalidConfigError, "is not of the form NAME=value", "write NAME=value", "env", index)
    for index, item in enumerate(plugin.args):
        if "\x00" in item:
            problems.add(InvalidConfigError, "contains a NUL character", "remove it", "args", index)
