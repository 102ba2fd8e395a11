from __future__ import annotations

import contextlib
import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from goplugins import serve as serve_module
from goplugins.config import AuthConfig, ConnectionConfig, HealthCheckConfig, PluginConfig
from goplugins.runtime.call import Call
from goplugins.runtime.deadline import Deadline
from goplugins.serve._unix import UnixServer, unix_server
from goplugins.transports.json_codec import codec_for
from goplugins.transports.unix import UnixSocketPlugin
from tests.servers import Handler, Peer, RawServer


@pytest.fixture
def path() -> Iterator[str]:
    """A short path: a socket's path has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="gp-") as folder:
        yield os.path.join(folder, "s")


def read_line(peer: Peer) -> dict[str, Any] | None:
    """The next line; None once the client has closed."""
    while b"\n" not in peer.buffer:
        if not peer._fill():
            return None
    line, _, peer.buffer = peer.buffer.partition(b"\n")
    peer.server.requests.append(line)  # type: ignore[arg-type]
    value: dict[str, Any] = json.loads(line)
    return value


def line(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields).encode() + b"\n"


def ok(request: dict[str, Any], data: Any = "ok", **fields: Any) -> bytes:
    return line({"type": request["type"], "request_id": request["request_id"], "success": True, "data": data, **fields})


def reply_ok(peer: Peer) -> None:
    while (request := read_line(peer)) is not None:
        peer.send(ok(request))


def replies(*made: Callable[[dict[str, Any]], bytes]) -> Handler:
    """Sends these replies to a connection's first requests, and closes."""

    def handler(peer: Peer) -> None:
        for make in made:
            request = read_line(peer)
            if request is None:
                return
            peer.send(make(request))

    return handler


@pytest.fixture
def raw(path: str) -> Iterator[Callable[..., RawServer]]:
    """Starts a raw server at ``path``."""
    servers: list[RawServer] = []

    def start(handler: Handler = reply_ok) -> RawServer:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        server = RawServer(handler, unix=path)
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def make(path: str) -> Iterator[Callable[..., UnixSocketPlugin]]:
    """Makes plugins and closes them after the test; keywords are of ConnectionConfig, and kind of health checks."""
    plugins: list[UnixSocketPlugin] = []

    def build(
        endpoint: str = "", *, auth: AuthConfig | None = None, kind: str | None = None, **connection: Any
    ) -> UnixSocketPlugin:
        config = PluginConfig(
            name="p",
            transport="unix",  # type: ignore[arg-type]
            endpoint=endpoint or path,
            auth=auth,
            health_check=HealthCheckConfig(kind=kind),
            connection=ConnectionConfig(**connection),
        )
        plugin = UnixSocketPlugin(config)
        plugins.append(plugin)
        return plugin

    yield build
    for plugin in plugins:
        plugin.close()


def call(plugin: Any, value: Any = None, timeout: float = 2.0, **fields: Any) -> Any:
    """One attempt, as the guarded plugin makes it."""
    made = new_call(value, timeout, **fields)
    plugin.prepare(made)
    made.attempts = 1
    return plugin.send(made)


def new_call(value: Any = None, timeout: float = 2.0, request_id: str = "req-1", **fields: Any) -> Call:
    return Call(value, codec_for(), Deadline.after(timeout), request_id, **fields)


@serve_module.plugin(name="echo", version="2.3.4", description="echo plugin", author="a", capabilities=["execute"])
def echo(request: Any) -> Any:
    return request


class Running:
    """A goplugins server on a thread."""

    def __init__(self, server: UnixServer) -> None:
        self.server = server
        self.thread = threading.Thread(target=server.run, daemon=True)
        self.thread.start()

    def stop(self, grace: float = 5.0) -> None:
        self.server.stop(grace)
        self.thread.join(grace + 2)
        assert not self.thread.is_alive()


@pytest.fixture
def serve(path: str) -> Iterator[Callable[..., Running]]:
    """Serves a plugin at ``path``, or another endpoint."""
    servers: list[Running] = []

    def start(
        plugin: Any = echo,
        endpoint: str = "",
        *,
        auth: AuthConfig | None = None,
        threads: int = 8,
        max_request_bytes: int = 8 << 20,
    ) -> Running:
        server = unix_server(plugin, endpoint or path, auth=auth, threads=threads, max_request_bytes=max_request_bytes)
        servers.append(Running(server))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()
