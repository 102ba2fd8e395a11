"""Groups as plugins: load-balanced groups and plugins with several addresses in the shape that a manager builds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import attrs

from goplugins.config.defaults import OPTIONAL
from goplugins.config.endpoints import Endpoint
from goplugins.config.manager import ManagerConfig
from goplugins.config.manager_sections import GROUP_POLICIES, LoadBalancerConfig, LoadBalancerMember
from goplugins.config.plugin import PluginConfig, is_dns_group
from goplugins.config.plugin_sections import CircuitBreakerConfig, ConnectionConfig, HealthCheckConfig, RateLimitConfig
from goplugins.config.schema import UNSET, Unset, as_mapping
from goplugins.enums import TransportType

GROUP_KIND = "group"
"""The ``type`` of a group's configuration. There is no such factory: a group consists of other plugins."""


@attrs.frozen(kw_only=True, repr=False)
class GroupConfig(PluginConfig):
    """A group in the shape of a plugin: the policies of its calls, and how they are distributed.

    Attributes:
        balancer: members and strategy.
    """

    balancer: LoadBalancerConfig | Unset = UNSET


@attrs.frozen(kw_only=True, repr=False)
class DnsGroupConfig(GroupConfig):
    """A group whose members are the addresses of one host, which is looked up regularly.

    Attributes:
        instance: configuration of each member, without the member's name.
    """

    instance: PluginConfig | Unset = UNSET


def spread(resolved: ManagerConfig) -> ManagerConfig:
    """A configuration in which each endpoint and each group is a plugin, groups after their members.

    Args:
        resolved: a valid configuration with its defaults.
    """
    plugins: list[PluginConfig] = []
    for plugin in resolved.plugins:
        if plugin.endpoints:
            plugins += _instances(plugin, resolved)
        else:
            plugins.append(_dns_group(plugin, resolved) if is_dns_group(plugin) else plugin)
    for balancer in resolved.load_balancers:
        plugins.append(_group(balancer, resolved))
    return attrs.evolve(resolved, plugins=plugins, load_balancers=())


def _instances(plugin: PluginConfig, resolved: ManagerConfig) -> Iterator[PluginConfig]:
    """A plugin for each endpoint, with its own breaker and health checks, and the group, with all other policies."""
    members = []
    transport = plugin.transport or TransportType.HTTP
    for endpoint in plugin.endpoints:
        name = f"{plugin.name}@{Endpoint.parse(transport, endpoint).label}"
        members.append(LoadBalancerMember(name=name))
        yield attrs.evolve(_instance(plugin), name=name, endpoint=endpoint)
    yield _group_of(plugin, members, resolved)


def _dns_group(plugin: PluginConfig, resolved: ManagerConfig) -> DnsGroupConfig:
    """The group of a plugin whose host is looked up."""
    group = as_mapping(_group_of(plugin, (), resolved))
    own = {name: value for name, value in plugin.options.items() if not name.startswith("resolve")}
    instance = attrs.evolve(_instance(plugin), options=own)
    return DnsGroupConfig(**{**group, "endpoint": plugin.endpoint, "options": plugin.options}, instance=instance)


def _instance(plugin: PluginConfig) -> PluginConfig:
    """The plugin without the policies that its group has."""
    none: dict[str, Any] = dict.fromkeys(OPTIONAL)
    return attrs.evolve(
        plugin,
        endpoints=(),
        balancing=None,
        rate_limit=attrs.evolve(plugin.rate_limit or RateLimitConfig(), enabled=False),
        **none,
    )


def _group_of(plugin: PluginConfig, members: Iterable[LoadBalancerMember], resolved: ManagerConfig) -> GroupConfig:
    """The group that distributes the calls of a plugin among its instances."""
    balancer = attrs.evolve(
        plugin.balancing or LoadBalancerConfig(),
        name=plugin.name,
        members=tuple(members),
        request_timeout=plugin.connection.request_timeout if plugin.connection is not None else None,
        **_policies(plugin),
    )
    group = _group(balancer, resolved)
    return attrs.evolve(
        group,
        enabled=plugin.enabled,
        labels=plugin.labels,
        annotations=plugin.annotations,
        operations=plugin.operations,
    )


def _policies(config: PluginConfig | LoadBalancerConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in GROUP_POLICIES}


def _group(balancer: LoadBalancerConfig, resolved: ManagerConfig) -> GroupConfig:
    """A group's configuration. Breaker and health checks are those of the members, so the group has none."""
    own = {plugin.name: plugin.priority for plugin in resolved.plugins}
    members = (attrs.evolve(each, priority=each.priority or own.get(each.name, 0)) for each in balancer.members)
    balancer = attrs.evolve(balancer, members=tuple(members))
    config = GroupConfig(
        name=balancer.name,
        type=GROUP_KIND,
        transport=TransportType.PYTHON,
        circuit_breaker=CircuitBreakerConfig(enabled=False),
        health_check=HealthCheckConfig(enabled=False),
        connection=ConnectionConfig(request_timeout=balancer.request_timeout),
        **_policies(balancer),
    )
    found = resolved.resolve(config)
    assert isinstance(found, GroupConfig)  # noqa: S101 - resolving keeps the class
    return attrs.evolve(found, type=GROUP_KIND, balancer=balancer)
