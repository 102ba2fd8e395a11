"""A limit of concurrent calls that finds itself: down when calls queue in the plugin, up while they don't."""

from __future__ import annotations

import math

import attrs

_TOLERANCE = 1.25  # times the baseline: latency at which the limit stands still
_STEEPEST = 0.5  # the least that a window leaves of the limit
_WEIGHT = 0.2  # of a new sample in the baseline
_CLIP = 4.0  # times the baseline: one call that hung shall not speak for its whole window
_WINDOW = 20  # calls in a window, at least
_RENEW = 60.0  # seconds after which a baseline that nothing confirmed is measured anew


@attrs.frozen
class _Trial:
    """What was seen before the limit was lowered, to be compared with what is seen after.

    Attributes:
        used: calls that were inside at once; 0 while that is not known.
        latency: seconds that they took on average.
        limit: what the limit was.
        wanted: begun to learn, not because latency had risen.
    """

    used: int
    latency: float
    limit: float
    wanted: bool


class AdaptiveLimit:
    """How many calls a plugin takes at once without queueing them, learned from how long they take.

    Calls are judged in windows, each of at least 20 calls, or twice the limit, that began after the limit last
    changed and the surplus of before had left. Of a window's mean latency and the baseline, which is the latency
    of a plugin that queues nothing, comes the next limit::

        ratio = latency / baseline
        ratio > 1.25:   limit * max(0.5, 1.25 / ratio)                              the gradient
        otherwise:      limit + sqrt(limit) * min(1, (1.25 - ratio) / 0.25)         if half of it was in use
        both:           * (1 - failed / 2)                                          failed: share of overload errors

    So it settles where calls take a quarter longer than they would alone: for a plugin that works on C calls at once
    and queues the rest, at 1.25 * C. The gradient and the headroom of a square root are those of Envoy's adaptive
    concurrency filter and of Netflix' concurrency-limits; a cut in proportion to the share of failures is DCTCP's
    (RFC 8257).

    The baseline follows windows in which at most half of the limit was in use. Where there are none, every 60 s
    half of what is in use is tried for one window. Latency that comes down with it was a queue of our making;
    latency that stays is the plugin's own, so it is the new baseline and the limit goes back to where it was. A
    limit that the gradient has halved is judged by the same rule: a plugin that became slower for reasons of its own
    is not throttled for ever. (BBR measures the least round trip of a path in this way.)

    Every method takes constant time. Not thread-safe: its owner's lock is held.

    Args:
        low: never below this.
        high: never above this, and where it begins.
    """

    __slots__ = (
        "_baseline",
        "_clip",
        "_confirmed",
        "_count",
        "_draining",
        "_failed",
        "_high",
        "_low",
        "_peak",
        "_since",
        "_total",
        "_trial",
        "_value",
        "_window",
        "limit",
    )

    def __init__(self, low: int, high: int) -> None:
        self._low = low
        self._high = high
        self._value = float(high)
        self._baseline: float | None = None
        self._confirmed = -math.inf
        self._trial: _Trial | None = None
        self._clip = math.inf
        self._since = -math.inf
        self._peak = 0
        self._draining = False
        self._begin(0)

    def set_bounds(self, low: int, high: int) -> None:
        """Goes by other bounds from now on; what was learned stays."""
        self._low = low
        self._high = high
        self._set(self._value)

    def observe(self, now: float, elapsed: float, ok: bool | None, in_use: int) -> None:
        """Takes in how a call ended, which may change ``limit``.

        Args:
            now: the present moment, in seconds.
            elapsed: seconds that the call took.
            ok: True if the plugin answered; False if it was overloaded: timed out, or said so; None for an end that
                says nothing of its load.
            in_use: calls inside, this one among them.
        """
        self._peak = max(self._peak, in_use)
        if self._draining:
            if in_use - 1 <= self._value:
                self._draining = False
                self._since = now
                self._peak = 0
            return
        if ok is None or now - elapsed < self._since:
            return
        if ok:
            self._total += min(elapsed, self._clip)
        else:
            self._failed += 1
        self._count += 1
        if self._count >= self._window:
            self._decide(now, in_use)

    @property
    def baseline(self) -> float | None:
        """Seconds that a call takes where nothing queues, as far as is known."""
        return self._baseline

    def _set(self, value: float) -> None:
        self._value = min(max(value, float(self._low)), float(self._high))
        self.limit = int(self._value)

    def _begin(self, in_use: int) -> None:
        """The next window: of calls that begin once no more are inside than the limit says."""
        self._set(self._value)
        self._window = max(_WINDOW, 2 * self.limit)
        self._count = self._failed = 0
        self._total = 0.0
        self._peak = 0
        self._draining = in_use - 1 > self._value

    def _decide(self, now: float, in_use: int) -> None:
        answered = self._count - self._failed
        value = self._value
        if answered * 2 >= self._count:
            value = self._by_latency(max(self._total / answered, 1e-9), now)
        elif self._trial is not None:  # too little to compare
            value = max(value, self._trial.limit)
            self._trial = None
        self._value = value * (1.0 - self._failed / self._count / 2.0)
        self._since = now
        self._begin(in_use)

    def _by_latency(self, latency: float, now: float) -> float:
        trial = self._trial
        if trial is not None and trial.used and self._value <= max(trial.used / 2, self._low):
            concluded = self._conclude(trial, latency, now)
            if concluded is not None:
                return concluded
        ratio = latency / (self._baseline or latency)
        if self._in_doubt(latency, ratio, now):
            return self._try(latency)
        return self._follow(latency, ratio)

    def _in_doubt(self, latency: float, ratio: float, now: float) -> bool:
        """Lets the baseline follow a window without much load; True where it has been without one for too long."""
        light = self._peak * 2 <= self._value or self._value <= self._low
        if self._baseline is None:
            self._learn(latency)
            if not light:
                return True
        elif self._value <= self._low or (light and ratio <= _TOLERANCE):
            self._learn(self._baseline + (latency - self._baseline) * _WEIGHT)
        else:
            return not light and now - self._confirmed >= _RENEW
        self._confirmed = now
        return False

    def _follow(self, latency: float, ratio: float) -> float:
        value = self._value
        if ratio > _TOLERANCE:
            if self._trial is None:
                self._trial = _Trial(0, latency, value, wanted=False)
            elif not self._trial.used or latency > self._trial.latency * _TOLERANCE:
                # The window in which latency rose was mixed: what comes down is measured from its height.
                self._trial = attrs.evolve(self._trial, used=self._peak, latency=latency)
            return value * max(_STEEPEST, _TOLERANCE / ratio)
        self._trial = None
        if self._peak * 2 <= value:
            return value  # nobody needs more
        return value + math.sqrt(value) * min(1.0, (_TOLERANCE - ratio) / (_TOLERANCE - 1.0))

    def _try(self, latency: float) -> float:
        """Halves what is in use, for a window, to see what comes of it."""
        self._trial = _Trial(self._peak, latency, self._value, wanted=True)
        return max(self._peak / 2, self._low)

    def _conclude(self, trial: _Trial, latency: float, now: float) -> float | None:
        """Whose latency it was; None if it was a queue that the gradient is at work on."""
        # A queue shrinks as the limit does; half-way between that and no change at all lies the verdict.
        own = latency > trial.latency * (1.0 + self._value / max(trial.used, self._value)) / 2.0
        self._trial = None
        self._confirmed = now
        if own or self._baseline is None or latency < self._baseline:
            self._learn(latency)
        if own:
            return trial.limit
        # Lower still, until latency stays: a limit that begins high finds its place in a few halvings.
        return self._try(latency) if trial.wanted and self._value > self._low else None

    def _learn(self, baseline: float) -> None:
        self._baseline = baseline
        self._clip = _CLIP * baseline
