"""The periodic work around a manager's plugins: health checks, and closing what was idle for too long."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import ParamSpec

from goplugins._clock import Clock
from goplugins.health import HealthChecker, HealthMonitor
from goplugins.models import HealthStatus, PluginMetrics
from goplugins.plugin import GuardedPlugin
from goplugins.policies import resolved
from goplugins.processes import register_forkable
from goplugins.registry import Registry
from goplugins.scheduler import Ticket, get_scheduler
from goplugins.workers import WorkerPool

__all__ = ["Upkeep"]

P = ParamSpec("P")

_SWEEP_INTERVAL = 5.0
"""Seconds between two looks for connections that were idle for too long."""


class Upkeep:
    """Starts with the first call or the first question after health, never before: the process may yet fork.

    Args:
        registry: whose plugins these are.
        clock: measures and waits.
    """

    def __init__(self, registry: Registry, clock: Clock) -> None:
        self.monitor = HealthMonitor(clock=clock)
        self._registry = registry
        self._clock = clock
        self._pool = WorkerPool("goplugins-upkeep", 1, 8)
        self._lock = threading.RLock()
        self._checkers: dict[str, HealthChecker] = {}
        self._sweeps: Ticket | None = None
        self._closed = False
        self.monitor.subscribe(_weakly(self._health_changed))
        register_forkable(self)

    def watch(self, plugin: GuardedPlugin) -> None:
        """Has the plugin's health looked at, from its first call in this process on."""
        checker = HealthChecker(plugin, resolved(plugin.config.health_check), name=plugin.name, clock=self._clock)
        with self._lock:
            self._checkers[plugin.name] = checker
        plugin.attempts.watcher = checker
        plugin.on_first_call = _weakly(self.start)

    def forget(self, plugin: GuardedPlugin) -> PluginMetrics:
        """Looks at the plugin no more; its last counts."""
        counts = self.metrics_of(plugin)
        with self._lock:
            self._checkers.pop(plugin.name, None)
            closed = self._closed
        if not closed:
            self.monitor.remove_checker(plugin.name)
        return counts

    def start(self) -> None:
        """Starts what has not been started. Harmless when repeated."""
        with self._lock:
            if self._closed:
                return
            for name, checker in self._checkers.items():
                if self.monitor.get_status(name) is None:
                    self.monitor.add_checker(name, checker)
            if self._sweeps is None:
                self._sweeps = get_scheduler().schedule(self._sweep, _SWEEP_INTERVAL, submit=self._pool.submit)

    def look(self) -> None:
        """Looks now at the plugins that nobody has looked at yet, or that nobody looks at regularly."""
        self.start()
        self.monitor.look_at_unknown()

    def status_of(self, name: str) -> HealthStatus:
        """What the last look found."""
        return self.monitor.get_status(name) or HealthStatus()

    def metrics_of(self, plugin: GuardedPlugin) -> PluginMetrics:
        """The plugin's counts, those of its health checks included."""
        checker = self._checkers.get(plugin.name)
        return plugin.metrics(checker.failures_total if checker is not None else 0)

    def shutdown(self, timeout: float) -> None:
        """Ends it all; waits at most ``timeout`` seconds for health checks under way."""
        with self._lock:
            self._closed = True
            if self._sweeps is not None:
                self._sweeps.cancel()
        self.monitor.shutdown(timeout)
        self._pool.shutdown(wait=False)

    def after_fork_in_child(self) -> None:
        """A fresh lock; checker and scheduler renew their own."""
        self._lock = threading.RLock()

    def _health_changed(self, name: str, old: HealthStatus, new: HealthStatus) -> None:
        plugin = self._registry.plugins.get(name)
        if plugin is not None:
            plugin.changed()

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
