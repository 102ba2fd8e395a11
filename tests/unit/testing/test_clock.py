"""ManualClock: moving it, waits with and without auto_advance."""

from __future__ import annotations

import threading

import pytest

from goplugins.errors import InvalidArgumentError
from goplugins.testing import ManualClock


def waiting(clock, event, timeout):
    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.append(clock.wait(event, timeout)), daemon=True)
    thread.start()
    return thread, results


def test_moves_only_by_advance():
    clock = ManualClock(5.0)
    assert clock.monotonic() == 5.0
    before = clock.time()
    clock.advance(2.5)
    assert clock.monotonic() == 7.5
    assert clock.time() - before == 2.5


@pytest.mark.parametrize("seconds", [-1.0, float("nan")])
def test_time_never_decreases(seconds):
    with pytest.raises(InvalidArgumentError):
        ManualClock().advance(seconds)


def test_auto_advance_ends_a_wait_at_once():
    clock = ManualClock()
    assert clock.wait(threading.Event(), 60.0) is False
    assert clock.monotonic() == 60.0


def test_a_set_event_costs_no_time():
    clock, event = ManualClock(), threading.Event()
    event.set()
    assert clock.wait(event, 60.0) is True
    assert clock.monotonic() == 0.0


def test_without_auto_advance_a_wait_ends_when_its_moment_comes():
    clock = ManualClock(auto_advance=False)
    thread, results = waiting(clock, threading.Event(), 10.0)
    clock.wait_for_waiters(1)
    clock.advance(9.9)
    assert clock.waiters == 1
    clock.advance(0.2)
    assert clock.waiters == 0, "at once, not when the thread runs again"
    thread.join(10)
    assert results == [False]


@pytest.mark.parametrize("timeout", [10.0, None])
def test_without_auto_advance_a_wait_ends_when_its_event_is_set(timeout):
    clock, event = ManualClock(auto_advance=False), threading.Event()
    thread, results = waiting(clock, event, timeout)
    clock.wait_for_waiters(1)
    event.set()
    assert clock.waiters == 0
    thread.join(10)
    assert results == [True]
    assert clock.monotonic() == 0.0


def test_a_timeout_of_0_never_blocks():
    assert ManualClock(auto_advance=False).wait(threading.Event(), 0.0) is False


def test_waiting_for_waiters_that_never_come_fails():
    with pytest.raises(TimeoutError, match="0 of 1"):
        ManualClock().wait_for_waiters(1, timeout=0.01)
