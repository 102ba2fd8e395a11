"""Bounds of rate limiter and retry budget with many threads, on the system's clock."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left, bisect_right

import pytest

from goplugins.config import RateLimitConfig
from goplugins.errors import RateLimitExceededError
from goplugins.resilience import RateLimiter, RetryBudget
from goplugins.runtime.clock import SYSTEM_CLOCK

from .threads import run_threads


class RecordingClock:
    """The system's clock, possibly faster, that records each thread's last reading and the end of its last wait.

    A thread may be suspended between the decision of a policy and the time at which the test records it; the reading
    that the decision was based on is exact.
    """

    def __init__(self, speed=1.0):
        self.speed = speed
        self.seen = threading.local()

    def monotonic(self):
        now = self.seen.now = time.monotonic() * self.speed
        return now

    def time(self):
        return time.time()

    def wait(self, waiter, timeout):
        self.seen.due = self.seen.now + timeout
        return SYSTEM_CLOCK.wait(waiter, timeout / self.speed)


def max_excess(grants, rate):
    """The highest number of grants in an interval beyond ``rate`` times its length."""
    grants, least, most = sorted(grants), float("inf"), 0.0
    for number, at in enumerate(grants):
        least = min(least, number - rate * at)
        most = max(most, number + 1 - rate * at - least)
    return most


@pytest.mark.parametrize(("rate", "burst"), [(400.0, 20), (2000.0, 1), (50.0, 50)])
def test_tokens_in_any_interval_never_exceed_rate_times_interval_plus_burst(rate, burst, scaled):
    clock = RecordingClock()
    limiter = RateLimiter(
        RateLimitConfig(enabled=True, requests_per_second=rate, burst_size=burst, max_wait=0.05), clock=clock
    )
    end = clock.monotonic() + scaled(0.5, 8.0)

    def take(number):
        grants = []  # when it was recorded, when the token was due, whether that is exact
        while clock.monotonic() < end:
            if number % 2:
                if limiter.allow():
                    grants.append((clock.seen.now, clock.seen.now, True))
                continue
            began, clock.seen.due = clock.monotonic(), None
            try:
                limiter.acquire()
            except RateLimitExceededError:
                time.sleep(0.001)
            else:
                noticed, due = clock.seen.now, clock.seen.due
                grants.append((noticed, began, False) if due is None else (noticed, due, True))
        return grants

    grants = [grant for own in run_threads(64, take) for grant in own]
    late = max(noticed - came for noticed, came, _ in grants)
    assert all(noticed >= came - 1e-6 for noticed, came, _ in grants), "no call proceeds before its token is due"
    assert max_excess([came for _, came, known in grants if known], rate) <= burst + 1e-3
    assert max_excess([noticed for noticed, _, _ in grants], rate) <= burst + rate * late + 1e-3
    assert len(grants) > burst, "more than the initial tokens"
    assert not limiter._waiters


def test_the_bound_of_the_budget_with_many_threads(scaled):
    speed = 10.0
    clock = RecordingClock(speed)
    budget = RetryBudget(0.2, clock=clock)
    end = clock.monotonic() + scaled(6.0, 120.0)

    def work(number):
        calls, retries = [], []
        while clock.monotonic() < end:
            for _ in range(number % 4):
                budget.deposit()
                calls.append(clock.seen.now)
            if budget.withdraw():
                retries.append(clock.seen.now)
            else:
                time.sleep(0.002)
        return calls, retries

    done = run_threads(16, work)
    calls = sorted(at for own, _ in done for at in own)
    retries = sorted(at for _, own in done for at in own)
    assert len(retries) > 100, "more than the initial tokens"
    slack = 0.05 * speed  # a thread may be suspended between reading the clock and its deposit
    for begin in retries[:: max(1, len(retries) // 300)]:
        for finish in retries[bisect_left(retries, begin) :: max(1, len(retries) // 300)]:
            made = bisect_right(retries, finish) - bisect_left(retries, begin)
            paid = bisect_right(calls, finish) - bisect_left(calls, begin - 10 - slack)
            assert made <= 0.2 * paid + 10 * (finish - begin + 10) + 1e-3
