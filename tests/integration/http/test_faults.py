"""Faults on the wire: each is an error of its own before the deadline, and the plugin still works."""

from __future__ import annotations

import gzip
import threading
import time
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from goplugins.config import AuthConfig, OperationConfig
from goplugins.errors import (
    AuthenticationError,
    BadReplyError,
    ConnectionLostError,
    HTTPTransportError,
    NameResolutionError,
    PluginConnectionError,
    PluginError,
    PluginExecutionError,
    PluginRequestError,
    PluginThrottledError,
    PluginTimeoutError,
    PluginUnavailableError,
    Replay,
    ReplyMismatchError,
    ReplyTooLargeError,
    ReplyTypeError,
    TruncatedReplyError,
    UnexpectedRedirectError,
)
from goplugins.runtime.call import Call
from goplugins.runtime.deadline import Deadline
from goplugins.transports.json_codec import codec_for
from tests.integration.http.conftest import call
from tests.servers import Peer, free_port, http_reply, ok, reply_ok
from tests.timing import time_limit

pytestmark = pytest.mark.matrix

Fault = Callable[[Peer], None]

GOOD = b'{"data": "ok", "request_id": "req-1"}'
LIMIT = 64 * 1024


def replying(data: bytes) -> Fault:
    """Answers the first request with these bytes and ends the connection."""

    def handler(peer: Peer) -> None:
        peer.read_request()
        peer.send(data)

    return handler


def reset_before_reply(peer: Peer) -> None:
    peer.read_request()
    peer.reset()


def reset_after_head(peer: Peer) -> None:
    peer.read_request()
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
    time.sleep(0.05)  # the reset must not overtake the head
    peer.reset()


def close_before_reply(peer: Peer) -> None:
    peer.read_request()


def hang(peer: Peer) -> None:
    peer.read_request()
    peer.hang()


def drip_head(peer: Peer) -> None:
    peer.read_request()
    peer.drip(b"HTTP/1.1 200 OK\r\nX-Padding: " + b"x" * 1000, 0.05)


def drip_body(peer: Peer) -> None:
    peer.read_request()
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    peer.drip(b"x" * 1000, 0.05)


def drip_chunks(peer: Peer) -> None:
    peer.read_request()
    peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    peer.drip(b"1\r\nx\r\n" * 200, 0.05)


def endless(peer: Peer) -> None:
    peer.read_request()
    peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while not peer.server.closing.is_set():
        peer.send(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")


def endless_until_close(peer: Peer) -> None:
    peer.read_request()
    peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
    while not peer.server.closing.is_set():
        peer.send(b"x" * 0x4000)


def endless_chunk_extension(peer: Peer) -> None:
    peer.read_request()
    peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;")
    while not peer.server.closing.is_set():
        peer.send(b"x" * 0x4000)


def endless_interim(peer: Peer) -> None:
    peer.read_request()
    while not peer.server.closing.is_set():
        peer.send(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)


def encoded(body: bytes, encoding: str) -> Fault:
    return replying(http_reply(body, headers={"Content-Encoding": encoding}))


def chunked(*parts: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + end


FAULTS: list[tuple[str, Fault, type[PluginError], Replay]] = [
    ("reset before the reply", reset_before_reply, ConnectionLostError, Replay.IF_IDEMPOTENT),
    ("reset after the head", reset_after_head, ConnectionLostError, Replay.IF_IDEMPOTENT),
    ("closed before the reply", close_before_reply, ConnectionLostError, Replay.IF_IDEMPOTENT),
    ("hang", hang, PluginTimeoutError, Replay.IF_IDEMPOTENT),
    ("drip in the head", drip_head, PluginTimeoutError, Replay.IF_IDEMPOTENT),
    ("drip in the body", drip_body, PluginTimeoutError, Replay.IF_IDEMPOTENT),
    ("drip in chunks", drip_chunks, PluginTimeoutError, Replay.IF_IDEMPOTENT),
    ("truncated head", replying(b"HTTP/1.1 200 OK\r\nContent-Le"), TruncatedReplyError, Replay.IF_IDEMPOTENT),
    ("truncated status", replying(b"HTTP/1."), TruncatedReplyError, Replay.IF_IDEMPOTENT),
    ("truncated body", replying(http_reply(GOOD, length=500)), TruncatedReplyError, Replay.IF_IDEMPOTENT),
    ("truncated chunk", replying(chunked(GOOD)[:-20]), TruncatedReplyError, Replay.IF_IDEMPOTENT),
    ("truncated between chunks", replying(chunked(GOOD, end=b"")), TruncatedReplyError, Replay.IF_IDEMPOTENT),
    (
        "truncated JSON to the end",
        replying(b"HTTP/1.1 200 OK\r\n\r\n" + GOOD[:-5]),
        TruncatedReplyError,
        Replay.IF_IDEMPOTENT,
    ),
    ("truncated JSON, read whole", replying(http_reply(GOOD[:-5])), TruncatedReplyError, Replay.NEVER),
    ("truncated gzip", encoded(gzip.compress(GOOD)[:-9], "gzip"), TruncatedReplyError, Replay.IF_IDEMPOTENT),
    ("empty body", replying(http_reply(b"")), TruncatedReplyError, Replay.NEVER),
    ("announced too large", replying(http_reply(b"x", length=LIMIT + 1)), ReplyTooLargeError, Replay.NEVER),
    ("absurd length", replying(http_reply(b"x", length=10**30)), ReplyTooLargeError, Replay.NEVER),
    ("endless chunks", endless, ReplyTooLargeError, Replay.NEVER),
    ("endless body", endless_until_close, ReplyTooLargeError, Replay.NEVER),
    ("endless chunk extension", endless_chunk_extension, BadReplyError, Replay.NEVER),
    ("endless interim replies", endless_interim, ReplyTooLargeError, Replay.NEVER),
    ("gzip bomb", encoded(gzip.compress(b" " * 64 * 1024 * 1024), "gzip"), ReplyTooLargeError, Replay.NEVER),
    ("deflate bomb", encoded(zlib.compress(b" " * 1024 * 1024), "deflate"), ReplyTooLargeError, Replay.NEVER),
    ("broken gzip", encoded(b"not gzip at all", "gzip"), BadReplyError, Replay.NEVER),
    ("bytes after gzip", encoded(gzip.compress(GOOD) + b"xx", "gzip"), BadReplyError, Replay.NEVER),
    ("unknown encoding", encoded(GOOD, "br"), BadReplyError, Replay.NEVER),
    ("garbage instead of HTTP", replying(b"SSH-2.0-OpenSSH_9.6\r\n"), BadReplyError, Replay.NEVER),
    ("garbage without an end of line", replying(b"\x00\x01\x02"), BadReplyError, Replay.NEVER),
    ("unreadable status", replying(b"HTTP/1.1 abc OK\r\n\r\n"), BadReplyError, Replay.NEVER),
    ("unreadable length", replying(b"HTTP/1.1 200 OK\r\nContent-Length: 5x\r\n\r\nxxxxx"), BadReplyError, Replay.NEVER),
    (
        "contradicting lengths",
        replying(b"HTTP/1.1 200 OK\r\nContent-Length: 37\r\nContent-Length: 5\r\n\r\n" + GOOD),
        BadReplyError,
        Replay.NEVER,
    ),
    (
        "unknown transfer encoding",
        replying(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n" + GOOD),
        BadReplyError,
        Replay.NEVER,
    ),
    (
        "broken chunk size",
        replying(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nxxxx\r\n" + b"x" * 200),
        BadReplyError,
        Replay.NEVER,
    ),
    (
        "negative chunk size",
        replying(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nxxxx\r\n" + b"x" * 200),
        BadReplyError,
        Replay.NEVER,
    ),
    (
        "header line too long",
        replying(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70000 + b"\r\n\r\n"),
        BadReplyError,
        Replay.NEVER,
    ),
    ("too many headers", replying(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n"), BadReplyError, Replay.NEVER),
    ("early hints only", replying(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"), BadReplyError, Replay.NEVER),
    ("not JSON", replying(http_reply("<html>")), BadReplyError, Replay.NEVER),
    ("trailing bytes", replying(http_reply(GOOD + b" x")), BadReplyError, Replay.NEVER),
    ("two values", replying(http_reply(GOOD + GOOD)), BadReplyError, Replay.NEVER),
    ("unrelated JSON", replying(http_reply({"status": "up"})), BadReplyError, Replay.NEVER),
    ("a JSON list", replying(http_reply("[]")), BadReplyError, Replay.NEVER),
    ("wrong request id", replying(http_reply({"data": 1, "request_id": "req-2"})), ReplyMismatchError, Replay.NEVER),
    (
        "301",
        replying(http_reply(b"", "301 Moved", {"Location": "http://127.0.0.1:9/x"})),
        UnexpectedRedirectError,
        Replay.NEVER,
    ),
    ("304", replying(http_reply(b"", "304 Not Modified")), UnexpectedRedirectError, Replay.NEVER),
    ("400", replying(http_reply({"error": "bad"}, "400 Bad Request")), PluginRequestError, Replay.NEVER),
    ("404", replying(http_reply("nope", "404 Not Found")), PluginRequestError, Replay.NEVER),
    ("408", replying(http_reply("", "408 Request Timeout")), PluginRequestError, Replay.NEVER),
    ("401", replying(http_reply({"error": "who?"}, "401 Unauthorized")), AuthenticationError, Replay.NEVER),
    ("403", replying(http_reply({"error": "no"}, "403 Forbidden")), AuthenticationError, Replay.NEVER),
    ("429", replying(http_reply("", "429 Too Many", {"Retry-After": "7"})), PluginThrottledError, Replay.ALWAYS),
    ("500", replying(http_reply({"error": "boom"}, "500 Oops")), HTTPTransportError, Replay.IF_IDEMPOTENT),
    ("501", replying(http_reply("", "501 Not Implemented")), HTTPTransportError, Replay.NEVER),
    ("502", replying(http_reply("<html>", "502 Bad Gateway")), HTTPTransportError, Replay.IF_IDEMPOTENT),
    ("503", replying(http_reply("", "503 Unavailable")), PluginUnavailableError, Replay.IF_IDEMPOTENT),
    (
        "503 with Retry-After",
        replying(http_reply("", "503 No", {"Retry-After": "3"})),
        PluginUnavailableError,
        Replay.ALWAYS,
    ),
    ("business error", replying(http_reply({"error": "no such user"})), PluginExecutionError, Replay.NEVER),
]


# A REST service owes neither an envelope nor the id of the request: what these replies mean there; None for an answer.
MEANS_ELSE_OVER_REST: dict[str, type[PluginError] | None] = {
    "empty body": None,
    "unrelated JSON": ReplyTypeError,  # without the "data" that the operation's result names
    "a JSON list": ReplyTypeError,
    "wrong request id": None,
    "business error": ReplyTypeError,
}
OVER_REST = [
    (name, fault, MEANS_ELSE_OVER_REST.get(name, kind), replay)
    for name, fault, kind, replay in FAULTS
    if MEANS_ELSE_OVER_REST.get(name, kind) is not None
]
TABLE = [("envelope", *row) for row in FAULTS] + [("rest", *row) for row in OVER_REST]


def over_rest(protocol: str) -> dict[str, Any]:
    """What makes a plugin one for a REST service that replies with the same JSON."""
    if protocol == "envelope":
        return {}
    return {"options": {"protocol": "rest"}, "operations": {"op": OperationConfig(method="POST", result="/data")}}


@pytest.mark.parametrize(
    ("protocol", "fault", "expected", "replay"),
    [(row[0], *row[2:]) for row in TABLE],
    ids=[f"{row[0]}-{row[1]}" for row in TABLE],
)
def test_each_fault_has_an_error_in_time_and_the_next_call_succeeds(serve, make, protocol, fault, expected, replay):
    server = serve(fault)
    plugin = make(server.url, max_response_bytes=LIMIT, max_connections=1, **over_rest(protocol))
    operation = "op" if protocol == "rest" else ""
    # An endless reply is cut at its limit, which a busy machine may take a while to reach.
    timeout = 10.0 if expected is ReplyTooLargeError else 0.5
    started = time.monotonic()
    with pytest.raises(PluginError) as caught:
        call(plugin, timeout=timeout, operation=operation)
    assert time.monotonic() - started < timeout + 0.1
    assert type(caught.value) is expected, caught.value
    assert caught.value.replay is replay
    assert caught.value.endpoint == server.url
    server.handler = reply_ok
    # Idempotent: a server that closes after a whole reply may do so while the next request is being sent.
    assert call(plugin, idempotent=True, operation=operation) == "ok"
    # There is one slot: if the failed exchange had kept it, this call would fail as well.
    assert plugin._engine.pool.open == 1


WRONG_ANSWERS = {
    "wrong request id": (http_reply({"data": 1, "request_id": "req-2"}), ReplyMismatchError),
    "none of data, error and request_id": (http_reply({}), BadReplyError),
    "unrelated JSON": (http_reply({"status": "up"}), BadReplyError),
    "trailing bytes": (http_reply(GOOD + b" x"), BadReplyError),
    "truncated": (http_reply(GOOD, length=500), TruncatedReplyError),
    "oversized": (http_reply({"data": "x" * LIMIT}), ReplyTooLargeError),
}


@pytest.mark.parametrize(("reply", "expected"), WRONG_ANSWERS.values(), ids=WRONG_ANSWERS)
def test_known_fault_http_accepted_what_is_no_answer_to_this_request(serve, make, reply, expected):
    with pytest.raises(PluginError) as caught:
        call(make(serve(replying(reply)).url, max_response_bytes=LIMIT))
    assert type(caught.value) is expected


def test_known_fault_a_gzip_bomb_of_64_mib_was_accepted(serve, make):
    server = serve(encoded(gzip.compress(b" " * 64 * 1024 * 1024), "gzip"))
    with pytest.raises(ReplyTooLargeError):
        call(make(server.url), timeout=10.0)  # by the default limit


def test_each_kind_of_fault_has_its_own_code():
    codes: dict[str, type[PluginError]] = {}
    for _, _, kind, _ in FAULTS:
        assert codes.setdefault(kind.code, kind) is kind


def test_refused(make):
    plugin = make(f"http://127.0.0.1:{free_port()}/x")
    with pytest.raises(PluginConnectionError, match="refused") as caught:
        call(plugin)
    assert type(caught.value) is PluginConnectionError
    assert caught.value.replay is Replay.ALWAYS
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)


def test_unknown_name(make):
    plugin = make("http://no-such-host.invalid/x")
    with pytest.raises(NameResolutionError) as caught:
        call(plugin)
    assert caught.value.replay is Replay.ALWAYS


def test_a_connect_timeout_is_safe_to_retry(make):
    """A listener with a full backlog drops further packets, as a firewall may."""
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
            fillers.append(filler)
        try:
            plugin = make(f"http://127.0.0.1:{listener.getsockname()[1]}/x", connection_timeout=0.2)
            for stopwatch in time_limit(0.3, at_least=0.15):
                with stopwatch, pytest.raises(PluginTimeoutError) as caught:
                    call(plugin, timeout=5)
            assert caught.value.replay is Replay.ALWAYS
        finally:
            for filler in fillers:
                filler.close()


def test_deadline_passed_before_the_start_sends_nothing(serve, make):
    server = serve()
    plugin = make(server.url)
    with pytest.raises(PluginTimeoutError) as caught:
        call(plugin, timeout=-1)
    assert caught.value.replay is Replay.ALWAYS
    assert server.requests == []


def test_a_request_that_is_not_read_ends_at_the_deadline(serve, make):
    server = serve(lambda peer: peer.server.closing.wait(5) and None)
    plugin = make(server.url)
    for stopwatch in time_limit(0.6):
        made = Call("x" * 16_000_000, codec_for(), Deadline.after(60), "req-1")
        plugin.prepare(made)  # the time to encode so much JSON is not measured
        made.deadline = Deadline.after(0.5)
        with stopwatch, pytest.raises(PluginTimeoutError):
            plugin.send(made)


def test_early_refusal_of_a_large_request_reaches_the_caller(serve, make):
    """The server replies and closes while the request is still being written."""

    def refuse(peer: Peer) -> None:
        peer.sock.recv(1000)
        peer.send(http_reply({"error": "too much"}, "413 Too Large", {"Connection": "close"}))
        peer.server.closing.wait(0.1)

    plugin = make(serve(refuse).url)
    with pytest.raises(PluginRequestError, match="too much"):
        call(plugin, "x" * 8_000_000, timeout=2)


def test_known_fault_a_late_reply_answered_the_next_calls_read(serve, make):
    def handler(peer: Peer) -> None:
        while (request := peer.read_request()) is not None:
            stray = http_reply({"data": "stray"}) if len(peer.server.requests) == 1 else b""
            peer.send(ok(request, "mine") + stray)

    server = serve(handler)
    plugin = make(server.url)
    assert call(plugin) == "mine"
    assert call(plugin) == "mine"
    assert server.connections == 2


def test_extra_bytes_that_arrive_later_close_the_connection(serve, make):
    sent = threading.Event()

    def handler(peer: Peer) -> None:
        while (request := peer.read_request()) is not None:
            peer.send(ok(request, "mine"))
            if len(peer.server.requests) == 1:
                time.sleep(0.05)
                peer.send(http_reply({"data": "stray"}))
                sent.set()

    server = serve(handler)
    plugin = make(server.url)
    assert call(plugin) == "mine"
    assert sent.wait(10)
    assert call(plugin) == "mine"
    assert server.connections == 2


def test_late_reply_never_answers_the_next_call(serve, make):
    def handler(peer: Peer) -> None:
        while (request := peer.read_request()) is not None:
            if request.headers["x-request-id"] == "slow":
                time.sleep(0.3)
            peer.send(http_reply({"data": request.headers["x-request-id"]}))  # without a request_id

    plugin = make(serve(handler).url, max_connections=1)
    with pytest.raises(PluginTimeoutError):
        call(plugin, timeout=0.1, request_id="slow")
    assert call(plugin, request_id="quick") == "quick"


def test_wrong_id_on_a_failure_status_keeps_the_status_but_not_the_connection(serve, make):
    def handler(peer: Peer) -> None:
        while peer.read_request() is not None:
            peer.send(http_reply({"error": "x", "request_id": "other"}, "500 Oops"))

    server = serve(handler)
    plugin = make(server.url)
    for _ in range(2):
        with pytest.raises(HTTPTransportError):
            call(plugin)
    assert server.connections == 2


@pytest.mark.parametrize("status", ["404 Not Found", "429 Slow Down", "503 Unavailable", "301 Moved"])
def test_whole_replies_of_any_status_keep_the_connection(serve, make, status):
    def handler(peer: Peer) -> None:
        while peer.read_request() is not None:
            peer.send(http_reply({"error": "x"}, status))

    server = serve(handler)
    plugin = make(server.url)
    for _ in range(3):
        with pytest.raises(PluginError):
            call(plugin)
    assert server.connections == 1


def test_known_fault_a_redirect_took_the_credential_to_another_host(serve, make):
    from goplugins.config import AuthConfig

    elsewhere = serve()
    server = serve(replying(http_reply(b"x", "302 Found", {"Location": elsewhere.url})))
    plugin = make(server.url, auth=AuthConfig(method="bearer", token="tok-456"))
    with pytest.raises(UnexpectedRedirectError) as caught:
        call(plugin)
    assert caught.value.details["status"] == 302
    assert elsewhere.requests == []


def test_keyboard_interrupt_closes_the_connection_and_frees_its_slot(serve, make, monkeypatch):
    server = serve()
    plugin = make(server.url, max_connections=1)
    assert call(plugin) == "ok"

    def interrupted(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("goplugins.transports.http.parser.ReplyParser.on_headers_complete", interrupted)
        patch.setattr("goplugins.transports.http.parser.FastPathParser.read", lambda *_: None)  # it calls no Python
        # The parser of the existing connection holds the original method.
        plugin._engine.pool.renew_all()
        with pytest.raises(KeyboardInterrupt):
            call(plugin)
    assert plugin._engine.pool.open == 0
    assert call(plugin) == "ok"
    assert server.connections == 3


SECRET = "~^|~~^^||~^~|~|^|"
TEXT = {"Content-Type": "text/plain"}
QUOTING = {
    "plain text": (200, lambda text: http_reply(text, "500 X", TEXT)),
    "a message": (200, lambda text: http_reply({"message": text}, "500 X")),
    "an error": (4096, lambda text: http_reply({"error": text}, "500 X")),
    "a request id": (100, lambda text: http_reply({"request_id": text, "data": 1})),
    "a key": (40, lambda text: http_reply(f'{{"{text}": 1, "{text}": 2}}')),
    "an encoding": (40, lambda text: http_reply({}, headers={"Transfer-Encoding": text, "Content-Encoding": text})),
    "a place": (200, lambda text: http_reply({}, "302 Found", {"Location": f"http://a/{text}"})),
}
"""Characters after which a text is cut, and replies with a text."""


@pytest.mark.parametrize("own", [True, False], ids=["configured", "of the call"])
@pytest.mark.parametrize("quoting", QUOTING)
def test_a_credential_that_is_cut_in_two_is_masked(serve, make, quoting, own):
    limit, quote = QUOTING[quoting]
    texts = ["x" * max(limit - 1 - shown, 0) + SECRET + "y" * 900 for shown in range(len(SECRET) + 12)]
    rest = iter(texts)

    def handle(peer: Peer) -> None:
        while peer.read_request() is not None:
            peer.send(quote(next(rest)))

    plugin = make(serve(handle).url, auth=AuthConfig(method="api-key", api_key=SECRET) if own else None)
    for _ in texts:
        with pytest.raises(PluginError) as caught:
            call(plugin, headers={} if own else {"X-Session-Token": SECRET})
        found = str(caught.value)
        assert len([each for each in found if each in SECRET]) <= (3 if quoting == "a key" else 0), found
