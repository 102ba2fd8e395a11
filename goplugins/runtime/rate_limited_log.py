"""Log lines about events that may happen a thousand times a second: the first at once, then one per interval."""

from __future__ import annotations

import logging

from goplugins.runtime.clock import SYSTEM_CLOCK, Clock
from goplugins.runtime.fork import create_lock

DEFAULT_INTERVAL = 10.0
"""Seconds between two lines: neither a flood of calls nor an attacker must fill the disk."""


class LogLimiter:
    """Decides which of many events of one kind are logged.

    >>> from goplugins.testing import ManualClock
    >>> clock = ManualClock()
    >>> limiter = LogLimiter(clock)
    >>> limiter.count(), limiter.count(), limiter.count()
    (1, 0, 0)
    >>> clock.advance(10.0)
    >>> limiter.count()
    3
    """

    __slots__ = ("__weakref__", "_count", "_interval", "_lock", "_next", "_now")

    def __init__(self, clock: Clock = SYSTEM_CLOCK, interval: float = DEFAULT_INTERVAL) -> None:
        self._now = clock.monotonic
        self._interval = interval
        self._lock = create_lock(self)
        self._count = 0
        self._next = self._now()

    def count(self) -> int:
        """Counts an event. If it is to be logged, the number of events since the last logged one; else 0.

        Takes the lock.
        """
        now = self._now()
        with self._lock:
            self._count += 1
            if now < self._next:
                return 0
            self._next = now + self._interval
            count, self._count = self._count, 0
            return count


class RateLimitedWarning:
    """Logs a warning at a limited rate.

    Args:
        logger: where to.
        text: a format that begins with ``%d`` for the number of events since the last line; the arguments of the call
            follow.
        clock: source of time.
    """

    def __init__(self, logger: logging.Logger, text: str, clock: Clock = SYSTEM_CLOCK) -> None:
        self._logger = logger
        self._text = text
        self._limiter = LogLimiter(clock)

    def __call__(self, *arguments: object) -> None:
        """Counts an event, and logs it if the interval has passed."""
        count = self._limiter.count()
        if count:
            self._logger.warning(self._text, count, *arguments)
