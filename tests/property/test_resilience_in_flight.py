"""InFlightTracker against a model: threads as numbers, and a list of calls in flight."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from unittest import mock

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from goplugins.errors import PluginClosedError
from goplugins.resilience import InFlightTracker, in_flight
from goplugins.testing import ManualClock

THREADS = st.integers(1, 3)


class TrackerMachine(RuleBasedStateMachine):
    """Calls of three simulated threads: each rule sets the ident that ``threading.get_ident`` returns."""

    @initialize()
    def start(self):
        self.thread = 0
        fake = SimpleNamespace(get_ident=lambda: self.thread, Lock=threading.Lock, Event=threading.Event)
        self.patch = mock.patch.object(in_flight, "threading", fake)
        self.patch.start()
        self.clock = ManualClock()
        self.tracker = InFlightTracker()
        self.calls = []  # in flight: (thread, call or None)
        self.admitted = []  # admitted calls
        self.closed = False
        self.outcomes = []  # (ok, elapsed, attempts) of ended calls
        self.waiting = []  # names of callbacks that wait for the last call
        self.emptied = []  # names of those that have run
        self.expected_emptied = []
        self.drains = 0

    def inside(self, thread):
        return sum(owner == thread for owner, _ in self.calls)

    def may_enter(self, thread, call):
        return not self.closed or self.inside(thread) or (call and (call.expected or call.nested))

    def settle(self):
        if not self.calls and not self.admitted:
            self.expected_emptied += self.waiting
            self.waiting = []

    def enter(self, thread, call):
        self.thread = thread
        allowed = self.may_enter(thread, call)
        try:
            self.tracker.enter(call)
        except PluginClosedError as refusal:
            assert not allowed
            assert refusal.message == "the first reason"  # noqa: PT017
            assert call is None or not call.inside
        else:
            assert allowed
            assert call is None or (call.inside and not call.expected)
            self.calls.append((thread, call))

    @rule(thread=THREADS, kind=st.sampled_from(["anonymous", "known", "nested"]))
    def begin(self, thread, kind):
        call = SimpleNamespace(inside=False, expected=False, nested=kind == "nested", operation="")
        self.enter(thread, None if kind == "anonymous" else call)

    @rule()
    def admit(self):
        call = SimpleNamespace(inside=False, expected=False, nested=False, operation="")
        try:
            self.tracker.admit(call)
        except PluginClosedError:
            assert self.closed
            assert not call.expected
        else:
            assert not self.closed
            assert call.expected
            self.admitted.append(call)

    @precondition(lambda self: self.admitted)
    @rule(thread=THREADS)
    def an_admitted_call_enters(self, thread):
        self.enter(thread, self.admitted.pop(0))
        assert self.calls[-1][0] == thread, "an admitted call enters, closed or not"

    @precondition(lambda self: self.admitted)
    @rule(times=st.integers(1, 2))
    def an_admitted_call_is_cancelled(self, times):
        call = self.admitted.pop()
        for _ in range(times):  # harmless when repeated
            self.tracker.cancel_admission(call)
        self.settle()

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), ok=st.booleans(), elapsed=st.sampled_from([0.25, 2.0]), attempts=st.integers(0, 4))
    def leave(self, data, ok, elapsed, attempts):
        self.thread, call = self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1)))
        # An interrupted call leaves again, and a call in flight may be cancelled.
        for _ in range(1 if call is None else 2):
            self.tracker.leave(ok, elapsed, attempts, call)
        if call is not None:
            self.tracker.cancel_admission(call)
        self.outcomes.append((ok, elapsed, attempts))
        self.settle()

    @rule(thread=THREADS)
    def leave_without_enter(self, thread):
        self.thread = thread
        never = SimpleNamespace(inside=False, expected=False, nested=False, operation="")
        self.tracker.leave(True, 1.0, 1, never)
        if not self.inside(thread):
            self.tracker.leave(True, 1.0, 1)

    @rule()
    def close(self):
        assert self.tracker.close("another reason" if self.closed else "the first reason") is not self.closed
        self.closed = True

    @rule(thread=THREADS, timeout=st.sampled_from([0.0, 4.0]))
    def drain(self, thread, timeout):
        self.thread = thread
        self.drains += 1
        name, before = f"drain {self.drains}", self.clock.monotonic()
        others = len(self.calls) + len(self.admitted) - self.inside(thread)
        drained = self.tracker.drain(timeout, self.clock, on_empty=lambda: self.emptied.append(name))
        assert drained is (others == 0)
        assert self.clock.monotonic() - before == (timeout if others else 0.0)
        if drained:
            self.waiting.append(name)
        self.settle()

    @rule()
    def fork(self):
        """In the child no call is in flight, and the ends of the parent's calls are ignored."""
        self.tracker.after_fork_in_child()
        for thread, call in self.calls:
            self.thread = thread
            self.tracker.leave(True, 1.0, 1, call)
        for call in self.admitted:
            self.tracker.cancel_admission(call)
        self.calls, self.admitted, self.waiting = [], [], []

    @invariant()
    def agrees_with_the_model(self):
        if not hasattr(self, "tracker"):
            return
        counts = self.tracker.counts.metrics()
        assert self.tracker.in_flight == len(self.calls)
        assert counts.requests_success == sum(ok for ok, _, _ in self.outcomes)
        assert counts.requests_failure == sum(not ok for ok, _, _ in self.outcomes)
        assert counts.request_duration == sum(elapsed for _, elapsed, _ in self.outcomes)
        assert counts.attempts_total == sum(attempts for _, _, attempts in self.outcomes)
        assert self.tracker.closed is self.closed
        assert self.emptied == self.expected_emptied, "each callback runs once, when the last call has left"
        for thread in (1, 2, 3):
            assert self.tracker.holds(thread) is (self.inside(thread) > 0)

    def teardown(self):
        if hasattr(self, "patch"):
            self.patch.stop()


TestTrackerAgainstModel = TrackerMachine.TestCase
