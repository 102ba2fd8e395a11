"""Faults of the Go library that no transport's own tests show; docs/known-faults.md lists all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from goplugins import CircuitBreakerOpenError, CircuitBreakerState, Manager, serve
from goplugins.errors import HTTPTransportError, PluginRequestError, PluginThrottledError
from tests.processes import in_child, run
from tests.servers import Peer, RawServer, http_reply, ok


def replying(*replies: bytes) -> Callable[[Peer], None]:
    """Sends these, one a request over all connections, and then good answers."""
    left = list(replies)

    def handler(peer: Peer) -> None:
        while (request := peer.read_request()) is not None:
            peer.send(left.pop(0) if left else ok(request))

    return handler


def manager_for(server: RawServer, **sections: Any) -> Manager[Any, Any]:
    manager: Manager[Any, Any] = Manager()
    plugin = {"name": "p", "transport": "http", "endpoint": server.url, "health_check": {"enabled": False}, **sections}
    manager.load_from_config({"plugins": [plugin]})
    return manager


def test_known_fault_the_manager_ignored_the_configured_breaker() -> None:
    broken = replying(*[http_reply("", "500 Oops")] * 9)
    breaker = {"failure_threshold": 2, "min_request_threshold": 1, "recovery_timeout": "45s"}
    with RawServer(broken) as server, manager_for(server, circuit_breaker=breaker) as manager:
        for _ in range(2):
            with pytest.raises(HTTPTransportError):
                manager.execute("p", 1)
        with pytest.raises(CircuitBreakerOpenError) as caught:
            manager.execute("p", 1)
        assert 44 < (caught.value.retry_after or 0) <= 45
        assert manager.explain("p").breaker is CircuitBreakerState.OPEN
        assert len(server.requests) == 2


def test_known_fault_a_503_was_never_retried() -> None:
    busy = http_reply("", "503 Busy", {"Retry-After": "0"})
    with RawServer(replying(busy, busy)) as server, manager_for(server) as manager:
        result = manager.execute_result("p", 1)
        assert (result.value, result.attempts) == ("ok", 3)
        assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("status", "error", "hits"), [("404 No", PluginRequestError, 1), ("429 Slow", PluginThrottledError, 3)]
)
def test_known_fault_the_error_said_four_attempts_when_there_was_one(status, error, hits) -> None:
    retry = {"max_retries": 2, "initial_interval": "1ms"}
    with RawServer(replying(*[http_reply("", status)] * 9)) as server, manager_for(server, retry=retry) as manager:
        with pytest.raises(error) as caught:
            manager.execute("p", 1)
        assert caught.value.attempts == len(server.requests) == hits


def request_ids_of_five_processes() -> list[list[str]]:
    manager: Manager[Any, Any] = Manager()

    @serve.plugin(name="same")
    def same(request: int) -> int:
        return request

    manager.register(same)

    def draw() -> list[str]:
        return [manager.execute_result("same", 1).request_id for _ in range(50)]

    draw()
    return [*(in_child(draw) for _ in range(4)), draw()]


def test_known_fault_request_ids_repeated_in_other_processes() -> None:
    drawn = run(request_ids_of_five_processes)
    assert [len(ids) for ids in drawn] == [50] * 5
    assert len({each for ids in drawn for each in ids}) == 250
