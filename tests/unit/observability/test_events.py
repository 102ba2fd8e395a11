"""The events of a manager: each occurrence once, with the right attributes."""

from __future__ import annotations

import time

import pytest

from goplugins import (
    AttemptFinished,
    BreakerChanged,
    CallFinished,
    CircuitBreakerConfig,
    CircuitBreakerOpenError,
    CircuitBreakerState,
    HealthChanged,
    Manager,
    PluginAdded,
    PluginConfig,
    PluginConnectionError,
    PluginRemoved,
    PluginRequestError,
    PluginStatus,
    ReloadFinished,
    RetryConfig,
    serve,
)
from goplugins.errors import ConfigError

CONFIG = {"plugins": [{"name": "echo", "transport": "python", "endpoint": f"{__name__}:echo"}]}
POLICIES = PluginConfig(
    name="flaky",
    retry=RetryConfig(max_retries=2, initial_interval=0.001),
    circuit_breaker=CircuitBreakerConfig(failure_threshold=4, min_request_threshold=1),
)


class Flaky:
    """Fails as often as ``failures`` says."""

    def __init__(self):
        self.failures = 0

    def info(self):
        raise NotImplementedError

    def health(self, timeout):
        raise RuntimeError("the disk is full")

    def close(self):
        pass

    def execute(self, request, context):
        if self.failures:
            self.failures -= 1
            raise PluginConnectionError("connection refused")
        if request == "mistake":
            raise PluginRequestError("not like that")
        if request == "stop":
            raise KeyboardInterrupt
        return request


@pytest.fixture
def plugin():
    return Flaky()


@pytest.fixture
def manager(plugin):
    with Manager() as manager:
        manager.load_from_config(CONFIG)
        manager.register(plugin, POLICIES)
        yield manager


@pytest.fixture
def events(manager):
    seen = []
    manager._lifecycle.events.attach(seen.append)
    return seen


def of(kind, events):
    return [event for event in events if isinstance(event, kind)]


def test_a_call_that_is_answered(manager, events):
    result = manager.execute_result("flaky", "hello")
    (call,), (attempt,) = of(CallFinished, events), of(AttemptFinished, events)
    assert (call.plugin, call.attempts, call.source, call.error, call.as_member) == ("flaky", 1, "plugin", None, False)
    assert call.request_id == attempt.request_id == result.request_id
    assert 0 < attempt.elapsed <= call.elapsed < 5.0
    assert (attempt.attempt, attempt.error) == (1, None)


def test_each_failed_attempt_and_then_the_call(manager, plugin, events):
    plugin.failures = 2
    manager.execute("flaky", "hello")
    assert [(attempt.attempt, type(attempt.error)) for attempt in of(AttemptFinished, events)] == [
        (1, PluginConnectionError),
        (2, PluginConnectionError),
        (3, type(None)),
    ]
    (call,) = of(CallFinished, events)
    assert (call.attempts, call.error) == (3, None)


def test_the_event_of_a_failed_call_has_its_error(manager, events):
    with pytest.raises(PluginRequestError) as raised:
        manager.execute("flaky", "mistake")
    (call,) = of(CallFinished, events)
    assert call.error is raised.value


def test_a_call_that_the_host_interrupts_has_an_event(manager, events):
    with pytest.raises(KeyboardInterrupt):
        manager.execute("flaky", "stop")
    (call,) = of(CallFinished, events)
    assert isinstance(call.error, KeyboardInterrupt)


def test_a_refusal_is_a_call_without_attempts(manager, plugin, events):
    plugin.failures = 4
    for _ in range(2):
        with pytest.raises(PluginConnectionError):
            manager.execute("flaky", "hello")
    (change,) = of(BreakerChanged, events)
    assert (change.old, change.new) == (CircuitBreakerState.CLOSED, CircuitBreakerState.OPEN)
    assert change.retry_after > 0
    before = len(of(AttemptFinished, events))
    with pytest.raises(CircuitBreakerOpenError):
        manager.execute("flaky", "hello")
    assert len(of(AttemptFinished, events)) == before
    call = of(CallFinished, events)[-1]
    assert (call.attempts, type(call.error)) == (0, CircuitBreakerOpenError)


def test_plugins_that_are_added_and_removed(manager, plugin, events):
    manager.register(plugin, name="other")
    manager.unregister("other")
    (added,), (removed,) = of(PluginAdded, events), of(PluginRemoved, events)
    assert (added.plugin, added.from_config, removed.plugin) == ("other", False, "other")


def test_successful_and_failed_reloads(manager, events):
    report = manager.reload_config(CONFIG)
    with pytest.raises(ConfigError) as raised:
        manager.reload_config({"plugins": []})
    good, bad = of(ReloadFinished, events)
    assert (good.report, good.error) == (report, None)
    assert (bad.report, bad.error) == (None, raised.value)


def test_a_change_of_health(manager, events):
    manager.health()  # its health() raises
    end = time.monotonic() + 10
    while not any(event.plugin == "flaky" for event in of(HealthChanged, events)) and time.monotonic() < end:
        time.sleep(0.005)  # the event follows the status
    (change,) = (event for event in of(HealthChanged, events) if event.plugin == "flaky")
    assert (change.plugin, change.old, change.new) == ("flaky", PluginStatus.UNKNOWN, PluginStatus.UNHEALTHY)
    assert "the disk is full" in change.message


def test_the_part_of_a_member_has_an_event_of_its_own():
    @serve.plugin(name="a")
    def answer(request: str) -> str:
        return request

    seen = []
    with Manager() as manager:
        manager.load_from_config(
            {
                "plugins": [{"name": "a", "transport": "python", "endpoint": f"{__name__}:echo"}],
                "load_balancers": [{"name": "group", "members": ["a"]}],
            }
        )
        manager._lifecycle.events.attach(seen.append)
        manager.execute("group", "hello")
    calls = of(CallFinished, seen)
    assert [(call.plugin, call.as_member) for call in calls] == [("a", True), ("group", False)]
    assert calls[1].member == "a"


@serve.plugin(name="echo")
def echo(request: str) -> str:
    return request


def test_shutdown_waits_until_subscribers_have_received_all_events():
    manager, seen = Manager(str, str), []
    manager.register(echo)
    subscription = manager.subscribe(seen.append, CallFinished)
    for number in range(100):
        manager.execute("echo", str(number))
    manager.shutdown()
    assert len(seen) == 100
    assert subscription.dropped == 0
