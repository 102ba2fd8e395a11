"""Ending an attempt from another thread."""

from __future__ import annotations

import random
import threading
import time
from typing import Any

import pytest

from goplugins.errors import Replay, Verdict
from goplugins.runtime.cancellation import AttemptCancelledError, Cancellation
from goplugins.runtime.clock import SYSTEM_CLOCK
from goplugins.runtime.deadline import CancellableDeadline, Deadline
from tests.processes import in_child, run


class Stop:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1


def test_a_cancel_stops_the_attached_work() -> None:
    cancellation, stop = Cancellation(), Stop()
    cancellation.attach(stop)
    cancellation.cancel()
    assert stop.calls == 1
    with pytest.raises(AttemptCancelledError):
        cancellation.detach()


def test_a_cancel_after_detach_does_nothing() -> None:
    cancellation, stop = Cancellation(), Stop()
    cancellation.attach(stop)
    cancellation.detach()
    cancellation.cancel()
    assert stop.calls == 0


def test_an_attach_after_cancel_raises_at_once() -> None:
    cancellation, stop = Cancellation(), Stop()
    cancellation.cancel()
    with pytest.raises(AttemptCancelledError):
        cancellation.attach(stop)
    assert stop.calls == 0


def test_a_second_cancel_has_no_effect() -> None:
    cancellation, stop = Cancellation(), Stop()
    cancellation.attach(stop)
    cancellation.cancel()
    cancellation.cancel()
    assert stop.calls == 1


def test_a_cancel_that_is_interrupted_can_be_repeated() -> None:
    cancellation = Cancellation()
    outcomes = iter([KeyboardInterrupt, None])

    def stop() -> None:
        outcome = next(outcomes)
        if outcome is not None:
            raise outcome

    cancellation.attach(stop)
    with pytest.raises(KeyboardInterrupt):
        cancellation.cancel()
    cancellation.cancel()
    assert next(outcomes, "used up") == "used up"


def test_guard_returns_the_result_and_raises_the_exception_of_the_work() -> None:
    cancellation, stop = Cancellation(), Stop()
    assert cancellation.guard(stop, lambda: 7) == 7
    with pytest.raises(ValueError, match="seven"):
        cancellation.guard(stop, lambda: int("seven"))
    cancellation.cancel()
    assert stop.calls == 0
    with pytest.raises(AttemptCancelledError):
        cancellation.guard(stop, lambda: 7)


@pytest.mark.parametrize("fails", [False, True])
def test_cancelled_work_counts_as_cancelled_however_it_ended(fails: bool) -> None:
    cancellation = Cancellation()

    def work() -> int:
        cancellation.cancel()
        return int("seven" if fails else "7")

    with pytest.raises(AttemptCancelledError):
        cancellation.guard(Stop(), work)


def test_the_error_is_ignored_by_breakers_and_never_retried() -> None:
    assert AttemptCancelledError.verdict is Verdict.IGNORED
    assert AttemptCancelledError.replay is Replay.NEVER


def test_an_ordinary_deadline_has_no_cancellation() -> None:
    assert Deadline.after(1.0).cancellation is None
    cancellation = Cancellation()
    assert CancellableDeadline(5.0, SYSTEM_CLOCK, cancellation).cancellation is cancellation
    assert Deadline(5.0).cancellation is None


def fork_beside_an_attempt() -> Any:
    cancellation, stop = Cancellation(), Stop()
    cancellation.attach(stop)
    cancellation._lock.acquire()  # as another thread may hold it at the moment of the fork

    def child() -> Any:
        cancellation.cancel()
        return cancellation.cancelled, stop.calls

    found = in_child(child)
    cancellation._lock.release()
    cancellation.cancel()
    return found, stop.calls


def test_a_cancel_in_a_forked_child_leaves_the_parents_connection_open() -> None:
    assert run(fork_beside_an_attempt) == [[True, 0], 1]


def test_no_stop_runs_after_detach_has_returned() -> None:
    """Thousands of cancels at random moments: each finds the connection in use by its own attempt, or not at all."""
    rng = random.Random(7)
    wrong: list[Cancellation] = []
    outcomes = {"answered": 0, "cancelled": 0}
    current = Cancellation()  # of the newest attempt, which has the connection
    over = threading.Event()

    def cancel_whatever_there_is() -> None:
        while not over.is_set():
            found = current
            time.sleep(rng.random() * 2e-4)
            found.cancel()

    thread = threading.Thread(target=cancel_whatever_there_is)
    thread.start()
    for _ in range(3000):
        mine = Cancellation()

        def stop(mine: Cancellation = mine) -> None:
            for _ in range(3):
                time.sleep(0)  # lets the other thread go on, as a system call does
                if current is not mine:  # noqa: B023 - as it is by then
                    wrong.append(mine)

        current = mine
        try:
            mine.attach(stop)
            time.sleep(rng.random() * 1e-4)
            mine.detach()
            outcomes["answered"] += 1
        except AttemptCancelledError:
            outcomes["cancelled"] += 1
    over.set()
    thread.join(30)
    assert not wrong
    assert min(outcomes.values()) > 100, f"the races were none: {outcomes}"
