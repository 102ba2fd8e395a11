"""Target, options and credentials of a gRPC plugin's channel."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs

from goplugins.config.credentials import AuthConfig
from goplugins.config.endpoints import Endpoint
from goplugins.config.plugin_sections import ConnectionConfig
from goplugins.enums import TransportType
from goplugins.errors import InvalidConfigError
from goplugins.transports.grpc.fork_support import load
from goplugins.transports.proxies import proxy_of_environment
from goplugins.transports.resolver import Address
from goplugins.transports.tls import authorities_of, client_context, read_pem

if TYPE_CHECKING:
    from goplugins.config import PluginConfig

_UNREAD_TIMEOUT_MS = 60_000

_METHOD = re.compile(r"/[A-Za-z_][\w.]*/[A-Za-z_]\w*")


@attrs.frozen
class Target:
    """One endpoint.

    Attributes:
        name: the target in grpc's syntax.
        tls: whether the connection is encrypted.
        method: full name of the one method that is called natively; empty for PluginService.
        proxy: URL of the proxy of the environment, with credentials; empty for none.
        health_service: the service name of health checks; empty for the server as a whole.
        authority: name for ``:authority`` and certificate, where ``name`` is an IP address; empty for ``name``.
    """

    name: str
    tls: bool
    method: str = ""
    proxy: str = attrs.field(default="", repr=False)
    health_service: str = ""
    authority: str = ""


def target_of(config: PluginConfig, address: Address | None = None) -> Target:
    """The target of a configured plugin.

    Args:
        config: of the plugin.
        address: IP address to connect to, instead of resolving the endpoint's host; the authority stays the host.

    Raises:
        ConfigError: the endpoint or the method is missing or wrong.
    """
    transport = TransportType(config.transport or TransportType.GRPC)
    name = config.endpoint
    endpoint = Endpoint.parse(transport, name)
    if not endpoint.scheme:
        # With a scheme, a host named "unix" or "dns" stays a host; the % of a zone must be escaped in a URI.
        name = "dns:///" + name.replace("%", "%25")
    if address is not None:
        name = _literal(address)
    options = config.options or {}
    method = options.get("method") or ""
    if not isinstance(method, str) or (method and not _METHOD.fullmatch(method)):
        raise InvalidConfigError(
            "is not the full name of a method", path="options.method", fix="such as /pkg.Service/Method"
        )
    health = (config.health_check.endpoint if config.health_check is not None else None) or ""
    return Target(
        name=name,
        tls=transport is TransportType.GRPC_TLS,
        method=method,
        proxy=_proxy_of(endpoint) if options.get("trust_env") else "",
        health_service=health.strip("/"),
        authority="" if address is None else config.endpoint,
    )


def _proxy_of(endpoint: Endpoint) -> str:
    """By the variables of grpc, and by those and all forms of NO_PROXY that HTTP plugins have."""
    schemes, exceptions = ("grpc", "https", "http", "all"), ("no_grpc", "no")
    found = proxy_of_environment(endpoint.host, endpoint.port or 443, schemes, exceptions)
    return "" if found is None else found.geturl()


def _literal(address: Address) -> str:
    """An IP address in grpc's syntax."""
    family, (host, port, *rest) = address
    if family is not socket.AF_INET6:
        return f"ipv4:{host}:{port}"
    zone = f"%25{rest[1]}" if len(rest) > 1 and rest[1] else ""
    return f"ipv6:[{host.partition('%')[0]}{zone}]:{port}"


def channel_options(target: Target, connection: ConnectionConfig) -> list[tuple[str, Any]]:
    """The channel's options, from a connection section with all defaults filled in."""
    connecting = _milliseconds(connection.connection_timeout)
    options: list[tuple[str, Any]] = [
        # Retries are made by goplugins.resilience, and no service config with a policy is read. What is enabled are
        # those on a new connection of a call that the server has provably not seen, as when it ends an old connection.
        ("grpc.enable_retries", 1),
        ("grpc.service_config_disable_resolution", 1),
        # Ends a connection whose peer's system has acknowledged nothing for so long (TCP_USER_TIMEOUT): a request that
        # is not read would be kept without end. It takes effect only together with pings; the first comes in 24 days.
        ("grpc.keepalive_timeout_ms", max(_milliseconds(connection.request_timeout), _UNREAD_TIMEOUT_MS)),
        ("grpc.keepalive_time_ms", 2**31 - 2),
        ("grpc.enable_http_proxy", int(bool(target.proxy))),
        ("grpc.max_receive_message_length", connection.max_response_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.min_reconnect_backoff_ms", connecting),  # despite its name, the timeout of one attempt
        # A channel whose connection failed is replaced, so no call waits for this backoff. It is short all the same:
        # while its timer runs, older versions of grpc crash a forked child.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.client_idle_timeout_ms", _milliseconds(connection.idle_timeout)),
    ]
    if target.proxy:
        options.append(("grpc.http_proxy", target.proxy))
    if target.authority:
        options.append(
            ("grpc.default_authority", target.authority)
        )  # also the name that the certificate is checked for
    if connection.disable_compression:
        options.append(("grpc.compression_enabled_algorithms_bitset", 1))  # bit 0: identity
    return options


def _milliseconds(seconds: float | None) -> int:
    return min(max(int((seconds or 0.0) * 1000), 1), 2**31 - 1)


def tls_credentials(auth: AuthConfig, *, trust_env: bool) -> Callable[[], Any]:
    """A function that makes the channel's credentials; the files are read and checked now.

    The authorities are those of HTTPS, and always given: grpc's own choice of them depends on the environment.

    Raises:
        InvalidCertificateError: a file is missing or can't be used; ``path`` names the field.
    """
    client_context(auth, trust_env=trust_env)
    roots = authorities_of(auth, trust_env=trust_env, variables=("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",)).pem()
    chain, key = (
        read_pem(file, f"auth.{field}") if (file := getattr(auth, field)) else None
        for field in ("cert_file", "key_file")
    )
    return lambda: load().ssl_channel_credentials(roots, key, chain)
