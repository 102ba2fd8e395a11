"""Overloaded servers: they still report their health, and accept connections."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from goplugins import Manager, PluginStatus, serve
from goplugins.serve import _grpc, _waitress
from goplugins.transports.grpc.fork_support import load
from goplugins.transports.grpc.messages import CHECK, EXECUTE, HEALTH, messages

grpc = load()


class Gate:
    """Calls that signal when they run, and end when they are released."""

    def __init__(self) -> None:
        self.running = threading.Semaphore(0)
        self.release = threading.Event()
        self.plugin = serve.plugin(name="gate", version="1.0")(self.hold)

    def hold(self, request: int) -> int:
        self.running.release()
        self.release.wait(10)
        return request


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.release.set()


def until(condition: Any, seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not become true in time"
        time.sleep(0.005)


@pytest.mark.parametrize("transport", ["http", "grpc", "unix"])
def test_known_fault_a_server_with_all_threads_busy_appeared_dead(gate: Gate, transport: str, tmp_path: Path) -> None:
    url = f"unix://{tmp_path}/s" if transport == "unix" else f"{transport}://127.0.0.1:0"
    config = {"name": "gate", "transport": transport, "health_check": {"enabled": False, "kind": "message"}}
    with serve.start(gate.plugin, url, threads=2) as server, Manager(int, int) as manager:
        manager.load_from_config({"plugins": [{**config, "endpoint": server.endpoint}]})
        calls = [manager.submit("gate", number, timeout=10) for number in range(5)]  # two run, three wait
        for _ in range(2):
            assert gate.running.acquire(timeout=5)
        started = time.monotonic()
        for _ in range(3):
            assert manager.health()["gate"].status is PluginStatus.HEALTHY
        if transport != "http":  # the HTTP client reports the configured information
            assert manager.get_plugin("gate").info().version == "1.0"
        assert time.monotonic() - started < 1.0
        assert not any(call.done() for call in calls)
        gate.release.set()
        assert [call.result(5) for call in calls] == [0, 1, 2, 3, 4]


class TestHTTP:
    def test_a_hanging_health_check_does_not_block_other_requests(self) -> None:
        begun, release = threading.Event(), threading.Event()

        def hang() -> bool:
            begun.set()
            return release.wait(10)

        @serve.plugin(health=hang)
        def echo(request: int) -> int:
            return request

        with serve.start(echo, threads=1) as server, ThreadPoolExecutor(1) as pool:
            health = pool.submit(requests.get, server.url + "/health", timeout=10)
            assert begun.wait(5)
            assert requests.get(server.url + "/info", timeout=5).status_code == 200
            assert requests.post(server.url, json={"data": 7}, timeout=5).json()["data"] == 7
            release.set()
            assert health.result(10).status_code == 200

    def test_a_pipelined_health_request_is_answered_in_order(self, gate: Gate) -> None:
        body = b'{"data":1}'
        head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        with serve.start(gate.plugin, threads=1) as server, open_to(server) as connection:
            connection.sendall(head + body + b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert gate.running.acquire(timeout=5)
            gate.release.set()
            received = b""
            while chunk := connection.recv(4096):
                received += chunk
        assert received.count(b"HTTP/1.1 200 OK") == 2
        assert received.index(b'"data":1') < received.index(b'"healthy"')

    def test_the_longest_idle_connection_is_closed_for_a_new_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_waitress, "_CONNECTIONS", 4)
        monkeypatch.setattr(_waitress, "_IDLE", 0.05)

        @serve.plugin
        def echo(request: int) -> int:
            return request

        with serve.start(echo) as server:
            idle = []
            for _ in range(6):
                idle.append(open_to(server))
                idle[-1].sendall(b"GET /info HTTP/1.1\r\nHost: x\r\n\r\n")
                assert idle[-1].recv(4096).startswith(b"HTTP/1.1 200")
                time.sleep(0.06)
            assert requests.post(server.url, json={"data": 7}, timeout=5).json()["data"] == 7
            assert idle[0].recv(1) == b""  # the longest idle one was closed, the latest was not
            idle[-1].setblocking(False)
            with pytest.raises(BlockingIOError):
                idle[-1].recv(1)
            for connection in idle:
                connection.close()

    def test_a_connection_with_a_call_in_flight_is_not_closed(
        self, gate: Gate, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_waitress, "_CONNECTIONS", 3)
        with serve.start(gate.plugin) as server, ThreadPoolExecutor(3) as pool:
            calls = [pool.submit(requests.post, server.url, json={"data": 1}, timeout=10) for _ in range(3)]
            for _ in range(3):
                assert gate.running.acquire(timeout=5)
            with open_to(server) as newcomer:  # waits in the listener's queue
                newcomer.sendall(b"GET /info HTTP/1.1\r\nHost: x\r\n\r\n")
                newcomer.settimeout(0.1)
                with pytest.raises(TimeoutError):
                    newcomer.recv(1)
                gate.release.set()
                newcomer.settimeout(5)
                assert newcomer.recv(4096).startswith(b"HTTP/1.1 200")
            assert [call.result(5).json()["data"] for call in calls] == [1, 1, 1]


def open_to(server: serve.RunningServer) -> socket.socket:
    host, _, port = server.url.removeprefix("http://").rpartition(":")
    return socket.create_connection((host, int(port)), timeout=5)


class TestGRPC:
    def test_the_standard_health_service_replies_while_calls_run(self, gate: Gate) -> None:
        server = serve.start(gate.plugin, "grpc://127.0.0.1:0", threads=1)
        with server, grpc.insecure_channel(server.endpoint) as channel:
            call = channel.unary_unary(EXECUTE).future(messages().ExecuteRequest(payload=b"1").SerializeToString())
            assert gate.running.acquire(timeout=5)
            health = channel.unary_unary(CHECK)(b"", timeout=2)
            assert messages().HealthCheckResponse.FromString(health).status == 1
            gate.release.set()
            assert messages().ExecuteResponse.FromString(call.result(5)).payload == b"1"

    def test_calls_beyond_the_queue_are_refused_and_health_is_not(
        self, gate: Gate, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_grpc, "_MAX_WAITING", 8)
        request = messages().ExecuteRequest(payload=b"1").SerializeToString()
        server = serve.start(gate.plugin, "grpc://127.0.0.1:0", threads=1)
        with server, grpc.insecure_channel(server.endpoint) as channel:
            execute = channel.unary_unary(EXECUTE)
            calls = [execute.future(request) for _ in range(12)]
            assert gate.running.acquire(timeout=5)
            until(lambda: sum(call.done() for call in calls) == 3)
            refused = [call for call in calls if call.done()]
            assert {call.code() for call in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
            assert "all threads are busy" in refused[0].details()
            health = messages().HealthResponse.FromString(channel.unary_unary(HEALTH)(b"", timeout=2))
            assert health.status == "healthy"
            gate.release.set()
            assert [call.result(5) for call in calls if call not in refused]
            # The queue has space again.
            assert messages().ExecuteResponse.FromString(execute(request, timeout=5)).payload == b"1"
