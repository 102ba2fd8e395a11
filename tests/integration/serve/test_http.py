from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs
import pytest
import requests

from goplugins import serve
from goplugins.config import AuthConfig
from goplugins.enums import AuthMethod
from goplugins.errors import ConfigError
from goplugins.models.context import ExecutionContext
from tests.timing import time_limit

WIRE = json.loads((Path(__file__).parents[2] / "data" / "go-v1.0.0-wire.json").read_text(encoding="utf-8"))


@serve.plugin(name="echo")
def echo(request: Any, context: ExecutionContext) -> Any:
    return request


@serve.plugin
def context_of(request: Any, context: ExecutionContext) -> Any:
    return {"data": request, "context": attrs.asdict(context)}


@pytest.fixture
def server() -> Iterator[serve.RunningServer]:
    with serve.start(echo) as server:
        yield server


def connect(server: serve.RunningServer) -> socket.socket:
    parts = urlsplit(server.url)
    assert parts.hostname is not None
    connection = socket.create_connection((parts.hostname, parts.port or 0), timeout=10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def read_answer(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """One reply, to the byte: any left over byte would be part of the next one."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        assert byte, f"closed after {head!r}"
        head += byte
    first, *lines = head.decode("latin-1").strip().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    body = b""
    while len(body) < int(headers["content-length"]):
        body += connection.recv(int(headers["content-length"]) - len(body))
    return int(first.split()[1]), headers, body


def post(data: Any, *, request_id: str = "r1") -> bytes:
    body = json.dumps({"data": data, "request_id": request_id, "timeout": "30s"}).encode()
    head = f"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode("latin-1") + body


# --- what the Go client sends ----------------------------------------------------------------------------------

AUTH = {
    "http-api-key": AuthConfig(method=AuthMethod.API_KEY, api_key="k-123"),
    "http-bearer": AuthConfig(method=AuthMethod.BEARER, token="tok-456"),
    "http-basic": AuthConfig(method=AuthMethod.BASIC, username="user", password="pa:ss"),
}


@pytest.mark.parametrize("case", sorted({entry["case"] for entry in WIRE["http"]}))
def test_the_recorded_requests_of_the_go_client_are_answered_on_one_connection(case: str) -> None:
    recorded = [entry["request"] for entry in WIRE["http"] if entry["case"] == case]
    assert recorded
    path = "/p" if case in AUTH else "/api/v1/plugin"
    with (
        serve.start(context_of, f"http://127.0.0.1:0{path}", auth=AUTH.get(case)) as server,
        connect(server) as connection,
    ):
        for request in recorded:
            connection.sendall(request.encode("latin-1"))
            status, headers, body = read_answer(connection)
            assert status == 200, body
            assert headers["content-type"] == "application/json"
            assert "connection" not in headers
            answer = json.loads(body)
            if request.startswith("GET"):
                assert answer["status"] == "healthy"
                continue
            sent = json.loads(request.partition("\r\n\r\n")[2])
            assert answer["request_id"] == headers["x-request-id"] == "data-1"
            assert answer["data"]["data"] == sent["data"]
            context = answer["data"]["context"]
            assert context["headers"] == sent.get("headers", {})
            assert context["request_id"] == "data-1"
            assert 29.0 < context["timeout"] <= 30.0
            assert set(answer) <= {"data", "request_id", "metadata"}


@pytest.mark.parametrize("case", sorted(AUTH))
def test_the_recorded_requests_with_other_credentials_are_refused(case: str) -> None:
    recorded = [entry["request"] for entry in WIRE["http"] if entry["case"] == case]
    other = AuthConfig(method=AuthMethod.BEARER, token="another")
    with serve.start(echo, auth=other) as server, connect(server) as connection:
        for request in recorded:
            connection.sendall(request.encode("latin-1"))
            assert read_answer(connection)[0] == 401


# --- the connection --------------------------------------------------------------------------------------------


def test_a_connection_serves_many_calls_without_a_byte_left_over(server: serve.RunningServer) -> None:
    with connect(server) as connection:
        for number in range(20):
            connection.sendall(post(number, request_id=f"r{number}"))
            status, headers, body = read_answer(connection)
            assert (status, json.loads(body)) == (200, {"data": number, "request_id": f"r{number}"})
            assert set(headers) == {"content-length", "content-type", "date", "x-request-id"}


def test_requests_sent_ahead_are_answered_in_order(server: serve.RunningServer) -> None:
    with connect(server) as connection:
        connection.sendall(b"".join(post(number) for number in range(5)))
        assert [json.loads(read_answer(connection)[2])["data"] for _ in range(5)] == [0, 1, 2, 3, 4]


def test_a_chunked_request_is_understood(server: serve.RunningServer) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    with connect(server) as connection:
        connection.sendall(head + b'6\r\n{"data\r\n4\r\n":1}\r\n0\r\n\r\n')
        assert json.loads(read_answer(connection)[2])["data"] == 1


def test_unicode_and_large_answers_come_whole(server: serve.RunningServer) -> None:
    data = {"text": "é\u2028\0😀" * 100_000}
    answer = requests.post(server.url, json={"data": data}, timeout=10)
    assert answer.json()["data"] == data


@pytest.mark.parametrize("size", [4 * 1024 * 1024 + 1, 20 * 1024 * 1024])
def test_a_request_that_is_too_large_gets_its_reason_and_no_reset(server: serve.RunningServer, size: int) -> None:
    headers = {"Content-Type": "application/json"}
    answer = requests.post(server.url, data=b" " * size, headers=headers, timeout=10)
    assert (answer.status_code, answer.headers["Connection"]) == (413, "close")
    assert "4194304" in answer.json()["error"]


def test_expect_100_continue_is_rejected_before_the_body(server: serve.RunningServer) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\nExpect: 100-continue\r\n\r\n"
    with connect(server) as connection:
        connection.sendall(head)
        assert read_answer(connection)[0] == 413


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: abc\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n12345",
        b"POST / HTTP/1.1\r\nHost : x\r\n\r\n",
        b"nonsense\r\n\r\n",
    ],
)
def test_a_malformed_http_request_is_rejected_with_an_envelope(
    server: serve.RunningServer, request_bytes: bytes
) -> None:
    with connect(server) as connection:
        connection.sendall(request_bytes)
        status, headers, body = read_answer(connection)
        assert (status, headers["connection"]) == (400, "close")
        assert json.loads(body)["error"]
        assert connection.recv(1) == b""


def test_a_caller_that_disconnects_affects_no_other(
    server: serve.RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(5):
        with connect(server) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # close resets
            connection.sendall(post(1)[:-4])
    assert requests.post(server.url, json={"data": 1}, timeout=10).status_code == 200
    assert not caplog.records


def test_an_interrupt_in_a_function_ends_its_connection_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    @serve.plugin
    def interrupt(request: bool) -> str:
        if request:
            raise KeyboardInterrupt
        return "fine"

    with serve.start(interrupt, threads=1) as server:
        with connect(server) as connection:
            connection.sendall(post(True))
            assert connection.recv(1) == b""
        assert requests.post(server.url, json={"data": False}, timeout=10).json()["data"] == "fine"
    assert "KeyboardInterrupt" in caplog.text


def test_a_function_that_exits_does_not_end_its_server() -> None:
    @serve.plugin
    def leave(request: Any) -> None:
        raise SystemExit(1)

    with serve.start(leave, threads=1) as server, requests.Session() as session:
        for _ in range(3):
            answer = session.post(server.url, json={"data": 1}, timeout=10)
            assert (answer.status_code, answer.json()["error"]) == (500, "internal error")


def test_waiting_for_a_thread_counts_against_the_deadline(caplog: pytest.LogCaptureFixture) -> None:
    started, release = threading.Event(), threading.Event()

    @serve.plugin
    def hold(request: Any) -> None:
        started.set()
        release.wait(10)

    with serve.start(hold, threads=1) as server, connect(server) as first, connect(server) as second:
        first.sendall(post(1))
        assert started.wait(10)
        body = b'{"timeout":"50ms"}'
        head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        second.sendall(head % len(body) + body)
        time.sleep(0.15)
        release.set()
        assert read_answer(first)[0] == 200
        assert read_answer(second)[0] == 504
    assert caplog.messages == ["1 request(s) had to wait: its thread was busy, with 1 waiting at the last one"]


def test_no_reply_waits_for_a_delayed_acknowledgement(server: serve.RunningServer) -> None:
    # A call takes far less, a delayed acknowledgement far more (40 ms).
    with connect(server) as connection:
        for stopwatch in time_limit(50 * 0.02):
            with stopwatch:
                for _ in range(50):
                    connection.sendall(post(1))
                    read_answer(connection)


# --- start and stop --------------------------------------------------------------------------------------------


def test_a_path_in_the_url_is_the_path_of_calls() -> None:
    with serve.start(echo, "http://localhost:0/api/v1/plugin/") as server:
        assert server.url.endswith("/api/v1/plugin")
        assert requests.post(server.url, json={"data": 1}, timeout=10).status_code == 200
        assert requests.get(server.url + "/health", timeout=10).status_code == 200
        assert requests.post(server.url + "/x", json={"data": 1}, timeout=10).status_code == 404


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
def test_ipv6() -> None:
    try:
        server = serve.start(echo, "http://[::1]:0")
    except ConfigError:
        pytest.skip("this machine has no IPv6")
    with server:
        assert server.url.startswith("http://[::1]:")
        assert requests.get(server.url + "/health", timeout=10).status_code == 200


def test_a_port_in_use_is_named(server: serve.RunningServer) -> None:
    with pytest.raises(ConfigError, match=f"can't listen on {server.url}: Address already in use"):
        serve.start(echo, server.url)


def test_stop_leaves_no_thread_and_frees_the_port() -> None:
    before = set(threading.enumerate())
    server = serve.start(echo)
    idle = connect(server)
    server.stop()
    server.stop()
    assert idle.recv(1) == b""
    idle.close()
    deadline = time.monotonic() + 5
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not set(threading.enumerate()) - before
    with serve.start(echo, server.url) as again:
        assert requests.get(again.url + "/health", timeout=10).status_code == 200


class Gate:
    """A function that signals when it runs, and ends when it is released."""

    def __init__(self) -> None:
        self.running = threading.Semaphore(0)
        self.release = threading.Event()

    def __call__(self, request: Any) -> Any:
        self.running.release()
        self.release.wait(10)
        return request


def test_stop_finishes_the_calls_in_flight_and_accepts_no_more(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()
    server = serve.start(serve.plugin(gate), threads=1)
    with connect(server) as first, connect(server) as second, connect(server) as idle:
        first.sendall(post("first"))
        assert gate.running.acquire(timeout=10)
        second.sendall(post("second"))  # has no thread yet
        stopper = threading.Thread(target=server.stop)
        stopper.start()
        assert idle.recv(1) == b""  # the stop is under way
        with pytest.raises(OSError, match="refused"):
            connect(server)
        assert stopper.is_alive()
        gate.release.set()
        for connection, data in ((first, "first"), (second, "second")):
            status, headers, body = read_answer(connection)
            assert (status, json.loads(body)["data"], headers["connection"]) == (200, data, "close")
            assert connection.recv(1) == b""
        stopper.join(10)
        assert not stopper.is_alive()
    assert "in flight" not in caplog.text


def test_a_request_that_is_still_coming_in_is_served_by_a_stopping_server() -> None:
    server = serve.start(echo)
    request = post("late")
    with connect(server) as connection, connect(server) as idle:
        connection.sendall(request[:-5])
        time.sleep(0.05)
        server.request_stop()
        assert idle.recv(1) == b""
        connection.sendall(request[-5:])
        assert json.loads(read_answer(connection)[2])["data"] == "late"
    assert server.wait(10)


def test_stop_waits_no_longer_than_its_grace_and_logs_unfinished_calls(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()
    server = serve.start(serve.plugin(gate), grace=30.0)
    with connect(server) as connection:
        connection.sendall(post(1))
        assert gate.running.acquire(timeout=10)
        start = time.monotonic()
        server.stop(grace=0.1)
        assert 0.1 <= time.monotonic() - start < 2.0
        assert connection.recv(1) == b""
    assert "1 call(s) in flight" in caplog.text
    gate.release.set()


def test_a_function_may_stop_its_own_server() -> None:
    @serve.plugin
    def leave(request: Any) -> str:
        server.request_stop()
        return "bye"

    server = serve.start(leave)
    assert requests.post(server.url, json={"data": 1}, timeout=10).json()["data"] == "bye"
    assert server.wait(10)


def test_no_call_is_lost_when_a_busy_server_stops() -> None:
    server = serve.start(echo, threads=4)
    host, port = urlsplit(server.url).hostname or "", urlsplit(server.url).port
    body, headers = b'{"data":1}', {"Content-Type": "application/json"}
    going, broken = threading.Event(), []

    def caller() -> None:
        try:
            while True:
                with closing(http.client.HTTPConnection(host, port, timeout=10)) as connection:
                    try:
                        connection.connect()
                    except (ConnectionRefusedError, ConnectionResetError):
                        return  # the listener is closed, or was being closed: nothing was sent
                    ends = False
                    while not ends:
                        connection.request("POST", "/", body, headers)
                        answer = connection.getresponse()
                        assert json.loads(answer.read())["data"] == 1
                        ends = answer.will_close
                        going.set()
        except BaseException as exc:
            broken.append(repr(exc))
            raise

    callers = [threading.Thread(target=caller) for _ in range(4)]
    for thread in callers:
        thread.start()
    assert going.wait(10)
    server.stop()
    for thread in callers:
        thread.join(10)
    assert not broken
