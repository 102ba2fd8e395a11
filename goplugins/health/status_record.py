"""The health status of one plugin, and how results of checks and calls change it. No I/O, no thread, no lock."""

from __future__ import annotations

import collections

import attrs

from goplugins.enums import PluginStatus
from goplugins.errors import PluginError, Replay, Verdict
from goplugins.models.results import HealthStatus
from goplugins.resilience.call_counts import Counts

_GOOD = (PluginStatus.HEALTHY, PluginStatus.DEGRADED)


@attrs.define(eq=False)
class HealthRecord:
    """A status with the counts that it follows from. The caller of a method that changes it holds the owner's lock.

    Attributes:
        counts: take the checks and their failures.
        status: the current status.
        failures: failed checks in a row.
        unreached: calls in a row that did not reach the plugin.
        changes: the statuses before and after each change that has not been reported yet.
    """

    counts: Counts
    status: HealthStatus = attrs.field(factory=HealthStatus)
    failures: int = 0
    unreached: int = 0
    changes: collections.deque[tuple[HealthStatus, HealthStatus]] = attrs.field(factory=collections.deque)
    _before_calls: HealthStatus | None = None  # the status before failed calls set it to OFFLINE

    @property
    def is_suspect(self) -> bool:
        """True if the last check failed or the plugin is OFFLINE: the next check may last for its whole timeout."""
        return self.failures > 0 or self.status.status is PluginStatus.OFFLINE

    def check_ended(self, result: HealthStatus, *, limit: int, when: float, took: float) -> None:
        """Counts a check. HEALTHY and DEGRADED are shown as reported; any other status is a failure.

        Args:
            result: as reported; its own response time is kept where it has one.
            limit: failures in a row that make the plugin OFFLINE.
            when: seconds since the Unix epoch.
            took: seconds.
        """
        status, message = result.status, result.message
        self._before_calls = None
        self.counts.health_checks.add()
        if status in _GOOD:
            self.failures = self.unreached = 0
        else:
            self.failures += 1
            self.counts.health_check_failures.add()
            status = PluginStatus.UNHEALTHY
            # A failure never improves an OFFLINE status, whether checks or calls had set it.
            if self.failures >= limit or self.status.status is PluginStatus.OFFLINE:
                status = PluginStatus.OFFLINE
                message = f"{self.failures} failed checks in a row; the last: {message or 'no reason given'}"
        took = result.response_time or took
        self._show(attrs.evolve(result, status=status, message=message, last_check=when, response_time=took))

    def call_succeeded(self) -> None:
        """A call reached the plugin: ends an OFFLINE that failed calls had set."""
        self.unreached = 0
        if self._before_calls is not None:
            self._show(self._before_calls)
            self._before_calls = None

    def call_failed(self, error: BaseException, *, limit: int) -> None:
        """A call failed; ``limit`` in a row that did not reach the plugin make it OFFLINE.

        An error that the plugin answered with (an HTTP 500, say) is not counted.
        """
        if not _means_unreachable(error):
            return
        self.unreached += 1
        if self.unreached >= limit and self.status.status is not PluginStatus.OFFLINE:
            self._before_calls = self.status
            message = f"{self.unreached} calls in a row did not reach it; the last: {error}"
            self._show(attrs.evolve(self.status, status=PluginStatus.OFFLINE, message=message))

    def override(self, status: HealthStatus) -> None:
        """Shows a status from another source, until the next check."""
        self._before_calls = None
        if status.status in _GOOD:
            self.failures = self.unreached = 0
        self._show(status)

    def checks_stopped(self) -> None:
        """Regular checks ended: OFFLINE becomes UNKNOWN, since no check would ever end it."""
        self.call_succeeded()
        if self.status.status is PluginStatus.OFFLINE:
            message = f"health checks have stopped; last seen offline: {self.status.message}"
            self._show(attrs.evolve(self.status, status=PluginStatus.UNKNOWN, message=message))

    def _show(self, status: HealthStatus) -> None:
        old, self.status = self.status, status
        if old.status is not status.status:
            self.changes.append((old, status))


def _means_unreachable(error: BaseException) -> bool:
    """True for an error that says that the plugin could not be reached."""
    if isinstance(error, PluginError):
        connecting = isinstance(error, TimeoutError) and error.replay is Replay.ALWAYS
        return error.verdict is Verdict.FAILURE and (isinstance(error, ConnectionError) or connecting)
    return isinstance(error, ConnectionError)
