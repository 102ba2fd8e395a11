"""What every waiting thread waits for: it wakes when it is set, and at its time, whatever else happens."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator

import pytest

from goplugins.runtime.clock import SYSTEM_CLOCK, Event, Waiter
from tests.interrupts import interrupted_at


class Sleeper:
    """A thread that waits; how that ended."""

    def __init__(self, waiter: Waiter | Event, seconds: float | None = 30.0) -> None:
        self.woken: list[bool] = []
        self._thread = threading.Thread(target=lambda: self.woken.append(waiter.wait(seconds)), daemon=True)
        self._thread.start()
        time.sleep(0.005)

    def wakes(self) -> bool:
        self._thread.join(10)
        return self.woken == [True]


def test_a_set_event_wakes_present_and_later_waits():
    waiter = Waiter()
    sleeper = Sleeper(waiter)
    assert not waiter.is_set()
    waiter.set("an item")
    assert sleeper.wakes()
    assert waiter.is_set()
    assert waiter.wait(30.0)
    assert waiter.wait()
    assert waiter.take() == "an item"
    assert not waiter.is_set()
    assert not waiter.wait(0.0)


def test_a_wait_without_a_timeout_is_woken():
    waiter = Waiter()
    sleeper = Sleeper(waiter, None)
    waiter.set()
    assert sleeper.wakes()


def test_items_come_in_order_without_none():
    waiter = Waiter()
    for item in (None, 1, None, None, 2, None):
        waiter.set(item)
    assert [waiter.take() for _ in range(3)] == [1, 2, None]
    for item in (1, None, 2):
        waiter.set(item)
    waiter.clear()
    assert (waiter.is_set(), waiter.take()) == (False, None)


@pytest.mark.parametrize("before", ["new", "used", "timed out"])
def test_an_earlier_wake_up_ends_no_later_wait(before):
    waiter = Waiter()
    if before == "used":
        for _ in range(3):
            waiter.set("item")
        waiter.clear()
    elif before == "timed out":
        assert not waiter.wait(0.001)
        waiter.set("item")
        waiter.take()
    for seconds in (0.02, 0.0):
        began = time.monotonic()
        assert not waiter.wait(seconds)
        assert time.monotonic() - began >= seconds
    sleeper = Sleeper(waiter)
    waiter.set()
    assert sleeper.wakes()


def test_a_late_release_of_an_earlier_set_ends_no_later_wait():
    """A thread that lost the processor within set(); its item was taken meanwhile."""
    waiter, began = Waiter(), time.monotonic()
    late = threading.Timer(0.01, waiter._asleep.release)
    late.start()
    assert not waiter.wait(0.05)
    assert time.monotonic() - began >= 0.05
    late.join()


@pytest.fixture
def slow_handler() -> Iterator[float]:
    """A signal whose handler takes so many seconds, and raises nothing."""
    seconds = 0.05
    before = signal.signal(signal.SIGUSR1, lambda *_: time.sleep(seconds))
    yield seconds
    signal.signal(signal.SIGUSR1, before)


def test_a_signal_handler_that_outlasts_the_wait_does_not_make_it_endless(slow_handler):
    # signal.raise_signal would be too early: it has to hit in the wait.
    strike = threading.Timer(0.01, signal.pthread_kill, (threading.get_ident(), signal.SIGUSR1))
    strike.start()
    began = time.monotonic()
    assert not SYSTEM_CLOCK.wait(Waiter(), slow_handler / 2)
    assert time.monotonic() - began < 5.0
    strike.join()


def test_the_shortest_waits_end_on_a_busy_machine():
    over = threading.Event()
    burning = [threading.Thread(target=lambda: [None for _ in iter(over.is_set, True)], daemon=True) for _ in range(2)]
    for thread in burning:
        thread.start()
    try:
        for number in range(100):
            assert not Waiter().wait(1e-9 if number % 2 else 2e-6)
    finally:
        over.set()


@pytest.mark.parametrize("item", [None, "an item"])
def test_an_interrupt_within_set_leaves_no_thread_asleep_beside_an_item(item):
    for number in range(20):
        waiter = Waiter()
        sleeper = Sleeper(waiter)
        happened = interrupted_at(number, lambda: waiter.set(item), ("goplugins/runtime/clock.py",))  # noqa: B023
        if not waiter.is_set():
            waiter.set(item)  # nothing had come of it
        assert sleeper.wakes(), f"interrupt {number}"
        assert waiter.take() == item
        if not happened:
            break
    assert number >= 2


def test_an_interrupted_wait_leaves_the_waiter_usable():
    for number in range(50):
        waiter = Waiter()
        happened = interrupted_at(number, lambda: waiter.wait(0.0001), ("goplugins/runtime/clock.py",))  # noqa: B023
        assert not waiter.is_set()
        sleeper = Sleeper(waiter)
        waiter.set()
        assert sleeper.wakes(), f"interrupt {number}"
        if not happened:
            break
    assert number >= 4


def test_an_event_wakes_all_threads():
    event = Event()
    sleepers = [Sleeper(event) for _ in range(3)]
    assert not event.wait(0.001)
    event.set()
    assert all(sleeper.wakes() for sleeper in sleepers)
    assert event.wait(30.0)
