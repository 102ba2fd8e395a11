"""The lasting thread that starts the processes of one plugin."""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable
from queue import SimpleQueue

__all__ = ["StartThread"]

Job = Callable[[], bool]


class StartThread:
    """Runs starts one after the other, on a thread of its own.

    Not on a caller's: a signal's handler may raise there at any moment, also between the birth of a process and the
    first line that knows of it; and a process that has asked for its parent's death signal gets it when the *thread*
    ends that started it. So this thread ends only when no process of its own is left. One a plugin, so that a program
    on a file system that hangs holds up nobody else.
    """

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Begins anew, in a forked child."""
        self._lock = threading.Lock()
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._runs = False

    def submit(self, job: Job) -> None:
        """Has ``job`` run, which says whether it has started a process. Takes the lock.

        A caller that is interrupted in here submits the job again, or somebody else does: it must bear to be run twice.

        Raises:
            RuntimeError: no thread can be started.
        """
        self._jobs.put(job)
        with self._lock:
            runs = self._runs
        if not runs:
            # One C call. Thread.start waits for an Event: a signal's handler that raises in there may leave that Event
            # locked, and then the new thread would hang before its first line.
            _thread.start_new_thread(self._begin, ())

    def _begin(self) -> None:
        """Gives the thread its name, in a place where no handler runs."""
        try:
            threading.Thread(target=self._run, name="goplugins-exec-start", daemon=True).start()
        except RuntimeError:  # there is no second one to be had, but this one
            self._run()

    def ended(self) -> None:
        """A process that a job has started was reaped."""
        self._jobs.put(None)

    def _run(self) -> None:
        # The thread itself says that it runs: its starter may be interrupted before it could, or be one of two.
        with self._lock:
            if self._runs:
                return
            self._runs = True
        jobs, alive = self._jobs, 0
        while True:
            # First of all: another thread that was started for the same job may have done it.
            with self._lock:
                if not alive and jobs.empty():
                    self._runs = False
                    return
            job = jobs.get()
            if job is None:
                alive -= 1
            elif job():
                alive += 1
            del job
