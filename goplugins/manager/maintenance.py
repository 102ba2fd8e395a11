"""Periodic work on a manager's plugins: health checks, credential files, idle connections, DNS lookups."""

from __future__ import annotations

import collections
import contextlib
import os
import weakref
from collections.abc import Callable, Mapping
from typing import ParamSpec

from goplugins.errors import PluginClosedError
from goplugins.health import HealthChecker, HealthMonitor
from goplugins.models.metrics import PluginMetrics
from goplugins.models.results import HealthStatus
from goplugins.observability.event_stream import EventStream, publish
from goplugins.observability.events import HealthChanged
from goplugins.observability.setup import Observers
from goplugins.pipeline.pipeline import resolved
from goplugins.pipeline.plugin import GuardedPlugin
from goplugins.pipeline.registry import Registry
from goplugins.resilience.call_counts import Counts
from goplugins.runtime.clock import Clock
from goplugins.runtime.fork import create_rlock, register_forkable
from goplugins.runtime.scheduler import ScheduledTask, Submit, get_scheduler
from goplugins.runtime.workers import WorkerPool

P = ParamSpec("P")

_SWEEP_INTERVAL = 5.0
"""Seconds between two sweeps for idle connections."""

_PATIENCE = 1.0
"""Seconds after which a further thread takes the place of one that is still at its task."""

_UNBOUNDED = 2**31  # each task waits once at most

_FILES_INTERVAL = 0.5
"""Seconds between two checks of certificate and token files."""


class Maintenance:
    """Starts with the first call or the first request for health, never before: the process may still fork.

    Args:
        registry: the plugins.
        events: receives changes of health.
        observers: started together with the maintenance.
        clock: measures time.

    Attributes:
        monitor: runs the health checks.
    """

    def __init__(self, registry: Registry, events: EventStream, observers: Observers, clock: Clock) -> None:
        self.monitor = HealthMonitor(clock=clock)
        self._registry = registry
        self._events = events
        self._observers = observers
        self._clock = clock
        # Files and name servers may hang, and must delay nothing else.
        self._pool = WorkerPool("goplugins-maintenance", 1, _UNBOUNDED, patience=_PATIENCE)
        self._lookup_pool = WorkerPool("goplugins-lookup", 2, _UNBOUNDED, patience=_PATIENCE)
        self._lock = create_rlock(self)
        self._checkers: dict[str, HealthChecker] = {}
        self._members: dict[int, GuardedPlugin] = {}
        self._removed = PluginMetrics()  # counts of plugins and members that are gone
        self._starting: ScheduledTask | None = None
        self._started = False
        self._sweeps: ScheduledTask | None = None
        self._files: weakref.WeakKeyDictionary[GuardedPlugin, ScheduledTask] = weakref.WeakKeyDictionary()
        self._checked_in = 0  # the process whose server was checked
        self._closed = False
        self._before_call = _weakly(self.start_soon)
        self.monitor.subscribe(_weakly(self._health_changed))
        register_forkable(self)

    def after_fork_in_child(self) -> None:
        """A start that was under way goes on in the parent process only: the child's first call begins it anew."""
        if self._starting is not None and not self._started:
            self._starting = None
            self._start_before_calls()

    def watch(self, plugin: GuardedPlugin, seen: HealthStatus | None = None) -> None:
        """Checks the plugin's health from its first call in this process on; at once if the maintenance has started.

        The checker replaces that of another plugin of the same name.

        Args:
            plugin: may have been watched before.
            seen: its health, if it was checked already.
        """
        checker = plugin.checker
        if not isinstance(checker, HealthChecker):
            config = resolved(plugin.config.health_check)
            checker = HealthChecker(
                plugin,
                config,
                name=plugin.name,
                clock=self._clock,
                counts=plugin.counts,
                expect_success=plugin.expect_success,
            )
        if seen is not None:
            checker.set_status(seen)
        with self._lock:
            self._checkers[plugin.name] = checker
            started = self._sweeps is not None and not self._closed
        plugin.watch_with(checker, self._before_call)
        if started:
            self._follow_files(plugin)
            with contextlib.suppress(PluginClosedError):
                self.monitor.add_checker(plugin.name, checker)

    def remove(self, plugin: GuardedPlugin) -> bool:
        """Forgets a removed plugin without calls in flight; its counts stay in the total. True for the first time."""
        with self._lock:
            if not self._registry.discard(plugin):
                return False
            self._remove_counts(plugin)
            files = self._files.pop(plugin, None)
        if files is not None:
            files.cancel()
        self.forget(plugin)
        return True

    def forget(self, plugin: GuardedPlugin) -> None:
        """Ends the plugin's health checks, unless a successor of its name has replaced them."""
        with self._lock:
            last = self._checkers.get(plugin.name) is plugin.checker
            if last:
                self._checkers.pop(plugin.name, None)
            closed = self._closed
        if last and not closed:
            self.monitor.remove_checker(plugin.name)

    # --- members of DNS groups, which are in no registry --------------------------------------------------------

    def add_member(self, member: GuardedPlugin) -> None:
        """Counts the member, and checks its health; also for a member whose checks were stopped."""
        with self._lock:
            self._members[id(member)] = member
        self.watch(member)

    def stop_watching(self, member: GuardedPlugin) -> None:
        """Ends the member's health checks, unless another group has a member of that name."""
        self.forget(member)
        successor = self.members.get(member.name)
        if successor is not None and successor is not member:
            self.watch(successor)

    def remove_member(self, member: GuardedPlugin) -> None:
        """Forgets a member that was closed; its counts stay in the total."""
        with self._lock:
            if self._members.pop(id(member), None) is not None:
                self._remove_counts(member)
        self.stop_watching(member)

    @property
    def members(self) -> Mapping[str, GuardedPlugin]:
        """The members of all DNS groups, by name."""
        with self._lock:
            return {member.name: member for member in self._members.values()}

    def schedule_lookup(self, method: Callable[[], object], interval: float | None, first: float) -> ScheduledTask:
        """As :meth:`every`, on threads for methods that may block for some seconds."""
        return self.every(method, interval, first, self._lookup_pool.submit)

    # --- counts ----------------------------------------------------------------------------------------------------

    def counts_of(self, name: str) -> Counts:
        """The counts for a new plugin: its predecessor's, if one of its name is there or still has calls in flight."""
        found = self._registry.plugins.get(name) or self._registry.find_draining(name)
        if found is None:
            with self._lock:
                found = next((member for member in self._members.values() if member.name == name), None)
        return Counts() if found is None else found.counts

    def metrics(self) -> tuple[dict[str, PluginMetrics], PluginMetrics]:
        """The metrics of all plugins and members by name, and the total, which includes those that are gone."""
        with self._lock:
            plugins = self._all()
            in_flight = collections.Counter[str]()
            for plugin in plugins:
                in_flight[plugin.name] += plugin.tracker.in_flight
            found = {plugin.name: plugin.counts.metrics(in_flight[plugin.name]) for plugin in plugins}
            return found, PluginMetrics.total([self._removed, *found.values()])

    def _all(self) -> list[GuardedPlugin]:
        return [*self._registry.all, *self._members.values()]

    def _remove_counts(self, plugin: GuardedPlugin) -> None:
        """Adds the counts to those of removed plugins, unless a successor goes on with them. Expects the lock."""
        if all(other.counts is not plugin.counts for other in self._all()):
            self._removed = PluginMetrics.total([self._removed, plugin.counts.take()])

    # --- periodic work -------------------------------------------------------------------------------------------

    def start_soon(self) -> bool:
        """Has :meth:`start` run on a worker. The first call does not wait for it, and does not fail if it can't run.

        Returns:
            False if the system has no thread left for it: the next call tries again.
        """
        if self._checked_in != os.getpid():
            self._checked_in = os.getpid()
            self.check_host()
        if self._starting is None and not self._closed:
            self._starting = self.every(self.start, None, 0.0)
        scheduler = get_scheduler()
        return not scheduler.needs_thread or scheduler.ensure_thread()

    def check_host(self) -> None:
        """Warns of known problems of the plugins under this process's server, each kind once a process."""
        from goplugins.doctor import warn_once

        plugins = [plugin.config for plugin in self._registry.plugins.values()]
        warn_once(plugins, loading=self._checked_in != os.getpid())

    def start(self) -> None:
        """Starts what has not been started. Harmless when repeated."""
        with self._lock:
            if self._closed:
                return
            if self._sweeps is None:
                self._sweeps = self.every(self._sweep, _SWEEP_INTERVAL, _SWEEP_INTERVAL)
            names = list(self._checkers)
        for name in names:
            with self._lock:  # for each, since there may be many
                checker = self._checkers.get(name)
                if checker is not None and not self._closed and self.monitor.get_status(name) is None:
                    self.monitor.add_checker(name, checker)
        for plugin in self._registry.plugins.values():
            self._follow_files(plugin)
        self._observers.start(self.every)
        self._started = True
        self._start_before_calls()

    def _start_before_calls(self) -> None:
        """Without a thread for the scheduler, has each call try to start it."""
        if get_scheduler().needs_thread:
            for plugin in self._registry.plugins.values():
                plugin.on_first_call = self._before_call

    def every(
        self, method: Callable[[], object], interval: float | None, first: float, submit: Submit | None = None
    ) -> ScheduledTask:
        """Runs a bound method, held weakly, every ``interval`` seconds, or once with None, after ``first``.

        Short ones only, unless ``submit`` runs it on other threads than those of the maintenance.
        """
        task = get_scheduler().schedule(method, interval, first=first, submit=submit or self._pool.submit)
        self._start_before_calls()
        return task

    def _follow_files(self, plugin: GuardedPlugin) -> None:
        """Starts the checks of a plugin's certificate and token files, if it has some: a task for each plugin."""
        with self._lock:
            if plugin not in self._files and not self._closed and plugin.wire.watches_credentials:
                self._files[plugin] = self.every(plugin.wire.renew_credentials, _FILES_INTERVAL, _FILES_INTERVAL)

    def check_unknown(self) -> None:
        """Checks, now, all plugins without a known health and those without periodic checks."""
        self.start()
        self.monitor.check_unknown()

    def status_of(self, name: str) -> HealthStatus:
        """The health of a plugin or member at this moment, by its checks, its calls and its breaker."""
        checker = self._checkers.get(name)
        checked = HealthStatus() if checker is None else checker.status
        plugin = self._registry.plugins.get(name) or self.members.get(name)
        return checked if plugin is None else plugin.judge(checked)

    def awaits_check(self, name: str) -> bool:
        """Whether the plugin is checked regularly, and no check has ended yet, or it reports itself as UNKNOWN."""
        checker = self._checkers.get(name)
        return checker is not None and checker.enabled and checker.status.reported

    def shutdown(self, timeout: float) -> None:
        """Ends it all; waits at most ``timeout`` seconds for running health checks."""
        with self._lock:
            self._closed = True
            for ticket in (self._starting, self._sweeps, *self._files.values()):
                if ticket is not None:
                    ticket.cancel()
        self.monitor.shutdown(timeout)
        self._pool.shutdown(wait=False)
        self._lookup_pool.shutdown(wait=False)

    def _health_changed(self, name: str, old: HealthStatus, new: HealthStatus) -> None:
        plugin = self._registry.plugins.get(name) or self.members.get(name)
        if plugin is not None:
            plugin.notify_changed()
        if self._events.changes:
            event = HealthChanged(name, self._clock.time(), old.status, new.status, new.message)
            publish(self._events.changes, event)

    def _sweep(self) -> None:
        for plugin in self._registry.plugins.values():
            plugin.sweep()


def _weakly(method: Callable[P, bool | None]) -> Callable[P, bool]:
    """The bound method, without keeping its object alive; True once that is gone."""
    reference = weakref.WeakMethod(method)

    def call(*args: P.args, **kwargs: P.kwargs) -> bool:
        alive = reference()
        return alive is None or bool(alive(*args, **kwargs))

    return call
