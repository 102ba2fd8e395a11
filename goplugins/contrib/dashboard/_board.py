"""What all viewers of one manager see: made once a second, however many they are, and only while there are some."""

from __future__ import annotations

import json
import logging
import math
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from goplugins.balancing.load_balancer import LoadBalancer
from goplugins.contrib.dashboard._records import member_key, number, off_record, record, summary
from goplugins.errors import SaturatedError
from goplugins.manager.control import attach, clock_of, is_shut_down, start_looks, switched_off, views
from goplugins.models.metrics import PluginMetrics
from goplugins.observability.history import History
from goplugins.runtime.clock import Event
from goplugins.runtime.fork import register_forkable
from goplugins.runtime.scheduler import ScheduledTask, get_scheduler
from goplugins.runtime.workers import WorkerPool

if TYPE_CHECKING:
    from goplugins.manager.control import View
    from goplugins.manager.manager import Manager

__all__ = ["Board", "Snapshot"]

logger = logging.getLogger("goplugins.dashboard")

INTERVAL = 1.0
"""Seconds between two samples."""

_LINGER = 60.0
"""Seconds without a viewer after which nothing is sampled any more."""

_SHARE = 0.05
"""Part of a processor that sampling may take: with so many plugins that it took more, it is done less often..."""

_RAREST = 5.0
"""...but still after so many seconds."""


@attrs.frozen
class Snapshot:
    """Everything as it was at one moment, as JSON texts.

    Attributes:
        epoch: tells the snapshots of this process from others', whose ticks say nothing here.
        tick: goes up by one from one to the next; 0 before the first.
        at: when, in seconds since the Unix epoch.
        summary: of all plugins together.
        names: all of them.
        renamed: the tick in which one last came or went.
        records: of each plugin, with the tick in which it last changed.
        values: the records as values, for who does not need JSON.
    """

    epoch: str
    tick: int = 0
    at: float = 0.0
    summary: Mapping[str, Any] = attrs.field(factory=dict)
    names: tuple[str, ...] = ()
    renamed: int = 0
    records: Mapping[str, tuple[int, str]] = attrs.field(factory=dict)
    values: Mapping[str, Mapping[str, Any]] = attrs.field(factory=dict)

    def message(self, since: str = "") -> str:
        """What has changed; everything if ``since`` is not a mark of this process's. One line of JSON.

        Args:
            since: the last message's mark: ``epoch`` and ``tick`` with a hyphen between them.
        """
        epoch, _, tick = since.rpartition("-")
        seen = int(tick) if epoch == self.epoch and tick.isascii() and tick.isdigit() and len(tick) < 16 else 0
        head: dict[str, Any] = {
            "mark": f"{self.epoch}-{self.tick}",
            "whole": not seen,
            "at": number(self.at, 13),
            "pid": os.getpid(),
            "summary": self.summary,
        }
        if self.renamed > seen or not seen:
            head["names"] = self.names
        changed = ",".join(text for tick_of, text in self.records.values() if tick_of > seen)
        return f'{_json(head)[:-1]},"plugins":[{changed}]}}'


class Board:
    """Samples a manager while somebody looks.

    Args:
        manager: whose plugins.
        always: samples whether somebody looks or not: for a process that does nothing else.

    Attributes:
        snapshot: the last one; replaced, never changed.
        news: rung with the next one, and replaced.
    """

    def __init__(self, manager: Manager[Any, Any], *, always: bool = False) -> None:
        self.manager = manager
        self.clock = clock_of(manager)
        self.history = History(clock=self.clock)
        self.news = Event()
        self._always = always
        self._pool = WorkerPool("goplugins-dashboard", 1, 2)
        self._interval = INTERVAL
        self._took: deque[float] = deque(maxlen=5)
        self._begin(self.clock.monotonic())
        self._ticket: ScheduledTask | None = None
        self._detach: Callable[[], None] | None = None
        # Changes are rare, and the page shows those from before it was opened.
        detach = attach(manager, self.history.take, calls="none", changes=True)
        weakref.finalize(self, detach).atexit = False
        register_forkable(self)

    def _begin(self, seen: float) -> None:
        self._lock = threading.Lock()
        self._seen = seen  # when somebody last looked
        self.snapshot = Snapshot(os.urandom(6).hex())

    # --- viewers -------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Somebody looks now: samples are taken for a while."""
        self._seen = self.clock.monotonic()
        scheduler = get_scheduler()
        if scheduler.needs_thread:
            scheduler.ensure_thread()
        if self._ticket is None:
            self._start()

    def wait(self, mark: Snapshot, timeout: float) -> Snapshot:
        """The first snapshot that is newer than ``mark``; after ``timeout`` seconds the one there is."""
        news = self.news
        if self.snapshot is mark:
            self.clock.wait(news, timeout)
        return self.snapshot

    def _start(self) -> None:
        if is_shut_down(self.manager):
            return
        start_looks(self.manager)
        with self._lock:
            if self._ticket is not None:
                return
            try:
                self._ticket = get_scheduler().schedule(
                    self.sample, self._interval, first=0.0, submit=self._pool.submit, jitter=0.0
                )
            except SaturatedError as exc:
                logger.warning("nothing is sampled: %s", exc)
                return
            self._detach = attach(self.manager, self.history.take, calls="failed", changes=False)

    def _stop(self) -> None:
        with self._lock:
            ticket, self._ticket = self._ticket, None
            detach, self._detach = self._detach, None
        if ticket is not None:
            ticket.cancel()
        if detach is not None:
            detach()
        self.history.pause()

    # --- samples -------------------------------------------------------------------------------------------------

    def sample(self) -> None:
        """Takes the next snapshot and rings the bell. One thread at a time."""
        began = self.clock.monotonic()
        closed = is_shut_down(self.manager)
        if closed or (not self._always and began - self._seen > _LINGER):
            self._stop()
            if not closed:
                return
        found = views(self.manager)
        self.history.sample(_counts(found))
        self.snapshot = self._next(found)
        news, self.news = self.news, Event()
        news.set()
        self._adapt(self.clock.monotonic() - began)

    def _next(self, found: list[View]) -> Snapshot:
        before, now = self.snapshot, self.clock.time()
        tick = before.tick + 1
        values = {view.name: record(view, self.history, now) for view in found if not view.instance}
        for name in switched_off(self.manager):
            values.setdefault(name, off_record(name))
        records = {}
        for name, value in values.items():
            text = _json(value)
            old = before.records.get(name)
            records[name] = old if old is not None and old[1] == text else (tick, text)
        names = tuple(values)
        return Snapshot(
            before.epoch,
            tick,
            now,
            summary(found, values, self.history),
            names,
            before.renamed if names == before.names else tick,
            records,
            values,
        )

    def _adapt(self, took: float) -> None:
        self._took.append(took)
        # The least of the last few: what else the machine had to do is not our cost.
        wanted = min(max(INTERVAL, min(self._took) / _SHARE), _RAREST)
        ticket = self._ticket
        if ticket is not None and not 0.5 <= wanted / self._interval <= 1.0:
            self._interval = min(max(INTERVAL, wanted * 1.2), _RAREST)
            ticket.reschedule(self._interval)

    def after_fork_in_child(self) -> None:
        """A fresh lock and bell; who looked at the parent does not look at the child."""
        self._begin(-math.inf)
        self.news = Event()


def _counts(found: list[View]) -> dict[str, PluginMetrics]:
    """By what name the history knows them: plugins by theirs, members by their group's and theirs."""
    counts = {view.name: view.counts for view in found}
    for view in found:
        group = view.explanation.group
        if group is None:
            continue
        wire = view.plugin.wire
        stats = wire.stats() if isinstance(wire, LoadBalancer) else {}
        for member in group.members:
            key, told, own = member_key(view.name, member.name), stats.get(member.name), counts.get(member.name)
            if told is not None:
                counts[key] = PluginMetrics(requests_total=told.total_requests, requests_failure=told.failed_requests)
            elif own is not None:  # found by a lookup, and called by its group alone
                counts[key] = own
    return counts


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
