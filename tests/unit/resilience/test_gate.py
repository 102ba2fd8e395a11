from __future__ import annotations

import threading

import pytest

from goplugins.errors import PluginClosedError
from goplugins.models.metrics import Latencies, PluginMetrics, bucket_of
from goplugins.resilience import InFlightTracker
from goplugins.testing import ManualClock
from tests.processes import in_child, run


class Inside:
    """A call of another thread, inside until it is let go."""

    def __init__(self, gate):
        self.gate = gate
        self.entered, self.go = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        assert self.entered.wait(10)

    def _run(self):
        self.gate.enter()
        self.entered.set()
        self.go.wait(10)
        self.gate.leave(True, 0.0, 1)

    def end(self):
        self.go.set()
        self.thread.join(10)


@pytest.fixture
def gate():
    return InFlightTracker()


def test_counts_calls_and_outcomes(gate):
    gate.enter()
    gate.enter()
    assert gate.in_flight == 2
    gate.leave(True, 0.5, 1)
    gate.leave(False, 1.5, 3)
    latencies = Latencies({bucket_of(0.5): 1, bucket_of(1.5): 1})
    assert gate.counts.metrics() == PluginMetrics(
        requests_total=2,
        requests_success=1,
        requests_failure=1,
        request_duration=2.0,
        attempts_total=4,
        latencies=latencies,
    )


def test_what_was_refused_here_says_nothing_of_latency(gate):
    gate.enter()
    gate.leave(False, 0.000_02, 0)
    assert gate.counts.metrics().requests_failure == 1
    assert len(gate.counts.metrics().latencies) == 0


def test_a_closed_gate_refuses_with_its_reason(gate):
    assert not gate.closed
    assert gate.close("it was removed")
    assert not gate.close("something else")
    assert gate.closed
    for _ in range(2):
        with pytest.raises(PluginClosedError, match="it was removed"):
            gate.enter()
    assert gate.counts.metrics() == PluginMetrics()


def test_nested_calls_of_admitted_calls_are_admitted(gate):
    gate.enter()
    gate.close("it was removed")
    gate.enter()
    gate.leave(True, 0.0, 1)
    gate.leave(True, 0.0, 1)
    with pytest.raises(PluginClosedError):
        gate.enter()


def test_another_threads_call_is_not_nested(gate):
    other = Inside(gate)
    gate.close("it was removed")
    with pytest.raises(PluginClosedError):
        gate.enter()
    other.end()


def test_drain_of_an_empty_gate_is_immediate(gate):
    clock = ManualClock()
    emptied = []
    gate.close("x")
    assert gate.drain(30.0, clock, on_empty=lambda: emptied.append(1))
    assert clock.monotonic() == 0.0
    assert emptied == [1]


def test_known_fault_drain_slept_the_full_timeout(gate):
    clock = ManualClock(auto_advance=False)  # that never moves: only the last call can end the wait
    calls = [Inside(gate) for _ in range(3)]
    gate.close("x")
    result, emptied = [], []
    drainer = threading.Thread(
        target=lambda: result.append(gate.drain(30.0, clock, on_empty=lambda: emptied.append(1)))
    )
    drainer.start()
    clock.wait_for_waiters(1)
    calls[0].end()
    calls[1].end()
    assert (result, emptied) == ([], [])
    calls[2].end()
    drainer.join(10)
    assert (result, emptied) == ([True], [1])


def test_drain_gives_up_at_its_timeout(gate):
    clock = ManualClock()
    call = Inside(gate)
    gate.close("x")
    emptied = []
    assert not gate.drain(30.0, clock, on_empty=lambda: emptied.append(1))
    assert clock.monotonic() == 30.0
    call.end()
    assert emptied == [], "whoever got False acts on its own"


def test_a_drain_never_waits_for_calls_on_its_own_stack_and_the_last_one_out_closes(gate):
    clock = ManualClock()
    emptied = []
    gate.enter()
    gate.enter()  # a plugin call within a plugin call, that unregisters its own plugin:
    gate.close("x")
    assert gate.drain(30.0, clock, on_empty=lambda: emptied.append(1))
    assert clock.monotonic() == 0.0
    gate.leave(True, 0.0, 1)
    assert emptied == []
    gate.leave(True, 0.0, 1)
    assert emptied == [1]


def test_a_drain_on_a_calls_own_stack_still_waits_for_the_others(gate):
    clock = ManualClock(auto_advance=False)
    other = Inside(gate)
    log = []

    def unregister_from_within():
        gate.enter()
        gate.close("x")
        log.append(gate.drain(30.0, clock, on_empty=lambda: log.append("closed")))
        gate.leave(True, 0.0, 1)

    thread = threading.Thread(target=unregister_from_within)
    thread.start()
    clock.wait_for_waiters(1)
    assert log == []
    other.end()
    thread.join(10)
    assert log == [True, "closed"]


def test_a_failing_callback_is_logged_and_harms_no_call(gate, caplog):
    def fail():
        raise OSError("already gone")

    gate.enter()
    gate.close("x")
    gate.drain(1.0, ManualClock(), on_empty=fail)
    gate.leave(True, 0.0, 1)
    assert "already gone" in caplog.text


def test_no_call_slips_in_between_closed_and_empty():
    for _ in range(50):
        gate = InFlightTracker()
        start = threading.Barrier(9)
        inside_after_drain = []
        drained = threading.Event()

        def call(gate=gate, start=start, inside=inside_after_drain, drained=drained):
            start.wait()
            for _ in range(20):
                try:
                    gate.enter()
                except PluginClosedError:
                    return
                if drained.is_set():
                    inside.append(1)
                gate.leave(True, 0.0, 1)

        threads = [threading.Thread(target=call) for _ in range(8)]
        for thread in threads:
            thread.start()
        start.wait()
        gate.close("x")
        assert gate.drain(10.0)
        drained.set()
        for thread in threads:
            thread.join()
        assert inside_after_drain == []
        assert gate.in_flight == 0


def test_after_a_fork_the_child_ignores_the_exits_of_the_parents_calls(gate):
    other = Inside(gate)
    gate.enter()
    gate.after_fork_in_child()
    gate.leave(True, 0.0, 1)
    assert gate.counts.metrics() == PluginMetrics()
    gate.close("x")
    assert gate.drain(30.0, ManualClock(auto_advance=False))
    other.end()


def fork_with_calls_in_flight():
    gate = InFlightTracker()
    other = Inside(gate)
    gate.enter()

    def child():
        gate.leave(True, 0.0, 1)
        gate.enter()
        return gate.in_flight

    found = in_child(child)
    gate.leave(True, 0.0, 1)
    other.end()
    return found, gate.counts.metrics().requests_success


def test_a_fork_renews_the_tracker():
    assert run(fork_with_calls_in_flight) == [1, 2]
