"""A warning about what may happen a thousand times a second."""

from __future__ import annotations

import logging
import threading

from goplugins.runtime.clock import SYSTEM_CLOCK, Clock

__all__ = ["RareWarning"]

_logger = logging.getLogger("goplugins.serve")

_EVERY = 10.0
"""Seconds between two lines: neither a flood of calls nor an attacker must fill the disk."""


class RareWarning:
    """Logs the first time at once, then at most every 10 s, with how often it happened since the last line.

    Args:
        text: begins with ``%d`` for the count; the call's arguments follow.
        clock: measures the pause.
    """

    def __init__(self, text: str, clock: Clock = SYSTEM_CLOCK) -> None:
        self._text = text
        self._clock = clock
        self._lock = threading.Lock()
        self._count = 0
        self._next = clock.monotonic()

    def __call__(self, *arguments: object) -> None:
        now = self._clock.monotonic()
        with self._lock:
            self._count += 1
            if now < self._next:
                return
            self._next = now + _EVERY
            count, self._count = self._count, 0
        _logger.warning(self._text, count, *arguments)
