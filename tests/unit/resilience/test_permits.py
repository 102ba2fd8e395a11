"""Permits of a circuit breaker: settled once, as a context manager, and shared while the breaker is closed."""

from __future__ import annotations

import threading

import pytest

from goplugins.config import CircuitBreakerConfig
from goplugins.errors import (
    CircuitBreakerOpenError,
    PluginConnectionError,
    PluginExecutionError,
    PluginThrottledError,
)
from goplugins.testing import ManualClock
from tests.unit.resilience.breakers import CLOSED, HALF_OPEN, OPEN, admits, half_open, make, make_narrow, trip


@pytest.fixture
def clock():
    return ManualClock(start=1000.0)


# --- permits ---------------------------------------------------------------------------------------------------------


def test_a_permit_settles_once(clock):
    breaker = make(clock)
    permit = breaker.acquire()
    permit.success()
    for _ in range(5):
        permit.failure()
    assert breaker.state is CLOSED
    assert breaker.stats().success_count == 1


class SoftTimeLimitExceeded(Exception):  # noqa: N818 - its name over there
    __module__ = "celery.exceptions"


@pytest.mark.parametrize(
    ("error", "counts"),
    [
        (PluginConnectionError("refused"), "failure"),
        (ZeroDivisionError(), "failure"),
        (PluginExecutionError("no such user"), "success"),
        (PluginThrottledError("slow down"), "ignored"),
        (CircuitBreakerOpenError("another one's"), "ignored"),
        (KeyboardInterrupt(), "ignored"),
        (SystemExit(1), "ignored"),
        (GeneratorExit(), "ignored"),
        (SoftTimeLimitExceeded(), "ignored"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_block_settles_its_permit_by_the_exception(clock, error, counts):
    breaker = make(clock, success_threshold=1)
    probe = half_open(breaker, clock)
    before = breaker.stats()
    with pytest.raises(type(error)) as caught, probe:
        raise error
    assert caught.value is error
    assert breaker.state is {"failure": OPEN, "success": CLOSED, "ignored": HALF_OPEN}[counts]
    after = breaker.stats()
    assert after.failure_count - before.failure_count == (counts == "failure")
    assert after.success_count - before.success_count == (counts == "success")
    if counts == "ignored":
        assert admits(breaker), "the permit is back"


def test_a_block_measures_the_duration_of_the_call(clock):
    breaker = make(clock, window=100.0, slow_call_duration=1.0, slow_call_rate=1.0)
    with breaker.acquire():
        clock.advance(1.0)
    assert breaker.state is OPEN


def test_a_permit_settled_within_its_block_stays_settled(clock):
    breaker = make(clock, failure_threshold=1)
    with breaker.acquire() as permit:
        permit.failure()
    assert breaker.stats().success_count == 0
    assert breaker.state is OPEN


# --- shared permits --------------------------------------------------------------------------------------------------


def test_calls_share_one_permit_while_closed(clock):
    breaker = make(clock)
    assert breaker.enter() is breaker.enter()


def test_outcomes_of_an_ended_closed_period_are_ignored(clock):
    breaker = make(clock, failure_threshold=2, min_request_threshold=1, recovery_timeout=5.0)
    late = [breaker.enter() for _ in range(6)]
    late.pop().failure()
    late.pop().failure()
    assert breaker.state is OPEN
    before = breaker.stats()
    late.pop().success()
    late.pop().failure()
    assert breaker.stats() == before
    clock.advance(5.0)
    probe = breaker.enter()
    assert probe.is_probe
    late.pop().success()
    late.pop().failure()
    assert breaker.state is HALF_OPEN
    assert breaker.stats().success_count == before.success_count


def test_a_success_of_a_shared_permit_ends_a_row_of_failures(clock):
    breaker = make(clock, failure_threshold=3, min_request_threshold=1)
    for _ in range(4):
        breaker.enter().failure()
        breaker.enter().failure()
        breaker.enter().success()
    assert breaker.state is CLOSED
    stats = breaker.stats()
    assert (stats.request_count, stats.failure_count, stats.success_count) == (12, 8, 4)


def test_shared_permits_of_many_threads_are_all_counted(clock):
    breaker = make(clock, failure_threshold=10**9)

    def work():
        for number in range(2000):
            permit = breaker.enter()
            permit.failure() if number % 4 == 0 else permit.success()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats = breaker.stats()
    assert (stats.request_count, stats.failure_count, stats.success_count) == (16000, 4000, 12000)


def test_calls_share_one_permit_again_after_each_change(clock):
    breaker = make_narrow(clock, failure_rate=0.5)
    assert breaker.enter() is not breaker.enter(), "with a window each outcome is judged"
    breaker.configure(CircuitBreakerConfig(success_threshold=1))
    assert breaker.enter() is breaker.enter()
    trip(breaker)
    clock.advance(30.0)
    breaker.acquire().success()
    assert breaker.state is CLOSED
    assert breaker.enter() is breaker.enter()
    breaker.after_fork_in_child()
    assert breaker.enter() is breaker.enter()


@pytest.mark.parametrize("since", ["it was made", "a configuration", "a fork", "it closed again"])
def test_with_a_rate_rule_each_call_has_its_own_permit(clock, since):
    rules = {"failure_threshold": 100, "min_request_threshold": 4, "failure_rate": 0.5, "success_threshold": 1}
    breaker = make_narrow(clock) if since == "a configuration" else make_narrow(clock, **rules)
    if since == "a configuration":
        breaker.configure(CircuitBreakerConfig(**rules))
    elif since == "a fork":
        breaker.after_fork_in_child()
    elif since == "it closed again":
        breaker.force_open()
        breaker.enable()
    for succeeded in (True, True, False, False):
        assert breaker.state is CLOSED
        permit = breaker.enter()
        permit.success() if succeeded else permit.failure()
    assert breaker.state is OPEN
