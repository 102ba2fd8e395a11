"""Waiting for a condition, and time limits that a busy machine does not break."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["Stopwatch", "time_limit", "until"]

TRIES = 3


def until(condition: Callable[[], Any], seconds: float = 10.0, what: str = "the condition is true") -> None:
    """Returns as soon as ``condition()`` is true. Use this to wait for another thread or process, not a sleep.

    Raises:
        AssertionError: it was not true within so many seconds.
    """
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(0.002)


class Stopwatch:
    """Measures a block: ``with stopwatch: ...``, then ``stopwatch.seconds``."""

    def __init__(self) -> None:
        self.seconds = math.inf
        self._started = 0.0

    def __enter__(self) -> Stopwatch:  # noqa: PYI034
        self._started = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.monotonic() - self._started


def time_limit(seconds: float, at_least: float = 0.0) -> Iterator[Stopwatch]:
    """Repeats a block that takes too long, up to three times. It has to be on time once.

    The machine may be busy, and one call late because of that; a call that is late by itself is late every time. For
    limits with a few tenths of a second to spare; the block has to work several times over:

        for stopwatch in time_limit(0.3):
            with stopwatch, pytest.raises(PluginTimeoutError):
                call(plugin, timeout=0.2)

    Args:
        seconds: what the block may take.
        at_least: what it has to take each time.
    """
    taken = []
    for _ in range(TRIES):
        stopwatch = Stopwatch()
        yield stopwatch
        taken.append(stopwatch.seconds)
        assert taken[-1] >= at_least, f"it took {taken[-1]:.3f} s, less than {at_least} s"
        if taken[-1] < seconds:
            return
    raise AssertionError(f"it took {min(taken):.3f} s at best, more than {seconds} s")
