"""Hedged execution: a second attempt beside one that is late, and the first answer of both."""

from __future__ import annotations

from typing import Any

import attrs

from goplugins.errors import PluginClosedError, PluginError, PluginTimeoutError, Verdict
from goplugins.pipeline.attempts import Run
from goplugins.resilience.call_counts import Counts
from goplugins.resilience.hedge_policy import HedgePolicy
from goplugins.resilience.retry_budget import RetryBudget
from goplugins.runtime.call import Call
from goplugins.runtime.cancellation import Cancellation
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock, Waiter
from goplugins.runtime.deadline import CancellableDeadline
from goplugins.runtime.workers import WorkerPool, WorkerSlot

_WORKERS = 64
"""Two for each call that may be hedged. Further calls run on their callers' threads, without a hedge."""

_GRACE = 0.02
"""Seconds beyond the deadline in which the attempts, which end with it, may report how far they came."""

_TOO_LATE = 0.005
"""Seconds before the deadline in which a hedge would have no chance."""

_INSTANT = 1e-6
"""Seconds too short to wait for."""


def hedge_pool() -> WorkerPool:
    """The pool behind all hedged calls of a manager. It starts no thread before the first of them."""
    return WorkerPool("goplugins-hedge", max_workers=_WORKERS, max_queued=_WORKERS, inline=False)


@attrs.define(eq=False)
class Hedger:
    """Makes the first attempt of a call, and for idempotent calls a second one beside it if that is late.

    Args:
        policy: says when an attempt is late.
        pool: runs both attempts, each in a slot of its own (:meth:`WorkerPool.reserve`).
        budget: pays for the second attempt.
        clock: measures and waits.
        counts: take the hedges that were sent and won; by default counts of its own.
    """

    policy: HedgePolicy
    pool: WorkerPool
    budget: RetryBudget
    clock: Clock = SYSTEM_CLOCK
    counts: Counts = attrs.field(factory=Counts)

    def __call__(self, call: Call, attempt: Run) -> Any:
        """What ``attempt`` returns: for ``call`` itself on this thread, or for copies of it on two workers.

        It runs on this thread if the call is not idempotent, if the usual latency of the plugin is not known yet, if
        the deadline comes before a hedge could help, and if no two workers are free. Attempts, metadata and member
        are stored in ``call`` either way.

        Raises:
            PluginError: what ``attempt`` raised. If both attempts failed, the more informative error: of an attempt
                that was sent before one that was refused on this side; an error reply before a lost connection or a
                timeout; one with ``retry_after``; the first attempt's.
        """
        if not call.idempotent:
            return attempt(call)
        delay = self.policy.delay()
        if delay is not None and call.deadline.remaining() > delay + _TOO_LATE:
            slots = self.pool.reserve(2)
            if slots:
                return _HedgedExecution(self, call, attempt, slots).run(delay)
        return self.run_unhedged(call, attempt)

    def run_unhedged(self, call: Call, attempt: Run) -> Any:
        """Makes the attempt on this thread, and records its latency."""
        started = self.clock.monotonic()
        value = attempt(call)
        self.policy.record(self.clock.monotonic() - started)
        return value


class _HedgedAttempt:
    """One of the two attempts."""

    __slots__ = ("_cancellation", "_run", "_waiter", "call", "ended", "error", "started", "value")

    def __init__(self, call: Call, run: Run, waiter: Waiter, clock: Clock) -> None:
        self._cancellation = Cancellation()
        self._run = run
        self._waiter = waiter
        self.call = call.copy_for_attempt(CancellableDeadline(call.deadline.at, clock, self._cancellation))
        self.call.admitted = True
        self.started = False
        self.ended = False  # or it will never start
        self.value: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        """Makes the attempt; on a worker."""
        self.started = True
        try:
            self.value = self._run(self.call)
        except BaseException as exc:  # noqa: BLE001 - raised on the caller's thread
            # The error of a cancelled attempt is never raised, and holds this frame: no work for the collector.
            if not self._cancellation.cancelled:
                self.error = exc

    def finish(self) -> None:
        """Marks it as ended, also if it will never start, and wakes the caller's thread."""
        self.ended = True
        self._waiter.set()

    @property
    def decided(self) -> bool:
        """Whether its outcome is the call's whatever the other's is: a reply, a rejection, an exception of the host."""
        if not self.ended or not self.started:
            return False
        error = self.error
        return error is None or not isinstance(error, PluginError) or error.verdict is Verdict.SUCCESS

    def cancel(self) -> None:
        """Ends it if it has not ended, without waiting for that."""
        if not self.ended:
            self._cancellation.cancel()

    def information(self) -> tuple[bool, bool, float]:
        """How informative its error is; see :meth:`Hedger.__call__`."""
        error = self.error
        sent = self.call.attempts > 0
        replied = not isinstance(error, ConnectionError | TimeoutError)
        return sent, replied, (isinstance(error, PluginError) and error.retry_after) or 0.0


class _HedgedExecution:
    """One hedged call. Belongs to the caller's thread."""

    __slots__ = ("_attempts", "_call", "_clock", "_hedger", "_run", "_slots", "_started", "_waiter")

    def __init__(self, hedger: Hedger, call: Call, run: Run, slots: list[WorkerSlot]) -> None:
        self._hedger = hedger
        self._clock = hedger.clock
        self._call = call
        self._run = run
        self._slots = slots
        self._attempts: list[_HedgedAttempt] = []
        self._waiter = Waiter()
        self._started = hedger.clock.monotonic()

    def run(self, delay: float) -> Any:
        """The call's outcome. Nothing goes on after it: neither after an answer nor after an interrupt."""
        winner = None
        try:
            if self._start():
                if not self._clock.wait(self._waiter, delay) and self._may_hedge():
                    self._start()
                winner = self._wait()
        finally:
            try:
                self._settle(winner)
            except BaseException:
                self._settle(winner)  # an interrupt within it
                raise
        if winner is None or not winner.started:
            return self._hedger.run_unhedged(self._call, self._run)
        if winner.error is None:
            self._hedger.policy.record(self._clock.monotonic() - self._started)
            return winner.value
        try:
            raise winner.error
        finally:
            winner.error = None  # it holds this frame

    def _start(self) -> bool:
        """Starts another attempt; False if the pool was shut down."""
        attempt = _HedgedAttempt(self._call, self._run, self._waiter, self._clock)
        if self._attempts:
            # A hedge does not wait for a token, and the call's one silent reconnect is the first attempt's.
            attempt.call.max_wait = 0.0
            attempt.call.reconnected = True
            # In a group it goes to another member, whatever the strategy.
            first = self._attempts[0].call
            attempt.call.tried = (*first.tried, first.member)
        self._attempts.append(attempt)  # before it runs: an interrupt from here on must find it
        try:
            self._hedger.pool.submit_to(self._slots.pop(), attempt.run, attempt.finish)
        except PluginClosedError:
            self._attempts.pop()
            return False
        return True

    def _may_hedge(self) -> bool:
        """Whether the first attempt is late by the plugin's fault, and the budget pays for a second one."""
        first = self._attempts[0]
        # An attempt that has not been sent yet waits for the limiter, as a second one would.
        return not first.ended and first.call.attempts > 0 and self._hedger.budget.withdraw()

    def _wait(self) -> _HedgedAttempt:
        """The attempt whose outcome is the call's.

        Raises:
            PluginTimeoutError: neither has ended by the deadline.
        """
        while True:
            self._waiter.clear()
            for attempt in self._attempts:
                if attempt.decided:
                    return attempt
            if all(attempt.ended for attempt in self._attempts):
                return self._most_informative()
            remaining = self._call.deadline.remaining() + _GRACE
            if remaining < _INSTANT:
                raise PluginTimeoutError("the deadline passed before either of two hedged attempts had its whole reply")
            self._clock.wait(self._waiter, remaining)

    def _most_informative(self) -> _HedgedAttempt:
        started = [attempt for attempt in self._attempts if attempt.started]
        return max(started, key=_HedgedAttempt.information) if started else self._attempts[0]

    def _settle(self, winner: _HedgedAttempt | None) -> None:
        """Cancels what has not ended, and stores in the call what its attempts did. Repeating it changes nothing."""
        self._slots.clear()  # the call's error refers to this object, and must not keep workers reserved
        attempts = self._attempts
        for attempt in attempts:
            attempt.cancel()
        if not attempts:
            return
        call, first = self._call, attempts[0].call
        call.attempts = sum(attempt.call.attempts for attempt in attempts)
        call.admitted = first.admitted
        call.reconnected = first.reconnected
        call.tried = tuple({name: None for attempt in attempts for name in attempt.call.tried})
        if winner is not None:
            call.adopt_result(winner.call)
        if len(attempts) > 1 and attempts[1].call.attempts:
            self._hedger.counts.hedges_sent.add()
            if winner is not None and winner is attempts[1] and winner.decided:
                self._hedger.counts.hedges_won.add()
        for attempt in attempts:
            if attempt is not winner:
                attempt.error = None
        attempts.clear()
