"""What a breaker says, to whom, and what it remembers: the finer print of test_circuit_breaker.py."""

from __future__ import annotations

import random

import pytest

from goplugins.config import CircuitBreakerConfig
from goplugins.enums import CircuitBreakerState
from goplugins.errors import CircuitBreakerOpenError
from goplugins.resilience import CircuitBreaker
from goplugins.testing import ManualClock

CLOSED, OPEN, HALF_OPEN = CircuitBreakerState.CLOSED, CircuitBreakerState.OPEN, CircuitBreakerState.HALF_OPEN


class NoJitter(random.Random):
    def random(self):
        return 1.0


@pytest.fixture
def clock():
    return ManualClock(start=1000.0)


@pytest.fixture
def heard():
    return []


@pytest.fixture
def make(clock, heard):
    def build(name="auth", **fields):
        defaults = {
            "failure_threshold": 2,
            "recovery_timeout": 30.0,
            "min_request_threshold": 1,
            "success_threshold": 1,
        }
        return CircuitBreaker(
            CircuitBreakerConfig(**(defaults | fields)),
            clock=clock,
            rng=NoJitter(),
            name=name,
            on_transition=lambda old, new: heard.append((old, new)),
        )

    return build


def trip(breaker):
    while breaker.state is not OPEN:
        breaker.acquire().failure()


# --- who hears of a change --------------------------------------------------------------------------------------


def test_listeners_hear_of_outcomes_that_came_without_a_permit_of_their_own(make, heard):
    breaker = make()
    breaker.enter().failure()
    breaker.enter().failure()
    assert heard == [(CLOSED, OPEN)]


def test_listeners_hear_of_recorded_outcomes(make, heard, clock):
    breaker = make()
    for _ in range(2):
        breaker.allow_request()
        breaker.record_failure()
    clock.advance(30.0)
    breaker.allow_request()
    breaker.record_success()
    assert heard == [(CLOSED, OPEN), (OPEN, HALF_OPEN), (HALF_OPEN, CLOSED)]


def test_listeners_hear_of_overrides(make, heard):
    breaker = make()
    breaker.force_open()
    breaker.enable()
    trip(breaker)
    breaker.disable()
    assert heard == [(CLOSED, OPEN), (OPEN, CLOSED), (CLOSED, OPEN), (OPEN, CLOSED)]


def test_listeners_hear_of_a_configuration_that_switches_it_off(make, heard):
    breaker = make()
    trip(breaker)
    breaker.configure(CircuitBreakerConfig(enabled=False))
    assert heard == [(CLOSED, OPEN), (OPEN, CLOSED)]


# --- what a refusal says ------------------------------------------------------------------------------------------


def refusal_of(breaker, how="acquire"):
    with pytest.raises(CircuitBreakerOpenError) as caught:
        getattr(breaker, how)()
    return caught.value


@pytest.mark.parametrize("how", ["acquire", "check", "enter"])
def test_each_refusal_says_why_and_whose_breaker_it_is(make, clock, how):
    breaker = make()
    trip(breaker)
    clock.advance(29.5)
    refusal = refusal_of(breaker, how)
    assert refusal.message == "circuit breaker is open, next call admitted in 0.500 s"
    assert (refusal.plugin, refusal.retry_after) == ("auth", 0.5)
    clock.advance(0.5)
    breaker.acquire(clock.monotonic() + 0.25)
    refusal = refusal_of(breaker, how)
    assert (
        refusal.message
        == "circuit breaker is half-open and all its probes are in flight, next call admitted in 0.250 s"
    )
    assert (refusal.plugin, refusal.retry_after) == ("auth", 0.25)
    breaker.force_open()
    refusal = refusal_of(breaker, how)
    assert refusal.message == "circuit breaker is held open by force_open()"
    assert (refusal.plugin, refusal.retry_after) == ("auth", None)


def test_a_breaker_without_a_name_names_none(make):
    breaker = make(name="")
    trip(breaker)
    assert refusal_of(breaker).plugin is None
    breaker.force_open()
    assert refusal_of(breaker).plugin is None


def test_a_closed_breaker_admits_now(make):
    assert make().retry_after() == 0.0


# --- what it goes by ----------------------------------------------------------------------------------------------


def test_a_probe_that_entered_gives_up_its_place_at_its_own_deadline(make, clock):
    breaker = make()
    trip(breaker)
    clock.advance(30.0)
    breaker.enter(clock.monotonic() + 5.0)
    assert breaker.retry_after() == 5.0


def test_after_reset_or_enable_the_rules_hold_again(make):
    for way in ("reset", "enable"):
        breaker = make()
        breaker.force_open()
        getattr(breaker, way)()
        trip(breaker)
        assert breaker.trips == 1


def test_open_time_doubles_at_each_trip_in_a_row(make, clock):
    breaker = make(max_recovery_timeout=1e6)
    trip(breaker)
    times = []
    for _ in range(6):
        times.append(breaker.retry_after())
        clock.advance(times[-1])
        breaker.acquire().failure()
    assert times == [30.0, 60.0, 120.0, 240.0, 480.0, 960.0]


def test_a_shorter_recovery_time_holds_for_the_repeated_trip_under_way(make, clock):
    breaker = make(max_recovery_timeout=1e6)
    trip(breaker)
    clock.advance(30.0)
    breaker.acquire().failure()
    breaker.configure(CircuitBreakerConfig(recovery_timeout=10.0))
    assert breaker.retry_after() == 20.0
    breaker.configure(CircuitBreakerConfig(recovery_timeout=500.0))
    assert breaker.retry_after() == 20.0, "a longer one does not"


def test_a_new_configuration_leaves_a_breaker_that_is_held_open_alone(make, clock):
    breaker = make()
    breaker.force_open()
    breaker.configure(CircuitBreakerConfig(enabled=False))
    assert breaker.state is OPEN
    breaker.enable()
    assert breaker.state is CLOSED


def test_a_health_probe_while_half_open_or_forced_shortens_nothing(make, clock):
    breaker = make(success_threshold=1)
    trip(breaker)
    clock.advance(30.0)
    breaker.acquire().failure()
    wait = breaker.retry_after()
    clock.advance(wait)
    breaker.acquire(clock.monotonic() + 5.0)
    breaker.probe_succeeded()
    assert breaker.retry_after() == 5.0


# --- slow calls -----------------------------------------------------------------------------------------------------


def slow_rule(make, **fields):
    return make(
        failure_threshold=100,
        min_request_threshold=4,
        window=100.0,
        slow_call_duration=1.0,
        slow_call_rate=0.5,
        **fields,
    )


def test_quick_calls_and_one_slow_one_of_four_open_nothing(make):
    breaker = slow_rule(make)
    for seconds in (0.1, 0.2, 0.3, 2.0, 0.1, 0.1):
        breaker.acquire().success(seconds)
    assert breaker.state is CLOSED


def test_slow_failures_count_as_slow(make):
    breaker = slow_rule(make)
    for _ in range(4):
        breaker.acquire().failure(2.0)
    assert breaker.state is OPEN


def test_a_quick_block_is_not_slow(make, clock):
    breaker = slow_rule(make)
    for _ in range(8):
        with breaker.acquire():
            clock.advance(0.5)
    assert breaker.state is CLOSED


def test_outcomes_without_a_duration_are_not_slow(make):
    breaker = slow_rule(make)
    for _ in range(8):
        breaker.acquire().success()
    assert breaker.state is CLOSED


# --- the cheap way --------------------------------------------------------------------------------------------------


def test_calls_share_one_permit_again_after_each_change(make, clock):
    breaker = make(failure_rate=0.5)
    assert breaker.enter() is not breaker.enter(), "with a window each outcome is looked at"
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
def test_with_a_rate_rule_calls_that_enter_the_cheap_way_are_looked_at_too(make, clock, since):
    rules = {"failure_threshold": 100, "min_request_threshold": 4, "failure_rate": 0.5, "success_threshold": 1}
    breaker = make() if since == "a configuration" else make(**rules)
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


def test_a_configuration_with_the_same_rules_keeps_what_was_counted(make, clock):
    breaker = make(failure_threshold=100, min_request_threshold=4, window=100.0, failure_rate=0.5)
    for _ in range(3):
        breaker.acquire().failure()
    breaker.configure(
        CircuitBreakerConfig(failure_threshold=100, min_request_threshold=4, window=100.0, failure_rate=0.75)
    )
    breaker.acquire().failure()
    assert breaker.state is OPEN


def test_another_width_of_the_window_begins_anew(make):
    breaker = make(failure_threshold=100, min_request_threshold=4, window=100.0, failure_rate=0.5)
    for _ in range(3):
        breaker.acquire().failure()
    breaker.configure(
        CircuitBreakerConfig(failure_threshold=100, min_request_threshold=4, window=50.0, failure_rate=0.5)
    )
    breaker.acquire().failure()
    assert breaker.state is CLOSED


def test_after_a_fork_no_permit_of_any_earlier_time_counts(make, clock):
    breaker = make(success_threshold=2)
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
