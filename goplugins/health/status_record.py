"""What is known of one plugin's health, and how a finding changes it. No I/O, no thread, no lock of its own."""

from __future__ import annotations

import collections

import attrs

from goplugins.enums import PluginStatus
from goplugins.errors import PluginError, Replay, Verdict
from goplugins.models.results import HealthStatus

__all__ = ["HealthRecord"]

_GOOD = (PluginStatus.HEALTHY, PluginStatus.DEGRADED)


class HealthRecord:
    """A status with the counts that it follows from. All methods that change it expect the owner's lock.

    Attributes:
        status: what is shown.
        failures: failed looks in a row.
        failures_total: failed looks ever.
        checks_total: looks ever.
        unreached: calls in a row that did not reach the plugin.
        changes: statuses before and after, of each change that nobody was told of yet.
    """

    __slots__ = ("_before_evidence", "changes", "checks_total", "failures", "failures_total", "status", "unreached")

    def __init__(self) -> None:
        self.status = HealthStatus()
        self.failures = 0
        self.failures_total = 0
        self.checks_total = 0
        self.unreached = 0
        self.changes: collections.deque[tuple[HealthStatus, HealthStatus]] = collections.deque()
        self._before_evidence: HealthStatus | None = None  # the status, where only failing calls made it OFFLINE

    @property
    def suspect(self) -> bool:
        """True if the last look failed, or calls found the plugin gone: the next look may take long."""
        return self.failures > 0 or self.status.status is PluginStatus.OFFLINE

    def look_found(self, found: HealthStatus, *, limit: int, when: float, took: float) -> None:
        """A look ended with ``found``. HEALTHY and DEGRADED are shown as reported, all else is a failure.

        Args:
            found: as reported; its own times are kept where it has them.
            limit: failures in a row that make the plugin OFFLINE.
            when: seconds since the Unix epoch.
            took: seconds.
        """
        status, message = found.status, found.message
        self._before_evidence = None
        self.checks_total += 1
        if status in _GOOD:
            self.failures = self.unreached = 0
        else:
            self.failures += 1
            self.failures_total += 1
            status = PluginStatus.UNHEALTHY
            # Once OFFLINE, another failure makes nothing better, whoever found it OFFLINE.
            if self.failures >= limit or self.status.status is PluginStatus.OFFLINE:
                status = PluginStatus.OFFLINE
                message = f"{self.failures} failed checks in a row; the last: {message or 'no reason given'}"
        took = found.response_time or took
        self._show(attrs.evolve(found, status=status, message=message, last_check=when, response_time=took))

    def call_reached(self) -> None:
        """A call reached the plugin: lifts an OFFLINE that only failing calls had set."""
        self.unreached = 0
        if self._before_evidence is not None:
            self._show(self._before_evidence)
            self._before_evidence = None

    def call_failed(self, error: BaseException, *, limit: int) -> None:
        """A call failed; ``limit`` in a row that did not reach the plugin make it OFFLINE.

        An error that somebody answered with (an HTTP 500, say) counts for nothing.
        """
        if not _unreached(error):
            return
        self.unreached += 1
        if self.unreached >= limit and self.status.status is not PluginStatus.OFFLINE:
            self._before_evidence = self.status
            message = f"{self.unreached} calls in a row did not reach it; the last: {error}"
            self._show(attrs.evolve(self.status, status=PluginStatus.OFFLINE, message=message))

    def told(self, status: HealthStatus) -> None:
        """Somebody else found this; it stands until the next look."""
        self._before_evidence = None
        if status.status in _GOOD:
            self.failures = self.unreached = 0
        self._show(status)

    def looks_ended(self) -> None:
        """Nobody looks any more: OFFLINE becomes UNKNOWN, or it would stand for ever with nobody to lift it."""
        self.call_reached()
        if self.status.status is PluginStatus.OFFLINE:
            message = f"health checks have stopped; last seen offline: {self.status.message}"
            self._show(attrs.evolve(self.status, status=PluginStatus.UNKNOWN, message=message))

    def _show(self, status: HealthStatus) -> None:
        old, self.status = self.status, status
        if old.status is not status.status:
            self.changes.append((old, status))


def _unreached(error: BaseException) -> bool:
    """True for a failure that says that nobody is there."""
    if isinstance(error, PluginError):
        connecting = isinstance(error, TimeoutError) and error.replay is Replay.ALWAYS
        return error.verdict is Verdict.FAILURE and (isinstance(error, ConnectionError) or connecting)
    return isinstance(error, ConnectionError)
