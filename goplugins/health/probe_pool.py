"""The few workers that look at all plugins, and the order in which they do.

A look may hang for as long as its timeout, or for ever where a plugin in this process ignores it. So suspects
(plugins that failed or hung last time) share half of the workers, and wait in a line of their own without holding a
worker: the others find one free however many plugins are down.
"""

from __future__ import annotations

import collections
import contextvars
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import ParamSpec, TypeVar

from goplugins.errors import InvalidArgumentError, PluginClosedError, SaturatedError
from goplugins.runtime.fork import register_forkable
from goplugins.runtime.workers import WorkerPool

__all__ = ["Job", "Probes", "shared_probes"]

logger = logging.getLogger("goplugins.health")

P = ParamSpec("P")
T = TypeVar("T")

Job = Callable[[], object]

_ENDLESS = 2**31


class _Line:
    """Who waits, and who is served. Replaced as a whole after a fork: the parent's workers end with theirs."""

    __slots__ = ("lock", "others", "suspects", "suspects_served", "workers")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.others: collections.deque[Job] = collections.deque()
        self.suspects: collections.deque[Job] = collections.deque()
        self.suspects_served = 0
        self.workers = 0


class Probes:
    """Runs looks on at most ``max_workers`` threads, which start on need and leave when idle.

    Args:
        max_workers: how many looks run at a time; suspects get half of them, at least one.

    Raises:
        InvalidArgumentError: ``max_workers`` is less than 1.
    """

    def __init__(self, max_workers: int = 8) -> None:
        if max_workers < 1:
            raise InvalidArgumentError(f"max_workers: expected an integer of at least 1, got {max_workers!r}")
        self.max_workers = max_workers
        self.max_suspects = max(1, max_workers // 2)
        # A worker that has just left the line may not be idle in the pool yet: hence as many places as workers.
        self._pool = WorkerPool("goplugins-probe", max_workers, max_workers)
        # What a hung look means is worked out apart, or eight of them would never be noticed.
        self._notices = WorkerPool("goplugins-health", 1, _ENDLESS)
        self._line = _Line()
        self._closed = False
        register_forkable(self)

    def put(self, job: Job, *, suspect: bool = False) -> None:
        """Has ``job`` run as soon as a worker is free for its kind. Never blocks. Takes the line's lock.

        Raises:
            PluginClosedError: after :meth:`close`.
        """
        if self._closed:
            raise PluginClosedError("the health probes are closed")
        line = self._line
        queue = line.suspects if suspect else line.others
        with line.lock:
            queue.append(job)
            # At the limit of suspects one of their workers takes the job when it is through with its own.
            grow = line.workers < self.max_workers and not (suspect and line.suspects_served >= self.max_suspects)
            line.workers += grow
        if not grow:
            return
        try:
            future = _submit_bare(self._pool, self._serve, line)
        except Exception:
            with line.lock:
                line.workers -= 1
                if job not in queue:
                    return  # another worker has it already
                queue.remove(job)
            raise

        def settle(future: Future[None]) -> None:
            if future.cancelled() or isinstance(future.exception(), SaturatedError):
                with line.lock:
                    line.workers -= 1  # no thread could be started; the job waits for the next worker

        future.add_done_callback(settle)

    def put_notice(self, job: Job) -> None:
        """Has a short job run that no look can delay.

        Raises:
            PluginClosedError: after :meth:`close`.
        """
        _submit_bare(self._notices, job)

    def _serve(self, line: _Line) -> None:
        """A worker's stay: one job after the other, until nobody waits that it may serve."""
        job, suspect = self._next(line, was_suspect=False)
        while job is not None:
            try:
                job()
            except Exception:
                logger.exception("a health check failed in an unforeseen way")
            except BaseException:
                with line.lock:
                    line.workers -= 1
                    line.suspects_served -= suspect
                raise
            job, suspect = self._next(line, was_suspect=suspect)

    def _next(self, line: _Line, *, was_suspect: bool) -> tuple[Job | None, bool]:
        """Gives back the suspect's place and takes the next job, in one step: no place is free with none to see it."""
        with line.lock:
            line.suspects_served -= was_suspect
            if line.others:
                return line.others.popleft(), False
            if line.suspects and line.suspects_served < self.max_suspects:
                line.suspects_served += 1
                return line.suspects.popleft(), True
            line.workers -= 1
            return None, False

    def close(self) -> None:
        """Drops what waits and lets the workers go; looks that run are not waited for. Harmless when repeated."""
        self._closed = True
        line = self._line
        with line.lock:
            line.others.clear()
            line.suspects.clear()
        self._pool.shutdown(wait=False)
        self._notices.shutdown(wait=False)

    def after_fork_in_child(self) -> None:
        """An empty line: what waits is the parent's, and so are the workers."""
        self._line = _Line()


def _submit_bare(pool: WorkerPool, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
    """Submits outside the caller's context: a worker that a request happened to start must not go on to look at
    other plugins under that request's deadline.
    """
    return contextvars.Context().run(pool.submit, function, *args, **kwargs)


_of_process: dict[str, Probes] = {}


def shared_probes() -> Probes:
    """The process's probes for checkers that belong to no monitor, made when first asked for."""
    found = _of_process.get("probes")
    return found if found is not None else _of_process.setdefault("probes", Probes())
