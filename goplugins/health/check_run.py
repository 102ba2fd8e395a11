"""One look at a plugin's health: asking it, what comes of it, and waiting for that."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Protocol

from goplugins.enums import PluginStatus
from goplugins.errors import (
    HealthCheckFailedError,
    HealthCheckTimeoutError,
    PluginError,
    Verdict,
    belongs_to_host,
)
from goplugins.models.results import HealthStatus
from goplugins.runtime.clock import SYSTEM_CLOCK
from goplugins.runtime.scheduler import ScheduledTask

__all__ = ["CheckRun", "Watched", "ask", "timed_out", "wait_for"]


class Watched(Protocol):
    """A plugin, as far as its health goes."""

    def health(self, timeout: float) -> HealthStatus:
        """Looks at its health for at most ``timeout`` seconds."""
        ...


class CheckRun:
    """One look at a plugin, queued or under way.

    Attributes:
        done: set once it has ended.
        started: when a worker took it up, on the clock's monotonic scale; None before.
        counted: when it was last counted as failed for lasting too long; None if never.
        thread: the worker's ident.
        watch: what notices that it lasts too long.
    """

    __slots__ = ("counted", "done", "started", "thread", "watch")

    def __init__(self) -> None:
        self.done = threading.Event()
        self.started: float | None = None
        self.counted: float | None = None
        self.thread: int | None = None
        self.watch: ScheduledTask | None = None


def wait_for(looks: Iterable[CheckRun], timeout: float) -> None:
    """Waits until all looks have ended, at most ``timeout`` seconds.

    Real ones: the work of other threads takes real time, whatever a test's clock says.
    """
    end = SYSTEM_CLOCK.monotonic() + timeout
    for look in looks:
        look.done.wait(max(0.0, end - SYSTEM_CLOCK.monotonic()))


def ask(plugin: Watched, name: str, timeout: float) -> HealthStatus | None:
    """What a plugin says of its health within ``timeout`` seconds; a failure if it can't, None for no verdict.

    No verdict: it reports UNKNOWN, or there is no free connection or process to ask it through, or it is closed.
    """
    try:
        found: object = plugin.health(timeout)
    except Exception as exc:
        if belongs_to_host(exc):
            raise
        if isinstance(exc, PluginError) and exc.verdict is Verdict.IGNORED:
            return None
        kind = HealthCheckTimeoutError if isinstance(exc, TimeoutError) else HealthCheckFailedError
        text = exc.message if isinstance(exc, PluginError) else str(exc)
        return _failed(kind(f"the health check failed: {type(exc).__name__}: {text}", plugin=name or None))
    if not isinstance(found, HealthStatus):
        text = f"health() returned {type(found).__name__}, not a HealthStatus"
        return _failed(HealthCheckFailedError(text, plugin=name or None))
    return None if found.status is PluginStatus.UNKNOWN else found


def timed_out(name: str, timeout: float, took: float) -> HealthStatus:
    """What is found where a plugin does not answer in time."""
    text = f"no answer within {timeout:g} s ({took:.1f} s so far)"
    return _failed(HealthCheckTimeoutError(text, plugin=name or None))


def _failed(error: HealthCheckFailedError) -> HealthStatus:
    return HealthStatus(PluginStatus.UNHEALTHY, str(error))
