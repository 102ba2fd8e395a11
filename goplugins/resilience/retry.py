"""Retry policy: which failed attempts are made again, after what delay, and when retries end."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

import attrs

from goplugins.config.defaults import completed
from goplugins.errors import BadReplyError, PluginError, Replay, Verdict
from goplugins.resilience.retry_budget import RetryBudget
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock, Waitable, Waiter
from goplugins.runtime.deadline import Deadline

if TYPE_CHECKING:
    from tenacity import RetryCallState

    from goplugins.config import RetryConfig


T = TypeVar("T")

_MIN_DELAY = 0.002  # seconds: servers get the remaining time in whole milliseconds, lower at each attempt
_MARGIN = 0.005  # seconds; an attempt is not begun if less time remains


class RetryPolicy:
    """Retries failed attempts with exponential backoff, within deadline and budget, where a retry is safe.

    Stateless: one policy serves any number of threads.

    Args:
        config: counts and intervals; a field that is None has its default.
        rng: the source of the jitter.

    Attributes:
        max_retries: retries of a call that states no number.
        attempt_timeout: seconds for one attempt; None for no limit. Applied by the attempts.
        statuses: of replies, the ones that are retried; None for the rule of the errors themselves.

    Raises:
        InvalidConfigError: a count or interval out of range.

    >>> from goplugins import RetryConfig
    >>> policy = RetryPolicy(RetryConfig(initial_interval=0.1, max_interval=0.5, random_jitter=False))
    >>> [policy.delay(number) for number in (1, 2, 3, 4)]
    [0.1, 0.2, 0.4, 0.5]
    """

    def __init__(self, config: RetryConfig, *, rng: random.Random | None = None) -> None:
        settings = completed(config)
        self.max_retries: int = settings.max_retries
        self.attempt_timeout: float | None = settings.attempt_timeout
        self.statuses: frozenset[int | str] | None = None if settings.statuses is None else frozenset(settings.statuses)
        self._initial: float = settings.initial_interval
        self._longest: float = settings.max_interval
        self._multiplier: float = settings.multiplier
        self._jitter: bool = settings.random_jitter
        # The system's generator: forked workers would all draw the same jitter from an inherited one.
        self._rng = rng or random.SystemRandom()
        # Imported here and not by the first retry, which has a deadline, and beside which the process may fork.
        from tenacity import Retrying

        self._retrying = Retrying

    def delay(self, number: int) -> float:
        """Seconds to wait before retry ``number`` (from 1): exponential up to ``max_interval``, +-10 % with jitter."""
        try:
            seconds = min(self._initial * self._multiplier ** (number - 1), self._longest)
        except OverflowError:
            seconds = self._longest
        return seconds * (0.9 + 0.2 * self._rng.random()) if self._jitter else seconds

    def may_replay(self, error: PluginError, idempotent: bool) -> bool:
        """Whether an attempt that ended with ``error`` is made again, as far as that has no risk of a second effect."""
        replay = error.replay
        if self.statuses is not None and (status := _status_of(error)) is not None:
            if status not in self.statuses:
                return False
            if replay is Replay.NEVER:
                replay = Replay.IF_IDEMPOTENT
        return replay is Replay.ALWAYS or (replay is Replay.IF_IDEMPOTENT and idempotent)

    def run(
        self,
        first_error: PluginError,
        attempt: Callable[[], T],
        *,
        idempotent: bool = False,
        max_retries: int | None = None,
        deadline: Deadline | None = None,
        budget: RetryBudget | None = None,
        clock: Clock = SYSTEM_CLOCK,
        closing: Waitable | None = None,
        on_budget_exhausted: Callable[[], object] | None = None,
    ) -> T:
        """Makes further attempts after the first has failed, until one succeeds or no further retry is allowed.

        Args:
            first_error: the error of the first attempt.
            attempt: makes one attempt.
            idempotent: whether the call may have its effect twice.
            max_retries: retries at most; None for the configured number.
            deadline: the call's. A wait that would reach it is not begun.
            budget: pays for each retry.
            clock: performs the waits between attempts.
            closing: ends such a wait; set when the plugin closes.
            on_budget_exhausted: called when the budget refuses a retry.

        Returns:
            The return value of ``attempt``.

        Raises:
            PluginError: the error of the last attempt that was sent. ``details["retry_stopped"]`` says why there was
                no further retry ("deadline", "budget", "closed"), and ``details["replay_refused"]`` has the code of
                the error (open breaker, rate limit, ...) with which this side refused a retry.
        """
        limit = self.max_retries if max_retries is None else max_retries
        if limit <= 0 or not self.may_replay(first_error, idempotent):
            try:
                raise first_error  # most errors end here, without tenacity, which is slow
            finally:
                del first_error  # its traceback refers to this frame: a cycle for the garbage collector
        retries = _Retries(
            self,
            attempt,
            first_error,
            idempotent,
            limit,
            deadline,
            budget,
            clock,
            closing,
            on_budget_exhausted,
        )
        retrying = self._retrying(
            retry=retries.may_go_on,
            stop=retries.must_stop,
            wait=retries.next_wait,
            sleep=retries.sleep,
            retry_error_callback=_give_up,
        )
        try:
            retrying(retries.next_attempt)
        finally:
            # Tenacity's object refers to itself, and by its callbacks to the call: no work for the collector.
            vars(retrying).clear()
        error, retries.error = retries.error, None
        if error is None:
            return retries.value
        try:
            raise error
        finally:
            del error, first_error


@attrs.define(eq=False)
class _Retries(Generic[T]):
    """The retries of one call, with the callbacks for tenacity. Used by the call's thread only.

    The error of an attempt is stored here and not raised through tenacity, which would wrap it and add frames of its
    own to the traceback at each attempt.
    """

    policy: RetryPolicy
    attempt: Callable[[], T]
    error: PluginError | None  # of the last attempt that was sent
    idempotent: bool
    limit: int
    deadline: Deadline | None
    budget: RetryBudget | None
    clock: Clock
    closing: Waitable | None
    on_budget_exhausted: Callable[[], object] | None
    value: T = attrs.field(init=False)
    number: int = -1  # of the current retry; 0 is the first attempt, which failed before tenacity began
    pause: float = 0.0
    stopped: bool = False

    def next_attempt(self) -> None:
        """The function that tenacity calls again and again."""
        self.number += 1
        error = self.error
        if self.number == 0 or error is None or self._forbidden():
            return
        try:
            self.value = self.attempt()
            self.error = None
        except PluginError as new:
            if new.verdict is Verdict.IGNORED and new.replay is Replay.NEVER:
                # Refused by this side, nothing was sent: the plugin's last error says more.
                error.details["replay_refused"] = new.code
                self.stopped = True
            else:
                self.error = new

    def _forbidden(self) -> bool:
        """Checked after the wait: closed, past the deadline, or the budget was used up by other calls meanwhile.

        The budget is charged only now, so that its bound holds for the times at which retries are sent.
        """
        if self.stopped:
            return True
        if self.deadline is not None and self.deadline.remaining() <= 0:
            self._stop("deadline")
        elif self.budget is not None and not self.budget.withdraw():
            self._stop("budget")
        return self.stopped

    def may_go_on(self, state: RetryCallState) -> bool:
        """Tenacity's ``retry``. An exception of next_attempt itself is no PluginError: it is not retried."""
        if state.outcome is not None and state.outcome.failed:
            return False
        return not self.stopped and self.error is not None and self.policy.may_replay(self.error, self.idempotent)

    def next_wait(self, _: RetryCallState) -> float:
        """Tenacity's ``wait``: the backoff, or the plugin's ``retry_after`` where that is longer."""
        retry_after = self.error.retry_after if self.error is not None else None
        self.pause = max(self.policy.delay(self.number + 1), retry_after or 0.0, _MIN_DELAY)
        return self.pause

    def must_stop(self, _: RetryCallState) -> bool:
        """Tenacity's ``stop``, called after ``wait``: ends the retries at once where a wait would be useless."""
        if self.number >= self.limit:
            self.stopped = True
        elif self.deadline is not None and self.pause + _MARGIN >= self.deadline.remaining():
            self._stop("deadline")
        elif self.budget is not None and self.budget.available < 1:
            self._stop("budget")
        return self.stopped

    def sleep(self, seconds: float) -> None:
        """Tenacity's ``sleep``."""
        if self.clock.wait(self.closing or Waiter(), seconds):
            self._stop("closed")

    def _stop(self, why: str) -> None:
        self.stopped = True
        if self.error is not None:
            self.error.details["retry_stopped"] = why
        if why == "budget" and self.on_budget_exhausted is not None:
            self.on_budget_exhausted()


def _status_of(error: PluginError) -> int | str | None:
    """The status of a reply; None for an error without one, and for a reply that forbids a retry."""
    if isinstance(error, ConnectionError | TimeoutError | BadReplyError) or error.details.get("retry_forbidden"):
        return None
    return error.details.get("status")


def _give_up(_: RetryCallState) -> None:
    """Tenacity's ``retry_error_callback``: prevents a RetryError; the error is in _Retries."""
