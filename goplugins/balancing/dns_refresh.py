"""When the addresses of a host are asked for: at first need, again while they are used, early when they seem wrong."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import weakref
from collections.abc import Callable
from typing import Protocol

from goplugins.errors import NameResolutionError, PluginError, PluginTimeoutError, Replay, SaturatedError
from goplugins.runtime.clock import Clock, Event
from goplugins.runtime.deadline import Deadline
from goplugins.runtime.fork import register_forkable
from goplugins.runtime.scheduler import ScheduledTask
from goplugins.transports.resolver import Address, Resolver

__all__ = ["Lookups", "Schedule"]

logger = logging.getLogger("goplugins.balancing")

_LONGEST = 5.0
"""Seconds for a lookup that nobody waits for."""

_PATIENCE = 0.5
"""Seconds that a call waits for news at most when there are addresses to go to already."""

_APART = 1.0
"""Seconds between two lookups at least, where the second is for a member that could not be reached."""

_FAILURES = 3
"""Lookups in vain after which there are ``_APART`` seconds between them, too, while no address is known at all."""


class Schedule(Protocol):
    """Runs a bound method, held weakly, on a worker that may hang in it."""

    def __call__(self, method: Callable[[], object], interval: float | None, first: float) -> ScheduledTask:
        """Every ``interval`` seconds, once with None; after ``first`` seconds.

        Raises:
            SaturatedError: the system has no thread left.
        """
        ...


class _Outcome:
    """Of a lookup under way, for those who wait: ``refusal`` says that there is no address."""

    __slots__ = ("done", "refusal")

    def __init__(self) -> None:
        self.done = Event()
        self.refusal = ""


class _Turn:
    """Whoever holds it asks. Lost with its holder: no interrupt, wherever it hits, leaves it taken for ever."""

    __slots__ = ("__weakref__", "outcome")

    def __init__(self, outcome: _Outcome) -> None:
        self.outcome = outcome


class Lookups:
    """Asks for the addresses of one host, one lookup at a time. Nothing is asked, and nothing runs, before a call.

    Args:
        name: the plugin's, for the log.
        host: to be looked up.
        port: goes with it.
        resolver: whom to ask.
        found: takes each answer, on the thread that asked, never on two at a time.
        schedule: runs what has to be done later.
        interval: seconds between two lookups while there are calls.
        clock: measures and waits.

    Attributes:
        asleep: nobody looks regularly: :meth:`wake` before the next call.
        used: set it with each call; a host that nobody calls is not looked up.
        failure: why the last lookup found nothing; empty if it did.
    """

    def __init__(
        self,
        name: str,
        host: str,
        port: int,
        *,
        resolver: Resolver,
        found: Callable[[list[Address]], object],
        schedule: Schedule,
        interval: float,
        clock: Clock,
    ) -> None:
        self.asleep = True
        self.used = False
        self.failure = ""
        self.host = host
        self._name = name
        self._port = port
        self._resolver = resolver
        self._found = found
        self._schedule = schedule
        self._interval = interval
        self._clock = clock
        self._known = self._closed = False
        self._asked_at = self._found_at = -math.inf
        self._failures = 0
        self._next_early = -math.inf
        self._expected: Event | None = None
        self._regular: ScheduledTask | None = None
        self._early: ScheduledTask | None = None
        self._lock = threading.Lock()
        self._turn: weakref.ref[_Turn] | None = None
        register_forkable(self)

    # --- on the way of a call ----------------------------------------------------------------------------------

    def wake(self, deadline: Deadline) -> None:
        """Makes sure that there are addresses, and none from long ago if fresh ones are found soon.

        Raises:
            PluginError: there are none, and why.
        """
        if self._closed:
            return
        now = self._clock.monotonic()
        if not self._known:
            self.ask(deadline)
        elif now - self._asked_at >= self._interval:
            self.ask(Deadline(min(deadline.at, now + _PATIENCE), self._clock))
        self.asleep = False  # first: what falls asleep at this very moment says so after it
        self._go_on()

    def shorten_interval(self) -> None:
        """A member could not be reached: looks soon, in the background, unless it has just looked."""
        now = self._clock.monotonic()
        if now < self._next_early:
            return
        with self._lock:
            if now < self._next_early or self._closed:
                return
            delay = max(0.0, self._asked_at + _APART - now)
            self._next_early = now + delay + _APART
            expected = Event()
            self._expected = None if delay else expected
        with contextlib.suppress(SaturatedError):
            self._keep(self._schedule(self._look_early, None, delay))

    def _keep(self, early: ScheduledTask) -> None:
        with self._lock:
            closed = self._closed
            if not closed:
                self._early = early
        if closed:
            early.cancel()

    def await_news(self, deadline: Deadline) -> None:
        """Waits briefly for a lookup that :meth:`shorten_interval` has begun."""
        expected = self._expected
        if expected is not None and not self._clock.wait(expected, min(_PATIENCE, deadline.remaining() / 2)):
            self._expected = None  # in vain once is enough

    # --- lookups -----------------------------------------------------------------------------------------------

    def ask(self, deadline: Deadline) -> None:
        """One lookup. If somebody else is at it, waits for that where no address is known, else does nothing.

        Raises:
            PluginError: no address was ever found, and why.
        """
        turn, outcome = self._enter()
        if turn is not None:
            try:
                self._look_up(deadline, outcome)
            finally:
                self._leave(turn)
        elif not self._known:
            self._await(outcome, deadline)

    def _await(self, outcome: _Outcome, deadline: Deadline) -> None:
        if not self._clock.wait(outcome.done, max(0.0, deadline.remaining())):
            raise PluginTimeoutError(f"the name {self.host!r} was not resolved in time", replay=Replay.ALWAYS)
        if self._known:
            return
        if outcome.refusal:
            raise NameResolutionError(outcome.refusal)
        self.ask(deadline)  # whoever asked had to give up

    def apart(self, work: Callable[[], object]) -> None:
        """Runs ``work`` while no answer is taken in; not at all if one just is."""
        turn, _ = self._enter()
        if turn is not None:
            try:
                work()
            finally:
                self._leave(turn)

    def _enter(self) -> tuple[_Turn | None, _Outcome]:
        """The turn if it is free, and the outcome of whoever has it. Takes the lock."""
        with self._lock:
            theirs = None if self._turn is None else self._turn()
            if theirs is not None:
                return None, theirs.outcome
            outcome = _Outcome()
            turn = _Turn(outcome)
            self._turn = weakref.ref(turn, lambda _: outcome.done.set())
            return turn, outcome

    def _leave(self, turn: _Turn) -> None:
        with self._lock:
            if self._turn is not None and self._turn() is turn:
                self._turn = None
        turn.outcome.done.set()

    def _look_up(self, deadline: Deadline, outcome: _Outcome) -> None:
        now = self._clock.monotonic()
        try:
            wait = self._asked_at + _APART - now
            if self._failures >= _FAILURES and not self._known and wait > 0:
                raise NameResolutionError(self.failure, retry_after=wait)
            self._asked_at = now
            self._found(self._resolver.resolve(self.host, self._port, deadline))
        except PluginError as error:
            if isinstance(error, NameResolutionError):
                outcome.refusal = error.message
            self._failed(error)
            if not self._known:
                raise
            return
        if self.failure:
            logger.info("%s: %s is found again", self._name, self.host)
        self.failure = ""
        self._failures = 0
        self._found_at = self._clock.monotonic()
        self._known = True

    def _failed(self, error: PluginError) -> None:
        """Told once, not at every lookup: the addresses that are known still serve."""
        if self._known and not self.failure:
            logger.warning("%s: %s; the addresses found before stay in use", self._name, error.message)
        self.failure = error.message
        self._failures += 1

    # --- in the background -------------------------------------------------------------------------------------

    def _go_on(self) -> None:
        """Looks regularly from now on."""
        if self._is_followed():
            return
        try:
            ticket = self._schedule(self._look_again, self._interval, self._interval)
        except SaturatedError:
            self.asleep = True  # the next call tries again
            return
        with self._lock:
            needless = self._is_followed()
            if not needless:
                self._regular = ticket
        if needless:
            ticket.cancel()

    def _is_followed(self) -> bool:
        return self._closed or (self._regular is not None and self._regular.active)

    def _look_again(self) -> None:
        if self.used:
            self.used = False
            self.ask(Deadline(self._clock.monotonic() + _LONGEST, self._clock))
            return
        regular, self._regular = self._regular, None
        if regular is not None:
            regular.cancel()
        self.asleep = True

    def _look_early(self) -> None:
        expected = self._expected
        try:
            self.ask(Deadline(self._clock.monotonic() + _LONGEST, self._clock))
        finally:
            self._expected = None
            if expected is not None:
                expected.set()

    # --- state -------------------------------------------------------------------------------------------------

    @property
    def was_tried(self) -> bool:
        """Whether there was any lookup yet."""
        return self._asked_at > -math.inf

    def __str__(self) -> str:
        now = self._clock.monotonic()
        found = f"looked up {now - self._found_at:.1f} s ago" if self._known else "not found yet"
        if self.failure:
            return f"{self.host}: {found}; the last lookup, {now - self._asked_at:.1f} s ago, failed: {self.failure}"
        return f"{self.host}: {found}"

    def close(self) -> None:
        """Nothing is looked up any more. Harmless when repeated."""
        with self._lock:
            self._closed = True
            tickets = (self._regular, self._early)
        for ticket in tickets:
            if ticket is not None:
                ticket.cancel()

    def after_fork_in_child(self) -> None:
        """A fresh lock, and nobody at it: whoever asks asks in the parent. The first call looks whether it is time."""
        self._lock = threading.Lock()
        self._turn = None
        self._expected = None
        self._next_early = -math.inf
        self.asleep = True
