"""The moments that the gate's other tests pass over."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from goplugins.errors import PluginClosedError
from goplugins.models.metrics import bucket_of
from goplugins.resilience import InFlightTracker
from goplugins.testing import ManualClock


def a_call():
    return SimpleNamespace(inside=False, expected=False, nested=False)


def on_a_thread(work):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10)


def test_a_drain_whose_time_is_up_just_as_the_last_call_leaves_is_a_success(monkeypatch):
    gate = InFlightTracker()
    gate.enter()  # the drain is on a call's own stack
    entered, leave = threading.Event(), threading.Event()

    def other():
        gate.enter()
        entered.set()
        leave.wait(10)
        gate.leave(True, 0.0, 1)

    thread = threading.Thread(target=other)
    thread.start()
    entered.wait(10)

    class Clock(ManualClock):
        def wait(self, waiter, timeout):
            leave.set()
            thread.join(10)
            return False  # its time is up

    # The call is out, and has not come to tell those who wait.
    monkeypatch.setattr(InFlightTracker, "_notify", lambda gate: None)
    assert gate.drain(1.0, Clock())
    gate.leave(True, 0.0, 1)


def test_a_drain_that_waits_for_a_queued_call_ends_when_that_will_not_come():
    gate, clock = InFlightTracker(), ManualClock(auto_advance=False)
    queued, results = a_call(), []
    gate.admit(queued)
    gate.close("it was removed")
    drain = threading.Thread(
        target=lambda: results.append(gate.drain(30.0, clock, on_empty=lambda: results.append("empty")))
    )
    drain.start()
    clock.wait_for_waiters(1)
    gate.cancel_admission(queued)
    drain.join(10)
    assert results == ["empty", True]


def test_the_last_one_out_tells_who_waited_and_runs_what_was_left():
    gate, clock, results = InFlightTracker(), ManualClock(), []
    gate.enter()
    queued = a_call()
    gate.admit(queued)
    gate.close("it was removed")
    assert not gate.drain(1.0, clock, on_empty=lambda: results.append("too early"))
    gate.cancel_admission(queued)
    assert gate.drain(1.0, clock, on_empty=lambda: results.append("last one out"))
    assert results == []
    gate.leave(True, 0.0, 1)
    assert results == ["last one out"]


def test_a_lull_ends_a_drain_although_somebody_came_in_again():
    """A gate that is not closed may fill again before the drain has woken up."""
    gate, entered, leave = InFlightTracker(), threading.Event(), threading.Event()

    def other():
        gate.enter()
        entered.set()
        leave.wait(10)
        gate.leave(True, 0.0, 1)
        gate.enter()

    thread = threading.Thread(target=other)
    thread.start()
    entered.wait(10)

    class Clock(ManualClock):
        def wait(self, waiter, timeout):
            leave.set()
            thread.join(10)
            return waiter.is_set()

    assert gate.drain(30.0, Clock())
    assert gate.in_flight == 1


def test_a_closed_gate_says_why_to_who_would_queue():
    gate = InFlightTracker()
    gate.close("it was removed")
    late = a_call()
    with pytest.raises(PluginClosedError, match="it was removed"):
        gate.admit(late)
    assert late.expected is False


def test_marks_of_a_call_tell_where_it_is():
    gate, call = InFlightTracker(), a_call()
    gate.admit(call)
    assert (call.expected, call.inside) == (True, False)
    gate.enter(call)
    assert (call.expected, call.inside) == (False, True)
    gate.leave(True, 0.0, 1, call)
    assert (call.expected, call.inside) == (False, False)
    gate.admit(call)
    gate.cancel_admission(call)
    assert call.expected is False


def test_holds_a_thread_as_long_as_a_call_of_it_is_inside():
    gate, here = InFlightTracker(), threading.get_ident()
    gate.enter()
    gate.enter()
    gate.leave(True, 0.0, 1)
    assert gate.holds(here)
    on_a_thread(lambda: gate.leave(True, 0.0, 1))  # never entered there: counts for nothing
    assert gate.holds(here)
    gate.leave(False, 0.0, 1)
    assert not gate.holds(here)
    assert gate.counts.metrics().requests_failure == 1


def test_a_child_can_drain_anew():
    gate = InFlightTracker()
    gate.enter()
    gate.drain(0.0, ManualClock(), on_empty=lambda: pytest.fail("the parent's"))
    gate.after_fork_in_child()
    gate.enter()
    gate.leave(True, 0.0, 1)
    gate.close("over")
    emptied = []
    assert gate.drain(0.0, ManualClock(), on_empty=lambda: emptied.append(1))
    assert emptied == [1]


def test_a_drain_waits_for_each_of_the_queued_calls():
    gate, calls = InFlightTracker(), [a_call(), a_call()]
    for call in calls:
        gate.admit(call)
    gate.close("it was removed")
    gate.cancel_admission(calls[0])
    assert not gate.drain(0.0, ManualClock())
    gate.cancel_admission(calls[1])
    assert gate.drain(0.0, ManualClock())


def test_a_child_expects_none_of_the_calls_that_its_parent_had_queued():
    gate, queued, coming = InFlightTracker(), a_call(), a_call()
    gate.admit(queued)
    gate.admit(coming)
    gate.after_fork_in_child()
    gate.cancel_admission(queued)
    gate.enter(coming)
    assert gate.in_flight == 1
    gate.leave(True, 0.0, 1, coming)
    emptied = []
    assert gate.drain(0.0, ManualClock(), on_empty=lambda: emptied.append(1))
    assert emptied == [1]


def test_a_drain_that_is_over_leaves_nothing_behind():
    gate, clock = InFlightTracker(), ManualClock()
    on_a_thread(gate.enter)
    for _ in range(3):
        assert not gate.drain(1.0, clock)
    assert not gate._drains
    assert gate.drain(0.0, clock) is False


def test_all_that_was_left_to_the_last_call_out_is_done_in_its_order():
    gate, done = InFlightTracker(), []
    gate.enter()
    for name in ("first", "second", "third"):
        assert gate.drain(0.0, on_empty=lambda name=name: done.append(name))
    assert done == []
    gate.leave(True, 0.0, 1)
    assert done == ["first", "second", "third"]


def test_what_an_interrupt_broke_off_is_done_by_who_comes_next():
    gate, call, done = InFlightTracker(), a_call(), []
    gate.enter(call)

    def close():
        done.append("begun")
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append("closed")

    assert gate.drain(0.0, on_empty=close)
    with pytest.raises(KeyboardInterrupt):
        gate.leave(True, 0.0, 1, call)
    gate.leave(True, 0.0, 1, call)
    assert done == ["begun", "begun", "closed"]
    gate.leave(True, 0.0, 1, call)
    assert done == ["begun", "begun", "closed"]
    assert gate.counts.metrics().requests_success == 1


def test_failures_are_counted_by_their_codes():
    gate = InFlightTracker()
    for code in ("A", "B", "A", ""):
        gate.enter()
        gate.leave(False, 0.0, 1, None, code)
    gate.enter()
    gate.leave(True, 0.0, 1, None, "C")
    found = gate.counts.metrics()
    assert found.errors == {"A": 2, "B": 1}
    gate.enter()
    gate.leave(False, 0.0, 1, None, "B")
    assert found.errors == {"A": 2, "B": 1}, "of its moment"


def test_a_call_that_goes_on_elsewhere_counts_there_alone():
    gate = InFlightTracker()
    for number in range(1, 4):
        gate.enter()
        gate.leave(None, 0.5, 2, None, "CODE")
        assert gate.transferred == number
    found = gate.counts.metrics()
    assert (
        gate.in_flight,
        found.requests_success,
        found.requests_failure,
        found.attempts_total,
        found.request_duration,
    ) == (0, 0, 0, 0, 0.0)
    assert (found.errors, sum(found.latencies.counts.values())) == ({}, 0)
    gate.enter()
    gate.leave(True, 0.5, 2)
    assert (gate.transferred, gate.counts.metrics().requests_success, gate.counts.metrics().attempts_total) == (3, 1, 2)


def test_latencies_are_counted_of_what_was_sent():
    gate = InFlightTracker()
    for elapsed, attempts in ((0.010, 1), (0.010, 2), (0.5, 1), (0.0001, 0)):  # the last was refused here
        gate.enter()
        gate.leave(True, elapsed, attempts)
    assert gate.counts.metrics().latencies.counts == {bucket_of(0.010): 2, bucket_of(0.5): 1}
