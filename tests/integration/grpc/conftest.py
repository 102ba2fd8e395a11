"""Plugins over real gRPC servers: the one of goplugins.serve, and handlers of bytes made by a test."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import pytest
import trustme

from goplugins.config import AuthConfig, ConnectionConfig, HealthCheckConfig, PluginConfig
from goplugins.errors import PluginError
from goplugins.runtime.call import Call
from goplugins.runtime.deadline import Deadline
from goplugins.serve import ServedPlugin
from goplugins.serve._grpc import Server, ServerTLS
from goplugins.transports.grpc import GRPCPlugin
from goplugins.transports.grpc.fork_support import load
from goplugins.transports.grpc.messages import EXECUTE, messages
from goplugins.transports.json_codec import codec_for

grpc = load()

Handler = Callable[[bytes, Any], bytes]


class Handlers:
    def __init__(self, methods: dict[str, Handler]) -> None:
        self.methods = methods

    def service(self, details: Any) -> Any:
        found = self.methods.get(details.method)
        return None if found is None else grpc.unary_unary_rpc_method_handler(found)


class RawServer:
    """A grpcio server whose methods take and return bytes. ``calls`` has each request's bytes and metadata."""

    def __init__(
        self, methods: dict[str, Handler] | Handler, *, port: int = 0, credentials: Any = None, **options: Any
    ):
        if callable(methods):
            methods = {EXECUTE: methods}
        self.calls: list[tuple[bytes, dict[str, Any]]] = []
        counted = {name: self._counted(method) for name, method in methods.items()}
        self.server = grpc.server(
            futures.ThreadPoolExecutor(16),
            handlers=(Handlers(counted),),
            options=[(f"grpc.{name}", value) for name, value in options.items()] + [("grpc.so_reuseport", 0)],
        )
        address = f"127.0.0.1:{port}"
        if credentials is None:
            self.port = self.server.add_insecure_port(address)
        else:
            self.port = self.server.add_secure_port(address, credentials)
        self.server.start()
        self.address = f"127.0.0.1:{self.port}"

    def _counted(self, method: Handler) -> Handler:
        def handle(request: bytes, context: Any) -> bytes:
            self.calls.append((request, dict(context.invocation_metadata())))
            return method(request, context)

        return handle

    def close(self) -> None:
        self.server.stop(0).wait(5)


def reply(request: bytes, **fields: Any) -> bytes:
    """The message that answers a request."""
    request_id = messages().ExecuteRequest.FromString(request).request_id
    return messages().ExecuteResponse(**{"request_id": request_id, **fields}).SerializeToString()


def payload(request: bytes) -> bytes:
    """The JSON of a request."""
    found: bytes = messages().ExecuteRequest.FromString(request).payload
    return found


def ok(request: bytes, context: Any) -> bytes:
    return reply(request, payload=b'"ok"')


def aborting(status: str, text: str = "as requested", trailing: tuple[tuple[str, str], ...] = ()) -> Handler:
    """A handler that ends with a status."""

    def handle(request: bytes, context: Any) -> bytes:
        if trailing:
            context.set_trailing_metadata(trailing)
        context.abort(getattr(grpc.StatusCode, status), text)
        raise AssertionError

    return handle


class Gate:
    """A handler that waits: a test can wait until a call has begun, and decides when it ends."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.released = threading.Event()

    def __call__(self, request: bytes, context: Any) -> bytes:
        self.begun.release()
        self.released.wait(10)
        return reply(request, payload=b"1")

    def wait(self) -> None:
        """Waits until one more call has begun."""
        assert self.begun.acquire(timeout=10)


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.released.set()


@pytest.fixture
def raw() -> Iterator[Callable[..., RawServer]]:
    servers: list[RawServer] = []

    def start(methods: dict[str, Handler] | Handler = ok, **options: Any) -> RawServer:
        servers.append(RawServer(methods, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


class Running:
    """A running server of goplugins.serve."""

    def __init__(self, plugin: ServedPlugin[Any, Any], address: str = "127.0.0.1:0", **options: Any) -> None:
        self.server = Server(plugin, address, **options)
        self.port = self.server.port
        self.address = f"{address.rpartition(':')[0]}:{self.port}"
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()

    def stop(self, grace: float = 0.0) -> None:
        self.server.stop(grace)
        self.thread.join(5)
        assert not self.thread.is_alive()


@pytest.fixture
def serve() -> Iterator[Callable[..., Running]]:
    """Serves plugins over gRPC and stops after the test."""
    running: list[Running] = []

    def start(plugin: ServedPlugin[Any, Any], address: str = "127.0.0.1:0", **options: Any) -> Running:
        running.append(Running(plugin, address, **options))
        return running[-1]

    yield start
    for server in running:
        server.stop()


@pytest.fixture
def make() -> Iterator[Callable[..., GRPCPlugin]]:
    """Makes plugins and closes them after the test; keywords are those of ConnectionConfig, or named sections."""
    plugins: list[GRPCPlugin] = []

    def build(
        endpoint: str,
        *,
        transport: Any = "grpc",
        auth: AuthConfig | None = None,
        options: dict[str, Any] | None = None,
        health: str | None = None,
        kind: str | None = None,
        **connection: Any,
    ) -> GRPCPlugin:
        config = PluginConfig(
            name="p",
            transport=transport,
            endpoint=endpoint,
            auth=auth,
            options=options or {},
            health_check=HealthCheckConfig(endpoint=health, kind=kind),
            connection=ConnectionConfig(**connection),
        )
        plugins.append(GRPCPlugin(config))
        return plugins[-1]

    yield build
    for plugin in plugins:
        plugin.close()


def call(plugin: GRPCPlugin, value: Any = None, timeout: float = 2.0, codec: Any = None, **fields: Any) -> Any:
    """One attempt, as the guarded plugin makes it."""
    made = Call(value, codec or codec_for(), Deadline.after(timeout), fields.pop("request_id", "req-1"), **fields)
    plugin.prepare(made)
    made.attempts = 1
    return plugin.send(made)


def failure(plugin: GRPCPlugin, value: Any = None, **fields: Any) -> PluginError:
    """The error of a call that has to fail."""
    with pytest.raises(PluginError) as caught:
        call(plugin, value, **fields)
    return caught.value


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def ca_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


@pytest.fixture(scope="session")
def files(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[str, str]]:
    """Certificate and key files for ``name``, perhaps expired, perhaps by another authority."""

    def write(name: str = "127.0.0.1", *, expired: bool = False, by: trustme.CA = authority) -> tuple[str, str]:
        folder: Path = tmp_path_factory.mktemp("certificate")
        when = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC) if expired else None
        issued = by.issue_cert(name, not_after=when)
        issued.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
        issued.private_key_pem.write_to_path(str(folder / "key.pem"))
        return str(folder / "cert.pem"), str(folder / "key.pem")

    return write


@pytest.fixture
def tls(files: Callable[..., tuple[str, str]]) -> Callable[..., ServerTLS]:
    """TLS for a server."""

    def build(ca: str = "", **certificate: Any) -> ServerTLS:
        cert, key = files(**certificate)
        return ServerTLS(cert, key, ca)

    return build
