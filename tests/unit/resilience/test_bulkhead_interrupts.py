"""Interrupts (Ctrl-C, a worker's time limit) at every point where one can come: no place is lost, nobody sleeps on."""

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


def every_chance(scenario: Callable[[], tuple[Bulkhead, Callable[[], object]]], most: int = 300) -> int:
    """Runs a scenario with an interrupt at each of its chances; the number of these."""
    alive = []  # likewise
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
def test_taking_and_giving_back(adaptive):
    def scenario():
        bulkhead = make(1, adaptive=adaptive)

        def work():
            for _ in range(2):
                bulkhead.release(bulkhead.acquire(), 0.1, True)

        return bulkhead, work

    assert every_chance(scenario) > 10


def test_being_refused():
    def scenario():
        bulkhead = make(1)

        def work():
            with bulkhead.acquire(), contextlib.suppress(BulkheadFullError):
                bulkhead.acquire()

        return bulkhead, work

    assert every_chance(scenario) > 20


def test_waiting_and_being_served():
    def scenario():
        held = []

        class Handing(ManualClock):
            def wait(self, waiter, timeout):
                bulkhead.release(held.pop(), 0.1, True)  # as another thread would
                return waiter.is_set()

        bulkhead = make(1, 1, Handing())

        def work():
            try:
                held.append(bulkhead.acquire())
                bulkhead.release(bulkhead.acquire(), 0.1, True)
            finally:
                held.clear()

        return bulkhead, work

    assert every_chance(scenario) > 40


def test_giving_up_waiting():
    def scenario():
        clock = ManualClock()
        bulkhead = make(1, 1, clock)

        def work():
            with bulkhead.acquire(), contextlib.suppress(BulkheadFullError):
                bulkhead.acquire(Deadline(1.0, clock))

        return bulkhead, work

    assert every_chance(scenario) > 40


@pytest.mark.parametrize("change", ["release", "configure", "close", "lose"])
def test_who_waits_is_served_whatever_interrupts_the_one_who_gives_back(change):
    number, happened = 0, True
    while happened:
        bulkhead = make(1, 1)
        place = bulkhead.acquire()
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
            "release": lambda place=place, bulkhead=bulkhead: bulkhead.release(place),
            "configure": lambda bulkhead=bulkhead: bulkhead.configure(BulkheadConfig(max_concurrent=2)),
            "close": bulkhead.close,
            "lose": lambda: None,
        }
        happened = interrupted_at(number, work[change])
        if change in {"release", "lose"}:
            work.clear()
            del place
            assert ended.wait(5), f"interrupt {number}"
        else:
            work[change]()
            assert ended.wait(5), f"interrupt {number}"
            del place
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


def test_an_exception_that_is_kept_keeps_no_place():
    """As a future does, or a debugger: its traceback keeps the frames and all that they know."""
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
            place = bulkhead.acquire()
            try:
                bulkhead.release(place)
            except BaseException:
                bulkhead.release(place)
                raise

        return bulkhead, keep(work)

    every_chance(scenario)
    assert len(kept) > 10


def test_an_interrupted_waiter_passes_on_what_it_was_handed():
    class Interrupting(ManualClock):
        """Hands the place over in the very moment in which the wait is interrupted."""

        def wait(self, waiter, timeout):
            bulkhead.release(held)
            assert waiter.is_set()
            raise Interrupt

    bulkhead = make(1, 1, Interrupting())
    held = bulkhead.acquire()
    with pytest.raises(Interrupt) as info:
        bulkhead.acquire()
    assert (bulkhead.in_use, bulkhead.waiting) == (0, 0)
    assert info.value.__traceback__ is not None, "it is still known"


def test_an_interrupted_end_of_a_block_gives_its_place_back():
    class Interrupting(ManualClock):
        def monotonic(self):
            if bulkhead.in_use and next(looks):
                raise Interrupt
            return 0.0

    clock, looks = Interrupting(), iter([False, True])
    bulkhead = make(1, clock=ManualClock())
    bulkhead.clock = clock
    with pytest.raises(Interrupt) as info, bulkhead.acquire():
        assert bulkhead.in_use == 1
    assert bulkhead.in_use == 0
    assert info.value.__traceback__ is not None, "it is still known"


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
    places = [bulkhead.acquire() for _ in range(5)]
    with pytest.raises(BulkheadFullError):
        bulkhead.acquire(Deadline.after(0.01))
    assert len(places) == 5


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

    def take_again_and_again():
        while True:
            with bulkhead.acquire():
                pass

    hits = 0
    try:
        with alarms_interrupt() as struck:
            end = time.monotonic() + 1.0
            while time.monotonic() < end:
                hits += struck(rng.uniform(1e-5, 2e-3), take_again_and_again, again=1.0)
    finally:
        stop.set()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    gc.collect()
    assert hits > 20
    assert min(served) > 0
    assert (bulkhead.in_use, bulkhead.waiting) == (0, 0)
