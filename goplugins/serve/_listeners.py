"""Opens the server for a URL, by its scheme."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypedDict, Unpack
from urllib.parse import urlsplit

from goplugins.config.endpoints import Endpoint
from goplugins.config.masking import mask_url
from goplugins.enums import TransportType
from goplugins.errors import ConfigError, InvalidEndpointURLError
from goplugins.serve._addresses import bind
from goplugins.serve._served import Served
from goplugins.serve._wsgi import wsgi

if TYPE_CHECKING:
    from goplugins.config.credentials import AuthConfig
    from goplugins.serve._grpc import ServerTLS

_PROXY = "serve http behind a reverse proxy that terminates TLS"


class ServerSettings(TypedDict):
    """What all servers take; see :func:`goplugins.serve.start`."""

    auth: AuthConfig | None
    threads: int
    max_request_bytes: int


class Server(Protocol):
    """A server of any transport."""

    def run(self) -> None:
        """Serves until :meth:`stop`, on the calling thread."""
        ...

    def stop(self, grace: float) -> None:
        """Accepts no more calls; :meth:`run` returns after the calls in flight, or after ``grace`` seconds."""
        ...


def open_server(
    plugin: Served, url: str, tls: ServerTLS | None, **settings: Unpack[ServerSettings]
) -> tuple[Server, str]:
    """A listening server and its URL, which has the real port in place of port 0.

    Raises:
        ConfigError: the address can't be used, ``auth`` lacks its credentials, or a package is not installed.
    """
    scheme = url.partition(":")[0].lower()
    if tls is not None and scheme != "grpcs":
        raise InvalidEndpointURLError(f"{mask_url(url)!r}: tls is for grpcs:// addresses", fix=_PROXY)
    if scheme == "stdio":
        from goplugins.serve._stdio import stdio_server

        return stdio_server(plugin, auth=settings["auth"], max_request_bytes=settings["max_request_bytes"]), url
    if scheme == "unix":
        from goplugins.serve._unix import unix_server

        return unix_server(plugin, endpoint_of(url), **settings), url
    if scheme in ("grpc", "grpcs"):
        return _grpc_server(plugin, url, scheme, tls, settings)
    return _http_server(plugin, url, settings)


def endpoint_of(url: str) -> str:
    """The ``endpoint`` of a client's configuration for this URL.

    >>> endpoint_of("http://127.0.0.1:8000/p"), endpoint_of("grpc://[::1]:9000"), endpoint_of("unix:///run/x.sock")
    ('http://127.0.0.1:8000/p', '[::1]:9000', '/run/x.sock')
    """
    scheme = url.partition(":")[0].lower()
    if scheme == "unix":
        return url[len("unix:") :].removeprefix("//")
    return urlsplit(url).netloc if scheme in ("grpc", "grpcs") else url


def _grpc_server(
    plugin: Served, url: str, scheme: str, tls: ServerTLS | None, settings: ServerSettings
) -> tuple[Server, str]:
    from goplugins.serve._grpc import Server as GRPCServer

    if scheme == "grpcs" and tls is None:
        raise InvalidEndpointURLError(f"{mask_url(url)!r} needs certificate files", fix="pass tls=serve.ServerTLS(...)")
    address = _listen_address(
        TransportType.GRPC, url.partition("://")[2].rstrip("/"), url, f"{scheme}://127.0.0.1:9000"
    )
    server = GRPCServer(plugin, address.authority, tls=tls, **settings)
    return server, f"{scheme}://{_in_url(address.host)}:{server.port}"


def _http_server(plugin: Served, url: str, settings: ServerSettings) -> tuple[Server, str]:
    if url.lower().startswith("https:"):
        raise InvalidEndpointURLError("https is not served", fix=_PROXY)
    address = _listen_address(TransportType.HTTP, url, url, "http://127.0.0.1:8000")
    path = address.path.rstrip("/")
    limit = settings["max_request_bytes"]
    app = wsgi(plugin, auth=settings["auth"], path=path or None, max_request_bytes=limit)
    try:
        from goplugins.serve._waitress import Server as HTTPServer
    except ModuleNotFoundError as exc:
        if exc.name != "waitress":
            raise
        raise ConfigError("serving HTTP needs the package waitress", fix="pip install 'goplugins[serve]'") from exc
    base = f"http://{_in_url(address.host)}"
    listener = bind(address.host, address.port or 0, f"{base}:{address.port}{path}")
    try:
        server = HTTPServer(app, listener, threads=settings["threads"], max_request_bytes=limit)
    except BaseException:
        listener.close()
        raise
    return server, f"{base}:{listener.getsockname()[1]}{path}"


def _listen_address(transport: TransportType, text: str, url: str, example: str) -> Endpoint:
    """Parses the address of a URL; it must name its port, and must not have a query."""
    problem = f"{str(mask_url(url))!r} is not an address to serve at"
    fix = f'write one such as "{example}"'
    try:
        address = Endpoint.parse(transport, text or "/", listen=True)
    except ConfigError as exc:
        raise InvalidEndpointURLError(f"{problem}: it {exc.problems[0].message}", fix=fix) from None
    if address.port is None:
        raise InvalidEndpointURLError(f"{problem}: it has no port", fix=fix)
    if address.query or (transport is TransportType.GRPC and address.scheme):
        raise InvalidEndpointURLError(f"{problem}: it must end after the port or path", fix=fix)
    return address


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
