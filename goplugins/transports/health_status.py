"""Health checks over a wire: what statuses and errors mean, the same for every transport."""

from __future__ import annotations

from collections.abc import Callable, Mapping

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

CheckResult = tuple[PluginStatus, str, Mapping[str, str]]
"""Status, message and metadata."""


def status_of_word(word: object, otherwise: PluginStatus) -> PluginStatus:
    """The status for the word with which a service reports a problem; ``otherwise`` for any other word or none.

    >>> status_of_word("WARN", PluginStatus.HEALTHY), status_of_word(None, PluginStatus.HEALTHY)
    (<PluginStatus.DEGRADED: 'degraded'>, <PluginStatus.HEALTHY: 'healthy'>)
    """
    return _WORDS.get(word.lower(), otherwise) if isinstance(word, str) else otherwise


def failed_check(error: PluginError) -> tuple[PluginStatus, str]:
    """Status and message of a health check that ended with an error."""
    local = local_failure(error)
    if local is not None:  # no verdict on the plugin
        return PluginStatus.UNKNOWN, local.message
    if isinstance(error, SaturatedError):
        return PluginStatus.UNKNOWN, "every connection is in use"
    if isinstance(error, PluginClosedError):
        return PluginStatus.UNKNOWN, "the plugin is closed"
    if isinstance(error, PluginConnectionError | PluginTimeoutError):
        return PluginStatus.OFFLINE, str(error)
    return PluginStatus.UNHEALTHY, str(error)


def run_check(
    check: Callable[[Deadline], CheckResult], timeout: float, clock: Clock, scrub: Callable[[str], str]
) -> HealthStatus:
    """Runs one health check.

    Args:
        check: makes the request; raises a PluginError if it fails.
        timeout: seconds.
        clock: measures.
        scrub: removes credentials from a text that the plugin sent.
    """
    started = clock.monotonic()
    metadata: Mapping[str, str] = {}
    try:
        # Not Deadline.after(): an enclosing deadline of the caller must not make a plugin appear dead.
        status, message, metadata = check(Deadline(started + timeout, clock))
    except PluginError as error:
        status, message = failed_check(error)
    except Exception as exc:
        if belongs_to_host(exc):
            raise
        local = local_failure(exc)
        if local is not None:
            status, message = failed_check(local)
        else:
            status, message = PluginStatus.UNHEALTHY, f"the health check raised {type(exc).__name__}: {exc}"
    return HealthStatus(
        status=status,
        message=from_outside(scrub(message), _MAX_MESSAGE),
        last_check=clock.time(),
        response_time=clock.monotonic() - started,
        metadata={scrub(key): scrub(value) for key, value in metadata.items()},
    )
