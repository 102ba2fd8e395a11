"""Bounds of the conversion of one value: the faults that are found in it, and its caller's deadline.

4 KB of gzip hold 600,000 elements. Without bounds a reply, or a request to a served plugin, of which no element fits
its type takes half a minute and gigabytes, and its error has tens of megabytes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from goplugins.errors import PluginTimeoutError, host_exception
from goplugins.runtime.deadline import Deadline

T = TypeVar("T")

MAX_FAULTS = 10
"""Faulty elements and objects of a value after which its conversion ends."""

STEP = 4096
"""Elements and objects between two checks of the deadline: a few milliseconds."""


class EnoughError(ValueError):
    """The conversion ends here: enough faults were found, or its time is over."""


_LEFT, _FAULTS, _LATE, _DEADLINE = range(4)


class _Limits(threading.local):
    """The bounds of the conversion on this thread.

    Attributes:
        state: elements until the next check, faults, whether the deadline has passed, and the deadline. A list, which
            takes a hundredth of the time of a small conversion, and no lock.
    """

    def __init__(self) -> None:
        self.state = new_state(None)


def new_state(deadline: Deadline | None) -> list[Any]:
    """The state at the beginning of a conversion that a deadline ends; None for no limit."""
    return [STEP, 0, False, deadline]


limits = _Limits()


def check(state: list[Any]) -> None:
    """Called when no elements are left until the next check.

    Raises:
        EnoughError: the conversion has to end.
    """
    deadline = state[_DEADLINE]
    if state[_FAULTS] < MAX_FAULTS and (deadline is None or deadline.remaining() > 0):
        state[_LEFT] = STEP
        return
    state[_LATE] = state[_LATE] or state[_FAULTS] < MAX_FAULTS
    state[_DEADLINE], state[_FAULTS] = None, MAX_FAULTS
    raise EnoughError


def count(elements: int) -> None:
    """Counts a container with that many elements.

    Raises:
        EnoughError: the conversion has to end.
    """
    state = limits.state
    state[_LEFT] -= elements
    if state[_LEFT] < 0:
        check(state)


def add_fault() -> bool:
    """Counts a faulty element or object; True if the conversion has to end."""
    state = limits.state
    state[_FAULTS] += 1
    if state[_FAULTS] < MAX_FAULTS:
        return False
    state[_LEFT] = -1  # the next container ends the conversion
    return True


def error_of(exc: Exception) -> Exception | None:
    """What ended the conversion on this thread: an exception of the host, or the deadline; None for faults."""
    host = host_exception(exc)
    if isinstance(host, Exception):
        return host
    return PluginTimeoutError("the deadline passed while the data was converted") if limits.state[_LATE] else None


def counted(items: Iterable[T]) -> Iterator[T]:
    """The elements of a large container, counted in steps."""
    for index, item in enumerate(items):
        if index % STEP == 0:
            count(STEP)
        yield item
