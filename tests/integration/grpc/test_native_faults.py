"""Methods of services that know nothing of goplugins: streams, missing messages, and what is sent again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from goplugins import Manager
from goplugins.errors import BadReplyError, GRPCTransportError, PluginError, PluginThrottledError
from goplugins.transports.grpc.fork_support import load

grpc = load()
Outcome = PluginError | Any


class Service:
    """One method, which runs ``handler`` and counts its calls."""

    def __init__(self, handler: Callable[[StringValue, Any], Any], kind: str) -> None:
        self.calls = 0

        def counted(request: Any, context: Any) -> Any:
            self.calls += 1
            return handler(request, context)

        self._method = getattr(grpc, f"{kind}_rpc_method_handler")(
            counted, StringValue.FromString, StringValue.SerializeToString
        )
        self.server = grpc.server(futures.ThreadPoolExecutor(4), handlers=(self,))
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def service(self, details: Any) -> Any:
        return self._method if details.method == "/shop.v1.Shop/Do" else None


@pytest.fixture
def outcome() -> Iterator[Callable[..., tuple[Outcome, Service]]]:
    services: list[Service] = []
    managers: list[Manager] = []

    def call(handler: Any, kind: str = "unary_unary", timeout: float = 5.0, **retry: Any) -> tuple[Outcome, Service]:
        service = Service(handler, kind)
        services.append(service)
        manager = Manager()
        managers.append(manager)
        plugin = {"name": "shop", "transport": "grpc", "endpoint": f"127.0.0.1:{service.port}"}
        plugin |= {"options": {"method": "/shop.v1.Shop/Do"}, "health_check": {"enabled": False}}
        manager.load_from_config({"plugins": [{**plugin, "retry": {"initial_interval": "1ms", **retry}}]})
        try:
            return manager.bind("shop", StringValue, StringValue)(StringValue(value="x"), timeout=timeout), service
        except PluginError as error:
            return error, service

    yield call
    for manager in managers:
        manager.shutdown()
    for service in services:
        service.server.stop(0).wait(5)


def replies(count: int) -> Callable[[StringValue, Any], Iterator[StringValue]]:
    return lambda request, context: iter([StringValue(value=str(number)) for number in range(count)])


@pytest.mark.parametrize("idempotent", [True, False])
@pytest.mark.parametrize(("count", "text"), [(0, "without a reply message"), (3, "server-streaming")])
def test_a_stream_is_no_reply(outcome, count, text, idempotent):
    error, service = outcome(replies(count), "unary_stream", timeout=0.5, idempotent=idempotent)
    assert type(error) is BadReplyError
    assert text in error.message
    assert (error.retryable, error.attempts, service.calls) == (False, 1, 1)


def test_streams_of_one_message_are_like_other_methods(outcome):
    assert outcome(replies(1), "unary_stream")[0] == StringValue(value="0")
    counting = outcome(lambda requests, context: StringValue(value=str(len(list(requests)))), "stream_unary")
    assert counting[0] == StringValue(value="1")


PUSHBACK = (("grpc-retry-pushback-ms", "1"),)


@pytest.mark.parametrize(
    ("status", "kind", "idempotent", "trailing", "attempts"),
    [
        ("RESOURCE_EXHAUSTED", PluginThrottledError, False, (), 1),
        ("RESOURCE_EXHAUSTED", PluginThrottledError, True, (), 3),
        ("RESOURCE_EXHAUSTED", PluginThrottledError, False, PUSHBACK, 3),
        ("DATA_LOSS", GRPCTransportError, True, (), 1),
        ("DATA_LOSS", GRPCTransportError, True, PUSHBACK, 1),
        ("INTERNAL", GRPCTransportError, False, (), 1),
        ("INTERNAL", GRPCTransportError, True, (), 3),
        ("OUT_OF_RANGE", PluginError, True, PUSHBACK, 1),
    ],
)
def test_what_is_sent_again(outcome, status, kind, idempotent, trailing, attempts):
    def handle(request: StringValue, context: Any) -> Any:
        context.set_trailing_metadata(trailing)
        context.abort(getattr(grpc.StatusCode, status), "as requested")

    error, service = outcome(handle, idempotent=idempotent, max_retries=2)
    assert isinstance(error, kind)
    assert (error.details["status"], error.attempts, service.calls) == (status, attempts, attempts)
