"""CircuitBreaker: overrides by an operator, configuration, transitions, forks."""

from __future__ import annotations

import pytest

from goplugins.config import CircuitBreakerConfig
from goplugins.errors import CircuitBreakerOpenError
from goplugins.models.results import CircuitBreakerStats
from goplugins.testing import ManualClock
from tests.unit.resilience.breakers import CLOSED, HALF_OPEN, OPEN, admits, half_open, make, make_narrow, trip


@pytest.fixture
def clock():
    return ManualClock(start=1000.0)


# --- operator --------------------------------------------------------------------------------------------------------


def test_reset_closes_and_clears(clock):
    breaker = make(clock)
    stale = half_open(breaker, clock)
    breaker.reset()
    assert breaker.stats() == CircuitBreakerStats(CLOSED, 0, 0, 0, 0.0)
    assert breaker.trips == 1
    stale.failure()
    breaker.acquire().failure()
    breaker.acquire().failure()
    assert breaker.state is CLOSED
    trip(breaker, 1)
    assert breaker.retry_after() == 30.0, "a first trip again"


def test_force_open_lasts_until_enable(clock):
    breaker = make(clock)
    breaker.force_open()
    clock.advance(10**6)
    with pytest.raises(CircuitBreakerOpenError, match="held open") as refusal:
        breaker.acquire()
    assert refusal.value.retry_after is None
    assert not breaker.allow_request()
    with pytest.raises(CircuitBreakerOpenError):
        breaker.check()
    breaker.enable()
    assert breaker.state is CLOSED
    assert admits(breaker)


def test_reset_ends_force_open(clock):
    breaker = make(clock)
    breaker.force_open()
    breaker.reset()
    assert admits(breaker)


def test_after_reset_or_enable_the_rules_apply_again(clock):
    for way in ("reset", "enable"):
        breaker = make_narrow(clock)
        breaker.force_open()
        getattr(breaker, way)()
        trip(breaker)
        assert breaker.trips == 1


@pytest.mark.parametrize("how", ["config", "disable()"])
def test_disabled_admits_all_and_still_counts(clock, how):
    breaker = make(clock, enabled=how != "config")
    if how == "disable()":
        trip(breaker)
        breaker.disable()
        breaker.reset()
    for _ in range(50):
        breaker.acquire().failure()
    assert breaker.state is CLOSED
    assert breaker.stats().failure_count == breaker.stats().request_count == 50
    breaker.enable()
    trip(breaker)


def test_metrics_only_records_and_never_refuses(clock):
    seen = []
    breaker = make(clock, metrics_only=True, on_transition=lambda old, new: seen.append((old, new)))
    trip(breaker)
    assert all(admits(breaker) for _ in range(10))
    clock.advance(30.0)
    held = [breaker.acquire() for _ in range(10)]
    assert breaker.state is HALF_OPEN
    held[0].success()
    held[9].success()
    assert breaker.state is CLOSED
    assert seen == [(CLOSED, OPEN), (OPEN, HALF_OPEN), (HALF_OPEN, CLOSED)]


# --- configure -------------------------------------------------------------------------------------------------------


def test_configure_keeps_the_state_and_applies_the_new_rules(clock):
    breaker = make(clock)
    trip(breaker)
    breaker.configure(CircuitBreakerConfig(failure_threshold=1, recovery_timeout=10.0, success_threshold=1))
    assert breaker.state is OPEN
    assert breaker.retry_after() == 10.0
    clock.advance(10.0)
    breaker.acquire().success()
    assert breaker.state is CLOSED
    breaker.configure(CircuitBreakerConfig(enabled=False))
    for _ in range(10):
        breaker.acquire().failure()
    assert breaker.state is CLOSED
    breaker.configure(CircuitBreakerConfig(failure_threshold=100, min_request_threshold=2, failure_rate=1.0))
    trip(breaker, 2)


def test_a_shorter_recovery_timeout_shortens_the_current_open_time(clock):
    breaker = make_narrow(clock, max_recovery_timeout=1e6)
    trip(breaker)
    clock.advance(30.0)
    breaker.acquire().failure()
    breaker.configure(CircuitBreakerConfig(recovery_timeout=10.0))
    assert breaker.retry_after() == 20.0
    breaker.configure(CircuitBreakerConfig(recovery_timeout=500.0))
    assert breaker.retry_after() == 20.0, "a longer one does not"


def test_configure_does_not_end_force_open(clock):
    breaker = make_narrow(clock)
    breaker.force_open()
    breaker.configure(CircuitBreakerConfig(enabled=False))
    assert breaker.state is OPEN
    breaker.enable()
    assert breaker.state is CLOSED


# --- transitions -----------------------------------------------------------------------------------------------------


def test_on_transition_is_called_outside_the_lock(clock):
    seen = []

    def listen(old, new):
        breaker.stats()  # takes the lock: would hang if it were held
        seen.append((old, new))

    breaker = make(clock, on_transition=listen)
    half_open(breaker, clock).failure()
    breaker.reset()
    breaker.reset()
    assert seen == [(CLOSED, OPEN), (OPEN, HALF_OPEN), (HALF_OPEN, OPEN), (OPEN, CLOSED)]


def test_on_transition_after_failures_of_a_shared_permit(clock):
    seen = []
    breaker = make_narrow(clock, on_transition=lambda old, new: seen.append((old, new)))
    breaker.enter().failure()
    breaker.enter().failure()
    assert seen == [(CLOSED, OPEN)]


def test_on_transition_after_recorded_outcomes(clock):
    seen = []
    breaker = make_narrow(clock, on_transition=lambda old, new: seen.append((old, new)))
    for _ in range(2):
        breaker.allow_request()
        breaker.record_failure()
    clock.advance(30.0)
    breaker.allow_request()
    breaker.record_success()
    assert seen == [(CLOSED, OPEN), (OPEN, HALF_OPEN), (HALF_OPEN, CLOSED)]


def test_on_transition_after_overrides(clock):
    seen = []
    breaker = make_narrow(clock, on_transition=lambda old, new: seen.append((old, new)))
    breaker.force_open()
    breaker.enable()
    trip(breaker)
    breaker.disable()
    assert seen == [(CLOSED, OPEN), (OPEN, CLOSED), (CLOSED, OPEN), (OPEN, CLOSED)]


def test_on_transition_after_a_configuration_that_disables(clock):
    seen = []
    breaker = make_narrow(clock, on_transition=lambda old, new: seen.append((old, new)))
    trip(breaker)
    breaker.configure(CircuitBreakerConfig(enabled=False))
    assert seen == [(CLOSED, OPEN), (OPEN, CLOSED)]


def test_an_exception_of_on_transition_is_logged(clock, caplog):
    def listen(old, new):
        raise RuntimeError("pager is down")

    breaker = make(clock, on_transition=listen)
    trip(breaker)
    assert "pager is down" in caplog.text


# --- forks -----------------------------------------------------------------------------------------------------------


def test_a_child_ignores_the_outcomes_of_its_parents_calls(clock):
    breaker = make(clock, success_threshold=1)
    probe = half_open(breaker, clock)
    breaker.after_fork_in_child()
    probe.failure()
    assert breaker.state is HALF_OPEN
    breaker.acquire().success()
    assert breaker.state is CLOSED


def test_a_child_ignores_permits_of_all_earlier_periods(clock):
    breaker = make_narrow(clock, success_threshold=2)
    old = [breaker.acquire() for _ in range(2)]
    breaker.reset()
    older = breaker.acquire()
    breaker.after_fork_in_child()
    for permit in (*old, older):
        permit.failure()
    assert breaker.stats().failure_count == 0
    trip(breaker)
    clock.advance(30.0)
    breaker.acquire().success()
    breaker.after_fork_in_child()
    breaker.acquire().success()
    assert breaker.state is HALF_OPEN, "a success of the parent's is not the child's"
    breaker.acquire().success()
    assert breaker.state is CLOSED
