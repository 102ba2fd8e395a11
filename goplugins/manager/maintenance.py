"""The periodic work around a manager's plugins: health checks, and closing what was idle for too long."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import ParamSpec

import attrs

from goplugins.errors import PluginClosedError, SaturatedError
from goplugins.health import HealthChecker, HealthMonitor
from goplugins.models.metrics import PluginMetrics
from goplugins.models.results import HealthStatus
from goplugins.observability.event_stream import EventStream, hand_out
from goplugins.observability.events import HealthChanged
from goplugins.pipeline.plugin import GuardedPlugin
from goplugins.pipeline.policies import resolved
from goplugins.pipeline.registry import Registry
from goplugins.runtime.clock import Clock
from goplugins.runtime.fork import register_forkable
from goplugins.runtime.scheduler import ScheduledTask, get_scheduler
from goplugins.runtime.workers import WorkerPool

__all__ = ["Maintenance"]

P = ParamSpec("P")

_SWEEP_INTERVAL = 5.0
"""Seconds between two looks for connections that were idle for too long."""

_FILES_INTERVAL = 0.5
"""Seconds between two looks at certificates and tokens on disk."""


class Maintenance:
    """Starts with the first call or the first question after health, never before: the process may yet fork.

    Args:
        registry: whose plugins these are.
        clock: measures and waits.
        events: is told when a plugin's health is seen otherwise than before.

    Attributes:
        monitor: looks at their health.
        on_start: what else is to begin with the first call.
    """

    def __init__(self, registry: Registry, clock: Clock, events: EventStream) -> None:
        self._events = events
        self.monitor = HealthMonitor(clock=clock)
        self._registry = registry
        self._clock = clock
        self._pool = WorkerPool("goplugins-maintenance", 1, 8)
        self._lookups = WorkerPool(
            "goplugins-lookup", 2, 64
        )  # a lookup may hang, and must keep nothing else from its time
        self._lock = threading.RLock()
        self._checkers: dict[str, HealthChecker] = {}
        self._members: dict[int, GuardedPlugin] = {}
        self._parted = PluginMetrics()
        self._sweeps: ScheduledTask | None = None
        self._files: ScheduledTask | None = None
        self._closed = False
        self.on_start: Callable[[], object] | None = None
        self.monitor.subscribe(_weakly(self._health_changed))
        register_forkable(self)

    def watch(self, plugin: GuardedPlugin, seen: HealthStatus | None = None) -> None:
        """Has the plugin's health looked at, from its first call in this process on.

        Where looks go on already, at once, and in the place of another plugin of its name.

        Args:
            plugin: may have been watched before.
            seen: its health, where somebody has looked.
        """
        checker = plugin.attempts.watcher
        if not isinstance(checker, HealthChecker):
            checker = HealthChecker(plugin, resolved(plugin.config.health_check), name=plugin.name, clock=self._clock)
        if seen is not None:
            checker.set_status(seen)
        with self._lock:
            self._checkers[plugin.name] = checker
            started = self._sweeps is not None and not self._closed
        plugin.attempts.watcher = checker
        plugin.on_first_call = _weakly(self.start)
        if started:
            self._follow_files()
            # It is being shut down, or has no thread left; then the next look at all starts this one, too.
            with contextlib.suppress(PluginClosedError, SaturatedError):
                self.monitor.add_checker(plugin.name, checker)

    def forget(self, plugin: GuardedPlugin) -> PluginMetrics:
        """Looks at the plugin no more, save that another one of its name has taken its place; its last counts."""
        counts = self.metrics_of(plugin)
        with self._lock:
            last = self._checkers.get(plugin.name) is plugin.attempts.watcher
            if last:
                self._checkers.pop(plugin.name, None)
            closed = self._closed
        if last and not closed:
            self.monitor.remove_checker(plugin.name)
        return counts

    # --- members that a group has found by itself --------------------------------------------------------------

    def join(self, member: GuardedPlugin) -> None:
        """Looks after a member of a group, which is in no registry."""
        with self._lock:
            self._members[id(member)] = member
        self.watch(member)

    def stop_watching(self, member: GuardedPlugin) -> None:
        """Looks at a member's health no more, save that another one of its name does the same for another group."""
        self.forget(member)
        successor = self.members.get(member.name)
        if successor is not None and successor is not member:
            self.watch(successor)

    def part(self, member: GuardedPlugin) -> None:
        """A member is gone; what it has counted stays in the total."""
        with self._lock:
            if self._members.pop(id(member), None) is not None:
                counts = attrs.evolve(self.metrics_of(member), active_requests=0)
                self._parted = PluginMetrics.total([self._parted, counts])
        self.stop_watching(member)

    @property
    def members(self) -> Mapping[str, GuardedPlugin]:
        """The members that groups have found, by name."""
        with self._lock:
            return {member.name: member for member in self._members.values()}

    def metrics_of_members(self) -> tuple[dict[str, PluginMetrics], PluginMetrics]:
        """Each such member's counts, and those of all together that are gone."""
        with self._lock:
            counts: dict[str, list[PluginMetrics]] = {}
            for member in self._members.values():
                counts.setdefault(member.name, []).append(self.metrics_of(member))
            return {name: PluginMetrics.total(each) for name, each in counts.items()}, self._parted

    def look_up(self, method: Callable[[], object], interval: float | None, first: float) -> ScheduledTask:
        """As :meth:`every`, for a method that may hang for some seconds."""
        return get_scheduler().schedule(method, interval, first=first, submit=self._lookups.submit)

    # --- what is periodic ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts what has not been started. Harmless when repeated."""
        with self._lock:
            if self._closed:
                return
            for name, checker in self._checkers.items():
                if self.monitor.get_status(name) is None:
                    self.monitor.add_checker(name, checker)
            if self._sweeps is None:
                self._sweeps = self.every(self._sweep, _SWEEP_INTERVAL, _SWEEP_INTERVAL)
        self._follow_files()
        if self.on_start is not None:
            self.on_start()

    def every(self, method: Callable[[], object], interval: float | None, first: float) -> ScheduledTask:
        """Runs a short bound method, held weakly, every ``interval`` seconds, or once with None, after ``first``."""
        return get_scheduler().schedule(method, interval, first=first, submit=self._pool.submit)

    def _follow_files(self) -> None:
        """Looks at certificates and tokens on disk from now on, if any plugin has some."""
        plugins = self._registry.plugins.values()
        with self._lock:
            if self._files is None and not self._closed and any(plugin.wire.watches_credentials for plugin in plugins):
                self._files = self.every(self._renew_credentials, _FILES_INTERVAL, _FILES_INTERVAL)

    def _renew_credentials(self) -> None:
        for plugin in self._registry.plugins.values():
            plugin.wire.renew_credentials()

    def look(self) -> None:
        """Looks now at the plugins that nobody has looked at yet, or that nobody looks at regularly."""
        self.start()
        self.monitor.check_unknown()

    def status_of(self, name: str) -> HealthStatus:
        """What the last look found."""
        return self.monitor.get_status(name) or HealthStatus()

    def metrics_of(self, plugin: GuardedPlugin) -> PluginMetrics:
        """The plugin's counts, those of its health checks included."""
        checker = plugin.attempts.watcher
        if not isinstance(checker, HealthChecker):
            return plugin.metrics()
        return plugin.metrics(checker.checks_total, checker.failures_total)

    def shutdown(self, timeout: float) -> None:
        """Ends it all; waits at most ``timeout`` seconds for health checks under way."""
        with self._lock:
            self._closed = True
            for ticket in (self._sweeps, self._files):
                if ticket is not None:
                    ticket.cancel()
        self.monitor.shutdown(timeout)
        self._pool.shutdown(wait=False)
        self._lookups.shutdown(wait=False)

    def after_fork_in_child(self) -> None:
        """A fresh lock; checker and scheduler renew their own."""
        self._lock = threading.RLock()

    def _health_changed(self, name: str, old: HealthStatus, new: HealthStatus) -> None:
        plugin = self._registry.plugins.get(name) or self.members.get(name)
        if plugin is not None:
            plugin.notify_changed()
        if self._events.changes:
            event = HealthChanged(name, self._clock.time(), old.status, new.status, new.message)
            hand_out(self._events.changes, event)

    def _sweep(self) -> None:
        for plugin in self._registry.plugins.values():
            plugin.sweep()


def _weakly(method: Callable[P, object]) -> Callable[P, object]:
    """The bound method, without keeping its object alive."""
    reference = weakref.WeakMethod(method)

    def call(*args: P.args, **kwargs: P.kwargs) -> None:
        alive = reference()
        if alive is not None:
            alive(*args, **kwargs)

    return call
