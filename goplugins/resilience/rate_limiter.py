"""The rate limiter: a token bucket in which a caller may reserve the next token and wait for it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from goplugins.config.defaults import setting
from goplugins.config.plugin_sections import DEFAULT_RATE_LIMIT
from goplugins.errors import InvalidArgumentError, PluginClosedError, RateLimitExceededError
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock, Waitable, Waiter
from goplugins.runtime.deadline import Deadline
from goplugins.runtime.fork import register_forkable

if TYPE_CHECKING:
    from goplugins.config import RateLimitConfig


# A wait of exactly retry_after must do, although the sum of two floats may come out a hair below 1.
_WHOLE = 1.0 - 1e-9


class _Waiter:
    """One reservation: its token is paid for (the bucket went below zero) and comes at ``due``, by ``latest``."""

    __slots__ = ("due", "latest", "retimed")

    def __init__(self) -> None:
        self.due = self.latest = 0.0
        self.retimed = Waiter()


class RateLimiter:
    """Lets ``burst_size`` attempts through at once and ``requests_per_second`` per ``time_window`` after that.

    Where a caller may wait, it reserves the earliest token at once, so callers are served in the order in which
    they came and nobody, :meth:`allow` neither, overtakes. Safe to use from many threads; the lock is never held
    over a wait.

    Args:
        config: rate, burst and waiting; a field that is None has its default. Only ``enabled=False`` admits all.
        clock: where the time comes from, and what waits.
        name: the plugin's, for errors.

    Raises:
        InvalidArgumentError: a rate or window of 0 or less, or a burst below 1.

    >>> from goplugins import RateLimitConfig
    >>> from goplugins.testing import ManualClock
    >>> clock = ManualClock()
    >>> limiter = RateLimiter(RateLimitConfig(requests_per_second=10, burst_size=2), clock=clock)
    >>> limiter.allow(), limiter.allow(), limiter.allow()
    (True, True, False)
    >>> limiter.acquire(max_wait=1.0)  # waits for its token
    >>> clock.monotonic()
    0.1
    """

    def __init__(self, config: RateLimitConfig, *, clock: Clock = SYSTEM_CLOCK, name: str = "") -> None:
        self.clock = clock
        self.name = name
        self._now = clock.monotonic
        self._lock = threading.Lock()
        self._use(config)
        self._tokens = self._burst  # below zero by as many as are reserved
        self._at = self._now()  # when the tokens were last counted
        self._waiters: dict[_Waiter, None] = {}  # in the order of their reservations
        register_forkable(self)

    def allow(self) -> bool:
        """Takes a token if there is one; never waits. Takes the lock."""
        with self._lock:
            now = self._now()
            # As in _refill, without its call and that of min(): half the cost of the whole.
            tokens = self._tokens + (now - self._at) * self._rate
            if tokens > self._burst:  # noqa: PLR1730
                tokens = self._burst
            self._at = now
            if tokens >= _WHOLE:
                self._tokens = tokens - 1.0
                return True
            self._tokens = tokens
            return not self._enabled

    def acquire(
        self, deadline: Deadline | None = None, max_wait: float | None = None, closing: Waitable | None = None
    ) -> None:
        """Takes a token, waiting for it if it comes in time. Takes the lock, but not while it waits.

        Args:
            deadline: the call's; a token must come before it.
            max_wait: seconds to wait at most; None for the configured ``max_wait``.
            closing: set when the plugin closes. Whoever sets it calls :meth:`wake` next.

        Raises:
            RateLimitExceededError: the token would come too late; raised at once, ``retry_after`` says when one is
                free. After a change of rate also out of a wait.
            PluginClosedError: ``closing`` was set during the wait. The token is given back, as it is when anything
                else (a KeyboardInterrupt, a worker's time limit) breaks into the wait.
        """
        if self.allow():
            return
        waiter = _Waiter()
        try:
            with self._lock:
                now = self._refill()
                wait = max(0.0, 1.0 - self._tokens) / self._rate
                latest = now + (self._max_wait if max_wait is None else max_wait)
                if deadline is not None:
                    latest = min(latest, deadline.at)
                refused = now + wait > latest or (deadline is not None and now + wait >= deadline.at)
                if not refused:
                    waiter.due, waiter.latest = now + wait, latest
                    # No call, hence no interrupt, between these two.
                    self._waiters[waiter] = None
                    self._tokens -= 1.0
            if not refused:
                self._wait(waiter, deadline, closing)
        except BaseException:
            self._abandon(waiter)
            raise
        if refused:
            raise self._refusal(wait)

    def refund(self) -> None:
        """Gives back a token that was not used, such as when the breaker refused after all. Takes the lock.

        The waiters move up by one token.
        """
        with self._lock:
            self._refill()
            self._give_back(list(self._waiters))

    def set_rate(self, config: RateLimitConfig) -> None:
        """Goes by another configuration from now on, keeping tokens and reservations. Takes the lock.

        The waiters' times change with the rate; one whose token would now come too late is refused.

        Raises:
            InvalidArgumentError: as for the class; nothing has changed then.
        """
        with self._lock:
            now = self._refill()
            before = self._rate
            self._use(config)
            self._tokens = min(self._tokens, self._burst)
            for waiter in self._waiters:
                waiter.due = now + max(0.0, waiter.due - now) * before / self._rate if self._enabled else now
        self.wake()

    def wake(self) -> None:
        """Has every waiter look at the clock and at its ``closing`` event again."""
        with self._lock:
            waiters = list(self._waiters)
        for waiter in waiters:
            waiter.retimed.set()

    @property
    def tokens(self) -> float:
        """The tokens in the bucket now; below zero by those reserved beyond it."""
        with self._lock:
            self._refill()
            return self._tokens

    def after_fork_in_child(self) -> None:
        """A fresh lock; the reservations of the parent's threads go back, since nobody waits for them here."""
        self._lock = threading.Lock()
        self._tokens += len(self._waiters)
        self._waiters = {}

    # --- what follows expects the lock, unless it says otherwise -----------------------------------------------

    def _use(self, config: RateLimitConfig) -> None:
        rate: float = setting(config, DEFAULT_RATE_LIMIT, "requests_per_second")
        window: float = setting(config, DEFAULT_RATE_LIMIT, "time_window")
        burst: float = setting(config, DEFAULT_RATE_LIMIT, "burst_size")
        if not (rate > 0 and window > 0 and burst >= 1):
            raise InvalidArgumentError(
                f"rate limit: expected rate and window above 0 and a burst of 1 or more, got {rate}, {window}, {burst}"
            )
        burst = float(burst)
        max_wait: float = setting(config, DEFAULT_RATE_LIMIT, "max_wait")
        # Who makes a limiter wants one: None is on here, although a configuration has it off by default.
        enabled: bool = getattr(config, "enabled", None) is not False
        # No call, hence no interrupt, between these.
        self._rate = rate / window
        self._burst = burst
        self._max_wait = max_wait
        self._enabled = enabled

    def _refill(self) -> float:
        """Counts what has come since; returns the present moment, read under the lock so that it never goes back."""
        now = self._now()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        return now

    def _give_back(self, behind: list[_Waiter]) -> None:
        """Returns one token, which those ``behind`` it get: each moves up by one. The next refill caps it."""
        self._tokens += 1.0
        for waiter in behind:
            waiter.due -= 1.0 / self._rate
            waiter.retimed.set()

    # --- outside the lock --------------------------------------------------------------------------------------

    def _wait(self, waiter: _Waiter, deadline: Deadline | None, closing: Waitable | None) -> None:
        cancellation = None if deadline is None else deadline.cancellation

        def wait() -> None:
            while (left := self._seconds_left(waiter, closing)) > 0:
                if cancellation is not None and cancellation.cancelled:
                    return
                self.clock.wait(waiter.retimed, left)

        if cancellation is None:
            wait()
        else:  # one of two attempts: it may have lost before it has its token
            cancellation.guard(waiter.retimed.set, wait)
        with self._lock:
            self._waiters.pop(waiter, None)

    def _seconds_left(self, waiter: _Waiter, closing: Waitable | None) -> float:
        waiter.retimed.clear()  # before it looks: a change after the look sets it again
        if closing is not None and closing.is_set():
            raise PluginClosedError("it was closed while the call waited for the rate limit", plugin=self.name or None)
        left = waiter.due - self._now()
        if left > 0 and waiter.due > waiter.latest:
            raise self._refusal(left)
        return left

    def _abandon(self, waiter: _Waiter) -> None:
        with self._lock:
            waiters = list(self._waiters)
            if waiter in self._waiters:
                del self._waiters[waiter]
                self._refill()
                self._give_back(waiters[waiters.index(waiter) + 1 :])

    def _refusal(self, wait: float) -> RateLimitExceededError:
        return RateLimitExceededError(
            f"rate limit of {self._rate:g} calls per second reached, a token is free in {wait:.3f} s",
            plugin=self.name or None,
            retry_after=wait,
        )
