"""Layers around the attempts of a registered plugin: bulkhead, cache, fallback and hedging, by its configuration."""

from __future__ import annotations

import threading
import time

import pytest

from goplugins import Manager, PluginConfig, PluginInfo, serve
from goplugins.errors import (
    BulkheadFullError,
    CircuitBreakerOpenError,
    ConfigError,
    PluginConnectionError,
    PluginExecutionError,
)
from goplugins.models.results import HealthStatus


class Service:
    """A plugin that answers or raises what the test sets, and counts its calls."""

    def __init__(self, name="p"):
        self.name = name
        self.calls = 0
        self.error = None
        self.gate = None

    def info(self):
        return PluginInfo(self.name)

    def execute(self, request, context):
        self.calls += 1
        if self.gate is not None:
            assert self.gate.wait(10)
        if self.error is not None:
            raise self.error
        return f"{self.name}:{request}"

    def health(self, timeout):
        return HealthStatus()

    def close(self):
        pass


@pytest.fixture
def manager():
    with Manager() as manager:
        yield manager


def add(manager, service, **sections):
    sections = {"health_check": {"enabled": False}, "retry": {"max_retries": 0}, **sections}
    manager.register(service, PluginConfig.from_mapping({"name": service.name, **sections}))
    return service


def test_a_bulkhead_admits_its_limit_and_refuses_further_calls_before_they_are_sent(manager):
    service = add(manager, Service(), bulkhead={"max_concurrent": 2})
    service.gate = threading.Event()
    futures = [manager.submit("p", number) for number in range(2)]
    while service.calls < 2:
        time.sleep(0.001)
    with pytest.raises(BulkheadFullError) as caught:
        manager.execute("p", 9)
    assert (caught.value.attempts, caught.value.plugin) == (0, "p")
    assert "takes no calls: its bulkhead is full" in str(manager.explain("p"))
    service.gate.set()
    assert [future.result(5) for future in futures] == ["p:0", "p:1"]
    assert manager.execute("p", 3) == "p:3"
    metrics = manager.metrics().plugins["p"]
    assert (metrics.refused_bulkhead, metrics.requests_failure, metrics.circuit_breaker_trips) == (1, 1, 0)


def test_a_call_that_may_wait_gets_a_slot(manager):
    service = add(manager, Service(), bulkhead={"max_concurrent": 1, "max_waiting": 1})
    service.gate = threading.Event()
    futures = [manager.submit("p", number) for number in range(2)]
    while service.calls < 1:
        time.sleep(0.001)
    time.sleep(0.02)
    assert service.calls == 1
    service.gate.set()
    assert sorted(future.result(5) for future in futures) == ["p:0", "p:1"]


def test_closing_ends_the_wait_for_a_slot(manager):
    service = add(manager, Service(), bulkhead={"max_concurrent": 1, "max_waiting": 5})
    service.gate = threading.Event()
    first = manager.submit("p", 0, timeout=20)
    while service.calls < 1:
        time.sleep(0.001)
    waiting = manager.submit("p", 1, timeout=20)
    time.sleep(0.05)
    closing = threading.Thread(target=manager.unregister, args=("p",))
    started = time.monotonic()
    closing.start()
    assert waiting.exception(5) is not None
    assert time.monotonic() - started < 1
    service.gate.set()
    assert first.result(5) == "p:0"
    closing.join(5)


def test_a_cached_response_makes_no_attempt_and_is_marked(manager):
    @serve.plugin(name="p")
    def shout(request: str) -> str:
        calls.append(request)
        return request.upper()

    calls: list[str] = []
    manager.register(shout, PluginConfig.from_mapping({"name": "p", "cache": {"ttl": "1m"}}))
    sources = [manager.execute_result("p", "a", idempotent=True).source for _ in range(3)]
    assert sources == ["plugin", "cache", "cache"]
    assert manager.execute_result("p", "a").source == "plugin"  # not idempotent
    assert calls == ["a", "a"]
    assert manager.metrics().plugins["p"].cache_hits == 2


def test_with_the_plugin_down_expired_entries_answer_and_then_the_fallback(manager, caplog):
    service = add(
        manager,
        Service(),
        retry={"max_retries": 0, "idempotent": True},
        cache={"ttl": 0.01, "stale_if_error": 60},
        fallback={"plugin": "q"},
        circuit_breaker={"failure_threshold": 1, "min_request_threshold": 1},
    )
    other = add(manager, Service("q"))
    assert manager.execute("p", 1) == "p:1"
    time.sleep(0.02)
    service.error = PluginConnectionError("down")
    stale, fallen = manager.execute_result("p", 1), manager.execute_result("p", 2)
    assert (stale.value, stale.source) == ("p:1", "stale")
    assert (fallen.value, fallen.source) == ("q:2", "fallback")
    # The breaker is open by now: it makes no difference.
    assert service.calls == 2
    assert manager.execute_result("p", 3).source == "fallback"
    assert (service.calls, other.calls) == (2, 2)
    metrics = manager.metrics().plugins["p"]
    assert (metrics.stale_answers, metrics.fallback_answers) == (1, 2)
    assert "down" in manager.explain("p").last_error
    assert "answers instead" in caplog.text


def test_errors_of_the_caller_are_not_replaced(manager):
    service = add(manager, Service(), fallback={"value": "sorry"}, cache={"ttl": 1, "stale_if_error": 60})
    service.error = PluginExecutionError("no such user")
    with pytest.raises(PluginExecutionError):
        manager.execute("p", 1, idempotent=True)
    service.error = PluginConnectionError("down")
    assert manager.execute("p", 1) == "sorry"


def test_without_a_fallback_the_caller_gets_the_error_of_the_open_breaker(manager):
    service = add(manager, Service(), circuit_breaker={"failure_threshold": 1, "min_request_threshold": 1})
    service.error = PluginConnectionError("down")
    for kind in (PluginConnectionError, CircuitBreakerOpenError):
        with pytest.raises(kind):
            manager.execute("p", 1)


def test_a_fallback_may_be_a_plugin_with_a_fallback_but_a_cycle_ends(manager):
    for name, further in (("p", "q"), ("q", "r"), ("r", "p")):
        add(manager, Service(name), fallback={"plugin": further}).error = PluginConnectionError(f"{name} down")
    with pytest.raises(PluginConnectionError, match="p down") as caught:
        manager.execute("p", 1)
    assert "failed, too" in caught.value.details["fallback"]


def test_hedging_is_refused_where_attempts_can_not_be_cancelled(manager):
    config = PluginConfig.from_mapping({"name": "p", "transport": "python", "hedge": {"enabled": True}})
    with pytest.raises(ConfigError, match="hedge"):
        manager.register(Service(), config)


def test_a_call_that_waits_for_a_slot_when_the_plugin_is_replaced_is_made_by_the_successor(manager):
    first = add(manager, Service(), bulkhead={"max_concurrent": 1, "max_waiting": 5})
    first.gate = threading.Event()
    inside = manager.submit("p", 0, timeout=20)
    while first.calls < 1:
        time.sleep(0.001)
    errors, answers = [], []

    def wait():
        try:
            answers.append(manager.execute("p", 1, timeout=20))
        except Exception as error:
            errors.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    old = manager._registry.get("p")
    while old.pipeline.bulkhead.waiting < 1:
        time.sleep(0.001)
    successor = Service()
    config = old.config
    new = manager._lifecycle.builder.guard(successor, config, from_config=True)
    old.from_config = True
    manager._registry.replace([new])
    old.reject_calls("it was replaced")
    waiting.join(5)
    first.gate.set()
    assert inside.result(5) == "p:0"
    assert (answers, errors, successor.calls) == (["p:1"], [], 1)
    old.drain_and_close(5)


def test_a_members_bulkhead_limits_the_calls_of_a_group_and_a_full_one_is_skipped(manager):
    members = [add(manager, Service(name), bulkhead={"max_concurrent": 1}) for name in ("a", "b")]
    manager.load_from_config({"load_balancers": [{"name": "g", "members": ["a", "b"]}]})
    members[0].gate = threading.Event()
    stuck = manager.submit("a", 0, timeout=20)
    while members[0].calls < 1:
        time.sleep(0.001)
    assert [manager.execute("g", number) for number in range(4)] == [f"b:{number}" for number in range(4)]
    members[0].gate.set()
    assert stuck.result(5) == "a:0"


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"cache": {"ttl": 1}}, "cache only for calls made with idempotent=True"),
        ({"cache": {"ttl": 1}, "retry": {"idempotent": True}}, ""),
        ({}, ""),
    ],
)
def test_a_cache_that_no_call_may_use_by_default_is_warned_about(manager, caplog, sections, said):
    add(manager, Service(), **sections)
    assert said in caplog.text
    assert bool(said) == bool(caplog.records)
