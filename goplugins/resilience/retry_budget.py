"""The retry budget: retries and hedges stay a small share of the calls, however many of them fail."""

from __future__ import annotations

import threading

from goplugins.errors import InvalidArgumentError
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock
from goplugins.runtime.counter import Counter
from goplugins.runtime.fork import register_forkable

_LIFETIME = 10.0  # seconds that a deposit lives
_TICKS = 100  # time buckets in a lifetime; a deposit lives between 9.9 and 10 s, never longer
_PER_SECOND = _TICKS / _LIFETIME
_UNIT = 1_000_000  # deposits are whole millionths: a sum of a million fifths is exact
_RESERVE_RATE = 10.0  # withdrawals per second that need no deposit ...
_RESERVE_MAX = 100.0  # ... and how many of them can be saved up
_ROUNDING = 1e-9  # a tenth of a second earns 1, even where floats make it a hair less


class RetryBudget:
    """Lets retries and hedges through while they are few beside the calls.

    Each call deposits ``ratio``, which lives 10 s; each retry or hedge withdraws 1. A reserve of 10 per second, at
    most 100 (which it starts with), lets a plugin of little traffic retry at all. So in any ``T`` seconds there are
    never more than ``ratio * calls(T + 10) + 10 * (T + 10)`` withdrawals: a service that is down gets its usual load
    and a fifth, not four times as much. Safe to use from many threads; every method takes constant time.

    Args:
        ratio: withdrawals earned by a call; 0 or more.
        clock: where the time comes from.

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
        self._lock = threading.Lock()
        self._deposit = _as_units(ratio)
        # No sum is kept beside them: an interrupt between the two changes would leave them at odds for ever, and
        # the hundred are added up only when a retry is asked for.
        self._buckets = [0] * _TICKS
        self._fresh = Counter()  # calls of this tick that are not in its bucket yet
        self._tick = int(self._now() * _PER_SECOND)  # of the newest bucket,
        self._place = self._tick % _TICKS  # which is here
        self._next_tick_at = (self._tick + 1) / _PER_SECOND
        self._oldest = self._tick  # no older bucket holds anything
        self._reserve = _RESERVE_MAX
        self._reserve_at = self._now()
        register_forkable(self)

    def deposit(self) -> None:
        """Counts one call that is really sent (not its retries). Takes the lock ten times a second at most."""
        if self._now() >= self._next_tick_at:
            with self._lock:
                self._take_in()
        self._fresh.add()

    def withdraw(self) -> bool:
        """Takes 1 for a retry or hedge about to be sent; False, taking nothing, if the budget is exhausted."""
        with self._lock:
            self._settle()
            deposits = sum(self._buckets)
            short = max(0, _UNIT - deposits) / _UNIT
            if short > self._reserve + _ROUNDING:
                return False
            self._reserve -= short
            self._spend(min(_UNIT, deposits))
            return True

    @property
    def available(self) -> float:
        """How many withdrawals there are now; below 1 the next one is refused."""
        with self._lock:
            self._settle()
            return sum(self._buckets) / _UNIT + self._reserve

    def set_ratio(self, ratio: float) -> None:
        """Changes what calls from now on deposit; what is deposited stays.

        Raises:
            InvalidArgumentError: a negative ``ratio``.
        """
        deposit = _as_units(ratio)
        with self._lock:
            self._take_in()
            self._deposit = deposit

    def after_fork_in_child(self) -> None:
        """A fresh lock: another thread of the parent may have held the old one at the moment of the fork."""
        self._lock = threading.Lock()

    # --- what follows expects the lock -------------------------------------------------------------------------

    def _settle(self) -> None:
        """Drops old deposits and refills the reserve."""
        now = self._take_in()
        self._reserve = min(_RESERVE_MAX, self._reserve + (now - self._reserve_at) * _RESERVE_RATE)
        self._reserve_at = now

    def _take_in(self) -> float:
        """Puts the fresh deposits into their bucket, and begins another if its time is over; the present moment."""
        self._buckets[self._place] += self._fresh.take() * self._deposit
        now = self._now()  # read under the lock, so that it never goes back
        if now >= self._next_tick_at:
            self._expire(now)
        return now

    def _expire(self, now: float) -> None:
        """Begins a new bucket and empties those that are a lifetime old."""
        tick = int(now * _PER_SECOND)
        # A bucket goes when its first deposit is 10 s old: the law speaks of at most 10.
        last = tick - _TICKS
        for old in range(self._oldest, min(last, self._tick) + 1):
            self._buckets[old % _TICKS] = 0
        oldest = max(self._oldest, last + 1)
        # No call, hence no interrupt, between these.
        self._oldest = oldest
        self._tick = tick
        self._place = tick % _TICKS
        self._next_tick_at = (tick + 1) / _PER_SECOND

    def _spend(self, units: int) -> None:
        """Takes ``units`` out of the oldest buckets, which would expire first."""
        while units:
            place = self._oldest % _TICKS
            taken = min(units, self._buckets[place])
            self._buckets[place] -= taken
            units -= taken
            if units:
                self._oldest += 1


def _as_units(ratio: float) -> int:
    if not ratio >= 0:
        raise InvalidArgumentError(f"ratio: expected a number of 0 or more, got {ratio!r}")
    return round(ratio * _UNIT)
