"""A counter that many threads increment without a lock."""

from __future__ import annotations

import itertools
from collections.abc import Callable


class Counter:
    """Counts calls of ``add``, each of which is one C call; a lock would cost several times as much.

    Attributes:
        add: adds one; any thread may call it at any time. Its return value means nothing.

    >>> counter = Counter()
    >>> for _ in range(3):
    ...     _ = counter.add()
    >>> counter.take(), counter.take(), counter.total
    (3, 0, 3)
    """

    __slots__ = ("_draw", "_taken", "add")

    def __init__(self) -> None:
        # next() on a count is atomic, under the GIL and without.
        added = itertools.count()
        self.add: Callable[[], object] = added.__next__
        # Reading a count draws from it, so the reads are counted as well. Both in one C call: an interrupt (Ctrl-C, a
        # worker's time limit) comes before or after it, and a read whose result is lost changes nothing.
        self._draw: Callable[[], tuple[int, int]] = zip(added, itertools.count(), strict=False).__next__
        self._taken = 0

    @property
    def total(self) -> int:
        """How many were added so far."""
        drawn, reads = self._draw()
        return drawn - reads

    def take(self) -> int:
        """How many were added since the last time. One thread at a time: the caller holds a lock."""
        drawn, reads = self._draw()
        # No call, hence no interrupt, from here to the caller's next one.
        fresh = drawn - reads - self._taken
        self._taken += fresh
        return fresh
