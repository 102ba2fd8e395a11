"""Cancellation of an attempt by another thread, as a hedged call does with the attempt that lost."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import ClassVar, TypeVar

from goplugins.errors import PluginError, Verdict

T = TypeVar("T")


class AttemptCancelledError(PluginError):
    """The attempt was cancelled, since the call has its answer already. Never reaches a caller."""

    code = "PLUGIN_1200"
    verdict: ClassVar[Verdict] = Verdict.IGNORED


class Cancellation:
    """Cancels one attempt: its thread attaches a function that ends its present wait, another thread cancels.

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
        """Has a cancel call ``stop`` until :meth:`detach`, on any thread; it must not block or raise.

        Raises:
            AttemptCancelledError: the attempt is cancelled already; ``stop`` is not called.
        """
        with self._lock:
            if not self.cancelled:
                self._stop = stop
                return
        raise AttemptCancelledError("the attempt was cancelled")

    def detach(self) -> None:
        """Ends :meth:`attach`: the connection, say, may be used by another call from now on.

        Raises:
            AttemptCancelledError: a cancel came first and has called ``stop``: the connection can't be used any more.
        """
        with self._lock:
            self._stop = None
            if not self.cancelled:
                return
        raise AttemptCancelledError("the attempt was cancelled")

    def guard(self, stop: Callable[[], object], work: Callable[[], T]) -> T:
        """Runs ``work`` while a cancel calls ``stop``, and returns its result.

        Raises:
            AttemptCancelledError: the attempt was cancelled before or meanwhile, however ``work`` ended.
        """
        self.attach(stop)
        try:
            return work()
        finally:
            self.detach()

    def cancel(self) -> None:
        """Ends the attempt's present wait, and any later one. Harmless when repeated.

        In a forked child ``stop`` is not called: what is attached belongs to the parent's call.
        """
        if self._pid != os.getpid():
            self.cancelled = True
            return
        # The only lock that is held over a callback: no detach() may return while ``stop`` runs, or ``stop`` could end
        # the next call on that connection (or on another one with the number of its closed descriptor).
        with self._lock:
            self.cancelled = True
            if self._stop is not None:
                self._stop()
                self._stop = None  # only now: after an interrupt within stop(), the next cancel() repeats it
