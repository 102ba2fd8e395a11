"""The gate against a plain model: threads that are numbers, and a list of who is inside."""

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


class GateMachine(RuleBasedStateMachine):
    """Calls of three threads on one real one: which thread is asked for its identity is what a rule says."""

    @initialize()
    def start(self):
        self.thread = 0
        fake = SimpleNamespace(get_ident=lambda: self.thread, Lock=threading.Lock, Event=threading.Event)
        self.patch = mock.patch.object(in_flight, "threading", fake)
        self.patch.start()
        self.clock = ManualClock()
        self.gate = InFlightTracker()
        self.calls = []  # inside: (thread, admission or None)
        self.queued = []  # admissions on the way
        self.closed = False
        self.outcomes = []  # (ok, elapsed, attempts) of the calls that are out
        self.waiting = []  # names of callbacks that wait for the last one out
        self.emptied = []  # names of those that have run
        self.expected_emptied = []
        self.drains = 0

    def inside(self, thread):
        return sum(owner == thread for owner, _ in self.calls)

    def may_enter(self, thread, admission):
        return not self.closed or self.inside(thread) or (admission and (admission.expected or admission.nested))

    def settle(self):
        if not self.calls and not self.queued:
            self.expected_emptied += self.waiting
            self.waiting = []

    def enter(self, thread, admission):
        self.thread = thread
        allowed = self.may_enter(thread, admission)
        try:
            self.gate.enter(admission)
        except PluginClosedError as refusal:
            assert not allowed
            assert refusal.message == "the first reason"  # noqa: PT017
            assert admission is None or not admission.inside
        else:
            assert allowed
            assert admission is None or (admission.inside and not admission.expected)
            self.calls.append((thread, admission))

    @rule(thread=THREADS, kind=st.sampled_from(["anonymous", "known", "nested"]))
    def call(self, thread, kind):
        admission = SimpleNamespace(inside=False, expected=False, nested=kind == "nested")
        self.enter(thread, None if kind == "anonymous" else admission)

    @rule()
    def queue(self):
        admission = SimpleNamespace(inside=False, expected=False, nested=False)
        try:
            self.gate.admit(admission)
        except PluginClosedError:
            assert self.closed
            assert not admission.expected
        else:
            assert not self.closed
            assert admission.expected
            self.queued.append(admission)

    @precondition(lambda self: self.queued)
    @rule(thread=THREADS)
    def a_queued_call_comes(self, thread):
        self.enter(thread, self.queued.pop(0))
        assert self.calls[-1][0] == thread, "what was queued is admitted, closed or not"

    @precondition(lambda self: self.queued)
    @rule(times=st.integers(1, 2))
    def a_queued_call_does_not_come(self, times):
        admission = self.queued.pop()
        for _ in range(times):  # the second time is harmless
            self.gate.cancel_admission(admission)
        self.settle()

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), ok=st.booleans(), elapsed=st.sampled_from([0.25, 2.0]), attempts=st.integers(0, 4))
    def leave(self, data, ok, elapsed, attempts):
        self.thread, admission = self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1)))
        # An interrupted call leaves once more, to be sure; so may one that is told that it need not come.
        for _ in range(1 if admission is None else 2):
            self.gate.leave(ok, elapsed, attempts, admission)
        if admission is not None:
            self.gate.cancel_admission(admission)
        self.outcomes.append((ok, elapsed, attempts))
        self.settle()

    @rule(thread=THREADS)
    def leave_without_having_entered(self, thread):
        self.thread = thread
        never = SimpleNamespace(inside=False, expected=False, nested=False)
        self.gate.leave(True, 1.0, 1, never)
        if not self.inside(thread):
            self.gate.leave(True, 1.0, 1)

    @rule()
    def close(self):
        assert self.gate.close("another reason" if self.closed else "the first reason") is not self.closed
        self.closed = True

    @rule(thread=THREADS, timeout=st.sampled_from([0.0, 4.0]))
    def drain(self, thread, timeout):
        self.thread = thread
        self.drains += 1
        name, before = f"drain {self.drains}", self.clock.monotonic()
        others = len(self.calls) + len(self.queued) - self.inside(thread)
        drained = self.gate.drain(timeout, self.clock, on_empty=lambda: self.emptied.append(name))
        assert drained is (others == 0)
        assert self.clock.monotonic() - before == (timeout if others else 0.0)
        if drained:
            self.waiting.append(name)
        self.settle()

    @rule()
    def fork(self):
        """In the child nobody is inside; exits of the parent's calls count for nothing there."""
        self.gate.after_fork_in_child()
        for thread, admission in self.calls:
            self.thread = thread
            self.gate.leave(True, 1.0, 1, admission)
        for admission in self.queued:  # nor does it that what the parent queued will not come
            self.gate.cancel_admission(admission)
        self.calls, self.queued, self.waiting = [], [], []

    @invariant()
    def agrees_with_the_model(self):
        if not hasattr(self, "gate"):
            return
        counts = self.gate.counts.metrics()
        assert self.gate.in_flight == len(self.calls)
        assert counts.requests_success == sum(ok for ok, _, _ in self.outcomes)
        assert counts.requests_failure == sum(not ok for ok, _, _ in self.outcomes)
        assert counts.request_duration == sum(elapsed for _, elapsed, _ in self.outcomes)
        assert counts.attempts_total == sum(attempts for _, _, attempts in self.outcomes)
        assert self.gate.closed is self.closed
        assert self.emptied == self.expected_emptied, "each callback runs once, when the last one is out"
        for thread in (1, 2, 3):
            assert self.gate.holds(thread) is (self.inside(thread) > 0)

    def teardown(self):
        if hasattr(self, "patch"):
            self.patch.stop()


TestGateAgainstModel = GateMachine.TestCase
