"""The worker threads that run health checks.

A check may last for its whole timeout, or forever where a plugin within this process ignores it. So suspects (plugins
whose last check failed or hung) have half of the workers to themselves: however many plugins are down, their checks
delay no other plugin's. A check that takes long does not hold its worker: another thread takes its place. What checks
that hang mean is reported on a thread of its own.
"""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Callable
from concurrent.futures import Future

from goplugins.errors import InvalidArgumentError
from goplugins.runtime.workers import WorkerPool

logger = logging.getLogger("goplugins.health")

Job = Callable[[], object]

_PATIENCE = 1.0
"""Seconds after which a further thread takes the place of one that is still at a check."""

_UNBOUNDED = 2**31  # each plugin queues one check at most


class ProbePool:
    """Runs health checks on threads that start on need and end when idle.

    Args:
        max_workers: checks at a time; checks of suspects have as many workers of their own.

    Raises:
        InvalidArgumentError: ``max_workers`` is less than 1.
    """

    def __init__(self, max_workers: int = 8) -> None:
        if max_workers < 1:
            raise InvalidArgumentError(f"max_workers: expected an integer of at least 1, got {max_workers!r}")
        self._pool = WorkerPool("goplugins-probe", max_workers, _UNBOUNDED, inline=False, patience=_PATIENCE)
        self._suspects = WorkerPool("goplugins-probe", max_workers, _UNBOUNDED, inline=False, patience=_PATIENCE)
        self._reports = WorkerPool("goplugins-health", 1, _UNBOUNDED, inline=False, patience=_PATIENCE)

    def submit(self, job: Job, *, suspect: bool = False) -> Future[None]:
        """Queues ``job`` for a worker of its kind. Never blocks.

        Returns:
            Ends with a :class:`SaturatedError` if the system has no thread left; the job never runs then.

        Raises:
            PluginClosedError: after :meth:`close`.
        """
        return _submit(self._suspects if suspect else self._pool, job)

    def submit_report(self, job: Job) -> Future[None]:
        """As :meth:`submit`, for a ``job`` that is no check, and that no check delays: it notifies of changes."""
        return _submit(self._reports, job)

    def close(self) -> None:
        """Drops queued jobs and ends idle workers, without waiting for running jobs. Harmless when repeated."""
        for pool in (self._pool, self._suspects, self._reports):
            pool.shutdown(wait=False, cancel_futures=True)


def _submit(pool: WorkerPool, job: Job) -> Future[None]:
    # In an empty context: a check must not run under the deadline of the request that happened to start it.
    return contextvars.Context().run(pool.submit, _run, job)


def _run(job: Job) -> None:
    try:
        job()
    except Exception:
        logger.exception("a health check raised an unexpected error")


_of_process: dict[str, ProbePool] = {}


def shared_probe_pool() -> ProbePool:
    """The process's pool for checkers without a monitor, created at first use."""
    found = _of_process.get("pool")
    return found if found is not None else _of_process.setdefault("pool", ProbePool())
