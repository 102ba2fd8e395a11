from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from goplugins.errors import PluginClosedError, PluginConnectionError, SaturatedError
from goplugins.runtime.clock import SYSTEM_CLOCK
from goplugins.runtime.deadline import Deadline
from goplugins.testing import ManualClock
from goplugins.transports.connection_pool import ConnectionPool, Lease, _QueuedCaller
from tests.interrupts import alarms_interrupt


class Connection:
    def __init__(self, number: int) -> None:
        self.number = number
        self.dead = False
        self.closed = 0
        self.dropped = 0


class Bench:
    """A pool of fake connections with a number each."""

    def __init__(self, clock=SYSTEM_CLOCK, **limits) -> None:
        self.made: list[Connection] = []
        self.failing: BaseException | None = None
        self.lock = threading.Lock()
        settings = {"max_connections": 2, "max_idle": 2, "idle_timeout": 30.0} | limits
        self.clock = clock
        self.pool = ConnectionPool(self.connect, self.close, lambda c: c.dead, drop=self.drop, clock=clock, **settings)

    def connect(self, deadline: Deadline) -> Connection:
        if self.failing is not None:
            raise self.failing
        with self.lock:
            self.made.append(Connection(len(self.made)))
            return self.made[-1]

    def close(self, connection: Connection) -> None:
        connection.closed += 1

    def drop(self, connection: Connection) -> None:
        connection.dropped += 1

    def acquire(self, seconds: float = 5.0) -> Lease[Connection]:
        return self.pool.acquire(Deadline(self.clock.monotonic() + seconds, self.clock))

    @property
    def living(self) -> int:
        return sum(not connection.closed for connection in self.made)


def test_last_in_first_out():
    bench = Bench()
    first, second = bench.acquire(), bench.acquire()
    assert (first.reused, second.reused) == (False, False)
    bench.pool.release(first, reusable=True)
    bench.pool.release(second, reusable=True)
    again = bench.acquire()
    assert again.connection is second.connection
    assert again.reused


def test_a_connection_that_is_not_reusable_is_closed_and_its_slot_freed():
    bench = Bench(max_connections=1)
    lease = bench.acquire()
    bench.pool.release(lease, reusable=False)
    assert lease.connection.closed == 1
    assert bench.pool.open == 0
    assert bench.acquire().connection is not lease.connection


def test_dead_and_expired_idle_connections_are_not_used():
    clock = ManualClock()
    bench = Bench(clock, idle_timeout=10.0)
    leases = [bench.acquire(), bench.acquire()]
    for lease in leases:
        bench.pool.release(lease, reusable=True)
    leases[1].connection.dead = True
    held = bench.acquire()
    assert held.connection is leases[0].connection
    assert bench.pool.open == 1
    bench.pool.release(bench.acquire(), reusable=True)
    clock.advance(11)
    fresh = bench.acquire()
    assert not fresh.reused
    assert bench.pool.open == bench.living == 2


def test_a_connection_is_replaced_between_calls_at_the_end_of_its_lifetime():
    clock = ManualClock()
    bench = Bench(clock, max_lifetime=60.0)
    first = bench.acquire()
    for _ in range(5):  # in use all the time, so never idle for long
        clock.advance(11)
        bench.pool.release(first, reusable=True)
        first = bench.acquire()
        assert first.reused
    clock.advance(11)
    bench.pool.release(first, reusable=True)
    assert not bench.acquire().reused
    assert (len(bench.made), bench.living) == (2, 1)


def test_a_waiting_caller_gets_no_connection_beyond_its_lifetime():
    clock = ManualClock()
    bench = Bench(clock, max_connections=1, max_lifetime=60.0)
    lease = bench.acquire()
    clock.advance(61)
    caller = _QueuedCaller()
    bench.pool._queue.append(caller)
    bench.pool.release(lease, reusable=True)
    slot = caller.waiter.take()
    assert bench.pool._make_lease(slot, Deadline(clock.monotonic() + 1, clock)).connection is bench.made[1]


def test_sweep_closes_idle_connections_beyond_their_lifetime():
    clock = ManualClock()
    bench = Bench(clock, max_connections=3, max_idle=3, idle_timeout=100.0, max_lifetime=60.0)
    old = [bench.acquire(), bench.acquire()]
    clock.advance(50)
    new = bench.acquire()
    for lease in (old[0], new, old[1]):
        bench.pool.release(lease, reusable=True)
    clock.advance(11)
    assert bench.pool.sweep() == 2
    assert bench.acquire().connection is new.connection


def test_most_recent_connections_stay_when_there_are_too_many_idle():
    bench = Bench(max_connections=3, max_idle=1)
    leases = [bench.acquire() for _ in range(3)]
    for lease in leases:
        bench.pool.release(lease, reusable=True)
    assert [lease.connection.closed for lease in leases] == [1, 1, 0]
    assert bench.pool.open == bench.pool.idle == 1


def test_no_idle_connection_is_kept_with_max_idle_0():
    bench = Bench(max_idle=0)
    lease = bench.acquire()
    bench.pool.release(lease, reusable=True)
    assert (lease.connection.closed, bench.pool.open) == (1, 0)


def test_failed_connect_frees_its_slot():
    bench = Bench(max_connections=1)
    for failure in (PluginConnectionError("refused"), KeyboardInterrupt()):
        bench.failing = failure
        with pytest.raises(type(failure)):
            bench.acquire()
        assert bench.pool.open == 0
    bench.failing = None
    bench.acquire()


def test_saturated_error_at_the_deadline_leaves_the_queue():
    clock = ManualClock()
    bench = Bench(clock, max_connections=1)
    lease = bench.acquire()
    with pytest.raises(SaturatedError, match="all 1"):
        bench.acquire(5.0)
    assert clock.monotonic() == 5.0
    assert bench.pool.waiting == 0
    bench.pool.release(lease, reusable=True)
    assert bench.pool.idle == 1


def test_try_acquire_does_not_wait():
    bench = Bench(max_connections=1)
    deadline = Deadline.after(5)
    lease = bench.pool.try_acquire(deadline)
    assert lease is not None
    assert bench.pool.try_acquire(deadline) is None
    bench.pool.release(lease, reusable=True)
    assert bench.pool.try_acquire(deadline) is not None


@pytest.mark.parametrize("reusable", [True, False])
def test_callers_are_served_in_order(reusable):
    bench = Bench(max_connections=1)
    held = bench.acquire()
    served: list[int] = []

    def wait(number: int) -> None:
        lease = bench.acquire()
        served.append(number)
        bench.pool.release(lease, reusable=reusable)

    threads = []
    for number in range(5):
        threads.append(threading.Thread(target=wait, args=(number,)))
        threads[-1].start()
        while bench.pool.waiting <= number:
            pass
    bench.pool.release(held, reusable=reusable)
    for thread in threads:
        thread.join(5)
    assert served == [0, 1, 2, 3, 4]
    assert bench.pool.open == bench.living


def test_failed_connect_passes_its_slot_to_the_next_caller():
    bench = Bench(max_connections=1)
    held = bench.acquire()
    with ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(bench.acquire) for _ in range(2)]
        while bench.pool.waiting < 2:
            pass
        bench.failing = PluginConnectionError("refused")
        bench.pool.release(held, reusable=False)
        for each in waiting:
            with pytest.raises(PluginConnectionError):
                each.result(5)
    assert bench.pool.open == 0


def test_an_interrupted_caller_passes_its_slot_to_the_next():
    class Interrupting(ManualClock):
        """Passes the slot at the moment at which the wait is interrupted."""

        def wait(self, waiter, timeout):
            bench.pool.release(held, reusable=True)
            assert waiter.is_set()
            raise KeyboardInterrupt

    clock = Interrupting()
    bench = Bench(clock, max_connections=1)
    held = bench.acquire()
    with pytest.raises(KeyboardInterrupt):
        bench.acquire()
    assert (bench.pool.open, bench.pool.idle, bench.pool.waiting) == (1, 1, 0)


def test_slot_passed_at_the_moment_of_the_timeout_is_used():
    class Late(ManualClock):
        def wait(self, waiter, timeout):
            bench.pool.release(held, reusable=True)
            return False

    bench = Bench(Late(), max_connections=1)
    held = bench.acquire()
    assert bench.acquire().connection is held.connection


def test_renew_replaces_the_connection_in_its_slot():
    bench = Bench(max_connections=1)
    lease = bench.acquire()
    fresh = bench.pool.renew(lease, Deadline.after(5))
    assert lease.connection.closed == 1
    assert not fresh.reused
    assert bench.pool.open == 1
    bench.failing = PluginConnectionError("refused")
    with pytest.raises(PluginConnectionError):
        bench.pool.renew(fresh, Deadline.after(5))
    assert bench.pool.open == 0


def test_close_wakes_callers_and_closes_connections():
    bench = Bench(max_connections=2)
    held, idle = bench.acquire(), bench.acquire()
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(bench.acquire)
        while not bench.pool.waiting:
            pass
        bench.pool.close()
        with pytest.raises(PluginClosedError):
            waiting.result(5)
    bench.pool.release(idle, reusable=True)
    bench.pool.release(held, reusable=True)
    assert bench.living == bench.pool.open == 0
    with pytest.raises(PluginClosedError):
        bench.acquire()
    bench.pool.close()


def test_sweep_closes_connections_that_were_idle_too_long():
    clock = ManualClock()
    bench = Bench(clock, idle_timeout=10.0)
    old, new = bench.acquire(), bench.acquire()
    bench.pool.release(old, reusable=True)
    clock.advance(8)
    bench.pool.release(new, reusable=True)
    clock.advance(4)
    assert bench.pool.sweep() == 1
    assert (old.connection.closed, new.connection.closed) == (1, 0)
    assert bench.pool.open == bench.pool.idle == 1


def test_after_a_fork_connections_are_dropped_and_old_leases_ignored():
    bench = Bench(max_connections=2)
    held, idle = bench.acquire(), bench.acquire()
    bench.pool.release(idle, reusable=True)
    bench.pool._lock.acquire()  # another thread of the parent held it at the fork
    bench.pool.after_fork_in_child()
    assert (held.connection.dropped, idle.connection.dropped) == (1, 1)
    assert (held.connection.closed, idle.connection.closed) == (0, 0)
    assert bench.pool.open == 0
    bench.pool.release(held, reusable=True)
    assert (bench.pool.open, bench.pool.idle) == (0, 0)
    anew = [bench.acquire(), bench.acquire()]
    assert bench.pool.open == len(anew) == 2


def test_never_above_the_limit_and_nothing_lost_under_32_threads():
    bench = Bench(max_connections=5, max_idle=3)
    in_use = most = 0
    lock = threading.Lock()

    def work(number: int) -> None:
        nonlocal in_use, most
        for turn in range(50):
            lease = bench.acquire(30)
            with lock:
                in_use += 1
                most = max(most, bench.living)
                assert in_use <= 5
            with lock:
                in_use -= 1
            bench.pool.release(lease, reusable=(number + turn) % 7 != 0)

    with ThreadPoolExecutor(32) as threads:
        list(threads.map(work, range(32)))
    assert most <= 5
    assert bench.pool.waiting == 0
    assert bench.pool.open == bench.pool.idle == bench.living <= 3


def test_a_lost_slot_is_free_again():
    """An interrupt (a task's time limit) may hit a caller between any two lines."""
    bench = Bench(max_connections=1)
    lease = bench.acquire()
    assert bench.pool.open == 1
    del lease
    assert bench.pool.open == 0
    assert bench.acquire(0.0).connection.number == 1


def test_a_lost_slot_goes_to_the_waiting_caller():
    bench = Bench(max_connections=1)
    lost = [bench.acquire()]
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(bench.acquire, 10.0)
        while not bench.pool.waiting:
            pass
        lost.clear()
        assert waiting.result(2).connection.number == 1
    assert (bench.pool.open, bench.pool.waiting) == (1, 0)


def test_a_caller_that_got_two_slots_keeps_one():
    """An interrupt in another thread may leave it in the queue after it was served."""
    bench = Bench(max_connections=2)
    held = [bench.acquire(), bench.acquire()]
    caller = _QueuedCaller()
    bench.pool._queue.append(caller)
    bench.pool.release(held[0], reusable=True)
    bench.pool._queue.append(caller)
    bench.pool.release(held[1], reusable=True)
    slot = caller.waiter.take()
    del caller
    assert slot.connection is held[0].connection
    assert (bench.pool.open, held[1].connection.dropped) == (1, 1)


def test_the_pool_works_after_interrupts_of_waiting_callers():
    """Signal handlers raise in a thread that waits for a pool which other threads use as well."""
    bench = Bench(SYSTEM_CLOCK, max_connections=1)
    stop = threading.Event()
    late: list[float] = []

    def work() -> None:
        while not stop.is_set():
            started = SYSTEM_CLOCK.monotonic()
            bench.pool.release(bench.acquire(5.0), reusable=True)
            late.append(SYSTEM_CLOCK.monotonic() - started)

    def take_again_and_again() -> None:
        while True:
            bench.pool.release(bench.acquire(5.0), reusable=True)

    dice = random.Random(7)
    threads = [threading.Thread(target=work, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        with alarms_interrupt() as struck:
            for _ in range(300):
                assert struck(dice.random() * 1e-3 + 1e-6, take_again_and_again, again=1.0)
    finally:
        stop.set()
        for thread in threads:
            thread.join(6)
    assert not any(thread.is_alive() for thread in threads)
    assert max(late) < 2.0
    assert bench.acquire(1.0)
    assert bench.pool.waiting == 0


def test_a_slot_passed_to_a_caller_that_is_gone_is_free_again():
    bench = Bench(max_connections=1)
    lease = bench.acquire()
    bench.pool._queue.append(_QueuedCaller())
    bench.pool.release(lease, reusable=True)
    assert bench.pool.open == 0


def test_a_second_release_of_a_lease_is_ignored():
    bench = Bench(max_connections=1)
    lease = bench.acquire()
    bench.pool.release(lease, reusable=True)
    other = bench.acquire()
    bench.pool.release(lease, reusable=False)
    assert (other.connection.closed, bench.pool.open) == (0, 1)


def test_renewed_pool_uses_no_older_connection_again() -> None:
    opened: list[int] = []
    closed: list[int] = []

    def connect(deadline: Deadline) -> int:
        opened.append(len(opened))
        return opened[-1]

    pool: ConnectionPool[int] = ConnectionPool(
        connect, closed.append, lambda _: False, max_connections=2, max_idle=2, idle_timeout=60.0
    )
    idle, used = pool.acquire(Deadline.after(5)), pool.acquire(Deadline.after(5))
    pool.release(idle, reusable=True)
    pool.renew_all()
    assert closed == [0]
    pool.release(used, reusable=True)
    assert (closed, pool.open) == ([0, 1], 0)
    fresh = pool.acquire(Deadline.after(5))
    pool.release(fresh, reusable=True)
    assert pool.acquire(Deadline.after(5)).connection == 2


def test_a_waiting_caller_gets_the_slot_of_a_renewed_connection() -> None:
    numbers = iter(range(10))
    closed: list[int] = []
    pool: ConnectionPool[int] = ConnectionPool(
        lambda _: next(numbers), closed.append, lambda _: False, max_connections=1, max_idle=1, idle_timeout=60.0
    )
    lease = pool.acquire(Deadline.after(5))
    found: list[Lease[int]] = []
    thread = threading.Thread(target=lambda: found.append(pool.acquire(Deadline.after(10))))
    thread.start()
    while not pool.waiting:
        time.sleep(0.001)
    pool.renew_all()
    pool.release(lease, reusable=True)
    thread.join(10)
    assert (found[0].connection, closed, pool.open) == (1, [0], 1)


def test_a_connection_opened_while_the_pool_was_renewed_is_used_once() -> None:
    closed: list[str] = []

    def connect(deadline: Deadline) -> str:
        pool.renew_all()
        return "old"

    pool: ConnectionPool[str] = ConnectionPool(
        connect, closed.append, lambda _: False, max_connections=1, max_idle=1, idle_timeout=60.0
    )
    pool.release(pool.acquire(Deadline.after(5)), reusable=True)
    assert (closed, pool.idle) == (["old"], 0)
