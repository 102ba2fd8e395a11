"""``options.resolve``: which plugins can be expanded into the addresses of their host, and where that host is."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from goplugins.config.plugin import PluginConfig, kind_of_plugin
from goplugins.config.problems import Problems
from goplugins.enums import TransportType
from goplugins.errors import InvalidConfigError

__all__ = ["DEFAULT_RESOLVE_INTERVAL", "check_resolving", "host_and_port", "is_resolved"]

DEFAULT_RESOLVE_INTERVAL = 30.0
"""Seconds between two lookups of a host."""

_PORTS = {TransportType.HTTP: 80, TransportType.HTTPS: 443}
_KINDS = frozenset({"http", "grpc"})


def is_resolved(plugin: PluginConfig) -> bool:
    """Whether the plugin shall become a group of its host's addresses.

    >>> from goplugins import PluginConfig
    >>> is_resolved(PluginConfig(transport="grpc", endpoint="search:50051", options={"resolve": True}))
    True
    """
    wanted = plugin.options.get("resolve") is True
    return wanted and kind_of_plugin(plugin.type, plugin.transport) in _KINDS


def host_and_port(plugin: PluginConfig) -> tuple[str, int]:
    """What has to be looked up for the plugin's endpoint, which is right in itself.

    Raises:
        ValueError: it names no host and port.

    >>> from goplugins import PluginConfig
    >>> host_and_port(PluginConfig(transport="https", endpoint="https://Search.example.com/v1"))
    ('search.example.com', 443)
    """
    default = _PORTS.get(plugin.transport or TransportType.HTTP)
    parts = urlsplit(plugin.endpoint if default is not None else f"//{plugin.endpoint}")
    port = parts.port or default
    if not parts.hostname or port is None or (default is None and parts.path):
        raise ValueError("it names no host and port")
    return parts.hostname, port


def check_resolving(plugin: PluginConfig, problems: Problems) -> None:
    """Notes why the plugin can't be expanded, where that is wished for; ``problems`` are the plugin's."""
    if kind_of_plugin(plugin.type, plugin.transport) not in _KINDS:
        return
    if not is_resolved(plugin):
        if "resolve_interval" in plugin.options:
            fix = "write resolve: true beside it, or leave it out"
            problems.add(InvalidConfigError, "does nothing without resolve", fix, "options", "resolve_interval")
        return
    fault, fix = _fault(plugin)
    if fault:
        problems.add(InvalidConfigError, fault, fix, "options", "resolve")


def _fault(plugin: PluginConfig) -> tuple[str, str]:
    """What stands in the way, and what to do; nothing for an endpoint that is itself wrong: that is told elsewhere."""
    if plugin.endpoints:
        return "is for one endpoint, not for several", "write one endpoint, or leave resolve out"
    try:
        host, _ = host_and_port(plugin)
    except ValueError:
        if not plugin.endpoint or _PORTS.get(plugin.transport or TransportType.HTTP):
            return "", ""
        return "is for an endpoint of the form host:port", "write host:port without a scheme, or leave resolve out"
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return "", ""
    return "is for a host's name, and the endpoint is an address", "write a name, or leave resolve out"
