"""All plugins' health together: one place to ask, and the workers that look at all of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Container, Iterable, Mapping
from functools import partial

import attrs

from goplugins.enums import PluginStatus
from goplugins.errors import PluginClosedError
from goplugins.health.check_run import CheckRun, wait_for
from goplugins.health.checker import HealthChecker, OnChange
from goplugins.health.probe_pool import Probes
from goplugins.models.results import HealthStatus
from goplugins.runtime.callbacks import run_callback
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock
from goplugins.runtime.fork import register_forkable
from goplugins.runtime.scheduler import Scheduler

__all__ = ["HealthListener", "HealthMonitor"]

HealthListener = Callable[[str, HealthStatus, HealthStatus], object]
"""Called with a name and its status before and after."""

_WEIGHT = {
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


class HealthMonitor:
    """Runs the health checks of many plugins on one scheduler and a few workers, and sums them up.

    Args:
        clock: where time comes from.
        scheduler: what keeps the time; by default the process's.
        max_workers: looks at a time. Plugins that failed last time share half of them, so that the others do not
            wait for the timeouts of what is down.

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
        self._probes = Probes(max_workers)
        self._lock = threading.Lock()
        # Replaced, never changed: read without the lock.
        self._members: Mapping[str, _Member] = {}
        self._told: Mapping[str, HealthStatus] = {}
        self._listeners: tuple[HealthListener, ...] = ()
        self._closed = False
        register_forkable(self)

    # --- who is watched --------------------------------------------------------------------------------------------

    def add_checker(self, name: str, checker: HealthChecker) -> None:
        """Watches a plugin from now on: starts its checker, unless its checks are disabled.

        A checker of the same name is removed.

        Raises:
            PluginClosedError: after :meth:`shutdown`.
            SaturatedError: the system has no thread left.
        """
        member = _Member(checker, partial(self._changed, name))
        with self._lock:
            if self._closed:
                raise PluginClosedError("the health monitor is shut down", plugin=name)
            old = self._members.get(name)
            self._members = {**self._members, name: member}
            self._told = {key: value for key, value in self._told.items() if key != name}
        if old is not None:
            _let_go(old)
        checker.name = checker.name or name
        checker.attach(member.observer, probes=self._probes, scheduler=self._scheduler)
        checker.start()
        if self._members.get(name) is not member:
            _let_go(member)  # removed while it was being added

    def remove_checker(self, name: str) -> None:
        """Watches it no more: stops its checker and forgets its status. A look under way is not waited for."""
        with self._lock:
            old = self._members.get(name)
            self._members = {key: value for key, value in self._members.items() if key != name}
            self._told = {key: value for key, value in self._told.items() if key != name}
        if old is not None:
            _let_go(old)

    def update_status(self, name: str, status: HealthStatus) -> None:
        """Shows what somebody else found: for a plugin until its next look, for another name until the next update."""
        member = self._members.get(name)
        if member is not None:
            member.checker.set_status(status)
            return
        with self._lock:
            old = self._told.get(name, HealthStatus())
            self._told = {**self._told, name: status}
        if old.status is not status.status:
            self._changed(name, old, status)

    def subscribe(self, listener: HealthListener) -> Callable[[], None]:
        """Has ``listener`` called at each change, on a worker of the monitor; returns what ends that."""
        with self._lock:
            self._listeners = (*self._listeners, listener)

        def unsubscribe() -> None:
            with self._lock:
                self._listeners = tuple(each for each in self._listeners if each is not listener)

        return unsubscribe

    # --- how they are ----------------------------------------------------------------------------------------------

    def get_status(self, name: str) -> HealthStatus | None:
        """The status last seen, UNKNOWN before the first look; None for a name that is not watched."""
        member = self._members.get(name)
        return self._told.get(name) if member is None else member.checker.status

    def get_all_status(self) -> dict[str, HealthStatus]:
        """Every name's status last seen."""
        return {**self._told, **{name: member.checker.status for name, member in self._members.items()}}

    def get_overall_health(self, *, without: Container[str] = ()) -> HealthStatus:
        """One status for all, with a message that names who is to blame.

        Args:
            without: names that do not count, such as those of a group's members, where the group counts.

        UNHEALTHY if any is UNHEALTHY or OFFLINE; else DEGRADED if any is; else UNKNOWN if any has yet to be looked
        at, or there is none at all; else HEALTHY. Plugins whose checks are disabled count only once looked at.
        ``last_check`` is that of the status looked at longest ago, ``response_time`` the longest.
        """
        members = self._members
        seen = {
            name: status
            for name, status in self.get_all_status().items()
            if name not in without
            and (status.status is not PluginStatus.UNKNOWN or name not in members or members[name].checker.enabled)
        }
        if not seen:
            return HealthStatus(PluginStatus.UNKNOWN, "nothing is watched")
        verdict = _worst(seen.values())
        guilty = {name: status for name, status in seen.items() if _WEIGHT[status.status] == _WEIGHT[verdict]}
        return HealthStatus(
            verdict,
            f"all {len(seen)} are healthy" if verdict is PluginStatus.HEALTHY else _blame(guilty),
            last_check=min(status.last_check for status in seen.values()),
            response_time=max(status.response_time for status in seen.values()),
            metadata={
                name: str(status.status) for name, status in seen.items() if status.status is not PluginStatus.HEALTHY
            },
        )

    def check_all(self, timeout: float | None = None) -> dict[str, HealthStatus]:
        """Looks at all plugins now, side by side, and returns every status as it stands then.

        Args:
            timeout: seconds to wait at most; by default the longest timeout of a look. A look that hangs goes on
                without being waited for, and its plugin's status is the last known.
        """
        self._look_at((member.checker for member in self._members.values()), timeout)
        return self.get_all_status()

    def check_unknown(self, timeout: float | None = None) -> None:
        """Looks now at the plugins that nobody has looked at yet, or that nobody looks at regularly.

        Args:
            timeout: seconds to wait at most; by default the longest timeout of a look.
        """
        checkers = [member.checker for member in self._members.values()]
        unknown = (each for each in checkers if each.status.status is PluginStatus.UNKNOWN or not each.is_running)
        self._look_at(unknown, timeout)

    def _look_at(self, checkers: Iterable[HealthChecker], timeout: float | None) -> None:
        looks: list[tuple[HealthChecker, CheckRun]] = []
        for checker in checkers:
            try:
                looks.append((checker, checker.begin()))
            except PluginClosedError:
                break
        if not looks:
            return
        if timeout is None:
            timeout = max(checker.timeout for checker, _ in looks)
        wait_for((look for _, look in looks if look.counted is None), timeout)
        for checker, look in looks:
            checker.count_overdue(look)

    # --- end -------------------------------------------------------------------------------------------------------

    def shutdown(self, timeout: float = 1.0) -> None:
        """Stops all checkers and lets the workers go. The statuses last seen stay. Harmless when repeated.

        Args:
            timeout: seconds to wait at most, together, for looks under way.
        """
        with self._lock:
            self._closed = True
            members, self._members = self._members, {}
            self._listeners = ()
            self._told = {**self._told, **{name: member.checker.status for name, member in members.items()}}
        for member in members.values():
            _let_go(member)
        wait_for((look for member in members.values() if (look := member.checker.look) is not None), timeout)
        self._probes.close()

    def after_fork_in_child(self) -> None:
        """A fresh lock."""
        self._lock = threading.Lock()

    def _changed(self, name: str, old: HealthStatus, new: HealthStatus) -> None:
        for listener in self._listeners:
            run_callback(listener, name, old, new)


def _let_go(member: _Member) -> None:
    member.checker.detach(member.observer)
    member.checker.stop(0.0)


def _worst(statuses: Iterable[HealthStatus]) -> PluginStatus:
    worst = max((status.status for status in statuses), key=_WEIGHT.__getitem__)
    return PluginStatus.UNHEALTHY if worst is PluginStatus.OFFLINE else worst


def _blame(found: Mapping[str, HealthStatus]) -> str:
    """Who, how and why, for the first few."""
    parts = []
    for name in sorted(found)[:10]:
        status = found[name]
        parts.append(f"{name} is {status.status}" + (f" ({status.message})" if status.message else ""))
    if len(found) > len(parts):
        parts.append(f"and {len(found) - len(parts)} more")
    return ", ".join(parts)
