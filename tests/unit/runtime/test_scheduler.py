"""The scheduler: what is due is handed over, once, by one thread that holds nothing and nobody up."""

from __future__ import annotations

import gc
import logging
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from goplugins.errors import InvalidArgumentError, PluginClosedError, SaturatedError
from goplugins.runtime.scheduler import Scheduler, get_scheduler
from goplugins.runtime.workers import WorkerPool
from goplugins.testing import ManualClock
from tests.processes import in_child, run


class Owner:
    """Counts its runs, and has a pool whose tasks the test runs."""

    def __init__(self) -> None:
        self.runs = 0
        self.queued: list[Callable[[], object]] = []
        self.ran = threading.Event()

    def work(self) -> None:
        self.runs += 1
        self.ran.set()

    def submit(self, job: Callable[[], object]) -> None:
        self.queued.append(job)

    def drain(self) -> None:
        jobs, self.queued = self.queued, []
        for job in jobs:
            job()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(auto_advance=False)


@pytest.fixture
def scheduler(clock: ManualClock) -> Scheduler:
    return Scheduler(clock=clock, threaded=False)


def inline(job: Callable[[], object]) -> None:
    job()


def eventually(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


def threads_of(scheduler: Scheduler) -> list[threading.Thread]:
    thread = scheduler._thread
    return [] if thread is None else [thread]


# --- when ----------------------------------------------------------------------------------------------------------


def test_runs_after_each_interval(scheduler: Scheduler, clock: ManualClock) -> None:
    owner = Owner()
    scheduler.schedule(owner.work, 10.0, submit=inline, jitter=0.0)
    seen = []
    for _ in range(25):
        scheduler.run_due()
        seen.append(owner.runs)
        clock.advance(1.0)
    assert seen == [0] * 10 + [1] * 10 + [2] * 5


def test_first_is_the_delay_of_the_first_run(scheduler: Scheduler, clock: ManualClock) -> None:
    owner = Owner()
    scheduler.schedule(owner.work, 10.0, first=0.0, submit=inline, jitter=0.0)
    assert scheduler.run_due() == pytest.approx(10.0)
    assert owner.runs == 1
    clock.advance(9.99)
    scheduler.run_due()
    assert owner.runs == 1


def test_a_single_run_is_one(scheduler: Scheduler, clock: ManualClock) -> None:
    owner = Owner()
    task = scheduler.schedule(owner.work, None, first=3.0, submit=inline)
    assert scheduler.run_due() == pytest.approx(3.0)
    assert owner.runs == 0
    clock.advance(3.0)
    assert scheduler.run_due() is None
    clock.advance(300.0)
    scheduler.run_due()
    assert owner.runs == 1
    assert not task.active
    assert scheduler.scheduled == 0


def test_jitter_varies_each_interval_by_at_most_its_share(scheduler: Scheduler, clock: ManualClock) -> None:
    owner = Owner()
    scheduler.schedule(owner.work, 100.0, submit=inline, jitter=0.1, rng=random.Random(7))
    waits = []
    for _ in range(200):
        wait = scheduler.run_due()
        assert wait is not None
        waits.append(wait)
        clock.advance(wait)
    assert 90.0 <= min(waits) < 92.0
    assert 108.0 < max(waits) <= 110.0
    assert len(set(waits)) > 150


def test_missed_times_are_made_up_for_once(scheduler: Scheduler, clock: ManualClock) -> None:
    owner = Owner()
    scheduler.schedule(owner.work, 1.0, submit=inline, jitter=0.0)
    clock.advance(1000.0)
    assert scheduler.run_due() == pytest.approx(1.0)
    assert owner.runs == 1


def test_the_earliest_of_many_is_first(scheduler: Scheduler, clock: ManualClock) -> None:
    order: list[str] = []

    class Named:
        def __init__(self, name: str) -> None:
            self.name = name

        def work(self) -> None:
            order.append(self.name)

    owners = [Named(str(seconds)) for seconds in (3, 1, 2)]
    for owner in owners:
        scheduler.schedule(owner.work, float(owner.name), submit=inline, jitter=0.0)
    clock.advance(2.5)
    scheduler.run_due()
    assert order == ["1", "2"]


@pytest.mark.parametrize("interval", [0, -1.0, float("nan"), True, "10"])
def test_an_interval_is_more_than_zero(scheduler: Scheduler, interval: float) -> None:
    owner = Owner()
    with pytest.raises(InvalidArgumentError, match="interval"):
        scheduler.schedule(owner.work, interval, submit=inline)
    task = scheduler.schedule(owner.work, 5.0, submit=inline)
    with pytest.raises(InvalidArgumentError, match="interval"):
        task.reschedule(interval)


def test_a_single_run_needs_first(scheduler: Scheduler) -> None:
    with pytest.raises(InvalidArgumentError, match="first"):
        scheduler.schedule(Owner().work, None, submit=inline)


def test_only_bound_methods_can_be_held_weakly(scheduler: Scheduler) -> None:
    with pytest.raises(InvalidArgumentError, match="bound method"):
        scheduler.schedule(lambda: None, 1.0, submit=inline)


# --- no backlog ----------------------------------------------------------------------------------------------------


def test_a_queued_run_is_not_queued_again(scheduler: Scheduler, clock: ManualClock) -> None:
    owner = Owner()
    scheduler.schedule(owner.work, 1.0, submit=owner.submit, jitter=0.0)
    for _ in range(5):
        clock.advance(1.0)
        scheduler.run_due()
    assert len(owner.queued) == 1
    owner.drain()
    clock.advance(1.0)
    scheduler.run_due()
    assert len(owner.queued) == 1
    owner.drain()
    assert owner.runs == 2


def test_a_run_in_progress_is_not_queued_again(scheduler: Scheduler, clock: ManualClock) -> None:
    class Slow(Owner):
        def work(self) -> None:
            super().work()
            clock.advance(1.0)
            scheduler.run_due()  # comes due while it runs

    owner = Slow()
    scheduler.schedule(owner.work, 1.0, submit=owner.submit, jitter=0.0)
    clock.advance(1.0)
    scheduler.run_due()
    owner.drain()
    assert owner.queued == []
    assert owner.runs == 1


def test_a_full_pool_skips_one_time_only(
    scheduler: Scheduler, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    owner, full = Owner(), True

    def submit(job: Callable[[], object]) -> None:
        if full:
            raise SaturatedError("full")
        job()

    scheduler.schedule(owner.work, 1.0, submit=submit, jitter=0.0)
    clock.advance(1.0)
    scheduler.run_due()
    full = False
    clock.advance(1.0)
    scheduler.run_due()
    assert owner.runs == 1
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.parametrize("interval", [30.0, None])
@pytest.mark.parametrize("learned", ["at once", "by its future", "later"])
def test_a_task_that_no_worker_can_take_is_submitted_again(
    scheduler: Scheduler, clock: ManualClock, interval: float | None, learned: str
) -> None:
    owner, refused, future = Owner(), SaturatedError("no thread left"), Future[None]()

    def submit(job: Callable[[], object]) -> object:
        if learned == "done":
            return job()
        if learned == "at once":
            raise refused
        if learned == "by its future":
            future.set_exception(refused)
        return future

    scheduler.schedule(owner.work, interval, first=0.0, submit=submit, jitter=0.0)
    scheduler.run_due()
    if learned == "later":
        future.set_exception(refused)
    learned = "done"
    scheduler.run_due()
    assert owner.runs == 0, "not in a loop"
    clock.advance(1.0)
    scheduler.run_due()
    assert owner.runs == 1
    assert scheduler.scheduled == (0 if interval is None else 1)


def test_a_run_that_is_dropped_with_its_pool_is_due_at_the_next_time(scheduler: Scheduler, clock: ManualClock) -> None:
    owner, pool = Owner(), WorkerPool("t", 1, 1)
    stuck = threading.Event()
    pool.submit(stuck.wait, 5.0)
    task = scheduler.schedule(owner.work, 1.0, submit=pool.submit, jitter=0.0)
    clock.advance(1.0)
    scheduler.run_due()
    pool.shutdown(wait=False, cancel_futures=True)
    stuck.set()
    assert not task._pending


def test_a_broken_pool_harms_no_other_task(
    scheduler: Scheduler, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    def closed(job: Callable[[], object]) -> None:
        raise PluginClosedError("closed")

    unlucky, owner = Owner(), Owner()
    scheduler.schedule(unlucky.work, 1.0, submit=closed, jitter=0.0)
    scheduler.schedule(owner.work, 1.0, submit=inline, jitter=0.0)
    for _ in range(2):
        clock.advance(1.0)
        scheduler.run_due()
    assert owner.runs == 2
    assert "could not submit" in caplog.text


def test_a_run_that_raises_is_logged_and_repeated(
    scheduler: Scheduler, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Bad(Owner):
        def work(self) -> None:
            super().work()
            raise ValueError("bad day")

    owner = Bad()
    scheduler.schedule(owner.work, 1.0, submit=inline, jitter=0.0)
    for _ in range(2):
        clock.advance(1.0)
        scheduler.run_due()
    assert owner.runs == 2
    assert "bad day" in caplog.text


# --- cancel and reschedule -----------------------------------------------------------------------------------------


def test_a_cancelled_task_is_not_due(scheduler: Scheduler, clock: ManualClock) -> None:
    owner = Owner()
    task = scheduler.schedule(owner.work, 1.0, submit=inline)
    task.cancel()
    task.cancel()
    clock.advance(5.0)
    assert scheduler.run_due() is None
    assert owner.runs == 0
    assert not task.active


def test_a_task_cancelled_while_queued_is_dropped(scheduler: Scheduler, clock: ManualClock) -> None:
    owner = Owner()
    task = scheduler.schedule(owner.work, 1.0, submit=owner.submit, jitter=0.0)
    clock.advance(1.0)
    scheduler.run_due()
    task.cancel()
    owner.drain()
    assert owner.runs == 0


def test_a_shorter_interval_counts_from_the_last_run(scheduler: Scheduler, clock: ManualClock) -> None:
    owner = Owner()
    task = scheduler.schedule(owner.work, 100.0, submit=inline, jitter=0.0)
    clock.advance(20.0)
    task.reschedule(30.0)
    assert scheduler.run_due() == pytest.approx(10.0)
    task.reschedule(5.0)  # that was 15 s ago
    assert scheduler.run_due() == pytest.approx(5.0)
    assert owner.runs == 1


def test_a_longer_interval_replaces_the_old_one(scheduler: Scheduler, clock: ManualClock) -> None:
    owner = Owner()
    task = scheduler.schedule(owner.work, 1.0, submit=inline, jitter=0.0)
    task.reschedule(50.0)
    clock.advance(49.0)
    scheduler.run_due()
    assert owner.runs == 0
    clock.advance(1.0)
    scheduler.run_due()
    assert owner.runs == 1


def test_a_cancelled_task_can_not_be_rescheduled(scheduler: Scheduler, clock: ManualClock) -> None:
    owner = Owner()
    task = scheduler.schedule(owner.work, 1.0, submit=inline)
    task.cancel()
    task.reschedule(1.0)
    clock.advance(5.0)
    scheduler.run_due()
    assert owner.runs == 0


def test_rescheduling_does_not_grow_the_heap(scheduler: Scheduler, clock: ManualClock) -> None:
    owner = Owner()
    task = scheduler.schedule(owner.work, 1000.0, submit=inline)
    for step in range(1000):
        task.reschedule(1000.0 + step)
        scheduler.run_due()
    assert len(scheduler._heap) < 30


# --- holding nothing -----------------------------------------------------------------------------------------------


def test_a_collected_owner_is_not_due_again(scheduler: Scheduler, clock: ManualClock) -> None:
    owner = Owner()
    gone = weakref.ref(owner)
    scheduler.schedule(owner.work, 1.0, submit=owner.submit)
    del owner
    gc.collect()
    assert gone() is None
    clock.advance(5.0)
    assert scheduler.run_due() is None
    assert scheduler.scheduled == 0


def test_a_queued_run_keeps_no_owner_alive(scheduler: Scheduler, clock: ManualClock) -> None:
    jobs: list[Callable[[], object]] = []
    owner = Owner()
    gone = weakref.ref(owner)
    scheduler.schedule(owner.work, 1.0, submit=jobs.append, jitter=0.0)
    clock.advance(1.0)
    scheduler.run_due()
    assert len(jobs) == 1
    del owner
    gc.collect()
    assert gone() is None
    jobs[0]()


def test_a_collected_pool_ends_its_tasks(scheduler: Scheduler, clock: ManualClock) -> None:
    owner, pool = Owner(), Owner()
    scheduler.schedule(owner.work, 1.0, submit=pool.submit, jitter=0.0)
    del pool
    gc.collect()
    clock.advance(1.0)
    scheduler.run_due()
    assert scheduler.scheduled == 0
    assert owner.runs == 0


def test_an_owner_may_be_collected_while_the_lock_is_held(scheduler: Scheduler) -> None:
    owner = Owner()
    scheduler.schedule(owner.work, 1.0, submit=inline)
    with scheduler._lock:  # the collector may run anywhere; here it would wait for itself
        del owner
        gc.collect()
    assert scheduler.run_due() is None


# --- the thread ----------------------------------------------------------------------------------------------------


@pytest.fixture
def threaded() -> Iterator[Scheduler]:
    scheduler = Scheduler(idle=0.05)
    yield scheduler
    for task in list(scheduler._tasks.values()):
        task.cancel()
    assert eventually(lambda: not threads_of(scheduler)), "the thread did not end"


def test_no_thread_before_it_is_needed(threaded: Scheduler) -> None:
    assert threads_of(threaded) == []


def test_one_daemon_thread_for_many(threaded: Scheduler) -> None:
    owners = [Owner() for _ in range(50)]
    for owner in owners:
        threaded.schedule(owner.work, 30.0, first=0.0, submit=inline)
    assert all(owner.ran.wait(5.0) for owner in owners)
    (thread,) = threads_of(threaded)
    assert thread.name == "goplugins-scheduler"
    assert thread.daemon


def test_the_thread_wakes_for_a_task_that_is_due_sooner(threaded: Scheduler) -> None:
    patient, hasty = Owner(), Owner()
    threaded.schedule(patient.work, 1000.0, submit=inline)
    threaded.schedule(hasty.work, 0.01, submit=inline)
    assert hasty.ran.wait(5.0)
    hasty.ran.clear()
    assert hasty.ran.wait(5.0)


def test_the_thread_wakes_for_a_shorter_interval(threaded: Scheduler) -> None:
    owner = Owner()
    task = threaded.schedule(owner.work, 1000.0, submit=inline)
    assert not owner.ran.wait(0.02)
    task.reschedule(0.01)
    assert owner.ran.wait(5.0)


def test_the_thread_ends_when_idle_and_starts_again(threaded: Scheduler) -> None:
    owner = Owner()
    task = threaded.schedule(owner.work, 30.0, first=0.0, submit=inline)
    assert owner.ran.wait(5.0)
    first = threads_of(threaded)
    task.cancel()
    first[0].join(5.0)
    assert not first[0].is_alive()
    assert threads_of(threaded) == []
    owner.ran.clear()
    threaded.schedule(owner.work, 30.0, first=0.0, submit=inline)
    assert owner.ran.wait(5.0)


def test_a_task_scheduled_while_the_thread_ends_is_not_lost() -> None:
    owner = Owner()

    class Leaving(Scheduler):
        def _may_end(self) -> bool:
            ends = super()._may_end()
            if ends and not owner.ran.is_set():
                self.schedule(owner.work, None, first=0.0, submit=inline)
            return ends

    scheduler = Leaving(idle=0.01)
    scheduler.schedule(Owner().work, 30.0, submit=inline).cancel()
    assert owner.ran.wait(5.0)
    assert eventually(lambda: not threads_of(scheduler))


def test_the_thread_ends_when_no_owner_is_alive(threaded: Scheduler) -> None:
    owner = Owner()
    threaded.schedule(owner.work, 0.02, submit=inline)
    assert owner.ran.wait(5.0)
    (thread,) = threads_of(threaded)
    del owner
    gc.collect()
    thread.join(5.0)
    assert not thread.is_alive()


def test_the_thread_sleeps_on_the_given_clock(clock: ManualClock) -> None:
    scheduler = Scheduler(clock=clock, idle=5.0)
    owner = Owner()
    task = scheduler.schedule(owner.work, 30.0, submit=inline, jitter=0.0)
    clock.wait_for_waiters(1)
    clock.advance(30.0)
    assert owner.ran.wait(5.0)
    task.cancel()
    (thread,) = threads_of(scheduler)
    while thread.is_alive():
        clock.advance(5.0)
        thread.join(0.005)


def test_a_thread_that_can_not_be_started_is_started_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    scheduler, owner = Scheduler(idle=0.05), Owner()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        task = scheduler.schedule(owner.work, 30.0, first=0.0, submit=inline)
        assert scheduler.needs_thread
        assert not scheduler.ensure_thread()
    assert caplog.text.count("can't start new thread") == 1
    assert scheduler.ensure_thread()
    assert owner.ran.wait(5.0)
    assert not scheduler.needs_thread
    task.cancel()
    assert eventually(lambda: not threads_of(scheduler))


def test_the_process_has_one_scheduler() -> None:
    found: list[Scheduler] = []
    threads = [threading.Thread(target=lambda: found.append(get_scheduler())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(scheduler) for scheduler in found}) == 1


# --- fork ----------------------------------------------------------------------------------------------------------


def test_a_renewed_scheduler_keeps_its_tasks_and_drops_queued_runs() -> None:
    clock = ManualClock(auto_advance=False)
    scheduler, owner = Scheduler(clock=clock, threaded=False), Owner()
    task = scheduler.schedule(owner.work, 10.0, submit=owner.submit, jitter=0.1)
    clock.advance(11.0)
    scheduler.run_due()
    assert len(owner.queued) == 1
    owner.queued.clear()  # the parent's
    lock = scheduler._lock
    lock.acquire()  # by a thread that the child lacks
    scheduler.after_fork_in_child()
    assert task.active
    clock.advance(12.1)
    scheduler.run_due()
    assert len(owner.queued) == 1
    task.reschedule(5.0)


def test_forked_siblings_have_different_jitter() -> None:
    dues = set()
    for _ in range(20):
        clock = ManualClock(auto_advance=False)
        scheduler, owner = Scheduler(clock=clock, threaded=False), Owner()
        scheduler.schedule(owner.work, 10.0, first=10.0, submit=inline)
        scheduler.after_fork_in_child()
        due = scheduler.run_due()
        assert due is not None
        assert 10.0 <= due <= 11.0
        dues.add(due)
    assert len(dues) > 15


def fork_beside_a_scheduler() -> Any:
    owner, scheduler = Owner(), get_scheduler()
    task = scheduler.schedule(owner.work, 0.02, submit=inline)
    assert owner.ran.wait(5.0)

    def child() -> Any:
        owner.ran = threading.Event()
        needed = scheduler.needs_thread and scheduler._thread is None
        idle = not owner.ran.wait(0.1)
        scheduler.ensure_thread()
        return needed, idle, owner.ran.wait(5.0), scheduler.needs_thread

    found = in_child(child)
    task.cancel()
    return found, scheduler.needs_thread


def test_a_forked_child_continues_with_its_own_thread() -> None:
    assert run(fork_beside_a_scheduler) == [[True, True, True, False], False]


def test_ordinary_use_logs_nothing(scheduler: Scheduler, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    owner = Owner()
    scheduler.schedule(owner.work, 1.0, first=0.0, submit=inline).cancel()
    scheduler.run_due()
    assert caplog.records == []
