"""ResponseCache against models: of cached responses, and of single-flight executions."""

from __future__ import annotations

import threading
from collections import OrderedDict

from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from goplugins.config import CacheConfig
from goplugins.errors import PluginTimeoutError, PluginUnavailableError
from goplugins.resilience.cache import Origin, ResponseCache
from goplugins.runtime.deadline import Deadline
from goplugins.testing import ManualClock

KEYS = st.integers(0, 5)
SECONDS = st.sampled_from([0.25, 0.5, 1.0, 2.0, 5.0])


class CachedResponses(RuleBasedStateMachine):
    """One thread: lifetimes, bounds, and the order of eviction."""

    @initialize(
        ttl=st.sampled_from([1.0, 3.0]),
        stale=st.sampled_from([0.0, 2.0]),
        entries=st.integers(1, 4),
        size=st.sampled_from([None, 5, 12]),
    )
    def begin(self, ttl, stale, entries, size):
        self.clock = ManualClock()
        self.ttl, self.stale_for, self.entries, self.most = ttl, stale, entries, size
        config = CacheConfig(ttl=ttl, stale_if_error=stale, max_entries=entries)
        self.cache = ResponseCache(config, clock=self.clock, size_of=len, max_size=size)
        self.model = OrderedDict()  # key -> (response, when it was stored), least recently used first
        self.requests = 0

    def expected(self, key, seconds):
        if key not in self.model or self.clock.monotonic() >= self.model[key][1] + seconds:
            return None
        self.model.move_to_end(key)
        return self.model[key][0]

    def store(self, key, answer):
        self.model.pop(key, None)
        if self.most is not None and len(answer) > self.most:
            return
        self.model[key] = (answer, self.clock.monotonic())
        for oldest in list(self.model)[:2]:
            if self.clock.monotonic() >= self.model[oldest][1] + self.ttl + self.stale_for:
                del self.model[oldest]
        while len(self.model) > self.entries or (self.most is not None and self.size() > self.most):
            self.model.popitem(last=False)

    def size(self):
        return sum(len(answer) for answer, _ in self.model.values())

    @rule(key=KEYS, length=st.integers(1, 8))
    def fetch(self, key, length):
        self.requests += 1
        answer = f"{self.requests:0{length}d}"
        cached = self.expected(key, self.ttl)
        found = self.cache.fetch(key, lambda: answer, Deadline.after(1.0, self.clock))
        if cached is not None:
            assert found == (cached, Origin.CACHE)
        else:
            assert found == (answer, Origin.CALL)
            self.store(key, answer)

    @rule(key=KEYS)
    def fetch_that_fails(self, key):
        cached = self.expected(key, self.ttl)

        def fail():
            raise PluginUnavailableError("down")

        try:
            assert self.cache.fetch(key, fail, Deadline.after(1.0, self.clock)) == (cached, Origin.CACHE)
        except PluginUnavailableError:
            assert cached is None

    @rule(key=KEYS)
    def get(self, key):
        assert self.cache.get(key) == self.expected(key, self.ttl)

    @rule(key=KEYS)
    def get_stale(self, key):
        assert self.cache.stale(key) == self.expected(key, self.ttl + self.stale_for)

    @rule(seconds=SECONDS)
    def advance(self, seconds):
        self.clock.advance(seconds)

    @rule()
    def clear(self):
        self.cache.clear()
        self.model.clear()

    @rule()
    def fork(self):
        self.cache.after_fork_in_child()

    @invariant()
    def holds_what_the_model_holds(self):
        if not hasattr(self, "cache"):
            return
        assert (len(self.cache), self.cache.size) == (len(self.model), self.size())
        assert self.cache.waiting == 0


class _Caller:
    """A thread that fetches; its request waits until :meth:`end` gives it an outcome."""

    def __init__(self, machine, seconds):
        self.deadline = Deadline.after(seconds, machine.clock)
        self.outcome = None
        self.ended = threading.Event()
        self.result = None
        self.machine = machine
        self.thread = threading.Thread(target=self.run, daemon=True)

    def make(self):
        self.machine.requests.append(self)
        assert self.ended.wait(20)
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome

    def end(self, outcome):
        self.outcome = outcome
        self.ended.set()

    def run(self):
        try:
            self.result = self.machine.cache.fetch("key", self.make, self.deadline)
        except BaseException as exc:
            self.result = exc


class SingleFlight(RuleBasedStateMachine):
    """Many threads with one key: one request at a time, made by the longest waiting caller with time left."""

    @initialize()
    def begin(self):
        self.clock = ManualClock(auto_advance=False)
        self.cache = ResponseCache(CacheConfig(ttl=1.0), clock=self.clock)
        self.leader = None
        self.waiting = []
        self.requests = []  # appended by the callers' threads
        self.fresh_until = -1.0
        self.answers = 0

    def settle(self, caller):
        caller.thread.join(20)
        assert not caller.thread.is_alive()
        return caller.result

    def leads(self, caller):
        """The model's leader makes the request, and no other does."""
        self.leader = caller
        for _ in range(20_000):
            if self.requests and self.requests[-1] is caller:
                return
            threading.Event().wait(0.001)
        raise AssertionError("no waiting caller has taken over")

    @rule(seconds=st.sampled_from([1.5, 3.0, 30.0]))
    def fetch(self, seconds):
        caller = _Caller(self, seconds)
        caller.thread.start()
        if self.clock.monotonic() < self.fresh_until:
            assert self.settle(caller) == (self.answers, Origin.CACHE)
        elif self.leader is None or self.leader.deadline.remaining() <= 0:
            # There is no leader, or one past its deadline: that one is replaced, and its request ends now.
            late = self.leader
            self.leads(caller)
            if late is not None:
                late.end(PluginUnavailableError("overdue"))
                assert self.settle(late) is late.outcome
        else:
            self.waiting.append(caller)
            self.clock.wait_for_waiters(len(self.waiting))

    @precondition(lambda self: getattr(self, "leader", None) is not None)
    @rule()
    def answer(self):
        self.answers += 1
        leader, self.leader = self.leader, None
        leader.end(self.answers)
        assert self.settle(leader) == (self.answers, Origin.CALL)
        self.fresh_until = self.clock.monotonic() + 1.0
        for caller in self.waiting:
            assert self.settle(caller) == (self.answers, Origin.COALESCED)
        self.waiting = []

    @precondition(lambda self: getattr(self, "leader", None) is not None)
    @rule(outcome=st.sampled_from([PluginUnavailableError, KeyboardInterrupt]))
    def fail(self, outcome):
        leader, self.leader = self.leader, None
        leader.end(outcome())
        assert self.settle(leader) is leader.outcome
        if self.waiting:
            self.leads(self.waiting.pop(0))

    @rule(seconds=SECONDS)
    def advance(self, seconds):
        self.clock.advance(seconds)
        for caller in [caller for caller in self.waiting if caller.deadline.remaining() <= 0]:
            assert isinstance(self.settle(caller), PluginTimeoutError)
            self.waiting.remove(caller)

    @invariant()
    def agrees_with_the_model(self):
        if hasattr(self, "cache"):
            assert self.cache.waiting == len(self.waiting)
            assert [caller for caller in self.requests if caller.thread.is_alive()] == (
                [] if self.leader is None else [self.leader]
            )

    def teardown(self):
        while getattr(self, "leader", None) is not None:
            self.fail(PluginUnavailableError)


TestCachedResponses = CachedResponses.TestCase
TestSingleFlight = SingleFlight.TestCase
EXAMPLES = settings().max_examples
# Its threads are real ones: fewer examples, except with the stress profile.
TestSingleFlight.settings = settings(max_examples=EXAMPLES if EXAMPLES >= 1000 else EXAMPLES // 4)
