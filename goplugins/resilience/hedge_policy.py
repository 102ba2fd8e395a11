"""When a call has been under way for so long that a second attempt is worth its price."""

from __future__ import annotations

import math
import threading
from bisect import bisect_left, insort
from collections import deque
from typing import TYPE_CHECKING

from goplugins.config.defaults import setting
from goplugins.config.plugin_sections import DEFAULT_HEDGE
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock
from goplugins.runtime.fork import register_forkable

if TYPE_CHECKING:
    from goplugins.config import HedgeConfig


_MOST = 512  # latencies that are remembered ...
_SECONDS = 60.0  # ... and for how long
_FEWEST = 20  # that it takes to speak of a usual latency


class HedgePolicy:
    """Knows how long answers usually take, and so when one is late.

    It goes by the latest 512 answers of the last minute: their exact quantile, kept up to date in constant time and
    space. Safe to use from many threads.

    Args:
        config: a field that is None has its default.
        clock: measures age.

    >>> from types import SimpleNamespace
    >>> policy = HedgePolicy(SimpleNamespace(percentile=0.95))
    >>> print(policy.delay())
    None
    >>> for milliseconds in range(1, 101):
    ...     policy.record(milliseconds / 1000)
    >>> policy.delay()
    0.096
    """

    def __init__(self, config: HedgeConfig, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._now = clock.monotonic
        self._lock = threading.Lock()
        self._recent: deque[tuple[float, float]] = deque()  # when it ended, how long it took
        self._sorted: list[float] = []
        self._usual: float | None = None
        self._until = -math.inf  # when the newest one is too old to count
        self.configure(config)
        register_forkable(self)

    def configure(self, config: HedgeConfig) -> None:
        """Applies another configuration; the latencies that are known stay. Takes the lock."""
        fixed: float | None = getattr(config, "delay", None)
        share: float = setting(config, DEFAULT_HEDGE, "percentile")
        least: float = setting(config, DEFAULT_HEDGE, "min_delay")
        # With fewer, the quantile would be their very slowest one, whatever that was.
        rest = max(1.0 - share, 1.0 / _MOST)
        with self._lock:
            self._fixed, self._share, self._least = fixed, share, least
            self._enough = max(_FEWEST, math.ceil(1.0 / rest - 1e-9))
            self._usual = self._quantile()

    def delay(self) -> float | None:
        """Seconds after which a call without an answer is late; None while too little is known. Takes no lock."""
        if self._fixed is not None:
            return self._fixed
        usual = self._usual
        if usual is None or self._now() > self._until:
            return None
        return max(usual, self._least)

    def record(self, seconds: float) -> None:
        """Takes in how long a call took until it was answered, by whichever attempt. Takes the lock."""
        if self._fixed is not None:
            return
        with self._lock:
            now = self._now()
            recent, ordered = self._recent, self._sorted
            if len(recent) != len(ordered):  # an interrupt left the last one half done
                ordered[:] = sorted(took for _, took in recent)
            oldest = now - _SECONDS
            while recent and (len(recent) >= _MOST or recent[0][0] < oldest):
                del ordered[bisect_left(ordered, recent.popleft()[1])]
            recent.append((now, seconds))
            insort(ordered, seconds)
            self._until = now + _SECONDS
            self._usual = self._quantile()

    def _quantile(self) -> float | None:
        """The configured quantile of the known latencies; None for too few. Expects the lock."""
        count = len(self._sorted)
        return self._sorted[min(int(count * self._share), count - 1)] if count >= self._enough else None

    def after_fork_in_child(self) -> None:
        """A fresh lock, and nothing known: the parent may have been about to change it."""
        self._lock = threading.Lock()
        self._recent = deque()
        self._sorted = []
        self._usual = None
