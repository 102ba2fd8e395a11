"""The thread that starts the processes of one plugin."""

from __future__ import annotations

import _thread
import threading
import time
from collections.abc import Callable

from goplugins.transports.exec.spawn import StartThread


def _count() -> int:
    return [thread.name for thread in threading.enumerate()].count("goplugins-exec-start")


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_of_two_threads_started_for_one_job_one_stays_until_its_process_is_reaped(monkeypatch):
    """As after an interrupt between a thread's start and the line that would have recorded it."""
    start = _thread.start_new_thread

    def start_two(function: Callable[[], None], arguments: tuple[()]) -> None:
        start(function, arguments)
        start(function, arguments)

    monkeypatch.setattr(_thread, "start_new_thread", start_two)
    thread, runs = StartThread(), []

    def job() -> bool:
        runs.append(1)
        return True

    thread.submit(job)
    _until(lambda: bool(runs))
    _until(lambda: _count() == 1)
    time.sleep(0.05)
    assert _count() == 1
    assert thread.runs
    thread.process_reaped()
    _until(lambda: not thread.runs and _count() == 0)
    assert runs == [1]
