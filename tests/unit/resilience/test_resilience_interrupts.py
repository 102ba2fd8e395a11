"""Interrupts (Ctrl-C, a worker's time limit) at every possible point leave each policy consistent."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from goplugins.config import CacheConfig, CircuitBreakerConfig, HedgeConfig, RateLimitConfig
from goplugins.enums import CircuitBreakerState
from goplugins.errors import PluginError
from goplugins.models.metrics import OperationMetrics
from goplugins.resilience import CircuitBreaker, HedgePolicy, InFlightTracker, RateLimiter, RetryBudget
from goplugins.resilience.cache import ResponseCache
from goplugins.resilience.rolling_window import RollingWindow
from goplugins.runtime.counter import Counter
from goplugins.runtime.deadline import Deadline
from tests.interrupts import interrupted_at

CLOSED, OPEN, HALF_OPEN = CircuitBreakerState.CLOSED, CircuitBreakerState.OPEN, CircuitBreakerState.HALF_OPEN
PARTS = ("retry_budget", "cache", "circuit_breaker", "in_flight", "call_counts", "hedge_policy", "rate_limiter")
INSIDE = ("breaker_rules", "permits", "rolling_window")
OURS = (*(f"goplugins/resilience/{name}.py" for name in (*PARTS, *INSIDE)), "goplugins/runtime/counter.py")


class PlainClock:
    """A manual clock without a lock that an interrupt could leave held."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def advance(self, seconds: float) -> None:
        self.now += seconds

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


def at_every_point(scenario: Callable[[], tuple[Callable[[], object], Callable[[], object]]], most: int = 500) -> int:
    """Runs ``work`` with an interrupt at each possible point, then ``check``; returns the number of points."""
    for number in range(most):
        work, check = scenario()
        happened = interrupted_at(number, work, OURS)
        try:
            check()
        except BaseException as exc:
            exc.add_note(f"after interrupt {number}")
            raise
        if not happened:
            return number
    raise AssertionError("the scenario does not end")


# --- counts ---------------------------------------------------------------------------------------------------------


def test_a_counter():
    def scenario():
        counter, taken = Counter(), []
        for _ in range(5):
            counter.add()

        def work():
            for _ in range(3):
                taken.append(counter.take())
                assert counter.total == 5

        def check():
            assert sum(taken) + counter.take() == 5
            assert counter.total == 5

        return work, check

    assert at_every_point(scenario) > 5


def test_a_rolling_window():
    def scenario():
        window = RollingWindow(10.0)
        for second in range(8):
            window.record(float(second), failed=True, slow=second % 2 == 0)

        def work():
            for at in (8.0, 11.0, 40.0):
                window.record(at, failed=True, slow=True)

        def check():
            sums = [sum(column) for column in zip(*window._ring, strict=True)]
            assert [window.calls, window.failures, window.slow] == sums
            window.record(60.0, failed=False, slow=False)
            assert (window.calls, window.failures, window.slow) == (1, 0, 0)

        return work, check

    assert at_every_point(scenario) > 5


# --- the breaker ----------------------------------------------------------------------------------------------------

RULES = {"failure_threshold": 2, "min_request_threshold": 1, "success_threshold": 2, "recovery_timeout": 30.0}
RATE = RULES | {"failure_threshold": 99, "min_request_threshold": 2, "failure_rate": 0.6}


def new_breaker(**rules: Any) -> tuple[CircuitBreaker, PlainClock]:
    clock = PlainClock()
    return CircuitBreaker(CircuitBreakerConfig(**(rules or RULES)), clock=clock, rng=random.Random(1)), clock


def fail(breaker: CircuitBreaker, times: int = 2) -> None:
    for _ in range(times):
        breaker.acquire().failure()


def check_breaker(breaker: CircuitBreaker, clock: PlainClock) -> None:
    """In any state: it refuses while open, time plus successes closes it, and its rules apply."""
    assert not breaker._lock.locked()
    if breaker.state is OPEN and breaker.retry_after() > 0:
        with pytest.raises(PluginError):
            breaker.enter(clock.now + 1.0)
    for _ in range(5):
        if breaker.state is CLOSED:
            break
        clock.advance(max(breaker.retry_after(), 30.0))  # lost probes have expired by then
        breaker.enter(clock.now + 1.0).success()
    assert breaker.state is CLOSED, "time plus successes closes it"
    breaker.enter().success()
    for _ in range(2):
        if breaker.state is CLOSED:  # an earlier failure may count
            fail(breaker, 1)
    assert breaker.state is OPEN, "its rules apply"
    assert breaker.retry_after() == 30.0
    with pytest.raises(PluginError):
        breaker.enter()
    clock.advance(30.0)
    probes = [breaker.enter(clock.now + 1.0) for _ in range(2)]
    assert all(probe.is_probe for probe in probes)
    with pytest.raises(PluginError):
        breaker.enter()
    for probe in probes:
        probe.success()
    assert breaker.state is CLOSED
    shared = breaker.enter()
    assert (breaker.enter() is shared) is (breaker._window is None)


def opened(breaker: CircuitBreaker, clock: PlainClock) -> None:
    fail(breaker)


def due(breaker: CircuitBreaker, clock: PlainClock) -> None:
    fail(breaker)
    clock.advance(30.0)


def probed(breaker: CircuitBreaker, clock: PlainClock) -> None:
    due(breaker, clock)
    breaker.enter(clock.now + 1.0).success()


def nothing(breaker: CircuitBreaker, clock: PlainClock) -> None: ...


@pytest.mark.parametrize("rules", [RULES, RATE], ids=["in a row", "rate"])
@pytest.mark.parametrize(
    ("before", "work"),
    [
        (nothing, lambda breaker, clock: fail(breaker)),
        (nothing, lambda breaker, clock: [breaker.enter().failure() for _ in range(2)]),
        (nothing, lambda breaker, clock: [breaker.allow_request(), breaker.record_failure()] * 2),
        (due, lambda breaker, clock: breaker.enter(clock.now + 1.0).success()),
        (due, lambda breaker, clock: breaker.enter(clock.now + 1.0).failure()),
        (due, lambda breaker, clock: breaker.enter(clock.now + 1.0).ignore()),
        (probed, lambda breaker, clock: breaker.enter(clock.now + 1.0).success()),
        (probed, lambda breaker, clock: breaker.enter(clock.now + 1.0).failure()),
        (opened, lambda breaker, clock: breaker.reset()),
        (opened, lambda breaker, clock: breaker.probe_succeeded()),
        (nothing, lambda breaker, clock: breaker.stats()),
        (opened, lambda breaker, clock: breaker.check()),
        (opened, lambda breaker, clock: breaker.configure(CircuitBreakerConfig(**RULES, failure_rate=0.5, window=9.0))),
        (nothing, lambda breaker, clock: breaker.configure(CircuitBreakerConfig(**RULES))),
    ],
    ids=[
        "trip", "trip of many", "anonymous", "first probe", "failed probe", "ignored probe", "last probe",
        "second probe fails", "reset", "healthy", "stats", "check", "other rules", "plain rules",
    ],
)  # fmt: skip
def test_a_breaker_changes_state_as_a_whole(rules, before, work):
    def scenario():
        breaker, clock = new_breaker(**rules)
        before(breaker, clock)

        def interrupted():
            with contextlib.suppress(PluginError):
                work(breaker, clock)

        return interrupted, lambda: check_breaker(breaker, clock)

    assert at_every_point(scenario) >= 3


def test_a_trip_is_counted_once_or_not_at_all():
    def scenario():
        breaker, _ = new_breaker()
        fail(breaker, 1)

        def check():
            if breaker.state is CLOSED:
                fail(breaker, 2 - breaker._consecutive if breaker._consecutive < 2 else 1)
            assert breaker.state is OPEN
            assert breaker.trips == 1
            assert breaker.retry_after() == 30.0, "the first open time"

        return breaker.acquire().failure, check

    assert at_every_point(scenario) > 5


@pytest.mark.parametrize("way", ["force_open", "disable", "enable", "configure"])
def test_an_override_applies_as_a_whole(way):
    def scenario():
        breaker, clock = new_breaker()
        if way == "enable":
            breaker.force_open()
        disabled = CircuitBreakerConfig(**RULES, enabled=False)
        work = getattr(breaker, way) if way != "configure" else lambda: breaker.configure(disabled)

        def check():
            if way in {"disable", "configure"}:
                work()
                fail(breaker, 5)
                assert breaker.state is CLOSED
                breaker.enable()
            elif breaker.state is OPEN:
                assert breaker.retry_after() == float("inf")
                breaker.enable()
            check_breaker(breaker, clock)

        return work, check

    assert at_every_point(scenario) >= 3


# --- the in-flight tracker ------------------------------------------------------------------------------------------


def a_call(operation: str = "") -> SimpleNamespace:
    return SimpleNamespace(inside=False, expected=False, nested=False, operation=operation)


def enter_and_leave(tracker: InFlightTracker, call: SimpleNamespace, ok: bool = True) -> None:
    """Enters and leaves as a guarded plugin does."""
    try:
        tracker.enter(call)
    finally:
        try:
            if call.inside:
                tracker.leave(ok, 0.25, 1, call, "" if ok else "CODE")
        except BaseException:
            tracker.leave(ok, 0.25, 1, call, "" if ok else "CODE")
            raise


@pytest.mark.parametrize("operation", ["", "find", "unlisted"])
@pytest.mark.parametrize("ok", [True, False])
def test_the_counts_of_a_tracker(ok, operation):
    def scenario():
        tracker, call = InFlightTracker(operations=lambda: {"find"}), a_call(operation)
        tracker.leave(ok, 0.25, 1, None)  # without a call in flight

        def check():
            found = tracker.counts.metrics()
            ended = found.requests_success + found.requests_failure
            assert tracker.in_flight == 0
            assert (found.attempts_total, found.request_duration, sum(found.latencies.counts.values())) == (
                ended,
                0.25 * ended,
                ended,
            )
            assert not tracker._inside
            assert tracker.drain(0.0)
            if operation:  # counted with the plugin's, or not at all
                same = {field.name: getattr(found, field.name) for field in attrs.fields(OperationMetrics)}
                counted = found.operations.get("find" if operation == "find" else "other", OperationMetrics())
                assert counted == OperationMetrics(**same)

        return lambda: enter_and_leave(tracker, call, ok), check

    assert at_every_point(scenario) >= 3


@pytest.mark.parametrize("enters", [True, False])
def test_a_drain_ends_with_the_last_call(enters):
    def scenario():
        tracker, call, done = InFlightTracker(), a_call(), threading.Event()
        tracker.admit(call)
        tracker.close("it was removed")
        drain = threading.Thread(target=lambda: tracker.drain(300.0, on_empty=done.set), daemon=True)
        drain.start()
        while not tracker._drains:
            threading.Event().wait(0.0005)

        def work():
            try:
                if enters:
                    enter_and_leave(tracker, call)
            finally:
                try:
                    tracker.cancel_admission(call)
                except BaseException:
                    tracker.cancel_admission(call)
                    raise

        def check():
            drain.join(10)
            assert not drain.is_alive(), "it waits although no call is left"
            assert done.is_set()
            assert tracker._expected == 0

        return work, check

    assert at_every_point(scenario) >= 3


def test_the_last_call_runs_the_callback():
    def scenario():
        tracker, call, closed = InFlightTracker(), a_call(), []
        tracker.enter(call)
        tracker.close("it was removed")
        assert tracker.drain(0.0, on_empty=lambda: closed.append("closed"))

        def work():
            try:
                tracker.leave(True, 0.25, 1, call)
            except BaseException:
                tracker.leave(True, 0.25, 1, call)
                raise

        return work, lambda: closed.index("closed")

    assert at_every_point(scenario) >= 3


# --- budget, limiter, hedges, cache ---------------------------------------------------------------------------------


@pytest.mark.parametrize("pause", [0.0, 0.1, 9.95, 25.0])
def test_a_retry_budget(pause):
    def scenario():
        clock = PlainClock()
        budget = RetryBudget(0.2, clock=clock)
        for _ in range(50):
            budget.deposit()
        clock.advance(pause)
        given = []

        def work():
            for _ in range(2):
                budget.deposit()
                given.append(budget.withdraw())
                clock.advance(0.1)

        def check():
            for _ in range(50):
                budget.deposit()
            assert budget.available <= 100 + 0.2 * 102
            assert sum(budget.withdraw() for _ in range(200)) <= 120
            for _ in range(50):
                budget.deposit()
            clock.advance(10.0)
            assert budget.available == 100.0
            assert sum(budget.withdraw() for _ in range(200)) == 100

        return work, check

    assert at_every_point(scenario) > 10


def test_a_limiter_has_one_configuration():
    slow = {"enabled": True, "requests_per_second": 1.0, "burst_size": 1, "max_wait": 0.0}
    fast = {"enabled": True, "requests_per_second": 10.0, "burst_size": 5, "max_wait": 2.0}

    def scenario():
        clock = PlainClock()
        limiter = RateLimiter(RateLimitConfig(**slow), clock=clock)

        def check():
            clock.advance(60.0)
            burst = 0
            while limiter.allow():
                burst += 1
            clock.advance(1.0)
            assert (burst, limiter.tokens, limiter._max_wait) in {(1, 1.0, 0.0), (5, 5.0, 2.0)}

        return lambda: limiter.set_rate(RateLimitConfig(**fast)), check

    assert at_every_point(scenario) >= 3


def test_a_token_is_taken_once_or_not_at_all():
    def scenario():
        clock = PlainClock()
        limiter = RateLimiter(RateLimitConfig(requests_per_second=1.0, burst_size=3, max_wait=0.0), clock=clock)

        def work():
            limiter.acquire()
            limiter.refund()
            limiter.acquire()

        def check():
            assert 1.0 <= limiter.tokens <= 3.0
            assert not limiter._waiters
            assert not limiter._lock.locked()

        return work, check

    assert at_every_point(scenario) >= 3


def test_a_hedge_policy():
    def scenario():
        clock = PlainClock()
        policy = HedgePolicy(HedgeConfig(percentile=0.9, min_delay=0.0), clock=clock)
        for number in range(30):
            policy.record(float(number))
        clock.advance(59.0)

        def work():
            for number in range(3):
                policy.record(100.0 + number)
                clock.advance(1.0)

        def check():
            clock.advance(100.0)
            for number in range(100):
                policy.record(number / 100)
            assert policy.delay() == 0.9

        return work, check

    assert at_every_point(scenario) > 10


@pytest.mark.parametrize(
    ("config", "keys"),
    [
        ({"ttl": 60.0, "max_entries": 3}, range(6)),
        ({"ttl": 60.0, "max_entries": 50}, range(6)),  # bounded by max_size
        ({"ttl": 1.0, "stale_if_error": 60.0}, (0, 1, 2, 0, 1, 2)),
        ({"ttl": 1.0}, range(6)),
    ],
    ids=["full", "too large", "again", "too old"],
)
def test_the_size_of_a_cache(config, keys):
    def scenario():
        clock = PlainClock()
        cache = ResponseCache(CacheConfig(**config), clock=clock, size_of=len, max_size=20)

        def work():
            for number, key in enumerate(keys):
                cache.fetch(key, lambda number=number: "x" * (number + 5), Deadline.after(60.0, clock))
                clock.advance(0.7)

        def check():
            assert cache.size == sum(entry.size for entry in cache._entries.values())
            cache.fetch("more", lambda: "xx", Deadline.after(60.0, clock))
            assert cache.size <= 20
            assert len(cache) <= config.get("max_entries", 20)

        return work, check

    assert at_every_point(scenario) > 20
