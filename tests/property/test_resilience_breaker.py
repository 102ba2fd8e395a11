"""CircuitBreaker against a model, on a manual clock."""

from __future__ import annotations

import random

import attrs
import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from goplugins.config import CircuitBreakerConfig
from goplugins.enums import CircuitBreakerState
from goplugins.errors import CircuitBreakerOpenError
from goplugins.resilience import CircuitBreaker
from goplugins.resilience.permits import SharedPermit
from goplugins.testing import ManualClock

CLOSED, OPEN, HALF_OPEN = CircuitBreakerState.CLOSED, CircuitBreakerState.OPEN, CircuitBreakerState.HALF_OPEN


class NoJitter(random.Random):
    def random(self):
        return 1.0


WINDOW = 10.0  # ten buckets of a second: at whole seconds the ring is exact


class Model:
    """The semantics, with lists of all outcomes."""

    def __init__(self, config):
        self.config = config
        self.now = 0
        self.disabled = False
        self.period = 0
        self.trips = 0
        self.until = 0
        self.forced = False
        self.outcomes = []  # counted since reset
        self.close()

    def begin(self, state):
        self.state = state
        self.forget_calls_in_flight()

    def forget_calls_in_flight(self):
        self.period += 1
        self.probes = []  # one-element lists: when each used slot expires
        self.probe_successes = 0
        self.anonymous = []  # (when it expires, its slot)

    def close(self):
        self.begin(CLOSED)
        self.since_closed = []  # outcomes
        self.recent = []  # (when, whether it failed, whether it was slow), for the windowed rules
        self.row = 0

    @property
    def has_window(self):
        return self.config.failure_rate is not None or self.config.slow_call_rate is not None

    def trip(self):
        self.begin(OPEN)
        self.trips += 1
        self.row += 1
        self.opened_at, self.until = self.now, self.now + self.open_time()

    def open_time(self):
        c = self.config
        return min(c.recovery_timeout * 2 ** (self.row - 1), c.max_recovery_timeout)

    def would_admit(self):
        if self.state is CLOSED or self.config.metrics_only:
            return True
        if self.state is OPEN:
            return not self.forced and self.now >= self.until
        return sum(slot[0] > self.now for slot in self.probes) < self.config.success_threshold

    def admit(self, expiry):
        """Returns the call's period, and the probe slot that it takes, if any."""
        if self.state is OPEN and not self.forced and self.now >= self.until:
            self.begin(HALF_OPEN)
        slot = None
        if self.state is HALF_OPEN:
            self.probes = [taken for taken in self.probes if taken[0] > self.now]
            if len(self.probes) < self.config.success_threshold:
                slot = [expiry]
                self.probes.append(slot)
        return self.period, slot

    def settle(self, period, slot, outcome, duration=None):
        if period != self.period:
            return
        self.probes = [taken for taken in self.probes if taken is not slot]
        if outcome is None:
            return
        self.outcomes.append(outcome)
        if self.state is CLOSED:
            self.since_closed.append(outcome)
            if not self.disabled:
                slow = duration is not None and duration >= self.config.slow_call_duration
                self.recent.append((self.now, not outcome, slow))
                if self.fails_in_a_row() or self.exceeds_a_rate():
                    self.trip()
        elif self.state is HALF_OPEN:
            self.probe_successes += outcome
            if not outcome:
                self.trip()
            elif self.probe_successes >= self.config.success_threshold:
                self.close()

    def fails_in_a_row(self):
        tail = self.since_closed[-self.config.failure_threshold :]
        enough = len(self.since_closed) >= max(self.config.min_request_threshold, self.config.failure_threshold)
        return enough and not any(tail)

    def exceeds_a_rate(self):
        recent = [entry for entry in self.recent if self.now - entry[0] < WINDOW]
        if not self.has_window or len(recent) < self.config.min_request_threshold:
            return False
        failed, slow = (sum(entry[kind] for entry in recent) / len(recent) for kind in (1, 2))
        c = self.config
        return (c.failure_rate is not None and failed >= c.failure_rate) or (
            c.slow_call_rate is not None and slow >= c.slow_call_rate
        )


configs = st.builds(
    CircuitBreakerConfig,
    failure_threshold=st.sampled_from([1, 2, 3, 4, 50]),
    min_request_threshold=st.integers(1, 6),
    success_threshold=st.integers(1, 3),
    recovery_timeout=st.just(8.0),
    max_recovery_timeout=st.sampled_from([8.0, 32.0]),
    window=st.just(WINDOW),
    failure_rate=st.sampled_from([None, None, 0.5, 1.0]),
    slow_call_rate=st.sampled_from([None, None, 0.5]),
    slow_call_duration=st.just(1.5),
    metrics_only=st.sampled_from([False, False, False, True]),
)


class BreakerMachine(RuleBasedStateMachine):
    @initialize(config=configs, has_operator=st.booleans())
    def start(self, config, has_operator):
        self.config = config
        self.has_operator = has_operator  # whether it is overridden now and then
        self.max_slots = 0
        self.clock = ManualClock()
        self.breaker = CircuitBreaker(self.config, clock=self.clock, rng=NoJitter())
        self.model = Model(self.config)
        self.permits = []

    @rule(lifetime=st.sampled_from([None, 3.0, 20.0]), enter=st.booleans())
    def acquire(self, lifetime, enter):
        self.admit(lifetime, enter)

    @rule(outcomes=st.lists(st.booleans(), min_size=1, max_size=5), enter=st.booleans())
    def several_calls(self, outcomes, enter):
        for outcome in outcomes:
            if self.admit(None, enter):
                self.end(len(self.permits) - 1, outcome, 0.0)

    @rule(more=st.integers(0, 2))
    def a_row_of_failures(self, more):
        self.several_calls([False] * (min(self.config.failure_threshold, 4) + more), enter=True)

    @rule(count=st.integers(1, 5))
    def concurrent_calls(self, count):
        for _ in range(count):
            self.admit(20.0, enter=False)

    def admit(self, lifetime, enter):
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
            period, slot = self.model.admit(expiry)
            assert permit.is_probe is (slot is not None) or self.config.metrics_only
            self.permits.append((permit, period, slot, 1 if enter else 2))
        return admitted

    @precondition(lambda self: self.permits)
    @rule(
        data=st.data(),
        outcome=st.sampled_from([True, False, None]),
        duration=st.sampled_from([None, 0.0, 1.4, 1.5, 60.0]),
    )
    def settle(self, data, outcome, duration):
        self.end(data.draw(st.integers(0, len(self.permits) - 1)), outcome, duration)

    def end(self, which, outcome, duration):
        permit, period, slot, times = self.permits.pop(which)
        before = self.breaker.stats(), self.breaker.retry_after()
        for _ in range(times):  # a second outcome is ignored; a permit of enter() is settled once
            if outcome is None:
                permit.ignore()
            else:
                (permit.success if outcome else permit.failure)(duration)
        if period != self.model.period:
            assert (self.breaker.stats(), self.breaker.retry_after()) == before, "a stale outcome changed something"
        self.model.settle(period, slot, outcome, duration)

    @rule()
    def allow_request(self):
        admitted = self.model.would_admit()
        assert self.breaker.allow_request() is admitted
        if admitted:
            expiry = self.model.now + self.config.recovery_timeout
            slot = self.model.admit(expiry)[1]
            self.model.anonymous.append((expiry, slot))

    @rule(outcome=st.booleans())
    def record(self, outcome):
        (self.breaker.record_success if outcome else self.breaker.record_failure)()
        self.model.anonymous = [entry for entry in self.model.anonymous if entry[0] > self.model.now]
        if self.model.anonymous:
            _, slot = self.model.anonymous.pop(0)
            self.model.settle(self.model.period, slot, outcome)

    @rule(seconds=st.sampled_from([1.0, 3.0, 8.0, 32.0]))
    def advance(self, seconds):
        self.clock.advance(seconds)
        self.model.now += seconds

    @precondition(lambda self: self.model.state is OPEN and not self.model.forced)
    @rule()
    def wait_until_due(self):
        seconds = max(0.0, self.model.until - self.model.now)
        assert self.breaker.retry_after() == (0.0 if self.config.metrics_only else seconds)
        self.advance(seconds)

    @rule()
    def health_check_succeeds(self):
        self.breaker.probe_succeeded()
        if self.model.state is OPEN and not self.model.forced:
            self.model.until = min(self.model.until, self.model.now)

    @precondition(lambda self: self.has_operator)
    @rule()
    def reset(self):
        self.breaker.reset()
        self.model.forced = False
        self.model.outcomes = []
        self.model.close()

    @precondition(lambda self: self.has_operator)
    @rule()
    def force_open(self):
        self.breaker.force_open()
        self.model.forced, self.model.disabled = True, False
        self.model.begin(OPEN)

    @precondition(lambda self: self.has_operator)
    @rule()
    def disable(self):
        self.breaker.disable()
        self.model.forced, self.model.disabled = False, True
        self.model.close()

    @precondition(lambda self: self.has_operator)
    @rule()
    def enable(self):
        self.breaker.enable()
        if self.model.forced or self.model.disabled:
            self.model.forced = self.model.disabled = False
            self.model.close()

    @precondition(lambda self: self.has_operator)
    @rule(config=configs)
    def configure(self, config):
        had_window, model = self.model.has_window, self.model
        config = attrs.evolve(config, metrics_only=self.config.metrics_only)  # it decides which calls are tracked
        self.breaker.configure(config)
        self.config = model.config = config
        if model.has_window != had_window:
            model.recent = []
            if model.state is CLOSED:
                # The shared permit of before is not settled any more.
                self.permits = [
                    (permit, -1 if isinstance(permit, SharedPermit) else period, slot, times)
                    for permit, period, slot, times in self.permits
                ]
        if model.state is OPEN and not model.forced:
            model.until = min(model.until, model.opened_at + model.open_time())

    @precondition(lambda self: self.has_operator)
    @rule()
    def fork(self):
        self.breaker.after_fork_in_child()
        self.model.forget_calls_in_flight()

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
    def no_more_probes_than_slots(self):
        if not hasattr(self, "model"):
            return
        self.max_slots = max(self.max_slots if self.model.state is HALF_OPEN else 0, self.config.success_threshold)
        in_flight = sum(
            permit.is_probe and permit.expires_at > self.clock.monotonic() and period == self.model.period
            for permit, period, _, _ in self.permits
        )
        assert in_flight <= self.max_slots

    def teardown(self):
        """From every state, time plus successes closes it."""
        if not hasattr(self, "model"):
            return
        if self.model.forced:
            self.breaker.enable()
        for _ in range(2 * self.config.success_threshold):
            if self.breaker.state is CLOSED:
                break
            self.clock.advance(32.0 if self.config.metrics_only else self.breaker.retry_after())
            self.breaker.acquire().success()
        assert self.breaker.state is CLOSED


TestBreakerAgainstModel = BreakerMachine.TestCase
