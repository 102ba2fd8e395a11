"""A manager's configuration that follows its file."""

from __future__ import annotations

import logging
import math
import os
import queue
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Self

from goplugins.errors import InvalidArgumentError, PluginError, SaturatedError, belongs_to_host
from goplugins.runtime.clock import Clock
from goplugins.runtime.fork import register_forkable
from goplugins.runtime.scheduler import Schedule, ScheduledTask
from goplugins.runtime.workers import WorkerPool
from goplugins.transports.credential_files import WatchedFiles

if TYPE_CHECKING:
    from goplugins.discovery import DirectoryWatch

__all__ = ["Watch"]

logger = logging.getLogger("goplugins.reload")

_SETTLE = 0.5
_FIRST_RETRY, _LONGEST_RETRY = 5.0, 60.0


class Watch:
    """Reloads when a file's content has changed. Made by :meth:`goplugins.Manager.watch`; close it to end that.

    A new content counts once it has stayed the same for half a second. What can't be loaded leaves the running
    configuration as it is, is logged with every problem's path, shows in ``Manager.overall_health()``, and is tried
    again when the file changes, and after 5 s, then ever more rarely, down to once a minute: what was wrong may have
    been a plugin that had yet to start.

    Args:
        path: the file.
        reload: loads it; raises what is wrong.
        clock: measures.
        schedule: has the file looked at.
        interval: seconds between two looks.
        on_signal: reload on SIGHUP, too, whatever the file holds. Only on the main thread.
        closed: called when it is closed.
        files: compared for changes, instead of the file itself.

    Attributes:
        path: the file.
        reloads: how often it was loaded well.
        last_error: why the last reload failed; None if it did not.

    Raises:
        InvalidArgumentError: ``on_signal`` on another thread, or where there is no such signal.
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
        closed: Callable[[Watch], object] | None = None,
        files: DirectoryWatch | None = None,
    ) -> None:
        if isinstance(interval, bool) or not isinstance(interval, int | float) or not 0 < interval < math.inf:
            raise InvalidArgumentError(f"interval: expected seconds greater than 0, got {interval!r}")
        self.path = path
        self.reloads = 0
        self.last_error: Exception | None = None
        self._reload = reload
        self._clock = clock
        self._schedule = schedule
        self._on_close = closed
        self._files = files or WatchedFiles([path], clock, settle=min(_SETTLE, interval), known=False)
        self._settle = min(_SETTLE, interval)
        self._worker = WorkerPool("goplugins-watch", 1, 1)
        self._retry_after = _FIRST_RETRY
        self._retry_at: float | None = None
        self._closed = False
        self.after_fork_in_child()
        self._hook = _SignalHook(self._signals) if on_signal else None
        try:
            self._ticket = schedule(self.look, interval, 0.0)
        except BaseException:
            self.close()
            raise
        register_forkable(self)

    def after_fork_in_child(self) -> None:
        """A reload under way goes on in the parent."""
        self._check_lock = threading.Lock()
        self._busy = False
        self._soon: ScheduledTask | None = None
        if not hasattr(self, "_signals"):
            self._signals: queue.SimpleQueue[None] = queue.SimpleQueue()

    def look(self) -> None:
        """Looks at the file now, and starts a reload if there is need."""
        if not self._check_lock.acquire(blocking=False):
            return  # another thread looks
        try:
            if self._closed or self._busy:
                return
            wanted = self._was_signalled()
            if self._files.changed():
                wanted = True
                self._retry_after = _FIRST_RETRY
            elif self._files.pending and not wanted:
                self._soon = self._schedule(self.look, None, self._settle)
                return
            elif self._retry_at is not None and self._clock.monotonic() >= self._retry_at:
                wanted = True
            if wanted:
                self._files.accept()
                self._busy = True
        finally:
            self._check_lock.release()
        if wanted:
            try:
                self._worker.submit(self._do)
            except PluginError as exc:
                self._failed(exc if isinstance(exc, SaturatedError) else None)

    def _was_signalled(self) -> bool:
        signalled = False
        while not self._signals.empty():
            self._signals.get_nowait()
            signalled = True
        return signalled

    def _do(self) -> None:
        """On a worker of its own: a reload takes its time, and others have to be looked at."""
        try:
            self._reload()
        except Exception as exc:
            if belongs_to_host(exc):
                raise
            after = self._retry_after
            if isinstance(exc, PluginError):  # its problems were logged one by one
                logger.warning("%s: not loaded (%s), next try in %g s", self.path, type(exc).__name__, after)
            else:
                logger.exception("%s: the reload broke off, next try in %g s", self.path, after)
            self._failed(exc)
        else:
            self.reloads += 1
            self.last_error = None
            self._retry_at = None
            self._busy = False

    def _failed(self, error: Exception | None) -> None:
        self.last_error = error
        self._retry_at = self._clock.monotonic() + self._retry_after
        self._retry_after = min(2 * self._retry_after, _LONGEST_RETRY)
        self._busy = False

    def close(self) -> None:
        """Looks no more. A reload under way goes on. Harmless when repeated."""
        self._closed = True
        for ticket in (getattr(self, "_ticket", None), self._soon):
            if ticket is not None:
                ticket.cancel()
        if self._hook is not None:
            self._hook.remove()
        self._worker.shutdown(wait=False)
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
    """Notes a SIGHUP and passes it on to whoever had it before."""

    def __init__(self, notes: queue.SimpleQueue[None]) -> None:
        number = getattr(signal, "SIGHUP", None)
        if number is None or threading.current_thread() is not threading.main_thread():
            raise InvalidArgumentError(
                "signal: only the main thread can have SIGHUP noticed, and only on POSIX systems"
            )
        before: Any = signal.getsignal(number)

        def note(received: int, frame: FrameType | None) -> None:
            notes.put(None)  # all that is safe within a handler; the next look finds it
            if callable(before):
                before(received, frame)

        self._number = number
        self._before = before
        self._handler = note
        signal.signal(number, note)

    def remove(self) -> None:
        """Puts the former handler back, where that can be done: on the main thread, if no other came since."""
        if threading.current_thread() is threading.main_thread() and signal.getsignal(self._number) is self._handler:
            signal.signal(self._number, signal.SIG_DFL if self._before is None else self._before)
