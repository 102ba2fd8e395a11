"""A concurrency limit that follows latency: the gradient rule of Netflix's concurrency-limits and Envoy."""

from __future__ import annotations

import math

_TOLERANCE = 1.25  # times the baseline: the latency at which the limit stands still
_MIN_GRADIENT = 0.5  # the lowest factor of one window
_WEIGHT = 0.2  # of a new sample in the baseline
_OUTLIER = 4.0  # times the baseline; a longer latency counts as this, so that one hung call doesn't dominate a window
_MIN_CALLS = 20  # in a window
_PROBE_INTERVAL = 60.0  # seconds after which a baseline that no window confirmed is measured again


class AdaptiveLimit:
    """How many calls a plugin serves at once without queueing them, learned from their latency.

    The rule is that of ``GradientLimit`` in Netflix's concurrency-limits and of Envoy's gradient controller. Calls are
    judged in windows of at least 20 calls, or twice the limit, that began after the limit last changed. The next limit
    follows from a window's mean latency and the baseline, the latency of a plugin that queues nothing::

        ratio = latency / baseline
        ratio > 1.25:   limit * max(0.5, 1.25 / ratio)                              the gradient
        otherwise:      limit + sqrt(limit) * min(1, (1.25 - ratio) / 0.25)         if half of the limit was in use
        both:           * (1 - failed / 2)                                          failed: share of overload errors

    So for a plugin that works on C calls at once and queues the rest, the limit settles at 1.25 * C. Unlike there, the
    growth shrinks towards the tolerance, so that the limit does not oscillate, and the baseline is not measured at the
    lowest limit, which would hold up slow plugins. The last line is DCTCP's reaction to congestion (RFC 8257).

    The baseline follows windows in which at most half of the limit was in use. If there is none for 60 s, or if the
    gradient has halved the limit, the limit is probed: halved for a window, and again while latency falls with it. The
    latency at which it stops falling is the plugin's own, and becomes the baseline. If it did not fall at all, the
    limit returns to its value from before, so that a plugin that has become slower is not throttled permanently.

    Every method takes constant time. Not thread-safe: its owner's lock is held.

    Args:
        low: the lowest limit.
        high: the highest limit, and the first one.
    """

    def __init__(self, low: int, high: int) -> None:
        self._low = low
        self._high = high
        self._value = self._resume = float(high)  # the limit, and the limit after a probe
        self._baseline: float | None = None
        self._confirmed_at = -math.inf
        self._probing = False
        self._since = -math.inf
        self._count = self._failed = self._peak = 0
        self._total = 0.0
        self._draining = False
        self._begin_window(0)

    @property
    def baseline(self) -> float | None:
        """Seconds of a call that is not queued; None while unknown."""
        return self._baseline

    def set_bounds(self, low: int, high: int) -> None:
        """Applies other bounds; what was learned stays."""
        self._low = low
        self._high = high
        self._set_limit()

    def observe(self, now: float, elapsed: float, ok: bool | None, in_use: int) -> None:
        """Counts the end of a call, which may change ``limit``.

        Args:
            now: the current time, in seconds.
            elapsed: the call's duration, in seconds.
            ok: True if the plugin answered; False if it was overloaded: timed out, or said so; None for an end that
                says nothing of its load.
            in_use: calls in flight, this one included.
        """
        self._peak = max(self._peak, in_use)
        if self._draining:
            if in_use - 1 <= self.limit:
                self._draining = False
                self._since = now
                self._peak = 0
            return
        if ok is None or now - elapsed < self._since:
            return
        if ok:
            self._total += elapsed if self._baseline is None else min(elapsed, _OUTLIER * self._baseline)
        else:
            self._failed += 1
        self._count += 1
        if self._count >= self._size:
            self._end_window(now, in_use)

    def _set_limit(self) -> None:
        self._value = min(max(self._value, float(self._low)), float(self._high))
        self.limit = max(int(self._value / 2 if self._probing else self._value), self._low)

    def _begin_window(self, in_use: int) -> None:
        """Begins a window with the first call after no more calls are in flight than the limit."""
        self._set_limit()
        self._size = max(_MIN_CALLS, 2 * self.limit)
        self._count = self._failed = self._peak = 0
        self._total = 0.0
        self._draining = in_use - 1 > self.limit

    def _end_window(self, now: float, in_use: int) -> None:
        answered = self._count - self._failed
        if answered * 2 >= self._count:
            self._judge(max(self._total / answered, 1e-9), now)
        else:  # too few latencies
            self._probing = False
        kept = 1.0 - self._failed / self._count / 2.0
        self._value *= kept
        self._resume *= kept
        self._since = now
        self._begin_window(in_use)

    def _judge(self, latency: float, now: float) -> None:
        baseline, light = self._baseline, self._peak * 2 <= self.limit
        if baseline is None or self._probing:
            self._probe(latency, now, falling=not light if baseline is None else latency * _TOLERANCE < baseline)
            return
        ratio = latency / baseline
        outdated = not light and now - self._confirmed_at >= _PROBE_INTERVAL
        halved = ratio > _TOLERANCE and self._value * 2 <= self._resume
        if light and ratio <= _TOLERANCE:
            self._measured(baseline + (latency - baseline) * _WEIGHT, now)
        elif outdated or halved or self.limit <= self._low:
            self._measured(latency, now)
            ratio = 1.0
            self._probing = self.limit > self._low
            if self._probing:
                return
        if ratio > _TOLERANCE:
            self._value *= max(_MIN_GRADIENT, _TOLERANCE / ratio)
            return
        if not light:
            self._value += math.sqrt(self._value) * min(1.0, (_TOLERANCE - ratio) / (_TOLERANCE - 1.0))
        self._resume = self._value

    def _probe(self, latency: float, now: float, *, falling: bool) -> None:
        """Ends a window with half of the limit: halves the limit if latency has fallen with it, else ends the probe."""
        if falling and self._probing:
            self._value = self._resume = max(self._value / 2.0, float(self._low))
        self._probing = falling and self._value > self._low
        if not self._probing:
            self._value = self._resume
        self._measured(latency, now)

    def _measured(self, baseline: float, now: float) -> None:
        self._baseline = baseline
        self._confirmed_at = now
