"""Requests and replies over gRPC: the server of goplugins.serve, grpcio servers, and services of another kind."""

from __future__ import annotations

import base64
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import attrs
import pytest

from goplugins import ExecutionContext, Manager, serve as serving
from goplugins.config import AuthConfig, PluginConfig
from goplugins.enums import PluginStatus
from goplugins.errors import (
    AuthenticationError,
    BadReplyError,
    InvalidArgumentError,
    InvalidEndpointFormatError,
    InvalidHeaderError,
    PluginClosedError,
    PluginExecutionError,
    PluginInternalError,
    PluginRequestError,
    PluginTimeoutError,
    PluginUnavailableError,
    Replay,
    ReplyMismatchError,
    ReplyTypeError,
    SaturatedError,
    TruncatedReplyError,
    UnserializableRequestError,
)
from goplugins.transports.grpc import GRPCPluginFactory
from goplugins.transports.grpc.messages import CHECK, messages
from goplugins.transports.json_codec import codec_for
from tests.integration.grpc.conftest import aborting, call, failure, ok, reply
from tests.servers import free_port
from tests.timing import time_limit


@serving.plugin(name="echo", version="1.2", capabilities=("echo",))
def echo(request: object) -> object:
    return request


@serving.plugin(name="context")
def context_of(request: str, context: ExecutionContext) -> dict[str, Any]:
    if request == "reject":
        raise serving.Rejected("not allowed", code="ASKED")
    if request == "raise":
        raise ValueError("boom with a secret")
    if request == "busy":
        raise serving.Unavailable("later", retry_after=0.25)
    if request == "busy, without a time":
        raise serving.Unavailable("later")
    return {
        "id": context.request_id,
        "timeout": context.timeout,
        "headers": dict(context.headers),
        "metadata": dict(context.metadata),
    }


VALUES = [
    None,
    True,
    0,
    2**63 - 1,
    -(2**63),
    2**64 + 1,
    1.5,
    "",
    "ünïcödé 🎉 \x00 \n",
    [],
    {},
    {"a": [1, {"b": None}]},
]


class TestOverOurServer:
    @pytest.mark.parametrize("value", VALUES, ids=repr)
    def test_json_values_make_the_round_trip(self, serve, make, value):
        assert call(make(serve(echo).address), value) == value

    def test_large_payloads(self, serve, make):
        text = "x" * (3 * 1024 * 1024)
        assert call(make(serve(echo).address), text, timeout=10) == text

    def test_types(self, serve, make):
        @attrs.frozen
        class Ask:
            number: int

        plugin = make(serve(echo).address)
        assert call(plugin, Ask(7), codec=codec_for(Ask, Ask)) == Ask(7)
        with pytest.raises(ReplyTypeError, match=r"data\.number"):
            call(plugin, {"number": "7"}, codec=codec_for(dict, Ask))

    def test_context_travels(self, serve, make):
        found = call(
            make(serve(context_of).address),
            "",
            request_id="id-7",
            headers={"X-Tenant": "blue", "traceparent": "00-1"},
            metadata={"who": "ü"},
            idempotent=True,
            timeout=5,
        )
        assert found["id"] == "id-7"
        assert found["headers"] == {"X-Tenant": "blue", "traceparent": "00-1", "Idempotency-Key": "id-7"}
        assert found["metadata"] == {"who": "ü"}
        assert 4 < found["timeout"] < 5

    def test_business_error(self, serve, make):
        error = failure(make(serve(context_of).address), "reject")
        assert type(error) is PluginExecutionError
        assert error.message == "not allowed"
        assert error.details["metadata"] == {"error_code": "ASKED"}

    def test_the_text_of_an_exception_is_not_sent(self, serve, make):
        error = failure(make(serve(context_of).address), "raise")
        assert type(error) is PluginInternalError
        assert "secret" not in str(error)

    def test_unavailable(self, serve, make):
        plugin = make(serve(context_of).address)
        error = failure(plugin, "busy")
        assert type(error) is PluginUnavailableError
        assert (error.replay, error.retry_after) == (Replay.ALWAYS, 0.25)
        error = failure(plugin, "busy, without a time")
        assert (error.replay, error.retry_after) == (Replay.IF_IDEMPOTENT, None)

    def test_request_that_does_not_fit(self, serve, make):
        error = failure(make(serve(context_of).address), 7)
        assert type(error) is PluginRequestError
        assert "expected a string" in error.message

    def test_info_is_requested_once(self, serve, make):
        server = serve(echo)
        plugin = make(server.address)
        info = plugin.info()
        assert (info.name, info.version, tuple(info.capabilities)) == ("echo", "1.2", ("echo",))
        server.stop()
        assert plugin.info() == info

    def test_waiting_for_a_thread_counts_against_the_deadline(self, serve, make):
        begun, released = threading.Event(), threading.Event()

        @serving.plugin(request=Any, response=Any)
        def wait(request):
            begun.set()
            return released.wait(10)

        plugin = make(serve(wait, threads=1).address)
        with ThreadPoolExecutor(1) as pool:
            busy = pool.submit(call, plugin, timeout=10)
            assert begun.wait(10)
            assert isinstance(failure(plugin, timeout=0.2), PluginTimeoutError)
            released.set()
            assert busy.result()

    def test_stop_finishes_calls_in_flight(self, serve, make):
        begun = threading.Event()

        @serving.plugin(request=Any, response=Any)
        def slow(request):
            begun.set()
            time.sleep(0.3)  # the stop begins meanwhile
            return "done"

        server = serve(slow)
        plugin = make(server.address)
        with ThreadPoolExecutor(1) as pool:
            busy = pool.submit(call, plugin, timeout=10)
            assert begun.wait(10)
            server.stop(grace=5)
            assert busy.result() == "done"

    @pytest.mark.parametrize("form", ["dns:///127.0.0.1:{0}", "ipv4:127.0.0.1:{0}", "localhost:{0}"])
    def test_forms_of_endpoints(self, serve, make, form):
        assert call(make(form.format(serve(echo).port)), 1) == 1

    def test_unix_socket(self, serve, make, tmp_path):
        serve(echo, f"unix:{tmp_path}/x.sock")
        assert call(make(f"unix:{tmp_path}/x.sock"), 1) == 1

    def test_ipv6(self, serve, make):
        try:
            server = serve(echo, "[::1]:0")
        except Exception:
            pytest.skip("no IPv6 on this machine")
        assert call(make(f"[::1]:{server.port}"), 1) == 1

    def test_port_in_use(self, serve):
        from goplugins.errors import ConfigError

        with pytest.raises(ConfigError, match="can't listen"):
            serve(echo, serve(echo).address)


AUTHS = [
    AuthConfig(method="api-key", api_key="key-123"),
    AuthConfig(method="bearer", token="tok-456"),
    AuthConfig(method="basic", username="user", password="pa:ss ü"),
    AuthConfig(method="custom", headers={"X-Custom": "yes-789"}),
]


@pytest.mark.parametrize("auth", AUTHS, ids=lambda auth: auth.method)
class TestAuth:
    def test_right(self, serve, make, auth):
        plugin = make(serve(echo, auth=auth).address, auth=auth)
        assert call(plugin, 1) == 1
        assert plugin.health(2).status is PluginStatus.HEALTHY
        assert plugin.info().name == "echo"

    def test_wrong_or_none(self, serve, make, auth):
        server = serve(echo, auth=auth)
        wrong = AuthConfig(method="bearer", token="nope") if auth.method != "bearer" else AUTHS[0]
        for other in (wrong, None):
            error = failure(make(server.address, auth=other))
            assert type(error) is AuthenticationError
            assert error.replay is Replay.NEVER


class TestMetadata:
    def test_the_metadata_that_a_server_receives(self, raw, make):
        server = raw()
        plugin = make(server.address, auth=AuthConfig(method="basic", username="user", password="secret"))
        call(plugin, 7, headers={"X-Tenant": "blue", "Trace-Bin": base64.b64encode(b"\x00\xff").decode()})
        request, metadata = server.calls[0]
        assert metadata["authorization"] == "Basic " + base64.b64encode(b"user:secret").decode()
        assert metadata["x-request-id"] == "req-1"
        assert metadata["x-tenant"] == "blue"
        assert metadata["trace-bin"] == b"\x00\xff"
        assert "idempotency-key" not in metadata
        message = messages().ExecuteRequest.FromString(request)
        assert (message.payload, message.request_id) == (b"7", "req-1")
        assert 1900 < message.timeout_ms <= 2000

    def test_idempotent_calls_carry_their_key(self, raw, make):
        server = raw()
        call(make(server.address), idempotent=True)
        assert server.calls[0][1]["idempotency-key"] == "req-1"

    @pytest.mark.parametrize(
        "headers",
        [
            {"grpc-timeout": "1S"},
            {"Content-Type": "x"},
            {"te": "x"},
            {"x!": "y"},
            {"x": "ü"},
            {"x": "a\nb"},
            {"x-bin": "no base64"},
            {"Authorization": "Bearer other"},
        ],
        ids=lambda headers: next(iter(headers)),
    )
    def test_headers_that_are_refused(self, raw, make, headers):
        server = raw()
        plugin = make(server.address, auth=AuthConfig(method="bearer", token="tok-456"))
        with pytest.raises(InvalidHeaderError) as caught:
            call(plugin, headers=headers)
        assert next(iter(headers.values())) not in str(caught.value) or next(iter(headers.values())) in "xy"
        assert server.calls == []

    @pytest.mark.parametrize("metadata", [{"k": "a\udc80"}, {"a\udc80": "v"}], ids=ascii)
    def test_metadata_that_a_message_can_not_carry(self, raw, make, metadata):
        server = raw()
        with pytest.raises(InvalidArgumentError, match=r"metadata: .* contains a lone surrogate"):
            call(make(server.address), metadata=metadata)
        assert server.calls == []

    def test_known_fault_a_plaintext_endpoint_on_grpc_tls_sent_credentials_in_clear(self):
        config = PluginConfig(name="p", transport="grpc-tls", endpoint="http://127.0.0.1:1")
        for use in (GRPCPluginFactory().validate_config, GRPCPluginFactory().create_plugin):
            with pytest.raises(InvalidEndpointFormatError):
                use(config)


class TestReplies:
    @pytest.mark.parametrize(
        ("fields", "error"),
        [
            ({"request_id": "other", "payload": b"1"}, ReplyMismatchError),
            ({"request_id": ""}, BadReplyError),
            ({"payload": b"{"}, TruncatedReplyError),
            ({"payload": b"1 2"}, BadReplyError),
            ({"payload": b"NaN"}, BadReplyError),
            ({"error": "no", "error_kind": "rejected"}, PluginExecutionError),
            ({"error": "no"}, PluginExecutionError),
            ({"error": "no", "error_kind": "internal"}, PluginInternalError),
        ],
        ids=repr,
    )
    def test_malformed_replies(self, raw, make, fields, error):
        server = raw(lambda request, _: reply(request, **fields))
        assert type(failure(make(server.address))) is error

    def test_bytes_that_are_no_protobuf_message(self, raw, make):
        assert type(failure(make(raw(lambda *_: b"\xff\xff").address))) is BadReplyError

    def test_a_reply_needs_no_request_id(self, raw, make):
        assert call(make(raw(lambda r, _: reply(r, request_id="", payload=b"1")).address)) == 1

    def test_absent_payload_is_null(self, raw, make):
        assert call(make(raw(lambda r, _: reply(r)).address)) is None

    def test_metadata_of_a_reply(self, raw, make):
        server = raw(lambda r, _: reply(r, payload=b"1", metadata={"cost": "3"}))
        with Manager() as manager:
            manager.register(make(server.address), name="p")
            assert manager.execute_result("p", None).metadata == {"cost": "3"}


class TestHealth:
    def served(self, word):
        return serving.plugin(name="h", health=lambda: word, request=Any, response=Any)(lambda request: request)

    @pytest.mark.parametrize(
        ("word", "status"),
        [
            (True, PluginStatus.HEALTHY),
            ("degraded", PluginStatus.DEGRADED),
            ("disk full", PluginStatus.UNHEALTHY),
        ],
    )
    def test_own_method_reports_status_and_message(self, serve, make, word, status):
        found = make(serve(self.served(word)).address, kind="message").health(2)
        assert found.status is status
        assert found.message == ("disk full" if word == "disk full" else "")
        assert found.response_time > 0

    @pytest.mark.parametrize(("word", "status"), [(True, PluginStatus.HEALTHY), (False, PluginStatus.UNHEALTHY)])
    def test_standard_service(self, serve, make, word, status):
        plugin = make(serve(self.served(word)).address, health="PluginService")
        assert plugin.health(2).status is status

    def test_standard_service_of_another_server(self, raw, make):
        def check(number):
            def answer(request, _):
                assert messages().HealthCheckRequest.FromString(request).service == ""
                return messages().HealthCheckResponse(status=number).SerializeToString()

            return answer

        wanted = [PluginStatus.UNKNOWN, PluginStatus.HEALTHY, PluginStatus.UNHEALTHY, PluginStatus.UNHEALTHY]
        for number, status in enumerate(wanted):
            assert make(raw({CHECK: check(number)}).address).health(2).status is status

    def test_a_server_without_a_health_service_is_healthy(self, raw, make):
        found = make(raw(ok).address).health(2)
        assert found.status is PluginStatus.HEALTHY
        assert "no health service" in found.message

    def test_unknown_service(self, serve, make):
        assert make(serve(echo).address, health="other.Service").health(2).status is PluginStatus.UNHEALTHY

    def test_no_server_is_offline(self, make):
        assert make(f"127.0.0.1:{free_port()}").health(2).status is PluginStatus.OFFLINE

    def test_a_hanging_check_is_offline_in_time(self, raw, make):
        server = raw({CHECK: lambda *_: time.sleep(0.6) or b""})
        for stopwatch in time_limit(0.3):
            with stopwatch:
                assert make(server.address).health(0.2).status is PluginStatus.OFFLINE

    def test_without_a_free_connection_the_status_is_unknown(self, raw, make, gate):
        plugin = make(raw(gate).address, max_connections=1)
        with ThreadPoolExecutor(1) as pool:
            busy = pool.submit(call, plugin, timeout=10)
            gate.wait()
            assert plugin.health(0.2).status is PluginStatus.UNKNOWN
            gate.released.set()
            assert busy.result() == 1

    def test_a_closed_plugin_is_unknown(self, make):
        plugin = make("127.0.0.1:1")
        plugin.close()
        assert plugin.health(0.2).status is PluginStatus.UNKNOWN


class TestNative:
    """A service of another kind, called with its own messages."""

    def test_existing_service(self, serve, make):
        asks, answers = messages().HealthCheckRequest, messages().HealthCheckResponse
        plugin = make(serve(echo).address, options={"method": "/grpc.health.v1.Health/Check"})
        reply = call(plugin, asks(service="echo"), codec=codec_for(asks, answers))
        assert isinstance(reply, answers)
        assert reply.status == 1
        error = failure(plugin, asks(service="nope"), codec=codec_for(asks, answers))
        assert type(error) is PluginRequestError
        assert error.details["status"] == "NOT_FOUND"
        assert plugin.health(2).status is PluginStatus.HEALTHY
        assert plugin.info().name == "p"

    def test_through_a_manager_with_types_and_metadata(self, raw):
        from google.protobuf.struct_pb2 import Struct
        from google.protobuf.wrappers_pb2 import Int64Value

        def method(request: bytes, context) -> bytes:
            context.set_trailing_metadata((("cost", "3"),))
            return Int64Value(value=int(Struct.FromString(request)["n"]) + 2**60).SerializeToString()

        server = raw({"/pkg.v1.Adder/Add": method})
        config = {
            "name": "adder",
            "transport": "grpc",
            "endpoint": server.address,
            "options": {"method": "/pkg.v1.Adder/Add"},
        }
        with Manager() as manager:
            manager.load_from_config({"plugins": [config]})
            ask = Struct()
            ask["n"] = 5
            found = manager.bind("adder", Struct, Int64Value).result(ask)
            assert found.value.value == 2**60 + 5
            assert found.metadata == {"cost": "3"}

    def test_grpcios_own_health_service_typed(self):
        import grpc
        from grpc_health.v1 import health, health_pb2, health_pb2_grpc

        server = grpc.server(ThreadPoolExecutor(2))
        servicer = health.HealthServicer()
        servicer.set("billing", health_pb2.HealthCheckResponse.NOT_SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        config = {
            "name": "health",
            "transport": "grpc",
            "endpoint": f"127.0.0.1:{port}",
            "options": {"method": "/grpc.health.v1.Health/Check"},
        }
        try:
            with Manager(health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse) as manager:
                manager.load_from_config({"plugins": [config]})
                answer = manager.execute("health", health_pb2.HealthCheckRequest(service="billing"))
                assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
                with pytest.raises(PluginRequestError):
                    manager.execute("health", health_pb2.HealthCheckRequest(service="other"))
        finally:
            server.stop(0).wait()

    def test_types_that_are_no_messages(self, raw, make):
        server = raw({"/a.B/C": lambda r, _: r})
        plugin = make(server.address, options={"method": "/a.B/C"})
        with pytest.raises(InvalidArgumentError, match="protobuf classes"):
            call(plugin, 1)
        kind = messages().HealthCheckRequest
        with pytest.raises(UnserializableRequestError, match="expected a HealthCheckRequest, got a int"):
            call(plugin, 1, codec=codec_for(kind, kind))
        assert server.calls == []

    def test_reply_that_is_no_message(self, raw, make):
        kind = messages().HealthCheckRequest
        plugin = make(raw({"/a.B/C": lambda *_: b"\xff"}).address, options={"method": "/a.B/C"})
        assert type(failure(plugin, kind(), codec=codec_for(kind, kind))) is BadReplyError


class TestConnections:
    def test_max_connections_bounds_calls_and_the_wait_ends_in_an_error(self, raw, make, gate):
        plugin = make(raw(gate).address, max_connections=2)
        with ThreadPoolExecutor(4) as pool:
            calls = [pool.submit(call, plugin, timeout=10) for _ in range(4)]
            gate.wait()
            gate.wait()
            for stopwatch in time_limit(0.25):
                with stopwatch:
                    assert isinstance(failure(plugin, timeout=0.15), SaturatedError)
            assert not gate.begun.acquire(blocking=False)
            gate.released.set()
            assert [each.result() for each in calls] == [1] * 4

    def test_close_finishes_calls_in_flight_and_refuses_later_ones(self, raw, make, gate):
        plugin = make(raw(gate).address)
        with ThreadPoolExecutor(1) as pool:
            busy = pool.submit(call, plugin, timeout=10)
            gate.wait()
            plugin.close()
            plugin.close()
            with pytest.raises(PluginClosedError):
                call(plugin)
            gate.released.set()
            assert busy.result() == 1

    def test_calls_share_a_connection_unless_keep_alive_is_off(self, raw, make):
        peers = []
        server = raw(lambda r, c: peers.append(c.peer()) or reply(r))
        shared, single = make(server.address), make(server.address, keep_alive=False)
        for _ in range(3):
            call(shared)
        assert len(set(peers)) == 1
        for _ in range(3):
            call(single)
        assert len(set(peers)) == 4

    def test_error_statuses_keep_the_connection(self, raw, make):
        peers = []

        def refuse(request, context):
            peers.append(context.peer())
            return aborting("UNAVAILABLE")(request, context)

        plugin = make(raw(refuse).address)
        for _ in range(3):
            failure(plugin)
        assert len(set(peers)) == 1
