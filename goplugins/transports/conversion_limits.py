"""Bounds of the conversion of one value: the faults that are found in it, and its caller's deadline.

4 KB of gzip hold 600,000 elements. Without bounds a reply, or a request to a served plugin, of which no element fits
its type takes half a minute and gigabytes, and its error has tens of megabytes.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator
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


class _Limits(threading.local):
    """Of the conversion on this thread. Read and written at each container: plain numbers, and no lock."""

    left: float = STEP
    faults: int = 0
    deadline: Deadline | None = None
    late: bool = False


_limits = _Limits()


def convert(hook: Callable[[Any, Any], T], data: Any, target: Any, deadline: Deadline | None) -> T:
    """Converts ``data`` by ``hook`` within the bounds.

    Args:
        hook: converts, and calls :func:`count` for each container and :func:`add_fault` for each fault.
        data: parsed JSON.
        target: the hook's second argument.
        deadline: ends the conversion; None for no limit.

    Raises:
        PluginTimeoutError: the deadline passed. Any other exception is the hook's.
    """
    limits = _limits
    limits.left, limits.deadline = STEP, deadline
    try:
        return hook(data, target)
    except Exception as exc:
        host = host_exception(exc)
        if host is not None:  # and no fault of the value
            try:
                raise host
            finally:
                del host
        if limits.late:
            raise PluginTimeoutError("the deadline passed while the data was converted") from None
        raise
    finally:
        limits.deadline = None
        if limits.faults or limits.late:
            limits.faults, limits.late = 0, False


def count(elements: int) -> None:
    """Counts a container with that many elements.

    Raises:
        EnoughError: the conversion has to end.
    """
    left = _limits.left = _limits.left - elements
    if left < 0:
        _check()


def _check() -> None:
    limits = _limits
    if limits.faults >= MAX_FAULTS or limits.late:
        raise EnoughError
    deadline = limits.deadline
    if deadline is not None and deadline.remaining() <= 0:
        limits.late, limits.left = True, -math.inf
        raise EnoughError
    limits.left = STEP


def add_fault() -> bool:
    """Counts a faulty element or object; True if the conversion has to end."""
    limits = _limits
    limits.faults += 1
    if limits.faults >= MAX_FAULTS:
        limits.left = -math.inf  # the next container ends the conversion
    return limits.left < 0


def counted(items: Iterable[T]) -> Iterator[T]:
    """The elements of a large container, counted in steps."""
    for index, item in enumerate(items):
        if index % STEP == 0:
            count(STEP)
        yield item
