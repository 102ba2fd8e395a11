"""Ending one attempt from another thread: what a hedged call does with the attempt that lost."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import ClassVar, TypeVar

from goplugins.errors import PluginError, Verdict

T = TypeVar("T")


class AttemptCancelledError(PluginError):
    """The attempt was ended by this side, which has its answer already. Never reaches a caller."""

    code = "PLUGIN_1200"
    verdict: ClassVar[Verdict] = Verdict.IGNORED


class Cancellation:
    """What ends one attempt, wherever it is: the thread that makes it attaches what would wake it, another cancels.

    >>> cancellation = Cancellation()
    >>> cancellation.attach(lambda: print("shut down"))
    >>> cancellation.cancel()
    shut down
    >>> cancellation.attach(print)
    Traceback (most recent call last):
    goplugins.runtime.cancellation.AttemptCancelledError: [PLUGIN_1200] the attempt was cancelled
    """

    __slots__ = ("_lock", "_pid", "_stop", "cancelled")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._stop: Callable[[], object] | None = None
        self.cancelled = False

    def attach(self, stop: Callable[[], object]) -> None:
        """From here to :meth:`detach`, a cancel calls ``stop``, on any thread; it must not block or raise.

        Raises:
            AttemptCancelledError: it is cancelled already; ``stop`` is not called.
        """
        with self._lock:
            if not self.cancelled:
                self._stop = stop
                return
        raise AttemptCancelledError("the attempt was cancelled")

    def detach(self) -> None:
        """A cancel does nothing any more: what was attached may serve somebody else.

        Raises:
            AttemptCancelledError: a cancel came first; what was attached has been stopped and serves nobody.
        """
        with self._lock:
            self._stop = None
            if not self.cancelled:
                return
        raise AttemptCancelledError("the attempt was cancelled")

    def guard(self, stop: Callable[[], object], work: Callable[[], T]) -> T:
        """What ``work`` returns or raises, while a cancel calls ``stop``.

        Raises:
            AttemptCancelledError: it was cancelled, before or meanwhile, however ``work`` ended.
        """
        self.attach(stop)
        try:
            return work()
        finally:
            self.detach()

    def cancel(self) -> None:
        """Ends the attempt, if it is under way, and all that it tries later. Harmless when repeated.

        In a forked child it only marks: what is attached belongs to the parent's call.
        """
        if self._pid != os.getpid():
            self.cancelled = True
            return
        # The one lock of the house that is held over a callback: no detach() may return while ``stop`` is at work, or
        # it would hit whoever has the connection (or the number of its closed descriptor) by then.
        with self._lock:
            self.cancelled = True
            if self._stop is not None:
                self._stop()
                self._stop = None  # only now: an interrupt may have broken in, and the next cancel makes up for it
