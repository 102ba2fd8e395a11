"""Policies that change in place: connections, counts and states of the plugin stay."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from goplugins import BulkheadFullError, PluginTimeoutError, PluginUnavailableError, RateLimitExceededError, Replay
from goplugins.transports.chaos import ChaosSender

from .conftest import Harness


def change(harness: Harness, **sections: Any) -> Any:
    report = harness.reload(a=sections)
    assert report.updated == ("a",), report
    return harness.guarded("a")


def test_a_rate_limit(harness: Harness) -> None:
    harness.load(a={})
    limited = {"enabled": True, "burst_size": 1, "requests_per_second": 0.001}
    plugin = change(harness, rate_limit=limited)
    harness.call("a")
    with pytest.raises(RateLimitExceededError):
        harness.call("a")
    change(harness, rate_limit={**limited, "burst_size": 5})
    with pytest.raises(RateLimitExceededError):
        harness.call("a")  # the tokens stay: a larger bucket is not full
    change(harness)
    for _ in range(50):
        harness.call("a")
    assert plugin.pipeline.limiter is None
    assert harness.manager.metrics().plugins["a"].refused_rate_limit == 2


def test_calls_waiting_for_a_token_go_on_when_the_limit_is_removed(harness: Harness) -> None:
    harness.load(a={"rate_limit": {"enabled": True, "burst_size": 1, "requests_per_second": 0.1, "max_wait": 60}})
    harness.call("a")
    thread, results = harness.in_background(lambda: harness.call("a", timeout=60))
    while not harness.guarded("a").pipeline.limiter._waiters:
        time.sleep(0.001)
    change(harness)
    thread.join(5)
    assert results == [["a", "m:a"]]


def test_calls_waiting_for_a_slot_go_on_when_the_bulkhead_is_removed(harness: Harness) -> None:
    harness.load(a={"bulkhead": {"max_concurrent": 1, "max_waiting": 1}})
    wire = harness.guarded("a").plugin
    wire.hold = threading.Event()
    first = harness.in_background(lambda: harness.call("a"))
    assert wire.entered.acquire(timeout=10)
    second = harness.in_background(lambda: harness.call("a"))
    while not harness.guarded("a").pipeline.bulkhead.waiting:
        time.sleep(0.001)
    with pytest.raises(BulkheadFullError):
        harness.call("a")
    change(harness)
    assert wire.entered.acquire(timeout=10)
    wire.hold.set()
    for thread, results in (first, second):
        thread.join(10)
        assert results == [["a", "m:a"]]
    assert harness.manager.metrics().plugins["a"].refused_bulkhead == 1
    change(harness, bulkhead={"max_concurrent": 1})
    assert harness.guarded("a").pipeline.bulkhead.limit == 1
    assert harness.call("a")


def test_cached_answers_stay_while_other_policies_change(harness: Harness) -> None:
    cached = {"cache": {"ttl": 60}, "retry": {"idempotent": True}}
    harness.load(a=cached)
    wire = harness.guarded("a").plugin
    harness.call("a")
    change(harness, **cached, bulkhead={"max_concurrent": 2})
    change(harness, **cached, circuit_breaker={"failure_threshold": 2})
    harness.call("a")
    assert len(wire.sent) == 1
    change(harness, cache={"ttl": 61, "max_entries": 5, "stale_if_error": 10}, retry={"idempotent": True})
    harness.call("a")
    assert len(wire.sent) == 1
    change(harness, cache={"ttl": 61, "vary_headers": ["X-Tenant"]}, retry={"idempotent": True})
    harness.call("a")
    assert len(wire.sent) == 2
    change(harness, retry={"idempotent": True})
    harness.call("a")
    harness.call("a")
    assert len(wire.sent) == 4
    assert harness.manager.metrics().plugins["a"].requests_total == 6


def test_a_fallback_value_of_another_type(harness: Harness) -> None:
    harness.load(a={"fallback": {"value": 1}, "retry": {"max_retries": 0}})

    def fail(call: Any) -> Any:
        raise PluginUnavailableError("no")

    harness.guarded("a").plugin.on_send = fail
    assert harness.call("a") == 1
    change(harness, fallback={"value": True}, retry={"max_retries": 0})
    assert harness.call("a") is True
    change(harness, retry={"max_retries": 0})
    with pytest.raises(PluginUnavailableError):
        harness.call("a")


def test_hedging_and_its_counts(harness: Harness) -> None:
    remote = {"transport": "unix", "endpoint": "/run/a"}  # calls within this process can't be hedged
    harness.load(a=remote)
    plugin = change(harness, **remote, hedge={"enabled": True, "delay": 0.01}, retry={"idempotent": True})
    slow = threading.Event()

    def answer(call: Any) -> Any:
        if not slow.is_set():
            slow.set()
            time.sleep(0.3)
        return "ok"

    plugin.plugin.on_send = answer
    assert harness.call("a") == "ok"
    assert harness.manager.metrics().plugins["a"].hedges_sent == 1
    change(harness, **remote, retry={"idempotent": True})
    assert plugin.pipeline.hedger is None
    assert harness.manager.metrics().plugins["a"].hedges_sent == 1


def test_chaos_around_the_same_sender(harness: Harness) -> None:
    harness.load(a={})
    wire = harness.guarded("a").plugin
    plugin = change(harness, chaos={"enabled": True, "refuse": 1.0}, retry={"max_retries": 0})
    assert isinstance(plugin.sender, ChaosSender)
    with pytest.raises(ConnectionError):
        harness.call("a")
    change(harness)
    assert plugin.sender is wire
    assert harness.call("a")


def test_a_breaker_keeps_its_state(harness: Harness) -> None:
    harness.load(
        a={"circuit_breaker": {"failure_threshold": 3, "min_request_threshold": 1}, "retry": {"max_retries": 0}}
    )
    plugin = harness.guarded("a")

    def fail(call: Any) -> Any:
        raise PluginUnavailableError("no")

    plugin.plugin.on_send = fail
    for _ in range(2):
        with pytest.raises(PluginUnavailableError):
            harness.call("a")
    change(harness, circuit_breaker={"failure_threshold": 3, "min_request_threshold": 1, "recovery_timeout": 5})
    with pytest.raises(PluginUnavailableError):
        harness.call("a", timeout=1)
    assert plugin.pipeline.breaker.state == "open"


def test_timeouts_and_retries(harness: Harness) -> None:
    harness.load(a={"retry": {"max_retries": 0}})
    wire = harness.guarded("a").plugin
    wire.on_send = lambda call: call.deadline.remaining()
    change(harness, connection={"request_timeout": 3}, retry={"max_retries": 2, "initial_interval": 0})
    assert 2 < harness.call("a") <= 3
    failures = [PluginTimeoutError("no", replay=Replay.ALWAYS)] * 2

    def fail(call: Any) -> Any:
        if failures:
            raise failures.pop()
        return "third time"

    wire.on_send = fail
    assert harness.call("a") == "third time"


def test_health_checks(harness: Harness) -> None:
    harness.load(a={})
    harness.call("a")
    checker = harness.guarded("a").checker
    change(harness, health_check={"enabled": False})
    assert harness.guarded("a").checker is checker
    assert not checker.is_running
    change(harness, health_check={"interval": 77})
    assert checker.is_running


def test_changes_of_connections_replace_the_plugin(harness: Harness) -> None:
    """Also if other settings change, which could change in place."""
    harness.load(a={})
    report = harness.reload(a={"connection": {"max_connections": 3, "request_timeout": 3}})
    assert report.replaced == ("a",)
