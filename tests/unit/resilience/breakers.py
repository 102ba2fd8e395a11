"""Circuit breakers for tests, without jitter."""

from __future__ import annotations

import random

from goplugins.config import CircuitBreakerConfig
from goplugins.enums import CircuitBreakerState
from goplugins.errors import CircuitBreakerOpenError
from goplugins.resilience import CircuitBreaker

CLOSED, OPEN, HALF_OPEN = CircuitBreakerState.CLOSED, CircuitBreakerState.OPEN, CircuitBreakerState.HALF_OPEN


class NoJitter(random.Random):
    def random(self):
        return 1.0


def make(clock, name="auth", on_transition=None, rng=None, **fields):
    defaults = {"failure_threshold": 3, "recovery_timeout": 30.0, "min_request_threshold": 1, "success_threshold": 2}
    return CircuitBreaker(
        CircuitBreakerConfig(**(defaults | fields)),
        clock=clock,
        rng=rng or NoJitter(),
        name=name,
        on_transition=on_transition,
    )


def trip(breaker, failures=None):
    """Records failures until it opens; exactly so many if a number is given."""
    for _ in range(100 if failures is None else failures):
        breaker.acquire().failure()
        if failures is None and breaker.state is OPEN:
            break
    assert breaker.state is OPEN


def make_narrow(clock, **fields):
    """Opens after two failures and closes after one success."""
    return make(clock, **({"failure_threshold": 2, "success_threshold": 1} | fields))


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
