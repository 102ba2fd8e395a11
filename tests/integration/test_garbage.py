"""A failed call leaves no reference cycle: its request, its frames and its connection are freed when it ends."""

from __future__ import annotations

import contextlib
import gc
import json
import socket
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from goplugins import Manager, PluginError
from tests.servers import free_port

pytestmark = pytest.mark.matrix

Open = Callable[[], Any]


class Request(dict[str, Any]):
    """A mapping that can be referred to weakly."""


@contextlib.contextmanager
def listening(answer: bytes | None) -> Iterator[int]:
    """A port whose connections get ``answer`` for each request; None never answers, empty closes the connection."""
    server = socket.create_server(("127.0.0.1", 0))
    open_now: list[socket.socket] = []

    def serve(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while connection.recv(65536):
                if answer == b"":
                    connection.close()
                    return
                if answer is not None:
                    connection.sendall(answer)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                open_now.append(connection)
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield server.getsockname()[1]
    finally:
        server.shutdown(socket.SHUT_RDWR)  # ends accept(), which close() does not
        server.close()
        for connection in open_now:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()


def reply(body: bytes, status: str = "200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status.encode(), len(body), body)


RETRIED = {"retry": {"max_retries": 2, "idempotent": True, "initial_interval": "5ms"}}
BREAKER = {"circuit_breaker": {"failure_threshold": 1, "min_request_threshold": 1, "recovery_timeout": 60}}
LIMIT = {"rate_limit": {"enabled": True, "requests_per_second": 0.001, "burst_size": 1}}
SCRIPT = "import sys; [sys.stdout.write('no JSON\\n') or sys.stdout.flush() for line in sys.stdin]"

REPLIES: dict[str, tuple[bytes | None, dict[str, Any]]] = {
    "no reply": (None, {}),
    "connection lost": (b"", {}),
    "connection lost, retried": (b"", RETRIED),
    "not HTTP": (b"garbage\r\n\r\n", {}),
    "cut": (b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n{", {}),
    "not JSON": (reply(b"<html>"), {}),
    "another type": (reply(b'{"data": "x"}'), {}),
    "rejected": (reply(b'{"error": "no such customer"}'), {}),
    "too large": (reply(b'{"data": "%b"}' % (b"x" * 5000)), {"connection": {"max_response_bytes": 1000}}),
    "500": (reply(b"{}", "500 Internal Server Error"), {}),
    "503, retried": (reply(b"", "503 Service Unavailable"), RETRIED),
    "429, retried": (reply(b"", "429 Too Many Requests"), RETRIED),
    "401": (reply(b"", "401 Unauthorized"), {}),
    "redirect": (reply(b"", "302 Found"), {}),
    "breaker": (reply(b"", "500 Internal Server Error"), BREAKER),
    "breaker, retried": (reply(b"", "503 Service Unavailable"), RETRIED | BREAKER),
    "rate limit": (reply(b'{"data": 1}'), LIMIT),
    "fallback": (reply(b"", "500 Internal Server Error"), {"fallback": {"value": 3}}),
    "cache": (reply(b"", "500 Internal Server Error"), {"cache": {"ttl": 5}, "retry": {"idempotent": True}}),
    "hedge": (
        reply(b"", "500 Internal Server Error"),
        {"hedge": {"enabled": True, "delay": 0.001}, "retry": {"idempotent": True, "max_retries": 0}},
    ),
}  # fmt: skip


def left(config: dict[str, Any], timeout: float = 5.0) -> int:
    """Requests of five failed calls that are still there when the calls have ended."""
    quiet = {"retry": {"max_retries": 0}, "circuit_breaker": {"enabled": False}, "health_check": {"enabled": False}}
    with Manager(Any, int) as manager:
        manager.load_from_config({"plugins": [{"name": "p", **quiet, **config}]})
        with contextlib.suppress(PluginError):
            manager.execute("p", {}, timeout=timeout)  # first: imports, and types whose codecs are made once
        gc.collect()
        gc.disable()
        try:
            requests = []
            for _ in range(5):
                request = Request(a="x")
                requests.append(weakref.ref(request))
                with contextlib.suppress(PluginError):
                    manager.execute("p", request, timeout=timeout)
                del request
            return sum(each() is not None for each in requests)
        finally:
            gc.enable()


@pytest.mark.parametrize("name", REPLIES)
@pytest.mark.parametrize("engine", ["fast", "requests"])
def test_replies(name, engine):
    answer, settings = REPLIES[name]
    with listening(answer) as port:
        endpoint = {"transport": "http", "endpoint": f"http://127.0.0.1:{port}/", "options": {"engine": engine}}
        assert left(endpoint | settings, 0.1 if answer is None or name == "cut" else 5.0) == 0


@pytest.mark.parametrize("settings", [{}, RETRIED, BREAKER], ids=["once", "retried", "breaker"])
@pytest.mark.parametrize(
    "wire",
    [
        {"transport": "http", "endpoint": "http://127.0.0.1:{port}/"},
        {"transport": "http", "endpoint": "http://127.0.0.1:{port}/", "options": {"engine": "requests"}},
        {"transport": "http", "endpoint": "http://name.invalid/"},
        {"transport": "https", "endpoint": "https://127.0.0.1:{port}/"},
        {"transport": "grpc", "endpoint": "127.0.0.1:{port}"},
        {"transport": "unix", "endpoint": "/nonexistent/p.sock"},
        {"transport": "exec", "executable": "/nonexistent/program"},
        pytest.param(
            {"transport": "exec", "executable": sys.executable, "args": ["-c", "pass"]}, marks=pytest.mark.processes
        ),
        pytest.param(
            {"transport": "exec", "executable": sys.executable, "args": ["-c", SCRIPT]}, marks=pytest.mark.processes
        ),
    ],
    ids=lambda wire: "-".join(str(part) for part in list(wire.values())[:2])[:30],
)
def test_no_connection(wire, settings):
    filled = json.loads(json.dumps(wire).replace("{port}", str(free_port())))
    assert left(filled | settings, 2.0) == 0


@pytest.mark.parametrize("engine", ["fast", "requests"])
def test_tls_handshakes(engine):
    options = {"options": {"engine": engine}}
    with listening(None) as port:
        assert left({"transport": "https", "endpoint": f"https://127.0.0.1:{port}/", **options}, 0.1) == 0
    with listening(b"no TLS at all") as port:
        assert left({"transport": "https", "endpoint": f"https://127.0.0.1:{port}/", **options}) == 0
