"""What a child renews, once, however it learns that it is one."""

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
from goplugins.runtime.fork import FORK_MARK, keep_from_children, register_forkable, renew_after_fork


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
    """As in a child that was told nothing. What other tests left in this process is not renewed: it was not forked."""
    monkeypatch.setattr(fork, "_forkables", {})
    FORK_MARK[0] = 0
    yield
    FORK_MARK[0] = 1


def in_child(function) -> bytes:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, function())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        return stream.read()


def test_the_mark_is_gone_in_a_child_and_set_again_once_all_is_renewed():
    assert FORK_MARK[0] == 1
    part = Part()
    assert in_child(lambda: b"%d %d" % (FORK_MARK[0], part.renewed == [os.getpid()])) == b"1 1"
    assert part.renewed == []


def test_where_the_system_has_no_such_page_the_number_of_the_process_tells(monkeypatch):
    monkeypatch.setattr(sys, "platform", "elsewhere")
    assert fork._page() is None
    mark = fork._MarkByPid()
    mark[0] = 1
    assert mark[0] == 1
    assert in_child(lambda: b"%d" % mark[0]) == b"0"


def test_parts_are_renewed_once_however_many_threads_come(marked):
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
    assert late == [1] * 8  # nobody went on before it was done


def test_a_part_that_fails_does_not_keep_the_others_from_it(marked, caplog):
    class Broken(Part):
        def after_fork_in_child(self) -> None:
            raise RuntimeError("no")

    broken, part = Broken(), Part()
    renew_after_fork()
    assert part.renewed
    assert "could not renew Broken after a fork" in caplog.text
    del broken


def test_a_part_that_nobody_uses_any_more_is_forgotten():
    before = len(fork._forkables)
    part = Part()
    assert len(fork._forkables) == before + 1
    del part
    gc.collect()
    assert len(fork._forkables) <= before


class TestDescriptors:
    def test_an_open_one_is_closed_in_a_child_and_its_number_stays_taken(self):
        Part()
        ours, theirs = socket.socketpair()
        keep_from_children(ours.fileno())
        inode = os.fstat(ours.fileno()).st_ino
        assert in_child(lambda: b"%d" % (os.fstat(ours.fileno()).st_ino == inode)) == b"0"
        ours.send(b"still here")
        assert theirs.recv(100) == b"still here"
        ours.close()
        assert theirs.recv(100) == b""  # at once: no child holds it open
        theirs.close()

    def test_a_number_that_is_anothers_by_now_is_left_alone(self):
        Part()
        ours, theirs = socket.socketpair()
        keep_from_children(ours.fileno())
        number = ours.fileno()
        ours.close()
        reader, writer = os.pipe()
        os.dup2(reader, number)
        assert in_child(lambda: b"%d" % (os.fstat(number).st_ino == os.fstat(reader).st_ino)) == b"1"
        for descriptor in {number, reader, writer}:
            os.close(descriptor)
        theirs.close()


def test_nothing_happens_at_import():
    script = (
        "import os, sys, threading; before = os.listdir('/proc/self/fd'); import goplugins.runtime.fork;"
        "assert os.listdir('/proc/self/fd') == before; assert threading.active_count() == 1"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)


def test_who_is_called_while_parts_are_renewed_and_comes_back_does_not_hang(marked):
    class Calling(Part):
        def after_fork_in_child(self) -> None:
            super().after_fork_in_child()
            renew_after_fork()  # a log handler that calls a plugin, a signal's handler

    part = Calling()
    renew_after_fork()
    assert part.renewed == [os.getpid()]
    assert FORK_MARK[0] == 1


def test_an_interrupted_renewal_goes_on_and_renews_nothing_twice(marked):
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


def test_parts_that_are_collected_meanwhile_hold_up_no_other(marked):
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
