"""Snapshots of a manager for the dashboard: one a second for all viewers together, and none without viewers."""

from __future__ import annotations

import itertools
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
from goplugins.contrib.dashboard._records import (
    member_key,
    number,
    off_record,
    operation_key,
    record,
    shown_operations,
    summary,
)
from goplugins.manager.control import (
    attach_sink,
    clock_of,
    disabled_names,
    is_shut_down,
    plugin_states,
    start_health_checks,
)
from goplugins.models.metrics import PluginMetrics
from goplugins.observability.history import AnyCounts, History
from goplugins.runtime.clock import Event
from goplugins.runtime.fork import register_forkable
from goplugins.runtime.scheduler import ScheduledTask, get_scheduler
from goplugins.runtime.workers import WorkerPool

if TYPE_CHECKING:
    from goplugins.manager.control import PluginState
    from goplugins.manager.manager import Manager

__all__ = ["Board", "Snapshot"]

logger = logging.getLogger("goplugins.dashboard")

INTERVAL = 1.0
"""Seconds between two samples."""

_LINGER = 60.0
"""Seconds without a request after which sampling stops."""

_SHARE = 0.05
"""Share of one processor that sampling may use: with many plugins the interval grows..."""

_RAREST = 5.0
"""...up to this many seconds."""


@attrs.frozen
class Snapshot:
    """All plugins at one moment.

    Attributes:
        tag: identifies the snapshot, as an ETag; empty before the first one.
        at: seconds since the Unix epoch.
        summary: of all plugins together.
        records: each plugin's record by name.
    """

    tag: str = ""
    at: float = 0.0
    summary: Mapping[str, Any] = attrs.field(factory=dict)
    records: Mapping[str, Mapping[str, Any]] = attrs.field(factory=dict)

    def message(self) -> str:
        """The snapshot as one line of JSON."""
        return _json(
            {
                "at": number(self.at, 13),
                "pid": os.getpid(),
                "summary": self.summary,
                "plugins": list(self.records.values()),
            }
        )


class Board:
    """Samples a manager while the page is requested.

    Args:
        manager: the manager to show.
        always: samples without requests, too: for a process that does nothing else.

    Attributes:
        snapshot: the latest one; replaced, never changed.
    """

    def __init__(self, manager: Manager[Any, Any], *, always: bool = False) -> None:
        self.manager = manager
        self.clock = clock_of(manager)
        self.history = History(clock=self.clock)
        self._sampled = Event()
        self._always = always
        self._pool = WorkerPool("goplugins-dashboard", 1, 2)
        self._interval = INTERVAL
        self._took: deque[float] = deque(maxlen=5)
        self._begin(self.clock.monotonic())
        self._ticket: ScheduledTask | None = None
        self._detach: Callable[[], None] | None = None
        # Changes are rare, and the page shows those from before it was opened, too.
        detach = attach_sink(manager, self.history.record, calls="none", changes=True)
        weakref.finalize(self, detach).atexit = False
        register_forkable(self)

    def _begin(self, seen: float) -> None:
        self._lock = threading.Lock()
        self._seen = seen  # the time of the last request
        self._count = itertools.count(1)
        self._epoch = os.urandom(6).hex()
        self.snapshot = Snapshot()

    # --- viewers -------------------------------------------------------------------------------------------------

    def request(self) -> None:
        """Notes a request of the page: samples are taken for the next minute."""
        self._seen = self.clock.monotonic()
        scheduler = get_scheduler()
        if scheduler.needs_thread:
            scheduler.ensure_thread()
        if self._ticket is None:
            self._start()

    def wait(self, timeout: float) -> Snapshot:
        """The latest snapshot; waits up to ``timeout`` seconds for the first one."""
        if not self.snapshot.tag:
            self.clock.wait(self._sampled, timeout)
        return self.snapshot

    def _start(self) -> None:
        if is_shut_down(self.manager):
            return
        start_health_checks(self.manager)
        with self._lock:
            if self._ticket is not None:
                return
            self._ticket = get_scheduler().schedule(
                self.sample, self._interval, first=0.0, submit=self._pool.submit, jitter=0.0
            )
            self._detach = attach_sink(self.manager, self.history.record, calls="failed", changes=False)

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
        """Takes the next snapshot. Runs on one thread at a time."""
        began = self.clock.monotonic()
        closed = is_shut_down(self.manager)
        if closed or (not self._always and began - self._seen > _LINGER):
            self._stop()
            if not closed:
                return
        found = plugin_states(self.manager)
        self.history.sample(_counts(found))
        self.snapshot = self._next(found)
        self._sampled.set()
        self._adapt(self.clock.monotonic() - began)

    def _next(self, found: list[PluginState]) -> Snapshot:
        now = self.clock.time()
        records = {view.name: record(view, self.history, now) for view in found if not view.instance}
        for name in disabled_names(self.manager):
            records.setdefault(name, off_record(name))
        return Snapshot(f'"{self._epoch}-{next(self._count)}"', now, summary(found, records, self.history), records)

    def _adapt(self, took: float) -> None:
        self._took.append(took)
        # The minimum of the last few: other load of the machine is not this page's cost.
        wanted = min(max(INTERVAL, min(self._took) / _SHARE), _RAREST)
        ticket = self._ticket
        if ticket is not None and not 0.5 <= wanted / self._interval <= 1.0:
            self._interval = min(max(INTERVAL, wanted * 1.2), _RAREST)
            ticket.reschedule(self._interval)

    def after_fork_in_child(self) -> None:
        """A fresh lock and event; viewers of the parent are not the child's."""
        self._begin(-math.inf)
        self._sampled = Event()


def _counts(found: list[PluginState]) -> dict[str, AnyCounts]:
    """Counts by their key in the history: the plugin's name, or that of a member or an operation."""
    counts: dict[str, AnyCounts] = {view.name: view.counts for view in found}
    for view in found:
        counts |= {operation_key(view.name, name): view.counts.operations[name] for name in shown_operations(view)}
        group = view.explanation.group
        if group is None:
            continue
        wire = view.plugin.wire
        stats = wire.stats() if isinstance(wire, LoadBalancer) else {}
        for member in group.members:
            key, own_stats, own = member_key(view.name, member.name), stats.get(member.name), counts.get(member.name)
            if own_stats is not None:
                counts[key] = PluginMetrics(
                    requests_total=own_stats.total_requests, requests_failure=own_stats.failed_requests
                )
            elif own is not None:  # an address found by DNS, called by its group only
                counts[key] = own
    return counts


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
