"""Use, release, replacement and end of connections."""

from __future__ import annotations

import os
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from goplugins.config import PluginConfig
from goplugins.errors import (
    ConnectionLostError,
    NameResolutionError,
    PluginClosedError,
    PluginError,
    PluginTimeoutError,
    Replay,
    SaturatedError,
)
from goplugins.runtime.call import Call
from goplugins.runtime.deadline import Deadline
from goplugins.transports.http import HTTPPlugin
from goplugins.transports.json_codec import codec_for
from tests.integration.http.conftest import call, failure
from tests.processes import in_child, run
from tests.servers import Peer, RawServer, free_port, http_reply, ok, reply_ok
from tests.timing import time_limit


def one_call_each(peer: Peer) -> None:
    """Closes after each reply without notice, like a server with a short idle timeout."""
    if (request := peer.read_request()) is not None:
        peer.send(ok(request))


def answer_once_then_die_on_request(peer: Peer) -> None:
    """Reads the second request of a connection and closes without a reply."""
    if (request := peer.read_request()) is not None:
        peer.send(ok(request))
        peer.read_request()


def test_connections_are_reused(serve, make):
    server = serve()
    plugin = make(server.url)
    for _ in range(5):
        assert call(plugin) == "ok"
    assert server.connections == 1


def test_without_keep_alive_each_call_opens_a_connection(serve, make):
    server = serve()
    plugin = make(server.url, keep_alive=False)
    for _ in range(3):
        assert call(plugin) == "ok"
    assert server.connections == 3
    assert {request.headers["connection"] for request in server.requests} == {"close"}
    assert plugin._engine.pool.open == 0


def test_connection_close_of_the_server_closes_the_connection(serve, make):
    def handler(peer: Peer) -> None:
        while (request := peer.read_request()) is not None:
            peer.send(ok(request).replace(b"\r\n", b"\r\nConnection: close\r\n", 1))

    server = serve(handler)
    plugin = make(server.url)
    for _ in range(3):
        assert call(plugin) == "ok"
    assert server.connections == 3


def test_reply_that_ends_with_the_connection(serve, make):
    def handler(peer: Peer) -> None:
        peer.read_request()
        peer.send(b'HTTP/1.0 200 OK\r\n\r\n{"data": "old"}')

    assert call(make(serve(handler).url)) == "old"


def test_dead_idle_connection_is_replaced_before_use(serve, make):
    server = serve(one_call_each)
    plugin = make(server.url)
    for _ in range(3):
        assert call(plugin) == "ok"
        time.sleep(0.05)
    assert server.connections == 3


class TestSilentReconnect:
    def test_an_idempotent_call_reconnects_once(self, serve, make):
        server = serve(answer_once_then_die_on_request)
        plugin = make(server.url)
        assert call(plugin) == "ok"
        made = Call(None, codec_for(), Deadline.after(2), "req-1", idempotent=True)
        plugin.prepare(made)
        assert plugin.send(made) == "ok"
        assert made.reconnected
        assert server.connections == 2
        assert len(server.requests) == 3

    def test_a_call_that_may_have_been_executed_does_not_reconnect(self, serve, make):
        server = serve(answer_once_then_die_on_request)
        plugin = make(server.url)
        assert call(plugin) == "ok"
        with pytest.raises(ConnectionLostError):
            call(plugin)
        assert len(server.requests) == 2

    def test_no_reconnect_after_a_new_connection_failed(self, serve, make):
        server = serve(lambda peer: peer.read_request() and None)
        with pytest.raises(ConnectionLostError):
            call(make(server.url), idempotent=True)
        assert len(server.requests) == 1

    def test_no_second_reconnect_in_one_call(self, serve, make):
        server = serve(answer_once_then_die_on_request)
        plugin = make(server.url)
        made = Call(None, codec_for(), Deadline.after(2), "req-1", idempotent=True)
        plugin.prepare(made)
        assert plugin.send(made) == "ok"
        assert plugin.send(made) == "ok"  # the second attempt of one call reconnects
        with pytest.raises(ConnectionLostError):
            plugin.send(made)  # the third attempt must not

    def test_no_reconnect_once_the_reply_has_begun(self, serve, make):
        def handler(peer: Peer) -> None:
            if (request := peer.read_request()) is not None:
                peer.send(ok(request))
                if peer.read_request() is not None:
                    peer.send(b"HTTP/1.1 ")

        server = serve(handler)
        plugin = make(server.url)
        assert call(plugin) == "ok"
        with pytest.raises(PluginError) as caught:
            call(plugin, idempotent=True)
        assert caught.value.code == "PLUGIN_1213"
        assert len(server.requests) == 2

    def test_no_reconnect_after_a_timeout(self, serve, make):
        def handler(peer: Peer) -> None:
            if (request := peer.read_request()) is not None:
                peer.send(ok(request))
                peer.read_request()
                peer.hang()

        server = serve(handler)
        plugin = make(server.url)
        assert call(plugin) == "ok"
        with pytest.raises(PluginTimeoutError):
            call(plugin, idempotent=True, timeout=0.2)
        assert server.connections == 1


def test_known_fault_51_connections_where_5_were_allowed(serve, make):
    def slow(peer: Peer) -> None:
        while (request := peer.read_request()) is not None:
            time.sleep(0.002)
            peer.send(ok(request))

    server = serve(slow)
    plugin = make(server.url, max_connections=5, max_idle_connections=2)
    with ThreadPoolExecutor(32) as threads:
        answers = list(threads.map(lambda _: call(plugin, timeout=10), range(300)))
    assert answers == ["ok"] * 300
    assert server.open_most <= 5
    assert plugin._engine.pool.idle <= 2


def test_no_free_connection_is_a_saturated_error_at_the_deadline(serve, make):
    server = serve(lambda peer: peer.read_request() and peer.hang())
    plugin = make(server.url, max_connections=1)
    with ThreadPoolExecutor(1) as threads:
        busy = threads.submit(failure, plugin, timeout=1)
        while not server.requests:
            time.sleep(0.005)
        for stopwatch in time_limit(0.3, at_least=0.15):
            with stopwatch, pytest.raises(SaturatedError) as caught:
                call(plugin, timeout=0.2)
        assert caught.value.replay is Replay.NEVER
        assert isinstance(busy.result(), PluginTimeoutError)
    assert len(server.requests) == 1


def test_close_rejects_later_calls_and_calls_in_flight_finish(serve, make):
    release = threading.Event()

    def handler(peer: Peer) -> None:
        while (request := peer.read_request()) is not None:
            release.wait(5)
            peer.send(ok(request))

    server = serve(handler)
    plugin = make(server.url)
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(call, plugin, timeout=5)
        while not server.requests:
            time.sleep(0.005)
        plugin.close()
        plugin.close()
        with pytest.raises(PluginClosedError):
            call(plugin)
        release.set()
        assert running.result() == "ok"
    assert plugin._engine.pool.open == 0


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_no_descriptor_leaks(serve, make):
    def broken(peer: Peer) -> None:
        peer.read_request()
        peer.send(http_reply(b"", length=10))

    good, bad = serve(), serve(broken)
    refused = f"http://127.0.0.1:{free_port()}/x"
    with pytest.raises(PluginError):
        call(make(refused))
    before = descriptors()
    for _ in range(20):
        plugin = make(good.url)
        call(plugin)
        plugin.close()
        for url in (bad.url, refused):
            plugin = make(url)
            with pytest.raises(PluginError):
                call(plugin)
            plugin.close()
    deadline = time.monotonic() + 5
    while descriptors() > before and time.monotonic() < deadline:
        time.sleep(0.01)  # the server's side of them, on its own threads
    assert descriptors() <= before


def test_hanging_name_resolution_ends_at_the_deadline(make, monkeypatch):
    release = threading.Event()
    monkeypatch.setattr("socket.getaddrinfo", lambda *args, **kw: release.wait(5) and [])
    plugin = make(f"http://slow-{uuid.uuid4().hex}.example/x")  # a name is resolved once at a time in a process
    for stopwatch in time_limit(0.3):
        with stopwatch, pytest.raises(PluginTimeoutError) as caught:
            call(plugin, timeout=0.2)
    assert caught.value.replay is Replay.ALWAYS
    release.set()


def test_invalid_host_name(make):
    with pytest.raises(NameResolutionError):
        call(make("http://" + "x" * 70 + ".example/x"))


def fork_with_a_connection(engine):
    with RawServer(reply_ok) as server:
        config = PluginConfig(name="p", transport="http", endpoint=server.url, options={"engine": engine})
        plugin = HTTPPlugin(config)
        assert call(plugin) == "ok"
        connection = plugin._engine.pool._idle[0].connection
        descriptor = connection.fileno()

        def child():
            closed = not os.path.exists(f"/proc/self/fd/{descriptor}")
            return closed, call(plugin), plugin._engine.pool.open

        found = in_child(child)
        assert call(plugin) == "ok"  # the child closed its descriptor and did not shut the connection down
        plugin.close()
        return found, server.connections


def test_forked_child_uses_a_connection_of_its_own(engine):
    assert run(fork_with_a_connection, engine) == [[True, "ok", 1], 2]


class TestProxy:
    def test_plain_http_uses_the_absolute_form(self, serve, make):
        proxy = serve()
        plugin = make("http://plugin.example/p", options={"proxy": f"http://u:pw@127.0.0.1:{proxy.port}"})
        assert call(plugin) == "ok"
        request = proxy.requests[0]
        assert request.path == "http://plugin.example/p"
        assert request.headers["host"] == "plugin.example"
        assert request.headers["proxy-authorization"] == "Basic dTpwdw=="

    def test_https_uses_a_tunnel(self, serve, make, server_context, ca_file):
        import ssl

        from goplugins.config import AuthConfig

        context: ssl.SSLContext = server_context("plugin.example")

        def tunnel(peer: Peer) -> None:
            peer.read_request()
            peer.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
            peer.sock = context.wrap_socket(peer.sock, server_side=True)
            try:
                reply_ok(peer)
            finally:
                peer.sock.close()

        proxy = serve(tunnel)
        auth = AuthConfig(ca_file=ca_file, method="bearer", token="tok-456")
        options = {"proxy": f"http://u:pw@127.0.0.1:{proxy.port}"}
        plugin = make("https://plugin.example/p", auth=auth, options=options)
        assert call(plugin) == "ok"
        assert call(plugin) == "ok"
        connect, *requests = proxy.requests
        assert (connect.method, connect.path) == ("CONNECT", "plugin.example:443")
        assert connect.headers["proxy-authorization"] == "Basic dTpwdw=="
        assert "authorization" not in connect.headers
        assert [request.path for request in requests] == ["/p", "/p"]
        assert "proxy-authorization" not in requests[0].headers

    def test_proxy_that_refuses_or_is_slow(self, serve, make):
        from goplugins.errors import PluginConnectionError

        refusing = serve(lambda peer: peer.read_request() and peer.send(b"HTTP/1.1 407 Auth\r\n\r\n"))
        plugin = make("https://plugin.example/p", options={"proxy": f"http://127.0.0.1:{refusing.port}"})
        with pytest.raises(PluginConnectionError, match="407"):
            call(plugin)
        dripping = serve(lambda peer: peer.read_request() and peer.drip(b"HTTP/1.1 200 " + b"x" * 1000, 0.02))
        plugin = make("https://plugin.example/p", options={"proxy": f"http://127.0.0.1:{dripping.port}"})
        for stopwatch in time_limit(0.4):
            with stopwatch, pytest.raises(PluginTimeoutError):
                call(plugin, timeout=0.3)

    def test_environment_is_used_only_with_trust_env(self, serve, make, monkeypatch):
        proxy, server = serve(), serve()
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        assert call(make(server.url)) == "ok"
        assert not proxy.requests
        assert call(make(server.url, options={"trust_env": True})) == "ok"
        assert len(proxy.requests) == 1
