"""Bulkhead: limit, queue, release, closing, reconfiguration, cancelled attempts, forks."""

from __future__ import annotations

import threading

import pytest

from goplugins.config import BulkheadConfig
from goplugins.errors import (
    BulkheadFullError,
    InvalidConfigError,
    PluginClosedError,
    PluginExecutionError,
    PluginThrottledError,
    PluginTimeoutError,
    Replay,
    SaturatedError,
    Verdict,
)
from goplugins.resilience import Bulkhead
from goplugins.resilience.bulkhead import load_signal
from goplugins.runtime.cancellation import AttemptCancelledError, Cancellation
from goplugins.runtime.deadline import CancellableDeadline, Deadline
from goplugins.testing import ManualClock
from tests.processes import in_child, run


def make(most: int = 1, waiting: int = 0, clock: ManualClock | None = None, **more) -> Bulkhead:
    config = BulkheadConfig(max_concurrent=most, max_waiting=waiting, **more)
    return Bulkhead(config, clock=clock or ManualClock(auto_advance=False), name="geo")


def until(condition) -> None:
    for _ in range(5000):
        if condition():
            return
        threading.Event().wait(0.001)
    raise AssertionError("the condition did not become true")


class Caller:
    """A call of another thread, which waits, is in flight until :meth:`end`, or is refused."""

    def __init__(self, bulkhead: Bulkhead, deadline: float | None = None, closing: threading.Event | None = None):
        self.bulkhead, self.closing = bulkhead, closing
        self.deadline = None if deadline is None else Deadline(bulkhead.clock.monotonic() + deadline, bulkhead.clock)
        self.inside, self.go, self.error = threading.Event(), threading.Event(), None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        try:
            with self.bulkhead.acquire(self.deadline, closing=self.closing):
                self.inside.set()
                self.go.wait(10)
        except Exception as error:
            self.error = error

    def end(self):
        self.go.set()
        self.thread.join(10)
        return self.error


def queued(bulkhead: Bulkhead, count: int, **more) -> list[Caller]:
    """Starts callers that wait, in order."""
    callers = []
    before = bulkhead.waiting
    for number in range(1, count + 1):
        callers.append(Caller(bulkhead, **more))
        until(lambda number=number: bulkhead.waiting == before + number)
    return callers


# --- limit -----------------------------------------------------------------------------------------------------------


def test_admits_up_to_its_limit():
    bulkhead = make(3)
    permits = [bulkhead.acquire() for _ in range(3)]
    assert (bulkhead.limit, bulkhead.in_use) == (3, 3)
    with pytest.raises(BulkheadFullError):
        bulkhead.acquire()
    bulkhead.release(permits.pop())
    permits.append(bulkhead.acquire())
    assert (bulkhead.in_use, bulkhead.refused) == (3, 1)
    for permit in permits:
        bulkhead.release(permit)
    assert bulkhead.in_use == 0


def test_a_rejection_has_the_counts_and_is_no_failure_of_the_plugin():
    bulkhead = make(2, waiting=1)
    held = [bulkhead.acquire(), bulkhead.acquire()]
    (caller,) = queued(bulkhead, 1)
    with pytest.raises(SaturatedError, match=r"limit of 2 calls at once is reached, and 1 wait already") as info:
        bulkhead.acquire()
    error = info.value
    assert type(error) is BulkheadFullError
    assert (error.code, error.plugin) == ("PLUGIN_1218", "geo")
    assert error.details == {"limit": 2, "in_use": 2, "waiting": 1}
    assert (error.retryable, error.replay, error.verdict) == (True, Replay.NEVER, Verdict.IGNORED)
    assert bulkhead.is_full
    bulkhead.release(held[0])
    assert caller.end() is None
    assert not bulkhead.is_full


@pytest.mark.parametrize(
    ("fields", "seconds", "reason"),
    [
        ({}, 0.0, "max_waiting is 0"),
        ({"max_waiting": 1, "max_wait": 0.25}, 0.25, "no slot became free in 0.25 s, up to max_wait"),
    ],
)
def test_a_rejection_has_its_reason(fields, seconds, reason):
    bulkhead = Bulkhead(BulkheadConfig(max_concurrent=1, **fields), clock=ManualClock())
    permit = bulkhead.acquire()
    for number in (1, 2):
        with pytest.raises(BulkheadFullError) as caught:
            bulkhead.acquire()
        assert caught.value.message == f"its limit of 1 call at once is reached, and {reason}"
        assert caught.value.plugin is None
        assert bulkhead.refused == number
    assert bulkhead.clock.monotonic() == 2 * seconds
    bulkhead.release(permit)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"max_concurrent": 0},
        {"max_concurrent": 2, "adaptive": True, "min_concurrent": 3},
        {"max_concurrent": 2, "adaptive": True, "min_concurrent": 0},
        {"max_concurrent": 2, "max_waiting": -1},
        {"max_concurrent": 2, "max_wait": -1.0},
        {"max_concurrent": 2, "max_wait": float("nan")},
    ],
)
def test_a_configuration_out_of_range_is_refused(settings):
    with pytest.raises(InvalidConfigError):
        Bulkhead(BulkheadConfig(**settings))


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
def test_the_narrowest_limits_are_accepted(fields):
    assert Bulkhead(BulkheadConfig(**fields)).limit >= 1


# --- release ---------------------------------------------------------------------------------------------------------


def test_a_second_release_does_nothing():
    bulkhead = make(1)
    permit = bulkhead.acquire()
    bulkhead.release(permit)
    other = bulkhead.acquire()
    bulkhead.release(permit)
    assert bulkhead.in_use == 1
    bulkhead.release(other)
    assert bulkhead.in_use == 0


def test_a_block_releases_its_permit_however_it_ends():
    bulkhead = make(1)
    with bulkhead.acquire():
        assert bulkhead.in_use == 1
    for error in (KeyError, KeyboardInterrupt):
        with pytest.raises(error), bulkhead.acquire():
            raise error
    assert bulkhead.in_use == 0


class RecordingBulkhead(Bulkhead):
    """Records what is reported at a release."""

    def release(self, permit, elapsed=0.0, ok=None):
        self.seen = (elapsed, ok)
        super().release(permit, elapsed, ok)


@pytest.mark.parametrize(
    ("error", "ok"), [(None, True), (PluginTimeoutError("late"), False), (PluginExecutionError("no"), None)], ids=str
)
def test_a_block_reports_its_duration_and_load_signal(error, ok):
    clock = ManualClock(500.0)
    bulkhead = RecordingBulkhead(BulkheadConfig(max_concurrent=1), clock=clock)
    try:
        with bulkhead.acquire():
            clock.advance(0.25)
            if error is not None:
                raise error
    except type(error or ValueError()):
        pass
    assert bulkhead.seen == (0.25, ok)
    assert bulkhead.in_use == 0


def test_a_block_whose_release_is_interrupted_releases_again():
    class Interrupted(Bulkhead):
        def release(self, permit, elapsed=0.0, ok=None):
            if elapsed:
                raise KeyboardInterrupt
            super().release(permit, elapsed, ok)

    clock = ManualClock()
    bulkhead = Interrupted(BulkheadConfig(max_concurrent=1), clock=clock)
    permit = bulkhead.acquire()
    with pytest.raises(KeyboardInterrupt), permit:
        clock.advance(1.0)
    assert bulkhead.in_use == 0
    assert permit.slot is None


def test_only_answers_and_overload_are_load_signals():
    assert load_signal(None) is True
    assert load_signal(PluginTimeoutError()) is False
    assert load_signal(PluginThrottledError()) is False
    assert load_signal(KeyboardInterrupt()) is None
    assert load_signal(ValueError()) is None


# --- waiting ---------------------------------------------------------------------------------------------------------


def test_waiting_calls_are_served_in_order():
    bulkhead = make(1, waiting=4)
    held = bulkhead.acquire()
    callers = queued(bulkhead, 4)
    bulkhead.release(held)
    for number, caller in enumerate(callers):
        assert caller.inside.wait(10)
        assert [later.inside.is_set() for later in callers[number + 1 :]] == [False] * (3 - number)
        caller.end()
    assert (bulkhead.in_use, bulkhead.waiting, bulkhead.refused) == (0, 0, 0)


def test_a_wait_ends_after_max_wait():
    clock = ManualClock()
    bulkhead = make(1, waiting=1, clock=clock, max_wait=2.0)
    held = bulkhead.acquire()
    with pytest.raises(BulkheadFullError, match="no slot became free in 2 s, up to max_wait") as info:
        bulkhead.acquire(Deadline(60.0, clock))
    assert clock.monotonic() == 2.0
    assert info.value.details == {"limit": 1, "in_use": 1, "waiting": 0}
    assert bulkhead.refused == 1
    bulkhead.release(held)


def test_a_wait_ends_at_the_deadline():
    clock = ManualClock()
    bulkhead = make(1, waiting=1, clock=clock, max_wait=60.0)
    held = bulkhead.acquire()
    with pytest.raises(BulkheadFullError, match=r"no slot became free in 0\.75 s, up to the call's deadline"):
        bulkhead.acquire(Deadline(0.75, clock))
    with pytest.raises(BulkheadFullError):
        bulkhead.acquire(Deadline(0.5, clock))
    assert clock.monotonic() == 0.75
    bulkhead.release(held)
    bulkhead.acquire(Deadline(0.5, clock))


def test_without_max_wait_a_wait_lasts_until_the_deadline():
    clock = ManualClock()
    bulkhead = make(1, waiting=1, clock=clock)
    held = bulkhead.acquire()
    with pytest.raises(BulkheadFullError):
        bulkhead.acquire(Deadline(30.0, clock))
    assert clock.monotonic() == 30.0
    bulkhead.release(held)


def test_a_call_that_has_given_up_gets_no_slot():
    clock = ManualClock(auto_advance=False)
    bulkhead = make(1, waiting=2, clock=clock)
    held = bulkhead.acquire()
    (short,) = queued(bulkhead, 1, deadline=1.0)
    (long,) = queued(bulkhead, 1, deadline=9.0)
    clock.advance(1.0)
    assert isinstance(short.end(), BulkheadFullError)
    bulkhead.release(held)
    assert long.inside.wait(10)
    assert long.end() is None


def test_a_slot_that_arrives_with_the_timeout_is_used():
    class LateClock(ManualClock):
        def wait(self, waiter, timeout):
            self.advance(timeout)
            bulkhead.release(held)
            return False

    clock = LateClock()
    bulkhead = make(1, waiting=1, clock=clock)
    held = bulkhead.acquire()
    with bulkhead.acquire(Deadline(0.25, clock)):
        assert bulkhead.in_use == 1
    assert bulkhead.in_use == 0


def test_a_new_call_does_not_overtake_waiting_calls():
    bulkhead = make(1, waiting=1)
    held = bulkhead.acquire()
    (caller,) = queued(bulkhead, 1)
    bulkhead.release(held)
    with pytest.raises(BulkheadFullError):
        bulkhead.acquire(Deadline(0.0, bulkhead.clock))  # the slot is the caller's, awake or not
    assert caller.inside.wait(10)
    assert caller.end() is None


# --- closing ---------------------------------------------------------------------------------------------------------


def test_close_refuses_new_and_waiting_calls_but_not_those_in_flight():
    bulkhead = make(1, waiting=2)
    held = bulkhead.acquire()
    callers = queued(bulkhead, 2)
    bulkhead.close()
    for caller in callers:
        assert isinstance(caller.end(), PluginClosedError)
    with pytest.raises(PluginClosedError, match="geo"):
        bulkhead.acquire()
    assert bulkhead.in_use == 1
    bulkhead.release(held)
    assert (bulkhead.in_use, bulkhead.limit, bulkhead.refused) == (0, 0, 0)
    with pytest.raises(PluginClosedError):
        bulkhead.acquire()
    bulkhead.close()


@pytest.mark.parametrize("cancellable", [True, False])
def test_closing_the_plugin_ends_a_wait(cancellable):
    clock, closing, caught = ManualClock(auto_advance=False), threading.Event(), []
    bulkhead = Bulkhead(BulkheadConfig(max_concurrent=1, max_waiting=5), clock=clock)
    permit = bulkhead.acquire()
    deadline = CancellableDeadline(100.0, clock, Cancellation()) if cancellable else Deadline(100.0, clock)

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
    bulkhead.release(permit)


def test_a_closed_adaptive_bulkhead_stays_closed():
    bulkhead = make(2, adaptive=True)
    permit = bulkhead.acquire()
    bulkhead.close()
    bulkhead.release(permit, 0.1, True)
    with pytest.raises(PluginClosedError):
        bulkhead.acquire()
    bulkhead.configure(BulkheadConfig(max_concurrent=5))
    with pytest.raises(PluginClosedError):
        bulkhead.acquire()


def test_close_drops_free_slots():
    bulkhead = make(2)
    bulkhead.release(bulkhead.acquire())
    bulkhead.close()
    with pytest.raises(PluginClosedError):
        bulkhead.acquire()


# --- cancelled attempts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cancelled", [True, False])
def test_a_cancelled_attempt_stops_waiting(cancelled):
    clock, cancellation, ends = ManualClock(auto_advance=False), Cancellation(), []
    bulkhead = Bulkhead(BulkheadConfig(max_concurrent=1, max_waiting=5), clock=clock)
    permit = bulkhead.acquire()

    def wait():
        try:
            ends.append(bulkhead.acquire(CancellableDeadline(100.0, clock, cancellation)))
        except AttemptCancelledError as error:
            ends.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    clock.wait_for_waiters(1)
    if cancelled:
        cancellation.cancel()
        waiting.join(10)
        assert isinstance(ends[0], AttemptCancelledError)
        assert (bulkhead.in_use, bulkhead.waiting) == (1, 0)
    bulkhead.release(permit)
    waiting.join(10)
    assert (bulkhead.in_use, bulkhead.waiting) == (0 if cancelled else 1, 0)


def test_an_attempt_cancelled_before_its_wait_does_not_wait():
    clock, cancellation = ManualClock(auto_advance=False), Cancellation()
    bulkhead = Bulkhead(BulkheadConfig(max_concurrent=1, max_waiting=5), clock=clock)
    permit = bulkhead.acquire()
    cancellation.cancel()
    with pytest.raises(AttemptCancelledError):
        bulkhead.acquire(CancellableDeadline(100.0, clock, cancellation))
    assert (bulkhead.in_use, bulkhead.waiting, bulkhead.refused) == (1, 0, 0)
    bulkhead.release(permit)
    assert bulkhead.in_use == 0


@pytest.mark.parametrize("behind", [0, 1])
def test_a_slot_handed_to_a_cancelled_attempt_goes_to_the_next_call(behind):
    cancellation, done = Cancellation(), []

    class ReleasingClock(ManualClock):
        """During the wait a slot is released, and the attempt is cancelled."""

        def wait(self, waiter, timeout):
            if threading.current_thread() is not threading.main_thread():
                return super().wait(waiter, timeout)
            if behind:
                next_call.start()
                self.wait_for_waiters(1)
            bulkhead.release(permit)
            cancellation.cancel()
            return True

    clock = ReleasingClock(auto_advance=False)
    bulkhead = Bulkhead(BulkheadConfig(max_concurrent=1, max_waiting=5), clock=clock)
    next_call = threading.Thread(target=lambda: done.append(bulkhead.acquire()), daemon=True)
    permit = bulkhead.acquire()
    with pytest.raises(AttemptCancelledError):
        bulkhead.acquire(CancellableDeadline(100.0, clock, cancellation))
    if behind:
        next_call.join(10)
        assert done, "it was served, and would otherwise still wait"
    assert (bulkhead.in_use, bulkhead.waiting) == (behind, 0)
    for taken in done:
        bulkhead.release(taken)
    with bulkhead.acquire():
        assert bulkhead.in_use == 1


def test_an_attempt_that_is_not_cancelled_waits_like_any_other():
    clock, cancellation = ManualClock(), Cancellation()
    bulkhead = Bulkhead(BulkheadConfig(max_concurrent=1, max_waiting=5, max_wait=60.0), clock=clock)
    permit = bulkhead.acquire()
    with pytest.raises(BulkheadFullError):
        bulkhead.acquire(CancellableDeadline(2.5, clock, cancellation))
    assert clock.monotonic() == 2.5
    bulkhead.release(permit)
    with bulkhead.acquire(CancellableDeadline(5.0, clock, cancellation)):
        cancellation.cancel()  # the attempt has its slot
        assert bulkhead.in_use == 1
    assert bulkhead.in_use == 0


# --- reconfiguration -------------------------------------------------------------------------------------------------


def test_a_higher_limit_admits_waiting_calls_at_once():
    bulkhead = make(1, waiting=2)
    held = bulkhead.acquire()
    callers = queued(bulkhead, 2)
    bulkhead.configure(BulkheadConfig(max_concurrent=3, max_waiting=2))
    for caller in callers:
        assert caller.inside.wait(10)
        caller.end()
    bulkhead.release(held)
    assert (bulkhead.limit, bulkhead.in_use) == (3, 0)


def test_a_lower_limit_applies_to_new_calls_only():
    bulkhead = make(4)
    permits = [bulkhead.acquire() for _ in range(4)]
    bulkhead.configure(BulkheadConfig(max_concurrent=2))
    assert bulkhead.in_use == 4
    for _ in range(2):
        bulkhead.release(permits.pop())
        with pytest.raises(BulkheadFullError):
            bulkhead.acquire()
    bulkhead.release(permits.pop())
    permits.append(bulkhead.acquire())
    with pytest.raises(BulkheadFullError):
        bulkhead.acquire()


def test_a_lower_limit_drops_free_slots():
    bulkhead = make(4)
    for permit in [bulkhead.acquire() for _ in range(4)]:
        bulkhead.release(permit)
    bulkhead.configure(BulkheadConfig(max_concurrent=1))
    held = bulkhead.acquire()
    with pytest.raises(BulkheadFullError):
        bulkhead.acquire()
    bulkhead.configure(BulkheadConfig(max_concurrent=2))
    bulkhead.release(held)
    assert len([bulkhead.acquire(), bulkhead.acquire()]) == bulkhead.in_use == 2


def test_a_refused_configuration_changes_nothing():
    bulkhead = make(2)
    with pytest.raises(InvalidConfigError):
        bulkhead.configure(BulkheadConfig(max_concurrent=0))
    assert bulkhead.limit == 2
    bulkhead.acquire()


def test_an_adaptive_limit_keeps_its_value_when_its_bounds_change():
    clock = ManualClock()
    bulkhead = make(8, clock=clock, adaptive=True)
    for _ in range(40):
        permit = bulkhead.acquire()
        clock.advance(1.0)
        bulkhead.release(permit, 1.0, False)
    learned = bulkhead.limit
    assert learned < 8
    bulkhead.configure(BulkheadConfig(max_concurrent=20, adaptive=True))
    assert bulkhead.limit == learned
    bulkhead.configure(BulkheadConfig(max_concurrent=20, adaptive=True, min_concurrent=10))
    assert bulkhead.limit == 10
    bulkhead.configure(BulkheadConfig(max_concurrent=20))
    assert bulkhead.limit == 20


def test_overload_lowers_an_adaptive_limit():
    clock = ManualClock()
    bulkhead = make(8, clock=clock, adaptive=True, min_concurrent=2)
    for _ in range(200):
        permit = bulkhead.acquire()
        clock.advance(1.0)
        bulkhead.release(permit, 1.0, load_signal(PluginTimeoutError()))
    assert bulkhead.limit == 2
    permits = [bulkhead.acquire(), bulkhead.acquire()]
    with pytest.raises(BulkheadFullError):
        bulkhead.acquire()
    assert len(permits) == 2


# --- forks -----------------------------------------------------------------------------------------------------------


def test_a_child_forgets_the_calls_and_permits_of_its_parent():
    bulkhead = make(2, waiting=1)
    permits = [bulkhead.acquire(), bulkhead.acquire()]
    (caller,) = queued(bulkhead, 1, deadline=5.0)
    bulkhead.after_fork_in_child()
    assert (bulkhead.in_use, bulkhead.waiting) == (0, 0)
    own = [bulkhead.acquire(), bulkhead.acquire()]
    bulkhead.release(permits[0])
    del permits
    with pytest.raises(BulkheadFullError):
        bulkhead.acquire(Deadline(0.0, bulkhead.clock))
    assert bulkhead.in_use == len(own)
    caller.bulkhead.clock.advance(5.0)
    caller.end()


def test_a_permit_of_the_parent_or_its_parent_frees_no_slot_in_the_child():
    bulkhead = Bulkhead(BulkheadConfig(max_concurrent=1))
    permits = [bulkhead.acquire()]
    for _ in range(2):
        bulkhead.after_fork_in_child()
        permits.append(bulkhead.acquire())
    for permit in permits[:2]:
        bulkhead.release(permit)
    assert bulkhead.in_use == 1
    bulkhead.release(permits[2])
    assert bulkhead.in_use == 0
    assert bulkhead.acquire().slot is not None


def fork_with_a_permit():
    bulkhead = make(1)
    permit = bulkhead.acquire()

    def child():
        bulkhead.release(permit)
        bulkhead.acquire()  # nothing refers to this permit, so it is returned at once
        return bulkhead.in_use

    found = in_child(child)
    before = bulkhead.in_use
    bulkhead.release(permit)
    return found, before, bulkhead.in_use


def test_a_fork_renews_the_bulkhead():
    assert run(fork_with_a_permit) == [0, 1, 0]
