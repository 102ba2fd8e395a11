"""From a URL to a server that listens there: one place that knows which wire a scheme stands for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

import attrs

from goplugins.errors import ConfigError, InvalidEndpointURLError
from goplugins.serve._addresses import bind
from goplugins.serve._plugin import ServedPlugin
from goplugins.serve._wsgi import wsgi

if TYPE_CHECKING:
    from goplugins.config.credentials import AuthConfig
    from goplugins.serve._grpc import ServerTLS

__all__ = ["Server", "endpoint_of", "open_server"]

_PROXY = "serve http behind a proxy that ends TLS"


class Server(Protocol):
    """What every wire's server can do."""

    def run(self) -> None:
        """Answers until :meth:`stop`, on the thread that calls this."""
        ...

    def stop(self, grace: float) -> None:
        """Takes no more calls and ends :meth:`run` once those in flight are over, or ``grace`` seconds are."""
        ...


def open_server(
    plugin: ServedPlugin[Any, Any],
    url: str,
    *,
    auth: AuthConfig | None,
    threads: int,
    max_request_bytes: int,
    tls: ServerTLS | None,
) -> tuple[Server, str]:
    """A server that listens already, and where it does: with the real port if it was asked for port 0.

    Raises:
        ConfigError: the address can't be used, ``auth`` lacks its credentials, or a package is not installed.
    """
    scheme = url.partition(":")[0].lower()
    if tls is not None and scheme != "grpcs":
        raise InvalidEndpointURLError(f"{url!r}: tls is for grpcs:// addresses", fix=_PROXY)
    if scheme == "stdio":
        from goplugins.serve._stdio import stdio_server

        return stdio_server(plugin, auth=auth, max_request_bytes=max_request_bytes), url
    if scheme == "unix":
        from goplugins.serve._unix import unix_server

        where = endpoint_of(url)
        return unix_server(plugin, where, auth=auth, threads=threads, max_request_bytes=max_request_bytes), url
    if scheme in ("grpc", "grpcs"):
        return _grpc_server(plugin, url, scheme, auth, threads, max_request_bytes, tls)
    return _http_server(plugin, url, auth, threads, max_request_bytes)


def endpoint_of(url: str) -> str:
    """What the ``endpoint`` of a client's configuration calls this URL.

    >>> endpoint_of("http://127.0.0.1:8000/p"), endpoint_of("grpc://[::1]:9000"), endpoint_of("unix:///run/x.sock")
    ('http://127.0.0.1:8000/p', '[::1]:9000', '/run/x.sock')
    """
    scheme = url.partition(":")[0].lower()
    if scheme == "unix":
        return url[len("unix:") :].removeprefix("//")
    return urlsplit(url).netloc if scheme in ("grpc", "grpcs") else url


def _grpc_server(
    plugin: ServedPlugin[Any, Any],
    url: str,
    scheme: str,
    auth: AuthConfig | None,
    threads: int,
    max_request_bytes: int,
    tls: ServerTLS | None,
) -> tuple[Server, str]:
    from goplugins.serve._grpc import Server as GRPCServer

    if scheme == "grpcs" and tls is None:
        raise InvalidEndpointURLError(f"{url!r} needs certificate files", fix="pass tls=serve.ServerTLS(...)")
    address = urlsplit(url).netloc
    host, _, port = address.rpartition(":")
    # grpc itself would take a number that is no port for another one.
    if not host or not (port.isdigit() and int(port) < 65536) or urlsplit(url).path.strip("/"):
        raise InvalidEndpointURLError(
            f"{url!r} is not an address to serve at", fix=f'write one such as "{scheme}://127.0.0.1:9000"'
        )
    server = GRPCServer(plugin, address, auth=auth, threads=threads, max_request_bytes=max_request_bytes, tls=tls)
    return server, f"{scheme}://{host}:{server.port}"


def _http_server(
    plugin: ServedPlugin[Any, Any], url: str, auth: AuthConfig | None, threads: int, max_request_bytes: int
) -> tuple[Server, str]:
    address = _Address.of(url)
    app = wsgi(plugin, auth=auth, path=address.path or None, max_request_bytes=max_request_bytes)
    try:
        from goplugins.serve._waitress import Server as HTTPServer
    except ModuleNotFoundError as exc:
        if exc.name != "waitress":
            raise
        raise ConfigError("serving HTTP needs the package waitress", fix="pip install 'goplugins[serve]'") from exc
    listener = bind(address.host, address.port, address.url(address.port))
    try:
        server = HTTPServer(app, listener, threads=threads, max_request_bytes=max_request_bytes)
    except BaseException:
        listener.close()
        raise
    return server, address.url(listener.getsockname()[1])


@attrs.frozen
class _Address:
    host: str
    port: int
    path: str

    @classmethod
    def of(cls, url: str) -> _Address:
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as exc:
            raise InvalidEndpointURLError(f"{url!r}: {exc}") from exc
        if parts.scheme == "https":
            raise InvalidEndpointURLError("https is not served", fix=_PROXY)
        if parts.scheme != "http" or not parts.hostname or port is None or parts.query or "@" in parts.netloc:
            raise InvalidEndpointURLError(
                f"{url!r} is not an address to serve at", fix='write one such as "http://127.0.0.1:8000"'
            )
        return cls(parts.hostname, port, parts.path.rstrip("/"))

    def url(self, port: int) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{port}{self.path}"
