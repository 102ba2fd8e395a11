"""Whether a configuration that reads well also makes sense: what no single field can tell."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping

import attrs

from goplugins.config.conversion import type_problems
from goplugins.config.credentials import check_auth, check_auth_files
from goplugins.config.dns_options import check_resolve_options, is_dns_group
from goplugins.config.endpoints import check_endpoint, check_health_endpoint
from goplugins.config.field_types import near_name
from goplugins.config.manager import ManagerConfig
from goplugins.config.manager_sections import LoadBalancerConfig
from goplugins.config.plugin import BUILT_IN_KINDS, PluginConfig
from goplugins.config.policy_checks import NOT_HEDGED, check_breaker, check_group_policies, check_policies, check_retry
from goplugins.config.problems import Problem, Problems, raise_for
from goplugins.config.transport_fields import check_belonging
from goplugins.config.transport_options import check_options
from goplugins.enums import TransportType
from goplugins.errors import (
    DuplicatePluginNameError,
    InvalidConfigError,
    InvalidPluginNameError,
    InvalidTransportError,
    MissingExecutableError,
    NoPluginsConfiguredError,
    UnsupportedTransportError,
)

__all__ = [
    "check_manager_files",
    "check_plugin_files",
    "file_problems",
    "semantic_problems",
    "validate_manager",
    "validate_plugin",
    "validate_policies",
]

_LOCAL = NOT_HEDGED
_NAME = re.compile(r"[^\s\x00-\x1f\x7f]{1,200}")


def validate_manager(config: ManagerConfig, registered: Collection[str] | None) -> None:
    """Raises for all that is wrong with the configuration."""
    if config.discovery.enabled:
        registered = None  # which plugins there will be is known once they have been looked for
    raise_for(type_problems(config) or semantic_problems(config, config.with_defaults(), registered), "configuration")


def validate_plugin(plugin: PluginConfig) -> None:
    """Raises for all that is wrong with the plugin."""
    problems = Problems(found=type_problems(plugin))
    if not problems.found:
        _check_plugin(plugin, ManagerConfig().resolve(plugin), problems)
    raise_for(problems.found, f"plugin {plugin.name!r}")


_NOT_POLICIES = frozenset({"type", "transport", "endpoint", "options"})


def validate_policies(plugin: PluginConfig, name: str | None, defaults: ManagerConfig | None) -> None:
    """Raises for all that is wrong with the policies of a plugin that was made in code."""
    problems = Problems(found=[problem for problem in type_problems(plugin) if problem[0][0] not in _NOT_POLICIES])
    if not problems.found:
        named = plugin if name is None else attrs.evolve(plugin, name=name)
        _check_name(named.name, problems)
        if plugin.enabled is False:
            fix = "leave it out, and register the plugin only where it shall be called"
            problems.add(InvalidConfigError, "a plugin registered in code is always on", fix, "enabled")
        if plugin.hedge is not None and plugin.hedge.enabled and plugin.transport is None:
            message = "a call of an object whose transport is not given can't be taken back, so it can't be hedged"
            fix = "name the transport, or leave the section out"
            problems.add(InvalidConfigError, message, fix, "hedge", "enabled")
        check_policies(named, (defaults or ManagerConfig()).resolve(named), problems)
    raise_for(problems.found, f"plugin {plugin.name if name is None else name!r}")


def check_manager_files(config: ManagerConfig) -> None:
    """Raises for what :func:`file_problems` finds."""
    raise_for(file_problems(config), "configuration")


def file_problems(config: ManagerConfig) -> list[Problem]:
    """Which certificate files are not there that enabled plugins name."""
    problems = Problems()
    for index, plugin in enumerate(config.plugins):
        if plugin.enabled is not False and plugin.auth is not None:
            check_auth_files(plugin.auth, problems.below("plugins", index, "auth"))
    return problems.found


def check_plugin_files(plugin: PluginConfig) -> None:
    """Raises for certificate files that the plugin names and that aren't there."""
    problems = Problems()
    if plugin.auth is not None:
        check_auth_files(plugin.auth, problems.below("auth"))
    raise_for(problems.found, f"plugin {plugin.name!r}")


def semantic_problems(
    config: ManagerConfig, resolved: ManagerConfig, registered: Collection[str] | None = None
) -> list[Problem]:
    """What is wrong with a configuration whose every field is of the right type.

    Args:
        config: as it was written.
        resolved: the same with its defaults.
        registered: as for :meth:`ManagerConfig.validate`.
    """
    problems = Problems()
    check_breaker(resolved.default_circuit_breaker, problems.below("default_circuit_breaker"))
    check_retry(config.default_retry, resolved.default_retry, problems.below("default_retry"))
    for index, plugin in enumerate(resolved.plugins):
        _check_plugin(config.plugins[index], plugin, problems.below("plugins", index))
    for index, balancer in enumerate(config.load_balancers):
        _check_balancer(balancer, resolved.load_balancers[index], problems.below("load_balancers", index))
    if not (config.plugins or config.load_balancers or config.discovery.enabled):
        fix = "add a plugin, enable discovery, or register plugins in code without loading a configuration"
        problems.add(NoPluginsConfiguredError, "no plugin is configured", fix, "plugins")
    if config.discovery.enabled and not (config.discovery.directories or config.discovery.entry_points):
        problems.add(
            InvalidConfigError, "missing for discovery", "name a directory to look in", "discovery", "directories"
        )
    _check_duplicates(config, problems)
    _check_hedged_members(config, problems)
    _check_references(config, registered, problems)
    _check_fallback_cycles(config, problems)
    return problems.found


def _check_plugin(raw: PluginConfig, plugin: PluginConfig, problems: Problems) -> None:
    _check_name(plugin.name, problems)
    transport = plugin.transport
    if transport is None:
        fix = f"write one of {', '.join(BUILT_IN_KINDS)}"
        problems.add(InvalidTransportError, "missing", fix, "transport")
    else:
        check_belonging(raw, transport, problems)
        _check_endpoints(raw, transport, problems)
        _check_kind(plugin, transport, problems)
        check_options(plugin, problems.below("options"))
        check_resolve_options(plugin, problems)
        if transport is TransportType.EXECUTABLE:
            _check_executable(plugin, problems)
        if plugin.health_check and plugin.health_check.endpoint:
            check_health_endpoint(transport, plugin.health_check.endpoint, problems.below("health_check", "endpoint"))
    if raw.auth is not None:
        check_auth(raw.auth, problems.below("auth"), transport)
    check_policies(raw, plugin, problems)


def _check_endpoints(plugin: PluginConfig, transport: TransportType, problems: Problems) -> None:
    if not plugin.endpoints:
        check_endpoint(transport, plugin.endpoint, problems.below("endpoint"))
        if is_dns_group(plugin):
            _check_balancing(plugin.balancing, problems)
        elif plugin.balancing is not None:
            problems.add(InvalidConfigError, "has nothing to share out", "write endpoints", "balancing")
        return
    if plugin.endpoint:
        problems.add(InvalidConfigError, "stands beside endpoints", "put it among those", "endpoint")
    if transport in _LOCAL:
        fix = "write a plugin for each, and a group under load_balancers"
        problems.add(InvalidConfigError, f"is not for transport {transport}", fix, "endpoints")
        return
    for index, endpoint in enumerate(plugin.endpoints):
        where = problems.below("endpoints", index)
        check_endpoint(transport, endpoint, where)
        if endpoint in plugin.endpoints[:index]:
            where.add(InvalidConfigError, "is there already", "leave it out")
    _check_balancing(plugin.balancing, problems)


def _check_balancing(balancing: LoadBalancerConfig | None, problems: Problems) -> None:
    for name in ("name", "members", "request_timeout", "retry", "rate_limit", "bulkhead", "fallback", "cache", "hedge"):
        if balancing is not None and getattr(balancing, name):
            problems.add(InvalidConfigError, "is the plugin's own", "leave it out here", "balancing", name)


def _check_name(name: str, problems: Problems) -> None:
    if not name:
        problems.add(InvalidPluginNameError, "missing", "give it the name that calls will use", "name")
    elif not _NAME.fullmatch(name):
        message = f"{name[:60]!r} has a space or control character, or more than 200 characters"
        problems.add(InvalidPluginNameError, message, "use letters, digits, dots, dashes and underscores", "name")


def _check_kind(plugin: PluginConfig, transport: TransportType, problems: Problems) -> None:
    kinds = set(BUILT_IN_KINDS.values())
    if plugin.type in kinds and plugin.type != BUILT_IN_KINDS[transport]:
        message = f"the built-in factory {plugin.type!r} has no transport {transport}"
        problems.add(
            UnsupportedTransportError, message, f"leave type out, or write {BUILT_IN_KINDS[transport]!r}", "type"
        )


def _check_executable(plugin: PluginConfig, problems: Problems) -> None:
    if not plugin.executable:
        problems.add(MissingExecutableError, "missing", "write the path of the program to run", "executable")
    for index, item in enumerate(plugin.env):
        name, equals, _ = item.partition("=")
        if not name or not equals or "\x00" in item:
            problems.add(InvalidConfigError, "is not of the form NAME=value", "write NAME=value", "env", index)
    for index, item in enumerate(plugin.args):
        if "\x00" in item:
            problems.add(InvalidConfigError, "holds a zero character", "take it out", "args", index)


def _check_balancer(balancer: LoadBalancerConfig, resolved: LoadBalancerConfig, problems: Problems) -> None:
    _check_name(balancer.name, problems)
    check_group_policies(balancer, resolved, problems)
    if not balancer.members:
        problems.add(InvalidConfigError, "missing", "name the plugins of the group", "members")
    seen: set[str] = set()
    for index, member in enumerate(balancer.members):
        where = problems.below("members", index)
        _check_name(member.name, where)
        if member.name in seen:
            where.add(
                DuplicatePluginNameError,
                f"{member.name!r} is a member already",
                "use weight for a larger share",
                "name",
            )
        if member.name and member.name == balancer.name:
            where.add(InvalidConfigError, "is the group itself", "name a plugin", "name")
        seen.add(member.name)


def _named(config: ManagerConfig) -> Iterator[tuple[tuple[str | int, ...], PluginConfig | LoadBalancerConfig]]:
    for index, plugin in enumerate(config.plugins):
        yield ("plugins", index), plugin
    for index, balancer in enumerate(config.load_balancers):
        yield ("load_balancers", index), balancer


def _check_duplicates(config: ManagerConfig, problems: Problems) -> None:
    seen: dict[str, tuple[str | int, ...]] = {}
    for path, item in _named(config):
        if item.name and item.name in seen:
            kind, index = seen[item.name]
            message = f"{item.name!r} is the name of {kind}[{index}], too"
            problems.add(DuplicatePluginNameError, message, "give one of them another name", *path, "name")
        seen.setdefault(item.name, path)


def _check_hedged_members(config: ManagerConfig, problems: Problems) -> None:
    """A hedged group sends its second attempts to any of its members: all must be able to take a call back."""
    transports = {plugin.name: plugin.transport for plugin in config.plugins}
    for index, balancer in enumerate(config.load_balancers):
        if balancer.hedge is None or not balancer.hedge.enabled:
            continue
        for member in balancer.members:
            transport = transports.get(member.name)
            if transport in NOT_HEDGED:
                message = f"a call of member {member.name!r} over {transport} can't be taken back"
                fix = "leave the section out, or that member"
                problems.add(
                    InvalidConfigError,
                    f"{message}, so the group can't be hedged",
                    fix,
                    *("load_balancers", index, "hedge", "enabled"),
                )
                break


def _check_references(config: ManagerConfig, registered: Collection[str] | None, problems: Problems) -> None:
    """Names of other plugins, once it is known which ones there can be."""
    if registered is None:
        return
    known = {plugin.name for plugin in config.plugins}.union(registered)
    groups = {balancer.name for balancer in config.load_balancers}

    def look_up(name: str, names: Collection[str], *path: str | int) -> None:
        if name and name not in names:
            near = near_name(name, names)
            fix = f"did you mean {near!r}?" if near else "name a plugin of this configuration, or register it before"
            problems.add(InvalidConfigError, f"there is no plugin {name!r}", fix, *path)

    for path, item in _named(config):
        if item.fallback is not None:
            look_up(item.fallback.plugin, known | groups, *path, "fallback", "plugin")
        if isinstance(item, LoadBalancerConfig):
            for index, member in enumerate(item.members):
                look_up(member.name, known, *path, "members", index, "name")


def _check_fallback_cycles(config: ManagerConfig, problems: Problems) -> None:
    following: Mapping[str, str] = {item.name: item.fallback.plugin for _, item in _named(config) if item.fallback}
    paths = {item.name: path for path, item in _named(config)}
    done: set[str] = set()
    for start in following:
        way: list[str] = []
        name = start
        while name in following and name not in done and name not in way:
            way.append(name)
            name = following[name]
        circle = way[way.index(name) :] if name in way else []
        if len(circle) > 1:  # one of its own is named elsewhere
            message = f"fallbacks go in a circle: {' -> '.join([*circle, name])}"
            fix = "let one of them fall back on something else"
            problems.add(InvalidConfigError, message, fix, *paths[name], "fallback", "plugin")
        done.update(way)
