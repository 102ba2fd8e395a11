"""Log lines about frequent occurrences: the first one is logged at once, later ones at most once per interval."""

from __future__ import annotations

import math
from collections.abc import Hashable

from goplugins.runtime.clock import SYSTEM_CLOCK, Clock
from goplugins.runtime.fork import create_lock

_MAX_KEYS = 1000
"""Kinds of occurrences that are tracked; beyond, all are forgotten, and logged anew."""


class LogThrottle:
    """Decides which occurrences are logged. Safe to use from many threads.

    Args:
        interval: seconds between two lines about the same kind of occurrence.
        clock: measures time.

    >>> throttle = LogThrottle()
    >>> throttle.count("a"), throttle.count("a"), throttle.count("b")
    (1, None, 1)
    """

    def __init__(self, interval: float = 10.0, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._interval = interval
        self._now = clock.monotonic
        self._lock = create_lock(self)
        self._kinds: dict[Hashable, tuple[float, int]] = {}  # when each was last logged, and how often it came since

    def count(self, kind: Hashable = None) -> int | None:
        """Counts one occurrence.

        Returns:
            If a line is to be logged now, how many occurrences it stands for, this one included; else None.
        """
        now = self._now()
        with self._lock:
            logged_at, since = self._kinds.get(kind, (-math.inf, 0))
            if now - logged_at < self._interval:
                self._kinds[kind] = (logged_at, since + 1)
                return None
            if len(self._kinds) >= _MAX_KEYS:
                self._kinds.clear()
            self._kinds[kind] = (now, 0)
            return since + 1
