"""When a failed attempt is made again, after how long, and when to give up."""

from __future__ import annotations

import contextlib
import importlib
import random
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

import attrs

from goplugins.config.defaults import setting
from goplugins.config.plugin_sections import DEFAULT_RETRY
from goplugins.errors import PluginError, Replay, Verdict
from goplugins.resilience.retry_budget import RetryBudget
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock, Waitable, Waiter
from goplugins.runtime.deadline import Deadline

if TYPE_CHECKING:
    from tenacity import RetryCallState, Retrying

    from goplugins.config import RetryConfig


T = TypeVar("T")

_LEAST = 0.002  # seconds between attempts: the time left is told in whole milliseconds, and has to be less each time
_MARGIN = 0.005  # seconds before the deadline in which an attempt would have no chance


class RetryPolicy:
    """Replays failed attempts with exponential backoff, as far as deadline, budget and safety allow.

    It has no state of its own: one policy serves any number of threads.

    Args:
        config: counts and intervals; a field that is None has its default.
        rng: draws the jitter.

    >>> from types import SimpleNamespace
    >>> policy = RetryPolicy(SimpleNamespace(initial_interval=0.1, max_interval=0.5, random_jitter=False))
    >>> [policy.delay(number) for number in (1, 2, 3, 4)]
    [0.1, 0.2, 0.4, 0.5]
    """

    def __init__(self, config: RetryConfig, *, rng: random.Random | None = None) -> None:
        self.max_retries: int = setting(config, DEFAULT_RETRY, "max_retries")
        self._initial: float = setting(config, DEFAULT_RETRY, "initial_interval")
        self._longest: float = setting(config, DEFAULT_RETRY, "max_interval")
        self._multiplier: float = setting(config, DEFAULT_RETRY, "multiplier")
        self._jitter: bool = setting(config, DEFAULT_RETRY, "random_jitter")
        # The system's generator needs no reseeding in forked workers, which would all draw the same jitter.
        self._rng = rng or random.SystemRandom()

    def delay(self, number: int) -> float:
        """Seconds to wait before replay ``number`` (from 1): exponential up to the longest, +-10 % with jitter."""
        try:
            seconds = min(self._initial * self._multiplier ** (number - 1), self._longest)
        except OverflowError:
            seconds = self._longest
        return seconds * (0.9 + 0.2 * self._rng.random()) if self._jitter else seconds

    @staticmethod
    def may_replay(error: PluginError, idempotent: bool) -> bool:
        """Whether an attempt that ended with ``error`` may be made again without risking a second effect."""
        return error.replay is Replay.ALWAYS or (error.replay is Replay.IF_IDEMPOTENT and idempotent)

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
        on_replay: Callable[[int, PluginError], object] | None = None,
        on_budget_exhausted: Callable[[], object] | None = None,
    ) -> T:
        """Goes on after a first attempt has failed, until an attempt succeeds or another makes no sense.

        Args:
            first_error: what the first attempt ended with.
            attempt: makes one attempt.
            idempotent: whether the call may have its effect twice.
            max_retries: replays at most; None for the configured number.
            deadline: of the call. A wait that would reach it is not begun.
            budget: pays for each replay.
            clock: waits between attempts.
            closing: ends such a wait; set when the plugin closes.
            on_replay: called before each replay with its number (from 1) and the error that led to it.
            on_budget_exhausted: called when the budget refuses a replay.

        Returns:
            What ``attempt`` returned.

        Raises:
            PluginError: of the last attempt that reached the plugin, itself. ``details["retry_stopped"]`` says why
                there was no further replay ("deadline", "budget", "closed"), and ``details["replay_refused"]`` has
                the code of the local refusal (open breaker, rate limit, ...) that a replay met with.
        """
        limit = self.max_retries if max_retries is None else max_retries
        if limit <= 0 or not self.may_replay(first_error, idempotent):
            try:
                raise first_error  # here already: most errors end here, and importing tenacity is dear
            finally:
                del first_error  # its traceback holds this frame: no work for the collector
        kind = _retrying()
        replays = _Replays(
            self,
            attempt,
            first_error,
            idempotent,
            limit,
            deadline,
            budget,
            clock,
            closing,
            on_replay,
            on_budget_exhausted,
        )
        retrying = kind(
            retry=replays.may_go_on,
            stop=replays.must_stop,
            wait=replays.next_wait,
            sleep=replays.sleep,
            retry_error_callback=_give_up,
        )
        retrying(replays.next_attempt)
        error, replays.error = replays.error, None
        if error is None:
            return replays.value
        try:
            raise error
        finally:
            del error, first_error


@attrs.define(eq=False)
class _Replays(Generic[T]):
    """The replays of one call: what tenacity asks and does. Belongs to the call's thread.

    An attempt leaves its error here instead of raising it through tenacity, which would wrap it and add its own
    frames to the traceback at every step.
    """

    policy: RetryPolicy
    attempt: Callable[[], T]
    error: PluginError | None  # of the last attempt that reached the plugin
    idempotent: bool
    limit: int
    deadline: Deadline | None
    budget: RetryBudget | None
    clock: Clock
    closing: Waitable | None
    on_replay: Callable[[int, PluginError], object] | None
    on_budget_exhausted: Callable[[], object] | None
    value: T = attrs.field(init=False)
    number: int = -1  # of the replay under way; 0 is the attempt that had failed before tenacity began
    pause: float = 0.0
    over: bool = False

    def next_attempt(self) -> None:
        """The function that tenacity retries."""
        self.number += 1
        error = self.error
        if self.number == 0 or error is None or self._forbidden():
            return
        if self.on_replay is not None:
            self.on_replay(self.number, error)
        try:
            self.value = self.attempt()
            self.error = None
        except PluginError as new:
            if new.verdict is Verdict.IGNORED and new.replay is Replay.NEVER:
                # Refused on this side, nothing was sent: what the plugin said last is the better news.
                error.details["replay_refused"] = new.code
                self.over = True
            else:
                self.error = new

    def _forbidden(self) -> bool:
        """Decides after the wait: a close, a late wake-up, or a budget that others have used up meanwhile.

        The budget is paid only now, so that its law holds for the moments at which replays are sent.
        """
        if self.over:
            return True
        if self.deadline is not None and self.deadline.remaining() <= 0:
            self._stop("deadline")
        elif self.budget is not None and not self.budget.withdraw():
            self._stop("budget")
        return self.over

    def may_go_on(self, state: RetryCallState) -> bool:
        """Tenacity's ``retry``. What next_attempt raised is no plugin's error: it passes, whatever was before."""
        if state.outcome is not None and state.outcome.failed:
            return False
        return not self.over and self.error is not None and self.policy.may_replay(self.error, self.idempotent)

    def next_wait(self, _: RetryCallState) -> float:
        """Tenacity's ``wait``: the backoff, or longer where the plugin asked for it."""
        asked_for = self.error.retry_after if self.error is not None else None
        self.pause = max(self.policy.delay(self.number + 1), asked_for or 0.0, _LEAST)
        return self.pause

    def must_stop(self, _: RetryCallState) -> bool:
        """Tenacity's ``stop``, asked after ``wait``: fails at once where waiting would be in vain."""
        if self.number >= self.limit:
            self.over = True
        elif self.deadline is not None and self.pause + _MARGIN >= self.deadline.remaining():
            self._stop("deadline")
        elif self.budget is not None and self.budget.available < 1:
            self._stop("budget")
        return self.over

    def sleep(self, seconds: float) -> None:
        """Tenacity's ``sleep``."""
        if self.clock.wait(self.closing or Waiter(), seconds):
            self._stop("closed")

    def _stop(self, why: str) -> None:
        self.over = True
        if self.error is not None:
            self.error.details["retry_stopped"] = why
        if why == "budget" and self.on_budget_exhausted is not None:
            self.on_budget_exhausted()


def _retrying() -> type[Retrying]:
    """Tenacity's class, imported at the first replay.

    On a thread of its own, where no interrupt comes: one that broke into the import (Ctrl-C, a task's time limit)
    would leave half of the package behind, and no retry of this process would work again.
    """
    if "tenacity" not in sys.modules:
        with contextlib.suppress(RuntimeError):  # no thread to be had: then here
            thread = threading.Thread(target=importlib.import_module, args=("tenacity",), daemon=True)
            thread.start()
            thread.join()
    from tenacity import Retrying

    return Retrying


def _give_up(_: RetryCallState) -> None:
    """Tenacity's ``retry_error_callback``: returns instead of raising a RetryError; the error is in _Replays."""
