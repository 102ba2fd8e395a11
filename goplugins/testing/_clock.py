"""A clock that only a test advances, so that tests about time take no time."""

from __future__ import annotations

import threading

import attrs

from goplugins.errors import InvalidArgumentError
from goplugins.runtime.clock import Waitable

__all__ = ["ManualClock"]

_EPOCH = 1_700_000_000.0

_POLL_INTERVAL = 0.002
"""Real seconds between checks whether the event is set, which can't notify the clock. An advance wakes at once."""


@attrs.define(eq=False)
class _Wait:
    """A thread inside :meth:`ManualClock.wait`."""

    waiter: Waitable
    due: float | None
    over: bool = False


class ManualClock:
    """A :class:`~goplugins.runtime.clock.Clock` for tests.

    With ``auto_advance`` (the default) a wait advances the clock by its whole timeout and returns: code that backs off
    for a minute takes microseconds, and ``monotonic()`` shows how long it would have taken. Without it a waiting
    thread blocks until :meth:`advance` reaches the end of its timeout, or its event is set.

    >>> clock = ManualClock()
    >>> clock.wait(threading.Event(), 30.0)
    False
    >>> clock.advance(1.5)
    >>> clock.monotonic()
    31.5
    """

    def __init__(self, start: float = 0.0, *, auto_advance: bool = True) -> None:
        self._now = start
        self._auto_advance = auto_advance
        self._moved = threading.Condition()
        self._waits: list[_Wait] = []

    def monotonic(self) -> float:
        """Seconds; changed only by :meth:`advance` and, with ``auto_advance``, by waits."""
        return self._now

    def time(self) -> float:
        """Seconds since the Unix epoch: ``monotonic()`` and a fixed offset."""
        return _EPOCH + self._now

    def advance(self, seconds: float) -> None:
        """Advances the clock by ``seconds`` and ends the waits whose timeout has passed.

        Raises:
            InvalidArgumentError: ``seconds`` is negative: a monotonic clock never goes back.
        """
        if not seconds >= 0:
            raise InvalidArgumentError(f"advance: expected seconds of 0 or more, got {seconds!r}")
        with self._moved:
            self._now += seconds
            # Removed here, not by the woken thread: `waiters` is correct as soon as advance() returns.
            for wait in self._waits:
                wait.over = wait.due is not None and wait.due <= self._now
            self._waits = [wait for wait in self._waits if not wait.over]
            self._moved.notify_all()

    def wait(self, waiter: Waitable, timeout: float | None) -> bool:
        """Waits until ``waiter`` is set, at most ``timeout`` seconds of this clock; True if it is set.

        Without a timeout there is no time to advance to: that wait blocks in both modes until the event is set.
        """
        if waiter.is_set():
            return True
        if timeout is not None and (self._auto_advance or timeout <= 0):
            self.advance(max(timeout, 0.0))
            return waiter.is_set()
        with self._moved:
            wait = _Wait(waiter, None if timeout is None else self._now + timeout)
            self._waits.append(wait)
            self._moved.notify_all()
            try:
                while not wait.over and not waiter.is_set():
                    self._moved.wait(_POLL_INTERVAL)
            finally:
                if not wait.over:
                    self._waits.remove(wait)
        return waiter.is_set()

    @property
    def waiters(self) -> int:
        """The number of threads that wait for this clock or for their event."""
        with self._moved:
            return sum(not wait.waiter.is_set() for wait in self._waits)

    def wait_for_waiters(self, count: int, timeout: float = 10.0) -> None:
        """Blocks until at least ``count`` threads are inside :meth:`wait`, so that a test need not sleep.

        Raises:
            TimeoutError: there were fewer for ``timeout`` real seconds.
        """
        with self._moved:
            enough = self._moved.wait_for(
                lambda: sum(not wait.waiter.is_set() for wait in self._waits) >= count, timeout
            )
            found = len(self._waits)
        if not enough:
            raise TimeoutError(f"{found} of {count} threads wait for the clock after {timeout} s")
