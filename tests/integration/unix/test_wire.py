"""Lines on a Unix socket: those of the Go library, and the additional fields."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from goplugins import ExecutionContext, serve as serve_module
from goplugins.config import AuthConfig
from goplugins.enums import PluginStatus
from goplugins.errors import (
    AuthenticationError,
    BadReplyError,
    InvalidHeaderError,
    PluginError,
    PluginExecutionError,
    PluginInternalError,
    PluginRequestError,
    PluginTimeoutError,
    PluginUnavailableError,
    Replay,
    ReplyMismatchError,
    ReplyTypeError,
    UnixTransportError,
    UnserializableRequestError,
)
from goplugins.transports.json_codec import codec_for
from tests.integration.unix.conftest import call, echo, line, new_call, ok, replies

WIRE = json.loads((Path(__file__).parents[2] / "data/go-v1.0.0-wire.json").read_text())
GO_LINES = [item["request"].encode("latin-1") for item in WIRE["unix"]]
GO_REPLIES = WIRE["replies_accepted"]["unix"]
SECRET = "s3cret-token"


def talk(path: str, *lines: bytes) -> list[Any]:
    """Sends lines over one connection, each after the reply to the previous one."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(path)
        reader = sock.makefile("rb")
        found = []
        for item in lines:
            sock.sendall(item)
            found.append(json.loads(reader.readline()))
        reader.close()
        return found


class TestGoLines:
    def test_every_recorded_line_gets_the_right_reply(self, serve, path):
        serve()
        for sent, answer in zip(GO_LINES, talk(path, *GO_LINES), strict=True):
            request = json.loads(sent)
            assert answer["type"] == request["type"]
            assert answer["request_id"] == request["request_id"]
            assert answer["success"] is True
            if request["type"] == "execute":
                assert answer["data"] == request["data"]
            if request["type"] == "health":
                assert answer["data"]["status"] == "healthy"
            if request["type"] == "info":
                assert answer["data"]["version"] == "2.3.4"

    def test_no_field_that_go_would_reject(self, serve, path):
        """Go rejects a reply whose ``error`` is not a string, or whose ``headers`` contain anything but strings."""
        serve()
        known = {"type", "request_id", "success", "data", "error", "headers"}
        for answer in talk(path, *GO_LINES):
            assert set(answer) <= known
            assert isinstance(answer.get("error", ""), str)

    def test_headers_of_go_reach_the_function(self, serve, path):
        seen = []

        @serve_module.plugin
        def show(request: Any, context: ExecutionContext) -> Any:
            seen.append((dict(context.headers), context.timeout))
            return None

        serve(show)
        talk(path, *GO_LINES)
        headers, timeouts = zip(*seen, strict=True)
        assert headers == ({}, {"X-Trace-ID": "trace-abc"})
        assert all(29 < timeout <= 30 for timeout in timeouts)

    def test_request_lines_have_the_fields_of_go(self, raw, make):
        server = raw()
        plugin = make(kind="message")
        call(plugin, {"a": 1}, 30.0, request_id="data-1", headers={"X-Trace-ID": "trace-abc"})
        plugin.info()
        plugin.health(5.0)
        ours = [json.loads(item) for item in server.requests]
        go = {item["type"]: item for item in map(json.loads, GO_LINES[5:])}
        for mine in ours:
            theirs = go[mine["type"]]
            assert list(mine) == list(theirs)
            for field in ("data", "headers"):
                assert mine.get(field) == theirs.get(field)
            assert theirs["timeout_ms"] - 100 <= mine["timeout_ms"] <= theirs["timeout_ms"]

    def test_replies_that_go_accepts_are_accepted(self, raw, make):
        raw(replies(*(lambda request, reply=reply: line(reply) for reply in GO_REPLIES[:1])))
        made = new_call(request_id="data-1")
        plugin = make()
        plugin.prepare(made)
        assert plugin.send(made) == {"a": 1}
        assert made.reply_metadata == {"X-Processing-Time-Ms": "1"}

    def test_error_of_a_go_server(self, raw, make):
        raw(replies(lambda request: line(GO_REPLIES[3])))
        with pytest.raises(PluginExecutionError, match="Invalid user credentials") as caught:
            call(make(), request_id="req-12345")
        assert caught.value.details == {"headers": {"X-Error-Code": "AUTH_FAILED"}}

    def test_info_of_a_go_server(self, raw, make):
        server = raw(replies(lambda request: ok(request, GO_REPLIES[1]["data"])))
        plugin = make(kind="message")
        info = plugin.info()
        assert (info.name, info.version, info.author) == ("echo", "2.3.4", "a")
        assert (list(info.capabilities), info.metadata) == (["execute"], {"k": "v"})
        assert plugin.info() is info
        assert len(server.requests) == 1

    def test_absent_data_is_null(self, raw, make):
        raw(replies(lambda request: line({"type": "execute", "request_id": "req-1", "success": True})))
        assert call(make()) is None


class TestRequest:
    def test_remaining_time_in_whole_milliseconds(self, raw, make):
        server = raw()
        call(make(), timeout=1.5)
        sent = json.loads(server.requests[0])["timeout_ms"]
        assert isinstance(sent, int)
        assert 1400 < sent <= 1500

    def test_idempotency_key_over_all_attempts(self, raw, make):
        server = raw()
        plugin = make()
        made = new_call(idempotent=True)
        plugin.prepare(made)
        plugin.send(made)
        plugin.send(made)
        assert [json.loads(item)["headers"] for item in server.requests] == [{"Idempotency-Key": "req-1"}] * 2

    def test_metadata(self, raw, make):
        server = raw()
        call(make(), metadata={"tenant": "é"})
        assert json.loads(server.requests[0])["metadata"] == {"tenant": "é"}

    @pytest.mark.parametrize(
        ("auth", "headers"),
        [
            (AuthConfig(method="api-key", api_key=SECRET), {"X-API-Key": SECRET}),  # type: ignore[arg-type]
            (AuthConfig(method="bearer", token=SECRET), {"Authorization": f"Bearer {SECRET}"}),  # type: ignore[arg-type]
            (
                AuthConfig(method="basic", username="user", password="pa:ss"),  # type: ignore[arg-type]
                {"Authorization": "Basic dXNlcjpwYTpzcw=="},
            ),
            (AuthConfig(method="custom", headers={"X-Mine": SECRET}), {"X-Mine": SECRET}),  # type: ignore[arg-type]
        ],
    )
    def test_credentials_are_in_every_line_under_their_http_names(self, raw, make, auth, headers):
        server = raw()
        plugin = make(auth=auth, kind="message")
        call(plugin)
        call(plugin, headers={"X-Other": "1"})
        plugin.health(1)
        plugin.info()
        found = [json.loads(item)["headers"] for item in server.requests]
        assert found == [headers, {"X-Other": "1", **headers}, headers, headers]

    def test_caller_can_not_override_credentials(self, raw, make):
        server = raw()
        plugin = make(auth=AuthConfig(method="bearer", token=SECRET))
        with pytest.raises(InvalidHeaderError, match="set by auth"):
            call(plugin, headers={"authorization": "Bearer other"})
        assert server.connections == 0

    def test_header_with_a_line_break_is_refused(self, make):
        with pytest.raises(InvalidHeaderError):
            call(make(), headers={"X-A": "a\r\nb"})

    def test_request_without_a_json_form_is_rejected(self, make):
        with pytest.raises(UnserializableRequestError):
            call(make(), object())


VALUES = [
    None,
    True,
    0,
    -1,
    2**63 - 1,
    -(2**63),
    2**64 - 1,
    1.5e-7,
    "",
    "line\nbreak \u2028 \x00 é 😀",
    [],
    {},
    [1, [2, {"a": None}]],
    {"": {"nested": [True, False]}},
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_json_values_make_the_round_trip(serve, make, value):
    serve()
    found = call(make(), value)
    assert found == value
    assert type(found) is type(value)


def test_three_mebibytes_both_ways(serve, make):
    serve()
    big = {"text": "x" * (3 << 20)}
    assert call(make(), big, 10.0) == big


def failed(kind: str | None, error: str = "no", **fields: Any) -> Any:
    extra = {} if kind is None else {"error_kind": kind}
    return replies(
        lambda request: line(
            {"type": "execute", "request_id": "req-1", "success": False, "error": error, **extra, **fields}
        )
    )


class TestReply:
    @pytest.mark.parametrize(
        ("kind", "error"),
        [
            (None, PluginExecutionError),
            ("", PluginExecutionError),
            ("rejected", PluginExecutionError),
            ("internal", PluginInternalError),
            ("invalid", PluginRequestError),
            ("deadline", PluginTimeoutError),
            ("unauthenticated", AuthenticationError),
            ("on fire", UnixTransportError),
            (["odd"], UnixTransportError),
        ],
    )
    def test_kinds_of_failure(self, raw, make, path, kind, error):
        raw(failed(kind, "its own text"))
        with pytest.raises(error, match="its own text") as caught:
            call(make())
        assert type(caught.value) is error
        assert caught.value.endpoint == path

    def test_metadata_and_headers_of_an_error(self, raw, make):
        raw(failed("rejected", metadata={"error_code": "E1"}, headers={"X-Error-Code": "E1"}))
        with pytest.raises(PluginExecutionError) as caught:
            call(make())
        assert caught.value.details == {"metadata": {"error_code": "E1"}, "headers": {"X-Error-Code": "E1"}}

    def test_failure_without_a_text(self, raw, make):
        raw(failed("internal", ""))
        with pytest.raises(PluginInternalError, match="the plugin failed"):
            call(make())

    def test_echoed_secret_is_removed(self, raw, make):
        raw(failed("internal", f"headers were Bearer {SECRET}", metadata={"dump": SECRET}))
        with pytest.raises(PluginInternalError) as caught:
            call(make(auth=AuthConfig(method="bearer", token=SECRET)))
        assert SECRET not in str(caught.value)
        assert SECRET not in repr(caught.value.details)

    def test_secrets_are_removed_from_names_and_error_kinds(self, raw, make):
        raw(failed(f"kind {SECRET}", metadata={f"a {SECRET}": "1"}, headers={SECRET: "2"}))
        with pytest.raises(PluginError) as caught:
            call(make(auth=AuthConfig(method="bearer", token=SECRET)))
        assert SECRET not in str(caught.value)
        assert caught.value.details == {
            "error_kind": "kind ***",
            "metadata": {"a ***": "1"},
            "headers": {"***": "2"},
        }

    def test_health_contains_no_secret(self, raw, make):
        raw(replies(lambda request: ok(request, {"status": "healthy", "metadata": {f"a {SECRET}": SECRET}})))
        found = make(auth=AuthConfig(method="bearer", token=SECRET), kind="message").health(2)
        assert found.metadata == {"a ***": "***"}

    def test_wrong_request_id(self, raw, make):
        raw(replies(lambda request: ok({**request, "request_id": "another"})))
        with pytest.raises(ReplyMismatchError):
            call(make())

    def test_missing_request_id(self, raw, make):
        raw(replies(lambda request: line({"success": True, "data": 1})))
        with pytest.raises(ReplyMismatchError):
            call(make())

    @pytest.mark.parametrize(
        "reply",
        [
            b"\n",
            b"garbage\n",
            b'{"success": tr\n',
            b"[1]\n",
            b'{"type":"execute","request_id":"req-1","data":1}\n',
            b'{"type":"execute","request_id":"req-1","success":"yes"}\n',
            b'{"type":"execute","request_id":"req-1","success":true,"data":NaN}\n',
            b'{"type":"execute","request_id":"req-1","success":true} trailing\n',
            b'{"request_id":"req-1","success":true,"metadata":[1]}\n',
            b"\xff\xfe\n",
        ],
    )
    def test_broken_reply_is_named_and_not_replayed(self, raw, make, reply):
        raw(replies(lambda request: reply))
        with pytest.raises(BadReplyError) as caught:
            call(make())
        assert caught.value.replay is Replay.NEVER

    def test_reply_of_another_type_leaves_the_connection_usable(self, serve, make):
        serve()
        plugin = make()
        made = new_call("text")
        made.codec = codec_for(str, int)
        plugin.prepare(made)
        with pytest.raises(ReplyTypeError):
            plugin.send(made)
        assert plugin.pool.idle == 1


class TestServed:
    def test_rejected(self, serve, make, path):
        @serve_module.plugin
        def no(request: Any) -> Any:
            raise serve_module.Rejected("wrong password", code="AUTH_FAILED", metadata={"left": "2"})

        serve(no)
        with pytest.raises(PluginExecutionError, match="wrong password") as caught:
            call(make())
        assert caught.value.details["metadata"] == {"left": "2", "error_code": "AUTH_FAILED"}
        # Go clients don't read metadata: the code reaches them as a header.
        assert talk(path, GO_LINES[3])[0]["headers"] == {"X-Error-Code": "AUTH_FAILED"}

    def test_exception_is_not_described_to_the_caller(self, serve, make):
        @serve_module.plugin
        def broken(request: Any) -> Any:
            raise ValueError("the database password is hunter2")

        serve(broken)
        with pytest.raises(PluginInternalError) as caught:
            call(make())
        assert "hunter2" not in str(caught.value)

    def test_request_of_another_type(self, serve, make):
        @serve_module.plugin
        def double(request: int) -> int:
            return 2 * request

        serve(double)
        assert call(make(), 2) == 4
        with pytest.raises(PluginRequestError, match="does not fit"):
            call(make(), "two")

    def test_remaining_time_reaches_the_function(self, serve, make):
        @serve_module.plugin
        def remaining(request: Any, context: ExecutionContext) -> float | None:
            return context.timeout

        serve(remaining)
        assert 1.9 < call(make(), timeout=2.0) <= 2.0

    @pytest.mark.parametrize(("wait", "replay"), [(0.25, Replay.ALWAYS), (None, Replay.IF_IDEMPOTENT)])
    def test_unavailable(self, serve, make, wait, replay):
        @serve_module.plugin
        def later(request: Any) -> Any:
            raise serve_module.Unavailable("warming up", retry_after=wait)

        serve(later)
        with pytest.raises(PluginUnavailableError, match="warming up") as caught:
            call(make())
        assert (caught.value.retry_after, caught.value.replay) == (wait, replay)

    @pytest.mark.parametrize(
        "sent",
        [
            b"garbage\n",
            b"[]\n",
            b'{"type":"execute","request_id":7}\n',
            b'{"type":"nonsense","request_id":"r"}\n',
            b'{"request_id":"r"}\n',
            b'{"type":"execute","request_id":"r","timeout_ms":"soon"}\n',
            b'{"type":"execute","request_id":"r","timeout_ms":-5}\n',
            b'{"type":"execute","request_id":"r","headers":{"a":1}}\n',
            b"\n",
        ],
    )
    def test_malformed_line_is_rejected_and_the_next_is_served(self, serve, path, sent):
        serve()
        refused, served = talk(path, sent, GO_LINES[3])
        assert (refused["success"], refused["error_kind"]) == (False, "invalid")
        assert served["success"] is True

    def test_line_that_is_too_long(self, serve, make, path):
        serve(max_request_bytes=1000)
        plugin = make()
        with pytest.raises(PluginRequestError, match="larger than 1000 bytes"):
            call(plugin, "x" * 500_000)
        assert call(plugin, "short") == "short"
        assert plugin.pool.open == 1

    def test_line_that_is_too_long_ends_its_connection(self, serve, path):
        serve(max_request_bytes=1000)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(5)
            sock.connect(path)
            sock.sendall(b"x" * 5_000_000)  # all of it, although it is refused after the first 1000 bytes
            with sock.makefile("rb") as reader:
                assert json.loads(reader.readline())["error"] == "the request is larger than 1000 bytes"
                assert reader.readline() == b""

    def test_line_without_an_end_is_not_read_for_long(self, serve, path):
        serve(max_request_bytes=1000)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(5)
            sock.connect(path)
            with pytest.raises(ConnectionError):
                sock.sendall(b"x" * 200_000_000)
            with sock.makefile("rb") as reader:
                assert json.loads(reader.readline())["error"] == "the request is larger than 1000 bytes"

    def test_client_that_stays_after_a_refusal_is_disconnected(self, serve, path):
        serve(max_request_bytes=1000)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(5)
            sock.connect(path)
            sock.sendall(b"x" * 2000)
            assert b"larger than 1000 bytes" in sock.recv(65536)
            started = time.monotonic()
            with contextlib.suppress(ConnectionError):
                while time.monotonic() < started + 5:
                    sock.sendall(b"x")
                    time.sleep(0.01)
            assert time.monotonic() - started < 3

    def test_several_lines_at_once_are_answered_in_order(self, serve, path):
        serve()
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(5)
            sock.connect(path)
            sock.sendall(b"".join(line({"type": "execute", "request_id": str(n), "data": n}) for n in range(50)))
            reader = sock.makefile("rb")
            assert [json.loads(reader.readline())["data"] for _ in range(50)] == list(range(50))
            reader.close()

    def test_health(self, serve, make):
        state = ["degraded"]

        @serve_module.plugin(health=lambda: state[0])
        def unhealthy(request: Any) -> Any:
            return None

        serve(unhealthy)
        plugin = make(kind="message")
        assert plugin.health(1).status is PluginStatus.DEGRADED
        state[0] = "the disk is full"
        found = plugin.health(1)
        assert (found.status, found.message) == (PluginStatus.UNHEALTHY, "the disk is full")
        state[0] = "offline"
        assert plugin.health(1).status is PluginStatus.OFFLINE
        assert plugin.pool.open == 1


AUTHS = [
    (AuthConfig(method="api-key", api_key=SECRET), AuthConfig(method="api-key", api_key="wrong")),
    (AuthConfig(method="bearer", token=SECRET), AuthConfig(method="bearer", token="wrong")),
    (
        AuthConfig(method="basic", username="ü", password=SECRET),
        AuthConfig(method="basic", username="ü", password="wrong"),
    ),
    (AuthConfig(method="custom", headers={"X-Own": SECRET}), AuthConfig(method="custom", headers={"X-Own": "wrong"})),
]


class TestAuthentication:
    @pytest.mark.parametrize(("right", "wrong"), AUTHS, ids=lambda auth: str(auth.method))
    def test_right_and_wrong_credentials(self, serve, make, right, wrong):
        serve(auth=right)
        assert call(make(auth=right), 1) == 1
        assert make(auth=right, kind="message").health(1).status is PluginStatus.HEALTHY
        for auth in (wrong, None):
            plugin = make(auth=auth, kind="message")
            with pytest.raises(AuthenticationError):
                call(plugin, 1)
            assert plugin.health(1).status is PluginStatus.UNHEALTHY
            assert plugin.info().name == "p"

    def test_credentials_do_not_reach_the_function(self, serve, make):
        seen: list[Any] = []

        @serve_module.plugin
        def show(request: Any, context: ExecutionContext) -> Any:
            seen.append(context.headers)
            return None

        auth = AuthConfig(method="custom", headers={"X-Own": SECRET})
        serve(show, auth=auth)
        call(make(auth=auth), headers={"X-Trace": "1", "Authorization": f"Bearer {SECRET}"})
        assert seen == [{"X-Trace": "1"}]


def test_plugin_without_manager_executes_plain_json(serve, make):
    serve()
    assert make().execute({"a": 1}, ExecutionContext(timeout=1)) == {"a": 1}


def test_info_without_a_server_is_that_of_the_configuration(make, serve, path):
    plugin = make(kind="message")
    assert plugin.info().metadata == {"transport": "unix", "endpoint": path}
    serve(echo)
    assert plugin.info().version == "2.3.4"
