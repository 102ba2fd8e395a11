"""When a host's addresses are looked up: before the first call, regularly while there are calls, early on errors."""

from __future__ import annotations

import logging
import math
import weakref
from collections.abc import Callable

from goplugins.errors import NameResolutionError, PluginError, PluginTimeoutError, Replay
from goplugins.runtime.clock import Clock, Event
from goplugins.runtime.deadline import Deadline
from goplugins.runtime.fork import create_lock, register_forkable
from goplugins.runtime.scheduler import Schedule, ScheduledTask
from goplugins.transports.resolver import Address, Resolver

logger = logging.getLogger("goplugins.balancing")

_BACKGROUND_TIMEOUT = 5.0
"""Seconds for a lookup in the background."""

_MAX_WAIT = 0.5
"""Seconds that a call waits at most for fresh addresses while others are known."""

_MIN_PAUSE = 1.0
"""Seconds between two lookups, at least, if the second one is early."""

_FREE_FAILURES = 3
"""Failed lookups after which, while no address is known, further ones are ``_MIN_PAUSE`` apart, too."""


class _Running:
    """The exclusive right to refresh, held weakly: a thread that loses it to an interrupt blocks no later refresh."""

    __slots__ = ("__weakref__", "done")

    def __init__(self) -> None:
        self.done = Event()


class DnsRefresh:
    """Resolves the addresses of one host, one lookup at a time. Nothing runs before the first call.

    Args:
        name: the plugin's, for the log.
        host: the name to look up.
        port: passed to the resolver.
        resolver: resolves the name.
        on_addresses: receives the addresses of each lookup on the thread that made it, never on two threads at once.
        schedule: runs methods in the background, on threads where they may block.
        interval: seconds between two lookups while there are calls.
        clock: measures and waits.

    Attributes:
        idle: no regular lookups are scheduled; :meth:`resume` must be called before the next call.
        used: set with each call; without calls the regular lookups end.
        failure: why the last lookup failed; empty if it did not.
    """

    def __init__(
        self,
        name: str,
        host: str,
        port: int,
        *,
        resolver: Resolver,
        on_addresses: Callable[[list[Address]], object],
        schedule: Schedule,
        interval: float,
        clock: Clock,
    ) -> None:
        self.idle = True
        self.used = False
        self.failure = ""
        self.host = host
        self._name = name
        self._port = port
        self._resolver = resolver
        self._on_addresses = on_addresses
        self._schedule = schedule
        self._interval = interval
        self._clock = clock
        self._known = self._closed = False
        self._not_found = False  # the last lookup has found that the name has no address
        self._started_at = self._found_at = -math.inf
        self._failures = 0
        self._next_early = -math.inf
        self._early_done: Event | None = None
        self._regular: ScheduledTask | None = None
        self._early: ScheduledTask | None = None
        self._running: weakref.ref[_Running] | None = None
        self._lock = create_lock(self)
        register_forkable(self)

    # --- on the path of a call ---------------------------------------------------------------------------------

    def resume(self, deadline: Deadline) -> None:
        """Schedules regular lookups, and makes one now if no addresses are known or they are outdated.

        Raises:
            PluginError: no address is known, and why.
        """
        if self._closed:
            return
        now = self._clock.monotonic()
        if not self._known:
            self.refresh(deadline)
        elif now - self._started_at >= self._interval:
            self.refresh(Deadline(min(deadline.at, now + _MAX_WAIT), self._clock))
        self.idle = False  # before the check of the schedule: a regular lookup that ends now sets it again
        self._schedule_regular()

    def refresh_early(self) -> None:
        """Makes a lookup soon, in the background, since a member could not be reached."""
        now = self._clock.monotonic()
        if now < self._next_early:
            return
        with self._lock:
            if now < self._next_early or self._closed:
                return
            delay = max(0.0, self._started_at + _MIN_PAUSE - now)
            self._next_early = now + delay + _MIN_PAUSE
            self._early_done = None if delay else Event()
        self._keep(self._schedule(self._run_early, None, delay))

    def _keep(self, early: ScheduledTask) -> None:
        with self._lock:
            closed = self._closed
            if not closed:
                self._early = early
        if closed:
            early.cancel()

    def await_early(self, deadline: Deadline) -> None:
        """Waits briefly for a lookup that :meth:`refresh_early` has started."""
        done = self._early_done
        if done is not None and not self._clock.wait(done, min(_MAX_WAIT, deadline.remaining() / 2)):
            self._early_done = None  # other calls don't wait for it as well

    # --- lookups -----------------------------------------------------------------------------------------------

    def refresh(self, deadline: Deadline) -> None:
        """Makes one lookup. If one is running, waits for that if no address is known, else returns.

        Raises:
            PluginError: no address was ever found, and why.
        """
        running, done = self._begin()
        if running is not None:
            try:
                self._resolve(deadline)
            finally:
                self._end(running)
        elif not self._known:
            self._await(done, deadline)

    def _await(self, done: Event, deadline: Deadline) -> None:
        if not self._clock.wait(done, max(0.0, deadline.remaining())):
            raise PluginTimeoutError(f"the name {self.host!r} was not resolved in time", replay=Replay.ALWAYS)
        if self._known:
            return
        if self._not_found:
            raise NameResolutionError(self.failure)
        self.refresh(deadline)  # the other call had less time

    def run_exclusively(self, work: Callable[[], object]) -> None:
        """Runs ``work`` while no lookup runs; does nothing if one does."""
        running, _ = self._begin()
        if running is not None:
            try:
                work()
            finally:
                self._end(running)

    def _begin(self) -> tuple[_Running | None, Event]:
        """The exclusive right to refresh, None if another thread has it, and the event that is set at its end."""
        with self._lock:
            other = None if self._running is None else self._running()
            if other is not None:
                return None, other.done
            running = _Running()
            done = running.done
            self._running = weakref.ref(running, lambda _: done.set())
            return running, done

    def _end(self, running: _Running) -> None:
        with self._lock:
            if self._running is not None and self._running() is running:
                self._running = None
        running.done.set()

    def _resolve(self, deadline: Deadline) -> None:
        now = self._clock.monotonic()
        try:
            pause = self._started_at + _MIN_PAUSE - now
            if self._failures >= _FREE_FAILURES and not self._known and pause > 0:
                raise NameResolutionError(self.failure, retry_after=pause)
            self._started_at = now
            self._on_addresses(self._resolver.resolve(self.host, self._port, deadline))
        except PluginError as error:
            self._record_failure(error)
            if not self._known:
                raise
            return
        if self.failure:
            logger.info("%s: %s is resolved again", self._name, self.host)
        self.failure = ""
        self._failures = 0
        self._found_at = self._clock.monotonic()
        self._known = True

    def _record_failure(self, error: PluginError) -> None:
        """Logs the first of several failures in a row: calls go on with the known addresses."""
        if self._known and not self.failure:
            logger.warning("%s: %s; the known addresses stay in use", self._name, error.message)
        self.failure = error.message
        self._not_found = isinstance(error, NameResolutionError)
        self._failures += 1

    # --- in the background -------------------------------------------------------------------------------------

    def _schedule_regular(self) -> None:
        if self._is_scheduled():
            return
        task = self._schedule(self._run_regular, self._interval, self._interval)
        with self._lock:
            superfluous = self._is_scheduled()
            if not superfluous:
                self._regular = task
        if superfluous:
            task.cancel()

    def _is_scheduled(self) -> bool:
        return self._closed or (self._regular is not None and self._regular.active)

    def _run_regular(self) -> None:
        if self.used:
            self.used = False
            self.refresh(Deadline(self._clock.monotonic() + _BACKGROUND_TIMEOUT, self._clock))
            return
        task, self._regular = self._regular, None
        if task is not None:
            task.cancel()
        self.idle = True

    def _run_early(self) -> None:
        done = self._early_done
        try:
            self.refresh(Deadline(self._clock.monotonic() + _BACKGROUND_TIMEOUT, self._clock))
        finally:
            self._early_done = None
            if done is not None:
                done.set()

    # --- state -------------------------------------------------------------------------------------------------

    @property
    def has_run(self) -> bool:
        """Whether there was any lookup yet."""
        return self._started_at > -math.inf

    def __str__(self) -> str:
        now = self._clock.monotonic()
        found = f"looked up {now - self._found_at:.1f} s ago" if self._known else "not found yet"
        if self.failure:
            return f"{self.host}: {found}; the last lookup, {now - self._started_at:.1f} s ago, failed: {self.failure}"
        return f"{self.host}: {found}"

    def close(self) -> None:
        """Ends all lookups. Can be called repeatedly."""
        with self._lock:
            self._closed = True
            tasks = (self._regular, self._early)
        for task in tasks:
            if task is not None:
                task.cancel()

    def after_fork_in_child(self) -> None:
        """Forgets lookups that run in the parent only. The addresses stay known; the first call may refresh them."""
        self._running = None
        self._early_done = None
        self._next_early = -math.inf
        self.idle = True
