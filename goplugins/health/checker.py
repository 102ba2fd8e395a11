"""Looks at one plugin's health, regularly or when asked, and tells who wants to know."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable

from goplugins.enums import PluginStatus
from goplugins.errors import SaturatedError
from goplugins.health.check_run import CheckRun, Watched, ask, timed_out, wait_for
from goplugins.health.probe_pool import Job, Probes, shared_probes
from goplugins.health.settings import Settings
from goplugins.health.status_record import HealthRecord
from goplugins.models.results import HealthStatus
from goplugins.runtime.callbacks import run_callback
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock
from goplugins.runtime.fork import register_forkable
from goplugins.runtime.scheduler import ScheduledTask, Scheduler, get_scheduler

__all__ = ["HealthChecker", "OnChange"]

logger = logging.getLogger("goplugins.health")

OnChange = Callable[[HealthStatus, HealthStatus], object]
"""Called with the status before and after."""

# What a look may last beyond its timeout: the plugin's own report of what was slow says more than ours.
_GRACE = 0.1

_JITTER = 0.1  # of the interval: the scheduler's own

_BAD = (PluginStatus.UNHEALTHY, PluginStatus.OFFLINE)


class HealthChecker:
    """Looks at one plugin's health, regularly once started or whenever asked.

    A look that finds HEALTHY or DEGRADED succeeded and is shown as reported; one success is enough at any time.
    A look that finds UNHEALTHY or OFFLINE, raises, or has no answer within ``timeout`` failed: that shows as
    UNHEALTHY at once, and as OFFLINE from ``failure_limit`` failures in a row. UNKNOWN, no free connection and a
    closed plugin are no verdict: everything stays as it is. While a look hangs no other is begun, and each interval
    that it goes on hanging counts as one more failure.

    Looks bypass the plugin's policies and run on a few workers, never on the scheduler's thread. Nothing runs before
    :meth:`start` or :meth:`check`. Somebody must hold the checker: one that is forgotten stops by itself.

    Args:
        plugin: anything with ``health(timeout) -> HealthStatus``.
        config: a :class:`~goplugins.config.HealthCheckConfig`; fields left out have the production defaults.
        name: for messages.
        clock: where time comes from.
        on_change: called with the status before and after, when it changes; in order, one at a time, on a worker.
        scheduler: what keeps the time; by default the process's.
        submit: where looks run: a pool's ``submit``. By default a few workers that the process's checkers share.
        rng: where the jitter of the interval (+-10 %) comes from.

    Raises:
        InvalidArgumentError: interval, timeout or failure_limit is not more than 0.

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
        plugin: Watched,
        config: object,
        *,
        name: str = "",
        clock: Clock = SYSTEM_CLOCK,
        on_change: OnChange | None = None,
        scheduler: Scheduler | None = None,
        submit: Callable[[Job], object] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.name = name
        self._plugin = plugin
        self._settings = Settings.of(config)
        self._clock = clock
        self._observers: tuple[OnChange, ...] = () if on_change is None else (on_change,)
        self._scheduler = scheduler
        self._submit = submit
        self._probes: Probes | None = None
        self._rng = rng
        self._lock = threading.Lock()
        self._record = HealthRecord()
        self._telling = False
        self._running = False
        self._ticket: ScheduledTask | None = None
        self._hurry: float | None = None
        self._look: CheckRun | None = None
        self._done = threading.Event()
        register_forkable(self)

    # --- what is known ---------------------------------------------------------------------------------------------

    @property
    def status(self) -> HealthStatus:
        """The verdict of the last look that had one; UNKNOWN before the first."""
        self._ensure_thread()
        return self._record.status

    @property
    def last_check(self) -> float:
        """When that look was, in seconds since the Unix epoch; 0 before the first."""
        return self._record.status.last_check

    @property
    def consecutive_failures(self) -> int:
        """Failed looks since the last good one."""
        return self._record.failures

    @property
    def failures_total(self) -> int:
        """Failed looks since the checker was made."""
        return self._record.failures_total

    @property
    def checks_total(self) -> int:
        """How many looks there were."""
        return self._record.checks_total

    @property
    def enabled(self) -> bool:
        """Whether it looks without being asked, once started."""
        return self._settings.enabled

    @property
    def timeout(self) -> float:
        """Seconds that a look may take."""
        return self._settings.timeout

    @property
    def is_running(self) -> bool:
        """True between :meth:`start` and :meth:`stop`."""
        return self._running

    @property
    def next_check(self) -> float | None:
        """Seconds until the next regular look begins, at the latest; 0 during one, None if there will be none."""
        if not self._running:
            return None
        longest = self._interval * (1 + _JITTER)
        since = self._clock.time() - self._record.status.last_check
        return 0.0 if self._look is not None else min(max(0.0, longest - since), longest)

    @property
    def look(self) -> CheckRun | None:
        """The look that is queued or under way."""
        return self._look

    @property
    def done(self) -> threading.Event:
        """Set when the checker has stopped; another one after each start."""
        return self._done

    # --- start and stop --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Looks at once, then every ``interval``. Does nothing if checks are disabled or it runs already.

        Raises:
            SaturatedError: the system has no thread left.
        """
        with self._lock:
            if self._running or not self._settings.enabled:
                return
            self._running = True
            self._done = threading.Event()
            scheduler = self._scheduler = self._scheduler or get_scheduler()
            interval = self._interval
        try:
            ticket = scheduler.schedule(
                self._tick, interval, first=0.0, submit=self._hand_over, jitter=_JITTER, rng=self._rng
            )
        except SaturatedError:
            self.stop(0.0)
            raise
        with self._lock:
            if self._running and self._ticket is None:
                self._ticket = ticket
                return
        ticket.cancel()  # stopped meanwhile

    def stop(self, timeout: float | None = None) -> None:
        """Looks no more, and waits for a look under way. May be started again. Harmless when repeated.

        An OFFLINE status becomes UNKNOWN, or it would stand for ever with nobody to lift it.

        Args:
            timeout: seconds to wait at most, by default the timeout of a look. What is found later is dropped.
        """
        with self._lock:
            self._running = False
            ticket, self._ticket = self._ticket, None
            look, done = self._look, self._done
            if look is not None and look.started is None:
                self._look = None  # only queued: it is dropped
                look.done.set()
        if ticket is not None:
            ticket.cancel()
        if look is not None and look.started is not None and look.thread != threading.get_ident():
            patience = self._settings.timeout + _GRACE if timeout is None else timeout
            if look.counted is None and not look.done.wait(patience):
                look.counted = self._clock.monotonic()
        with self._lock:
            self._record.looks_ended()
        self._tell()
        done.set()

    def reconfigure(self, config: object) -> None:
        """Takes new settings over, and the status stays; starts or stops if ``enabled`` changed.

        Raises:
            InvalidArgumentError: a setting that can't be used; the old ones stay.
        """
        new = Settings.of(config)
        with self._lock:
            old, self._settings = self._settings, new
            ticket = self._ticket
        if old.enabled and not new.enabled:
            self.stop(0.0)
        elif new.enabled and not old.enabled:
            self.start()
        elif ticket is not None and new.interval != old.interval:
            ticket.reschedule(self._interval)

    def shorten_interval(self, interval: float | None) -> None:
        """Looks every ``interval`` seconds from now on, where that is more often than configured; None ends that.

        For a plugin that nobody calls while its breaker is open: only a look finds out early that it is back.
        """
        with self._lock:
            before, self._hurry = self._interval, interval
            ticket = self._ticket if self._interval != before else None
        if ticket is not None:
            ticket.reschedule(self._interval)

    @property
    def _interval(self) -> float:
        """Seconds between two looks as things stand."""
        configured = self._settings.interval
        return configured if self._hurry is None else min(configured, self._hurry)

    # --- looks -----------------------------------------------------------------------------------------------------

    def check(self) -> HealthStatus:
        """Looks now, or joins a look under way, and returns the status then: 0.1 s after ``timeout`` at the latest.

        With all workers busy elsewhere there may be no look in that time; then the status is as it was.

        Raises:
            PluginClosedError: its monitor was shut down meanwhile.
        """
        look = self.begin()
        if look.thread == threading.get_ident():
            return self._record.status  # asked from within the look itself
        if look.counted is not None:
            self.count_overdue(look)
            return self._record.status
        patience = self._settings.timeout + _GRACE
        wait_for([look], patience)
        started = look.started
        if started is not None:
            wait_for([look], min(patience, started + patience - self._clock.monotonic()))  # it may have begun late
            self.count_overdue(look, waited=True)
        return self._record.status

    def begin(self) -> CheckRun:
        """Queues a look and does not wait for it; returns the one queued or under way if there is one.

        Raises:
            PluginClosedError: its monitor was shut down meanwhile.
        """
        with self._lock:
            if self._look is not None:
                return self._look
            look = self._look = CheckRun()
        try:
            self._hand_over(lambda: self._perform(look))
        except Exception as exc:
            with self._lock:
                self._look = None
            look.done.set()
            if not isinstance(exc, SaturatedError):
                raise
            logger.warning("plugin %r: no worker is free to look at its health", self.name)
        return look

    def _hand_over(self, job: Job) -> None:
        """Gives a look to the workers. The scheduler calls it on its thread: it only queues."""
        if self._submit is not None:
            self._submit(job)
        else:
            (self._probes or shared_probes()).put(job, suspect=self._record.suspect)

    def _hand_over_notice(self, job: Job) -> None:
        if self._submit is not None:
            self._submit(job)
        else:
            (self._probes or shared_probes()).put_notice(job)

    def _tick(self) -> None:
        """The regular look, on a worker."""
        with self._lock:
            if not self._running:
                return
            hanging = self._look
            look = self._look = hanging or CheckRun()
        if hanging is None:
            self._perform(look)
        else:
            self.count_overdue(hanging)

    def _perform(self, look: CheckRun) -> None:
        timeout = self._settings.timeout
        with self._lock:
            if self._look is not look:
                return  # dropped while it was queued
            look.thread = threading.get_ident()
            started = look.started = self._clock.monotonic()
        self._watch(look, timeout + _GRACE)
        found: HealthStatus | None = None
        try:
            found = ask(self._plugin, self.name, timeout)
        finally:
            took = self._clock.monotonic() - started
            if look.watch is not None:
                look.watch.cancel()
            with self._lock:
                if self._look is look:
                    self._look = None
                    # One that was counted as failed has its verdict; a late answer is none.
                    if found is not None and look.counted is None:
                        self._found(found if took <= timeout + _GRACE else timed_out(self.name, timeout, took), took)
            self._tell()
            look.done.set()

    def _found(self, found: HealthStatus, took: float) -> None:
        """Expects the lock."""
        self._record.look_found(found, limit=self._settings.failure_limit, when=self._clock.time(), took=took)

    # --- looks that hang -------------------------------------------------------------------------------------------

    def _watch(self, look: CheckRun, delay: float) -> None:
        """Has somebody look after the look in ``delay`` seconds: not the worker, which it may hold."""
        if not self._running or self._scheduler is None:
            return
        try:
            look.watch = self._scheduler.schedule(self._overdue, None, first=delay, submit=self._hand_over_notice)
        except SaturatedError:
            logger.warning("plugin %r: nobody watches over its health check: no thread left", self.name)

    def _overdue(self) -> None:
        look = self._look
        if look is not None:
            self.count_overdue(look)
            if look.counted is not None:
                self._watch(look, self._settings.interval)

    def count_overdue(self, look: CheckRun, *, waited: bool = False) -> None:
        """Counts a failure if the look has lasted too long, and one more for each interval since.

        Args:
            look: the one that may hang.
            waited: the caller has waited for the whole timeout.
        """
        now = self._clock.monotonic()
        settings = self._settings
        with self._lock:
            if self._look is not look or look.started is None:
                return
            if look.counted is None:
                due = waited or now >= look.started + settings.timeout
            else:
                due = now >= look.counted + settings.interval * 0.9  # as early as jitter makes a regular look
            if not due:
                return
            look.counted = now
            took = now - look.started
            self._found(timed_out(self.name, settings.timeout, took), took)
        self._tell()

    # --- evidence from elsewhere -----------------------------------------------------------------------------------

    def report_success(self) -> None:
        """A call reached the plugin. Lifts an OFFLINE that only :meth:`report_failure` had set."""
        self._ensure_thread()
        if self._record.unreached:
            with self._lock:
                self._record.call_reached()
            self._tell()

    def report_failure(self, error: BaseException) -> None:
        """A call failed. ``failure_limit`` in a row that did not reach the plugin make it OFFLINE.

        Only while regular looks run, since only those would bring it back. Errors that say that the plugin was there
        (an HTTP 500, say) count for nothing: ejecting a member for those is a balancer's business.
        """
        self._ensure_thread()
        with self._lock:
            if self._running:
                self._record.call_failed(error, limit=self._settings.failure_limit)
        self._tell()

    def set_status(self, status: HealthStatus) -> None:
        """Shows what somebody else found, until the next look."""
        with self._lock:
            self._record.told(status)
        self._tell()

    # --- who wants to know -----------------------------------------------------------------------------------------

    def attach(self, observer: OnChange, *, probes: Probes, scheduler: Scheduler | None = None) -> None:
        """For a monitor: tells it of changes, and has its workers do the looks unless ``submit`` was given."""
        with self._lock:
            self._observers = (*self._observers, observer)
            self._probes = probes
            if self._scheduler is None:
                self._scheduler = scheduler

    def detach(self, observer: OnChange) -> None:
        """Undoes :meth:`attach`."""
        with self._lock:
            self._observers = tuple(each for each in self._observers if each != observer)
            self._probes = None

    def _tell(self) -> None:
        """Tells of changes, outside the lock and in order: whoever is at it already tells of the new ones too."""
        changes = self._record.changes
        while changes:
            with self._lock:
                if self._telling or not changes:
                    return
                self._telling = True
                old, new = changes.popleft()
                observers = self._observers
            level = logging.WARNING if new.status in _BAD else logging.INFO
            if old.status is not PluginStatus.UNKNOWN or level == logging.WARNING:
                logger.log(level, "plugin %r: %s, was %s: %s", self.name, new.status, old.status, new.message)
            try:
                for observer in observers:
                    run_callback(observer, old, new)
            finally:
                self._telling = False

    # --- processes -------------------------------------------------------------------------------------------------

    def _ensure_thread(self) -> None:
        """Restarts the scheduler's thread in a forked child: whoever asks or calls there wants the looks to go on."""
        scheduler = self._scheduler
        if scheduler is not None and scheduler.needs_thread and self._running:
            try:
                scheduler.ensure_thread()
            except SaturatedError:
                logger.warning("plugin %r: its health is not looked at: no thread left", self.name)

    def after_fork_in_child(self) -> None:
        """Fresh locks. The status stays; a look under way was the parent's."""
        self._lock = threading.Lock()
        self._look = None
        self._telling = False
        stopped = self._done.is_set()
        self._done = threading.Event()
        if stopped:
            self._done.set()

    def __repr__(self) -> str:
        state = "running" if self._running else "not running"
        return f"<HealthChecker {self.name!r}: {self._record.status.status}, {state}>"
