"""What a call is and where it goes, in the words of OpenTelemetry's semantic conventions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from goplugins.enums import TransportType

__all__ = ["call_attributes", "peer_attributes"]

_PORTS = {TransportType.HTTP: 80, TransportType.HTTPS: 443}


def call_attributes(plugin: str) -> dict[str, Any]:
    """The same on either side of the wire: ``rpc.system``, ``rpc.service`` and ``rpc.method``.

    Source: https://opentelemetry.io/docs/specs/semconv/rpc/rpc-spans/.
    """
    return {"rpc.system": "goplugins", "rpc.service": plugin, "rpc.method": "execute"}


def peer_attributes(transport: TransportType, endpoint: str) -> Mapping[str, str | int]:
    """``server.address``, ``server.port`` and ``network.transport``, as far as there are any.

    Source: https://opentelemetry.io/docs/specs/semconv/registry/attributes/server/ and .../network/.

    >>> dict(peer_attributes(TransportType.HTTPS, "https://auth.example/v1"))
    {'server.address': 'auth.example', 'network.transport': 'tcp', 'server.port': 443}
    >>> dict(peer_attributes(TransportType.GRPC, "dns:///search.example:50051"))
    {'server.address': 'search.example', 'network.transport': 'tcp', 'server.port': 50051}
    >>> dict(peer_attributes(TransportType.UNIX, "/run/search.sock"))
    {'server.address': '/run/search.sock', 'network.transport': 'unix'}
    """
    if transport in {TransportType.PYTHON, TransportType.EXECUTABLE}:
        return {"network.transport": "pipe"} if transport is TransportType.EXECUTABLE else {}
    if transport is TransportType.UNIX:
        return _socket(endpoint)
    if transport in _PORTS:
        return _host(endpoint, _PORTS[transport])
    scheme, _, rest = endpoint.partition(":")  # as grpc names what is no mere host:port
    if scheme in {"unix", "unix-abstract"} and not rest.isdigit():
        return _socket(rest.removeprefix("//"))
    if scheme in {"dns", "ipv4", "ipv6"} and not rest.isdigit():
        return _host("//" + rest.rpartition("/")[2])
    return _host(f"//{endpoint}")


def _socket(path: str) -> Mapping[str, str | int]:
    return {"server.address": path, "network.transport": "unix"} if path else {}


def _host(url: str, usual_port: int | None = None) -> Mapping[str, str | int]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or usual_port
    except ValueError:  # several addresses, or what only a resolver of grpc's understands
        return {}
    if not host:
        return {}
    found: dict[str, str | int] = {"server.address": host, "network.transport": "tcp"}
    if port is not None:
        found["server.port"] = port
    return found
