"""Many threads call an open breaker at the moment when it may become half-open."""

from __future__ import annotations

import contextlib
import threading

import pytest

from goplugins.config import CircuitBreakerConfig
from goplugins.enums import CircuitBreakerState
from goplugins.errors import CircuitBreakerOpenError
from goplugins.resilience import CircuitBreaker
from goplugins.testing import ManualClock

THREADS = 64


class Crowd:
    """64 threads that call at the same time in each round; admitted calls stay in flight."""

    def __init__(self, acquire, rounds):
        self.admitted = []
        self.start, self.end = threading.Barrier(THREADS + 1), threading.Barrier(THREADS + 1)
        self.threads = [threading.Thread(target=self._run, args=(acquire, rounds), daemon=True) for _ in range(THREADS)]
        for thread in self.threads:
            thread.start()

    def _run(self, acquire, rounds):
        for _ in range(rounds):
            self.start.wait(60)
            for _ in range(3):  # three tries, since the threads do not run at exactly the same time
                with contextlib.suppress(CircuitBreakerOpenError):
                    permit = acquire()
                    if permit:
                        self.admitted.append(permit)
                        break
            self.end.wait(60)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("way", "slots", "due"),
    [
        ("acquire", 1, "before the calls"),
        ("acquire", 5, "during the calls"),
        ("enter", 1, "during the calls"),
        ("enter", 5, "before the calls"),
        ("allow_request", 5, "before the calls"),
    ],
)
def test_exactly_as_many_probes_as_slots_in_each_round(way, slots, due, scaled):
    rounds = scaled(10, 1000)
    clock = ManualClock(start=1000.0)
    config = CircuitBreakerConfig(
        failure_threshold=1, min_request_threshold=1, success_threshold=slots, recovery_timeout=30.0
    )
    breaker = CircuitBreaker(config, clock=clock)
    crowd = Crowd(getattr(breaker, way), rounds)
    counts = []
    for number in range(rounds):
        breaker.acquire().failure()
        assert breaker.state is CircuitBreakerState.OPEN
        if due == "before the calls":
            clock.advance(breaker.retry_after())
            crowd.start.wait(60)
        else:
            crowd.start.wait(60)
            clock.advance(breaker.retry_after())
        crowd.end.wait(60)
        while len(crowd.admitted) < slots and due == "during the calls":
            crowd.admitted.append(getattr(breaker, way)())  # all calls came too early
        with pytest.raises(CircuitBreakerOpenError):
            breaker.acquire()
        counts.append(len(crowd.admitted))
        for probe in crowd.admitted:
            if way == "allow_request":
                breaker.record_success()
            elif number % 3 == 2:
                probe.ignore()  # returns its slot to the next call
                breaker.acquire().success()
            else:
                probe.success()
        crowd.admitted.clear()
        assert breaker.state is CircuitBreakerState.CLOSED
    assert counts == [slots] * rounds
