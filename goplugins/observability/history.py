"""The last minutes of all plugins, in memory that does not grow: what a dashboard draws."""

from __future__ import annotations

import math
from array import array
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TypeVar

import attrs

from goplugins.errors import PluginError
from goplugins.models.metrics import Latencies, PluginMetrics
from goplugins.observability.error_kinds import is_failure
from goplugins.observability.events import BreakerChanged, CallFinished, Event
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock

__all__ = ["Column", "Failure", "History", "Minute", "Rate"]

T = TypeVar("T")

COLUMNS = 60
"""Columns that are kept."""

WIDTH = 5.0
"""Seconds that a column sums up."""

_RECENT = 10
"""Samples over which a rate is taken."""

_BASELINES = 7
_BASELINE_EVERY = 10.0
"""What is told of the last minute is the difference to what was counted 60 to 70 s ago."""

_CHANGES = 40
_FAILURES = 5
_TEXT = 400
_NAMES = 2000
"""Bounds: changes and failures for each plugin, characters of a failure's text, and plugins that have any."""

_NOTHING = math.nan


@attrs.frozen
class Rate:
    """Calls that ended, and those of them that failed; per second.

    Failed is what says something against the plugin or its policies: not that it said no, nor its caller's mistakes.
    """

    calls: float = 0.0
    failed: float = 0.0


@attrs.frozen
class Minute:
    """What has ended in about the last minute: calls, those of them that failed, and how long they took."""

    calls: int = 0
    failed: int = 0
    latencies: Latencies = attrs.field(factory=Latencies)


@attrs.frozen
class Column:
    """Five seconds: calls and failures per second, and the worst second's 95th percentile in seconds.

    ``calls`` is not a number where nobody was counting, ``p95`` where no call ended.
    """

    calls: float
    failed: float
    p95: float


@attrs.frozen
class Failure:
    """A call that was sent and failed, as in :class:`Rate`.

    Attributes:
        at: when, in seconds since the Unix epoch; the last time, if it came several times in a row.
        code: the error's.
        text: its message, cut where it is long.
        request_id: the call's.
        count: how often in a row.
    """

    at: float
    code: str
    text: str
    request_id: str
    count: int = 1


@attrs.frozen
class _Counts:
    calls: int
    failed: int
    latencies: Latencies

    @classmethod
    def of(cls, metrics: PluginMetrics) -> _Counts:
        innocent = sum(count for code, count in metrics.errors.items() if not is_failure(code))
        return cls(metrics.requests_total, metrics.requests_failure - innocent, metrics.latencies)


class _Series:
    """One plugin's counts."""

    __slots__ = ("baselines", "calls", "failed", "last", "p95", "recent_calls", "recent_failed")

    def __init__(self, last: _Counts) -> None:
        self.last = last
        self.baselines: deque[_Counts] = deque([last], maxlen=_BASELINES)
        self.calls = array("f", [0.0]) * COLUMNS
        self.failed = array("f", [0.0]) * COLUMNS
        self.p95 = array("f", [_NOTHING]) * COLUMNS
        self.recent_calls = array("f", [0.0]) * _RECENT
        self.recent_failed = array("f", [0.0]) * _RECENT

    def add(self, metrics: PluginMetrics, columns: Sequence[tuple[int, float]], recent: int) -> None:
        """Adds to columns, and to the last samples, what has come since the last time.

        Args:
            metrics: of now.
            columns: those since the last time, each with its part of that time.
            recent: the place of this sample.
        """
        before = self.last
        if metrics.requests_total == before.calls:
            self.recent_calls[recent] = self.recent_failed[recent] = 0.0
            return
        now = self.last = _Counts.of(metrics)
        calls, failed = now.calls - before.calls, max(0, now.failed - before.failed)
        self.recent_calls[recent], self.recent_failed[recent] = calls, failed
        ended = now.latencies.since(before.latencies)
        worst = ended.percentile(95) if ended.counts else _NOTHING
        for column, part in columns:
            self.calls[column] += calls * part
            self.failed[column] += failed * part
            if not self.p95[column] >= worst:  # also where there is nothing yet
                self.p95[column] = worst

    def clear(self, column: int) -> None:
        self.calls[column] = self.failed[column] = 0.0
        self.p95[column] = _NOTHING

    def begin(self, last: _Counts) -> None:
        """Counts from here on."""
        self.last = last
        self.baselines.clear()
        self.baselines.append(last)
        self.recent_calls = array("f", [0.0]) * _RECENT
        self.recent_failed = array("f", [0.0]) * _RECENT


class History:
    """Keeps what :meth:`sample` is shown about once a second, and what :meth:`take` is told.

    One thread samples; :meth:`take` may be called on any, at any time. It takes about a microsecond.

    Args:
        clock: measures the time between two samples.

    >>> from goplugins.testing import ManualClock
    >>> clock = ManualClock()
    >>> history = History(clock=clock)
    >>> history.sample({"auth": PluginMetrics()})
    >>> clock.advance(1.0)
    >>> history.sample({"auth": PluginMetrics(requests_total=12, requests_failure=3)})
    >>> history.rate("auth")
    Rate(calls=12.0, failed=3.0)
    """

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._series: dict[str, _Series] = {}
        self._column = int(clock.monotonic() // WIDTH)
        self._spans = array("d", [0.0]) * COLUMNS  # seconds that were sampled of each column
        self._recent_spans = array("d", [0.0]) * _RECENT
        self._samples = 0
        self._before: float | None = None
        self._next_baseline = 0.0
        self._changes: dict[str, deque[BreakerChanged]] = {}
        self._failures: dict[str, deque[Failure]] = {}

    # --- what comes in -----------------------------------------------------------------------------------------------

    def take(self, event: Event) -> None:
        """Notes changes of breakers, and calls that were sent and failed. A sink for the event stream."""
        if isinstance(event, BreakerChanged):
            _kept(self._changes, event.plugin, _CHANGES).append(event)
        elif isinstance(event, CallFinished) and event.attempts:
            error = event.error
            # What the host threw is not the plugin's, and may hold anything in its text.
            if isinstance(error, PluginError) and is_failure(error.code):
                self._note(event, error.code, error.message[:_TEXT])

    def _note(self, event: CallFinished, code: str, text: str) -> None:
        failures = _kept(self._failures, event.plugin, _FAILURES)
        last = failures[-1] if failures else None
        if last is not None and last.code == code and last.text == text:
            # Two threads at once may count one too few: it is for a person to read.
            failures[-1] = Failure(event.at, code, text, event.request_id, last.count + 1)
        else:
            failures.append(Failure(event.at, code, text, event.request_id))

    def sample(self, plugins: Mapping[str, PluginMetrics]) -> None:
        """Adds what has happened since the last sample; forgets whom ``plugins`` has not."""
        now = self._clock.monotonic()
        if self._before is not None and now <= self._before:
            return
        self._move_to(int(now // WIDTH))
        if self._before is None:
            self._begin(plugins)
        else:
            self._add(plugins, now - self._before)
        if now >= self._next_baseline:
            self._next_baseline = now + _BASELINE_EVERY
            for series in self._series.values():
                series.baselines.append(series.last)
        self._before = now
        for kept in (self._changes, self._failures):
            for name in [name for name in list(kept) if name not in plugins]:
                kept.pop(name, None)

    def pause(self) -> None:
        """Nobody samples for a while: what happens until the next sample is in no column and no rate."""
        self._before = None

    def _begin(self, plugins: Mapping[str, PluginMetrics]) -> None:
        self._samples = 0
        self._recent_spans = array("d", [0.0]) * _RECENT
        self._next_baseline = self._clock.monotonic() + _BASELINE_EVERY
        counts = {name: _Counts.of(metrics) for name, metrics in plugins.items()}
        self._series = {name: self._series.get(name) or _Series(each) for name, each in counts.items()}
        for name, series in self._series.items():
            series.begin(counts[name])

    def _add(self, plugins: Mapping[str, PluginMetrics], span: float) -> None:
        recent = self._samples % _RECENT
        self._samples += 1
        columns = self._spread(span)
        for column, part in columns:
            self._spans[column] += span * part
        self._recent_spans[recent] = span
        for name in [name for name in self._series if name not in plugins]:
            del self._series[name]
        for name, metrics in plugins.items():
            series = self._series.get(name)
            if series is None:  # it was added since, so all that it counts is new
                series = self._series[name] = _Series(_Counts(0, 0, Latencies()))
            if metrics.requests_total < series.last.calls:  # another plugin of this name, with counts of its own
                series.begin(_Counts.of(metrics))
            else:
                series.add(metrics, columns, recent)

    def _spread(self, span: float) -> Sequence[tuple[int, float]]:
        """The columns of the last ``span`` seconds, each with its part of them: no gaps where samples are rare."""
        now = self._clock.monotonic()
        found = []
        for column in range(max(int((now - span) // WIDTH), self._column - COLUMNS + 1), self._column + 1):
            inside = min(now, (column + 1) * WIDTH) - max(now - span, column * WIDTH)
            if inside > 0:
                found.append((column % COLUMNS, inside / span))
        return found

    def _move_to(self, column: int) -> None:
        """Empties the columns that time has passed since."""
        for passed in range(max(self._column + 1, column - COLUMNS + 1), column + 1):
            self._spans[passed % COLUMNS] = 0.0
            for series in self._series.values():
                series.clear(passed % COLUMNS)
        self._column = max(self._column, column)

    # --- what is known -----------------------------------------------------------------------------------------------

    def rate(self, name: str) -> Rate:
        """Over the last ten samples, or as many as there are."""
        series = self._series.get(name)
        span = sum(self._recent_spans)
        if series is None or not span:
            return Rate()
        return Rate(sum(series.recent_calls) / span, sum(series.recent_failed) / span)

    def minute(self, name: str) -> Minute:
        """Of about the last minute, or of as much of it as was sampled."""
        series = self._series.get(name)
        if series is None:
            return Minute()
        now, before = series.last, series.baselines[0]
        if now is before:
            return Minute()
        return Minute(
            now.calls - before.calls,
            max(0, now.failed - before.failed),
            now.latencies.since(before.latencies),
        )

    def columns(self, name: str) -> Sequence[Column]:
        """The last 60 columns of 5 s, the oldest first; the last one is under way. None where no call is in any."""
        series = self._series.get(name)
        if series is None or not any(series.calls):
            return ()
        places = [place % COLUMNS for place in range(self._column + 1, self._column + 1 + COLUMNS)]
        return [
            Column(series.calls[place] / span, series.failed[place] / span, series.p95[place])
            if (span := self._spans[place])
            else Column(_NOTHING, _NOTHING, _NOTHING)
            for place in places
        ]

    def changes(self, name: str) -> Sequence[BreakerChanged]:
        """The last changes of the plugin's breaker, the oldest first."""
        return tuple(self._changes.get(name, ()))

    def failures(self, name: str) -> Sequence[Failure]:
        """The last different failures of the plugin, the oldest first."""
        return tuple(self._failures.get(name, ()))


def _kept(table: dict[str, deque[T]], name: str, most: int) -> deque[T]:
    """The name's queue; of too many names the oldest is forgotten."""
    found = table.get(name)
    if found is None:
        while len(table) >= _NAMES:
            table.pop(next(iter(table)), None)
        found = table.setdefault(name, deque(maxlen=most))
    return found
