"""Faults of servers and connections: the error of each, and how soon it is raised."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback

import pytest

from goplugins import Manager
from goplugins.config import AuthConfig
from goplugins.errors import (
    AuthenticationError,
    ConnectionLostError,
    GRPCTransportError,
    NameResolutionError,
    PluginConnectionError,
    PluginRequestError,
    PluginThrottledError,
    PluginTimeoutError,
    PluginUnavailableError,
    Replay,
    ReplyTooLargeError,
)
from goplugins.transports.grpc import GRPCPluginFactory
from tests.integration.grpc.conftest import aborting, call, failure, ok, payload, reply
from tests.servers import Peer, RawServer as SocketServer, free_port, read_http2_request
from tests.timing import time_limit

STATUSES = {
    "UNAVAILABLE": (PluginUnavailableError, Replay.IF_IDEMPOTENT),
    "DEADLINE_EXCEEDED": (PluginTimeoutError, Replay.IF_IDEMPOTENT),
    "RESOURCE_EXHAUSTED": (PluginThrottledError, Replay.IF_IDEMPOTENT),
    "UNAUTHENTICATED": (AuthenticationError, Replay.NEVER),
    "PERMISSION_DENIED": (AuthenticationError, Replay.NEVER),
    "INVALID_ARGUMENT": (PluginRequestError, Replay.NEVER),
    "NOT_FOUND": (PluginRequestError, Replay.NEVER),
    "ALREADY_EXISTS": (PluginRequestError, Replay.NEVER),
    "FAILED_PRECONDITION": (PluginRequestError, Replay.NEVER),
    "OUT_OF_RANGE": (PluginRequestError, Replay.NEVER),
    "UNIMPLEMENTED": (PluginRequestError, Replay.NEVER),
    "INTERNAL": (GRPCTransportError, Replay.IF_IDEMPOTENT),
    "UNKNOWN": (GRPCTransportError, Replay.IF_IDEMPOTENT),
    "DATA_LOSS": (GRPCTransportError, Replay.NEVER),
    "ABORTED": (GRPCTransportError, Replay.IF_IDEMPOTENT),
    "CANCELLED": (ConnectionLostError, Replay.IF_IDEMPOTENT),
}


@pytest.mark.parametrize("status", STATUSES)
def test_each_status_has_its_error(raw, make, status):
    kind, replay = STATUSES[status]
    server = raw(aborting(status, "the reason"))
    error = failure(make(server.address))
    assert (type(error), error.replay) == (kind, replay)
    assert error.details["status"] == status
    assert "the reason" in error.message
    assert len(server.calls) == 1  # the library's own retries are off


@pytest.mark.parametrize("status", ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "INTERNAL"])
@pytest.mark.parametrize(
    ("said", "replay", "retry_after"),
    [("50", Replay.ALWAYS, 0.05), ("0", Replay.ALWAYS, 0.0), ("-1", Replay.NEVER, None), ("soon", Replay.NEVER, None)],
)
def test_pushback_of_a_server_is_honoured(raw, make, status, said, replay, retry_after):
    server = raw(aborting(status, trailing=(("grpc-retry-pushback-ms", said), ("cost", "3"))))
    error = failure(make(server.address))
    assert (error.replay, error.retry_after) == (replay, retry_after)
    assert error.details["metadata"] == {"cost": "3"}


def test_pushback_does_not_make_a_refused_request_retryable(raw, make):
    error = failure(make(raw(aborting("NOT_FOUND", trailing=(("grpc-retry-pushback-ms", "5"),))).address))
    assert (error.replay, error.retry_after) == (Replay.NEVER, None)


@pytest.mark.parametrize("text", ["failed to connect to all addresses; last error: x", "DNS resolution failed for x"])
def test_a_status_text_of_a_server_does_not_make_a_call_safe_to_retry(raw, make, text):
    error = failure(make(raw(aborting("UNAVAILABLE", text)).address))
    assert (type(error), error.replay) == (PluginUnavailableError, Replay.IF_IDEMPOTENT)


def test_no_server_listens(make):
    plugin = make(f"127.0.0.1:{free_port()}")
    for _ in range(3):
        for stopwatch in time_limit(0.2):
            with stopwatch:
                error = failure(plugin)
                assert (type(error), error.replay) == (PluginConnectionError, Replay.ALWAYS)
                assert "refused" in error.message


def test_no_socket(make, tmp_path):
    assert type(failure(make(f"unix:{tmp_path}/none.sock"))) is PluginConnectionError


def test_host_name_without_address(make):
    error = failure(make("nowhere.invalid:80"), timeout=5)
    assert (type(error), error.replay) == (NameResolutionError, Replay.ALWAYS)


def test_a_silent_server_ends_the_call_at_the_deadline(make):
    with SocketServer(lambda peer: peer.hang()) as server:
        plugin = make(f"127.0.0.1:{server.port}")
        for stopwatch in time_limit(0.4):
            with stopwatch:
                error = failure(plugin, timeout=0.3)
        assert (type(error), error.replay) == (PluginTimeoutError, Replay.IF_IDEMPOTENT)


def test_connection_timeout_bounds_connecting(make):
    with SocketServer(lambda peer: peer.hang()) as server:
        plugin = make(f"127.0.0.1:{server.port}", connection_timeout=0.3)
        started = time.monotonic()
        error = failure(plugin, timeout=5)
        assert 0.2 < time.monotonic() - started < 1
        assert (type(error), error.replay) == (PluginTimeoutError, Replay.ALWAYS)


def test_peer_that_speaks_http_1(make):
    with SocketServer(lambda peer: peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as server:
        assert type(failure(make(f"127.0.0.1:{server.port}"))) is PluginConnectionError


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_connection_that_breaks_during_the_call(make, how):
    def handler(peer):
        read_http2_request(peer)
        getattr(peer, how)()

    with SocketServer(handler) as server:
        error = failure(make(f"127.0.0.1:{server.port}"), idempotent=True)
        assert (type(error), error.replay) == (ConnectionLostError, Replay.IF_IDEMPOTENT)
        assert server.connections == 1  # no call had got a reply over it, so it was not replaced


def test_slow_method_ends_at_the_deadline(raw, make):
    ended = threading.Event()

    def slow(request, context):
        context.add_callback(ended.set)
        time.sleep(0.6)
        return reply(request)

    plugin = make(raw(slow).address)
    for stopwatch in time_limit(0.3):
        with stopwatch:
            error = failure(plugin, timeout=0.2)
    assert (type(error), error.replay) == (PluginTimeoutError, Replay.IF_IDEMPOTENT)
    assert ended.wait(0.3)  # the server is notified


def test_large_reply_is_refused(raw, make):
    plugin = make(raw(lambda r, _: reply(r, payload=b'"%b"' % (b"x" * 5000))).address, max_response_bytes=4000)
    error = failure(plugin)
    assert (type(error), error.replay) == (ReplyTooLargeError, Replay.NEVER)


def test_known_fault_gzip_bombs_were_accepted(raw, make):
    import grpc

    def bomb(request, context):
        context.set_compression(grpc.Compression.Gzip)
        return reply(request, payload=b'"%b"' % (b"x" * 16_000_000))

    assert type(failure(make(raw(bomb).address), timeout=10)) is ReplyTooLargeError


def test_compression_can_be_disabled(raw, make):
    import grpc

    def handler(request, context):
        context.set_compression(grpc.Compression.Gzip)
        return reply(request, payload=b"1")

    server = raw(handler)
    assert call(make(server.address)) == 1
    assert call(make(server.address, disable_compression=True)) == 1


def test_a_request_above_the_servers_limit(raw, make):
    error = failure(make(raw(ok, max_receive_message_length=1000).address), "x" * 2000)
    assert type(error) is PluginRequestError
    assert error.replay is Replay.NEVER


def test_credentials_that_a_server_quotes_are_removed_from_the_error(raw, make):
    def quoting(request, context):
        metadata = dict(context.invocation_metadata())
        return aborting("INTERNAL", f"bad: {metadata['authorization']}")(request, context)

    plugin = make(raw(quoting).address, auth=AuthConfig(method="bearer", token="tok-456-secret"))
    error = failure(plugin)
    assert "tok-456" not in "".join(traceback.format_exception(error))
    assert "bad: Bearer ***" in error.message


@pytest.mark.parametrize("own", [True, False], ids=["configured", "of the call"])
def test_a_credential_that_is_cut_in_two_is_masked(raw, make, own):
    secret = "QWERTZUIOPASDFGH"
    texts = iter("x" * (4095 - shown) + secret + "y" * 100 for shown in range(len(secret) + 2))

    def quoting(request, context):
        return aborting("UNKNOWN", next(texts))(request, context)

    plugin = make(raw(quoting).address, auth=AuthConfig(method="api-key", api_key=secret) if own else None)
    for _ in range(len(secret) + 2):
        error = failure(plugin, headers={} if own else {"X-Session-Token": secret})
        assert not set(secret) & set(error.message.removeprefix("gRPC UNKNOWN")), error.message


def test_credentials_are_removed_from_names_and_error_kinds(raw, make):
    auth = AuthConfig(method="bearer", token="tok-456-secret")
    trailing = (("a-tok-456-secret", "1"),)
    error = failure(make(raw(aborting("INTERNAL", trailing=trailing)).address, auth=auth))
    assert error.details["metadata"] == {"a-***": "1"}
    fields = {"error_kind": "kind tok-456-secret", "error": "no", "metadata": {"tok-456-secret": "1"}}
    error = failure(make(raw(lambda request, _: reply(request, **fields)).address, auth=auth))
    assert error.details == {"error_kind": "kind ***", "metadata": {"***": "1"}}
    assert "tok-456" not in str(error)


# --- before there is a connection --------------------------------------------------------------------------------


def closes(peer: Peer) -> None:
    peer.sock.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("handler", [closes, Peer.reset, Peer.hang, None], ids=["closes", "resets", "hangs", "refuses"])
def test_without_a_connection_any_call_may_be_made_again(make, handler):
    """Nothing of the call was sent, so it need not be idempotent."""
    with contextlib.ExitStack() as stack:
        address = f"127.0.0.1:{free_port()}"
        if handler is not None:
            server = SocketServer(handler)
            stack.callback(server.close)
            address = f"127.0.0.1:{server.port}"
        plugin = make(address, connection_timeout=0.3)
        for _ in range(2):
            assert failure(plugin, timeout=1.5).replay is Replay.ALWAYS


# --- servers that stop and restart ------------------------------------------------------------------------------------


def test_known_fault_grpc_stayed_dead_after_one_unavailable(raw, make):
    port = free_port()
    plugin = make(f"127.0.0.1:{port}")
    for _ in range(3):
        server = raw(ok, port=port)
        assert call(plugin) == "ok"
        server.close()
        for _ in range(5):
            assert isinstance(failure(plugin), PluginConnectionError | PluginUnavailableError)


@pytest.mark.processes
def test_after_a_long_outage_the_first_call_reaches_the_restarted_server(raw, make):
    """No backoff delays the first attempt, neither of calls nor of health checks."""
    port = free_port()
    plugin = make(f"127.0.0.1:{port}")
    server = raw(ok, port=port)
    assert call(plugin) == "ok"
    server.close()
    gone = time.monotonic()
    while time.monotonic() < gone + 5.5:
        assert failure(plugin, timeout=1.0).retryable
        plugin.health(0.5)
        time.sleep(0.1)
    raw(ok, port=port)
    back = time.monotonic()
    assert call(plugin, timeout=1.0) == "ok"
    assert time.monotonic() - back < 1.0


def test_dead_connection_is_replaced_silently(raw, make):
    port = free_port()
    plugin = make(f"127.0.0.1:{port}")
    first = raw(ok, port=port)
    assert call(plugin) == "ok"
    first.close()
    raw(ok, port=port)
    assert call(plugin, idempotent=True) == "ok"


@pytest.fixture
def proxy():
    """A TCP proxy that can drop all bytes, as a router does that has forgotten a connection."""

    class Proxy:
        def __init__(self):
            self.ports = []
            self.lossy = set()
            self.listener = socket.create_server(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
            self.sockets = [self.listener]

        def start(self, port):
            self.target = port
            threading.Thread(target=self.accept, daemon=True).start()

        def accept(self):
            while True:
                try:
                    ours, _ = self.listener.accept()
                except OSError:
                    return
                number = len(self.ports)
                self.ports.append(number)
                theirs = socket.create_connection(("127.0.0.1", self.target))
                self.sockets += [ours, theirs]
                for pair in ((ours, theirs), (theirs, ours)):
                    threading.Thread(target=self.pump, args=(number, *pair), daemon=True).start()

        def pump(self, number, source, target):
            try:
                while data := source.recv(65536):
                    if number not in self.lossy:
                        target.sendall(data)
            except OSError:
                pass

        def close(self):
            for sock in self.sockets:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
                sock.close()

    made = Proxy()
    yield made
    made.close()


def test_a_connection_that_drops_all_bytes_costs_one_timeout(raw, make, proxy):
    proxy.start(raw(ok).port)
    plugin = make(proxy.address)
    assert call(plugin) == "ok"
    proxy.lossy.add(0)
    assert isinstance(failure(plugin, timeout=0.2), PluginTimeoutError)
    assert call(plugin, timeout=1) == "ok"
    assert len(proxy.ports) == 2


def test_a_slow_call_keeps_the_connection_of_the_others(raw, make):
    peers = set()

    def handler(request, context):
        peers.add(context.peer())
        if b"slow" in request:
            time.sleep(0.5)
        return reply(request)

    plugin = make(raw(handler).address)
    call(plugin)
    slow = threading.Thread(target=failure, args=(plugin, "slow"), kwargs={"timeout": 0.3})
    slow.start()
    while slow.is_alive():
        call(plugin)
    call(plugin)
    assert len(peers) == 1


_SERVER = """
import sys, time
from tests.integration.grpc.conftest import RawServer, reply
import os
def handle(request, context):
    if b"die" in request:
        os._exit(9)
    if b"sleep" in request:
        time.sleep(3)
    return reply(request, payload=b"1")
server = RawServer(handle, port=int(sys.argv[1]))
print(server.port, flush=True)
sys.stdin.read()
os._exit(0)
"""


class Process:
    def __init__(self, port=0):
        self.process = subprocess.Popen(
            [sys.executable, "-c", _SERVER, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.port = int(self.process.stdout.readline())

    def close(self):
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def process():
    made = []

    def start(port=0):
        made.append(Process(port))
        return made[-1]

    yield start
    for one in made:
        one.close()


def test_server_that_dies_during_the_call(process, make):
    plugin = make(f"127.0.0.1:{process().port}")
    assert call(plugin) == 1
    error = failure(plugin, "die")
    assert (type(error), error.replay) == (ConnectionLostError, Replay.IF_IDEMPOTENT)
    assert type(failure(plugin)) is PluginConnectionError


def test_server_that_is_killed_and_started_again_under_a_manager(process):
    """The circuit opens, no call hangs, and the server is used again within a second of its restart."""
    first = process()
    config = {
        "name": "p",
        "transport": "grpc",
        "endpoint": f"127.0.0.1:{first.port}",
        "retry": {"max_retries": 0},
        "circuit_breaker": {"failure_threshold": 3, "min_request_threshold": 1, "recovery_timeout": 0.5},
        "health_check": {"enabled": False},
    }
    with Manager() as manager:
        manager.register_factory("grpc", GRPCPluginFactory())
        manager.load_from_config({"plugins": [config], "log_level": "error"})
        assert manager.execute("p", None) == 1
        first.close()
        down = time.monotonic()
        took = []
        while time.monotonic() - down < 0.3:
            started = time.monotonic()
            with pytest.raises(Exception, match="p"):
                manager.execute("p", None, timeout=1)
            took.append(time.monotonic() - started)
            time.sleep(0.01)
        process(first.port)
        back = time.monotonic()
        while True:
            try:
                assert manager.execute("p", None, timeout=1) == 1
                break
            except Exception:
                assert time.monotonic() - back < 1.0
                time.sleep(0.02)
        assert sorted(took)[len(took) // 2] < 0.2  # the median: a busy machine may delay one of them


def test_keyboard_interrupt_cancels_the_call_and_returns_its_slot(raw, make):
    cancelled = threading.Event()

    def slow(request, context):
        if b"slow" in request:
            context.add_callback(cancelled.set)
            time.sleep(1)
        return reply(request, payload=b"1")

    plugin = make(raw(slow).address, max_connections=1)
    assert call(plugin) == 1
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt) as caught:
            call(plugin, "slow", timeout=3)
        # Cancelled although the exception, with its frames, is still held.
        assert cancelled.wait(0.5)
        assert caught.value is not None
    finally:
        timer.join()
    assert call(plugin) == 1  # the only one of max_connections is free again


def test_many_threads_get_their_own_replies(raw, make):
    plugin = make(raw(lambda r, _: reply(r, payload=payload(r))).address, max_connections=8)
    wrong = []

    def work(number):
        for index in range(100):
            value = f"{number}-{index}"
            if call(plugin, value, request_id=value) != value:
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
