"""Renewal in a child process: locks, parts and descriptors, once, after a fork by Python or by C code."""

from __future__ import annotations

import gc
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from goplugins.runtime import fork
from goplugins.runtime.fork import (
    FORK_MARK,
    close_in_children,
    create_lock,
    create_rlock,
    register_forkable,
    renew_after_fork,
)
from tests.processes import in_child, run


class Part:
    def __init__(self, seconds: float = 0.0) -> None:
        self.renewed: list[int] = []
        self._seconds = seconds
        register_forkable(self)

    def after_fork_in_child(self) -> None:
        time.sleep(self._seconds)
        self.renewed.append(os.getpid())


@pytest.fixture
def marked(monkeypatch):
    """As in a child of a C fork, before its first call. Parts of other tests are not renewed: they were not forked."""
    monkeypatch.setattr(fork, "_forkables", {})
    monkeypatch.setattr(fork, "_locks", {})
    FORK_MARK[0] = 0
    yield
    FORK_MARK[0] = 1


def fork_with_a_part():
    part = Part()
    before = FORK_MARK[0]
    child = in_child(lambda: [FORK_MARK[0], part.renewed == [os.getpid()]])
    return before, child, part.renewed


def test_the_mark_is_set_again_in_a_child_after_the_renewal():
    assert run(fork_with_a_part) == [1, [1, True], []]


def fork_with_a_mark_by_process_id():
    mark = fork._MarkByPid()
    mark[0] = 1
    return mark[0], in_child(lambda: mark[0])


def test_without_madv_wipeonfork_the_process_id_is_compared(monkeypatch):
    monkeypatch.setattr(sys, "platform", "elsewhere")
    assert fork._page() is None
    assert run(fork_with_a_mark_by_process_id) == [1, 0]


def test_parts_are_renewed_once_and_all_threads_wait_for_it(marked):
    part = Part(0.05)
    late: list[int] = []

    def enter() -> None:
        if not FORK_MARK[0]:
            renew_after_fork()
        late.append(len(part.renewed))

    threads = [threading.Thread(target=enter) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert late == [1] * 8


def test_a_part_that_fails_does_not_stop_the_renewal_of_others(marked, caplog):
    class Broken(Part):
        def after_fork_in_child(self) -> None:
            raise RuntimeError("no")

    broken, part = Broken(), Part()
    renew_after_fork()
    assert part.renewed
    assert "could not renew Broken after a fork" in caplog.text
    del broken


def test_a_collected_part_leaves_no_entry():
    before = len(fork._forkables)
    part = Part()
    assert len(fork._forkables) == before + 1
    del part
    gc.collect()
    assert len(fork._forkables) <= before


class Tally:
    def __init__(self) -> None:
        self._lock = create_lock(self)
        self.nested = create_rlock(self, "nested")


def fork_while_another_thread_holds_locks():
    tally = Tally()
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        with tally._lock, tally.nested:
            held.set()
            over.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(10)
    taken = in_child(lambda: [tally._lock.acquire(timeout=1), tally.nested.acquire(timeout=1)])
    over.set()
    thread.join()
    return taken


def fork_within_blocks():
    tally = Tally()
    with tally._lock, tally.nested:
        pid = os.fork()
        free_within = tally._lock.acquire(blocking=False)
    if pid == 0:
        os._exit(7 if free_within else 1)
    free_after = tally._lock.acquire(blocking=False) and tally.nested.acquire(blocking=False)
    return free_within, free_after, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class TestLocks:
    def test_a_lock_held_by_another_thread_is_free_in_a_child(self):
        assert run(fork_while_another_thread_holds_locks) == [True, True]

    def test_a_fork_within_a_block_ends_the_block_in_parent_and_child(self):
        assert run(fork_within_blocks) == [False, True, 7]

    def test_locks_are_renewed_before_parts(self, marked):
        class Locking(Part):
            def __init__(self) -> None:
                super().__init__()
                self._lock = create_lock(self)

            def after_fork_in_child(self) -> None:
                super().after_fork_in_child()
                with self._lock:
                    pass

        part = Locking()
        part._lock.acquire()  # as a thread of the parent that is gone
        renew_after_fork()
        assert part.renewed

    def test_a_collected_owner_leaves_no_entry(self):
        before = len(fork._locks)
        tally = Tally()
        assert len(fork._locks) == before + 2
        del tally
        gc.collect()
        assert len(fork._locks) <= before

    @pytest.mark.hosts  # which brings gevent
    def test_locks_are_those_of_gevent(self):
        pytest.importorskip("gevent")
        script = """
from gevent import monkey
import goplugins.runtime.fork as fork
monkey.patch_all()
import gevent, os, threading
class Tally:
    def __init__(self):
        self._lock = fork.create_lock(self)
tally = Tally()
def hold():
    with tally._lock:
        gevent.sleep(0.3)
greenlet = gevent.spawn(hold)
gevent.sleep(0.1)
pid = os.fork()
free = tally._lock.acquire(timeout=0.1)
assert free is (pid == 0), free
assert type(tally._lock).__module__.startswith("gevent"), type(tally._lock)
greenlet.join()
greenlet.get()  # its block ended without an error, in the child as well
if pid == 0:
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
"""
        subprocess.run([sys.executable, "-c", script], check=True, timeout=30)


def fork_with_an_open_descriptor():
    Part()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        close_in_children(ours.fileno())
        inode = os.fstat(ours.fileno()).st_ino
        same = in_child(lambda: os.fstat(ours.fileno()).st_ino == inode)
        ours.send(b"still open")
        received = theirs.recv(100).decode()
        ours.close()
        return same, received, theirs.recv(100).decode()


def fork_with_a_reused_descriptor():
    Part()
    ours, theirs = socket.socketpair()
    close_in_children(ours.fileno())
    number = ours.fileno()
    ours.close()
    reader, _ = os.pipe()
    os.dup2(reader, number)
    theirs.close()
    return in_child(lambda: os.fstat(number).st_ino == os.fstat(reader).st_ino)


class TestDescriptors:
    def test_an_open_descriptor_is_closed_in_a_child_and_its_number_stays_taken(self):
        # At once the end of the stream: no child holds the parent's socket open.
        assert run(fork_with_an_open_descriptor) == [False, "still open", ""]

    def test_a_reused_descriptor_is_not_closed(self):
        assert run(fork_with_a_reused_descriptor) is True


def test_import_has_no_side_effects():
    script = (
        "import os, sys, threading; before = os.listdir('/proc/self/fd'); import goplugins.runtime.fork;"
        "assert os.listdir('/proc/self/fd') == before; assert threading.active_count() == 1"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)


def test_a_part_that_renews_again_during_the_renewal_does_not_hang(marked):
    class Calling(Part):
        def after_fork_in_child(self) -> None:
            super().after_fork_in_child()
            renew_after_fork()  # as a log handler or signal handler does that calls a plugin

    part = Calling()
    renew_after_fork()
    assert part.renewed == [os.getpid()]
    assert FORK_MARK[0] == 1


def test_an_interrupted_renewal_is_resumed_without_repetition(marked):
    class Interrupted(Part):
        def after_fork_in_child(self) -> None:
            super().after_fork_in_child()
            if len(self.renewed) == 1:
                raise KeyboardInterrupt

    first, struck, last = Part(), Interrupted(), Part()
    with pytest.raises(KeyboardInterrupt):
        renew_after_fork()
    renew_after_fork()
    assert [len(part.renewed) for part in (first, struck, last)] == [1, 2, 1]
    assert FORK_MARK[0] == 1
    FORK_MARK[0] = 0  # the next child's
    renew_after_fork()
    assert [len(part.renewed) for part in (first, struck, last)] == [2, 3, 2]


def test_a_collection_during_the_renewal_skips_no_part(marked):
    threshold = gc.get_threshold()
    gc.collect()
    gc.disable()
    try:
        for _ in range(500):
            cycle = Part()
            cycle.own = cycle  # type: ignore[attr-defined]
        part = Part()
        del cycle
        gc.set_threshold(gc.get_count()[0] + 100)  # not at once, but before 500 of anything are made
        gc.enable()
        renew_after_fork()
    finally:
        gc.set_threshold(*threshold)
        gc.enable()
    assert part.renewed == [os.getpid()]
    assert FORK_MARK[0] == 1
