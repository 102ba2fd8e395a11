"""Requests and replies on the wire: those of the Go library, and nothing that must not be sent."""

from __future__ import annotations

import copy
import gzip
import json
import pickle
import time
import traceback
import zlib
from pathlib import Path

import pytest

from goplugins.config import AuthConfig
from goplugins.enums import PluginStatus
from goplugins.errors import (
    AuthConfigError,
    InvalidHeaderError,
    PluginError,
    PluginExecutionError,
    PluginThrottledError,
    PluginUnavailableError,
    ReplyTypeError,
    UnserializableRequestError,
)
from goplugins.models.context import ExecutionContext
from goplugins.runtime.call import Call
from goplugins.runtime.deadline import Deadline
from goplugins.transports.json_codec import codec_for
from tests.integration.http.conftest import call
from tests.servers import Peer, RawServer, free_port, http_reply, ok

VECTORS = json.loads((Path(__file__).resolve().parents[2] / "data/go-v1.0.0-wire.json").read_text())
AUTH = {
    "http-api-key": AuthConfig(method="api-key", api_key="k-123"),
    "http-bearer": AuthConfig(method="bearer", token="tok-456"),
    "http-basic": AuthConfig(method="basic", username="user", password="pa:ss"),
}


def recorded(text: str) -> tuple[str, str, dict[str, str], bytes]:
    head, _, body = text.partition("\r\n\r\n")
    first, *lines = head.split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return method, path, headers, body.encode("latin-1")


@pytest.mark.parametrize("case", VECTORS["http"], ids=lambda case: case["case"] + " " + case["request"][:4])
def test_request_is_what_the_go_client_sends(serve, make, case):
    method, path, headers, body = recorded(case["request"])
    server = serve()
    plugin = make(server.url.replace("/plugin", path.removesuffix("/health")), auth=AUTH.get(case["case"]))
    if method == "GET":
        assert plugin.health(1).status is PluginStatus.HEALTHY
    else:
        sent = json.loads(body)
        answer = call(plugin, sent["data"], timeout=30, request_id=sent["request_id"], headers=sent.get("headers", {}))
        assert answer == "ok"
    (request,) = server.requests
    assert (request.method, request.path) == (method, path)
    for name in ("content-type", "authorization", "x-api-key", "x-request-id", "x-source-service", "x-trace-id"):
        assert request.headers.get(name) == headers.get(name)
    assert request.headers["host"] == f"127.0.0.1:{server.port}"
    assert request.headers["user-agent"].startswith("goplugins-python/")
    if method == "POST":
        ours, theirs = request.json, json.loads(body)
        assert list(ours) == list(theirs)
        assert ours.pop("timeout").startswith("29.9")
        assert theirs.pop("timeout") == "30s"
        assert ours == theirs


@pytest.mark.parametrize("reply", VECTORS["replies_accepted"]["http"], ids=["data", "error"])
def test_replies_that_the_go_client_accepts(serve, make, reply):
    server = serve(lambda peer: peer.read_request() and peer.send(http_reply(reply)))
    plugin = make(server.url)
    made = Call(None, codec_for(), Deadline.after(2), reply["request_id"])
    plugin.prepare(made)
    if "error" in reply:
        with pytest.raises(PluginExecutionError, match=reply["error"]) as caught:
            plugin.send(made)
        assert caught.value.details["metadata"] == reply["metadata"]
    else:
        assert plugin.send(made) == reply["data"]
        assert made.reply_metadata == reply["metadata"]


def test_each_attempt_sends_the_remaining_time(serve, make):
    server = serve()
    plugin = make(server.url)
    made = Call(None, codec_for(), Deadline.after(2), "req-1", idempotent=True, metadata={"k": "v"})
    plugin.prepare(made)
    plugin.send(made)
    time.sleep(0.1)
    plugin.send(made)
    first, second = (float(request.json["timeout"].removesuffix("s")) for request in server.requests)
    assert 2 > first > second + 0.09
    assert [request.headers["idempotency-key"] for request in server.requests] == ["req-1", "req-1"]
    assert server.requests[0].json["metadata"] == {"k": "v"}


def test_call_that_is_not_idempotent_has_no_key(serve, make):
    server = serve()
    call(make(server.url))
    assert "idempotency-key" not in server.requests[0].headers


def test_missing_data_is_null_and_an_error_only_where_null_does_not_fit(serve, make):
    def handler(peer: Peer) -> None:
        while peer.read_request() is not None:
            peer.send(http_reply({"request_id": "req-1"}))

    plugin = make(serve(handler).url)
    assert call(plugin) is None
    made = Call(None, codec_for(object, int), Deadline.after(2), "req-1")
    plugin.prepare(made)
    with pytest.raises(ReplyTypeError):
        plugin.send(made)


@pytest.mark.parametrize(
    ("encoding", "compress"),
    [
        ("gzip", gzip.compress),
        ("x-gzip", gzip.compress),
        ("GZIP", lambda body: gzip.compress(body[:9]) + gzip.compress(body[9:])),
        ("deflate", zlib.compress),
        ("deflate", lambda body: zlib.compress(body)[2:-4]),
        ("identity", lambda body: body),
    ],
    ids=["gzip", "x-gzip", "gzip in two members", "deflate", "raw deflate", "identity"],
)
def test_compressed_replies(serve, make, encoding, compress):
    body = compress(json.dumps({"data": "x" * 100_000}).encode())
    server = serve(
        lambda peer: peer.read_request() and peer.send(http_reply(body, headers={"Content-Encoding": encoding}))
    )
    assert call(make(server.url)) == "x" * 100_000
    assert server.requests[0].headers["accept-encoding"] == "gzip, deflate"


def test_disable_compression_accepts_plain_replies_only(serve, make):
    server = serve()
    call(make(server.url, disable_compression=True))
    assert server.requests[0].headers["accept-encoding"] == "identity"


def test_chunked_reply_with_trailer(serve, make):
    def handler(peer: Peer) -> None:
        while peer.read_request() is not None:
            peer.send(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8;x=y\r\n{"data":\r\n')
            peer.send(b"3\r\n 1}\r\n0\r\nX-Trailer: y\r\n\r\n")

    server = serve(handler)
    plugin = make(server.url)
    assert [call(plugin), call(plugin)] == [1, 1]
    assert server.connections == 1


def test_interim_reply_is_skipped(serve, make):
    server = serve(lambda peer: (r := peer.read_request()) and peer.send(b"HTTP/1.1 100 Continue\r\n\r\n" + ok(r)))
    assert call(make(server.url)) == "ok"


def test_cookies_are_not_sent_with_the_next_call(serve, make):
    def handler(peer: Peer) -> None:
        while peer.read_request() is not None:
            peer.send(http_reply({"data": 1}, headers={"Set-Cookie": "session=abc; Path=/"}))

    server = serve(handler)
    plugin = make(server.url)
    call(plugin)
    call(plugin)
    assert "cookie" not in server.requests[1].headers


class TestHeaders:
    def test_context_headers_are_sent_and_replace_defaults(self, serve, make):
        server = serve()
        call(make(server.url), headers={"traceparent": "00-1-2-01", "user-agent": "mine/1"})
        headers = server.requests[0].headers
        assert headers["traceparent"] == "00-1-2-01"
        assert headers["user-agent"] == "mine/1"
        assert server.requests[0].raw.lower().count(b"user-agent:") == 1

    @pytest.mark.parametrize(
        "name", ["Host", "Content-Length", "transfer-encoding", "Connection", "Proxy-Authorization", "TE"]
    )
    def test_callers_can_not_set_framing_headers(self, serve, make, name):
        server = serve()
        with pytest.raises(InvalidHeaderError, match=name):
            call(make(server.url), headers={name: "x"})
        assert server.connections == 0

    @pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\x00", "\u20ac"])
    def test_header_injection_is_rejected_without_the_value(self, serve, make, value):
        server = serve()
        with pytest.raises(InvalidHeaderError) as caught:
            call(make(server.url), headers={"X-A": value})
        assert value not in str(caught.value)
        assert server.connections == 0

    def test_request_id_injection_is_rejected(self, make):
        with pytest.raises(InvalidHeaderError):
            call(make("http://127.0.0.1:1/x"), request_id="a\r\nb")

    def test_latin_1_values_are_sent(self, serve, make):
        server = serve()
        call(make(server.url), headers={"X-Name": "Zo\xeb"})
        assert server.requests[0].headers["x-name"] == "Zo\xeb"

    @pytest.mark.parametrize(
        ("auth", "name"),
        [
            (AuthConfig(method="bearer", token="t"), "authorization"),
            (AuthConfig(method="api-key", api_key="k"), "X-Api-Key"),
            (AuthConfig(method="custom", headers={"X-Team": "a"}), "x-team"),
        ],
    )
    def test_credentials_of_the_configuration_beat_the_callers(self, make, auth, name):
        with pytest.raises(InvalidHeaderError, match="auth"):
            call(make("http://127.0.0.1:1/x", auth=auth), headers={name: "other"})

    def test_callers_may_send_credentials_if_the_configuration_has_none(self, serve, make):
        server = serve()
        call(make(server.url), headers={"Authorization": "Bearer mine"})
        assert server.requests[0].headers["authorization"] == "Bearer mine"

    def test_custom_and_utf8_basic(self, serve, make):
        server = serve()
        call(make(server.url, auth=AuthConfig(method="custom", headers={"X-Team": "a"})))
        assert server.requests[-1].headers["x-team"] == "a"
        call(make(server.url, auth=AuthConfig(method="basic", username="zo\xeb", password="\u20ac")))
        assert server.requests[-1].headers["authorization"] == "Basic em/Dqzrigqw="

    def test_credential_that_no_header_can_have(self, make):
        with pytest.raises(AuthConfigError) as caught:
            make("http://127.0.0.1:1/x", auth=AuthConfig(method="bearer", token="to\r\nken"))
        assert "ken" not in str(caught.value).replace("token", "")


def test_netrc_and_environment_are_ignored_unless_trusted(serve, make, tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login user password pa:ss\n")
    monkeypatch.setenv("NETRC", str(netrc))
    server = serve()
    call(make(server.url))
    assert "authorization" not in server.requests[-1].headers
    call(make(server.url, options={"trust_env": True}))
    assert server.requests[-1].headers["authorization"] == "Basic dXNlcjpwYTpzcw=="
    call(make(server.url, options={"trust_env": True}, auth=AuthConfig(method="bearer", token="tok-456")))
    assert server.requests[-1].headers["authorization"] == "Bearer tok-456"
    call(make(server.url, options={"trust_env": True}), headers={"authorization": "Bearer of-the-call"})
    assert server.requests[-1].headers["authorization"] == "Bearer of-the-call"


class TestFailureBodies:
    def test_text_and_metadata_of_the_plugin_reach_the_caller(self, serve, make):
        body = {"error": "shard 7 is read-only", "metadata": {"error_code": "RO"}, "request_id": "req-1"}
        server = serve(lambda peer: peer.read_request() and peer.send(http_reply(body, "500 Oops")))
        with pytest.raises(PluginError, match="shard 7 is read-only") as caught:
            call(make(server.url))
        assert caught.value.details == {"status": 500, "metadata": {"error_code": "RO"}}

    @pytest.mark.parametrize(
        ("body", "kind", "text"),
        [
            ({"message": "quota gone"}, "application/json", "quota gone"),
            ({"detail": "not here"}, "application/problem+json", "not here"),
            ("upstream\r\n connect error", "text/plain; charset=utf-8", "upstream connect error"),
            ("<html>secret layout</html>", "text/html", None),
        ],
    )
    def test_texts_of_other_services(self, serve, make, body, kind, text):
        reply = http_reply(body, "502 Bad Gateway", {"Content-Type": kind})
        server = serve(lambda peer: peer.read_request() and peer.send(reply))
        with pytest.raises(PluginError) as caught:
            call(make(server.url))
        assert caught.value.message == "HTTP 502: the plugin failed" + (f": {text}" if text else "")

    def test_malformed_metadata_does_not_hide_the_status(self, serve, make):
        reply = http_reply({"error": "x", "metadata": [1]}, "503 No")
        server = serve(lambda peer: peer.read_request() and peer.send(reply))
        with pytest.raises(PluginUnavailableError):
            call(make(server.url))

    def test_retry_after_in_both_forms(self, serve, make):
        later = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 60))
        for text, low, high in (("7", 7, 7), (later, 57, 60)):
            reply = http_reply("", "429 Slow Down", {"Retry-After": text})
            server = serve(lambda peer, reply=reply: peer.read_request() and peer.send(reply))
            with pytest.raises(PluginThrottledError) as caught:
                call(make(server.url))
            assert low <= caught.value.retry_after <= high


class TestSecrets:
    TOKEN = "tok-456-very-secret"

    def faults(self, serve: object) -> list[RawServer]:
        def echo(peer: Peer) -> None:
            """A debugging page that shows the request."""
            request = peer.read_request()
            peer.send(http_reply({"error": request.raw.decode("latin-1")}, "500 Oops"))

        def echo_business(peer: Peer) -> None:
            request = peer.read_request()
            credential = request.headers["authorization"]
            peer.send(http_reply({"error": credential, "metadata": {credential: credential}}))

        def echo_as_metadata(peer: Peer) -> None:
            credential = peer.read_request().headers["authorization"]
            peer.send(http_reply({"error": "no", "metadata": {credential: credential}}, "400 Bad"))

        def echo_and_cut(peer: Peer) -> None:
            """A text that is cut within the credential."""
            credential = peer.read_request().headers["authorization"]
            peer.send(http_reply({"message": "x" * 180 + credential}, "500 Oops"))

        def echo_id(peer: Peer) -> None:
            credential = peer.read_request().headers["authorization"]
            peer.send(http_reply({"data": 1, "request_id": credential}))

        def echo_garbage(peer: Peer) -> None:
            peer.send(peer.read_request().raw[:5] + b"\r\n")

        def truncated(peer: Peer) -> None:
            peer.read_request()
            peer.send(http_reply(b"x", length=10))

        def broken_chunks(peer: Peer) -> None:
            peer.read_request()
            peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n" + b"x" * 100)

        handlers = [
            echo,
            echo_business,
            echo_as_metadata,
            echo_and_cut,
            echo_id,
            echo_garbage,
            truncated,
            broken_chunks,
            Peer.read_request,
            Peer.hang,
            Peer.reset,
        ]
        return [serve(handler) for handler in handlers]  # type: ignore[operator]

    def test_no_error_contains_a_credential(self, serve, make):
        auth = AuthConfig(method="bearer", token=self.TOKEN)
        urls = [server.url for server in self.faults(serve)] + [f"http://127.0.0.1:{free_port()}/p?key={self.TOKEN}"]
        for url in urls:
            plugin = make(url, auth=auth)
            assert self.TOKEN not in repr(plugin)
            with pytest.raises(PluginError) as caught:
                call(plugin, timeout=0.3)
            error = caught.value
            seen = [str(error), repr(error), repr(error.args), repr(vars(error)), str(error.endpoint)]
            seen.append("".join(traceback.format_exception(error)))
            seen.append(repr(pickle.dumps(error)) + repr(pickle.dumps(copy.copy(error))))
            link: BaseException | None = error
            while link is not None:
                seen += [str(link), repr(link), repr(link.args), repr(vars(link))]
                link = link.__cause__ or link.__context__
            for text in seen:
                assert self.TOKEN[:9] not in text, (url, text)


def test_execute_is_one_attempt_with_plain_values(serve, make):
    server = serve()
    plugin = make(server.url)
    assert plugin.execute({"a": 1}) == "ok"
    assert plugin.execute([1], ExecutionContext(request_id="mine", timeout=1.5)) == "ok"
    assert server.requests[1].headers["x-request-id"] == "mine"
    assert server.requests[1].json["data"] == [1]
    with pytest.raises(UnserializableRequestError):
        plugin.execute(object())


def test_info_is_that_of_the_configuration(make):
    info = make("http://127.0.0.1:1/x?key=secret").info()
    assert info.name == "p"
    assert "secret" not in repr(info)


def test_query_of_the_endpoint_is_kept(serve, make):
    server = serve()
    plugin = make(server.url + "?tenant=a%20b")
    call(plugin)
    plugin.health(1)
    assert [request.path for request in server.requests] == ["/plugin?tenant=a%20b", "/plugin/health?tenant=a%20b"]
