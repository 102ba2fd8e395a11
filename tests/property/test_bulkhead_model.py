"""Bulkhead against a model, with real threads and a manual clock."""

from __future__ import annotations

import threading
import time

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from goplugins.config import BulkheadConfig
from goplugins.errors import BulkheadFullError, PluginClosedError
from goplugins.resilience import Bulkhead
from goplugins.runtime.deadline import Deadline
from goplugins.testing import ManualClock

CHECK_INTERVAL = 0.5  # seconds after which waiting calls notice a lost slot


class Caller:
    """A call on a thread of its own, with the state that the model expects."""

    def __init__(self, bulkhead: Bulkhead, clock: ManualClock, due: float) -> None:
        self.due = due  # when it stops waiting
        self.expected = "waiting"
        self.state = "waiting"
        self._bulkhead, self._deadline = bulkhead, Deadline(due, clock)
        self._go, self._lose = threading.Event(), False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            permit = self._bulkhead.acquire(self._deadline)
        except BulkheadFullError:
            self.state = "refused"
            return
        except PluginClosedError:
            self.state = "closed"
            return
        self.state = "in flight"
        self._go.wait(30)
        if not self._lose:
            self._bulkhead.release(permit)
        del permit
        self.state = "ended"

    def end(self, *, lose: bool = False) -> None:
        self._lose = lose
        self._go.set()
        self._thread.join(30)
        self.expected = "ended"


class BulkheadMachine(RuleBasedStateMachine):
    """No more calls in flight than the limit, first come first served, and every slot is returned."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock(auto_advance=False)
        self.limit, self.max_waiting, self.closed = 2, 2, False
        self.bulkhead = Bulkhead(BulkheadConfig(max_concurrent=2, max_waiting=2), clock=self.clock)
        self.callers: list[Caller] = []
        self.refused = 0

    def callers_in(self, state: str) -> list[Caller]:
        return [caller for caller in self.callers if caller.expected == state]

    def serve(self) -> None:
        """Updates the model's queue."""
        for caller in self.callers_in("waiting"):
            if len(self.callers_in("in flight")) < self.limit:
                caller.expected = "in flight"
        for caller in self.callers_in("waiting"):
            if caller.due <= self.clock.monotonic():
                caller.expected = "refused"
                self.refused += 1

    @rule(patience=st.sampled_from([0.0, 0.25, 1.0, 3.0, 100.0]))
    def acquire(self, patience: float) -> None:
        inside, waiting = len(self.callers_in("in flight")), len(self.callers_in("waiting"))
        caller = Caller(self.bulkhead, self.clock, self.clock.monotonic() + patience)
        self.callers.append(caller)
        if self.closed:
            caller.expected = "closed"
        elif inside >= self.limit and waiting >= self.max_waiting:
            caller.expected = "refused"
            self.refused += 1
        self.serve()

    @precondition(lambda self: self.callers_in("in flight"))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.callers_in("in flight"))).end()
        self.serve()

    @precondition(lambda self: self.callers_in("in flight"))
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.callers_in("in flight"))).end(lose=True)
        # In the model the slot is free at once: it is handed over before the waits that end by the next check.
        for caller in self.callers_in("waiting"):
            if len(self.callers_in("in flight")) < self.limit:
                caller.expected = "in flight"
        self.advance(CHECK_INTERVAL)

    @rule(seconds=st.sampled_from([0.25, 1.0, 5.0]))
    def advance(self, seconds: float) -> None:
        until(lambda: self.clock.waiters >= len([c for c in self.callers if c.state == c.expected == "waiting"]))
        self.clock.advance(seconds)
        self.serve()

    @rule(limit=st.integers(1, 4), max_waiting=st.integers(0, 3))
    def configure(self, limit: int, max_waiting: int) -> None:
        self.bulkhead.configure(BulkheadConfig(max_concurrent=limit, max_waiting=max_waiting))
        self.max_waiting = max_waiting
        if not self.closed:
            self.limit = limit
        self.serve()

    @precondition(lambda self: not self.closed and len(self.callers) > 12)
    @rule()
    def close(self) -> None:
        self.bulkhead.close()
        self.closed, self.limit = True, 0
        for caller in self.callers_in("waiting"):
            caller.expected = "closed"

    @invariant()
    def agrees_with_the_model(self) -> None:
        until(lambda: all(caller.state == caller.expected for caller in self.callers), self.report)
        until(lambda: self.bulkhead.waiting == len(self.callers_in("waiting")), self.report)
        assert self.bulkhead.in_use == len(self.callers_in("in flight"))
        assert self.bulkhead.refused == self.refused
        assert self.bulkhead.limit == self.limit

    def report(self) -> str:
        states = [(caller.state, caller.expected, caller.due) for caller in self.callers]
        return f"{states}, {self.bulkhead.waiting} wait, {self.bulkhead.in_use} in use, {self.clock.monotonic()} s"

    def teardown(self) -> None:
        self.bulkhead.configure(BulkheadConfig(max_concurrent=100))
        if not self.closed:
            self.limit = 100
        self.serve()
        while inside := self.callers_in("in flight"):
            self.agrees_with_the_model()
            inside[0].end()
            self.serve()
        self.agrees_with_the_model()
        assert (self.bulkhead.in_use, self.bulkhead.waiting) == (0, 0)


def until(condition, report=lambda: "the condition did not become true") -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, report()
        time.sleep(0.0002)


TestBulkhead = BulkheadMachine.TestCase
EXAMPLES = settings().max_examples
# Its threads are real ones: fewer examples, except with the stress profile.
TestBulkhead.settings = settings(max_examples=EXAMPLES if EXAMPLES >= 1000 else EXAMPLES // 2)
