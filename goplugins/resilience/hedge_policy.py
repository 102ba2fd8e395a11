"""Hedge policy: after how many seconds without an answer a second attempt is sent."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from typing import TYPE_CHECKING

from goplugins.config.defaults import completed
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock
from goplugins.runtime.fork import create_lock, register_forkable

if TYPE_CHECKING:
    from goplugins.config import HedgeConfig


_MAX_SAMPLES = 512
_MAX_AGE = 60.0  # seconds
_MIN_SAMPLES = 20


class HedgePolicy:
    """Computes the hedging delay from recent latencies.

    The delay is the exact quantile of the latest answers, at most 512 of the last minute, updated in constant time
    and space. Safe to use from many threads.

    Args:
        config: a field that is None has its default.
        clock: the source of time.

    Raises:
        InvalidConfigError: a share or time out of range.

    >>> from goplugins import HedgeConfig
    >>> policy = HedgePolicy(HedgeConfig(percentile=0.95))
    >>> print(policy.delay())
    None
    >>> for milliseconds in range(1, 101):
    ...     policy.record(milliseconds / 1000)
    >>> policy.delay()
    0.096
    """

    def __init__(self, config: HedgeConfig, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._now = clock.monotonic
        self._lock = create_lock(self)
        self._recent: deque[tuple[float, float]] = deque()  # when each call ended, and its latency
        self._sorted: list[float] = []
        self._quantile: float | None = None
        self._until = -math.inf  # when the newest sample expires
        self.configure(config)
        register_forkable(self)

    def configure(self, config: HedgeConfig) -> None:
        """Applies another configuration; the samples stay. Takes the lock.

        Raises:
            InvalidConfigError: as for the class; nothing has changed then.
        """
        settings = completed(config)
        # With fewer samples the quantile would be the slowest of them.
        rest = max(1.0 - settings.percentile, 1.0 / _MAX_SAMPLES)
        min_samples = max(_MIN_SAMPLES, math.ceil(1.0 / rest - 1e-9))
        with self._lock:
            self._fixed: float | None = settings.delay
            self._share: float = settings.percentile
            self._min_delay: float = settings.min_delay
            self._min_samples: int = min_samples
            self._update()

    def delay(self) -> float | None:
        """Seconds after which to send a second attempt; None while there are too few samples. Takes no lock."""
        if self._fixed is not None:
            return self._fixed
        quantile = self._quantile
        if quantile is None or self._now() > self._until:
            return None
        return max(quantile, self._min_delay)

    def record(self, seconds: float) -> None:
        """Adds the latency of an answered call, whichever attempt was answered. Takes the lock."""
        if self._fixed is not None:
            return
        with self._lock:
            now = self._now()
            recent, ordered = self._recent, self._sorted
            if len(recent) != len(ordered):  # an interrupt broke off the last update
                ordered[:] = sorted(took for _, took in recent)
            oldest = now - _MAX_AGE
            while recent and (len(recent) >= _MAX_SAMPLES or recent[0][0] < oldest):
                del ordered[bisect_left(ordered, recent.popleft()[1])]
            recent.append((now, seconds))
            insort(ordered, seconds)
            self._until = now + _MAX_AGE
            self._update()

    def _update(self) -> None:
        """Computes the quantile of the samples; None for too few. The caller holds the lock."""
        count = len(self._sorted)
        enough = count >= self._min_samples
        self._quantile = self._sorted[min(int(count * self._share), count - 1)] if enough else None

    def after_fork_in_child(self) -> None:
        """Drops all samples: another thread of the parent may have been changing them."""
        self._recent = deque()
        self._sorted = []
        self._quantile = None
