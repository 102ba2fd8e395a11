"""The status of a reply decides what it means, whatever its body is, and before the request has been sent whole."""

from __future__ import annotations

import gzip

import pytest
import requests

from goplugins.config import ConnectionConfig, PluginConfig
from goplugins.enums import PluginStatus
from goplugins.errors import (
    AuthenticationError,
    HTTPTransportError,
    PluginError,
    PluginRequestError,
    PluginThrottledError,
    PluginTimeoutError,
    PluginUnavailableError,
    UnexpectedRedirectError,
)
from goplugins.transports.http import HTTPPlugin
from tests.integration.http.conftest import call
from tests.servers import Peer, http_reply, ok
from tests.timing import time_limit

pytestmark = pytest.mark.matrix

LIMIT = 100_000
LARGE = b"x" * (LIMIT + 1)

STATUSES = {
    "302 Found": UnexpectedRedirectError,
    "401 Unauthorized": AuthenticationError,
    "404 Not Found": PluginRequestError,
    "413 Content Too Large": PluginRequestError,
    "429 Too Many Requests": PluginThrottledError,
    "500 Internal Server Error": HTTPTransportError,
    "503 Service Unavailable": PluginUnavailableError,
}


def raw(headers: str, body: bytes = b""):
    return lambda status: f"HTTP/1.1 {status}\r\nRetry-After: 7\r\n{headers}\r\n".encode() + body


def whole(body: bytes, **headers: str):
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return raw(f"Content-Length: {len(body)}\r\n{lines}", body)


BODIES = {
    "empty": whole(b""),
    "no length": raw("", b"page"),
    "binary": whole(bytes(range(256))),
    "other JSON": whole(b'[{"a": 1}]'),
    "broken JSON": whole(b'{"error": '),
    "deep JSON": whole(b'{"error": ' + b"[" * 50_000),
    "an encoding that was not accepted": whole(b"\x1b\x03", Content_Encoding="br"),
    "broken gzip": whole(b"plain text", Content_Encoding="gzip"),
    "gzip cut short": whole(gzip.compress(b"x" * 1000)[:20], Content_Encoding="gzip"),
    "gzip larger than the limit": whole(gzip.compress(LARGE), Content_Encoding="gzip"),
    "larger than the limit": whole(LARGE),
    "larger than the limit, in chunks": raw("Transfer-Encoding: chunked\r\n", b"%x\r\n%b\r\n" % (len(LARGE), LARGE)),
    "far larger": raw("Content-Length: 99999999999999999\r\n", b"x"),
    "cut short": raw("Content-Length: 100\r\n", b"x"),
    "chunks cut short": raw("Transfer-Encoding: chunked\r\n", b"5\r\nab"),
    "broken chunks": raw("Transfer-Encoding: chunked\r\n", b"zz\r\nab"),
}

OWN_BODIES = {
    **BODIES,
    "length that no number holds": raw(f"Content-Length: {'9' * 30}\r\n", b"x"),
    "an unknown transfer encoding": raw("Transfer-Encoding: rot13\r\n", b"x"),
    "too many trailers": raw("Transfer-Encoding: chunked\r\n", b"0\r\n" + b"A: b\r\n" * 200 + b"\r\n"),
}


def judged(plugin: HTTPPlugin, status: str) -> PluginError:
    with pytest.raises(PluginError) as caught:
        call(plugin)
    error = caught.value
    assert type(error) is STATUSES[status], error
    assert error.details["status"] == int(status[:3])
    assert error.retry_after == (7.0 if status[:3] in ("429", "503") else None)
    return error


@pytest.mark.parametrize("body", OWN_BODIES.values(), ids=OWN_BODIES)
@pytest.mark.parametrize("status", STATUSES)
def test_whatever_the_body_is(serve, make, status, body):
    def handler(peer: Peer) -> None:
        first = peer.number == 1
        while (request := peer.read_request()) is not None:
            peer.send(body(status) if first else ok(request))
            if first:
                return

    server = serve(handler)
    plugin = make(server.url, max_response_bytes=LIMIT)
    judged(plugin, status)
    assert call(plugin, idempotent=True) == "ok"  # the server may be about to close the connection


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("status", ["302 Found", "404 Not Found", "429 Too Many Requests", "503 Service Unavailable"])
def test_whatever_the_body_is_with_a_session(serve, status, body):
    server = serve(lambda peer: peer.read_request() and peer.send(body(status)))
    config = PluginConfig(
        name="p", transport="http", endpoint=server.url, connection=ConnectionConfig(max_response_bytes=LIMIT)
    )
    with requests.Session() as session:
        session.trust_env = False
        judged(HTTPPlugin(config, session=session), status)


@pytest.mark.parametrize("body", OWN_BODIES.values(), ids=OWN_BODIES)
@pytest.mark.parametrize(
    ("status", "health"), [("200 OK", PluginStatus.HEALTHY), ("503 Service Unavailable", PluginStatus.UNHEALTHY)]
)
def test_health_whatever_the_body_is(serve, make, status, health, body):
    server = serve(lambda peer: peer.read_request() and peer.send(body(status)))
    assert make(server.url, max_response_bytes=LIMIT).health(5).status is health


@pytest.mark.parametrize("end", ["hangs", "drips", "resets"])
def test_a_body_that_does_not_end(serve, make, end):
    """A second for the rest of an error's body: a retry needs the time."""

    def handler(peer: Peer) -> None:
        peer.read_request()
        peer.send(b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\nContent-Length: 100\r\n\r\nx")
        if end == "resets":
            peer.reset()
        elif end == "drips":
            peer.drip(b"x" * 99, 0.1)
        else:
            peer.hang()

    plugin = make(serve(handler).url)
    for stopwatch in time_limit(2.0):
        with stopwatch:
            judged(plugin, "503 Service Unavailable")


def test_an_error_whose_body_was_read_whole_keeps_the_connection(serve, make):
    body = whole(gzip.compress(b'{"error": "no stock"}'), Content_Encoding="gzip")

    def handler(peer: Peer) -> None:
        while peer.read_request() is not None:
            peer.send(body("404 Not Found"))

    server = serve(handler)
    plugin = make(server.url)
    assert "no stock" in judged(plugin, "404 Not Found").message
    judged(plugin, "404 Not Found")
    assert server.connections == 1


# --- refusals before the request has been sent ---------------------------------------------------------------------

UPLOAD = "x" * 20_000_000


def refusal(status: str, then: str):
    """Replies after the request's head and reads no further."""

    def handler(peer: Peer) -> None:
        while b"\r\n\r\n" not in peer.buffer:
            peer._fill()
        peer.server.requests.append(None)
        if then == "after interim replies":
            peer.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        peer.send(http_reply({"error": "refused"}, status, {"Connection": "close", "Retry-After": "7"}))
        if then == "closes":
            peer.close()
        elif then == "resets":
            peer.reset()
        else:
            if then == "shuts its side":
                peer.sock.shutdown(1)
            peer.server.closing.wait(20)

    return handler


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("then", ["waits", "shuts its side", "closes", "after interim replies"])
@pytest.mark.parametrize("status", ["401 Unauthorized", "413 Content Too Large", "429 Too Many Requests"])
def test_a_large_request_is_refused_early(serve, make, server_context, ca_file, status, then, tls):
    from goplugins.config import AuthConfig

    if tls and then == "shuts its side":
        pytest.skip("TLS has no half-closed connections")
    server = serve(refusal(status, then), tls=server_context() if tls else None)
    plugin = make(server.url, auth=AuthConfig(ca_file=ca_file) if tls else None)
    for stopwatch in time_limit(5.0):
        with stopwatch, pytest.raises(PluginError) as caught:
            call(plugin, UPLOAD, timeout=15)
        assert type(caught.value) is STATUSES[status], caught.value
        assert "refused" in caught.value.message
    assert plugin._engine.pool.open == 0


def test_an_answer_that_begins_early_is_read_after_the_request(serve, make):
    """A server may answer before it has read everything: only a refusal ends the request."""

    def handler(peer: Peer) -> None:
        for _ in range(2):
            while b"\r\n\r\n" not in peer.buffer:
                peer._fill()
            peer.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n")
            peer.read_request()
            peer.send(b'{"data": "ok"}')

    server = serve(handler)
    plugin = make(server.url)
    assert call(plugin, UPLOAD, timeout=15) == "ok"
    assert call(plugin, UPLOAD, timeout=15) == "ok"
    assert server.connections == 1


def test_a_request_that_is_not_read_ends_at_the_deadline(serve, make):
    plugin = make(serve(lambda peer: peer.server.closing.wait(20)).url)
    for stopwatch in time_limit(3.0):
        with stopwatch, pytest.raises(PluginTimeoutError, match=r"sending the request \(\d+ of \d{8} bytes sent\)"):
            call(plugin, UPLOAD, timeout=1.5)
