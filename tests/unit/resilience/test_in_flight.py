"""InFlightTracker: counts, closing, nested and admitted calls, draining, forks."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from goplugins.errors import PluginClosedError
from goplugins.models.metrics import Latencies, PluginMetrics, bucket_of
from goplugins.resilience import InFlightTracker
from goplugins.testing import ManualClock
from tests.processes import in_child, run


class OtherCall:
    """A call of another thread, in flight until :meth:`end`."""

    def __init__(self, tracker):
        self.tracker = tracker
        self.entered, self.go = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        assert self.entered.wait(10)

    def _run(self):
        self.tracker.enter()
        self.entered.set()
        self.go.wait(10)
        self.tracker.leave(True, 0.0, 1)

    def end(self):
        self.go.set()
        self.thread.join(10)


def a_call():
    return SimpleNamespace(inside=False, expected=False, nested=False, operation="")


@pytest.fixture
def tracker():
    return InFlightTracker()


def on_a_thread(work):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10)


# --- counts ----------------------------------------------------------------------------------------------------------


def test_counts_calls_and_results(tracker):
    tracker.enter()
    tracker.enter()
    assert tracker.in_flight == 2
    tracker.leave(True, 0.5, 1)
    tracker.leave(False, 1.5, 3)
    latencies = Latencies({bucket_of(0.5): 1, bucket_of(1.5): 1})
    assert tracker.counts.metrics() == PluginMetrics(
        requests_total=2,
        requests_success=1,
        requests_failure=1,
        request_duration=2.0,
        attempts_total=4,
        latencies=latencies,
    )


def test_a_call_without_attempts_has_no_latency(tracker):
    tracker.enter()
    tracker.leave(False, 0.000_02, 0)
    assert tracker.counts.metrics().requests_failure == 1
    assert len(tracker.counts.metrics().latencies) == 0


def test_latencies_of_calls_with_attempts():
    tracker = InFlightTracker()
    for elapsed, attempts in ((0.010, 1), (0.010, 2), (0.5, 1), (0.0001, 0)):  # the last one was not sent
        tracker.enter()
        tracker.leave(True, elapsed, attempts)
    assert tracker.counts.metrics().latencies.counts == {bucket_of(0.010): 2, bucket_of(0.5): 1}


def test_failures_by_code():
    tracker = InFlightTracker()
    for code in ("A", "B", "A", ""):
        tracker.enter()
        tracker.leave(False, 0.0, 1, None, code)
    tracker.enter()
    tracker.leave(True, 0.0, 1, None, "C")
    found = tracker.counts.metrics()
    assert found.errors == {"A": 2, "B": 1}
    tracker.enter()
    tracker.leave(False, 0.0, 1, None, "B")
    assert found.errors == {"A": 2, "B": 1}, "a snapshot"


def test_a_transferred_call_is_not_counted():
    tracker = InFlightTracker()
    for number in range(1, 4):
        tracker.enter()
        tracker.leave(None, 0.5, 2, None, "CODE")
        assert tracker.transferred == number
    found = tracker.counts.metrics()
    assert (
        tracker.in_flight,
        found.requests_success,
        found.requests_failure,
        found.attempts_total,
        found.request_duration,
    ) == (0, 0, 0, 0, 0.0)
    assert (found.errors, sum(found.latencies.counts.values())) == ({}, 0)
    tracker.enter()
    tracker.leave(True, 0.5, 2)
    assert (
        tracker.transferred,
        tracker.counts.metrics().requests_success,
        tracker.counts.metrics().attempts_total,
    ) == (3, 1, 2)


def test_holds_a_thread_with_a_call_in_flight():
    tracker, here = InFlightTracker(), threading.get_ident()
    tracker.enter()
    tracker.enter()
    tracker.leave(True, 0.0, 1)
    assert tracker.holds(here)
    on_a_thread(lambda: tracker.leave(True, 0.0, 1))  # no call of that thread is in flight
    assert tracker.holds(here)
    tracker.leave(False, 0.0, 1)
    assert not tracker.holds(here)
    assert tracker.counts.metrics().requests_failure == 1


# --- closing ---------------------------------------------------------------------------------------------------------


def test_a_closed_tracker_rejects_calls_with_its_reason(tracker):
    assert not tracker.closed
    assert tracker.close("it was removed")
    assert not tracker.close("something else")
    assert tracker.closed
    for _ in range(2):
        with pytest.raises(PluginClosedError, match="it was removed"):
            tracker.enter()
    assert tracker.counts.metrics() == PluginMetrics()


def test_nested_calls_are_admitted_after_close(tracker):
    tracker.enter()
    tracker.close("it was removed")
    tracker.enter()
    tracker.leave(True, 0.0, 1)
    tracker.leave(True, 0.0, 1)
    with pytest.raises(PluginClosedError):
        tracker.enter()


def test_a_call_of_another_thread_is_not_nested(tracker):
    other = OtherCall(tracker)
    tracker.close("it was removed")
    with pytest.raises(PluginClosedError):
        tracker.enter()
    other.end()


def test_a_closed_tracker_admits_no_later_call():
    tracker = InFlightTracker()
    tracker.close("it was removed")
    late = a_call()
    with pytest.raises(PluginClosedError, match="it was removed"):
        tracker.admit(late)
    assert late.expected is False


def test_the_state_of_a_call():
    tracker, call = InFlightTracker(), a_call()
    tracker.admit(call)
    assert (call.expected, call.inside) == (True, False)
    tracker.enter(call)
    assert (call.expected, call.inside) == (False, True)
    tracker.leave(True, 0.0, 1, call)
    assert (call.expected, call.inside) == (False, False)
    tracker.admit(call)
    tracker.cancel_admission(call)
    assert call.expected is False


# --- draining --------------------------------------------------------------------------------------------------------


def test_a_drain_without_calls_returns_at_once(tracker):
    clock = ManualClock()
    emptied = []
    tracker.close("x")
    assert tracker.drain(30.0, clock, on_empty=lambda: emptied.append(1))
    assert clock.monotonic() == 0.0
    assert emptied == [1]


def test_known_fault_drain_slept_the_full_timeout(tracker):
    clock = ManualClock(auto_advance=False)  # never moves: only the last call can end the wait
    calls = [OtherCall(tracker) for _ in range(3)]
    tracker.close("x")
    result, emptied = [], []
    drainer = threading.Thread(
        target=lambda: result.append(tracker.drain(30.0, clock, on_empty=lambda: emptied.append(1)))
    )
    drainer.start()
    clock.wait_for_waiters(1)
    calls[0].end()
    calls[1].end()
    assert (result, emptied) == ([], [])
    calls[2].end()
    drainer.join(10)
    assert (result, emptied) == ([True], [1])


def test_a_drain_ends_at_its_timeout(tracker):
    clock = ManualClock()
    call = OtherCall(tracker)
    tracker.close("x")
    emptied = []
    assert not tracker.drain(30.0, clock, on_empty=lambda: emptied.append(1))
    assert clock.monotonic() == 30.0
    call.end()
    assert emptied == [], "not called after a drain that returned False"


def test_drains_that_time_out_may_be_repeated():
    tracker, clock = InFlightTracker(), ManualClock()
    on_a_thread(tracker.enter)
    for _ in range(3):
        assert not tracker.drain(1.0, clock)
    assert tracker.drain(0.0, clock) is False


def test_a_drain_does_not_wait_for_calls_on_its_own_stack(tracker):
    clock = ManualClock()
    emptied = []
    tracker.enter()
    tracker.enter()  # a plugin call within a plugin call that unregisters its own plugin
    tracker.close("x")
    assert tracker.drain(30.0, clock, on_empty=lambda: emptied.append(1))
    assert clock.monotonic() == 0.0
    tracker.leave(True, 0.0, 1)
    assert emptied == []
    tracker.leave(True, 0.0, 1)
    assert emptied == [1]


def test_a_drain_within_a_call_waits_for_calls_of_other_threads(tracker):
    clock = ManualClock(auto_advance=False)
    other = OtherCall(tracker)
    log = []

    def unregister_from_within():
        tracker.enter()
        tracker.close("x")
        log.append(tracker.drain(30.0, clock, on_empty=lambda: log.append("closed")))
        tracker.leave(True, 0.0, 1)

    thread = threading.Thread(target=unregister_from_within)
    thread.start()
    clock.wait_for_waiters(1)
    assert log == []
    other.end()
    thread.join(10)
    assert log == [True, "closed"]


def test_a_drain_waits_for_each_admitted_call():
    tracker, calls = InFlightTracker(), [a_call(), a_call()]
    for call in calls:
        tracker.admit(call)
    tracker.close("it was removed")
    tracker.cancel_admission(calls[0])
    assert not tracker.drain(0.0, ManualClock())
    tracker.cancel_admission(calls[1])
    assert tracker.drain(0.0, ManualClock())


def test_a_drain_ends_when_an_admitted_call_is_cancelled():
    tracker, clock = InFlightTracker(), ManualClock(auto_advance=False)
    admitted, results = a_call(), []
    tracker.admit(admitted)
    tracker.close("it was removed")
    drain = threading.Thread(
        target=lambda: results.append(tracker.drain(30.0, clock, on_empty=lambda: results.append("empty")))
    )
    drain.start()
    clock.wait_for_waiters(1)
    tracker.cancel_admission(admitted)
    drain.join(10)
    assert results == ["empty", True]


def test_a_drain_succeeds_if_calls_enter_again_before_it_wakes_up():
    """If the tracker is not closed."""
    tracker, entered, leave = InFlightTracker(), threading.Event(), threading.Event()

    def other():
        tracker.enter()
        entered.set()
        leave.wait(10)
        tracker.leave(True, 0.0, 1)
        tracker.enter()

    thread = threading.Thread(target=other)
    thread.start()
    entered.wait(10)

    class Clock(ManualClock):
        def wait(self, waiter, timeout):
            leave.set()
            thread.join(10)
            return waiter.is_set()

    assert tracker.drain(30.0, Clock())
    assert tracker.in_flight == 1


def test_a_drain_that_timed_out_runs_no_callback():
    tracker, clock, results = InFlightTracker(), ManualClock(), []
    tracker.enter()
    admitted = a_call()
    tracker.admit(admitted)
    tracker.close("it was removed")
    assert not tracker.drain(1.0, clock, on_empty=lambda: results.append("called too early"))
    tracker.cancel_admission(admitted)
    assert tracker.drain(1.0, clock, on_empty=lambda: results.append("empty"))
    assert results == []
    tracker.leave(True, 0.0, 1)
    assert results == ["empty"]


def test_callbacks_run_in_order_when_the_last_call_leaves():
    tracker, done = InFlightTracker(), []
    tracker.enter()
    for name in ("first", "second", "third"):
        assert tracker.drain(0.0, on_empty=lambda name=name: done.append(name))
    assert done == []
    tracker.leave(True, 0.0, 1)
    assert done == ["first", "second", "third"]


def test_an_interrupted_callback_runs_again_with_the_next_leave():
    tracker, call, done = InFlightTracker(), a_call(), []
    tracker.enter(call)

    def close():
        done.append("begun")
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append("closed")

    assert tracker.drain(0.0, on_empty=close)
    with pytest.raises(KeyboardInterrupt):
        tracker.leave(True, 0.0, 1, call)
    tracker.leave(True, 0.0, 1, call)
    assert done == ["begun", "begun", "closed"]
    tracker.leave(True, 0.0, 1, call)
    assert done == ["begun", "begun", "closed"]
    assert tracker.counts.metrics().requests_success == 1


def test_an_exception_of_a_callback_is_logged(tracker, caplog):
    def fail():
        raise OSError("already gone")

    tracker.enter()
    tracker.close("x")
    tracker.drain(1.0, ManualClock(), on_empty=fail)
    tracker.leave(True, 0.0, 1)
    assert "already gone" in caplog.text


def test_no_call_enters_after_a_drain():
    for _ in range(50):
        tracker = InFlightTracker()
        start = threading.Barrier(9)
        inside_after_drain = []
        drained = threading.Event()

        def call(tracker=tracker, start=start, inside=inside_after_drain, drained=drained):
            start.wait()
            for _ in range(20):
                try:
                    tracker.enter()
                except PluginClosedError:
                    return
                if drained.is_set():
                    inside.append(1)
                tracker.leave(True, 0.0, 1)

        threads = [threading.Thread(target=call) for _ in range(8)]
        for thread in threads:
            thread.start()
        start.wait()
        tracker.close("x")
        assert tracker.drain(10.0)
        drained.set()
        for thread in threads:
            thread.join()
        assert inside_after_drain == []
        assert tracker.in_flight == 0


# --- forks -----------------------------------------------------------------------------------------------------------


def test_a_child_ignores_the_end_of_its_parents_calls(tracker):
    other = OtherCall(tracker)
    tracker.enter()
    tracker.after_fork_in_child()
    tracker.leave(True, 0.0, 1)
    assert tracker.counts.metrics() == PluginMetrics()
    tracker.close("x")
    assert tracker.drain(30.0, ManualClock(auto_advance=False))
    other.end()


def test_a_child_drops_its_parents_callbacks():
    tracker = InFlightTracker()
    tracker.enter()
    tracker.drain(0.0, ManualClock(), on_empty=lambda: pytest.fail("a callback of the parent"))
    tracker.after_fork_in_child()
    tracker.enter()
    tracker.leave(True, 0.0, 1)
    tracker.close("over")
    emptied = []
    assert tracker.drain(0.0, ManualClock(), on_empty=lambda: emptied.append(1))
    assert emptied == [1]


def test_a_child_forgets_admitted_calls_of_its_parent():
    tracker, admitted, coming = InFlightTracker(), a_call(), a_call()
    tracker.admit(admitted)
    tracker.admit(coming)
    tracker.after_fork_in_child()
    tracker.cancel_admission(admitted)
    tracker.enter(coming)
    assert tracker.in_flight == 1
    tracker.leave(True, 0.0, 1, coming)
    emptied = []
    assert tracker.drain(0.0, ManualClock(), on_empty=lambda: emptied.append(1))
    assert emptied == [1]


def fork_with_calls_in_flight():
    tracker = InFlightTracker()
    other = OtherCall(tracker)
    tracker.enter()

    def child():
        tracker.leave(True, 0.0, 1)
        tracker.enter()
        return tracker.in_flight

    found = in_child(child)
    tracker.leave(True, 0.0, 1)
    other.end()
    return found, tracker.counts.metrics().requests_success


def test_a_fork_renews_the_tracker():
    assert run(fork_with_calls_in_flight) == [1, 2]
