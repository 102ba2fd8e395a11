"""Hedged calls: a second attempt for one that is late, and whichever answers first."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from goplugins.errors import PluginClosedError, PluginError, PluginTimeoutError, Verdict
from goplugins.resilience.hedge_policy import HedgePolicy
from goplugins.resilience.retry_budget import RetryBudget
from goplugins.runtime.call import Call
from goplugins.runtime.cancellation import CancellableDeadline, Cancellation
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock, Waiter
from goplugins.runtime.fork import register_forkable
from goplugins.runtime.workers import WorkerPool, WorkerSlot

__all__ = ["Hedger", "hedge_pool"]

_WORKERS = 64
"""Two for each call that may be hedged. Further calls run on their callers' threads, without a hedge."""

_LAST_WORDS = 0.02
"""Seconds beyond the deadline in which the attempts, which end with it, may say how far they came."""

_TOO_LATE = 0.005
"""Seconds before the deadline in which a hedge would have no chance."""

_INSTANT = 1e-6
"""Seconds too short to be waited for."""

Attempt = Callable[[Call], Any]


def hedge_pool() -> WorkerPool:
    """The pool behind all hedged calls of a manager. It has no thread before the first of them."""
    return WorkerPool("goplugins-hedge", max_workers=_WORKERS, max_queued=_WORKERS, inline=False)


class Hedger:
    """Makes the first attempt of a call, and for idempotent ones a second beside it when that is late.

    Args:
        policy: says when an attempt is late.
        pool: runs both attempts; every task of it has a slot (:meth:`WorkerPool.reserve`).
        budget: pays for the second attempt.
        clock: measures and waits.

    Attributes:
        sent: second attempts that were sent.
        won: those of them that gave the answer.
    """

    def __init__(self, policy: HedgePolicy, pool: WorkerPool, budget: RetryBudget, clock: Clock = SYSTEM_CLOCK) -> None:
        self.policy = policy
        self.pool = pool
        self.budget = budget
        self.clock = clock
        self.sent = 0
        self.won = 0
        self._lock = threading.Lock()
        register_forkable(self)

    def __call__(self, call: Call, attempt: Attempt) -> Any:
        """What ``attempt`` returns: for ``call`` itself on this thread, or for copies of it on two workers.

        It runs on this thread if the call is not idempotent, while too little is known of the plugin's usual latency,
        when the call is so short that a hedge would come too late, and when there are no two workers free. Attempts,
        metadata and who answered are noted in ``call`` either way.

        Raises:
            PluginError: what ``attempt`` raised. If both attempts failed, the one that says more: an attempt that
                was sent before one that was refused on this side; what the plugin said before a connection or time
                that ran out; one that says when to try again; the first one.
        """
        if not call.idempotent:
            return attempt(call)
        delay = self.policy.delay()
        if delay is not None and call.deadline.remaining() > delay + _TOO_LATE:
            slots = self.pool.reserve(2)
            if slots:
                return _Race(self, call, attempt, slots).run(delay)
        return self.run_plainly(call, attempt)

    def run_plainly(self, call: Call, attempt: Attempt) -> Any:
        """The attempt on this thread, its latency taken in."""
        started = self.clock.monotonic()
        value = attempt(call)
        self.policy.record(self.clock.monotonic() - started)
        return value

    def count(self, *, won: bool) -> None:
        """Counts one second attempt that was sent. Takes the lock."""
        with self._lock:
            self.sent += 1
            self.won += won

    def after_fork_in_child(self) -> None:
        """A fresh lock: another thread of the parent may have held the old one."""
        self._lock = threading.Lock()


class _Leg:
    """One of the two attempts."""

    __slots__ = ("_attempt", "_cancellation", "_news", "began", "call", "ended", "error", "value")

    def __init__(self, call: Call, attempt: Attempt, news: Waiter, clock: Clock) -> None:
        self._cancellation = Cancellation()
        self._attempt = attempt
        self._news = news
        self.call = call.copy_for_attempt(CancellableDeadline(call.deadline.at, clock, self._cancellation))
        self.call.admitted = True
        self.began = False
        self.ended = False  # or will never begin
        self.value: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        """Makes the attempt; on a worker."""
        self.began = True
        try:
            self.value = self._attempt(self.call)
        except BaseException as exc:  # noqa: BLE001 - it belongs to the caller's thread
            # A lost leg has nobody to take its error, which holds this frame: no work for the collector.
            if not self._cancellation.cancelled:
                self.error = exc

    def over(self) -> None:
        """It has run, or will never do so."""
        self.ended = True
        self._news.set()

    @property
    def answered(self) -> bool:
        """Whether its outcome is the call's, whatever becomes of the other: an answer, be it a no, or a host's word."""
        if not self.ended or not self.began:
            return False
        error = self.error
        return error is None or not isinstance(error, PluginError) or error.verdict is Verdict.SUCCESS

    def cancel(self) -> None:
        """Ends it if it has not ended, without waiting for it."""
        if not self.ended:
            self._cancellation.cancel()

    def weight(self) -> tuple[bool, bool, float]:
        """How much its error says; see :meth:`Hedger.__call__`."""
        error = self.error
        sent = self.call.attempts > 0
        said = not isinstance(error, ConnectionError | TimeoutError)
        return sent, said, (isinstance(error, PluginError) and error.retry_after) or 0.0


class _Race:
    """One hedged call. Belongs to the caller's thread."""

    __slots__ = ("_attempt", "_call", "_clock", "_hedger", "_legs", "_news", "_slots", "_started")

    def __init__(self, hedger: Hedger, call: Call, attempt: Attempt, slots: list[WorkerSlot]) -> None:
        self._hedger = hedger
        self._clock = hedger.clock
        self._call = call
        self._attempt = attempt
        self._slots = slots
        self._legs: list[_Leg] = []
        self._news = Waiter()
        self._started = hedger.clock.monotonic()

    def run(self, delay: float) -> Any:
        """The call's outcome. Leaves nothing behind that goes on: neither by an answer nor by an interrupt."""
        winner = None
        try:
            if self._start():
                if not self._clock.wait(self._news, delay) and self._is_worth_it():
                    self._start()
                winner = self._wait()
        finally:
            try:
                self._settle(winner)
            except BaseException:
                self._settle(winner)  # an interrupt in the very act of it
                raise
        if winner is None or not winner.began:
            return self._hedger.run_plainly(self._call, self._attempt)
        if winner.error is None:
            self._hedger.policy.record(self._clock.monotonic() - self._started)
            return winner.value
        try:
            raise winner.error
        finally:
            winner.error = None  # it holds this frame

    def _start(self) -> bool:
        """Sets another attempt going; False if no worker takes it after all."""
        leg = _Leg(self._call, self._attempt, self._news, self._clock)
        if self._legs:
            # A hedge waits for no token, and the call's one silent reconnect is the first attempt's.
            leg.call.max_wait = 0.0
            leg.call.reconnected = True
            # In a group it goes elsewhere, whatever the strategy.
            first = self._legs[0].call
            leg.call.tried = (*first.tried, first.member)
        self._legs.append(leg)  # before it runs: an interrupt from here on must find it
        try:
            self._hedger.pool.submit_to(self._slots.pop(), leg.run, leg.over)
        except PluginClosedError:
            self._legs.pop()
            return False
        return True

    def _is_worth_it(self) -> bool:
        """Whether to send the second attempt: the first one is late by the plugin's fault, and the budget pays."""
        first = self._legs[0]
        # What has not been sent yet waits for the limiter, as the second one would.
        return not first.ended and first.call.attempts > 0 and self._hedger.budget.withdraw()

    def _wait(self) -> _Leg:
        """The leg whose outcome is the call's.

        Raises:
            PluginTimeoutError: neither has ended by the deadline.
        """
        while True:
            self._news.clear()
            for leg in self._legs:
                if leg.answered:
                    return leg
            if all(leg.ended for leg in self._legs):
                return self._most_telling()
            remaining = self._call.deadline.remaining() + _LAST_WORDS
            if remaining < _INSTANT:
                raise PluginTimeoutError("no whole reply in time")
            self._clock.wait(self._news, remaining)

    def _most_telling(self) -> _Leg:
        begun = [leg for leg in self._legs if leg.began]
        return max(begun, key=_Leg.weight) if begun else self._legs[0]

    def _settle(self, winner: _Leg | None) -> None:
        """Cancels what has not ended, and notes in the call what its legs did. Repeating it changes nothing."""
        self._slots.clear()  # whoever keeps the call's error keeps this race, and must not keep a worker from others
        legs = self._legs
        for leg in legs:
            leg.cancel()
        if not legs:
            return
        call, first = self._call, legs[0].call
        call.attempts = sum(leg.call.attempts for leg in legs)
        call.admitted = first.admitted
        call.reconnected = first.reconnected
        call.tried = tuple({name: None for leg in legs for name in leg.call.tried})
        if winner is not None:
            call.adopt_result(winner.call)
        if len(legs) > 1 and legs[1].call.attempts:
            self._hedger.count(won=winner is not None and winner is legs[1] and winner.answered)
        for leg in legs:
            if leg is not winner:
                leg.error = None
        legs.clear()
