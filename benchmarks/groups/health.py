"""Health checks of 1,000 plugins: their threads, and the delay of checks while seven plugins hang."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.harness import Group, Ratio
from goplugins import HealthCheckConfig, HealthChecker, HealthMonitor, HealthStatus, PluginStatus

__all__ = ["GROUP"]

_PLUGINS, _HUNG = 1000, 7
_INTERVAL = 0.5

GROUP = Group(
    name="health",
    title=f"Health checks of {_PLUGINS} plugins every 0.5 s: longest time between two checks, and threads",
    unit="ms, and threads",
    pinned=False,
    timing="wall time",
    sampler=lambda probe, seconds: probe(seconds),
    ratios=(
        Ratio(
            "longest time between two health checks: seven hung plugins vs none",
            "longest, seven hung",
            "longest, none hung",
            1.5,
        ),
        Ratio("scheduler and probe threads vs 9", "threads, seven hung", "nine", 1.0),
    ),
)


class _Plugin:
    def __init__(self, hang: threading.Event | None) -> None:
        self._hang = hang
        self.last = time.perf_counter()
        self.longest = 0.0

    def health(self, timeout: float) -> HealthStatus:
        now = time.perf_counter()
        self.longest, self.last = max(self.longest, now - self.last), now
        if self._hang is not None:
            self._hang.wait(60)
        return HealthStatus(PluginStatus.HEALTHY)


@contextlib.contextmanager
def _monitored(hung: int) -> Iterator[tuple[HealthMonitor, list[_Plugin]]]:
    end = threading.Event()
    plugins = [_Plugin(end if number < hung else None) for number in range(_PLUGINS)]
    monitor = HealthMonitor()
    config = HealthCheckConfig(enabled=True, interval=_INTERVAL, timeout=30.0)
    try:
        for number, plugin in enumerate(plugins):
            monitor.add_checker(str(number), HealthChecker(plugin, config, name=str(number)))
        time.sleep(2 * _INTERVAL)  # until each has been checked
        yield monitor, plugins[hung:]
    finally:
        end.set()
        monitor.shutdown()


def _longest(plugins: list[_Plugin]) -> float:
    for plugin in plugins:
        plugin.longest = 0.0
    time.sleep(2 * _INTERVAL)
    return max(plugin.longest for plugin in plugins) * 1e3


@GROUP.row("longest, none hung")
def _(_: object) -> Iterator[Any]:
    with _monitored(0) as (_monitor, plugins):
        yield lambda _: _longest(plugins)


@GROUP.row("longest, seven hung")
def _(_: object) -> Iterator[Any]:
    with _monitored(_HUNG) as (_monitor, plugins):
        yield lambda _: _longest(plugins)


@GROUP.row("threads, seven hung")
def _(_: object) -> Iterator[Any]:
    with _monitored(_HUNG) as (monitor, _plugins):
        probes = monitor._pool
        yield (
            lambda _: probes._pool.threads + probes._suspects.threads + 1.0
        )  # plus the scheduler thread of the process


@GROUP.row("nine")
def _(_: object) -> Iterator[Any]:
    yield lambda _: 9.0
