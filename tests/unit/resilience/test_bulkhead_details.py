"""What a bulkhead's block reports of itself, and what a fork of a fork leaves."""

from __future__ import annotations

import threading

import pytest

from goplugins.config import BulkheadConfig
from goplugins.errors import (
    BulkheadFullError,
    InvalidConfigError,
    PluginClosedError,
    PluginExecutionError,
    PluginTimeoutError,
)
from goplugins.resilience import Bulkhead
from goplugins.runtime.cancellation import AttemptCancelledError, Cancellation
from goplugins.runtime.deadline import CancellableDeadline, Deadline
from goplugins.testing import ManualClock


class Observed(Bulkhead):
    """Notes what its places report when they come back."""

    def release(self, place, elapsed=0.0, ok=None):
        self.seen = (elapsed, ok)
        super().release(place, elapsed, ok)


@pytest.mark.parametrize(
    ("error", "ok"), [(None, True), (PluginTimeoutError("late"), False), (PluginExecutionError("no"), None)], ids=str
)
def test_a_block_tells_how_long_it_took_and_how_it_ended(error, ok):
    clock = ManualClock(500.0)
    bulkhead = Observed(BulkheadConfig(max_concurrent=1), clock=clock)
    try:
        with bulkhead.acquire():
            clock.advance(0.25)
            if error is not None:
                raise error
    except type(error or ValueError()):
        pass
    assert bulkhead.seen == (0.25, ok)
    assert bulkhead.in_use == 0


def test_a_block_whose_end_is_interrupted_gives_its_place_back_all_the_same():
    class Interrupted(Bulkhead):
        def release(self, place, elapsed=0.0, ok=None):
            if elapsed:
                raise KeyboardInterrupt
            super().release(place, elapsed, ok)

    clock = ManualClock()
    bulkhead = Interrupted(BulkheadConfig(max_concurrent=1), clock=clock)
    place = bulkhead.acquire()
    with pytest.raises(KeyboardInterrupt), place:
        clock.advance(1.0)
    assert bulkhead.in_use == 0
    assert place.slot is None


def test_a_place_of_the_parent_or_of_its_parent_frees_none_in_the_child():
    bulkhead = Bulkhead(BulkheadConfig(max_concurrent=1))
    places = [bulkhead.acquire()]
    for _ in range(2):
        bulkhead.after_fork_in_child()
        places.append(bulkhead.acquire())
    for place in places[:2]:
        bulkhead.release(place)
    assert bulkhead.in_use == 1
    bulkhead.release(places[2])
    assert bulkhead.in_use == 0
    assert len(bulkhead._free) == 1


# --- what a refusal says ------------------------------------------------------------------------------------------


def full(**fields):
    bulkhead = Bulkhead(BulkheadConfig(max_concurrent=1, **fields), clock=ManualClock())
    return bulkhead, bulkhead.acquire()


def test_who_may_not_wait_is_told_so():
    bulkhead, place = full()
    with pytest.raises(BulkheadFullError) as caught:
        bulkhead.acquire()
    assert caught.value.message == "its limit of 1 calls at once is reached, and max_waiting is 0"
    assert caught.value.plugin is None
    bulkhead.release(place)


def test_who_finds_the_queue_full_is_told_how_many_wait():
    clock = ManualClock(auto_advance=False)
    bulkhead = Bulkhead(BulkheadConfig(max_concurrent=1, max_waiting=1), clock=clock)
    place = bulkhead.acquire()
    waiting = threading.Thread(target=lambda: bulkhead.release(bulkhead.acquire()))
    waiting.start()
    clock.wait_for_waiters(1)
    with pytest.raises(BulkheadFullError) as caught:
        bulkhead.acquire()
    assert caught.value.message == "its limit of 1 calls at once is reached, and 1 wait already"
    bulkhead.release(place)
    waiting.join(10)


@pytest.mark.parametrize("seconds", [0.25, 0.5])
def test_who_waited_in_vain_is_told_so(seconds):
    bulkhead, place = full(max_waiting=1, max_wait=seconds)
    with pytest.raises(BulkheadFullError) as caught:
        bulkhead.acquire()
    assert caught.value.message == "its limit of 1 calls at once is reached, and no slot became free in time"
    assert bulkhead.clock.monotonic() == seconds
    bulkhead.release(place)


@pytest.mark.parametrize("name", ["geo", ""])
def test_who_comes_after_the_close_is_told_so(name):
    bulkhead = Bulkhead(BulkheadConfig(max_concurrent=1), clock=ManualClock(), name=name)
    bulkhead.close()
    with pytest.raises(PluginClosedError) as caught:
        bulkhead.acquire()
    assert caught.value.message == "it was closed while the call waited for its bulkhead"
    assert caught.value.plugin == (name or None)


@pytest.mark.parametrize(
    "fields",
    [
        {"max_concurrent": 1, "min_concurrent": 9},
        {"max_concurrent": 4, "min_concurrent": 4, "adaptive": True},
        {"max_concurrent": 1, "min_concurrent": 1, "adaptive": True},
        {"max_concurrent": 1, "max_wait": 0.001},
        {"max_concurrent": 1, "max_waiting": 0, "max_wait": 0.25},
    ],
    ids=str,
)
def test_the_narrowest_limits_that_make_sense_are_taken(fields):
    assert Bulkhead(BulkheadConfig(**fields)).limit >= 1


@pytest.mark.parametrize("cancelled", [True, False])
def test_an_attempt_that_has_lost_waits_for_no_place(cancelled):
    clock, lost, ends = ManualClock(auto_advance=False), Cancellation(), []
    bulkhead = Bulkhead(BulkheadConfig(max_concurrent=1, max_waiting=5), clock=clock)
    place = bulkhead.acquire()

    def wait():
        try:
            ends.append(bulkhead.acquire(CancellableDeadline(100.0, clock, lost)))
        except AttemptCancelledError as error:
            ends.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    clock.wait_for_waiters(1)
    if cancelled:
        lost.cancel()
        waiting.join(10)
        assert isinstance(ends[0], AttemptCancelledError)
        assert (bulkhead.in_use, bulkhead.waiting) == (1, 0)
    bulkhead.release(place)
    waiting.join(10)
    assert (bulkhead.in_use, bulkhead.waiting) == (0 if cancelled else 1, 0)


def test_an_attempt_that_has_lost_before_it_waits_does_not_wait_at_all():
    clock, lost = ManualClock(auto_advance=False), Cancellation()
    bulkhead = Bulkhead(BulkheadConfig(max_concurrent=1, max_waiting=5), clock=clock)
    place = bulkhead.acquire()
    lost.cancel()
    with pytest.raises(AttemptCancelledError):
        bulkhead.acquire(CancellableDeadline(100.0, clock, lost))
    assert (bulkhead.in_use, bulkhead.waiting, bulkhead.refused) == (1, 0, 0)
    bulkhead.release(place)
    assert bulkhead.in_use == 0


@pytest.mark.parametrize("behind", [0, 1])
def test_a_place_that_comes_as_the_attempt_loses_goes_to_the_next(behind):
    lost, done = Cancellation(), []

    class Handing(ManualClock):
        """The place comes free and the other attempt answers while this one waits."""

        def wait(self, waiter, timeout):
            if threading.current_thread() is not threading.main_thread():
                return super().wait(waiter, timeout)
            if behind:
                next_one.start()
                self.wait_for_waiters(1)
            bulkhead.release(place)
            lost.cancel()
            return True

    clock = Handing(auto_advance=False)
    bulkhead = Bulkhead(BulkheadConfig(max_concurrent=1, max_waiting=5), clock=clock)
    next_one = threading.Thread(target=lambda: done.append(bulkhead.acquire()), daemon=True)
    place = bulkhead.acquire()
    with pytest.raises(AttemptCancelledError):
        bulkhead.acquire(CancellableDeadline(100.0, clock, lost))
    if behind:
        next_one.join(10)
        assert done, "it came before the lost one, and would still wait"
    assert (bulkhead.in_use, bulkhead.waiting) == (behind, 0)
    for taken in done:
        bulkhead.release(taken)
    with bulkhead.acquire():
        assert bulkhead.in_use == 1


@pytest.mark.parametrize("may_lose", [True, False])
def test_who_waits_for_a_place_when_the_plugin_closes_is_told_so(may_lose):
    clock, closing, caught = ManualClock(auto_advance=False), threading.Event(), []
    bulkhead = Bulkhead(BulkheadConfig(max_concurrent=1, max_waiting=5), clock=clock)
    place = bulkhead.acquire()
    deadline = CancellableDeadline(100.0, clock, Cancellation()) if may_lose else Deadline(100.0, clock)

    def wait():
        with pytest.raises(PluginClosedError) as error:
            bulkhead.acquire(deadline, closing=closing)
        caught.append(error.value)

    waiting = threading.Thread(target=wait)
    waiting.start()
    clock.wait_for_waiters(1)
    closing.set()
    bulkhead.wake()
    waiting.join(10)
    assert caught[0].message == "it was closed while the call waited for its bulkhead"
    assert bulkhead.waiting == 0
    bulkhead.release(place)


def test_every_refusal_is_counted():
    bulkhead, place = full()
    for number in range(1, 4):
        with pytest.raises(BulkheadFullError):
            bulkhead.acquire()
        assert bulkhead.refused == number
    bulkhead.release(place)


def test_an_attempt_that_may_lose_and_does_not_waits_like_any_other():
    clock, lost = ManualClock(), Cancellation()
    bulkhead = Bulkhead(BulkheadConfig(max_concurrent=1, max_waiting=5, max_wait=60.0), clock=clock)
    place = bulkhead.acquire()
    with pytest.raises(BulkheadFullError):
        bulkhead.acquire(CancellableDeadline(2.5, clock, lost))
    assert clock.monotonic() == 2.5
    bulkhead.release(place)
    with bulkhead.acquire(CancellableDeadline(5.0, clock, lost)):
        lost.cancel()  # too late for the bulkhead: the attempt is inside, and its wire hears of it
        assert bulkhead.in_use == 1
    assert bulkhead.in_use == 0


def test_the_deadline_bounds_the_wait_for_a_place():
    clock = ManualClock()
    bulkhead = Bulkhead(BulkheadConfig(max_concurrent=1, max_waiting=1, max_wait=9.0), clock=clock)
    place = bulkhead.acquire()
    with pytest.raises(BulkheadFullError):
        bulkhead.acquire(Deadline.after(2.5, clock))
    assert clock.monotonic() == 2.5
    bulkhead.release(place)


def test_a_bulkhead_without_a_limit_says_what_is_missing():
    with pytest.raises(InvalidConfigError, match="max_concurrent: is missing"):
        Bulkhead(BulkheadConfig())
