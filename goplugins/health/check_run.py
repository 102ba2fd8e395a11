"""One run of a health check: performing it, and waiting for its end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

import attrs

from goplugins.enums import PluginStatus
from goplugins.errors import (
    HealthCheckFailedError,
    HealthCheckTimeoutError,
    PluginError,
    Verdict,
    belongs_to_host,
)
from goplugins.models.results import HealthStatus


class HasHealth(Protocol):
    """An object with a health check: a plugin, or any other."""

    def health(self, timeout: float) -> HealthStatus:
        """Checks its health within ``timeout`` seconds."""
        ...


@attrs.define(eq=False)
class CheckRun:
    """One run of a plugin's health check, queued or under way.

    Attributes:
        done: set once it has ended.
        started: when a worker began it, on the clock's monotonic scale; None before.
        overdue_at: when it was last counted as failed because it exceeded its timeout; None if never.
        thread: the worker's ident.
    """

    done: threading.Event = attrs.field(factory=threading.Event)
    started: float | None = None
    overdue_at: float | None = None
    thread: int | None = None


def check_health(check: Callable[[float], HealthStatus], name: str, timeout: float) -> HealthStatus:
    """The plugin's health; UNHEALTHY where the check fails, UNKNOWN where it has no verdict.

    There is no verdict if the plugin reports UNKNOWN or is closed, or if no connection or process was free.
    """
    try:
        result: object = check(timeout)
    except Exception as exc:
        if belongs_to_host(exc):
            raise
        if isinstance(exc, PluginError) and exc.verdict is Verdict.IGNORED:
            return HealthStatus(message=str(exc), reported=False)
        kind = HealthCheckTimeoutError if isinstance(exc, TimeoutError) else HealthCheckFailedError
        text = exc.message if isinstance(exc, PluginError) else str(exc)
        return _unhealthy(kind(f"the health check failed: {type(exc).__name__}: {text}", plugin=name or None))
    if not isinstance(result, HealthStatus):
        text = f"health() returned {type(result).__name__}, not a HealthStatus"
        return _unhealthy(HealthCheckFailedError(text, plugin=name or None))
    return result


def timed_out(name: str, timeout: float, took: float) -> HealthStatus:
    """The result of a check that exceeds its timeout."""
    text = f"no answer within {timeout:g} s ({took:.1f} s so far)"
    return _unhealthy(HealthCheckTimeoutError(text, plugin=name or None))


def _unhealthy(error: HealthCheckFailedError) -> HealthStatus:
    return HealthStatus(PluginStatus.UNHEALTHY, str(error), reported=False)
