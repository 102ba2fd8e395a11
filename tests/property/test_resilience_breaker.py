"""The circuit breaker against a plain model, on a manual clock."""

from __future__ import annotations

import random
from types import SimpleNamespace

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from goplugins.errors import CircuitBreakerOpenError
from goplugins.models import CircuitBreakerState
from goplugins.resilience import CircuitBreaker
from goplugins.testing import ManualClock

CLOSED, OPEN, HALF_OPEN = CircuitBreakerState.CLOSED, CircuitBreakerState.OPEN, CircuitBreakerState.HALF_OPEN


class NoJitter(random.Random):
    def random(self):
        return 1.0


class Model:
    """The semantics in the plainest words: lists of everything, no trick."""

    def __init__(self, config):
        self.config = config
        self.now = 0
        self.period = 0
        self.trips = 0
        self.until = 0
        self.forced = False
        self.outcomes = []  # counted since reset
        self.close()

    def begin(self, state):
        self.state = state
        self.period += 1
        self.probes = []  # expiry of each place taken
        self.probe_successes = 0
        self.anonymous = []  # expiry of each

    def close(self):
        self.begin(CLOSED)
        self.since_closed = []
        self.row = 0

    def trip(self):
        self.begin(OPEN)
        self.trips += 1
        self.row += 1
        c = self.config
        self.until = self.now + min(c.recovery_timeout * 2 ** (self.row - 1), c.max_recovery_timeout)

    def would_admit(self):
        if self.state is CLOSED:
            return True
        if self.state is OPEN:
            return not self.forced and self.now >= self.until
        return sum(expiry > self.now for expiry in self.probes) < self.config.success_threshold

    def admit(self, expiry):
        """Returns the period that the call belongs to."""
        if self.state is OPEN:
            self.begin(HALF_OPEN)
        if self.state is HALF_OPEN:
            self.probes.append(expiry)
        return self.period

    def settle(self, period, expiry, outcome):
        if period != self.period:
            return
        if self.state is HALF_OPEN and expiry in self.probes:
            self.probes.remove(expiry)
        if outcome is None:
            return
        self.outcomes.append(outcome)
        if self.state is CLOSED:
            self.since_closed.append(outcome)
            tail = self.since_closed[-self.config.failure_threshold :]
            enough = len(self.since_closed) >= max(self.config.min_request_threshold, self.config.failure_threshold)
            if enough and not any(tail):
                self.trip()
        elif not outcome:
            self.trip()
        else:
            self.probe_successes += 1
            if self.probe_successes == self.config.success_threshold:
                self.close()


class BreakerMachine(RuleBasedStateMachine):
    @initialize(
        failures=st.integers(1, 4), least=st.integers(1, 6), successes=st.integers(1, 3), growth=st.sampled_from([1, 4])
    )
    def start(self, failures, least, successes, growth):
        self.config = SimpleNamespace(
            failure_threshold=failures,
            min_request_threshold=least,
            success_threshold=successes,
            recovery_timeout=8.0,
            max_recovery_timeout=8.0 * growth,
        )
        self.clock = ManualClock()
        self.breaker = CircuitBreaker(self.config, clock=self.clock, rng=NoJitter())
        self.model = Model(self.config)
        self.permits = []

    @rule(lifetime=st.sampled_from([None, 3.0, 20.0]), enter=st.booleans())
    def acquire(self, lifetime, enter):
        admitted = self.model.would_admit()
        expiry = self.model.now + (8.0 if lifetime is None else lifetime)
        take = self.breaker.enter if enter else self.breaker.acquire
        try:
            permit = take(None if lifetime is None else self.clock.monotonic() + lifetime)
        except CircuitBreakerOpenError as refusal:
            assert not admitted
            assert refusal.retry_after is None or refusal.retry_after > 0  # noqa: PT017
        else:
            assert admitted
            self.permits.append((permit, self.model.admit(expiry), expiry, 1 if enter else 2))

    @precondition(lambda self: self.permits)
    @rule(data=st.data(), outcome=st.sampled_from([True, False, None]))
    def settle(self, data, outcome):
        permit, period, expiry, times = self.permits.pop(data.draw(st.integers(0, len(self.permits) - 1)))
        before = self.breaker.stats(), self.breaker.retry_after()
        for _ in range(times):  # a second one is ignored; what enter() gave is settled once
            {True: permit.success, False: permit.failure, None: permit.ignore}[outcome]()
        if period != self.model.period:
            assert (self.breaker.stats(), self.breaker.retry_after()) == before, "a stale outcome changed something"
        self.model.settle(period, expiry, outcome)

    @rule()
    def allow_request(self):
        admitted = self.model.would_admit()
        assert self.breaker.allow_request() is admitted
        if admitted:
            expiry = self.model.now + 8.0
            self.model.admit(expiry)
            self.model.anonymous.append(expiry)

    @rule(outcome=st.booleans())
    def record(self, outcome):
        (self.breaker.record_success if outcome else self.breaker.record_failure)()
        waiting = [expiry for expiry in self.model.anonymous if expiry > self.model.now]
        if waiting:
            self.model.anonymous = waiting[1:]
            self.model.settle(self.model.period, waiting[0], outcome)

    @rule(seconds=st.sampled_from([1.0, 3.0, 8.0, 32.0]))
    def advance(self, seconds):
        self.clock.advance(seconds)
        self.model.now += seconds

    @rule()
    def health_probe_succeeds(self):
        self.breaker.probe_succeeded()
        if self.model.state is OPEN:
            self.model.until = min(self.model.until, self.model.now)

    @rule()
    def reset(self):
        self.breaker.reset()
        self.model.forced = False
        self.model.outcomes = []
        self.model.close()

    @rule()
    def force_open(self):
        self.breaker.force_open()
        self.model.forced = True
        self.model.begin(OPEN)

    @precondition(lambda self: self.model.forced)
    @rule()
    def enable(self):
        self.breaker.enable()
        self.model.forced = False
        self.model.close()

    @invariant()
    def agrees_with_the_model(self):
        if not hasattr(self, "model"):
            return
        stats = self.breaker.stats()
        assert stats.state is self.breaker.state is self.model.state
        assert self.breaker.trips == self.model.trips
        assert stats.success_count == self.model.outcomes.count(True)
        assert stats.failure_count == self.model.outcomes.count(False)
        try:
            self.breaker.check()
        except CircuitBreakerOpenError:
            assert not self.model.would_admit()
        else:
            assert self.model.would_admit()

    @invariant()
    def never_more_probes_than_places(self):
        if hasattr(self, "model") and self.model.state is HALF_OPEN:
            in_flight = sum(
                permit.is_probe and permit.expires_at > self.clock.monotonic() and period == self.model.period
                for permit, period, _ in self.permits
            )
            assert in_flight <= self.config.success_threshold

    def teardown(self):
        """From every state, time plus successes closes it."""
        if not hasattr(self, "model"):
            return
        if self.model.forced:
            self.breaker.enable()
        for _ in range(2 * self.config.success_threshold):
            if self.breaker.state is CLOSED:
                break
            self.clock.advance(self.breaker.retry_after())
            self.breaker.acquire().success()
        assert self.breaker.state is CLOSED


TestBreakerAgainstModel = BreakerMachine.TestCase
