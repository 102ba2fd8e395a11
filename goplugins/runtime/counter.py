"""A count that many threads raise without a lock."""

from __future__ import annotations

import itertools
from collections.abc import Callable

__all__ = ["Counter"]


class Counter:
    """Counts calls of ``add``, one C call each; tells how many there were, or what has come since it was last asked.

    A lock costs several times as much, and what is counted here needs no order among its additions.

    Attributes:
        add: counts one; any thread may call it at any time. What it returns means nothing.

    >>> counter = Counter()
    >>> for _ in range(3):
    ...     _ = counter.add()
    >>> counter.take(), counter.take(), counter.total
    (3, 0, 3)
    """

    __slots__ = ("_look", "_taken", "add")

    def __init__(self) -> None:
        # next() on a count is atomic, under the GIL and without.
        added = itertools.count()
        self.add: Callable[[], object] = added.__next__
        # Looking at a count draws from it, so the looks are counted, too. Both by one C call: an interrupt (Ctrl-C, a
        # worker's time limit) comes before or after it, and a look whose result it takes away changes nothing.
        self._look: Callable[[], tuple[int, int]] = zip(added, itertools.count(), strict=False).__next__
        self._taken = 0

    @property
    def total(self) -> int:
        """How many have been added."""
        drawn, looks = self._look()
        return drawn - looks

    def take(self) -> int:
        """How many have been added since the last time. One thread at a time: the caller holds a lock."""
        drawn, looks = self._look()
        # No call, hence no interrupt, from here to the caller's next one.
        fresh = drawn - looks - self._taken
        self._taken += fresh
        return fresh
