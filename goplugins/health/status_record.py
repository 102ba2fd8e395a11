"""The health status of one plugin, and how results of checks and calls change it. No I/O, no thread, no lock."""

from __future__ import annotations

import collections

import attrs

from goplugins.enums import PluginStatus
from goplugins.errors import PluginError, Replay, Verdict
from goplugins.models.results import HealthStatus
from goplugins.resilience.call_counts import Counts
from goplugins.runtime.text import counted

_GOOD = (PluginStatus.HEALTHY, PluginStatus.DEGRADED)
_BAD = (PluginStatus.UNHEALTHY, PluginStatus.OFFLINE)


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
    _answered: bool | None = None  # the latest call since the last check: whether it was answered; None without any
    _before_calls: HealthStatus | None = None  # the status before calls that did not reach the plugin changed it

    @property
    def is_suspect(self) -> bool:
        """True if the last check failed or the plugin is OFFLINE: the next check may last for its whole timeout."""
        return self.failures > 0 or self.status.status is PluginStatus.OFFLINE

    @property
    def awaits_call(self) -> bool:
        """Whether an answered call would change the status: no check says that the plugin is well."""
        return self.is_suspect or self.unreached > 0 or self.status.status not in _GOOD

    # --- checks ------------------------------------------------------------------------------------------------

    def check_ended(self, result: HealthStatus, *, limit: int, when: float, took: float) -> None:
        """Counts a check. HEALTHY and DEGRADED are shown as reported; UNKNOWN is no verdict; the others are failures.

        Args:
            result: as reported; its own response time is kept where it has one.
            limit: failures in a row that make the plugin OFFLINE.
            when: seconds since the Unix epoch.
            took: seconds.
        """
        answered, self._answered = self._answered, None
        if result.status is PluginStatus.UNKNOWN:
            self._no_verdict(attrs.evolve(result, last_check=when), answered)
            return
        self.counts.health_checks.add()
        took = result.response_time or took
        result = attrs.evolve(result, last_check=when, response_time=took)
        if result.status in _GOOD:
            # That a process can be started, say, changes nothing while calls go on failing.
            if result.reported or answered is not False or self.status.status is not PluginStatus.OFFLINE:
                self.failures = self.unreached = 0
                self._before_calls = None
                self._show(result)
            return
        self._before_calls = None
        self.failures += 1
        self.counts.health_check_failures.add()
        failed = attrs.evolve(result, status=PluginStatus.UNHEALTHY)
        # A failure never improves an OFFLINE status, whether checks or calls had set it.
        if self.failures >= limit or self.status.status is PluginStatus.OFFLINE:
            message = (
                f"{counted(self.failures, 'failed check')} in a row; the last: {result.message or 'no reason given'}"
            )
            failed = attrs.evolve(failed, status=PluginStatus.OFFLINE, message=message)
        if answered and self.failures > 1 and not result.reported:  # the first failure shows at once
            self._before_calls, failed = failed, _degraded(failed)
        self._show(failed)

    def _no_verdict(self, result: HealthStatus, answered: bool | None) -> None:
        """Shows what was found while nothing is known; and no OFFLINE any more that no check will end."""
        status = self.status.status
        if status is PluginStatus.UNKNOWN:
            self._show(_by_calls(result) if answered else result)
        elif status is PluginStatus.OFFLINE and answered is None:
            self._show(attrs.evolve(self.status, status=PluginStatus.UNHEALTHY))

    # --- calls -------------------------------------------------------------------------------------------------

    def call_succeeded(self, *, checked: bool) -> None:
        """A call was answered: outweighs failed checks and earlier calls, but no report of the plugin itself.

        Args:
            checked: whether there are regular checks; then a plugin stays UNKNOWN until the first one.
        """
        self.unreached = 0
        self._answered = True
        if self.status.reported and self.status.status is not PluginStatus.UNKNOWN:
            return
        before, self._before_calls = self._before_calls, None
        status = before or self.status
        if status.status is PluginStatus.UNKNOWN:
            status = status if checked and not status.last_check else _by_calls(status)
        elif status.status in _BAD and not status.reported:
            self._before_calls, status = status, _degraded(status)
        self._show(status)

    def call_failed(self, error: BaseException, *, limit: int, checked: bool) -> None:
        """A call failed. ``limit`` in a row that did not reach the plugin make it OFFLINE; one ends what calls excused.

        An error that the plugin answered with (an HTTP 500, say) is not counted.

        Args:
            error: of the call.
            limit: see above.
            checked: False if no regular check would end OFFLINE: what only calls have shown becomes UNKNOWN instead.
        """
        if not _means_unreachable(error) or (not checked and self.status.reported):
            return
        self.unreached += 1
        self._answered = False
        before = self._before_calls
        if before is not None and before.status in _BAD and self.status.status is PluginStatus.DEGRADED:
            self._before_calls = None
            self._show(before)
        worst = PluginStatus.OFFLINE if checked else PluginStatus.UNKNOWN
        if self.unreached >= limit and self.status.status not in (PluginStatus.OFFLINE, worst):
            self._before_calls = self._before_calls or self.status
            message = f"{counted(self.unreached, 'call')} in a row did not reach it; the last: {error}"
            self._show(attrs.evolve(self.status, status=worst, message=message, reported=False))

    # --- other sources -----------------------------------------------------------------------------------------

    def override(self, status: HealthStatus) -> None:
        """Shows a status from another source, until the next check."""
        self._before_calls = None
        if status.status in _GOOD:
            self.failures = self.unreached = 0
        self._show(status)

    def checks_stopped(self) -> None:
        """Regular checks ended: OFFLINE becomes UNKNOWN, since no check would ever end it."""
        self.unreached = 0
        before, self._before_calls = self._before_calls, None
        if before is not None and self.status.status is PluginStatus.OFFLINE:
            self._show(before)
        if self.status.status is PluginStatus.OFFLINE:
            message = f"health checks have stopped; last seen offline: {self.status.message}"
            self._show(attrs.evolve(self.status, status=PluginStatus.UNKNOWN, message=message))

    def _show(self, status: HealthStatus) -> None:
        old, self.status = self.status, status
        if old.status is not status.status:
            self.changes.append((old, status))


def _by_calls(status: HealthStatus) -> HealthStatus:
    return attrs.evolve(status, status=PluginStatus.HEALTHY, message="calls are answered", reported=False)


def _degraded(failed: HealthStatus) -> HealthStatus:
    message = f"calls are answered, but its health check fails: {failed.message or 'no reason given'}"
    return attrs.evolve(failed, status=PluginStatus.DEGRADED, message=message)


def _means_unreachable(error: BaseException) -> bool:
    """True for an error that says that the plugin could not be reached."""
    if isinstance(error, PluginError):
        connecting = isinstance(error, TimeoutError) and error.replay is Replay.ALWAYS
        return error.verdict is Verdict.FAILURE and (isinstance(error, ConnectionError) or connecting)
    return isinstance(error, ConnectionError)
