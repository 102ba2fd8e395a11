from __future__ import annotations

import contextlib
import random
import threading

import pytest

from goplugins.config.plugin_sections import CircuitBreakerConfig
from goplugins.enums import CircuitBreakerState
from goplugins.errors import (
    CircuitBreakerOpenError,
    InvalidConfigError,
    PluginConnectionError,
    PluginExecutionError,
    PluginThrottledError,
)
from goplugins.models.results import CircuitBreakerStats
from goplugins.resilience import CircuitBreaker
from goplugins.testing import ManualClock

CLOSED, OPEN, HALF_OPEN = CircuitBreakerState.CLOSED, CircuitBreakerState.OPEN, CircuitBreakerState.HALF_OPEN


@pytest.fixture
def clock():
    return ManualClock(start=1000.0)


def make(clock, **fields):
    on_transition = fields.pop("on_transition", None)
    defaults = {"failure_threshold": 3, "recovery_timeout": 30.0, "min_request_threshold": 1, "success_threshold": 2}
    return CircuitBreaker(
        CircuitBreakerConfig(**(defaults | fields)),
        clock=clock,
        rng=random.Random(7),
        name="auth",
        on_transition=on_transition,
    )


def trip(breaker, failures=3):
    for _ in range(failures):
        breaker.acquire().failure()
    assert breaker.state is OPEN


def half_open(breaker, clock):
    trip(breaker)
    clock.advance(30.0)
    probe = breaker.acquire()
    assert breaker.state is HALF_OPEN
    return probe


def admits(breaker):
    try:
        breaker.acquire().ignore()
    except CircuitBreakerOpenError:
        return False
    return True


# --- closed -----------------------------------------------------------------------------------------------------


def test_opens_at_the_failure_threshold_and_not_before(clock):
    breaker = make(clock)
    breaker.acquire().failure()
    breaker.acquire().failure()
    assert breaker.state is CLOSED
    breaker.acquire().failure()
    assert breaker.state is OPEN


def test_a_config_of_nothing_has_the_production_defaults(clock):
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


def test_min_request_threshold_counts_anew_after_each_closing(clock):
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


def test_an_ignored_outcome_does_not_interrupt_a_row_of_failures(clock):
    breaker = make(clock)
    breaker.acquire().failure()
    breaker.acquire().failure()
    breaker.acquire().ignore()
    breaker.acquire().failure()
    assert breaker.state is OPEN


# --- windowed rules ---------------------------------------------------------------------------------------------


def test_failure_rate_opens_it_without_a_row_of_failures(clock):
    breaker = make(clock, failure_threshold=100, min_request_threshold=10, window=10.0, failure_rate=0.5)
    for _ in range(4):
        breaker.acquire().success()
        breaker.acquire().failure()
    assert breaker.state is CLOSED  # 8 calls are too few
    breaker.acquire().success()
    assert breaker.state is CLOSED
    breaker.acquire().failure()
    assert breaker.state is OPEN


def test_failure_rate_forgets_what_is_older_than_the_window(clock):
    breaker = make(clock, failure_threshold=100, min_request_threshold=4, window=10.0, failure_rate=0.5)
    for _ in range(3):
        breaker.acquire().failure()
    clock.advance(10.0)
    for _ in range(3):
        breaker.acquire().success()
    breaker.acquire().failure()
    assert breaker.state is CLOSED


def test_a_rate_that_floats_write_awkwardly_is_met_exactly(clock):
    breaker = make(clock, failure_threshold=1000, min_request_threshold=100, window=10.0, failure_rate=0.07)
    for _ in range(93):
        breaker.acquire().success()
    for _ in range(7):
        breaker.acquire().failure()
    assert breaker.state is OPEN


def test_slow_successes_open_it_by_slow_call_rate(clock):
    breaker = make(clock, min_request_threshold=4, window=10.0, slow_call_duration=1.0, slow_call_rate=0.5)
    breaker.acquire().success(0.2)
    breaker.acquire().success(0.2)
    breaker.acquire().success(1.5)
    assert breaker.state is CLOSED
    breaker.acquire().success(1.0)
    assert breaker.state is OPEN


def test_slow_calls_are_no_matter_without_the_rule(clock):
    breaker = make(clock, slow_call_duration=1.0)
    for _ in range(20):
        breaker.acquire().success(60.0)
    assert breaker.state is CLOSED


def test_the_window_starts_empty_after_closing(clock):
    breaker = make(
        clock, failure_threshold=100, min_request_threshold=4, window=1000.0, failure_rate=0.5, success_threshold=1
    )
    trip(breaker, 4)
    clock.advance(30.0)
    breaker.acquire().success()
    for _ in range(3):
        breaker.acquire().failure()
    assert breaker.state is CLOSED


# --- open -------------------------------------------------------------------------------------------------------


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


def test_state_reads_open_until_a_request_comes(clock):
    breaker = make(clock)
    trip(breaker)
    clock.advance(30.0)
    breaker.check()
    assert breaker.retry_after() == 0.0
    assert breaker.state is OPEN
    breaker.acquire()
    assert breaker.state is HALF_OPEN


def test_open_time_doubles_per_trip_in_a_row_up_to_the_maximum(clock):
    breaker = make(clock, max_recovery_timeout=100.0)
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


def test_closing_ends_the_row_of_trips(clock):
    breaker = make(clock, success_threshold=1)
    half_open(breaker, clock).failure()
    clock.advance(breaker.retry_after())
    breaker.acquire().success()
    trip(breaker)
    assert breaker.retry_after() == 30.0


def test_a_successful_health_probe_ends_the_open_time(clock):
    breaker = make(clock)
    trip(breaker)
    breaker.probe_succeeded()
    assert breaker.state is OPEN
    breaker.acquire()
    assert breaker.state is HALF_OPEN


@pytest.mark.parametrize("state", ["closed", "half-open", "forced"])
def test_a_health_probe_changes_no_other_state(clock, state):
    breaker = make(clock)
    if state == "half-open":
        half_open(breaker, clock)
    elif state == "forced":
        breaker.force_open()
    before = breaker.state
    breaker.probe_succeeded()
    assert breaker.state is before
    assert admits(breaker) is (state != "forced")


# --- half-open --------------------------------------------------------------------------------------------------


def test_half_open_lets_success_threshold_probes_in_flight(clock):
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


def test_an_ignored_probe_gives_its_place_back(clock):
    breaker = make(clock, success_threshold=1)
    probe = half_open(breaker, clock)
    assert not admits(breaker)
    probe.ignore()
    assert breaker.state is HALF_OPEN
    assert admits(breaker)


def test_a_probe_that_never_ends_frees_its_place_at_its_deadline(clock):
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


def test_an_expired_probe_makes_way_for_one_call_and_no_more(clock):
    breaker = make(clock, success_threshold=2)
    half_open(breaker, clock)
    breaker.acquire(expires_at=clock.monotonic() + 5.0)
    clock.advance(5.0)
    assert breaker.acquire(expires_at=clock.monotonic() + 5.0).is_probe
    for _ in range(3):
        assert not admits(breaker)


def test_a_probe_without_deadline_frees_its_place_after_recovery_timeout(clock):
    breaker = make(clock, success_threshold=1)
    half_open(breaker, clock)
    clock.advance(29.9)
    assert not admits(breaker)
    clock.advance(0.1)
    assert admits(breaker)


def test_a_probe_that_reports_after_its_deadline_still_counts(clock):
    breaker = make(clock, success_threshold=1)
    trip(breaker)
    clock.advance(30.0)
    late = breaker.acquire(expires_at=clock.monotonic() + 5.0)
    clock.advance(5.001)
    breaker.acquire()
    late.failure()  # a timeout is always reported just after the deadline
    assert breaker.state is OPEN


def test_an_outcome_of_an_older_generation_changes_nothing(clock):
    breaker = make(clock, success_threshold=1)
    stale = [breaker.acquire() for _ in range(3)]
    probe = half_open(breaker, clock)
    before = breaker.stats()
    stale[0].failure()
    stale[1].success()
    stale[2].ignore()
    assert breaker.stats() == before
    assert not admits(breaker), "the probe's place is still taken"
    probe.success()
    assert breaker.state is CLOSED


@pytest.mark.parametrize("rounds", [100])
def test_known_fault_100_of_100_concurrent_probes_got_in(clock, rounds):
    # 64 threads at the very instant at which it may half-open; the probes are held until all have asked.
    threads, places = 64, 5
    breaker = make(clock, failure_threshold=1, success_threshold=places)
    start, end = threading.Barrier(threads + 1), threading.Barrier(threads + 1)
    admitted: list[object] = []

    def ask():
        for _ in range(rounds):
            start.wait()
            with contextlib.suppress(CircuitBreakerOpenError):
                admitted.append(breaker.acquire())
            end.wait()

    workers = [threading.Thread(target=ask, daemon=True) for _ in range(threads)]
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
    assert counts == [places] * rounds


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


# --- permits ----------------------------------------------------------------------------------------------------


def test_a_permit_settles_at_most_once(clock):
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
def test_a_permit_as_context_manager_settles_by_the_exception(clock, error, counts):
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


def test_a_context_manager_measures_the_call_for_the_slow_rule(clock):
    breaker = make(clock, window=100.0, slow_call_duration=1.0, slow_call_rate=1.0)
    with breaker.acquire():
        clock.advance(1.0)
    assert breaker.state is OPEN


def test_a_permit_settled_by_hand_inside_its_block_stays_so(clock):
    breaker = make(clock, failure_threshold=1)
    with breaker.acquire() as permit:
        permit.failure()
    assert breaker.stats().success_count == 0
    assert breaker.state is OPEN


# --- the reference's interface ------------------------------------------------------------------------------------


def test_allow_and_record_as_in_the_reference(clock):
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


def test_record_never_settles_a_call_of_an_older_state(clock):
    breaker = make(clock, success_threshold=1)
    assert breaker.allow_request()
    half_open(breaker, clock)
    breaker.record_failure()  # of the call that was admitted while it was closed
    assert breaker.state is HALF_OPEN


def test_an_anonymous_probe_expires_after_recovery_timeout(clock):
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


def test_callers_that_never_record_pile_nothing_up(clock):
    breaker = make(clock)
    for _ in range(10_000):
        breaker.allow_request()
    assert len(breaker._anonymous) <= 4096
    clock.advance(30.0)
    breaker.allow_request()
    assert len(breaker._anonymous) == 1


def test_reset_closes_and_clears_from_any_state(clock):
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


# --- overrides --------------------------------------------------------------------------------------------------


def test_force_open_holds_until_enabled(clock):
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


def test_reset_ends_force_open_too(clock):
    breaker = make(clock)
    breaker.force_open()
    breaker.reset()
    assert admits(breaker)


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


def test_configure_keeps_the_state_and_goes_by_the_new_rules(clock):
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


# --- listeners and forks ----------------------------------------------------------------------------------------


def test_listeners_hear_each_change_outside_the_lock(clock):
    seen = []

    def listen(old, new):
        breaker.stats()  # takes the lock: would hang if it were held
        seen.append((old, new))

    breaker = make(clock, on_transition=listen)
    half_open(breaker, clock).failure()
    breaker.reset()
    breaker.reset()
    assert seen == [(CLOSED, OPEN), (OPEN, HALF_OPEN), (HALF_OPEN, OPEN), (OPEN, CLOSED)]


def test_a_failing_listener_is_logged_and_harms_no_call(clock, caplog):
    def listen(old, new):
        raise RuntimeError("pager is down")

    breaker = make(clock, on_transition=listen)
    trip(breaker)
    assert "pager is down" in caplog.text


def test_after_a_fork_the_childs_breaker_owes_nothing_to_the_parents_calls(clock):
    breaker = make(clock, success_threshold=1)
    probe = half_open(breaker, clock)
    breaker.after_fork_in_child()
    probe.failure()
    assert breaker.state is HALF_OPEN
    breaker.acquire().success()
    assert breaker.state is CLOSED


@pytest.mark.parametrize(
    "field", ["failure_threshold", "success_threshold", "min_request_threshold", "recovery_timeout"]
)
def test_thresholds_and_times_of_nothing_are_refused(field):
    with pytest.raises(InvalidConfigError, match=field):
        CircuitBreaker(CircuitBreakerConfig(**{field: 0}))


# --- the way of a call: enter ---------------------------------------------------------------------------------------


def test_entering_a_closed_breaker_makes_no_object(clock):
    breaker = make(clock)
    assert breaker.enter() is breaker.enter()


def test_what_was_entered_before_the_breaker_opened_changes_nothing_afterwards(clock):
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


def test_a_success_without_the_lock_ends_a_row_of_failures(clock):
    breaker = make(clock, failure_threshold=3, min_request_threshold=1)
    for _ in range(4):
        breaker.enter().failure()
        breaker.enter().failure()
        breaker.enter().success()
    assert breaker.state is CLOSED
    stats = breaker.stats()
    assert (stats.request_count, stats.failure_count, stats.success_count) == (12, 8, 4)


def test_entered_calls_of_many_threads_are_all_counted(clock):
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
