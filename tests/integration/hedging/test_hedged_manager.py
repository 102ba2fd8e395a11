"""Hedging configured in a manager."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from goplugins import Manager
from tests.integration.hedging.conftest import WIRES, Service


def load(service: Service, wire: str = "http", **sections: Any) -> Manager[Any, Any]:
    manager = Manager()
    own = {"name": "p", "transport": wire, "endpoint": service.endpoint}
    plugin = {**own, "health_check": {"enabled": False}, **sections}
    manager.load_from_config({"plugins": [plugin]})
    return manager


HEDGE = {"enabled": True, "delay": "10ms"}


def test_hedging_is_configured_and_counted(serve: Callable[..., Service]) -> None:
    service = serve("http", lambda number: 0.0 if number % 2 else 0.5)
    with load(service, hedge=HEDGE) as manager:
        result = manager.execute_result("p", "x", None, idempotent=True)
        assert (result.value, result.attempts) == ("x", 2)
        metrics = manager.metrics().plugins["p"]
        assert (metrics.hedges_sent, metrics.hedges_won, metrics.attempts_total) == (1, 1, 2)
    for thread in threading.enumerate():
        if thread.name.startswith("goplugins-hedge"):
            thread.join(5)
            assert not thread.is_alive()


def test_calls_that_are_not_idempotent_are_never_hedged(serve: Callable[..., Service]) -> None:
    service = serve("http", lambda _: 0.1)
    with load(service, hedge=HEDGE) as manager:
        assert manager.execute_result("p", "x").attempts == 1
        assert manager.metrics().plugins["p"].hedges_sent == 0
    assert len(service.timeouts) == 1


def test_hedging_is_off_by_default(serve: Callable[..., Service]) -> None:
    service = serve("http", lambda _: 0.1)
    before = set(threading.enumerate())
    with load(service, retry={"idempotent": True}) as manager:
        assert manager.execute_result("p", "x").attempts == 1
        assert not [thread for thread in set(threading.enumerate()) - before if "hedge" in thread.name]


def test_after_two_failed_attempts_the_call_is_retried(serve: Callable[..., Service]) -> None:
    service = serve("http", lambda number: 5.0 if number < 2 else 0.0)
    retry = {"idempotent": True, "max_retries": 1, "initial_interval": "1ms"}
    with load(service, hedge=HEDGE, retry=retry) as manager:
        timer = threading.Timer(0.2, service.drop)
        timer.start()
        result = manager.execute_result("p", "x", timeout=4.0)
        timer.join()
        assert (result.value, result.attempts) == ("x", 3)
    assert service.timeouts == sorted(service.timeouts, reverse=True)
    assert len(set(service.timeouts)) == 3


@pytest.mark.parametrize("wire", WIRES)
def test_each_of_two_attempts_has_its_own_time(serve: Callable[..., Service], wire: str) -> None:
    service = serve(wire, lambda number: 10.0 if number < 2 else 0.0)
    retry = {"idempotent": True, "max_retries": 1, "initial_interval": "1ms", "attempt_timeout": "400ms"}
    with load(service, wire, hedge={"enabled": True, "delay": "20ms"}, retry=retry) as manager:
        result = manager.execute_result("p", "x", timeout=9.0)
        assert (result.value, result.attempts) == ("x", 3)
        assert manager.metrics().plugins["p"].hedges_sent == 1
    assert all(seconds <= 0.4 for seconds in service.timeouts)
