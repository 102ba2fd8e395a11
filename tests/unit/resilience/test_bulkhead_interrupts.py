"""Interrupts (Ctrl-C, a worker's time limit) at every possible point: no slot is lost, every waiting call wakes up."""

from __future__ import annotations

import contextlib
import gc
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable

import pytest

from goplugins.config import BulkheadConfig
from goplugins.errors import BulkheadFullError
from goplugins.resilience import Bulkhead
from goplugins.runtime.clock import SYSTEM_CLOCK
from goplugins.runtime.deadline import Deadline
from goplugins.testing import ManualClock
from tests.interrupts import Interrupt, alarms_interrupt, interrupted, interrupted_at


def make(most: int = 1, waiting: int = 0, clock=SYSTEM_CLOCK, **more) -> Bulkhead:
    return Bulkhead(BulkheadConfig(max_concurrent=most, max_waiting=waiting, **more), clock=clock)


def at_every_point(scenario: Callable[[], tuple[Bulkhead, Callable[[], object]]], most: int = 300) -> int:
    """Runs a scenario with an interrupt at each possible point, and returns the number of points."""
    alive = []  # a collected bulkhead would be another possible point
    for number in range(most):
        bulkhead, work = scenario()
        alive.append(bulkhead)
        happened = interrupted_at(number, work)
        assert (bulkhead.in_use, bulkhead.waiting) == (0, 0), f"interrupt {number}"
        assert not bulkhead._lock.locked(), f"interrupt {number}"
        with bulkhead.acquire():
            assert bulkhead.in_use == 1
        if not happened:
            return number
    raise AssertionError("the scenario does not end")


@pytest.mark.parametrize("adaptive", [False, True])
def test_acquire_and_release(adaptive):
    def scenario():
        bulkhead = make(1, adaptive=adaptive)

        def work():
            for _ in range(2):
                bulkhead.release(bulkhead.acquire(), 0.1, True)

        return bulkhead, work

    assert at_every_point(scenario) > 10


def test_a_refusal():
    def scenario():
        bulkhead = make(1)

        def work():
            with bulkhead.acquire(), contextlib.suppress(BulkheadFullError):
                bulkhead.acquire()

        return bulkhead, work

    assert at_every_point(scenario) > 20


def test_a_wait_that_is_served():
    def scenario():
        held = []

        class ReleasingClock(ManualClock):
            def wait(self, waiter, timeout):
                bulkhead.release(held.pop(), 0.1, True)  # as another thread would
                return waiter.is_set()

        bulkhead = make(1, 1, ReleasingClock())

        def work():
            try:
                held.append(bulkhead.acquire())
                bulkhead.release(bulkhead.acquire(), 0.1, True)
            finally:
                held.clear()

        return bulkhead, work

    assert at_every_point(scenario) > 40


def test_a_wait_that_times_out():
    def scenario():
        clock = ManualClock()
        bulkhead = make(1, 1, clock)

        def work():
            with bulkhead.acquire(), contextlib.suppress(BulkheadFullError):
                bulkhead.acquire(Deadline(1.0, clock))

        return bulkhead, work

    assert at_every_point(scenario) > 40


@pytest.mark.parametrize("change", ["release", "configure", "close", "lose"])
def test_a_waiting_call_is_served_though_the_release_is_interrupted(change):
    number, happened = 0, True
    while happened:
        bulkhead = make(1, 1)
        permit = bulkhead.acquire()
        ended = threading.Event()

        def wait(bulkhead=bulkhead, ended=ended):
            try:
                bulkhead.release(bulkhead.acquire())
            except Exception:  # closed
                assert change == "close"
            ended.set()

        waiter = threading.Thread(target=wait, daemon=True)
        waiter.start()
        while not bulkhead.waiting:
            time.sleep(0.0005)
        work: dict[str, Callable[[], object]] = {
            "release": lambda permit=permit, bulkhead=bulkhead: bulkhead.release(permit),
            "configure": lambda bulkhead=bulkhead: bulkhead.configure(BulkheadConfig(max_concurrent=2)),
            "close": bulkhead.close,
            "lose": lambda: None,
        }
        happened = interrupted_at(number, work[change])
        if change in {"release", "lose"}:
            work.clear()
            del permit
            assert ended.wait(5), f"interrupt {number}"
        else:
            work[change]()
            assert ended.wait(5), f"interrupt {number}"
            del permit
        waiter.join(5)
        work.clear()
        assert (bulkhead.in_use, bulkhead.waiting) == (0, 0)
        number += 1
    assert number > {"lose": 1}.get(change, 3)


def test_no_interrupt_is_swallowed_and_none_prints(capfd):
    for number in range(60):
        bulkhead = make(2)
        interrupted_at(number, lambda bulkhead=bulkhead: [bulkhead.acquire(), bulkhead.acquire()])
        assert bulkhead.in_use == 0
    assert capfd.readouterr().err == ""


def test_a_stored_exception_holds_no_slot():
    """A future or a debugger keeps an exception, whose traceback refers to the frames and their locals."""
    kept = []

    def keep(work):
        def run():
            try:
                work()
            except Interrupt as error:
                kept.append(error)
                raise

        return run

    def scenario():
        bulkhead = make(1)

        def work():
            permit = bulkhead.acquire()
            try:
                bulkhead.release(permit)
            except BaseException:
                bulkhead.release(permit)
                raise

        return bulkhead, keep(work)

    at_every_point(scenario)
    assert len(kept) > 10


def test_an_interrupted_wait_passes_its_slot_on():
    class InterruptingClock(ManualClock):
        """The slot is handed over at the moment of the interrupt."""

        def wait(self, waiter, timeout):
            bulkhead.release(held)
            assert waiter.is_set()
            raise Interrupt

    bulkhead = make(1, 1, InterruptingClock())
    held = bulkhead.acquire()
    with pytest.raises(Interrupt) as info:
        bulkhead.acquire()
    assert (bulkhead.in_use, bulkhead.waiting) == (0, 0)
    assert info.value.__traceback__ is not None, "it is still referred to"


def test_an_interrupted_end_of_a_block_releases_its_permit():
    class InterruptingClock(ManualClock):
        def monotonic(self):
            if bulkhead.in_use and next(reads):
                raise Interrupt
            return 0.0

    clock, reads = InterruptingClock(), iter([False, True])
    bulkhead = make(1, clock=ManualClock())
    bulkhead.clock = clock
    with pytest.raises(Interrupt) as info, bulkhead.acquire():
        assert bulkhead.in_use == 1
    assert bulkhead.in_use == 0
    assert info.value.__traceback__ is not None, "it is still referred to"


# --- with real threads and real signals ----------------------------------------------------------------------------


def test_64_threads_with_interrupts_at_random():
    bulkhead = make(5, 64, adaptive=True, min_concurrent=5)  # the lock is taken at each release
    most, served = [0], Counter[int]()

    def work() -> None:
        with contextlib.suppress(BulkheadFullError), bulkhead.acquire(Deadline.after(5)):
            most[0] = max(most[0], bulkhead.in_use)
            served[threading.get_ident()] += 1

    with interrupted(work, threads=64, hits=1000):
        gc.collect()
    assert (bulkhead.in_use, bulkhead.waiting) == (0, 0)
    assert most[0] <= 5
    assert len(served) == 64
    permits = [bulkhead.acquire() for _ in range(5)]
    with pytest.raises(BulkheadFullError):
        bulkhead.acquire(Deadline.after(0.01))
    assert len(permits) == 5


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs interval timers")
def test_signals_at_random_while_others_wait():
    bulkhead = make(2, 8)
    stop, rng = threading.Event(), random.Random(11)
    served = [0] * 6

    def work(number: int) -> None:
        while not stop.is_set():
            with bulkhead.acquire():
                served[number] += 1

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(6)]
    for thread in threads:
        thread.start()

    def acquire_repeatedly():
        while True:
            with bulkhead.acquire():
                pass

    hits = 0
    try:
        with alarms_interrupt() as struck:
            end = time.monotonic() + 1.0
            while time.monotonic() < end:
                hits += struck(rng.uniform(1e-5, 2e-3), acquire_repeatedly, again=1.0)
    finally:
        stop.set()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    gc.collect()
    assert hits > 20
    assert min(served) > 0
    assert (bulkhead.in_use, bulkhead.waiting) == (0, 0)
