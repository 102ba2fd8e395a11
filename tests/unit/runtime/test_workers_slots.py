"""Worker slots: workers that are reserved for tasks which must not wait."""

from __future__ import annotations

import gc
import threading

import pytest

from goplugins.errors import PluginClosedError
from goplugins.runtime.workers import WorkerPool, WorkerSlot


@pytest.fixture
def pool():
    with WorkerPool("slots", max_workers=4, max_queued=4, inline=False) as made:
        yield made


def taken(pool: WorkerPool) -> int:
    """Slots that can't be reserved now."""
    free = 0
    held: list[WorkerSlot] = []
    while slots := pool.reserve(1):
        held += slots
        free += 1
    return pool.max_workers - free


def test_as_many_as_there_are_workers(pool: WorkerPool) -> None:
    first, second = pool.reserve(2), pool.reserve(2)
    assert len(first) == len(second) == 2
    assert pool.reserve(1) == []
    del second
    assert pool.reserve(3) == []
    assert len(pool.reserve(2)) == 2
    del first
    assert pool.threads == 0  # a slot reserves a worker, and starts none


def test_a_task_with_a_slot_runs_at_once_however_many_run_already(pool: WorkerPool) -> None:
    release, started = threading.Event(), threading.Barrier(5)

    def work() -> None:
        started.wait(10)
        release.wait(10)

    slots = pool.reserve(4)
    while slots:
        pool.submit_to(slots.pop(), work, lambda: None)
    started.wait(10)  # all four are inside at the same time
    assert pool.reserve(1) == []
    release.set()


def test_a_slot_is_released_when_its_task_has_run(pool: WorkerPool) -> None:
    for _ in range(50):
        over = threading.Event()
        for turn in range(4):
            pool.submit_to(pool.reserve(1).pop(), lambda: None, over.set if turn == 3 else lambda: None)
        assert over.wait(10)
    for _ in range(200):
        if taken(pool) == 0:
            break
    assert taken(pool) == 0
    assert pool.threads <= 4


def test_a_task_that_fails_releases_its_slot_and_reports_its_end(pool: WorkerPool) -> None:
    over = threading.Event()
    pool.submit_to(pool.reserve(1).pop(), lambda: 1 / 0, over.set)
    assert over.wait(10)
    gc.collect()
    assert taken(pool) == 0


def test_slots_that_are_lost_are_released(pool: WorkerPool) -> None:
    assert len(pool.reserve(4)) == 4  # no reference is kept
    assert taken(pool) == 0


def test_a_closed_pool_has_none(pool: WorkerPool) -> None:
    slots = pool.reserve(2)
    pool.shutdown()
    assert pool.reserve(1) == []
    with pytest.raises(PluginClosedError):
        pool.submit_to(slots.pop(), lambda: None, lambda: None)
    assert len(slots) == len(pool._state.slots) == 1  # the other one came back


def test_a_task_that_can_not_run_calls_done(pool: WorkerPool, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    ran, over = threading.Event(), threading.Event()
    monkeypatch.setattr(threading.Thread, "start", no_more)
    pool.submit_to(pool.reserve(1).pop(), ran.set, over.set)
    assert over.is_set()
    assert not ran.is_set()
    assert taken(pool) == 0


def test_a_forked_child_has_all_slots(pool: WorkerPool) -> None:
    slots = pool.reserve(4)
    pool.after_fork_in_child()
    assert taken(pool) == 0
    assert len(slots) == 4
