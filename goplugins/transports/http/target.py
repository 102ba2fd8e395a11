"""Where an HTTP plugin is: its address, the way there, and what is asked of its path."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, unquote, urlsplit

import attrs

from goplugins.config.credentials import basic_credentials
from goplugins.enums import TransportType
from goplugins.errors import (
    ConfigError,
    InvalidConfigError,
    InvalidEndpointURLError,
    MissingEndpointError,
    redact_url,
)

if TYPE_CHECKING:
    from goplugins.config import PluginConfig

__all__ = ["Target", "target_of"]

_PORTS = {"http": 80, "https": 443}
_SAFE = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~:/?[]@!$&'()*+,;=%")


@attrs.frozen
class Target:
    """One endpoint, taken apart once.

    Attributes:
        origin: scheme, host and port; no path.
        path: with its query; what POST goes to.
        health_path: what GET goes to.
        first_hop: the host and port to connect to: the plugin's, or its proxy's.
        proxy: the proxy without credentials, if there is one.
        proxy_headers: credentials for it.
        prefix: what goes before a path in the request line: the origin for a forwarding proxy, else nothing.
    """

    scheme: str
    host: str
    port: int
    origin: str
    path: str
    health_path: str
    first_hop: tuple[str, int]
    proxy: str | None = None
    proxy_headers: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    prefix: str = ""
    socket_options: tuple[tuple[int, int, int], ...] = ((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),)

    @property
    def tls(self) -> bool:
        return self.scheme == "https"


def target_of(config: PluginConfig) -> Target:
    """The target that a configuration names.

    Raises:
        MissingEndpointError: there is none.
        InvalidEndpointURLError: it is no URL of this transport, or holds credentials.
        InvalidConfigError: ``options.proxy`` or ``health_check.endpoint`` can't be used.
    """
    parts = _split(config.endpoint, config.transport)
    scheme, host, port = parts.scheme, parts.hostname or "", parts.port or _PORTS[parts.scheme]
    netloc = f"[{host}]" if ":" in host else host
    origin = f"{scheme}://{netloc}" if port == _PORTS[scheme] else f"{scheme}://{netloc}:{port}"
    query = f"?{parts.query}" if parts.query else ""
    options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
    if config.connection is None or config.connection.keep_alive is not False:
        options.append((socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1))
    proxy = _proxy_of(config.options or {}, origin, host)
    return Target(
        scheme=scheme,
        host=host,
        port=port,
        origin=origin,
        path=(parts.path or "/") + query,
        health_path=_health_path(config, parts, query),
        first_hop=(host, port) if proxy is None else (proxy.hostname or "", proxy.port or 80),
        proxy=None if proxy is None else redact_url(proxy.geturl()),
        proxy_headers={} if proxy is None else _proxy_credentials(proxy),
        prefix=origin if proxy is not None and scheme == "http" else "",
        socket_options=tuple(options),
    )


def _split(endpoint: str | None, transport: Any) -> SplitResult:
    if not endpoint:
        raise MissingEndpointError("an HTTP plugin needs an endpoint", path="endpoint", fix="such as https://host/path")
    try:
        parts = urlsplit(endpoint)
        port = parts.port
    except ValueError as exc:
        raise _bad(f"it is no URL: {exc}") from None
    if parts.scheme not in _PORTS or not parts.hostname or port == 0:
        raise _bad(f"{redact_url(endpoint)!r} is no URL with http:// or https:// and a host")
    if transport == TransportType.HTTPS and parts.scheme != "https":
        raise _bad("the transport is https and the endpoint is not: credentials would travel in clear")
    if parts.username is not None or parts.password is not None:
        raise _bad("it holds credentials", fix="put them into auth")
    if not _SAFE.issuperset(parts.path) or not _SAFE.issuperset(parts.query):
        raise _bad("its path has characters that must be percent-encoded")
    return parts


def _bad(message: str, fix: str = "") -> ConfigError:
    return InvalidEndpointURLError(message, path="endpoint", fix=fix)


def _health_path(config: PluginConfig, parts: SplitResult, query: str) -> str:
    configured = (config.health_check.endpoint if config.health_check is not None else None) or ""
    if not configured:
        return parts.path.rstrip("/") + "/health" + query
    path = "health_check.endpoint"
    try:
        health = urlsplit(configured)
        elsewhere = (health.scheme or health.netloc) and (
            (health.scheme, health.hostname, health.port or _PORTS.get(health.scheme))
            != (parts.scheme, parts.hostname, parts.port or _PORTS[parts.scheme])
        )
    except ValueError as exc:
        raise InvalidConfigError(f"it is no URL: {exc}", path=path) from None
    if elsewhere:
        raise InvalidConfigError("it is on another host than the plugin", path=path, fix="write a path such as /health")
    if not _SAFE.issuperset(health.path) or not _SAFE.issuperset(health.query):
        raise InvalidConfigError("it has characters that must be percent-encoded", path=path)
    base = "" if configured.startswith("/") or health.netloc else parts.path.rstrip("/") + "/"
    return base + (health.path or "/") + (f"?{health.query}" if health.query else "")


def _proxy_of(options: Mapping[str, Any], origin: str, host: str) -> SplitResult | None:
    url = options.get("proxy")
    if not url and options.get("trust_env"):
        from urllib.request import getproxies, proxy_bypass

        url = None if proxy_bypass(host) else getproxies().get(origin.partition(":")[0])
    if not url:
        return None
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme == "http" and parts.hostname and parts.port != 0:
            return parts
    except (ValueError, TypeError):
        pass  # refused below, without the URL: it may hold a password
    raise InvalidConfigError("it is no http:// URL of a proxy", path="options.proxy", fix="such as http://host:3128")


def _proxy_credentials(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    credentials = basic_credentials(unquote(proxy.username), unquote(proxy.password or ""))
    return {"Proxy-Authorization": credentials}
