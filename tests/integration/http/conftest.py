from __future__ import annotations

import datetime
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme

from goplugins import Manager
from goplugins.config import AuthConfig, ConnectionConfig, HealthCheckConfig, OperationConfig, PluginConfig
from goplugins.errors import PluginError
from goplugins.runtime.call import Call
from goplugins.runtime.deadline import Deadline
from goplugins.transports.http import HTTPPlugin
from goplugins.transports.json_codec import codec_for
from tests.servers import Handler, Peer, RawServer, Request, reply_ok


@pytest.fixture
def serve() -> Iterator[Callable[..., RawServer]]:
    """Starts raw servers and closes them after the test."""
    servers: list[RawServer] = []

    def start(handler: Handler = reply_ok, **options: Any) -> RawServer:
        server = RawServer(handler, **options)
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.close()


@pytest.fixture(params=["fast", "requests"])
def engine(request: pytest.FixtureRequest) -> str:
    """The engine: every test of this directory runs over both."""
    return str(request.param)


@pytest.fixture
def make(engine: str) -> Iterator[Callable[..., HTTPPlugin]]:
    """Makes plugins and closes them after the test; keywords are those of ConnectionConfig, or named sections."""
    plugins: list[HTTPPlugin] = []

    def build(
        endpoint: str,
        *,
        auth: AuthConfig | None = None,
        options: dict[str, Any] | None = None,
        health: str | None = None,
        resolver: Any = None,
        operations: dict[str, OperationConfig] | None = None,
        **connection: Any,
    ) -> HTTPPlugin:
        config = PluginConfig(
            name="p",
            transport="https" if endpoint.startswith("https") else "http",  # type: ignore[arg-type]
            endpoint=endpoint,
            auth=auth,
            options={"engine": engine, **(options or {})},
            operations=operations or {},
            health_check=HealthCheckConfig(endpoint=health),
            connection=ConnectionConfig(**connection),
        )
        plugin = HTTPPlugin(config, resolver=resolver)
        plugins.append(plugin)
        return plugin

    yield build
    for plugin in plugins:
        plugin.close()


def call(plugin: HTTPPlugin, value: Any = None, timeout: float = 2.0, **fields: Any) -> Any:
    """One attempt, as the guarded plugin makes it."""
    request_id = fields.pop("request_id", "req-1")
    made = Call(value, codec_for(), Deadline.after(timeout), request_id, **fields)
    plugin.prepare(made)
    made.attempts = 1
    return plugin.send(made)


def failure(plugin: HTTPPlugin, **fields: Any) -> PluginError:
    """The error of a call that must fail; for other threads."""
    with pytest.raises(PluginError) as caught:
        call(plugin, **fields)
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
def server_context(authority: trustme.CA) -> Callable[..., ssl.SSLContext]:
    """TLS for a server with a certificate for ``name``, perhaps expired, perhaps requiring one of the client."""

    def make_context(
        name: str = "127.0.0.1", *, expired: bool = False, client_authority: trustme.CA | None = None
    ) -> ssl.SSLContext:
        when = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC) if expired else None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name, not_after=when).configure_cert(context)
        if client_authority is not None:
            client_authority.configure_trust(context)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    return make_context


@pytest.fixture(scope="session")
def client_files(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[str, str]]:
    """Certificate and key files of a client, by the given authority."""

    def write(by: trustme.CA = authority) -> tuple[str, str]:
        folder: Path = tmp_path_factory.mktemp("client")
        issued = by.issue_cert("client@example.org")
        issued.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
        issued.private_key_pem.write_to_path(str(folder / "key.pem"))
        return str(folder / "cert.pem"), str(folder / "key.pem")

    return write


class Rest:
    """One REST plugin ``p`` and its server.

    Attributes:
        manager: has the plugin.
        server: has the requests.
    """

    def __init__(self, manager: Manager[Any, Any], server: RawServer) -> None:
        self.manager = manager
        self.server = server

    def __call__(
        self, request: Any = None, operation: str = "op", answer: Any = Any, *, request_type: Any = Any, **fields: Any
    ) -> Any:
        """The answer to a call of an operation."""
        return self.manager.bind("p", request_type, answer, operation=operation)(request, **{"timeout": 5, **fields})

    def error(self, request: Any = None, operation: str = "op", answer: Any = Any, **fields: Any) -> PluginError:
        """The error of a call that must fail."""
        with pytest.raises(PluginError) as caught:
            self(request, operation, answer, **fields)
        return caught.value

    def sent(self, request: Any = None, operation: str = "op", **fields: Any) -> Request:
        """The HTTP request of a call, whatever its answer is."""
        before = len(self.server.requests)
        self(request, operation, **fields)
        assert len(self.server.requests) == before + 1
        return self.server.requests[-1]


@pytest.fixture(params=["fast", "requests", "session"])
def rest(request: pytest.FixtureRequest, serve: Callable[..., RawServer]) -> Iterator[Callable[..., Rest]]:
    """Makes a plugin for REST over each engine. A mapping without names is the operation ``op``."""
    managers: list[Manager[Any, Any]] = []

    def build(
        operations: dict[str, Any] | None = None,
        handler: Handler | bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        *,
        path: str = "",
        **plugin: Any,
    ) -> Rest:
        server = serve(always(handler) if isinstance(handler, bytes) else handler)
        if operations is not None and not all(isinstance(each, dict) for each in operations.values()):
            operations = {"op": operations}
        fields = {"name": "p", "transport": "http", "endpoint": f"http://127.0.0.1:{server.port}{path}"}
        options = plugin.pop("options", {})
        if request.param != "session":
            options = {"engine": request.param, **options}
        config = {
            "retry": {"max_retries": 0},
            "circuit_breaker": {"enabled": False},
            **fields,
            **plugin,
            "options": options,
            "operations": operations or {},
        }
        manager: Manager[Any, Any] = Manager()
        managers.append(manager)
        if request.param == "session":
            session = requests.Session()
            session.trust_env = False
            read = PluginConfig.from_mapping(config)
            manager.register(HTTPPlugin(read, session=session), read)
        else:
            manager.load_from_config({"plugins": [config]})
        return Rest(manager, server)

    yield build
    for manager in managers:
        manager.shutdown()


def always(reply: bytes) -> Handler:
    """Sends the same reply to every request of a connection."""

    def handler(peer: Peer) -> None:
        while peer.read_request() is not None:
            peer.send(reply)

    return handler
