"""Health of all plugins: the workers that check them, and the overall status."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from functools import partial

import attrs

from goplugins.enums import PluginStatus
from goplugins.errors import PluginClosedError
from goplugins.health.check_run import CheckRun
from goplugins.health.checker import HealthChecker, OnChange
from goplugins.health.probe_pool import ProbePool
from goplugins.models.results import HealthStatus
from goplugins.runtime.callbacks import run_callback
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock
from goplugins.runtime.fork import create_lock
from goplugins.runtime.scheduler import Scheduler

HealthListener = Callable[[str, HealthStatus, HealthStatus], object]
"""Called with a name and its status before and after."""

_SEVERITY = {
    PluginStatus.HEALTHY: 0,
    PluginStatus.UNKNOWN: 1,
    PluginStatus.DEGRADED: 2,
    PluginStatus.UNHEALTHY: 3,
    PluginStatus.OFFLINE: 3,
}


@attrs.frozen
class _Member:
    checker: HealthChecker
    observer: OnChange

    def stop(self) -> None:
        self.checker.detach(self.observer)
        self.checker.stop(0.0)


class HealthMonitor:
    """Runs the health checks of many plugins on one scheduler and a few workers, and sums up their statuses.

    Args:
        clock: the source of time.
        scheduler: starts the regular checks; by default the process's.
        max_workers: checks at a time. Plugins whose last check failed have as many workers of their own, so that the
            timeouts of plugins that are down delay no other check.

    >>> from goplugins import HealthStatus, PluginStatus
    >>> monitor = HealthMonitor()
    >>> monitor.update_status("auth", HealthStatus(PluginStatus.HEALTHY))
    >>> monitor.update_status("billing", HealthStatus(PluginStatus.OFFLINE, "no route"))
    >>> overall = monitor.get_overall_health()
    >>> str(overall.status), overall.message
    ('unhealthy', 'billing is offline (no route)')
    """

    def __init__(
        self, *, clock: Clock = SYSTEM_CLOCK, scheduler: Scheduler | None = None, max_workers: int = 8
    ) -> None:
        self._clock = clock
        self._scheduler = scheduler
        self._pool = ProbePool(max_workers)
        self._lock = create_lock(self)
        # Changed under the lock, read without it: an iteration takes a copy.
        self._members: dict[str, _Member] = {}
        self._reported: dict[str, HealthStatus] = {}  # of names without a checker
        self._listeners: tuple[HealthListener, ...] = ()
        self._closed = False

    # --- checkers --------------------------------------------------------------------------------------------------

    def add_checker(self, name: str, checker: HealthChecker) -> None:
        """Adds a plugin's checker and starts it, unless its checks are disabled.

        A checker of the same name is removed.

        Raises:
            PluginClosedError: after :meth:`shutdown`.
        """
        member = _Member(checker, partial(self._changed, name))
        with self._lock:
            if self._closed:
                raise PluginClosedError("the health monitor is shut down", plugin=name)
            old = self._members.get(name)
            self._members[name] = member
            self._reported.pop(name, None)
        if old is not None:
            old.stop()
        checker.name = checker.name or name
        checker.attach(member.observer, pool=self._pool, scheduler=self._scheduler)
        checker.start()
        if self._members.get(name) is not member:
            member.stop()  # removed while it was being added

    def remove_checker(self, name: str) -> None:
        """Removes a plugin's checker and status, and stops the checker without waiting for a check under way."""
        with self._lock:
            old = self._members.pop(name, None)
            self._reported.pop(name, None)
        if old is not None:
            old.stop()

    def update_status(self, name: str, status: HealthStatus) -> None:
        """Shows a status from another source: until a plugin's next check, or another name's next update."""
        member = self._members.get(name)
        if member is not None:
            member.checker.set_status(status)
            return
        with self._lock:
            old = self._reported.get(name, HealthStatus())
            self._reported[name] = status
        if old.status is not status.status:
            self._changed(name, old, status)

    def subscribe(self, listener: HealthListener) -> Callable[[], None]:
        """Calls ``listener`` at each change, on a worker of the monitor; returns a function that ends that."""
        with self._lock:
            self._listeners = (*self._listeners, listener)

        def unsubscribe() -> None:
            with self._lock:
                self._listeners = tuple(each for each in self._listeners if each is not listener)

        return unsubscribe

    # --- statuses --------------------------------------------------------------------------------------------------

    def get_status(self, name: str) -> HealthStatus | None:
        """The last known status, UNKNOWN before the first check; None for a name without one."""
        member = self._members.get(name)
        return self._reported.get(name) if member is None else member.checker.status

    def get_all_status(self) -> dict[str, HealthStatus]:
        """The last known status of every name."""
        members = self._members.copy()
        return self._reported.copy() | {name: member.checker.status for name, member in members.items()}

    @property
    def reported(self) -> Mapping[str, HealthStatus]:
        """The statuses by :meth:`update_status` of names without a checker."""
        return self._reported

    def get_overall_health(self, *, without: Container[str] = ()) -> HealthStatus:
        """One status for all, whose message names the plugins that caused it.

        Args:
            without: names that are not counted, such as those of a group's members, where the group is counted.

        UNHEALTHY if any is UNHEALTHY or OFFLINE; else DEGRADED if any is; else UNKNOWN if any has not been checked
        yet, or there is none at all; else HEALTHY. Plugins whose checks are disabled or have no verdict are counted
        once their health is known. ``last_check`` is that of the oldest status, ``response_time`` the longest.
        """
        members = self._members.copy()
        return overall(
            {
                name: status
                for name, status in self.get_all_status().items()
                if name not in without
                and (
                    status.status is not PluginStatus.UNKNOWN
                    or name not in members
                    or (members[name].checker.enabled and status.reported)
                )
            }
        )

    def check_all(self, timeout: float | None = None) -> dict[str, HealthStatus]:
        """Checks all plugins now, in parallel, and returns every status.

        Args:
            timeout: seconds to wait at most; by default until each check that begins has had its own timeout. Of a
                plugin whose check takes longer the last known status is returned.
        """
        self._check((member.checker for member in self._members.copy().values()), timeout)
        return self.get_all_status()

    def check_unknown(self, timeout: float | None = None) -> None:
        """Checks now the plugins that have not been checked yet, and those without regular checks.

        Args:
            timeout: seconds to wait at most; by default until each check that begins has had its own timeout.
        """
        checkers = [member.checker for member in self._members.copy().values()]
        self._check(
            (each for each in checkers if each.status.status is PluginStatus.UNKNOWN or not each.is_running), timeout
        )

    def _check(self, checkers: Iterable[HealthChecker], timeout: float | None) -> None:
        runs: list[tuple[HealthChecker, CheckRun]] = []
        for checker in checkers:
            try:
                runs.append((checker, checker.begin()))
            except PluginClosedError:
                break
        if not runs:
            return
        if timeout is None:  # a check may begin late
            timeout = 2 * max(checker.patience for checker, _ in runs)
        end = SYSTEM_CLOCK.monotonic() + timeout
        for checker, run in runs:
            checker.wait_for(run, end)

    # --- end -------------------------------------------------------------------------------------------------------

    def shutdown(self, timeout: float = 1.0) -> None:
        """Stops all checkers and workers; the last known statuses stay. Harmless when repeated.

        Args:
            timeout: seconds to wait at most, together, for checks under way.
        """
        with self._lock:
            self._closed = True
            members, self._members = self._members, {}
            self._listeners = ()
            self._reported |= {name: member.checker.status for name, member in members.items()}
        for member in members.values():
            member.stop()
        end = SYSTEM_CLOCK.monotonic() + timeout
        for member in members.values():
            run = member.checker.current_run
            if run is not None:
                run.done.wait(max(0.0, end - SYSTEM_CLOCK.monotonic()))
        self._pool.close()

    def _changed(self, name: str, old: HealthStatus, new: HealthStatus) -> None:
        for listener in self._listeners:
            run_callback(listener, name, old, new)


def overall(statuses: Mapping[str, HealthStatus]) -> HealthStatus:
    """One status for all; UNKNOWN if there is none. See :meth:`HealthMonitor.get_overall_health`."""
    if not statuses:
        return HealthStatus(PluginStatus.UNKNOWN, "no plugin has a health check")
    worst = _worst(statuses.values())
    causes = {name: status for name, status in statuses.items() if _SEVERITY[status.status] == _SEVERITY[worst]}
    return HealthStatus(
        worst,
        f"all {len(statuses)} are healthy" if worst is PluginStatus.HEALTHY else _described(causes),
        last_check=min(status.last_check for status in statuses.values()),
        response_time=max(status.response_time for status in statuses.values()),
        metadata={
            name: str(status.status) for name, status in statuses.items() if status.status is not PluginStatus.HEALTHY
        },
    )


def _worst(statuses: Iterable[HealthStatus]) -> PluginStatus:
    worst = max((status.status for status in statuses), key=_SEVERITY.__getitem__)
    return PluginStatus.UNHEALTHY if worst is PluginStatus.OFFLINE else worst


def _described(statuses: Mapping[str, HealthStatus]) -> str:
    """Names, statuses and messages, of the first ten."""
    parts = []
    for name in sorted(statuses)[:10]:
        status = statuses[name]
        parts.append(f"{name} is {status.status}" + (f" ({status.message})" if status.message else ""))
    if len(statuses) > len(parts):
        parts.append(f"and {len(statuses) - len(parts)} more")
    return ", ".join(parts)
