"""Slots, permits and tokens are returned, whatever exception is raised in a thread at whatever point."""

from __future__ import annotations

import contextlib
import gc
import itertools
import random
from types import SimpleNamespace

import pytest

from goplugins.config import BulkheadConfig, CircuitBreakerConfig, HedgeConfig, RateLimitConfig
from goplugins.enums import CircuitBreakerState
from goplugins.errors import PluginError
from goplugins.resilience import Bulkhead, CircuitBreaker, HedgePolicy, InFlightTracker, RateLimiter, RetryBudget
from goplugins.runtime.clock import SYSTEM_CLOCK
from goplugins.runtime.deadline import Deadline, deadline
from tests.interrupts import alarms_interrupt, interrupted
from tests.unit.pipeline.fakes import FakeSender, guarded, make_call

CLOSED = CircuitBreakerState.CLOSED


class PlainClock:
    """A manual clock without locks that an interrupt could leave held."""

    def __init__(self):
        self.now = 1000.0

    def advance(self, seconds):
        self.now += seconds

    def monotonic(self):
        return self.now

    def time(self):
        return self.now


pytestmark = pytest.mark.timeout(300)


def closes_in_time(breaker, clock):
    for _ in range(20):
        if breaker.state is CLOSED:
            return True
        clock.advance(max(breaker.retry_after(), 10.0))  # lost probes have expired by then
        breaker.acquire().success()
    return breaker.state is CLOSED


@pytest.mark.parametrize("way", ["acquire", "enter"])
def test_a_breaker_loses_no_probe_slot_and_always_closes(way, scaled):
    clock = PlainClock()
    config = CircuitBreakerConfig(
        failure_threshold=3, min_request_threshold=1, success_threshold=2, recovery_timeout=1.0
    )
    breaker = CircuitBreaker(config, clock=clock, rng=random.Random(1))
    acquire, dice = getattr(breaker, way), random.Random(2)

    def call():
        clock.advance(0.05)
        with contextlib.suppress(PluginError, ZeroDivisionError), acquire(clock.monotonic() + 1.0):
            if dice.random() < 0.4:
                raise ZeroDivisionError

    with interrupted(call, threads=8, hits=scaled(150, 2000)):
        assert closes_in_time(breaker, clock)
        breaker.acquire().success()  # ends the run of failures, if it had closed with one
        for _ in range(3):
            breaker.acquire().failure()
        assert breaker.state is CircuitBreakerState.OPEN, "its rules apply"
        clock.advance(breaker.retry_after())
        held = [breaker.acquire(clock.monotonic() + 1.0) for _ in range(2)]
        assert all(probe.is_probe for probe in held), "all probe slots are free"
        for probe in held:
            probe.success()
        assert breaker.state is CLOSED


def test_a_limiter_keeps_no_reservation_and_creates_no_token(scaled):
    limiter = RateLimiter(RateLimitConfig(enabled=True, requests_per_second=500, burst_size=3, max_wait=0.05))

    def call():
        with contextlib.suppress(PluginError):
            limiter.acquire()
            limiter.refund()

    with interrupted(call, threads=8, hits=scaled(150, 2000)):
        assert not limiter._waiters, "a reservation without a caller"
        assert limiter.tokens <= 3.0
        limiter.acquire(max_wait=30.0)


def test_a_tracker_is_empty_after_all_calls(scaled):
    tracker = InFlightTracker()

    def call():
        entered = SimpleNamespace(inside=False, expected=False, nested=False, operation="")
        try:
            tracker.enter(entered)
        finally:
            try:
                if entered.inside:
                    tracker.leave(True, 0.0, 1, entered)
            except BaseException:
                tracker.leave(True, 0.0, 1, entered)
                raise

    with interrupted(call, threads=8, hits=scaled(150, 2000)):
        assert tracker.in_flight == 0
        tracker.close("over")
        assert tracker.drain(0.0)


def test_a_budget_grants_no_more_than_its_bound(scaled):
    clock = PlainClock()
    budget = RetryBudget(0.2, clock=clock)

    deposited = itertools.count()
    withdrawn = itertools.count()

    def call():
        clock.advance(0.01)
        next(deposited)  # first: an interrupt may follow the deposit
        budget.deposit()
        if budget.withdraw():
            next(withdrawn)

    start = clock.now
    with interrupted(call, threads=8, hits=scaled(150, 2000)):
        # An interrupt that hits between a withdrawal and our count of it makes `withdrawn` too small, never too large.
        assert next(withdrawn) <= 0.2 * next(deposited) + 10 * (clock.now - start) + 100
        assert budget.available >= 0
        assert budget.available <= 0.2 * next(deposited) + 100
        clock.advance(1000.0)
        assert budget.available == 100.0
        assert sum(budget.withdraw() for _ in range(500)) == 100


def test_a_hedge_policy_computes_its_quantile(scaled):
    clock, dice = PlainClock(), random.Random(4)
    policy = HedgePolicy(HedgeConfig(percentile=0.9, min_delay=0.0), clock=clock)

    def call():
        clock.advance(0.5)
        policy.record(dice.random())

    with interrupted(call, threads=8, hits=scaled(150, 2000)):
        clock.advance(1000.0)
        for number in range(100):
            policy.record(number / 100)
        assert policy.delay() == 0.9


def test_a_bulkhead_loses_no_slot(scaled):
    bulkhead = Bulkhead(BulkheadConfig(max_concurrent=3, max_waiting=4, max_wait=0.02))

    def call():
        with contextlib.suppress(PluginError), bulkhead.acquire():
            pass

    with interrupted(call, threads=8, hits=scaled(150, 2000)):
        gc.collect()
        assert (bulkhead.in_use, bulkhead.waiting) == (0, 0)
        with bulkhead.acquire(), bulkhead.acquire(), bulkhead.acquire():
            assert bulkhead.in_use == 3


def a_plugin():
    return guarded(
        FakeSender(),
        SYSTEM_CLOCK,
        circuit_breaker={"failure_threshold": 2, "success_threshold": 1, "recovery_timeout": 0.05},
        rate_limit={"enabled": True, "requests_per_second": 1000, "burst_size": 5, "max_wait": 0.01},
    )


def has_nothing_left(plugin):
    assert plugin.tracker.in_flight == 0
    assert not plugin.pipeline.limiter._waiters
    assert plugin.pipeline.breaker.state is CLOSED
    assert plugin.call(make_call(SYSTEM_CLOCK, timeout=5.0, max_wait=5.0)) == "ok"
    return True


def test_an_interrupted_call_leaks_no_slots_permits_or_counts(scaled):
    plugin = a_plugin()

    def call():
        with contextlib.suppress(PluginError):
            plugin.call(make_call(SYSTEM_CLOCK, timeout=1.0))

    with interrupted(call, threads=8, hits=scaled(150, 2000)):
        assert has_nothing_left(plugin)


@pytest.mark.timeout(300, method="thread")  # the other method needs the very timer that strikes here
def test_signal_handlers_that_raise_leak_no_slots_permits_or_counts(scaled):
    plugin, dice, hits = a_plugin(), random.Random(3), 0

    def calls():
        for _ in range(50):
            with contextlib.suppress(PluginError), deadline(1.0):
                plugin.call(make_call(SYSTEM_CLOCK, timeout=1.0))

    with alarms_interrupt() as struck:
        while hits < scaled(150, 600):
            hits += struck(1e-5 + dice.random() * 3e-4, calls)
    gc.collect()
    assert Deadline.after(60.0).remaining() > 59.0, "no deadline of an interrupted block is left"
    assert has_nothing_left(plugin)
