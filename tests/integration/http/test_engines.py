"""The choice of the engine, and what is special about each."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import threading
import time

import pytest
import requests
from requests.adapters import BaseAdapter, HTTPAdapter
from requests.auth import AuthBase

from goplugins.config import ConnectionConfig, PluginConfig
from goplugins.enums import PluginStatus
from goplugins.errors import (
    BadReplyError,
    ConnectionLostError,
    InvalidConfigError,
    InvalidEndpointURLError,
    InvalidHeaderError,
    PluginClosedError,
    PluginConnectionError,
    PluginError,
    PluginTimeoutError,
    ReplyTooLargeError,
    SaturatedError,
    TruncatedReplyError,
    UnexpectedRedirectError,
)
from goplugins.runtime import fork
from goplugins.runtime.fork import FORK_MARK
from goplugins.transports.http import HTTPPlugin
from goplugins.transports.http.connection import Connection
from tests.integration.http.conftest import call, failure
from tests.servers import Peer, free_port, http_reply, ok
from tests.timing import time_limit


def config_of(endpoint: str, options: dict | None = None, **connection) -> PluginConfig:
    return PluginConfig(
        name="p",
        transport="http",
        endpoint=endpoint,
        options=options or {},
        connection=ConnectionConfig(**connection),
    )


@pytest.mark.parametrize(
    ("options", "engine"),
    [({}, "HttptoolsEngine"), ({"engine": "fast"}, "HttptoolsEngine"), ({"engine": "requests"}, "RequestsEngine")],
)
def test_the_fast_engine_is_the_default(options, engine):
    plugin = HTTPPlugin(config_of("http://127.0.0.1:1/x", options))
    assert type(plugin._engine).__name__ == engine


def test_requests_is_not_loaded_for_the_fast_engine():
    code = (
        "import sys; from goplugins.config import PluginConfig; from goplugins.transports.http import HTTPPlugin; "
        "HTTPPlugin(PluginConfig(name='p', transport='http', endpoint='http://127.0.0.1:1')); "
        "print('requests' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_one_write_per_request(serve, make):
    """Head and body come in one packet: a server must not be woken twice."""
    packets = []

    def handler(peer: Peer) -> None:
        packets.append(peer.sock.recv(65536))
        peer.send(http_reply({"data": "ok"}))

    assert call(make(serve(handler).url), {"a": 1}) == "ok"
    assert packets[0].endswith(b"}")


class TestFast:
    @pytest.fixture
    def engine(self):
        return "fast"

    def test_a_large_request_and_a_large_reply(self, serve, make):
        def handler(peer: Peer) -> None:
            while (request := peer.read_request()) is not None:
                peer.send(ok(request, request.json["data"]))

        plugin = make(serve(handler).url, max_response_bytes=1 << 25)
        value = "x" * 9_000_000
        assert call(plugin, value, timeout=30) == value
        assert call(plugin, "y", timeout=5) == "y"

    def test_header_injection_is_impossible_even_without_prepare(self, serve, make):
        from goplugins.runtime.call import Call
        from goplugins.runtime.deadline import Deadline
        from goplugins.transports.json_codec import codec_for

        plugin = make(serve().url)
        for fields in (
            {"headers": {"X-A": "a\r\nX-Evil: 1"}},
            {"headers": {"X-A\r\nB": "c"}},
            {"request_id": "a\r\nb"},
        ):
            made = Call(None, codec_for(), Deadline.after(2), **{"request_id": "r", **fields})
            made.payload = b"null"  # as if prepare() had been left out
            with pytest.raises(InvalidHeaderError):
                plugin.send(made)

    @pytest.mark.parametrize("endpoint", ["http://a b/x", "http://a\x01b/x", "http://\u2603\u2603..x/x"])
    def test_host_with_characters_that_no_header_can_have(self, endpoint):
        with pytest.raises(InvalidEndpointURLError):
            HTTPPlugin(config_of(endpoint))

    def test_a_process_forked_past_python_uses_connections_of_its_own(self, serve, make, monkeypatch):
        """By FORK_MARK: a fork in C code runs no hooks of os.fork()."""
        monkeypatch.setattr(fork, "_forkables", {})  # nothing else of this process was forked
        server = serve()
        plugin = make(server.url)
        assert plugin.execute(1) == "ok"
        FORK_MARK[0] = 0  # as the kernel would leave it
        assert plugin.execute(1) == "ok"
        assert server.connections == 2

    @pytest.mark.skipif(sys.platform != "linux", reason="only Linux has TCP_INFO")
    def test_a_system_that_counts_bytes_differently_keeps_its_connections(self, serve, make):
        """TCP_INFO decides only if nothing can be read; otherwise poll() does."""
        server = serve()
        plugin = make(server.url)
        assert call(plugin) == "ok"
        wire = plugin._engine.pool._idle[0].connection
        size = len(wire._tcp_info())
        wire._tcp_info = lambda: bytes(size)
        assert [call(plugin), call(plugin)] == ["ok", "ok"]
        assert server.connections == 1
        assert wire._tcp_info is None

    def test_a_system_without_tcp_info(self, serve, make, monkeypatch):
        monkeypatch.delattr("socket.TCP_INFO", raising=False)
        server = serve()
        plugin = make(server.url)
        assert [call(plugin), call(plugin)] == ["ok", "ok"]
        assert server.connections == 1
        server.drop_connections()
        assert call(plugin) == "ok"
        assert server.connections == 2

    def test_a_closed_connection_leaves_no_reference_cycles(self, serve, make):
        import gc

        plugin = make(serve().url, keep_alive=False)
        call(plugin)
        gc.collect()
        gc.disable()
        try:
            for _ in range(5):
                call(plugin)
            assert not [found for found in gc.get_objects() if type(found).__name__ == "ReplyParser"]
        finally:
            gc.enable()

    def test_a_call_that_timed_out_leaves_no_reference_cycles(self, serve, make):
        """Its frames would keep request and reply until a collection, and under overload there are many of them."""
        import gc

        over = threading.Event()
        plugin = make(serve(lambda peer: over.wait(5)).url)
        failure(plugin, timeout=0.05)
        gc.collect()
        gc.disable()
        try:
            for _ in range(5):
                with contextlib.suppress(PluginTimeoutError):  # pytest.raises() makes reference cycles
                    call(plugin, timeout=0.05)
            assert not [found for found in gc.get_objects() if type(found) is Connection]
        finally:
            gc.enable()
            over.set()


class Recorded(BaseAdapter):
    """An adapter that creates its replies."""

    def __init__(self, body: bytes, status: int = 200) -> None:
        super().__init__()
        self.body, self.status, self.requests = body, status, []

    def send(self, request, **_):
        self.requests.append(request)
        response = requests.Response()
        response.status_code, response.raw, response.request = self.status, io.BytesIO(self.body), request
        response.url = request.url
        return response

    def close(self):
        pass


class TestGivenSession:
    @pytest.fixture
    def session(self):
        with requests.Session() as session:
            session.trust_env = False
            yield session

    @pytest.fixture
    def given(self, session):
        return lambda endpoint, **connection: HTTPPlugin(config_of(endpoint, **connection), session=session)

    def test_calls_and_health_checks(self, serve, given):
        server = serve()
        plugin = given(server.url)
        assert [call(plugin, {"a": 1}), call(plugin)] == ["ok", "ok"]
        assert plugin.health(2).status is PluginStatus.HEALTHY
        assert server.connections == 1
        first = server.requests[0]
        assert first.json["data"] == {"a": 1}
        assert first.headers["x-request-id"] == "req-1"
        assert first.headers["user-agent"].startswith("goplugins-python/")

    def test_adapters_of_the_session_are_used(self, session, given):
        adapter = Recorded(b'{"data": "recorded"}')
        session.mount("http://plugin.example/", adapter)
        assert call(given("http://plugin.example/p")) == "recorded"
        assert adapter.requests[0].url == "http://plugin.example/p"

    def test_a_patched_adapter_is_used(self, given, monkeypatch):
        """As the `responses` package does."""
        monkeypatch.setattr(HTTPAdapter, "send", lambda self, request, **_: Recorded(b'{"data": 7}').send(request))
        assert call(given("http://plugin.example/p")) == 7

    def test_authentication_of_the_session_is_used(self, serve, session, given):
        class Signed(AuthBase):
            def __call__(self, request):
                request.headers["X-Signature"] = str(len(request.body))
                return request

        server = serve()
        session.auth = Signed()
        call(given(server.url))
        assert server.requests[0].headers["x-signature"] == str(len(server.requests[0].body))

    def test_a_redirect_is_not_followed_and_its_body_not_read_to_the_end(self, serve, given):
        elsewhere = serve()
        small = serve(
            lambda peer: peer.read_request() and peer.send(http_reply(b"x", "302 Found", {"Location": elsewhere.url}))
        )
        with pytest.raises(UnexpectedRedirectError):
            call(given(small.url))
        large = http_reply(b"x" * 100_000, "302 Found", {"Location": elsewhere.url})
        with pytest.raises(UnexpectedRedirectError):
            call(given(serve(lambda peer: peer.read_request() and peer.send(large)).url, max_response_bytes=1000))
        assert elsewhere.requests == []

    @pytest.mark.parametrize(
        ("reply", "expected"),
        [
            (b"", ConnectionLostError),
            (http_reply({"data": 1}, length=100), TruncatedReplyError),
            (http_reply(b"not gzip", headers={"Content-Encoding": "gzip"}), BadReplyError),
            (http_reply({"data": "x" * 2000}), ReplyTooLargeError),
            (b"SSH-2.0-OpenSSH\r\n\r\n", ConnectionLostError),
            (http_reply({"status": "up"}), BadReplyError),
        ],
        ids=["nothing", "truncated", "broken gzip", "too large", "no HTTP", "no envelope"],
    )
    def test_faults_become_plugin_errors(self, serve, given, reply, expected):
        server = serve(lambda peer: peer.read_request() and peer.send(reply))
        with pytest.raises(PluginError) as caught:
            call(given(server.url, max_response_bytes=1000))
        assert type(caught.value) is expected, caught.value

    def test_chunks_and_compression(self, serve, given):
        import gzip

        body = gzip.compress(b'{"data": "ok"}')
        head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"
        reply = head + b"5\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (body[:5], len(body) - 5, body[5:])
        assert call(given(serve(lambda peer: peer.read_request() and peer.send(reply)).url)) == "ok"

    def test_refused_and_hung(self, serve, given):
        with pytest.raises(PluginConnectionError):
            call(given(f"http://127.0.0.1:{free_port()}/x"))
        plugin = given(serve(lambda peer: peer.read_request() and peer.hang()).url)
        for stopwatch in time_limit(0.3):
            with stopwatch, pytest.raises(PluginTimeoutError):
                call(plugin, timeout=0.2)

    def test_a_body_byte_by_byte_ends_at_the_deadline(self, serve, given):
        def drip(peer: Peer) -> None:
            peer.read_request()
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            peer.drip(b"x" * 1000, 0.02)

        plugin = given(serve(drip).url)
        for stopwatch in time_limit(0.4):
            with stopwatch, pytest.raises(PluginTimeoutError):
                call(plugin, timeout=0.3)

    def test_concurrent_calls_are_bounded_and_close_rejects(self, serve, given):
        plugin = given(serve(lambda peer: peer.read_request() and peer.hang()).url, max_connections=1)
        busy = threading.Thread(target=failure, args=(plugin,), kwargs={"timeout": 0.5})
        busy.start()
        while not plugin._engine.pool.open:
            time.sleep(0.001)
        with pytest.raises(SaturatedError):
            call(plugin, timeout=0.1)
        busy.join()
        plugin.close()
        with pytest.raises(PluginClosedError):
            call(plugin)

    def test_proxies_of_the_session_are_used(self, session):
        config = config_of("http://plugin.example/p", {"proxy": "http://127.0.0.1:3128"})
        with pytest.raises(InvalidConfigError, match=r"options\.proxy"):
            HTTPPlugin(config, session=session)
