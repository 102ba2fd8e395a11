"""Policies that change under a plugin at work: the wire is not touched, counts and states stay."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from goplugins import BulkheadFullError, PluginTimeoutError, PluginUnavailableError, RateLimitExceededError, Replay
from goplugins.transports.chaos import ChaosSender

from .conftest import House


def change(house: House, **sections: Any) -> Any:
    report = house.reload(a=sections)
    assert report.updated == ("a",), report
    return house.guarded("a")


def test_a_limit_comes_changes_and_goes(house: House) -> None:
    house.load(a={})
    limited = {"enabled": True, "burst_size": 1, "requests_per_second": 0.001}
    plugin = change(house, rate_limit=limited)
    house.ask("a")
    with pytest.raises(RateLimitExceededError):
        house.ask("a")
    change(house, rate_limit={**limited, "burst_size": 5})
    with pytest.raises(RateLimitExceededError):
        house.ask("a")  # its tokens stay: a larger bucket is not a full one
    change(house)
    for _ in range(50):
        house.ask("a")
    assert plugin.policies.limiter is None
    assert house.manager.metrics().plugins["a"].refused_rate_limit == 2


def test_who_waits_for_a_token_is_let_in_when_the_limit_goes(house: House) -> None:
    house.load(a={"rate_limit": {"enabled": True, "burst_size": 1, "requests_per_second": 0.1, "max_wait": 60}})
    house.ask("a")
    thread, results = house.in_background(lambda: house.ask("a", timeout=60))
    while not house.guarded("a").policies.limiter._waiters:
        time.sleep(0.001)
    change(house)
    thread.join(5)
    assert results == [["a", "m:a"]]


def test_who_waits_for_a_place_is_let_in_when_the_bulkhead_goes(house: House) -> None:
    house.load(a={"bulkhead": {"max_concurrent": 1, "max_waiting": 1}})
    wire = house.guarded("a").plugin
    wire.hold = threading.Event()
    first = house.in_background(lambda: house.ask("a"))
    assert wire.entered.acquire(timeout=10)
    second = house.in_background(lambda: house.ask("a"))
    while not house.guarded("a").bulkhead.waiting:
        time.sleep(0.001)
    with pytest.raises(BulkheadFullError):
        house.ask("a")
    change(house)
    assert wire.entered.acquire(timeout=10)
    wire.hold.set()
    for thread, results in (first, second):
        thread.join(10)
        assert results == [["a", "m:a"]]
    assert house.manager.metrics().plugins["a"].refused_bulkhead == 1
    change(house, bulkhead={"max_concurrent": 1})
    assert house.guarded("a").bulkhead.limit == 1
    assert house.ask("a")


def test_cached_answers_stay_while_other_policies_change(house: House) -> None:
    cached = {"cache": {"ttl": 60}, "retry": {"idempotent": True}}
    house.load(a=cached)
    wire = house.guarded("a").plugin
    house.ask("a")
    change(house, **cached, bulkhead={"max_concurrent": 2})
    change(house, **cached, circuit_breaker={"failure_threshold": 2})
    house.ask("a")
    assert len(wire.sent) == 1
    change(house, cache={"ttl": 61}, retry={"idempotent": True})
    house.ask("a")
    assert len(wire.sent) == 2
    change(house, retry={"idempotent": True})
    house.ask("a")
    house.ask("a")
    assert len(wire.sent) == 4
    assert house.manager.metrics().plugins["a"].requests_total == 5


def test_a_fallback_that_changes_only_in_kind(house: House) -> None:
    house.load(a={"fallback": {"value": 1}, "retry": {"max_retries": 0}})

    def fail(call: Any) -> Any:
        raise PluginUnavailableError("no")

    house.guarded("a").plugin.on_send = fail
    assert house.ask("a") == 1
    change(house, fallback={"value": True}, retry={"max_retries": 0})
    assert house.ask("a") is True
    change(house, retry={"max_retries": 0})
    with pytest.raises(PluginUnavailableError):
        house.ask("a")


def test_hedging_comes_and_goes_and_its_counts_stay(house: House) -> None:
    there = {"transport": "unix", "endpoint": "/run/a"}  # calls of what runs in this process can't be hedged
    house.load(a=there)
    plugin = change(house, **there, hedge={"enabled": True, "delay": 0.01}, retry={"idempotent": True})
    slow = threading.Event()

    def answer(call: Any) -> Any:
        if not slow.is_set():
            slow.set()
            time.sleep(0.3)
        return "ok"

    plugin.plugin.on_send = answer
    assert house.ask("a") == "ok"
    assert house.manager.metrics().plugins["a"].hedges_sent == 1
    change(house, **there, retry={"idempotent": True})
    assert plugin.hedger is None
    assert house.manager.metrics().plugins["a"].hedges_sent == 1


def test_chaos_comes_and_goes_around_the_same_wire(house: House) -> None:
    house.load(a={})
    wire = house.guarded("a").plugin
    plugin = change(house, chaos={"enabled": True, "refuse": 1.0}, retry={"max_retries": 0})
    assert isinstance(plugin.sender, ChaosSender)
    with pytest.raises(ConnectionError):
        house.ask("a")
    change(house)
    assert plugin.sender is wire
    assert house.ask("a")


def test_a_breaker_keeps_its_state(house: House) -> None:
    house.load(a={"circuit_breaker": {"failure_threshold": 3, "min_request_threshold": 1}, "retry": {"max_retries": 0}})
    plugin = house.guarded("a")

    def fail(call: Any) -> Any:
        raise PluginUnavailableError("no")

    plugin.plugin.on_send = fail
    for _ in range(2):
        with pytest.raises(PluginUnavailableError):
            house.ask("a")
    change(house, circuit_breaker={"failure_threshold": 3, "min_request_threshold": 1, "recovery_timeout": 5})
    with pytest.raises(PluginUnavailableError):
        house.ask("a", timeout=1)
    assert plugin.policies.breaker.state == "open"


def test_times_and_retries(house: House) -> None:
    house.load(a={"retry": {"max_retries": 0}})
    wire = house.guarded("a").plugin
    wire.on_send = lambda call: call.deadline.remaining()
    change(house, connection={"request_timeout": 3}, retry={"max_retries": 2, "initial_interval": 0})
    assert 2 < house.ask("a") <= 3
    failures = [PluginTimeoutError("no", replay=Replay.ALWAYS)] * 2

    def fail(call: Any) -> Any:
        if failures:
            raise failures.pop()
        return "third time"

    wire.on_send = fail
    assert house.ask("a") == "third time"


def test_health_checks(house: House) -> None:
    house.load(a={})
    house.ask("a")
    checker = house.guarded("a").attempts.watcher
    change(house, health_check={"enabled": False})
    assert house.guarded("a").attempts.watcher is checker
    assert not checker.is_running
    change(house, health_check={"interval": 77})
    assert checker.is_running


def test_connections_in_use_count_as_what_they_are(house: House) -> None:
    """A change that needs other connections is no change in place, whatever comes with it."""
    house.load(a={})
    report = house.reload(a={"connection": {"max_connections": 3, "request_timeout": 3}})
    assert report.replaced == ("a",)
