"""Peers that stop reading or replying: every call ends at its deadline, and what remains of it is freed later."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from goplugins.errors import PluginError, PluginTimeoutError
from goplugins.runtime.cancellation import AttemptCancelledError, Cancellation
from goplugins.runtime.clock import SYSTEM_CLOCK
from goplugins.runtime.deadline import Deadline
from goplugins.transports.grpc import GRPCPlugin, channel as channel_module
from goplugins.transports.grpc.channel import Channels
from goplugins.transports.grpc.fork_support import FORK_GUARD
from goplugins.transports.grpc.messages import EXECUTE
from goplugins.transports.grpc.target import channel_options
from goplugins.transports.grpc.unary import UNREAD, FutureCalls, SplitCalls
from tests.integration.grpc.conftest import call, failure, ok
from tests.servers import Peer, RawServer as SocketServer, read_http2_request
from tests.timing import time_limit, until

pytestmark = pytest.mark.matrix

LARGE = "a" * 3_000_000


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


WINDOW = 2**31 - 1
SETTINGS = frame(4, 0, 0, b"\0\4" + WINDOW.to_bytes(4, "big")) + frame(4, 1, 0)
WIDE_WINDOW = SETTINGS + frame(8, 0, 0, (WINDOW - 65535).to_bytes(4, "big"))
REPLY_HEADERS = frame(1, 4, 1, b"\x88\x5f\x10application/grpc")


def reads_nothing(peer: Peer) -> None:
    peer.send(WIDE_WINDOW)
    peer.server.closing.wait(30)


def floods_with_pings(peer: Peer) -> None:
    peer.send(WIDE_WINDOW)
    with contextlib.suppress(OSError):
        while not peer.server.closing.is_set():
            peer.send(frame(6, 0, 0, b"12345678") * 1000)


def has_no_window(peer: Peer) -> None:
    peer.send(frame(4, 0, 0, b"\0\4\0\0\0\0") + frame(4, 1, 0))
    peer.hang()


def never_sends_settings(peer: Peer) -> None:
    peer.server.closing.wait(30)


def stops_within_the_reply(peer: Peer) -> None:
    read_http2_request(peer)
    peer.send(REPLY_HEADERS + frame(0, 0, 1, b"\0\0\0\1\0half")[:12])
    peer.hang()


def stops_after_the_message(peer: Peer) -> None:
    read_http2_request(peer)
    peer.send(REPLY_HEADERS)
    peer.hang()


PEERS = [
    reads_nothing,
    floods_with_pings,
    has_no_window,
    never_sends_settings,
    stops_within_the_reply,
    stops_after_the_message,
]


@pytest.fixture
def kept() -> int:
    """How many unread requests of earlier tests are still kept."""
    UNREAD.sweep()
    return len(UNREAD)


def freed(kept: int) -> bool:
    UNREAD.sweep()
    return len(UNREAD) <= kept


@pytest.fixture
def peer(request: pytest.FixtureRequest) -> Iterator[SocketServer]:
    with SocketServer(request.param) as server:
        yield server


@pytest.fixture(params=[SplitCalls, FutureCalls])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type:
    """How calls are made: the usual way, and the one for versions of grpc that lack the private parts."""

    def missing(raw: object) -> None:
        raise AttributeError

    if request.param is FutureCalls:
        monkeypatch.setattr(channel_module, "SplitCalls", missing)
    kind: type = request.param
    return kind


def at_once(plugin: GRPCPlugin, values: list[str], timeout: float) -> list[PluginError]:
    """The errors of calls on a thread each."""
    errors: list[PluginError] = []
    threads = [
        threading.Thread(target=lambda value=value: errors.append(failure(plugin, value, timeout=timeout)))
        for value in values
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads), "a call did not end"
    return errors


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.__name__, indirect=True)
def test_calls_end_at_their_deadline_whatever_the_peer_does(way, make, peer):
    plugin = make(f"127.0.0.1:{peer.port}")
    for stopwatch in time_limit(0.7 if way is SplitCalls else 2.0, at_least=0.3):
        with stopwatch:
            errors = at_once(plugin, [LARGE, LARGE, LARGE, "small", "small"], 0.4)
        assert {type(error) for error in errors} == {PluginTimeoutError}
    assert plugin._slots.open == plugin._slots.idle
    assert FORK_GUARD.calls == 0
    assert plugin._channels._current is None, "the next call would wait behind the requests that are not read"


@pytest.mark.parametrize("peer", [reads_nothing, has_no_window, stops_after_the_message], indirect=True)
def test_a_cancelled_call_ends_whatever_the_peer_does(way, make, peer):
    plugin = make(f"127.0.0.1:{peer.port}")
    channels = plugin._channels
    for stopwatch in time_limit(0.7, at_least=0.2):
        active = channels.begin_call(Deadline.after(5))
        cancellation = Cancellation()
        timer = threading.Timer(0.3, cancellation.cancel)
        timer.start()
        with stopwatch, pytest.raises(AttemptCancelledError):
            active.channel.invoke([], EXECUTE, LARGE.encode(), 5.0, (), cancellation)
        channels.end_call(active)
        channels.replace(active.channel)
        timer.join()


SERVER = """
import sys
from tests.integration.grpc.conftest import RawServer, ok
print(RawServer(ok, max_receive_message_length=-1).address, flush=True)
sys.stdin.read()
"""


def test_a_process_that_is_stopped_and_continued(make, kept):
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        plugin = make(server.stdout.readline().strip(), connection_timeout=30.0)
        assert call(plugin) == "ok"
        os.kill(server.pid, signal.SIGSTOP)
        for stopwatch in time_limit(0.7):
            with stopwatch:
                errors = at_once(plugin, [LARGE, LARGE, "small"], 0.4)
            assert {type(error) for error in errors} == {PluginTimeoutError}
        os.kill(server.pid, signal.SIGCONT)
        assert call(plugin, timeout=10) == "ok"
        until(lambda: freed(kept), what="its requests are freed")
        server.kill()


def unread_by(channels: Channels) -> int:
    """Makes a call behind one that is not read, and returns how many such calls there are."""
    active = channels.begin_call(Deadline.after(5))
    outcomes = [active.channel.invoke([], EXECUTE, LARGE.encode(), 0.2, (), None) for _ in range(2)]
    assert {outcome.status for outcome in outcomes} == {"DEADLINE_EXCEEDED"}
    assert outcomes[-1].unread
    channels.replace(active.channel)
    channels.end_call(active)
    return len(UNREAD)


def test_a_request_that_is_not_read_is_freed_when_its_connection_ends(kept):
    with SocketServer(reads_nothing) as server:
        channels = Channels(
            f"127.0.0.1:{server.port}",
            None,
            (("grpc.max_send_message_length", -1),),
            shared=True,
            max_lifetime=None,
            clock=SYSTEM_CLOCK,
        )
        assert unread_by(channels) > kept
        assert not freed(kept)
    until(lambda: freed(kept))
    channels.close()


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux only")
def test_a_connection_that_is_not_read_is_ended(make, kept):
    with SocketServer(reads_nothing) as server:
        plugin = make(f"127.0.0.1:{server.port}")
        options = dict(channel_options(plugin._target, plugin._settings.connection))
        assert options["grpc.keepalive_timeout_ms"] == 60_000
        options["grpc.keepalive_timeout_ms"] = 500
        channels = Channels(
            plugin._target.name, None, tuple(options.items()), shared=True, max_lifetime=None, clock=SYSTEM_CLOCK
        )
        unread_by(channels)
        until(lambda: freed(kept), 30)
        channels.close()


def test_a_slow_reader_keeps_its_connection_for_other_calls(raw, make, kept):
    """Whose deadline was too short for a large request, but which goes on to read."""
    server = raw(ok, max_receive_message_length=-1)
    plugin = make(server.address)
    assert call(plugin) == "ok"
    for _ in range(20):
        with contextlib.suppress(PluginTimeoutError):
            call(plugin, LARGE, timeout=0.003)
        assert call(plugin) == "ok"
    until(lambda: freed(kept))


FORK = """
import os, sys, threading
from goplugins.config import PluginConfig
from goplugins.transports.grpc import GRPCPlugin
from goplugins.transports.grpc.unary import UNREAD
from tests.integration.grpc.conftest import call, failure

stuck, well = (GRPCPlugin(PluginConfig(name="p", transport="grpc", endpoint=address)) for address in sys.argv[1:])
assert call(well) == "ok"
threads = [threading.Thread(target=failure, args=(stuck, "a" * 3_000_000), kwargs={"timeout": 0.3}) for _ in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert len(UNREAD) >= 1
for _ in range(3):
    child = os.fork()
    if not child:
        ended = call(well, timeout=10) == "ok" and len(UNREAD) == 0
        os._exit(0 if ended else 1)
    assert os.waitpid(child, 0)[1] == 0
assert call(well) == "ok"
print("done", flush=True)
os._exit(0)
"""


def test_a_child_makes_calls_while_a_request_of_its_parent_is_unread(raw):
    with SocketServer(reads_nothing) as server:
        done = subprocess.run(
            [sys.executable, "-c", FORK, f"127.0.0.1:{server.port}", raw(ok).address],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.stdout == "done\n", done.stderr
