"""Replies that two parsers could read as two different messages are rejected, and random bytes do no harm."""

from __future__ import annotations

import contextlib
import gzip
import random
import time
import zlib

import pytest

from goplugins.errors import BadReplyError, PluginError
from goplugins.transports.http.parser import FastPathParser, IdleLimit, ReplyParser
from tests.integration.http.conftest import call
from tests.servers import Peer, http_reply, reply_ok

GOOD = b'{"data": "ok", "request_id": "req-1"}'
LENGTH = b"Content-Length: %d\r\n" % len(GOOD)
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
IN_CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(GOOD), GOOD)

AMBIGUOUS = {
    "length and chunks": OK + LENGTH + CHUNKED + b"\r\n" + IN_CHUNKS,
    "chunks and length": OK + CHUNKED + LENGTH + b"\r\n" + IN_CHUNKS,
    "two lengths": OK + LENGTH + b"Content-Length: 5\r\n\r\n" + GOOD,
    "a list of lengths": OK + b"Content-Length: 5, %d\r\n\r\n" % len(GOOD) + GOOD,
    "length with a sign": OK + b"Content-Length: +%d\r\n\r\n" % len(GOOD) + GOOD,
    "length with a space": OK + b"Content-Length: 3 7\r\n\r\n" + GOOD,
    "chunks twice": OK + CHUNKED + CHUNKED + b"\r\n" + IN_CHUNKS,
    "chunks, then something": OK + b"Transfer-Encoding: chunked, identity\r\n\r\n" + IN_CHUNKS,
    "nearly chunked": OK + b"Transfer-Encoding: xchunked\r\n\r\n" + IN_CHUNKS,
    "empty chunk size": OK + CHUNKED + b"\r\n\r\n" + GOOD + b"\r\n0\r\n\r\n",
    "chunk longer than it says": OK + CHUNKED + b"\r\n5\r\n" + GOOD + b"\r\n0\r\n\r\n",
}
ONLY_FAST = {
    "folded header": OK + b"X-A: b\r\n c\r\n" + LENGTH + b"\r\n" + GOOD,
    "header of spaces first": OK + b" X-A: b\r\n" + LENGTH + b"\r\n" + GOOD,
    "chunk size in hexadecimal notation": OK + CHUNKED + b"\r\n0x25\r\n" + GOOD + b"\r\n0\r\n\r\n",
    "chunk size with a sign": OK + CHUNKED + b"\r\n+25\r\n" + GOOD + b"\r\n0\r\n\r\n",
    "chunk size beyond all numbers": OK + CHUNKED + b"\r\n" + b"f" * 40 + b"\r\n" + GOOD,
    "the same length twice": OK + LENGTH + LENGTH + b"\r\n" + GOOD,
    "line ends without CR": (OK + LENGTH + b"\r\n").replace(b"\r\n", b"\n") + GOOD,
    "CR in a header": OK + b"X-A: b\rc\r\n" + LENGTH + b"\r\n" + GOOD,
    "NUL in a header": OK + b"X-A: b\0c\r\n" + LENGTH + b"\r\n" + GOOD,
    "space before the colon": OK + b"Content-Length : %d\r\n\r\n" % len(GOOD) + GOOD,
    "chunk size after a space": OK + CHUNKED + b"\r\n 25\r\n" + GOOD + b"\r\n0\r\n\r\n",
    "chunks that end without CR": OK + CHUNKED + b"\r\n" + IN_CHUNKS.replace(b"\r\n", b"\n"),
    "a length in a trailer": OK + CHUNKED + b"\r\n" + IN_CHUNKS[:-2] + b"Content-Length: 5\r\n\r\n",
    "empty line first": b"\r\n" + OK + LENGTH + b"\r\n" + GOOD,
    "another version": b"HTTP/2.0 200 OK\r\n" + LENGTH + b"\r\n" + GOOD,
    "another protocol": b"ICE/1.0 200 OK\r\n" + LENGTH + b"\r\n" + GOOD,
    "status below 100": b"HTTP/1.1 099 OK\r\n" + LENGTH + b"\r\n" + GOOD,
    "a switch of protocols": b"HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"
    + OK
    + LENGTH
    + b"\r\n"
    + GOOD,
    "endless trailers": OK + CHUNKED + b"\r\n" + IN_CHUNKS[:-2] + b"X: y\r\n" * 200,
    "endless trailer": OK + CHUNKED + b"\r\n" + IN_CHUNKS[:-2] + b"X: " + b"y" * 200_000,
    "endless name of a header": OK + b"x" * 200_000,
    "endless reason": b"HTTP/1.1 200 " + b"x" * 200_000,
}


def refused(serve, make, reply: bytes) -> None:
    def handler(peer: Peer) -> None:
        peer.read_request()
        peer.send(reply)
        peer.hang()  # so that the end of the connection does not end the reply

    server = serve(handler)
    plugin = make(server.url, max_connections=1)
    with pytest.raises(PluginError) as caught:
        call(plugin)
    assert type(caught.value) is BadReplyError, caught.value
    server.handler = reply_ok
    assert call(plugin) == "ok"  # on another connection


@pytest.mark.parametrize("reply", AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_ambiguous_replies_are_rejected(serve, make, reply):
    refused(serve, make, reply)


class TestFast:
    @pytest.fixture
    def engine(self):
        return "fast"

    @pytest.mark.parametrize("reply", ONLY_FAST.values(), ids=ONLY_FAST)
    def test_other_replies_that_only_the_strict_parser_rejects(self, serve, make, reply):
        refused(serve, make, reply)

    @pytest.mark.parametrize(
        ("reply", "connections"),
        [
            (OK + LENGTH + b"\r\n" + GOOD, 1),
            (OK + CHUNKED + b"\r\n" + IN_CHUNKS, 1),
            (OK + CHUNKED + b"\r\n" + IN_CHUNKS[:-2] + b"X-Checksum: 1\r\nContent-Encoding: br\r\n\r\n", 1),
            (b"HTTP/1.1 103 Early\r\nLink: x\r\nContent-Encoding: br\r\n\r\n" + OK + LENGTH + b"\r\n" + GOOD, 1),
            (OK + b"X-Empty:\r\n" + LENGTH + b"X-Empty: \r\n\r\n" + GOOD, 1),
            (OK + LENGTH + b"Upgrade: h2c\r\nConnection: Upgrade\r\n\r\n" + GOOD, 1),
            (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n" + LENGTH + b"\r\n" + GOOD, 1),
            (b"HTTP/1.0 200 OK\r\n" + LENGTH + b"\r\n" + GOOD, 2),
            (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n" + CHUNKED + b"\r\n" + IN_CHUNKS, 2),
            (OK + LENGTH + b"Connection: close\r\n\r\n" + GOOD, 2),
            (OK + LENGTH + b"\r\n" + GOOD + b"x", 2),
            (OK + LENGTH + b"\r\n" + GOOD + b"H", 2),
            (OK + LENGTH + b"\r\n" + GOOD + OK + LENGTH + b"\r\n" + GOOD, 2),
            (OK + LENGTH + b"Connection: close\r\n\r\n" + GOOD + b"xx", 2),
            (OK + CHUNKED + b"\r\n" + IN_CHUNKS + b"0\r\n\r\n", 2),
        ],
    )
    def test_connection_is_used_again_only_after_one_whole_reply(self, serve, make, reply, connections):
        def handler(peer: Peer) -> None:
            while peer.read_request() is not None:
                peer.send(reply)

        server = serve(handler)
        plugin = make(server.url)
        assert [call(plugin), call(plugin)] == ["ok", "ok"]
        assert server.connections == connections

    @pytest.mark.parametrize("step", [1, 2, 7])
    def test_any_cut_into_packets(self, step):
        from goplugins.transports.http.parser import ReplyParser

        head = b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + OK + b"Content-Encoding: gzip\r\nX-Empty:\r\n"
        body = gzip.compress(GOOD)
        whole = head + CHUNKED + b"\r\n3\r\n%b\r\n%x\r\n%b\r\n0\r\nX: y\r\n\r\n" % (body[:3], len(body) - 3, body[3:])
        parser = ReplyParser(1000, IdleLimit(time.monotonic))
        for _ in range(3):  # a parser is used for all replies of a connection
            reply = parser.read(Pieces([whole[at : at + step] for at in range(0, len(whole), step)]))
            assert (reply.status, reply.body, parser.keep_alive) == (200, GOOD, True)
            assert dict(reply.headers) == {
                "content-encoding": "gzip",
                "x-empty": "",
                "transfer-encoding": "chunked",
            }

    def test_an_interrupt_within_the_parser_is_not_wrapped(self, monkeypatch):
        from goplugins.transports.http.parser import ReplyParser

        for name in ("on_message_begin", "on_header", "on_headers_complete", "on_message_complete"):

            def interrupted(*_):
                raise KeyboardInterrupt

            with monkeypatch.context() as patch:
                patch.setattr(ReplyParser, name, interrupted)
                parser = ReplyParser(1000, IdleLimit(time.monotonic))
                with pytest.raises(KeyboardInterrupt):
                    parser.read(Pieces([OK + LENGTH + b"\r\n" + GOOD]))
                assert not parser.keep_alive


class Pieces:
    """A connection that receives the given pieces."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces, self.received = pieces, 0

    def receive(self) -> bytes:
        if not self.pieces:
            return b""
        piece = self.pieces.pop(0)
        self.received += len(piece)
        return piece


SEEDS = [
    http_reply(GOOD),
    OK + CHUNKED + b"\r\n" + IN_CHUNKS,
    OK
    + CHUNKED
    + b"\r\n5;a=b\r\n"
    + GOOD[:5]
    + b"\r\n%x\r\n" % (len(GOOD) - 5)
    + GOOD[5:]
    + b"\r\n0\r\nX-T: 1\r\n\r\n",
    b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + http_reply(GOOD),
    b"HTTP/1.0 200 OK\r\n\r\n" + GOOD,
    http_reply(gzip.compress(GOOD), headers={"Content-Encoding": "gzip"}),
    http_reply(zlib.compress(GOOD), headers={"Content-Encoding": "deflate"}),
    http_reply({"error": "x"}, "503 No", {"Retry-After": "1"}),
    b"HTTP/1.1 204 No Content\r\n\r\n",
]
PARTS = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b":",
    b" ",
    b"0\r\n\r\n",
    b"HTTP/1.1 ",
    b"Content-Length: 3\r\n",
    CHUNKED,
    b"\xff",
    b"9" * 30,
]


def mutated(dice: random.Random) -> bytes:
    reply = bytearray(dice.choice(SEEDS))
    for _ in range(dice.randint(0, 3)):
        at = dice.randrange(len(reply) + 1)
        match dice.randrange(5):
            case 0:
                del reply[at:]
            case 1:
                del reply[at : at + dice.randint(1, 20)]
            case 2:
                reply[at:at] = dice.choice(PARTS)
            case 3:
                reply[at : at + 1] = bytes([dice.randrange(256)])
            case _:
                reply[at:at] = dice.choice(SEEDS)[: dice.randint(0, 200)]
    return bytes(reply)


@pytest.mark.parametrize("hangs", [False, True], ids=["closed", "left open"])
def test_random_replies_are_a_value_or_an_error_in_time_and_the_next_call_succeeds(serve, make, hangs):
    dice = random.Random(7)
    replies: list[bytes] = []

    def handler(peer: Peer) -> None:
        while (request := peer.read_request()) is not None:
            if request.headers["x-request-id"] == "good":
                reply_one(peer)
            else:
                peer.send(replies[-1])
                if not hangs:
                    return

    def reply_one(peer: Peer) -> None:
        peer.send(http_reply({"data": "good", "request_id": "good"}))

    server = serve(handler)
    plugin = make(server.url, max_connections=1, max_response_bytes=10_000)
    timeout = 0.03 if hangs else 1.0

    def took() -> float:
        started = time.monotonic()
        with contextlib.suppress(PluginError):
            call(plugin, timeout=timeout)
        return time.monotonic() - started

    for _ in range(60 if hangs else 400):
        replies.append(mutated(dice))
        # If the reply causes the delay, it recurs; a delay of a busy machine hardly does.
        assert took() < timeout + 0.1 or took() < timeout + 0.1, replies[-1]
        # Idempotent: a connection that the server is closing may be found dead only when it is used.
        assert call(plugin, request_id="good", idempotent=True) == "good", replies[-1]
    assert plugin._engine.pool.open == 1


class TestFastPath:
    """The fast path accepts only replies that the full parser parses the same way, and leaves all others to it."""

    @pytest.mark.parametrize("reply", [*AMBIGUOUS.values(), *ONLY_FAST.values()], ids=[*AMBIGUOUS, *ONLY_FAST])
    def test_no_doubtful_reply_is_accepted(self, reply):
        assert FastPathParser(1000, IdleLimit(time.monotonic)).read(reply) is None

    @pytest.mark.parametrize(
        "reply",
        [
            OK + LENGTH + b"\r\n" + GOOD,
            OK + LENGTH + b"Connection: keep-alive\r\n\r\n" + GOOD,
            OK
            + b"connection: Keep-Alive\r\nKeep-Alive: timeout=5\r\nX-Empty:\r\nX-Empty: \t\r\n"
            + LENGTH
            + b"\r\n"
            + GOOD,
            OK + b"A: 1\r\n" * 99 + LENGTH + b"\r\n" + GOOD,
        ],
    )
    def test_usual_replies_are_accepted(self, reply):
        self.check(FastPathParser(len(GOOD), IdleLimit(time.monotonic)), reply, expected=True)

    @pytest.mark.parametrize(
        "reply",
        [
            b"",
            OK,
            OK + LENGTH + b"\r\n",
            OK + LENGTH + b"\r\n" + GOOD[:-1],
            OK + LENGTH + b"\r\n" + GOOD + b"\n",
            OK + LENGTH + b"\r\n" + GOOD + OK,
            OK + LENGTH + b"\r\n" + GOOD + b"HTTP/1.1 204 No\r\n\r\n",
            OK + b"Content-Length: 0\r\n\r\n",
            OK + b"Content-Length: 0\r\n\r\n" + OK + LENGTH + b"\r\n" + GOOD,
            OK + b"\r\n" + GOOD,
            OK + LENGTH + b"Connection: close\r\n\r\n" + GOOD,
            OK + LENGTH + b"Connection: keep-alive\r\nConnection: close\r\n\r\n" + GOOD,
            OK + LENGTH + b"Connection: keep-alive, Upgrade\r\nUpgrade: x\r\n\r\n" + GOOD,
            OK + LENGTH + b"Content-Encoding: gzip\r\n\r\n" + GOOD,
            OK + b"A: 1\r\n" * 100 + LENGTH + b"\r\n" + GOOD,
            OK + b"A: " + b"1" * 70_000 + b"\r\n" + LENGTH + b"\r\n" + GOOD,
            b"HTTP/1.0 200 OK\r\n" + LENGTH + b"\r\n" + GOOD,
            b"HTTP/1.1 201 OK\r\n" + LENGTH + b"\r\n" + GOOD,
            OK + b"Content-Length: 2000\r\n\r\n" + b"x" * 2000,
        ],
    )
    def test_unusual_replies_are_left_to_the_full_parser(self, reply):
        fast = FastPathParser(1000, IdleLimit(time.monotonic))
        for _ in range(2):
            assert fast.read(reply) is None
            self.check(fast, OK + LENGTH + b"\r\n" + GOOD, expected=True)  # no state of the last reply is left

    def test_random_replies_are_parsed_as_by_the_full_parser(self):
        dice, fast, seen = random.Random(11), FastPathParser(10_000, IdleLimit(time.monotonic)), 0
        for _ in range(5000):
            seen += self.check(fast, mutated(dice))
        assert seen > 100

    @staticmethod
    def check(fast, data: bytes, expected: bool | None = None) -> bool:
        found = fast.read(data)
        assert expected is None or (found is not None) is expected, data
        if found is not None:
            parser = ReplyParser(10_000, IdleLimit(time.monotonic))
            thorough = parser.read(Pieces([data]))
            assert parser.keep_alive, data
            for name in ("status", "body", "framed"):
                assert getattr(found, name) == getattr(thorough, name), data
            assert dict(found.headers) == dict(thorough.headers), data
        return found is not None
