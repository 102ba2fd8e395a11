"""Rates, latencies and failures of the last five minutes in bounded memory, for the dashboard."""

from __future__ import annotations

import math
from array import array
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TypeAlias, TypeVar

import attrs

from goplugins.errors import PluginError
from goplugins.models.metrics import Latencies, OperationMetrics, PluginMetrics
from goplugins.observability.error_kinds import is_failure
from goplugins.observability.events import BreakerChanged, CallFinished, Event
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock
from goplugins.runtime.text import cut, one_line

T = TypeVar("T")

AnyCounts: TypeAlias = PluginMetrics | OperationMetrics
"""What a series is made of."""

COLUMNS = 60
"""Columns that are kept."""

WIDTH = 5.0
"""Seconds per column."""

_RECENT = 10
"""Samples over which a rate is averaged."""

_BASELINES = 7
_BASELINE_INTERVAL = 10.0
"""Seconds. The numbers of the last minute are the difference to a baseline that is 60 to 70 s old."""

_MAX_CHANGES = 40
_MAX_FAILURES = 5
_MAX_TEXT = 400
_MAX_PLUGINS = 2000
"""Bounds: breaker changes and failures per plugin, characters of a failure's text, plugins."""

_NO_DATA = math.nan


@attrs.frozen
class Rate:
    """Finished calls and failed ones, per second.

    Errors caused by the caller don't count as failed; see :func:`goplugins.observability.error_kinds.is_failure`.
    """

    calls: float = 0.0
    failed: float = 0.0


@attrs.frozen
class Minute:
    """Finished calls of about the last minute, the failed ones among them, and their latencies."""

    calls: int = 0
    failed: int = 0
    latencies: Latencies = attrs.field(factory=Latencies)


@attrs.frozen
class Column:
    """Five seconds: calls and failures per second, and the highest 95th percentile of its samples in seconds.

    ``calls`` and ``failed`` are NaN where no samples were taken, ``p95`` where no call has finished.
    """

    calls: float
    failed: float
    p95: float


@attrs.frozen
class Failure:
    """A call that was sent and failed, by the same rule as in :class:`Rate`.

    Attributes:
        at: when it last occurred, in seconds since the Unix epoch.
        code: the error code.
        text: the error's message, truncated.
        request_id: the last call's request id.
        count: how often it occurred in a row.
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
    def of(cls, metrics: AnyCounts) -> _Counts:
        by_caller = sum(count for code, count in metrics.errors.items() if not is_failure(code))
        return cls(metrics.requests_total, metrics.requests_failure - by_caller, metrics.latencies)


class _Series:
    """One plugin's counts."""

    __slots__ = ("baselines", "calls", "failed", "last", "p95", "recent_calls", "recent_failed")

    def __init__(self, last: _Counts) -> None:
        self.last = last
        self.baselines: deque[_Counts] = deque([last], maxlen=_BASELINES)
        self.calls = array("f", [0.0]) * COLUMNS
        self.failed = array("f", [0.0]) * COLUMNS
        self.p95 = array("f", [_NO_DATA]) * COLUMNS
        self.recent_calls = array("f", [0.0]) * _RECENT
        self.recent_failed = array("f", [0.0]) * _RECENT

    def add(self, metrics: AnyCounts, columns: Sequence[tuple[int, float]], recent: int) -> None:
        """Adds the counts since the last sample to the columns and to the recent samples.

        Args:
            metrics: the current counts.
            columns: the columns since the last sample, each with its fraction of that time.
            recent: the index of this sample.
        """
        before = self.last
        if metrics.requests_total == before.calls:
            self.recent_calls[recent] = self.recent_failed[recent] = 0.0
            return
        now = self.last = _Counts.of(metrics)
        calls, failed = now.calls - before.calls, max(0, now.failed - before.failed)
        self.recent_calls[recent], self.recent_failed[recent] = calls, failed
        ended = now.latencies.since(before.latencies)
        worst = ended.percentile(95) if ended.counts else _NO_DATA
        for column, part in columns:
            self.calls[column] += calls * part
            self.failed[column] += failed * part
            if not self.p95[column] >= worst:  # also true for NaN
                self.p95[column] = worst

    def clear(self, column: int) -> None:
        self.calls[column] = self.failed[column] = 0.0
        self.p95[column] = _NO_DATA

    def begin(self, last: _Counts) -> None:
        """Starts anew from these counts."""
        self.last = last
        self.baselines.clear()
        self.baselines.append(last)
        self.recent_calls = array("f", [0.0]) * _RECENT
        self.recent_failed = array("f", [0.0]) * _RECENT


class History:
    """Keeps a history from regular samples of all counts, and from events.

    :meth:`sample` is to be called about once a second, by one thread. :meth:`record` is an event sink, for any thread;
    it takes about a microsecond.

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
        self._spans = array("d", [0.0]) * COLUMNS  # sampled seconds of each column
        self._recent_spans = array("d", [0.0]) * _RECENT
        self._samples = 0
        self._before: float | None = None
        self._next_baseline = 0.0
        self._changes: dict[str, deque[BreakerChanged]] = {}
        self._failures: dict[str, deque[Failure]] = {}

    # --- input -------------------------------------------------------------------------------------------------------

    def record(self, event: Event) -> None:
        """Records changes of breakers, and calls that were sent and failed."""
        if isinstance(event, BreakerChanged):
            _queue_of(self._changes, event.plugin, _MAX_CHANGES).append(event)
        elif isinstance(event, CallFinished) and event.attempts:
            error = event.error
            # Not exceptions of the host: they are no failures of the plugin, and their texts may contain anything.
            if isinstance(error, PluginError) and is_failure(error.code):
                self._record_failure(event, error.code, one_line(cut(error.message, _MAX_TEXT)))

    def _record_failure(self, event: CallFinished, code: str, text: str) -> None:
        failures = _queue_of(self._failures, event.plugin, _MAX_FAILURES)
        last = failures[-1] if failures else None
        if last is not None and last.code == code and last.text == text:
            # Without a lock: two threads at once may count one too few, which does no harm here.
            failures[-1] = Failure(event.at, code, text, event.request_id, last.count + 1)
        else:
            failures.append(Failure(event.at, code, text, event.request_id))

    def sample(self, plugins: Mapping[str, AnyCounts]) -> None:
        """Adds the counts since the last sample; forgets plugins that are not among ``plugins``."""
        now = self._clock.monotonic()
        if self._before is not None and now <= self._before:
            return
        self._move_to(int(now // WIDTH))
        if self._before is None:
            self._begin(plugins)
        else:
            self._add(plugins, now - self._before)
        if now >= self._next_baseline:
            self._next_baseline = now + _BASELINE_INTERVAL
            for series in self._series.values():
                series.baselines.append(series.last)
        self._before = now
        for kept in (self._changes, self._failures):
            for name in [name for name in list(kept) if name not in plugins]:
                kept.pop(name, None)

    def pause(self) -> None:
        """Suspends sampling: what happens until the next sample is in no column and no rate."""
        self._before = None

    def _begin(self, plugins: Mapping[str, AnyCounts]) -> None:
        self._samples = 0
        self._recent_spans = array("d", [0.0]) * _RECENT
        self._next_baseline = self._clock.monotonic() + _BASELINE_INTERVAL
        counts = {name: _Counts.of(metrics) for name, metrics in plugins.items()}
        self._series = {name: self._series.get(name) or _Series(each) for name, each in counts.items()}
        for name, series in self._series.items():
            series.begin(counts[name])

    def _add(self, plugins: Mapping[str, AnyCounts], span: float) -> None:
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
            if series is None:  # it was added since the last sample
                series = self._series[name] = _Series(_Counts(0, 0, Latencies()))
            if metrics.requests_total < series.last.calls:  # it was replaced by another plugin of this name
                series.begin(_Counts.of(metrics))
            else:
                series.add(metrics, columns, recent)

    def _spread(self, span: float) -> Sequence[tuple[int, float]]:
        """The columns of the last ``span`` seconds, each with its fraction of them: rare samples leave no gaps."""
        now = self._clock.monotonic()
        found = []
        for column in range(max(int((now - span) // WIDTH), self._column - COLUMNS + 1), self._column + 1):
            inside = min(now, (column + 1) * WIDTH) - max(now - span, column * WIDTH)
            if inside > 0:
                found.append((column % COLUMNS, inside / span))
        return found

    def _move_to(self, column: int) -> None:
        """Clears the columns up to the current one."""
        for passed in range(max(self._column + 1, column - COLUMNS + 1), column + 1):
            self._spans[passed % COLUMNS] = 0.0
            for series in self._series.values():
                series.clear(passed % COLUMNS)
        self._column = max(self._column, column)

    # --- output ------------------------------------------------------------------------------------------------------

    def rate(self, name: str) -> Rate:
        """The rate over the last ten samples, or as many as there are."""
        series = self._series.get(name)
        span = sum(self._recent_spans)
        if series is None or not span:
            return Rate()
        return Rate(sum(series.recent_calls) / span, sum(series.recent_failed) / span)

    def minute(self, name: str) -> Minute:
        """The numbers of about the last minute, or of the part that was sampled."""
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
        """The last 60 columns of 5 s, oldest first, the current one included; empty if there were no calls."""
        series = self._series.get(name)
        if series is None or not any(series.calls):
            return ()
        places = [place % COLUMNS for place in range(self._column + 1, self._column + 1 + COLUMNS)]
        return [
            Column(series.calls[place] / span, series.failed[place] / span, series.p95[place])
            if (span := self._spans[place])
            else Column(_NO_DATA, _NO_DATA, _NO_DATA)
            for place in places
        ]

    def changes(self, name: str) -> Sequence[BreakerChanged]:
        """The last changes of the plugin's breaker, oldest first."""
        return tuple(self._changes.get(name, ()))

    def failures(self, name: str) -> Sequence[Failure]:
        """The last failures of the plugin, oldest first; repeated ones are counted."""
        return tuple(self._failures.get(name, ()))


def _queue_of(table: dict[str, deque[T]], name: str, most: int) -> deque[T]:
    """The queue of a name; beyond 2,000 names the oldest is dropped."""
    found = table.get(name)
    if found is None:
        while len(table) >= _MAX_PLUGINS:
            table.pop(next(iter(table)), None)
        found = table.setdefault(name, deque(maxlen=most))
    return found
