"""Waiting for a condition, and time limits that a busy machine does not break."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

__all__ = ["least_lateness", "seconds_of", "until"]

TRIES = 3
"""The machine may be busy, and one call late because of that; a call that is late by itself is late every time."""


def until(condition: Callable[[], Any], seconds: float = 10.0, what: str = "it") -> None:
    """Returns as soon as ``condition()`` is true. Use this to wait for another thread or process, not a sleep.

    Raises:
        AssertionError: it was not true within so many seconds.
    """
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen within {seconds} s"
        time.sleep(0.002)


def seconds_of(work: Callable[[], object]) -> float:
    """Seconds that ``work`` takes."""
    started = time.monotonic()
    work()
    return time.monotonic() - started


def least_lateness(seconds: float, work: Callable[[], object], bound: float = 0.1) -> float:
    """How many seconds longer than ``seconds`` ``work`` took, in the best of up to three runs.

    For upper limits of a few tenths of a second: ``assert least_lateness(0.2, call) < 0.1``.

    Args:
        seconds: what a run takes if nothing is late; 0.0 for work that has to end at once.
        work: what is measured; it has to work several times over.
        bound: a run that is late by less than this is the last one.
    """
    found = []
    for _ in range(TRIES):
        found.append(seconds_of(work) - seconds)
        if found[-1] < bound:
            break
    return min(found)
