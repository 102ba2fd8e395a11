"""Reloads a manager's configuration when its file changes."""

from __future__ import annotations

import logging
import math
import os
import queue
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

from goplugins.errors import InvalidArgumentError, PluginError, belongs_to_host
from goplugins.runtime.clock import Clock
from goplugins.runtime.fork import create_lock
from goplugins.runtime.scheduler import Schedule, ScheduledTask
from goplugins.transports.watched_files import WatchedFiles, reader_of

__all__ = ["Watch"]

logger = logging.getLogger("goplugins.reload")

_SETTLE = 0.5
"""Seconds that a new content must stay the same before it is loaded."""

_FIRST_RETRY, _LONGEST_RETRY = 5.0, 60.0
"""Seconds."""


class Watch:
    """Reloads a file when its content changes. Created by :meth:`goplugins.Manager.watch`; ends with :meth:`close`.

    A new content is loaded once it has stayed the same for half a second. A configuration that can't be loaded leaves
    the running one as it is, is logged with the path of every problem, and shows in ``Manager.overall_health()``. It
    is retried when the file changes, and after 5 s, 10 s, ... up to once a minute: a plugin may have been starting.

    Args:
        path: the file.
        reload: loads it.
        clock: measures time.
        schedule: schedules the checks of the file, on threads where they and the reloads may take long.
        interval: seconds between two checks.
        on_signal: reload on SIGHUP as well, whether the file has changed or not. Only on the main thread.
        on_close: called when the watch is closed.
        files: compared for changes, instead of the file itself.

    Attributes:
        path: the file.
        reloads: number of successful reloads.
        last_error: why the last reload failed; None if it succeeded.

    Raises:
        InvalidArgumentError: ``on_signal`` on another thread, or on a system without SIGHUP.
    """

    def __init__(
        self,
        path: str,
        reload: Callable[[], object],
        clock: Clock,
        schedule: Schedule,
        *,
        interval: float = 1.0,
        on_signal: bool = False,
        on_close: Callable[[Watch], object] | None = None,
        files: WatchedFiles | None = None,
    ) -> None:
        if isinstance(interval, bool) or not isinstance(interval, int | float) or not 0 < interval < math.inf:
            raise InvalidArgumentError(f"interval: expected seconds greater than 0, got {interval!r}")
        self.path = path
        self.reloads = 0
        self.last_error: Exception | None = None
        self._reload = reload
        self._clock = clock
        self._schedule = schedule
        self._on_close = on_close
        self._settle = min(_SETTLE, interval)
        self._files = files or WatchedFiles(reader_of([path], clock), clock, settle=self._settle, known=())
        self._retry_after = _FIRST_RETRY
        self._retry_at: float | None = None
        self._closed = False
        self._check_lock = create_lock(self, "_check_lock")
        self._next_check: ScheduledTask | None = None
        self._signals: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._hook = _SignalHook(self._signals) if on_signal else None
        self._checks: ScheduledTask | None = None
        try:
            self._checks = schedule(self.check, interval, 0.0)
        except BaseException:
            self.close()
            raise

    def check(self) -> None:
        """Checks the file now, and reloads it if it has changed or a retry is due. Runs on a thread of the watch."""
        if not self._check_lock.acquire(blocking=False):
            return  # another thread is checking, or reloading
        try:
            if self._closed:
                return
            wanted = self._was_signalled()
            if self._files.changed():
                wanted = True
                self._retry_after = _FIRST_RETRY
            elif self._files.pending and not wanted:
                self._next_check = self._schedule(self.check, None, self._settle)
            elif self._retry_at is not None and self._clock.monotonic() >= self._retry_at:
                wanted = True
            if wanted:
                self._files.accept()
                self._run()
        finally:
            self._check_lock.release()

    def _was_signalled(self) -> bool:
        signalled = False
        while not self._signals.empty():
            self._signals.get_nowait()
            signalled = True
        return signalled

    def _run(self) -> None:
        try:
            self._reload()
        except Exception as exc:
            if belongs_to_host(exc):
                raise
            after = self._retry_after
            if isinstance(exc, PluginError):  # its problems are in the log already
                logger.warning("%s: not loaded (%s), next try in %g s", self.path, type(exc).__name__, after)
            else:
                logger.exception("%s: the reload raised an unexpected error, next try in %g s", self.path, after)
            self.last_error = exc
            self._retry_at = self._clock.monotonic() + after
            self._retry_after = min(2 * after, _LONGEST_RETRY)
        else:
            self.reloads += 1
            self.last_error = None
            self._retry_at = None

    def close(self) -> None:
        """Ends the checks. A reload under way goes on. Harmless when repeated."""
        self._closed = True
        for task in (self._checks, self._next_check):
            if task is not None:
                task.cancel()
        if self._hook is not None:
            self._hook.remove()
        if self._on_close is not None:
            self._on_close(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "failing" if self.last_error is not None else "watching"
        return f"<Watch {os.fspath(self.path)!r}: {state}>"


class _SignalHook:
    """Puts each SIGHUP into a queue, and calls the former handler."""

    def __init__(self, received: queue.SimpleQueue[None]) -> None:
        number = getattr(signal, "SIGHUP", None)
        if number is None or threading.current_thread() is not threading.main_thread():
            raise InvalidArgumentError(
                "signal: SIGHUP can be handled on the main thread only, and on POSIX systems only"
            )
        before: Any = signal.getsignal(number)

        def handle(number: int, frame: FrameType | None) -> None:
            received.put(None)  # nothing else is safe within a signal handler
            if callable(before):
                before(number, frame)

        self._number = number
        self._before = before
        self._handler = handle
        signal.signal(number, handle)

    def remove(self) -> None:
        """Restores the former handler: on the main thread only, and unless another one was installed since."""
        if threading.current_thread() is threading.main_thread() and signal.getsignal(self._number) is self._handler:
            signal.signal(self._number, signal.SIG_DFL if self._before is None else self._before)
