"""``retry.statuses``: which replies are retried, over HTTP and gRPC, alone and in a group."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import ExitStack
from typing import Any

import pytest

from goplugins import Manager, PluginConnectionError, PluginError
from tests.servers import Peer, RawServer, free_port, http_reply, ok

pytestmark = pytest.mark.matrix

RETRY = {"max_retries": 1, "initial_interval": "1ms", "budget_ratio": 1.0}


class Failing:
    """A server whose odd-numbered replies have a status, with a header or a piece of trailing metadata."""

    def __init__(self, stack: ExitStack, transport: str, status: int | str, extra: tuple[str, str] | None) -> None:
        self.requests = itertools.count()
        self.status = status
        self.extra = extra
        self.config: dict[str, Any] = {"name": "p", "transport": transport, "health_check": {"enabled": False}}
        self.config["endpoint"] = self._serve_http(stack) if transport == "http" else self._serve_grpc(stack)

    @property
    def count(self) -> int:
        """The number of requests so far; reading it once only."""
        return next(self.requests)

    def _serve_http(self, stack: ExitStack) -> str:
        def handler(peer: Peer) -> None:
            while (request := peer.read_request()) is not None:
                if next(self.requests) % 2:
                    peer.send(ok(request, "done"))
                else:
                    peer.send(
                        http_reply(status=f"{self.status} Reason", headers=dict([self.extra] if self.extra else []))
                    )

        return stack.enter_context(RawServer(handler)).url

    def _serve_grpc(self, stack: ExitStack) -> str:
        from goplugins.transports.grpc.fork_support import load
        from goplugins.transports.grpc.messages import EXECUTE, messages

        grpc = load()

        def handle(raw: bytes, context: Any) -> bytes:
            if next(self.requests) % 2 == 0:
                if self.extra:
                    context.set_trailing_metadata((self.extra,))
                context.abort(getattr(grpc.StatusCode, str(self.status)), "not now")
            request = messages().ExecuteRequest.FromString(raw)
            reply = messages().ExecuteResponse(request_id=request.request_id, payload=request.payload)
            return bytes(reply.SerializeToString())

        class Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]
            def service(self, details: Any) -> Any:
                return grpc.unary_unary_rpc_method_handler(handle) if details.method == EXECUTE else None

        server = grpc.server(futures.ThreadPoolExecutor(4), handlers=(Handlers(),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        stack.callback(lambda: server.stop(0).wait(5))
        return f"127.0.0.1:{port}"


@pytest.fixture
def requests() -> Iterator[Callable[..., int]]:
    """The number of requests that one call makes."""
    with ExitStack() as stack:

        def count(
            transport: str,
            status: int | str,
            statuses: list[int | str] | None,
            *,
            idempotent: bool = True,
            extra: tuple[str, str] | None = None,
            grouped: bool = False,
        ) -> int:
            server = Failing(stack, transport, status, extra)
            retry = RETRY if statuses is None else {**RETRY, "statuses": statuses}
            manager = stack.enter_context(Manager())
            config: dict[str, Any] = {"log_level": "error", "plugins": [server.config]}
            if grouped:
                config["load_balancers"] = [{"name": "g", "members": ["p"], "retry": retry}]
            else:
                server.config["retry"] = retry
            manager.load_from_config(config)
            try:
                manager.execute("g" if grouped else "p", "done", idempotent=idempotent)
            except PluginError as error:
                assert error.details["status"] == status  # noqa: PT017 - only some calls fail
            return server.count

        yield count


HTTP = (400, 404, 408, 409, 418, 423, 425, 429, 500, 501, 502, 503, 504, 505, 599)
GRPC = ("NOT_FOUND", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED", "ABORTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS")


@pytest.mark.parametrize(
    ("transport", "status"), [*(("http", status) for status in HTTP), *(("grpc", status) for status in GRPC)]
)
def test_a_listed_status_is_retried_for_idempotent_calls_and_no_other_status_is(
    transport: str, status: int | str, requests: Callable[..., int]
) -> None:
    other = "CANCELLED" if transport == "grpc" else 499
    assert requests(transport, status, [other, status]) == 2
    assert requests(transport, status, [other]) == 1
    assert requests(transport, status, []) == 1


@pytest.mark.parametrize(("transport", "status"), [("http", 409), ("http", 503), ("http", 500), ("grpc", "INTERNAL")])
def test_a_listed_status_does_not_make_a_call_safe_to_repeat(
    transport: str, status: int | str, requests: Callable[..., int]
) -> None:
    assert requests(transport, status, [status], idempotent=False) == 1


def test_replies_that_are_always_safe_stay_so_if_they_are_listed(requests: Callable[..., int]) -> None:
    after = ("Retry-After", "0")
    assert requests("http", 429, [429], idempotent=False) == 2
    assert requests("http", 503, [503], idempotent=False, extra=after) == 2
    assert requests("http", 503, [429], idempotent=False, extra=after) == 1


@pytest.mark.parametrize("status", ["UNAVAILABLE", "NOT_FOUND"])
def test_a_server_that_forbids_the_retry_has_the_last_word(status: str, requests: Callable[..., int]) -> None:
    assert requests("grpc", status, [status], extra=("grpc-retry-pushback-ms", "-1")) == 1


def test_a_group_retries_the_statuses_of_its_own_section(requests: Callable[..., int]) -> None:
    assert requests("http", 409, [409], grouped=True) == 2
    assert requests("http", 500, [409], grouped=True) == 1


def test_connections_and_timeouts_have_no_status() -> None:
    """A list of statuses is about replies: a connection that is refused is retried as without it."""
    retry = {**RETRY, "statuses": [409]}
    plugin = {"name": "p", "transport": "http", "endpoint": f"http://127.0.0.1:{free_port()}", "retry": retry}
    with Manager() as manager:
        manager.load_from_config({"log_level": "error", "plugins": [plugin]})
        with pytest.raises(PluginConnectionError) as caught:
            manager.execute("p", "x")
    assert caught.value.attempts == 2
