"""Retry budget: bounds retries and hedged attempts to a share of the calls, however many calls fail."""

from __future__ import annotations

from goplugins.errors import InvalidArgumentError
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock
from goplugins.runtime.counter import Counter
from goplugins.runtime.fork import create_lock

_LIFETIME = 10.0  # seconds until a deposit expires
_TICKS = 100  # time buckets in a lifetime; a deposit expires after 9.9 to 10 s, never later
_PER_SECOND = _TICKS / _LIFETIME
_UNIT = 1_000_000  # deposits are counted in millionths, so that sums are exact
_RESERVE_RATE = 10.0  # withdrawals per second without a deposit ...
_RESERVE_MAX = 100.0  # ... and how many of them accumulate
_ROUNDING = 1e-9  # 0.1 s earns 1, even where float rounding makes it slightly less


class RetryBudget:
    """Admits retries and hedged attempts while they are few in proportion to the calls.

    Each call deposits ``ratio``, which expires after 10 s; each retry or hedge withdraws 1. A reserve of 10 per second,
    at most 100 (its initial value), lets a plugin with little traffic retry at all. So in any ``T`` seconds there are
    at most ``ratio * calls(T + 10) + 10 * (T + 10)`` withdrawals: with a ratio of 0.2, a service that is down gets at
    most 1.2 times its usual load instead of four times. Safe to use from many threads; every method takes constant
    time.

    Args:
        ratio: withdrawals earned by a call; 0 or more.
        clock: the source of time.

    Raises:
        InvalidArgumentError: a negative ``ratio``.

    >>> from goplugins.testing import ManualClock
    >>> budget = RetryBudget(0.2, clock=ManualClock())
    >>> sum(budget.withdraw() for _ in range(500))
    100
    >>> for _ in range(10):
    ...     budget.deposit()
    >>> [budget.withdraw() for _ in range(3)]
    [True, True, False]
    """

    def __init__(self, ratio: float = 0.2, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._now = clock.monotonic
        self._lock = create_lock(self)
        self._deposit = _as_units(ratio)
        # Their sum is not stored: an interrupt between the two changes would leave it wrong permanently. The buckets
        # are summed only when a retry is due.
        self._buckets = [0] * _TICKS
        self._fresh = Counter()  # calls of this tick, not yet added to its bucket
        self._tick = int(self._now() * _PER_SECOND)  # of the newest bucket
        self._index = self._tick % _TICKS  # of that bucket
        self._next_tick_at = (self._tick + 1) / _PER_SECOND
        self._oldest = self._tick  # all older buckets are empty
        self._reserve = _RESERVE_MAX
        self._reserve_at = self._now()

    def deposit(self) -> None:
        """Counts one call that was sent (not its retries). Takes the lock ten times a second at most."""
        if self._now() >= self._next_tick_at:
            with self._lock:
                self._collect()
        self._fresh.add()

    def withdraw(self) -> bool:
        """Takes 1 for a retry or hedge that will be sent; False, and takes nothing, if the budget is exhausted."""
        with self._lock:
            self._refresh()
            deposits = sum(self._buckets)
            short = max(0, _UNIT - deposits) / _UNIT
            if short > self._reserve + _ROUNDING:
                return False
            self._reserve -= short
            self._spend(min(_UNIT, deposits))
            return True

    @property
    def available(self) -> float:
        """How many withdrawals are possible now; below 1 the next one is refused."""
        with self._lock:
            self._refresh()
            return max(sum(self._buckets) / _UNIT + self._reserve, 0.0)  # the reserve may be a rounding below 0

    def set_ratio(self, ratio: float) -> None:
        """Changes the deposit of calls from now on; earlier deposits stay.

        Raises:
            InvalidArgumentError: a negative ``ratio``.
        """
        deposit = _as_units(ratio)
        with self._lock:
            self._collect()
            self._deposit = deposit

    # --- internal; the caller holds the lock ---------------------------------------------------------------------

    def _refresh(self) -> None:
        """Expires old deposits and refills the reserve."""
        now = self._collect()
        self._reserve = min(_RESERVE_MAX, self._reserve + (now - self._reserve_at) * _RESERVE_RATE)
        self._reserve_at = now

    def _collect(self) -> float:
        """Adds fresh deposits to the newest bucket, begins another if that one's time is over, and returns the time."""
        self._buckets[self._index] += self._fresh.take() * self._deposit
        now = self._now()  # read under the lock, so that it never decreases
        if now >= self._next_tick_at:
            self._expire(now)
        return now

    def _expire(self, now: float) -> None:
        """Begins a new bucket and empties the expired ones."""
        tick = int(now * _PER_SECOND)
        # A bucket expires when its first deposit is 10 s old: no deposit may live longer.
        last = tick - _TICKS
        for old in range(self._oldest, min(last, self._tick) + 1):
            self._buckets[old % _TICKS] = 0
        oldest = max(self._oldest, last + 1)
        # No call, hence no interrupt, between these.
        self._oldest = oldest
        self._tick = tick
        self._index = tick % _TICKS
        self._next_tick_at = (tick + 1) / _PER_SECOND

    def _spend(self, units: int) -> None:
        """Takes ``units`` from the oldest buckets, which would expire first."""
        while units:
            index = self._oldest % _TICKS
            taken = min(units, self._buckets[index])
            self._buckets[index] -= taken
            units -= taken
            if units:
                self._oldest += 1


def _as_units(ratio: float) -> int:
    if not ratio >= 0:
        raise InvalidArgumentError(f"ratio: expected a number of 0 or more, got {ratio!r}")
    return round(ratio * _UNIT)
