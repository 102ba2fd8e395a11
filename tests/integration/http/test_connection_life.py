"""The end of a kept connection: announced by the server, or by ``connection.max_lifetime``."""

from __future__ import annotations

import socket

import pytest
import requests

from goplugins.config import AuthConfig, ConnectionConfig, PluginConfig
from goplugins.enums import PluginStatus
from goplugins.errors import (
    InvalidConfigError,
    PluginConnectionError,
    PluginRequestError,
    Replay,
    UnexpectedRedirectError,
)
from goplugins.runtime.call import Call
from goplugins.runtime.deadline import Deadline
from goplugins.testing import ManualClock
from goplugins.transports.http import HTTPPlugin
from goplugins.transports.json_codec import codec_for
from tests.integration.http.conftest import call
from tests.servers import Peer, http_reply, ok
from tests.timing import until

pytestmark = pytest.mark.matrix

TIMEOUT = "408 Request Timeout"


def replying(*headers: tuple[str, str], body=None):
    def handler(peer: Peer) -> None:
        while (request := peer.read_request()) is not None:
            data = {"data": "ok", "request_id": request.headers.get("x-request-id", "")}
            peer.send(http_reply(body or data, headers=dict(headers)))

    return handler


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def make_at(engine, clock):
    """Makes plugins whose time is that of ``clock``, and calls them."""
    plugins = []

    def build(url: str, resolver=None, **connection):
        config = PluginConfig(
            name="p",
            transport="http",
            endpoint=url,
            options={"engine": engine},
            connection=ConnectionConfig(idle_timeout=1000.0, **connection),
        )
        plugin = HTTPPlugin(config, clock=clock, resolver=resolver)
        plugins.append(plugin)

        def send() -> object:
            made = Call(None, codec_for(), Deadline(clock.monotonic() + 5, clock), "req-1")
            plugin.prepare(made)
            return plugin.send(made)

        return send

    yield build
    for plugin in plugins:
        plugin.close()


class TestHint:
    @pytest.mark.parametrize(
        ("value", "used", "given_up"),
        [
            ("timeout=5", 3.9, 4.1),
            ("timeout=5, max=100", 3.9, 4.1),
            ("max=100,timeout=5", 3.9, 4.1),
            ("TIMEOUT = 5", 3.9, 4.1),
            ('timeout="5"', 3.9, 4.1),
            ("timeout=1", 0.4, 0.6),
            ("timeout=60", 58, 60),
            ("max=100", 900, 1001),
            ("timeout=soon", 900, 1001),
            ("", 900, 1001),
        ],
    )
    @pytest.mark.parametrize("name", ["Keep-Alive", "keep-alive"])
    def test_the_connection_is_given_up_before_the_server_closes_it(
        self, serve, make_at, clock, name, value, used, given_up
    ):
        server = serve(replying((name, value), ("Connection", "keep-alive")))
        send = make_at(server.url)
        send()
        clock.advance(used)
        send()
        assert server.connections == 1
        clock.advance(given_up)
        send()
        assert server.connections == 2

    def test_zero_means_that_it_is_not_used_again(self, serve, make_at):
        server = serve(replying(("Keep-Alive", "timeout=0")))
        send = make_at(server.url)
        send()
        send()
        assert server.connections == 2

    @pytest.mark.parametrize("status", ["404 Not Found", "200 OK"])
    @pytest.mark.parametrize("encoding", ["", "chunked"])
    def test_of_replies_of_any_kind(self, serve, make_at, clock, status, encoding):
        body = b'{"data": "ok"}'
        framing = "Transfer-Encoding: chunked" if encoding else f"Content-Length: {len(body)}"
        sent = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if encoding else body
        reply = f"HTTP/1.1 {status}\r\nKeep-Alive: timeout=5\r\n{framing}\r\n\r\n".encode() + sent

        def handler(peer: Peer) -> None:
            while peer.read_request() is not None:
                peer.send(reply)

        server = serve(handler)
        send = make_at(server.url)
        for advance, connections in ((0, 1), (3, 1), (4.5, 2)):
            clock.advance(advance)
            try:
                send()
            except PluginRequestError:
                assert status != "200 OK"
            assert server.connections == connections


class TestRequestTimeout:
    def test_on_a_kept_connection_the_call_is_sent_again(self, serve, make):
        """The server has closed the connection while the request, not idempotent, was on its way."""

        def handler(peer: Peer) -> None:
            peer.send(ok(peer.read_request()))
            if peer.number == 1:
                peer.read_request()
                peer.send(http_reply("", TIMEOUT, {"Connection": "close"}))
            else:
                peer.hang()

        server = serve(handler)
        plugin = make(server.url)
        assert [call(plugin), call(plugin)] == ["ok", "ok"]
        assert server.connections == 2

    def test_on_a_new_connection_it_is_the_answer(self, serve, make):
        server = serve(lambda peer: peer.read_request() and peer.send(http_reply("", TIMEOUT)))
        with pytest.raises(PluginRequestError) as caught:
            call(make(server.url))
        assert caught.value.details["status"] == 408
        assert server.connections == 1

    def test_once_a_call(self, serve, make):
        """A second one, for the retry of a call that has had its new connection, is safe to retry."""

        def handler(peer: Peer) -> None:
            peer.send(ok(peer.read_request()))
            peer.read_request()
            peer.send(http_reply("", TIMEOUT, {"Connection": "close"}))

        server = serve(handler)
        plugin = make(server.url)
        call(plugin)
        again = Call(None, codec_for(), Deadline.after(5), "req-1")
        again.reconnected = True
        plugin.prepare(again)
        with pytest.raises(PluginConnectionError, match="408") as caught:
            plugin.send(again)
        assert caught.value.replay is Replay.ALWAYS

    def test_that_comes_unasked_ends_the_idle_connection(self, serve, make):
        def handler(peer: Peer) -> None:
            peer.send(ok(peer.read_request()))
            if peer.number == 1:
                peer.send(http_reply("", TIMEOUT, {"Connection": "close"}))
            else:
                peer.hang()

        server = serve(handler)
        plugin = make(server.url)
        assert call(plugin) == "ok"
        until(lambda: server.open_now == 0)
        assert call(plugin) == "ok"
        assert len(server.requests) == 2


class TestMaxLifetime:
    def test_a_name_that_has_moved_is_followed(self, serve, make_at, clock):
        old = serve()
        new = serve(host="127.0.0.2", bind_port=old.port)

        class Names:
            address = "127.0.0.1"

            def resolve(self, host, port, deadline):
                return [(socket.AF_INET, (self.address, port))]

        names = Names()
        send = make_at(f"http://moved.example:{old.port}/", resolver=names, max_lifetime=60.0)
        send()
        names.address = "127.0.0.2"
        for _ in range(5):
            clock.advance(11)
            send()
        assert not new.requests
        clock.advance(11)
        send()
        assert len(new.requests) == 1

    def test_is_refused_with_a_session(self):
        config = PluginConfig(
            name="p",
            transport="http",
            endpoint="http://127.0.0.1:1/x",
            connection=ConnectionConfig(max_lifetime=60.0),
        )
        with pytest.raises(InvalidConfigError, match=r"connection\.max_lifetime"):
            HTTPPlugin(config, session=requests.Session())


class TestRedirect:
    @pytest.mark.parametrize(
        ("location", "shown"),
        [
            ("https://other.example/path", "https://other.example/path"),
            ("/login?next=%2Fplugin&ticket=s3cret", "/login"),
            ("//other.example/x", "//other.example/x"),
            ("https://user:s3cret@other.example/x?token=s3cret#s3cret", "https://other.example/x"),
            ("/with/tok-456/inside", "/with/***/inside"),
            ("/\x9b31m", "/\\x9b31m"),
        ],
    )
    def test_the_error_says_where_to(self, serve, make, location, shown):
        server = serve(lambda peer: peer.read_request() and peer.send(http_reply("", "302 X", {"Location": location})))
        plugin = make(server.url, auth=AuthConfig(method="bearer", token="tok-456"))
        with pytest.raises(UnexpectedRedirectError) as caught:
            call(plugin)
        assert caught.value.details["location"] == shown
        assert f"refers to {shown}:" in caught.value.message
        assert "s3cret" not in caught.value.message

    def test_a_health_check_says_where_to(self, serve, make):
        location = "https://other.example/health?token=s3cret"
        server = serve(lambda peer: peer.read_request() and peer.send(http_reply("", "301 X", {"Location": location})))
        status = make(server.url).health(5)
        assert status.status is PluginStatus.UNHEALTHY
        assert status.message == "HTTP 301: https://other.example/health"

    @pytest.mark.parametrize("status", ["304 Not Modified", "300 Multiple Choices"])
    def test_without_a_location(self, serve, make, status):
        server = serve(lambda peer: peer.read_request() and peer.send(http_reply("", status)))
        with pytest.raises(UnexpectedRedirectError) as caught:
            call(make(server.url))
        assert "location" not in caught.value.details
