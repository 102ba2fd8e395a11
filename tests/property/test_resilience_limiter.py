"""RateLimiter against exact arithmetic. Times and rates are dyadic, so that floats are exact as well."""

from __future__ import annotations

from fractions import Fraction

import hypothesis.strategies as st
from hypothesis import given

from goplugins.config import RateLimitConfig
from goplugins.errors import RateLimitExceededError
from goplugins.resilience import RateLimiter
from goplugins.testing import ManualClock

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("pass"), st.integers(0, 256)),
        st.tuples(st.just("allow"), st.integers(1, 5)),
        st.tuples(st.just("wait"), st.integers(0, 64)),
        st.tuples(st.just("refund"), st.just(0)),
        st.tuples(st.just("rate"), st.sampled_from([1, 4, 16])),
    ),
    max_size=40,
)


def config(rate, burst):
    return RateLimitConfig(enabled=True, requests_per_second=rate, burst_size=burst)


@given(steps=STEPS, rate=st.sampled_from([1, 2, 8, 32]), burst=st.integers(1, 8))
def test_agrees_with_exact_arithmetic(steps, rate, burst):
    clock = ManualClock()
    limiter = RateLimiter(config(rate, burst), clock=clock)
    tokens, taken = Fraction(burst), 0

    def refill(seconds):
        return min(Fraction(burst), tokens + Fraction(seconds) * rate)

    for what, amount in steps:
        if what == "pass":
            clock.advance(amount / 64)
            tokens = refill(amount / 64)
        elif what == "allow":
            for _ in range(amount):
                assert limiter.allow() is (tokens >= 1)
                tokens -= tokens >= 1
        elif what == "wait":
            needed = max(Fraction(0), (1 - tokens) / rate)
            before = clock.monotonic()
            try:
                limiter.acquire(max_wait=amount / 64)
            except RateLimitExceededError as refusal:
                assert needed > Fraction(amount, 64)
                assert refusal.retry_after == needed  # noqa: PT017
                assert clock.monotonic() == before
            else:
                assert clock.monotonic() - before == needed <= Fraction(amount, 64)
                tokens = refill(needed) - 1
                taken += 1
        elif what == "refund" and taken:
            taken -= 1
            limiter.refund()
            tokens = min(Fraction(burst), tokens + 1)
        elif what == "rate":
            rate = amount
            limiter.set_rate(config(rate, burst))
        assert limiter.tokens == tokens


@given(gaps=st.lists(st.floats(0.0, 3.0), min_size=1, max_size=60), rate=st.floats(0.1, 50.0), burst=st.integers(1, 10))
def test_at_most_burst_and_rate_in_any_interval(gaps, rate, burst):
    clock = ManualClock(1e5)
    limiter = RateLimiter(config(rate, burst), clock=clock)
    admitted = []
    for gap in gaps:
        clock.advance(gap)
        admitted += [clock.monotonic()] * sum(limiter.allow() for _ in range(3))
    for first, begin in enumerate(admitted):
        for last in range(first, len(admitted)):
            assert last - first + 1 <= burst + rate * (admitted[last] - begin) + 1e-6
