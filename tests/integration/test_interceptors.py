"""Interceptors over a wire: once for a call with all its attempts, for each page, in forked processes."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from goplugins import CallInfo, Manager, PluginError, TransportError
from tests.processes import in_child, run
from tests.servers import Peer, RawServer, http_reply

pytestmark = pytest.mark.filterwarnings("error")

PAGES = {"/items": ([1, 2], "b"), "/items?page=b": ([3], "")}


def shop(peer: Peer) -> None:
    """A list in two pages, and a path that fails twice."""
    while (request := peer.read_request()) is not None:
        if request.path == "/flaky" and sum(each.path == "/flaky" for each in peer.server.requests) < 3:
            peer.send(http_reply(status="503 Service Unavailable"))
        elif request.path in PAGES:
            items, following = PAGES[request.path]
            peer.send(http_reply({"items": items, "next": following}))
        else:
            peer.send(http_reply(json.dumps("done")))


def config_of(server: RawServer) -> dict[str, Any]:
    operations = {
        "list": {"path": "/items", "result": "/items", "next": "/next", "cursor": "page"},
        "flaky": {"path": "/flaky"},
        "get": {"path": "/get"},
    }
    more = {"retry": {"max_retries": 3, "initial_interval": 0.001}, "cache": {"ttl": 60}}
    endpoint = server.url.removesuffix("/plugin")
    return {"plugins": [{"name": "shop", "transport": "http", "endpoint": endpoint, "operations": operations, **more}]}


class Noting:
    """Adds a header, and notes the calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, str]] = []

    def __call__(self, call: CallInfo, proceed: Any) -> Any:
        call.headers = {**call.headers, "X-Tenant": "acme"}
        try:
            return proceed()
        finally:
            self.calls.append((call.operation, call.attempts, call.source))


@contextlib.contextmanager
def made(*interceptors: Any) -> Iterator[tuple[Manager[Any, Any], RawServer]]:
    with RawServer(shop) as server, Manager(interceptors=interceptors) as manager:
        manager.load_from_config(config_of(server))
        yield manager, server


def test_once_for_a_call_with_all_its_attempts() -> None:
    noting = Noting()
    with made(noting) as (manager, server):
        assert manager.execute("shop", None, operation="flaky") == "done"
        assert [each.headers["x-tenant"] for each in server.requests] == ["acme"] * 3
    assert noting.calls == [("flaky", 3, "plugin")]


def test_around_answers_of_the_cache() -> None:
    noting = Noting()
    with made(noting) as (manager, server):
        for _ in range(2):
            assert manager.execute("shop", None, operation="get") == "done"
        assert len(server.requests) == 1
    assert noting.calls == [("get", 1, "plugin"), ("get", 0, "cache")]


@pytest.mark.parametrize("bound", [False, True])
def test_for_each_page(bound: bool) -> None:
    noting = Noting()
    with made(noting) as (manager, server):
        if bound:
            pages = manager.bind("shop", Any, list[int], operation="list").pages(None)
        else:
            pages = manager.pages("shop", None, operation="list")
        assert list(pages) == [1, 2, 3]
        assert [each.headers["x-tenant"] for each in server.requests] == ["acme"] * 2
    assert [operation for operation, _, _ in noting.calls] == ["list", "list"]


def test_an_answer_in_place_of_a_page_is_the_last_page() -> None:
    def stored(call: CallInfo, proceed: Any) -> Any:
        return [7]

    with made(stored) as (manager, server):
        assert list(manager.pages("shop", None, operation="list")) == [7]
        assert server.requests == []


def test_a_refusal_opens_no_breaker_and_an_error_of_the_service_counts_once() -> None:
    def refuse(call: CallInfo, proceed: Any) -> Any:
        if call.operation != "flaky":
            raise PluginError("closed today")
        return proceed()

    with made(refuse) as (manager, server):
        for _ in range(50):
            with pytest.raises(PluginError, match="closed today"):
                manager.execute("shop", None, operation="get")
        assert server.requests == []
        server.handler = lambda peer: peer.close()
        with pytest.raises((TransportError, ConnectionError)):
            manager.execute("shop", None, operation="flaky", idempotent=True)
        counts = manager.metrics().plugins["shop"]
        assert (counts.requests_total, counts.requests_failure) == (1, 1)
        assert set(counts.operations) == {"flaky"}


def fork() -> list[Any]:
    """Calls before a fork, in the child, and in the parent after it."""
    noting = Noting()
    with made(noting) as (manager, server):
        manager.execute("shop", {"n": 1}, operation="get")

        def work() -> None:
            manager.execute("shop", {"n": 2}, operation="get")
            assert noting.calls == [("get", 1, "plugin")] * 2

        in_child(work)
        manager.execute("shop", {"n": 3}, operation="get")
        return [noting.calls, [each.headers.get("x-tenant") for each in server.requests]]


def test_in_a_forked_process() -> None:
    calls, headers = run(fork)
    assert calls == [["get", 1, "plugin"]] * 2
    assert headers == ["acme"] * 3
