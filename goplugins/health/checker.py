"""Health checks of one plugin, at regular intervals or on request, and notification of status changes."""

from __future__ import annotations

import contextlib
import logging
import random
import threading
from collections.abc import Callable
from concurrent.futures import Future

from goplugins.config.defaults import completed
from goplugins.config.plugin_sections import HealthCheckConfig
from goplugins.enums import PluginStatus
from goplugins.errors import PluginClosedError, SaturatedError
from goplugins.health.check_run import CheckRun, HasHealth, check_health, timed_out
from goplugins.health.probe_pool import Job, ProbePool, shared_probe_pool
from goplugins.health.status_record import HealthRecord
from goplugins.models.results import HealthStatus
from goplugins.resilience.call_counts import Counts
from goplugins.runtime.callbacks import run_callback
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock
from goplugins.runtime.fork import create_lock, register_forkable
from goplugins.runtime.scheduler import ScheduledTask, Scheduler, get_scheduler, run_on_scheduler

logger = logging.getLogger("goplugins.health")

OnChange = Callable[[HealthStatus, HealthStatus], object]
"""Called with the status before and after."""

# What a check may last beyond its timeout: the plugin's own report of what was slow is more precise than ours.
_GRACE = 0.1

_JITTER = 0.1  # of the interval: the scheduler's default

_BAD = (PluginStatus.UNHEALTHY, PluginStatus.OFFLINE)


class HealthChecker:
    """Checks one plugin's health, at regular intervals once started, or on request.

    A check that finds HEALTHY or DEGRADED succeeded and is shown as reported; one success is enough at any time.
    A check that finds UNHEALTHY or OFFLINE, raises, or exceeds ``timeout`` failed: that shows as UNHEALTHY at once,
    and as OFFLINE from ``failure_limit`` failures in a row. A check without a verdict (UNKNOWN, no free connection, a
    closed plugin) keeps the status, but for OFFLINE, which becomes UNHEALTHY: no check would end it. While a check
    hangs no other is begun, and each interval that it goes on hanging counts as one more failure.

    Calls are evidence as well, if they are reported. An answered call makes a plugin HEALTHY whose checks have no
    verdict. Checks that go on failing without a report of the plugin itself show as DEGRADED while calls are answered.

    Checks bypass the plugin's policies and run on a few workers, never on the scheduler's thread. Nothing runs before
    :meth:`start` or :meth:`check`. Hold a reference to the checker: it stops when it is garbage collected.

    Args:
        plugin: an object with ``health(timeout) -> HealthStatus``.
        config: fields left out have the production defaults.
        name: the plugin's name, for messages.
        clock: the source of time.
        on_change: called with the status before and after a change; in order, one at a time, on a worker.
        scheduler: starts the regular checks; by default the process's.
        submit: runs checks: a pool's ``submit``. By default a few workers that all checkers of the process share.
        rng: the source of the interval's jitter (+-10 %).
        counts: counts checks and their failures; by default an object of its own.
        expect_success: called when the next answered call should be reported by :meth:`report_success`.

    Raises:
        InvalidConfigError: interval, timeout or failure_limit is not more than 0.

    >>> from goplugins import HealthCheckConfig, HealthStatus, PluginStatus
    >>> class Plugin:
    ...     def health(self, timeout):
    ...         return HealthStatus(PluginStatus.HEALTHY)
    >>> checker = HealthChecker(Plugin(), HealthCheckConfig(timeout=2.0))
    >>> str(checker.status.status), str(checker.check().status)
    ('unknown', 'healthy')
    """

    def __init__(
        self,
        plugin: HasHealth,
        config: HealthCheckConfig,
        *,
        name: str = "",
        clock: Clock = SYSTEM_CLOCK,
        on_change: OnChange | None = None,
        scheduler: Scheduler | None = None,
        submit: Callable[[Job], object] | None = None,
        rng: random.Random | None = None,
        counts: Counts | None = None,
        expect_success: Callable[[], object] = lambda: None,
    ) -> None:
        self.name = name
        self._plugin = plugin
        self._configure(config)
        self._clock = clock
        self._observers: tuple[OnChange, ...] = () if on_change is None else (on_change,)
        self._scheduler = scheduler
        self._custom_submit = submit
        self._pool: ProbePool | None = None
        self._rng = rng
        self._lock = create_lock(self)
        self._counts = Counts() if counts is None else counts
        self._record = HealthRecord(self._counts)
        self._expect_success = expect_success
        self._notifying = False
        self._running = False
        self._task: ScheduledTask | None = None
        self._short_interval: float | None = None
        self._run: CheckRun | None = None
        self._done = threading.Event()
        register_forkable(self)
        expect_success()

    # --- state ---------------------------------------------------------------------------------------------------

    @property
    def status(self) -> HealthStatus:
        """The result of the last check that had one, and of the calls since; UNKNOWN before the first of either."""
        self._ensure_thread()
        return self._record.status

    @property
    def last_check(self) -> float:
        """When that check was, in seconds since the Unix epoch; 0 before the first."""
        return self._record.status.last_check

    @property
    def consecutive_failures(self) -> int:
        """Failed checks since the last successful one."""
        return self._record.failures

    @property
    def failures_total(self) -> int:
        """Failed checks in all."""
        return self._counts.health_check_failures.total

    @property
    def checks_total(self) -> int:
        """Checks in all."""
        return self._counts.health_checks.total

    @property
    def enabled(self) -> bool:
        """Whether :meth:`start` begins regular checks."""
        return self._enabled

    @property
    def timeout(self) -> float:
        """Seconds that a check may last."""
        return self._timeout

    @property
    def patience(self) -> float:
        """Seconds after which a check under way is not waited for any longer."""
        return self._timeout + _GRACE

    @property
    def is_running(self) -> bool:
        """True between :meth:`start` and :meth:`stop`."""
        return self._running

    @property
    def next_check(self) -> float | None:
        """Seconds until the next regular check begins, at the latest; 0 during a check, None if there will be none."""
        if not self._running:
            return None
        longest = self._interval * (1 + _JITTER)
        since = self._clock.time() - self._record.status.last_check
        return 0.0 if self._run is not None else min(max(0.0, longest - since), longest)

    @property
    def current_run(self) -> CheckRun | None:
        """The check that is queued or under way."""
        return self._run

    @property
    def done(self) -> threading.Event:
        """Set when the checker has stopped; a new event after each start."""
        return self._done

    # --- start and stop --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Checks at once, then every ``interval``. Does nothing if checks are disabled or it is running."""
        with self._lock:
            if self._running or not self._enabled:
                return
            self._running = True
            self._done = threading.Event()
            scheduler = self._scheduler = self._scheduler or get_scheduler()
            interval = self._interval
        # On the scheduler's thread, since the workers may all hang: a tick only queues and counts.
        task = scheduler.schedule(
            self._tick, interval, first=0.0, submit=run_on_scheduler, jitter=_JITTER, rng=self._rng
        )
        with self._lock:
            if self._running and self._task is None:
                self._task = task
                return
        task.cancel()  # stopped meanwhile

    def stop(self, timeout: float | None = None) -> None:
        """Ends regular checks and waits for a check under way. May be started again. Harmless when repeated.

        An OFFLINE status becomes UNKNOWN, since no further check would ever end it.

        Args:
            timeout: seconds to wait at most, by default the timeout of a check. A later result is dropped.
        """
        with self._lock:
            self._running = False
            task, self._task = self._task, None
            run, done = self._run, self._done
            if run is not None and run.started is None:
                self._run = None  # only queued: it is dropped
                run.done.set()
        if task is not None:
            task.cancel()
        if run is not None and run.started is not None and run.thread != threading.get_ident():
            patience = self.patience if timeout is None else timeout
            if run.overdue_at is None and not run.done.wait(patience):
                run.overdue_at = self._clock.monotonic()
        with self._lock:
            self._record.checks_stopped()
        self._notify()
        done.set()

    def reconfigure(self, config: HealthCheckConfig) -> None:
        """Applies new settings and keeps the status; starts or stops if ``enabled`` changed.

        Raises:
            InvalidConfigError: a setting that can't be used; the old ones stay.
        """
        enabled, interval = self._enabled, self._configured_interval
        self._configure(config)
        if enabled and not self._enabled:
            self.stop(0.0)
        elif self._enabled and not enabled:
            self.start()
        elif self._configured_interval != interval:
            self._reschedule()

    def shorten_interval(self, interval: float | None) -> None:
        """Checks every ``interval`` seconds from now on, where that is more often than configured; None ends that.

        While a plugin's breaker is open no call is made, and only a check can find out early that it has recovered.
        """
        before, self._short_interval = self._interval, interval
        if self._interval != before:
            self._reschedule()

    def _configure(self, config: HealthCheckConfig) -> None:
        settings = completed(config)
        self._sends_nothing: bool = settings.kind == "none"
        self._enabled: bool = settings.enabled and not self._sends_nothing
        self._configured_interval: float = settings.interval
        self._timeout: float = settings.timeout
        self._failure_limit: int = settings.failure_limit

    def _reschedule(self) -> None:
        with self._lock:
            task = self._task
        if task is not None:
            task.reschedule(self._interval)

    @property
    def _interval(self) -> float:
        """Seconds between two checks, as things stand."""
        configured, short = self._configured_interval, self._short_interval
        return configured if short is None else min(configured, short)

    # --- checks ----------------------------------------------------------------------------------------------------

    def check(self) -> HealthStatus:
        """Checks now, or waits for a check under way, and returns the status.

        It returns ``timeout`` + 0.1 s after the check has begun, at the latest. A check that does not begin within that
        time, since all workers are busy, is not waited for: the status is the last known.

        Raises:
            PluginClosedError: its monitor was shut down meanwhile.
        """
        run = self.begin()
        if run.thread != threading.get_ident():  # or it is called by the check itself
            self.wait_for(run, SYSTEM_CLOCK.monotonic() + 2 * self.patience)
        return self._record.status

    def begin(self) -> CheckRun:
        """Queues a check without waiting for it; returns the one that is queued or under way if there is one.

        A plugin with checks of the kind "none" is not checked.

        Raises:
            PluginClosedError: its monitor was shut down meanwhile.
        """
        with self._lock:
            if self._run is not None:
                return self._run
            run = CheckRun()
            if self._sends_nothing:
                run.done.set()
                return run
            self._run = run
        try:
            if self._custom_submit is not None:
                future = self._custom_submit(lambda: self._perform(run))
            else:
                future = self._workers.submit(lambda: self._perform(run), suspect=self._record.is_suspect)
        except Exception as exc:
            self._drop(run)
            if not isinstance(exc, SaturatedError):
                raise
        else:
            if isinstance(future, Future):  # also if no thread can be started for it later on
                future.add_done_callback(lambda _: self._drop(run))
        return run

    def _drop(self, run: CheckRun) -> None:
        """Ends a check that will not begin; nothing if it has ended."""
        with self._lock:
            if self._run is not run:
                return
            self._run = None
        run.done.set()
        logger.warning("plugin %r: health check skipped, no worker thread is free", self.name)

    def wait_for(self, run: CheckRun, end: float) -> None:
        """Waits until a check has ended or has had its whole timeout; counts it as failed if it is overdue.

        The waits are real ones: the work of other threads takes real time, whatever a test's clock says.

        Args:
            run: what :meth:`begin` returned.
            end: when to stop waiting at the latest, on the system clock's monotonic scale.
        """
        patience = self.patience
        if run.overdue_at is None:
            run.done.wait(min(patience, max(0.0, end - SYSTEM_CLOCK.monotonic())))
            started = run.started
            if started is not None and not run.done.is_set():  # it may have begun late
                left = min(patience, started + patience - self._clock.monotonic())
                run.done.wait(max(0.0, min(left, end - SYSTEM_CLOCK.monotonic())))
        if self._count_overdue(run):
            self._notify()

    @property
    def _workers(self) -> ProbePool:
        return self._pool or shared_probe_pool()

    def _tick(self) -> None:
        """The regular check. Runs on the scheduler's thread, so it only queues."""
        run = self._run
        with contextlib.suppress(PluginClosedError, SaturatedError):  # shut down; or the next tick tries again
            if not self._running:
                return
            if run is None:
                self.begin()
            elif self._count_overdue(run):
                (self._custom_submit or self._workers.submit_report)(self._notify)

    def _perform(self, run: CheckRun) -> None:
        timeout = self._timeout
        with self._lock:
            if self._run is not run:
                return  # dropped while it was queued
            run.thread = threading.get_ident()
            started = run.started = self._clock.monotonic()
        result: HealthStatus | None = None
        try:
            result = check_health(self._plugin.health, self.name, timeout)
        finally:
            took = self._clock.monotonic() - started
            with self._lock:
                if self._run is run:
                    self._run = None
                    # An overdue check has been counted as failed; its late result is dropped.
                    if result is not None and run.overdue_at is None:
                        late = took > timeout + _GRACE and result.status is not PluginStatus.UNKNOWN
                        self._check_ended(timed_out(self.name, timeout, took) if late else result, took)
            self._notify()
            run.done.set()

    def _check_ended(self, result: HealthStatus, took: float) -> None:
        """The caller holds the lock."""
        self._record.check_ended(result, limit=self._failure_limit, when=self._clock.time(), took=took)
        if self._record.awaits_call:
            self._expect_success()

    def _count_overdue(self, run: CheckRun) -> bool:
        """Counts a failure if the check has exceeded its timeout, and one more for each interval since; True if so."""
        now = self._clock.monotonic()
        with self._lock:
            if self._run is not run or run.started is None:
                return False
            if run.overdue_at is None:
                due = run.started + self._timeout
            else:
                due = run.overdue_at + self._configured_interval * (1 - _JITTER)
            if now < due:
                return False
            run.overdue_at = now
            took = now - run.started
            self._check_ended(timed_out(self.name, self._timeout, took), took)
            return True

    # --- evidence from calls ---------------------------------------------------------------------------------------

    def report_success(self) -> None:
        """A call was answered: ends what :meth:`report_failure` had set, and outweighs failed checks."""
        self._ensure_thread()
        with self._lock:
            self._record.call_succeeded(checked=self._enabled)
        self._notify()

    def report_failure(self, error: BaseException) -> None:
        """A call failed. ``failure_limit`` in a row that did not reach the plugin make it OFFLINE.

        Only while regular checks run, since only those would end that status for a group; else what only calls had
        shown becomes UNKNOWN. Errors that the plugin answered with (an HTTP 500, say) are not counted: a balancer
        ejects a member for those.
        """
        self._ensure_thread()
        with self._lock:
            self._record.call_failed(error, limit=self._failure_limit, checked=self._running)
        self._notify()

    def set_status(self, status: HealthStatus) -> None:
        """Shows a status from another source, until the next check."""
        with self._lock:
            self._record.override(status)
        self._notify()

    # --- observers -------------------------------------------------------------------------------------------------

    def attach(self, observer: OnChange, *, pool: ProbePool, scheduler: Scheduler | None = None) -> None:
        """For a monitor: notifies it of changes, and runs checks on its workers unless ``submit`` was given."""
        with self._lock:
            self._observers = (*self._observers, observer)
            self._pool = pool
            if self._scheduler is None:
                self._scheduler = scheduler

    def detach(self, observer: OnChange) -> None:
        """Undoes :meth:`attach`."""
        with self._lock:
            self._observers = tuple(each for each in self._observers if each != observer)
            self._pool = None

    def _notify(self) -> None:
        """Logs and reports changes, outside the lock and in order: one thread at a time reports all that there are."""
        changes = self._record.changes
        while changes:
            with self._lock:
                if self._notifying or not changes:
                    return
                self._notifying = True
                old, new = changes.popleft()
                observers = self._observers
            try:
                level = logging.WARNING if new.status in _BAD else logging.INFO
                if old.status is not PluginStatus.UNKNOWN or level == logging.WARNING:
                    logger.log(level, "plugin %r: %s, was %s: %s", self.name, new.status, old.status, new.message)
                for observer in observers:
                    run_callback(observer, old, new)
            finally:
                self._notifying = False

    # --- fork ------------------------------------------------------------------------------------------------------

    def _ensure_thread(self) -> None:
        """Restarts the scheduler's thread in a forked child, so that regular checks go on there."""
        scheduler = self._scheduler
        if scheduler is not None and scheduler.needs_thread and self._running:
            scheduler.ensure_thread()

    def after_fork_in_child(self) -> None:
        """The status stays; a check under way was the parent's."""
        self._run = None
        self._notifying = False
        stopped = self._done.is_set()
        self._done = threading.Event()
        if stopped:
            self._done.set()

    def __repr__(self) -> str:
        state = "running" if self._running else "not running"
        return f"<HealthChecker {self.name!r}: {self._record.status.status}, {state}>"
