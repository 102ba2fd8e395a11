"""Lines over descriptors: deadlines, limits, and state of the channel after each kind of end."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from goplugins.errors import (
    ConnectionLostError,
    PluginTimeoutError,
    Replay,
    ReplyTooLargeError,
    TruncatedReplyError,
)
from goplugins.runtime.clock import SYSTEM_CLOCK
from goplugins.runtime.deadline import Deadline
from goplugins.transports.line_channel import LineBuffer, LineChannel
from tests.timing import time_limit

LIMIT = 1 << 20


class Pair:
    """A channel, and the peer's socket."""

    def __init__(self) -> None:
        self.ours, self.peer = socket.socketpair()
        self.ours.setblocking(False)
        self.channel = self.new_channel(LIMIT)

    def new_channel(self, limit: int) -> LineChannel:
        descriptor = self.ours.fileno()
        return LineChannel(descriptor, descriptor, self.ours.recv, self.ours.send, SYSTEM_CLOCK, limit)

    def exchange(self, line: bytes = b"ask\n", seconds: float = 2.0, limit: int = LIMIT) -> bytes:
        if limit != LIMIT:
            self.channel = self.new_channel(limit)
        return self.channel.exchange(line, Deadline.after(seconds))


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.ours.close()
    made.peer.close()


def test_one_line_each_way(pair):
    pair.peer.sendall(b"answer\n")
    assert pair.exchange() == b"answer"
    assert pair.peer.recv(100) == b"ask\n"
    assert pair.channel.clean
    assert pair.channel.replies == 1


def test_answer_in_pieces(pair):
    for piece in (b"an", b"sw", b"er\n"):
        pair.peer.sendall(piece)
    assert pair.exchange() == b"answer"


def test_extra_bytes_make_the_channel_unclean(pair):
    pair.peer.sendall(b"answer\nand more")
    assert pair.exchange() == b"answer"
    assert not pair.channel.clean


def test_a_second_line_makes_the_channel_unclean(pair):
    pair.peer.sendall(b"answer\nanother\n")
    assert pair.exchange() == b"answer"
    assert not pair.channel.clean


def test_unexpected_bytes_are_detected_before_use(pair):
    assert pair.channel.poll_idle() == 0
    pair.peer.sendall(b"x")
    assert pair.channel.poll_idle()
    assert not pair.channel.clean


def test_a_closed_peer_is_detected_before_use(pair):
    pair.peer.close()
    assert pair.channel.poll_idle()


def test_a_missing_reply_ends_at_the_deadline(pair):
    for stopwatch in time_limit(0.2, at_least=0.1):
        pair.channel = pair.new_channel(LIMIT)
        with stopwatch, pytest.raises(PluginTimeoutError, match="no bytes received") as caught:
            pair.exchange(seconds=0.1)
    assert caught.value.replay is Replay.IF_IDEMPOTENT
    assert not pair.channel.clean


def test_a_slow_reply_ends_at_the_deadline(pair):
    stop = threading.Event()

    def drip():
        while not stop.wait(0.01):
            pair.peer.send(b"x")

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        for stopwatch in time_limit(0.3):
            pair.channel = pair.new_channel(LIMIT)
            with stopwatch, pytest.raises(PluginTimeoutError, match="bytes received"):
                pair.exchange(seconds=0.2)
    finally:
        stop.set()
        thread.join()


def test_a_peer_that_reads_nothing_ends_at_the_deadline(pair):
    for stopwatch in time_limit(0.35, at_least=0.2):
        pair.channel = pair.new_channel(LIMIT)
        with stopwatch, pytest.raises(PluginTimeoutError):
            pair.exchange(b"x" * (8 << 20), seconds=0.2)


def test_after_the_deadline_nothing_is_sent(pair):
    with pytest.raises(PluginTimeoutError):
        pair.exchange(seconds=-1)


def test_peer_closes_without_a_reply(pair):
    pair.peer.shutdown(socket.SHUT_WR)
    with pytest.raises(ConnectionLostError) as caught:
        pair.exchange()
    assert pair.channel.gone
    assert caught.value.replay is Replay.IF_IDEMPOTENT  # the request was sent


def test_peer_closes_before_anything_was_sent(pair):
    pair.peer.close()
    with pytest.raises(ConnectionLostError) as caught:
        pair.exchange()
    assert pair.channel.gone
    assert pair.channel.sent == 0
    assert caught.value.replay is Replay.ALWAYS


def test_peer_closes_within_the_reply(pair):
    pair.peer.sendall(b'{"half')
    pair.peer.shutdown(socket.SHUT_WR)
    with pytest.raises(TruncatedReplyError):
        pair.exchange()
    assert not pair.channel.gone


def test_longest_reply_that_is_allowed(pair):
    pair.peer.sendall(b"x" * 100 + b"\n")
    assert pair.exchange(limit=100) == b"x" * 100


@pytest.mark.parametrize("reply", [b"x" * 101 + b"\n", b"x" * 101])
def test_reply_that_is_too_large(pair, reply):
    pair.peer.sendall(reply)
    with pytest.raises(ReplyTooLargeError):
        pair.exchange(limit=100)


def test_an_endless_reply_is_read_up_to_its_limit(pair):
    stop = threading.Event()

    def flood():
        try:
            while not stop.is_set():
                pair.peer.send(b"x" * 65536)
        except OSError:
            pass

    thread = threading.Thread(target=flood)
    thread.start()
    with pytest.raises(ReplyTooLargeError):
        pair.exchange(limit=LIMIT)
    assert pair.channel.received <= LIMIT + 65536
    stop.set()
    pair.ours.close()
    thread.join()


def test_a_peer_that_replies_during_the_request_blocks_neither_side(pair):
    """It writes 4 MiB before it reads anything: if the channel only wrote, both sides would block."""
    big = b"y" * (4 << 20)

    def talkative():
        pair.peer.sendall(big)
        got = 0
        while got < len(big) + 1:
            got += len(pair.peer.recv(65536))
        pair.peer.sendall(b"\n")

    thread = threading.Thread(target=talkative)
    thread.start()
    assert pair.exchange(big + b"\n", limit=8 << 20, seconds=10) == big
    thread.join()
    assert pair.channel.clean


def test_an_early_reply_is_read_during_the_request(pair):
    def refuse():
        pair.peer.recv(1000)
        pair.peer.sendall(b"too large\n")

    thread = threading.Thread(target=refuse)
    thread.start()
    assert pair.exchange(b"x" * (8 << 20)) == b"too large"
    assert not pair.channel.clean
    thread.join()


def test_a_reply_before_the_close_is_read(pair):
    pair.peer.sendall(b"go away\n")
    pair.peer.close()
    assert pair.exchange() == b"go away"


def test_a_channel_over_pipes():
    down_reader, down_writer = os.pipe()
    up_reader, up_writer = os.pipe()
    os.set_blocking(down_writer, False)
    os.set_blocking(up_reader, False)
    channel = LineChannel(
        up_reader,
        down_writer,
        lambda size: os.read(up_reader, size),
        lambda data: os.write(down_writer, data),
        SYSTEM_CLOCK,
        2 << 20,
    )
    size = 1 << 20

    def echo():
        got = b""
        while not got.endswith(b"\n"):
            got += os.read(down_reader, 65536)
        os.write(up_writer, got)

    thread = threading.Thread(target=echo)
    thread.start()
    assert len(channel.exchange(b"z" * size + b"\n", Deadline.after(5))) == size
    thread.join()
    for descriptor in (down_reader, down_writer, up_reader, up_writer):
        os.close(descriptor)


class TestLineBuffer:
    def test_several_lines_at_once(self):
        buffer = LineBuffer()
        buffer.feed(b"a\n\nb\nc")
        assert [buffer.take() for _ in range(4)] == [b"a", b"", b"b", None]
        assert len(buffer) == 1
        assert bytes(buffer.held) == b"c"

    @pytest.mark.parametrize("pieces", [1, 3, 1000])
    def test_lines_are_independent_of_chunk_boundaries(self, pieces):
        line = os.urandom(3000).replace(b"\n", b" ")
        buffer = LineBuffer()
        step = -(-len(line) // pieces)
        for start in range(0, len(line), step):
            buffer.feed(line[start : start + step])
            assert buffer.take() is None
        buffer.feed(b"\n")
        assert buffer.take() == line

    def test_a_long_line_in_small_pieces_takes_linear_time(self):
        def seconds(pieces: int) -> float:
            best = 1e9
            for _ in range(3):
                buffer = LineBuffer()
                started = time.thread_time()
                for _ in range(pieces):
                    buffer.feed(b"x" * 256)
                    buffer.take()
                best = min(best, time.thread_time() - started)
            return best

        # Ten times the length takes ten times as long; searching from the start each time would take a hundred.
        assert seconds(20_000) < 40 * seconds(2_000)
