"""``options.resolve``: plugins whose host name is looked up regularly, so that each of its addresses is a member."""

from __future__ import annotations

import ipaddress

from goplugins.config.endpoints import DEFAULT_PORTS, Endpoint
from goplugins.config.plugin import PluginConfig, kind_of_plugin
from goplugins.config.problems import Problems
from goplugins.enums import TransportType
from goplugins.errors import ConfigError, InvalidConfigError

__all__ = ["DEFAULT_RESOLVE_INTERVAL", "check_resolve_options", "host_and_port", "is_dns_group"]

DEFAULT_RESOLVE_INTERVAL = 30.0
"""Seconds between two lookups of a host."""

_KINDS = frozenset({"http", "grpc"})


def is_dns_group(plugin: PluginConfig) -> bool:
    """Whether the plugin becomes a group of its host's addresses.

    >>> from goplugins import PluginConfig
    >>> is_dns_group(PluginConfig(transport="grpc", endpoint="search:50051", options={"resolve": True}))
    True
    """
    return plugin.options.get("resolve") is True and kind_of_plugin(plugin.type, plugin.transport) in _KINDS


def host_and_port(plugin: PluginConfig) -> tuple[str, int]:
    """Host name and port of a valid endpoint, for a lookup.

    Raises:
        ValueError: it has no host and port, or its host is looked up by gRPC (``dns:///...``).

    >>> from goplugins import PluginConfig
    >>> host_and_port(PluginConfig(transport="https", endpoint="https://Search.example.com/v1"))
    ('search.example.com', 443)
    """
    endpoint = Endpoint.parse(plugin.transport or TransportType.HTTP, plugin.endpoint)
    host, port = endpoint.host, endpoint.effective_port
    if not host or port is None or (endpoint.scheme and endpoint.scheme not in DEFAULT_PORTS):
        raise ValueError("it has no host and port to look up")
    return host, port


def check_resolve_options(plugin: PluginConfig, problems: Problems) -> None:
    """Adds why the host can't be looked up where ``resolve`` asks for it; ``problems`` are the plugin's."""
    if kind_of_plugin(plugin.type, plugin.transport) not in _KINDS:
        return
    if not is_dns_group(plugin):
        if "resolve_interval" in plugin.options:
            fix = "write resolve: true beside it, or leave it out"
            problems.add(InvalidConfigError, "has no effect without resolve", fix, "options", "resolve_interval")
        return
    fault, fix = _fault(plugin)
    if fault:
        problems.add(InvalidConfigError, fault, fix, "options", "resolve")


def _fault(plugin: PluginConfig) -> tuple[str, str]:
    """What is wrong, and the fix; nothing for an invalid endpoint, which is a problem of its own."""
    if plugin.endpoints:
        return "is for one endpoint, not for several", "write one endpoint, or leave resolve out"
    try:
        host, _ = host_and_port(plugin)
    except ConfigError:
        return "", ""
    except ValueError:
        return "needs an endpoint of the form host:port", "write host:port without a scheme, or leave resolve out"
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return "", ""
    return "needs a host name, and the endpoint is an IP address", "write a name, or leave resolve out"
