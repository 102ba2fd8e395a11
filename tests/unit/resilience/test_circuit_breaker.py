"""CircuitBreaker: states, probes, allow_request and record."""

from __future__ import annotations

import contextlib
import threading

import pytest

from goplugins.config import CircuitBreakerConfig
from goplugins.errors import CircuitBreakerOpenError, InvalidConfigError
from goplugins.models.results import CircuitBreakerStats
from goplugins.resilience import CircuitBreaker
from goplugins.testing import ManualClock
from tests.unit.resilience.breakers import CLOSED, HALF_OPEN, OPEN, admits, half_open, make, make_narrow, trip


@pytest.fixture
def clock():
    return ManualClock(start=1000.0)


# --- closed ----------------------------------------------------------------------------------------------------------


def test_opens_at_the_failure_threshold_and_not_before(clock):
    breaker = make(clock)
    breaker.acquire().failure()
    breaker.acquire().failure()
    assert breaker.state is CLOSED
    breaker.acquire().failure()
    assert breaker.state is OPEN


def test_an_empty_configuration_has_the_production_defaults(clock):
    breaker = CircuitBreaker(CircuitBreakerConfig(), clock=clock)
    trip(breaker, 5)
    assert breaker.retry_after() == 30.0
    clock.advance(30.0)
    probes = [breaker.acquire(), breaker.acquire()]
    assert not admits(breaker)
    for probe in probes:
        probe.success()
    assert breaker.state is CLOSED


def test_known_fault_successes_never_reset_the_failure_count(clock):
    breaker = make(clock)
    for _ in range(10):
        breaker.acquire().failure()
        breaker.acquire().failure()
        breaker.acquire().success()
    assert breaker.state is CLOSED


def test_known_fault_min_request_threshold_did_nothing(clock):
    breaker = make(clock, failure_threshold=1, min_request_threshold=4)
    for _ in range(3):
        breaker.acquire().failure()
    assert breaker.state is CLOSED
    breaker.acquire().failure()
    assert breaker.state is OPEN


def test_min_request_threshold_counts_from_each_closing(clock):
    breaker = make(clock, failure_threshold=1, min_request_threshold=2, success_threshold=1)
    breaker.acquire().success()
    breaker.acquire().failure()
    assert breaker.state is OPEN
    clock.advance(30.0)
    breaker.acquire().success()
    assert breaker.state is CLOSED
    breaker.acquire().failure()
    assert breaker.state is CLOSED


def test_known_fault_cancellations_by_callers_opened_it(clock):
    breaker = make(clock)
    for _ in range(20):
        breaker.acquire().ignore()
    assert breaker.state is CLOSED
    assert breaker.stats().failure_count == 0


def test_an_ignored_outcome_does_not_end_a_row_of_failures(clock):
    breaker = make(clock)
    breaker.acquire().failure()
    breaker.acquire().failure()
    breaker.acquire().ignore()
    breaker.acquire().failure()
    assert breaker.state is OPEN


def test_a_closed_breaker_admits_at_once(clock):
    assert make_narrow(clock).retry_after() == 0.0


@pytest.mark.parametrize(
    "field", ["failure_threshold", "success_threshold", "min_request_threshold", "recovery_timeout"]
)
def test_thresholds_and_times_of_zero_are_refused(field):
    with pytest.raises(InvalidConfigError, match=field):
        CircuitBreaker(CircuitBreakerConfig(**{field: 0}))


# --- open ------------------------------------------------------------------------------------------------------------


def test_open_refuses_with_the_time_of_the_next_call(clock):
    breaker = make(clock)
    trip(breaker)
    clock.advance(12.0)
    with pytest.raises(CircuitBreakerOpenError, match=r"plugin 'auth': circuit breaker is open.*18\.000 s") as refusal:
        breaker.acquire()
    assert refusal.value.retry_after == 18.0
    with pytest.raises(CircuitBreakerOpenError) as peeked:
        breaker.check()
    assert peeked.value.retry_after == breaker.retry_after() == 18.0


def refusal_of(breaker, how="acquire"):
    with pytest.raises(CircuitBreakerOpenError) as caught:
        getattr(breaker, how)()
    return caught.value


@pytest.mark.parametrize("how", ["acquire", "check", "enter"])
def test_a_refusal_has_reason_plugin_and_time(clock, how):
    breaker = make_narrow(clock)
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


def test_a_breaker_without_a_name(clock):
    breaker = make_narrow(clock, name="")
    trip(breaker)
    assert refusal_of(breaker).plugin is None
    breaker.force_open()
    assert refusal_of(breaker).plugin is None


def test_the_state_is_open_until_the_next_request(clock):
    breaker = make(clock)
    trip(breaker)
    clock.advance(30.0)
    breaker.check()
    assert breaker.retry_after() == 0.0
    assert breaker.state is OPEN
    breaker.acquire()
    assert breaker.state is HALF_OPEN


def test_closing_ends_the_row_of_trips(clock):
    breaker = make(clock, success_threshold=1)
    half_open(breaker, clock).failure()
    clock.advance(breaker.retry_after())
    breaker.acquire().success()
    trip(breaker)
    assert breaker.retry_after() == 30.0


def test_a_successful_health_check_ends_the_open_time(clock):
    breaker = make(clock)
    trip(breaker)
    breaker.probe_succeeded()
    assert breaker.state is OPEN
    breaker.acquire()
    assert breaker.state is HALF_OPEN


@pytest.mark.parametrize("state", ["closed", "half-open", "forced"])
def test_a_health_check_changes_no_other_state(clock, state):
    breaker = make(clock)
    if state == "half-open":
        half_open(breaker, clock)
    elif state == "forced":
        breaker.force_open()
    before = breaker.state
    breaker.probe_succeeded()
    assert breaker.state is before
    assert admits(breaker) is (state != "forced")


def test_a_health_check_while_half_open_shortens_no_wait(clock):
    breaker = make_narrow(clock, success_threshold=1)
    trip(breaker)
    clock.advance(30.0)
    breaker.acquire().failure()
    wait = breaker.retry_after()
    clock.advance(wait)
    breaker.acquire(clock.monotonic() + 5.0)
    breaker.probe_succeeded()
    assert breaker.retry_after() == 5.0


# --- half-open -------------------------------------------------------------------------------------------------------


def test_half_open_admits_success_threshold_probes(clock):
    breaker = make(clock, success_threshold=3)
    probes = [half_open(breaker, clock), breaker.acquire(), breaker.acquire()]
    assert all(probe.is_probe for probe in probes)
    with pytest.raises(CircuitBreakerOpenError, match="half-open"):
        breaker.acquire()
    probes[0].success()
    assert admits(breaker)


def test_known_fault_one_failed_probe_did_not_reopen(clock):
    breaker = make(clock)
    half_open(breaker, clock).failure()
    assert breaker.state is OPEN
    assert breaker.trips == 2


def test_known_fault_two_failed_probes_wedged_it_for_ever(clock):
    breaker = make(clock)
    probe = half_open(breaker, clock)
    other = breaker.acquire()
    probe.failure()
    other.failure()
    clock.advance(breaker.retry_after())
    breaker.acquire().success()
    breaker.acquire().success()
    assert breaker.state is CLOSED


def test_an_ignored_probe_returns_its_slot(clock):
    breaker = make(clock, success_threshold=1)
    probe = half_open(breaker, clock)
    assert not admits(breaker)
    probe.ignore()
    assert breaker.state is HALF_OPEN
    assert admits(breaker)


def test_a_probe_that_never_ends_loses_its_slot_at_its_deadline(clock):
    breaker = make(clock, success_threshold=1)
    trip(breaker)
    clock.advance(30.0)
    breaker.acquire(expires_at=clock.monotonic() + 5.0)
    clock.advance(4.0)
    with pytest.raises(CircuitBreakerOpenError) as refusal:
        breaker.acquire()
    assert refusal.value.retry_after == 1.0
    clock.advance(1.0)
    breaker.acquire().success()
    assert breaker.state is CLOSED


def test_an_expired_probe_frees_one_slot(clock):
    breaker = make(clock, success_threshold=2)
    half_open(breaker, clock)
    breaker.acquire(expires_at=clock.monotonic() + 5.0)
    clock.advance(5.0)
    assert breaker.acquire(expires_at=clock.monotonic() + 5.0).is_probe
    for _ in range(3):
        assert not admits(breaker)


def test_a_probe_without_deadline_loses_its_slot_after_recovery_timeout(clock):
    breaker = make(clock, success_threshold=1)
    half_open(breaker, clock)
    clock.advance(29.9)
    assert not admits(breaker)
    clock.advance(0.1)
    assert admits(breaker)


def test_a_probe_admitted_by_enter_loses_its_slot_at_its_deadline(clock):
    breaker = make_narrow(clock)
    trip(breaker)
    clock.advance(30.0)
    breaker.enter(clock.monotonic() + 5.0)
    assert breaker.retry_after() == 5.0


def test_a_probe_that_ends_after_its_deadline_still_counts(clock):
    breaker = make(clock, success_threshold=1)
    trip(breaker)
    clock.advance(30.0)
    late = breaker.acquire(expires_at=clock.monotonic() + 5.0)
    clock.advance(5.001)
    breaker.acquire()
    late.failure()  # a timeout is always reported just after the deadline
    assert breaker.state is OPEN


def test_an_outcome_of_an_older_generation_is_ignored(clock):
    breaker = make(clock, success_threshold=1)
    stale = [breaker.acquire() for _ in range(3)]
    probe = half_open(breaker, clock)
    before = breaker.stats()
    stale[0].failure()
    stale[1].success()
    stale[2].ignore()
    assert breaker.stats() == before
    assert not admits(breaker), "the probe's slot is still taken"
    probe.success()
    assert breaker.state is CLOSED


@pytest.mark.parametrize("rounds", [100])
def test_known_fault_100_of_100_concurrent_probes_got_in(clock, rounds):
    # 64 threads at the very instant at which it may half-open; the probes are held until every thread has tried.
    threads, slots = 64, 5
    breaker = make(clock, failure_threshold=1, success_threshold=slots)
    start, end = threading.Barrier(threads + 1), threading.Barrier(threads + 1)
    admitted: list[object] = []

    def acquire():
        for _ in range(rounds):
            start.wait()
            with contextlib.suppress(CircuitBreakerOpenError):
                admitted.append(breaker.acquire())
            end.wait()

    workers = [threading.Thread(target=acquire, daemon=True) for _ in range(threads)]
    for worker in workers:
        worker.start()
    counts = []
    for _ in range(rounds):
        trip(breaker, 1)
        clock.advance(breaker.retry_after())
        start.wait()
        end.wait()
        counts.append(len(admitted))
        for probe in admitted:
            probe.success()
        admitted.clear()
        assert breaker.state is CLOSED
    for worker in workers:
        worker.join()
    assert counts == [slots] * rounds


# --- allow_request and record ----------------------------------------------------------------------------------------


def test_allow_request_and_record(clock):
    breaker = make(clock)
    for _ in range(3):
        assert breaker.allow_request()
        breaker.record_failure()
    assert breaker.state is OPEN
    assert not breaker.allow_request()
    clock.advance(30.0)
    assert [breaker.allow_request() for _ in range(3)] == [True, True, False]
    breaker.record_success()
    breaker.record_success()
    assert breaker.state is CLOSED
    assert breaker.stats() == CircuitBreakerStats(
        CLOSED, failure_count=3, success_count=2, request_count=5, last_failure=ManualClock(1000.0).time()
    )


def test_record_without_an_admitted_call_does_nothing(clock):
    breaker = make(clock, failure_threshold=1)
    breaker.record_failure()
    breaker.record_success()
    assert breaker.stats() == CircuitBreakerStats(CLOSED, 0, 0, 0, 0.0)


def test_record_settles_no_call_of_an_older_state(clock):
    breaker = make(clock, success_threshold=1)
    assert breaker.allow_request()
    half_open(breaker, clock)
    breaker.record_failure()  # of the call that was admitted while it was closed
    assert breaker.state is HALF_OPEN


def test_an_allowed_request_expires_after_recovery_timeout(clock):
    breaker = make(clock, success_threshold=1)
    trip(breaker)
    clock.advance(30.0)
    assert breaker.allow_request()
    clock.advance(29.0)
    assert not breaker.allow_request()
    clock.advance(1.0)
    breaker.record_failure()  # too late: not waited for any more
    assert breaker.state is HALF_OPEN
    assert breaker.allow_request()


def test_callers_that_never_record_cost_a_bounded_amount_of_memory(clock):
    breaker = make(clock)
    for _ in range(10_000):
        breaker.allow_request()
    recorded = 0
    while breaker.stats().success_count == recorded:
        breaker.record_success()
        recorded += 1
    assert recorded - 1 <= 4096


def test_concurrent_outcomes_are_all_counted(clock):
    breaker = make(clock, failure_threshold=10**9)

    def call():
        for number in range(2000):
            permit = breaker.acquire()
            permit.success() if number % 2 else permit.failure()

    workers = [threading.Thread(target=call) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    stats = breaker.stats()
    assert (stats.request_count, stats.success_count, stats.failure_count) == (16000, 8000, 8000)
