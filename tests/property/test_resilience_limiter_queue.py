"""RateLimiter with waiting callers against a model, a queue before a bucket. Numbers are dyadic: floats are exact."""

from __future__ import annotations

import threading
from fractions import Fraction

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from goplugins.config import RateLimitConfig
from goplugins.errors import PluginClosedError, RateLimitExceededError
from goplugins.resilience import RateLimiter
from goplugins.testing import ManualClock

RATES = st.sampled_from([1, 2, 8])


class Caller(threading.Thread):
    """Waits for its token on a thread of its own."""

    def __init__(self, limiter, served):
        super().__init__(daemon=True)
        self.limiter, self.served = limiter, served
        self.closing = threading.Event()
        self.error = None
        self.start()

    def run(self):
        try:
            self.limiter.acquire(max_wait=1e6, closing=self.closing)
            self.served.append(self)
        except BaseException as exc:
            self.error = exc

    def ended(self):
        self.join(10)
        assert not self.is_alive(), "it waits although its token is due"
        return self.error


class QueueMachine(RuleBasedStateMachine):
    @initialize(rate=RATES, burst=st.integers(1, 4))
    def start(self, rate, burst):
        self.rate, self.burst = Fraction(rate), burst
        self.clock = ManualClock(auto_advance=False)
        self.limiter = RateLimiter(self.config(), clock=self.clock)
        self.level = Fraction(burst)  # of the bucket, without reservations
        self.queue: list[Caller] = []
        self.served: list[Caller] = []
        self.expected: list[Caller] = []
        self.taken = 0  # tokens that can be refunded

    def config(self):
        return RateLimitConfig(enabled=True, requests_per_second=int(self.rate), burst_size=self.burst)

    @property
    def free(self):
        return self.level - len(self.queue)

    def serve(self):
        while self.queue and self.level >= 1:
            self.level -= 1
            caller = self.queue.pop(0)
            assert caller.ended() is None
            self.expected.append(caller)
            self.taken += 1

    @rule(count=st.integers(1, 6))
    def allow(self, count):
        for _ in range(count):
            admitted = self.free >= 1
            assert self.limiter.allow() is admitted
            self.level -= admitted
            self.taken += admitted

    @rule()
    def acquire_and_wait(self):
        if self.free >= 1:
            self.limiter.acquire()
            self.level -= 1
            self.taken += 1
        elif len(self.queue) < 5:
            self.queue.append(Caller(self.limiter, self.served))
            self.clock.wait_for_waiters(len(self.queue))

    @rule(most=st.integers(0, 64))
    def acquire_with_a_short_wait(self, most):
        needed = max(Fraction(0), 1 - self.free) / self.rate
        if needed > Fraction(most, 64):
            try:
                self.limiter.acquire(max_wait=most / 64)
            except RateLimitExceededError as refusal:
                assert refusal.retry_after == needed  # noqa: PT017
            else:
                raise AssertionError("it was admitted too early")

    @rule(ticks=st.integers(1, 16) | st.integers(1, 256))
    def advance(self, ticks):
        left = Fraction(ticks, 64)
        while self.queue and (needed := (1 - self.level) / self.rate) <= left:
            self.step(needed)
            left -= needed
        self.step(left)

    def step(self, seconds):
        self.clock.advance(float(seconds))
        self.level = min(self.level + seconds * self.rate, self.burst + len(self.queue))
        self.serve()

    @precondition(lambda self: self.taken)
    @rule()
    def refund(self):
        self.taken -= 1
        self.limiter.refund()
        self.level = min(self.level + 1, Fraction(self.burst + len(self.queue)))
        self.serve()

    @rule(rate=RATES, burst=st.integers(1, 4))
    def change_the_rate(self, rate, burst):
        self.rate, self.burst = Fraction(rate), burst
        self.limiter.set_rate(self.config())
        self.level = min(self.level, Fraction(burst + len(self.queue)))

    @precondition(lambda self: self.queue)
    @rule(data=st.data())
    def leave(self, data):
        caller = self.queue.pop(data.draw(st.integers(0, len(self.queue) - 1)))
        caller.closing.set()
        self.limiter.wake()
        assert isinstance(caller.ended(), PluginClosedError)
        self.clock.wait_for_waiters(len(self.queue))

    @invariant()
    def agrees_with_the_model(self):
        if hasattr(self, "limiter"):
            assert self.limiter.tokens == self.free
            assert self.served == self.expected, "first come, first served"
            assert len(self.limiter._waiters) == len(self.queue)

    def teardown(self):
        if not hasattr(self, "limiter"):
            return
        for caller in self.queue:
            caller.closing.set()
        self.limiter.wake()
        for caller in self.queue:
            caller.ended()


TestLimiterAgainstAQueue = QueueMachine.TestCase
EXAMPLES = settings().max_examples
# Its threads are real ones: fewer examples, except with the stress profile.
TestLimiterAgainstAQueue.settings = settings(max_examples=EXAMPLES if EXAMPLES >= 1000 else EXAMPLES // 2)
