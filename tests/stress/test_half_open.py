"""The instant at which an open breaker may half-open, with many threads waiting for it."""

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
    """64 threads that ask at the same instant, round after round; whoever is admitted stays inside."""

    def __init__(self, ask, rounds):
        self.admitted = []
        self.start, self.end = threading.Barrier(THREADS + 1), threading.Barrier(THREADS + 1)
        self.threads = [threading.Thread(target=self._run, args=(ask, rounds), daemon=True) for _ in range(THREADS)]
        for thread in self.threads:
            thread.start()

    def _run(self, ask, rounds):
        for _ in range(rounds):
            self.start.wait(60)
            for _ in range(3):  # an instant has some width
                with contextlib.suppress(CircuitBreakerOpenError):
                    permit = ask()
                    if permit:
                        self.admitted.append(permit)
                        break
            self.end.wait(60)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("way", "places", "due"),
    [
        ("acquire", 1, "before they ask"),
        ("acquire", 5, "while they ask"),
        ("enter", 1, "while they ask"),
        ("enter", 5, "before they ask"),
        ("allow_request", 5, "before they ask"),
    ],
)
def test_exactly_as_many_probes_as_there_are_places_every_time(way, places, due, scaled):
    rounds = scaled(10, 1000)
    clock = ManualClock(start=1000.0)
    config = CircuitBreakerConfig(
        failure_threshold=1, min_request_threshold=1, success_threshold=places, recovery_timeout=30.0
    )
    breaker = CircuitBreaker(config, clock=clock)
    crowd = Crowd(getattr(breaker, way), rounds)
    counts = []
    for number in range(rounds):
        breaker.acquire().failure()
        assert breaker.state is CircuitBreakerState.OPEN
        if due == "before they ask":
            clock.advance(breaker.retry_after())
            crowd.start.wait(60)
        else:
            crowd.start.wait(60)
            clock.advance(breaker.retry_after())
        crowd.end.wait(60)
        while len(crowd.admitted) < places and due == "while they ask":
            crowd.admitted.append(getattr(breaker, way)())  # they were all too early
        with pytest.raises(CircuitBreakerOpenError):
            breaker.acquire()
        counts.append(len(crowd.admitted))
        for probe in crowd.admitted:
            if way == "allow_request":
                breaker.record_success()
            elif number % 3 == 2:
                probe.ignore()  # gives its place back, and the next one takes it
                breaker.acquire().success()
            else:
                probe.success()
        crowd.admitted.clear()
        assert breaker.state is CircuitBreakerState.CLOSED
    assert counts == [places] * rounds
