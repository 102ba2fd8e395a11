"""The parts of the HTTP transport that need no wire."""

from __future__ import annotations

import gzip
import socket
import threading
import zlib

import pytest

from goplugins.config import AuthConfig, HealthCheckConfig, PluginConfig
from goplugins.config.credentials import auth_headers
from goplugins.errors import (
    BadReplyError,
    InvalidConfigError,
    InvalidEndpointURLError,
    MissingEndpointError,
    NameResolutionError,
    PluginTimeoutError,
    ReplyTooLargeError,
    TruncatedReplyError,
)
from goplugins.runtime.deadline import Deadline
from goplugins.transports.http import HTTPPluginFactory
from goplugins.transports.http.body import check_encoding, collect
from goplugins.transports.http.reply import parse_retry_after
from goplugins.transports.http.target import target_of
from goplugins.transports.resolver import ThreadedResolver, literal_address


class TestBody:
    @pytest.mark.parametrize("size", [1, 3, 100])
    @pytest.mark.parametrize(
        ("encoding", "compress"),
        [("gzip", gzip.compress), ("deflate", zlib.compress), ("deflate", lambda b: zlib.compress(b)[2:-4])],
    )
    def test_any_cut_into_chunks(self, encoding, compress, size):
        body = b"hello world " * 50
        data = compress(body)
        chunks = [data[i : i + size] for i in range(0, len(data), size)]
        if size == 1 and encoding == "deflate" and data[0] & 0x0F == 8 and data[:1] != b"\x78":
            pytest.skip("one byte can't tell")
        assert collect(chunks, encoding, 1000) == body

    def test_cap_holds_to_the_byte(self):
        assert collect([b"x" * 10], "", 10) == b"x" * 10
        with pytest.raises(ReplyTooLargeError):
            collect([b"x" * 11], "", 10)
        assert len(collect([gzip.compress(b"x" * 100)], "gzip", 100)) == 100
        with pytest.raises(ReplyTooLargeError, match="decompressed"):
            collect([gzip.compress(b"x" * 101)], "gzip", 100)

    def test_reading_stops_at_the_cap(self):
        def chunks():
            yield b"x" * 11
            raise AssertionError("read on")

        with pytest.raises(ReplyTooLargeError):
            collect(chunks(), "", 10)

    def test_broken_data(self):
        with pytest.raises(TruncatedReplyError):
            collect([gzip.compress(b"x" * 100)[:-1]], "gzip", 1000)
        with pytest.raises(BadReplyError):
            collect([zlib.compress(b"x") + b"y"], "deflate", 1000)
        assert collect([], "gzip", 10) == b""

    def test_encodings(self):
        assert [check_encoding(name) for name in ("", " Identity", "GZip", "x-gzip", "deflate")] == [
            "",
            "",
            "gzip",
            "gzip",
            "deflate",
        ]
        for name in ("br", "gzip, gzip", "zstd"):
            with pytest.raises(BadReplyError):
                check_encoding(name)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("", None),
        ("0", 0.0),
        (" 12 ", 12.0),
        ("-5", None),
        ("1.5", None),
        ("Thu, 01 Jan 1970 00:02:00 GMT", 20.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("Thursday, 01-Jan-70 00:02:00 GMT", 20.0),
        ("9" * 60, 315360000.0),
        ("x" * 1000, None),
        ("Thu, 01 Jan 1970 00:02:00 -0000", 20.0),
        ("Thu, 01 Jan 1970 01:02:00 +0100", 20.0),
        ("Thu, 99 Jan 1970 00:02:00 GMT", None),
        ("Thu, 01 Jan 99999 00:02:00 GMT", None),
        ("Thu, 01 Jan 1970 00:02:00 +99999999999999999999", None),
        ("nan", None),
        ("\u0662", None),
    ],
)
def test_retry_after(text, seconds):
    assert parse_retry_after(text, 100.0) == seconds


class TestTarget:
    @staticmethod
    def of(endpoint: str, **fields):
        return target_of(PluginConfig(name="p", transport=fields.pop("transport", "http"), endpoint=endpoint, **fields))

    def test_taken_apart(self):
        target = self.of("https://Example.com/a/b/?q=1", transport="https")
        assert (target.origin, target.path, target.health_path, target.port) == (
            "https://example.com",
            "/a/b/?q=1",
            "/a/b/health?q=1",
            443,
        )
        assert self.of("http://h:8080").path == "/"
        assert self.of("http://[::1]:8080/x").first_hop == ("::1", 8080)

    def test_http_transport_may_use_a_secure_endpoint(self):
        assert self.of("https://h/x").tls

    @pytest.mark.parametrize(
        "endpoint",
        ["ftp://h/x", "h:80/x", "http:///x", "http://h:99999/x", "http://h:0/x", "http://[::1/x", "http://h/a b"],
    )
    def test_no_url(self, endpoint):
        with pytest.raises(InvalidEndpointURLError):
            self.of(endpoint)

    def test_missing(self):
        with pytest.raises(MissingEndpointError):
            self.of("")

    def test_credentials_in_the_url_are_refused_unquoted(self):
        with pytest.raises(InvalidEndpointURLError) as caught:
            self.of("http://user:hunter2@h/x")
        assert "hunter2" not in str(caught.value)

    @pytest.mark.parametrize("proxy", ["https://p:3128", "socks5://p:1", "http://", "http://p:x"])
    def test_proxy_that_is_none(self, proxy):
        with pytest.raises(InvalidConfigError) as caught:
            self.of("http://h/x", options={"proxy": proxy})
        assert caught.value.path == "options.proxy"

    def test_proxy_credentials_do_not_show(self):
        target = self.of("http://h/x", options={"proxy": "http://u:hunter2@p:3128"})
        assert target.first_hop == ("p", 3128)
        assert "hunter2" not in repr(target)

    def test_health_elsewhere_is_refused_by_the_factory(self):
        config = PluginConfig(
            name="p",
            transport="http",
            endpoint="http://h/x",
            health_check=HealthCheckConfig(endpoint="https://h/x"),
        )
        with pytest.raises(InvalidConfigError):
            HTTPPluginFactory().validate_config(config)


def test_auth_headers():
    assert auth_headers(AuthConfig()) == {}
    assert auth_headers(AuthConfig(method="api-key", api_key="k")) == {"X-API-Key": "k"}
    assert auth_headers(AuthConfig(method="bearer", token="t", headers={"authorization": "x", "A": "b"})) == {
        "Authorization": "Bearer t",
        "A": "b",
    }


class TestResolver:
    def test_literals_need_no_lookup(self):
        assert literal_address("10.0.0.1", 80) == (socket.AF_INET, ("10.0.0.1", 80))
        assert literal_address("::1", 80) == (socket.AF_INET6, ("::1", 80, 0, 0))
        assert literal_address("example.com", 80) is None

    def test_callers_of_one_name_share_a_lookup(self, monkeypatch):
        release, lookups = threading.Event(), []

        def lookup(host, port, **_):
            lookups.append(host)
            release.wait(5)
            return [(socket.AF_INET, 1, 6, "", ("10.0.0.1", port))]

        monkeypatch.setattr("socket.getaddrinfo", lookup)
        resolver = ThreadedResolver()
        found = []
        threads = [
            threading.Thread(target=lambda: found.append(resolver.resolve("a.example", 80, Deadline.after(5))))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        release.set()
        for thread in threads:
            thread.join(5)
        assert found == [[(socket.AF_INET, ("10.0.0.1", 80))]] * 8
        assert len(lookups) < 8

    def test_hung_lookups_hold_a_bounded_number_of_threads(self, monkeypatch):
        release, running = threading.Event(), []
        monkeypatch.setattr(
            "socket.getaddrinfo", lambda host, *_, **__: running.append(host) or (release.wait(5) and [])
        )
        resolver = ThreadedResolver(max_threads=2)
        for number in range(5):
            with pytest.raises(PluginTimeoutError):
                resolver.resolve(f"h{number}.example", 80, Deadline.after(0.01))
        assert len(running) == 2
        release.set()

    def test_each_waiter_gets_its_own_error(self):
        def fail(job):
            raise RuntimeError("no worker")

        resolver = ThreadedResolver(fail)
        with pytest.raises(RuntimeError):
            resolver.resolve("a.example", 80, Deadline.after(1))
        with pytest.raises(NameResolutionError):
            ThreadedResolver(lambda job: job()).resolve("no-such-host.invalid", 80, Deadline.after(5))

    def test_after_a_fork_lookups_of_the_parent_are_forgotten(self, monkeypatch):
        monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: [(socket.AF_INET, 1, 6, "", ("10.0.0.1", 80))])
        stuck: list[object] = []
        resolver = ThreadedResolver(stuck.append)
        with pytest.raises(PluginTimeoutError):
            resolver.resolve("a.example", 80, Deadline.after(0.01))
        resolver.after_fork_in_child()
        resolver._submit = lambda job: job()
        assert resolver.resolve("a.example", 80, Deadline.after(1))


def test_import_of_the_transport_is_light():
    """`requests` and `urllib3` are loaded with the first plugin, not with the package."""
    import subprocess
    import sys

    code = "import goplugins.transports.http, sys; print([m for m in ('requests', 'urllib3') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
