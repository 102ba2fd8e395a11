"""Time as a part that is handed in: everything that waits or measures takes a :class:`Clock`."""

from __future__ import annotations

import threading
import time
from typing import Protocol

__all__ = ["SYSTEM_CLOCK", "Clock", "SystemClock"]


class Clock(Protocol):
    """What the parts need of time. ``goplugins.testing.ManualClock`` is the one for tests."""

    def monotonic(self) -> float:
        """Seconds since some fixed moment; never goes back."""
        ...

    def time(self) -> float:
        """Seconds since the Unix epoch."""
        ...

    def wait(self, wakeup: threading.Event, timeout: float | None) -> bool:
        """Waits until ``wakeup`` is set, at most ``timeout`` seconds; True if it is set."""
        ...


class SystemClock:
    """The machine's own clock."""

    # Bound as attributes of the class: a call costs one C call and no Python frame.
    monotonic = staticmethod(time.monotonic)
    time = staticmethod(time.time)

    @staticmethod
    def wait(wakeup: threading.Event, timeout: float | None) -> bool:
        return wakeup.wait(timeout)


SYSTEM_CLOCK: Clock = SystemClock()
