"""The bulkhead against a plain model: real threads, a clock that moves only when told."""

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

LOOK = 0.5  # seconds after which who waits notices a place that was lost


class Caller:
    """A call on a thread of its own, and what the model says of it."""

    def __init__(self, bulkhead: Bulkhead, clock: ManualClock, due: float) -> None:
        self.due = due  # when it gives up waiting
        self.expected = "waiting"
        self.state = "waiting"
        self._bulkhead, self._deadline = bulkhead, Deadline(due, clock)
        self._go, self._lose = threading.Event(), False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            place = self._bulkhead.acquire(self._deadline)
        except BulkheadFullError:
            self.state = "refused"
            return
        except PluginClosedError:
            self.state = "closed"
            return
        self.state = "inside"
        self._go.wait(30)
        if not self._lose:
            self._bulkhead.release(place)
        del place
        self.state = "gone"

    def go(self, *, lose: bool = False) -> None:
        self._lose = lose
        self._go.set()
        self._thread.join(30)
        self.expected = "gone"


class BulkheadMachine(RuleBasedStateMachine):
    """Never more inside than the limit says, first come first served, nobody forgotten, every place back."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock(auto_advance=False)
        self.limit, self.room, self.closed = 2, 2, False
        self.bulkhead = Bulkhead(BulkheadConfig(max_concurrent=2, max_waiting=2), clock=self.clock)
        self.callers: list[Caller] = []
        self.refused = 0

    def those(self, state: str) -> list[Caller]:
        return [caller for caller in self.callers if caller.expected == state]

    def serve(self) -> None:
        """What the model says of the queue."""
        for caller in self.those("waiting"):
            if len(self.those("inside")) < self.limit:
                caller.expected = "inside"
        for caller in self.those("waiting"):
            if caller.due <= self.clock.monotonic():
                caller.expected = "refused"
                self.refused += 1

    @rule(patience=st.sampled_from([0.0, 0.25, 1.0, 3.0, 100.0]))
    def come(self, patience: float) -> None:
        inside, waiting = len(self.those("inside")), len(self.those("waiting"))
        caller = Caller(self.bulkhead, self.clock, self.clock.monotonic() + patience)
        self.callers.append(caller)
        if self.closed:
            caller.expected = "closed"
        elif inside >= self.limit and waiting >= self.room:
            caller.expected = "refused"
            self.refused += 1
        self.serve()

    @precondition(lambda self: self.those("inside"))
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.those("inside"))).go()
        self.serve()

    @precondition(lambda self: self.those("inside"))
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.those("inside"))).go(lose=True)
        # In the model it is free at once; those whose time is over by the next look are served first all the same.
        for caller in self.those("waiting"):
            if len(self.those("inside")) < self.limit:
                caller.expected = "inside"
        self.advance(LOOK)

    @rule(seconds=st.sampled_from([0.25, 1.0, 5.0]))
    def advance(self, seconds: float) -> None:
        until(lambda: self.clock.waiters >= len([c for c in self.callers if c.state == c.expected == "waiting"]))
        self.clock.advance(seconds)
        self.serve()

    @rule(limit=st.integers(1, 4), room=st.integers(0, 3))
    def configure(self, limit: int, room: int) -> None:
        self.bulkhead.configure(BulkheadConfig(max_concurrent=limit, max_waiting=room))
        self.room = room
        if not self.closed:
            self.limit = limit
        self.serve()

    @precondition(lambda self: not self.closed and len(self.callers) > 12)
    @rule()
    def close(self) -> None:
        self.bulkhead.close()
        self.closed, self.limit = True, 0
        for caller in self.those("waiting"):
            caller.expected = "closed"

    @invariant()
    def it_is_as_the_model_says(self) -> None:
        until(lambda: all(caller.state == caller.expected for caller in self.callers), self.report)
        until(lambda: self.bulkhead.waiting == len(self.those("waiting")), self.report)
        assert self.bulkhead.in_use == len(self.those("inside"))
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
        while inside := self.those("inside"):
            self.it_is_as_the_model_says()
            inside[0].go()
            self.serve()
        self.it_is_as_the_model_says()
        assert (self.bulkhead.in_use, self.bulkhead.waiting) == (0, 0)


def until(condition, report=lambda: "it did not come to pass") -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, report()
        time.sleep(0.0002)


TestBulkhead = BulkheadMachine.TestCase
EXAMPLES = settings().max_examples
# Its threads are real ones: fewer histories, unless it is the stress run.
TestBulkhead.settings = settings(max_examples=EXAMPLES if EXAMPLES >= 1000 else EXAMPLES // 2)
