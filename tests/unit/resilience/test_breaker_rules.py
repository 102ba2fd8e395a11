"""Rules of a circuit breaker: rates over a window, slow calls, open times."""

from __future__ import annotations

import random

import pytest

from goplugins.config import CircuitBreakerConfig
from goplugins.testing import ManualClock
from tests.unit.resilience.breakers import CLOSED, OPEN, make, make_narrow, trip


@pytest.fixture
def clock():
    return ManualClock(start=1000.0)


# --- rates -----------------------------------------------------------------------------------------------------------


def test_failure_rate_opens_without_a_row_of_failures(clock):
    breaker = make(clock, failure_threshold=100, min_request_threshold=10, window=10.0, failure_rate=0.5)
    for _ in range(4):
        breaker.acquire().success()
        breaker.acquire().failure()
    assert breaker.state is CLOSED  # 8 calls are too few
    breaker.acquire().success()
    assert breaker.state is CLOSED
    breaker.acquire().failure()
    assert breaker.state is OPEN


def test_failures_older_than_the_window_are_not_counted(clock):
    breaker = make(clock, failure_threshold=100, min_request_threshold=4, window=10.0, failure_rate=0.5)
    for _ in range(3):
        breaker.acquire().failure()
    clock.advance(10.0)
    for _ in range(3):
        breaker.acquire().success()
    breaker.acquire().failure()
    assert breaker.state is CLOSED


def test_a_rate_is_exact(clock):
    breaker = make(clock, failure_threshold=1000, min_request_threshold=100, window=10.0, failure_rate=0.07)
    for _ in range(93):
        breaker.acquire().success()
    for _ in range(7):
        breaker.acquire().failure()
    assert breaker.state is OPEN


def test_the_window_is_empty_after_closing(clock):
    breaker = make(
        clock, failure_threshold=100, min_request_threshold=4, window=1000.0, failure_rate=0.5, success_threshold=1
    )
    trip(breaker, 4)
    clock.advance(30.0)
    breaker.acquire().success()
    for _ in range(3):
        breaker.acquire().failure()
    assert breaker.state is CLOSED


def test_a_configuration_with_the_same_window_keeps_its_counts(clock):
    breaker = make_narrow(clock, failure_threshold=100, min_request_threshold=4, window=100.0, failure_rate=0.5)
    for _ in range(3):
        breaker.acquire().failure()
    breaker.configure(
        CircuitBreakerConfig(failure_threshold=100, min_request_threshold=4, window=100.0, failure_rate=0.75)
    )
    breaker.acquire().failure()
    assert breaker.state is OPEN


def test_a_configuration_with_another_window_starts_empty(clock):
    breaker = make_narrow(clock, failure_threshold=100, min_request_threshold=4, window=100.0, failure_rate=0.5)
    for _ in range(3):
        breaker.acquire().failure()
    breaker.configure(
        CircuitBreakerConfig(failure_threshold=100, min_request_threshold=4, window=50.0, failure_rate=0.5)
    )
    breaker.acquire().failure()
    assert breaker.state is CLOSED


# --- slow calls ------------------------------------------------------------------------------------------------------


def test_slow_successes_open_by_slow_call_rate(clock):
    breaker = make(clock, min_request_threshold=4, window=10.0, slow_call_duration=1.0, slow_call_rate=0.5)
    breaker.acquire().success(0.2)
    breaker.acquire().success(0.2)
    breaker.acquire().success(1.5)
    assert breaker.state is CLOSED
    breaker.acquire().success(1.0)
    assert breaker.state is OPEN


def test_slow_calls_are_successes_without_the_rule(clock):
    breaker = make(clock, slow_call_duration=1.0)
    for _ in range(20):
        breaker.acquire().success(60.0)
    assert breaker.state is CLOSED


def slow_rule(clock, **fields):
    return make(
        clock,
        failure_threshold=100,
        min_request_threshold=4,
        window=100.0,
        slow_call_duration=1.0,
        slow_call_rate=0.5,
        **fields,
    )


def test_one_slow_call_of_four_does_not_open(clock):
    breaker = slow_rule(clock)
    for seconds in (0.1, 0.2, 0.3, 2.0, 0.1, 0.1):
        breaker.acquire().success(seconds)
    assert breaker.state is CLOSED


def test_slow_failures_count_as_slow(clock):
    breaker = slow_rule(clock)
    for _ in range(4):
        breaker.acquire().failure(2.0)
    assert breaker.state is OPEN


def test_a_short_block_is_not_slow(clock):
    breaker = slow_rule(clock)
    for _ in range(8):
        with breaker.acquire():
            clock.advance(0.5)
    assert breaker.state is CLOSED


def test_outcomes_without_a_duration_are_not_slow(clock):
    breaker = slow_rule(clock)
    for _ in range(8):
        breaker.acquire().success()
    assert breaker.state is CLOSED


# --- open time -------------------------------------------------------------------------------------------------------


def test_open_time_doubles_at_each_trip_in_a_row(clock):
    breaker = make_narrow(clock, max_recovery_timeout=1e6)
    trip(breaker)
    times = []
    for _ in range(6):
        times.append(breaker.retry_after())
        clock.advance(times[-1])
        breaker.acquire().failure()
    assert times == [30.0, 60.0, 120.0, 240.0, 480.0, 960.0]


def test_repeated_open_times_are_jittered_and_capped(clock):
    breaker = make(clock, rng=random.Random(7), max_recovery_timeout=100.0)
    trip(breaker)
    times = []
    for _ in range(5):
        times.append(breaker.retry_after())
        clock.advance(times[-1])
        breaker.acquire().failure()
    assert times[0] == 30.0
    assert 54.0 <= times[1] <= 60.0
    assert all(90.0 <= time <= 100.0 for time in times[2:])
    assert len(set(times[2:])) == 3, "repeated trips are jittered"


def test_open_time_stays_finite_after_thousands_of_trips(clock):
    breaker = make(clock)
    trip(breaker)
    for _ in range(2000):
        clock.advance(breaker.retry_after())
        breaker.acquire().failure()
    assert 8 * 30.0 * 0.9 <= breaker.retry_after() <= 8 * 30.0
