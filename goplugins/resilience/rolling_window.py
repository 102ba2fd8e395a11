"""Counts of calls, failures and slow calls over the last seconds, in constant time and space."""

from __future__ import annotations

_BUCKETS = 10


class RollingWindow:
    """Counts over the last ``seconds``, in a ring of ten buckets of which the oldest expires as a whole.

    Not thread-safe: its owner's lock is held.

    >>> window = RollingWindow(10.0)
    >>> window.record(0.0, failed=True, slow=False)
    >>> window.record(5.0, failed=False, slow=True)
    >>> window.calls, window.failures, window.slow
    (2, 1, 1)
    >>> window.record(10.0, failed=False, slow=False)
    >>> window.calls, window.failures, window.slow
    (2, 0, 1)
    """

    __slots__ = ("_ring", "_seconds", "_tick", "_width", "calls", "failures", "slow")

    def __init__(self, seconds: float) -> None:
        self._width = seconds / _BUCKETS
        self._seconds = seconds
        self._tick = 0
        self.calls = self.failures = self.slow = 0
        self._ring = [[0, 0, 0] for _ in range(_BUCKETS)]

    def emptied(self) -> RollingWindow:
        """An empty window of the same width."""
        return RollingWindow(self._seconds)

    def record(self, now: float, *, failed: bool, slow: bool) -> None:
        """Counts one call that ended at ``now``; a ``now`` before the newest bucket counts there."""
        tick = int(now / self._width)
        if tick > self._tick:
            self._expire(min(tick - self._tick, _BUCKETS))
            self._tick = tick
        # No call, hence no interrupt, from here on: the totals equal the sums of the buckets.
        bucket = self._ring[self._tick % _BUCKETS]
        self.calls += 1
        bucket[0] += 1
        if failed:
            self.failures += 1
            bucket[1] += 1
        if slow:
            self.slow += 1
            bucket[2] += 1

    def _expire(self, count: int) -> None:
        for old in range(self._tick + 1, self._tick + 1 + count):
            bucket = self._ring[old % _BUCKETS]
            self.calls -= bucket[0]
            self.failures -= bucket[1]
            self.slow -= bucket[2]
            bucket[:] = (0, 0, 0)
