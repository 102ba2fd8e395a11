"""Health checks over a wire: what statuses and errors mean, the same for every transport."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from goplugins.enums import PluginStatus
from goplugins.errors import (
    PluginClosedError,
    PluginConnectionError,
    PluginError,
    PluginTimeoutError,
    SaturatedError,
    belongs_to_host,
    local_failure,
)
from goplugins.models.results import HealthStatus
from goplugins.runtime.clock import Clock
from goplugins.runtime.deadline import Deadline
from goplugins.runtime.text import from_outside
from goplugins.transports.connection_pool import ConnectionPool

_MAX_MESSAGE = 500
"""Characters."""

_WORDS = {
    "degraded": PluginStatus.DEGRADED,
    "warn": PluginStatus.DEGRADED,
    "warning": PluginStatus.DEGRADED,
    "unhealthy": PluginStatus.UNHEALTHY,
    "down": PluginStatus.UNHEALTHY,
    "fail": PluginStatus.UNHEALTHY,
    "error": PluginStatus.UNHEALTHY,
    "offline": PluginStatus.OFFLINE,
    "out_of_service": PluginStatus.OFFLINE,
}


def status_of_word(word: object, otherwise: PluginStatus) -> PluginStatus:
    """The status for the word with which a service reports a problem; ``otherwise`` for any other word or none.

    >>> status_of_word("WARN", PluginStatus.HEALTHY), status_of_word(None, PluginStatus.HEALTHY)
    (<PluginStatus.DEGRADED: 'degraded'>, <PluginStatus.HEALTHY: 'healthy'>)
    """
    return _WORDS.get(word.lower(), otherwise) if isinstance(word, str) else otherwise


def failed_check(error: PluginError) -> HealthStatus:
    """The result of a health check that ended with an error; UNKNOWN if the check was not made."""
    local = local_failure(error)
    if local is not None:  # no verdict on the plugin
        return HealthStatus(PluginStatus.UNKNOWN, local.message, reported=False)
    if isinstance(error, SaturatedError):
        return HealthStatus(PluginStatus.UNKNOWN, "every connection is in use", reported=False)
    if isinstance(error, PluginClosedError):
        return HealthStatus(PluginStatus.UNKNOWN, "the plugin is closed", reported=False)
    lost = isinstance(error, PluginConnectionError | PluginTimeoutError)
    return HealthStatus(PluginStatus.OFFLINE if lost else PluginStatus.UNHEALTHY, str(error), reported=False)


def without_report(what: str) -> HealthStatus:
    """The result of a check that has reached a plugin which has no health to report."""
    return HealthStatus(PluginStatus.HEALTHY, f"it answers; it has no {what}", reported=False)


def check_connection(pool: ConnectionPool[Any], deadline: Deadline) -> HealthStatus:
    """A health check that sends nothing: finds an idle connection that is alive, or opens one and closes it again.

    Raises:
        PluginError: no connection could be opened; SaturatedError if all are in use.
    """
    lease = pool.acquire_free(deadline)
    pool.release(lease, reusable=lease.reused)
    return HealthStatus(PluginStatus.HEALTHY, "a connection can be opened")


def run_check(
    check: Callable[[Deadline], HealthStatus], timeout: float, clock: Clock, scrub: Callable[[str], str]
) -> HealthStatus:
    """Runs one health check.

    Args:
        check: makes the request; raises a PluginError if it fails.
        timeout: seconds.
        clock: measures.
        scrub: removes credentials from a text that the plugin sent.
    """
    started = clock.monotonic()
    try:
        # Not Deadline.after(): an enclosing deadline of the caller must not make a plugin appear dead.
        found = check(Deadline(started + timeout, clock))
    except PluginError as error:
        found = failed_check(error)
    except Exception as exc:
        if belongs_to_host(exc):
            raise
        local = local_failure(exc)
        message = f"the health check raised {type(exc).__name__}: {exc}"
        if local is not None:
            found = failed_check(local)
        else:
            found = HealthStatus(PluginStatus.UNHEALTHY, message, reported=False)
    return attrs.evolve(
        found,
        message=from_outside(scrub(found.message), _MAX_MESSAGE),
        last_check=clock.time(),
        response_time=clock.monotonic() - started,
        metadata={scrub(key): scrub(value) for key, value in found.metadata.items()},
    )
