"""A count that many threads raise without a lock."""

from __future__ import annotations

import itertools
from collections.abc import Callable

__all__ = ["Counter"]


class Counter:
    """Counts calls of ``add``, one C call each, and hands out what has come since it was last asked.

    A lock costs several times as much, and what is counted here needs no order among its additions.

    Attributes:
        add: counts one; any thread may call it at any time. What it returns means nothing.

    >>> counter = Counter()
    >>> for _ in range(3):
    ...     _ = counter.add()
    >>> counter.take(), counter.take()
    (3, 0)
    """

    __slots__ = ("_taken", "add")

    def __init__(self) -> None:
        # next() on a count is atomic, under the GIL and without.
        self.add: Callable[[], object] = itertools.count().__next__
        self._taken = 0

    def take(self) -> int:
        """How many have been added since the last time. One thread at a time: the caller holds a lock."""
        drawn: int = self.add()  # type: ignore[assignment]  # looking at a count draws from it
        fresh = drawn - self._taken
        self._taken = drawn + 1
        return fresh
