"""Address of an HTTP plugin: origin, proxy, and the paths of calls and health checks."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, unquote, urlsplit

import attrs

from goplugins.config.credentials import auth_query, basic_credentials
from goplugins.config.endpoints import DEFAULT_PORTS, Endpoint
from goplugins.enums import TransportType
from goplugins.errors import InvalidConfigError, InvalidEndpointURLError, redact_url
from goplugins.transports.proxies import parse_proxy, proxy_of_environment

if TYPE_CHECKING:
    from goplugins.config import PluginConfig


_URL_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~:/?[]@!$&'()*+,;=%")


@attrs.frozen
class Target:
    """One endpoint, parsed once.

    Attributes:
        origin: scheme, host and port; no path.
        path: of calls, with its query.
        health_path: of health checks, with its query.
        first_hop: host and port to connect to: the plugin's or the proxy's.
        proxy: URL of the proxy without credentials; None for none.
        proxy_url: the same with them; empty for none.
        proxy_headers: credentials for the proxy.
        key: a query parameter that holds a credential, for :meth:`with_key`; empty for none.
        prefix: precedes the path in a request line: the origin for a forwarding proxy, else empty.
    """

    scheme: str
    host: str
    port: int
    origin: str
    path: str
    health_path: str
    first_hop: tuple[str, int]
    proxy: str | None = None
    proxy_url: str = attrs.field(default="", repr=False)
    proxy_headers: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    prefix: str = ""
    key: str = attrs.field(default="", repr=False)
    socket_options: tuple[tuple[int, int, int], ...] = ((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),)

    @property
    def tls(self) -> bool:
        return self.scheme == "https"

    def with_key(self, path: str) -> str:
        """A path as it is sent: with the credential that travels in the query."""
        return f"{path}{'&' if '?' in path else '?'}{self.key}" if self.key else path


def target_of(config: PluginConfig) -> Target:
    """The target of a plugin's configuration.

    Raises:
        ConfigError: ``endpoint``, ``options.proxy`` or ``health_check.endpoint`` can't be used.
    """
    endpoint = _parsed(config)
    scheme, host, port = endpoint.scheme, endpoint.host, endpoint.effective_port or 0
    netloc = f"[{host}]" if ":" in host else host
    origin = f"{scheme}://{netloc}" if port == DEFAULT_PORTS[scheme] else f"{scheme}://{netloc}:{port}"
    query = f"?{endpoint.query}" if endpoint.query else ""
    options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
    if config.connection is None or config.connection.keep_alive is not False:
        options.append((socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1))
    proxy = _proxy_of(config.options or {}, scheme, host, port)
    return Target(
        scheme=scheme,
        host=host,
        port=port,
        origin=origin,
        path=(endpoint.path or "/") + query,
        health_path=_health_path(config, endpoint, query),
        first_hop=(host, port) if proxy is None else (proxy.hostname or "", proxy.port or 80),
        proxy=None if proxy is None else redact_url(proxy.geturl()),
        proxy_url="" if proxy is None else proxy.geturl(),
        proxy_headers={} if proxy is None else _proxy_credentials(proxy),
        prefix=origin if proxy is not None and scheme == "http" else "",
        key="" if config.auth is None else auth_query(config.auth),
        socket_options=tuple(options),
    )


def _parsed(config: PluginConfig) -> Endpoint:
    transport = TransportType(config.transport or TransportType.HTTP)
    text = config.endpoint or ""
    if text[:6].lower() == "https:":
        transport = TransportType.HTTPS  # a plugin without a manager may have a safer URL than its transport
    endpoint = Endpoint.parse(transport, text)
    if not _URL_CHARACTERS.issuperset(endpoint.path + endpoint.query):
        fix = "percent-encode them"
        raise InvalidEndpointURLError("has a path with characters that a URL can't contain", path="endpoint", fix=fix)
    return endpoint


def _health_path(config: PluginConfig, endpoint: Endpoint, query: str) -> str:
    configured = (config.health_check.endpoint if config.health_check is not None else None) or ""
    if not configured:
        return endpoint.path.rstrip("/") + "/health" + query
    path = "health_check.endpoint"
    try:
        health = urlsplit(configured)
        origin = (health.scheme, health.hostname, health.port or DEFAULT_PORTS.get(health.scheme))
    except ValueError as exc:
        raise InvalidConfigError(f"is not a URL: {exc}", path=path) from None
    if (health.scheme or health.netloc) and origin != (endpoint.scheme, endpoint.host, endpoint.effective_port):
        raise InvalidConfigError("has another host than the endpoint", path=path, fix="write a path such as /health")
    if not _URL_CHARACTERS.issuperset(health.path + health.query):
        fix = "percent-encode them"
        raise InvalidConfigError("has characters that a URL can't contain", path=path, fix=fix)
    base = "" if configured.startswith("/") or health.netloc else endpoint.path.rstrip("/") + "/"
    return base + (health.path or "/") + (f"?{health.query}" if health.query else "")


def _proxy_of(options: Mapping[str, Any], scheme: str, host: str, port: int) -> SplitResult | None:
    url = options.get("proxy")
    if url:
        return parse_proxy(url, "options.proxy")
    return proxy_of_environment(host, port, (scheme, "all")) if options.get("trust_env") else None


def _proxy_credentials(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    credentials = basic_credentials(unquote(proxy.username), unquote(proxy.password or ""))
    return {"Proxy-Authorization": credentials}
