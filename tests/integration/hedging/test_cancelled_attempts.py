"""Cancelling an attempt from another thread ends it at once, and closes its connection, at every stage."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from goplugins.config import ConnectionConfig, PluginConfig
from goplugins.runtime.call import Call
from goplugins.runtime.cancellation import AttemptCancelledError, Cancellation
from goplugins.runtime.clock import SYSTEM_CLOCK
from goplugins.runtime.deadline import CancellableDeadline, Deadline
from goplugins.transports.http import HTTPPlugin
from goplugins.transports.json_codec import codec_for
from tests.integration.hedging.conftest import WIRES, Hedged, Service
from tests.marks import sample
from tests.servers import Peer, RawServer


class Attempt:
    """One attempt on a thread of its own."""

    def __init__(self, plugin: Any, value: Any = "x") -> None:
        self.cancellation = Cancellation()
        deadline = CancellableDeadline(Deadline.after(20.0).at, SYSTEM_CLOCK, self.cancellation)
        self._call = Call(value, codec_for(), deadline, "id-1", idempotent=True)
        self._plugin = plugin
        self.outcome: Any = None
        plugin.prepare(self._call)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.outcome = self._plugin.send(self._call)
        except Exception as exc:
            self.outcome = exc

    def cancel(self) -> Any:
        """Cancels the attempt; returns its outcome."""
        self.cancellation.cancel()
        return self.end()

    def end(self) -> Any:
        self._thread.join(3)
        assert not self._thread.is_alive(), "the attempt did not end"
        return self.outcome


@pytest.fixture
def make_http() -> Iterator[Callable[..., HTTPPlugin]]:
    made: list[HTTPPlugin] = []

    def build(endpoint: str, **connection: Any) -> HTTPPlugin:
        transport = endpoint.partition(":")[0]
        config = PluginConfig(
            name="p",
            transport=transport,  # type: ignore[arg-type]
            endpoint=endpoint,
            connection=ConnectionConfig(**connection),
        )
        made.append(HTTPPlugin(config))
        return made[-1]

    yield build
    for plugin in made:
        plugin.close()


def eventually(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize("wire", WIRES)
def test_cancel_while_waiting_for_the_reply(
    wire: str, serve: Callable[..., Service], make: Callable[..., Hedged]
) -> None:
    service = serve(wire, lambda number: 0.0 if number else 20.0)
    hedged = make(wire, service.endpoint)
    attempt = Attempt(hedged.plugin)
    eventually(lambda: service.timeouts)
    assert isinstance(attempt.cancel(), AttemptCancelledError)
    assert hedged.in_use == 0
    assert Attempt(hedged.plugin, "next").end() == "next"


@pytest.mark.parametrize("wire", WIRES)
def test_cancel_before_the_start(wire: str, serve: Callable[..., Service], make: Callable[..., Hedged]) -> None:
    service = serve(wire)
    hedged = make(wire, service.endpoint)
    deadline = CancellableDeadline(Deadline.after(5.0).at, SYSTEM_CLOCK, cancellation := Cancellation())
    call = Call("x", codec_for(), deadline, "id-1", idempotent=True)
    hedged.plugin.prepare(call)
    cancellation.cancel()
    with pytest.raises(AttemptCancelledError):
        hedged.plugin.send(call)
    assert hedged.in_use == 0
    assert Attempt(hedged.plugin, "next").end() == "next"


@pytest.mark.parametrize("wire", WIRES)
def test_cancel_after_the_end(wire: str, serve: Callable[..., Service], make: Callable[..., Hedged]) -> None:
    hedged = make(wire, serve(wire).endpoint)
    attempt = Attempt(hedged.plugin, "first")
    assert attempt.end() == "first"
    later = [Attempt(hedged.plugin, number) for number in range(5)]
    attempt.cancellation.cancel()
    assert [each.end() for each in later] == list(range(5))


@pytest.mark.parametrize("wire", sample(WIRES, ["http"], pytest.mark.stress))
def test_cancel_while_waiting_for_a_connection(
    wire: str, serve: Callable[..., Service], make: Callable[..., Hedged]
) -> None:
    service = serve(wire, lambda number: 0.0 if number else 1.5)
    hedged = make(wire, service.endpoint, connection={"max_connections": 1})
    busy = Attempt(hedged.plugin, "busy")
    eventually(lambda: service.timeouts)
    waiting = Attempt(hedged.plugin)
    time.sleep(0.05)
    started = time.monotonic()
    assert isinstance(waiting.cancel(), AttemptCancelledError)
    assert time.monotonic() - started < 1.0
    assert busy.end() == "busy"
    assert Attempt(hedged.plugin, "next").end() == "next"
    assert len(service.timeouts) == 2


def test_cancel_while_sending(make_http: Callable[..., HTTPPlugin]) -> None:
    def read_nothing(peer: Peer) -> None:
        peer.server.closing.wait(20)

    with RawServer(read_nothing) as server:
        plugin = make_http(server.url)
        attempt = Attempt(plugin, "x" * 30_000_000)
        eventually(lambda: server.open_now)
        time.sleep(0.1)
        assert isinstance(attempt.cancel(), AttemptCancelledError)
        assert plugin._engine.pool.open == 0  # type: ignore[attr-defined]


def test_cancel_within_the_reply(make_http: Callable[..., HTTPPlugin]) -> None:
    def drip(peer: Peer) -> None:
        if peer.read_request() is not None:
            peer.drip(b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n" + b" " * 10000, 0.01)

    with RawServer(drip) as server:
        plugin = make_http(server.url)
        attempt = Attempt(plugin)
        eventually(lambda: server.requests)
        time.sleep(0.1)
        assert isinstance(attempt.cancel(), AttemptCancelledError)
        assert plugin._engine.pool.open == 0  # type: ignore[attr-defined]


def test_cancel_within_the_tls_handshake(make_http: Callable[..., HTTPPlugin]) -> None:
    def silent(peer: Peer) -> None:
        peer.hang()

    with RawServer(silent) as server:
        plugin = make_http(server.url.replace("http:", "https:"))
        attempt = Attempt(plugin)
        eventually(lambda: server.open_now)
        time.sleep(0.1)
        assert isinstance(attempt.cancel(), AttemptCancelledError)
        assert plugin._engine.pool.open == 0  # type: ignore[attr-defined]


@pytest.mark.skipif(not hasattr(socket, "SO_INCOMING_CPU"), reason="relies on how Linux treats a full accept queue")
def test_cancel_while_connecting(make_http: Callable[..., HTTPPlugin]) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        queue = [socket.socket() for _ in range(4)]  # never accepted, so that the system drops further connections
        for sock in queue:
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
        plugin = make_http(f"http://127.0.0.1:{port}", connection_timeout=15.0)
        attempt = Attempt(plugin)
        time.sleep(0.2)
        assert attempt.outcome is None
        assert isinstance(attempt.cancel(), AttemptCancelledError)
        assert plugin._engine.pool.open == 0  # type: ignore[attr-defined]
        for sock in queue:
            sock.close()


def test_a_cancelled_attempt_does_not_reconnect(make_http: Callable[..., HTTPPlugin]) -> None:
    """A cancel closes the connection, as a dead idle one is closed, for which idempotent calls reconnect silently."""
    answer = threading.Event()

    def handler(peer: Peer) -> None:
        from tests.servers import ok

        while (request := peer.read_request()) is not None:
            if request.json["data"] == "warm up":
                peer.send(ok(request))
            else:
                answer.wait(10)

    with RawServer(handler) as server:
        plugin = make_http(server.url)
        assert Attempt(plugin, "warm up").end() == "ok"
        attempt = Attempt(plugin)
        eventually(lambda: len(server.requests) == 2)
        assert isinstance(attempt.cancel(), AttemptCancelledError)
        time.sleep(0.05)
        assert len(server.requests) == 2
        assert server.connections == 1
        answer.set()
