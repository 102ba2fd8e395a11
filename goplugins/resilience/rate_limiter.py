"""Rate limiter: a token bucket in which callers can reserve the next token and wait for it."""

from __future__ import annotations

from goplugins.config.defaults import completed
from goplugins.config.plugin_sections import RateLimitConfig
from goplugins.errors import PluginClosedError, RateLimitExceededError
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock, Waitable, Waiter
from goplugins.runtime.deadline import Deadline
from goplugins.runtime.fork import create_lock, register_forkable
from goplugins.runtime.text import counted

# After a wait of exactly retry_after there must be a token, although the sum of two floats may be slightly below 1.
_WHOLE = 1.0 - 1e-9


class _Waiter:
    """A reservation: its token is already taken (the bucket is below zero), and due at ``due``, at ``latest``."""

    __slots__ = ("due", "latest", "retimed")

    def __init__(self) -> None:
        self.due = self.latest = 0.0
        self.retimed = Waiter()


class RateLimiter:
    """Admits ``burst_size`` attempts at once and ``requests_per_second`` per ``time_window`` after that.

    A caller that may wait reserves the earliest token at once, so tokens go to callers in the order of their arrival;
    :meth:`allow` does not overtake them either. Safe to use from many threads; the lock is never held over a wait.

    Args:
        config: rate, burst and waiting; a field that is None has its default, save ``enabled``: only False switches
            the limit off.
        clock: the source of time; performs the waits.
        name: the plugin's name, for errors.

    Raises:
        InvalidConfigError: a rate, burst or time out of range.

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
        self._lock = create_lock(self)
        self._configure(config)
        self._tokens = self._burst  # below zero by the number of reserved tokens
        self._at = self._now()  # when the tokens were last computed
        self._waiters: dict[_Waiter, None] = {}  # in the order of their reservations
        register_forkable(self)

    def allow(self) -> bool:
        """Takes a token if there is one, without waiting. Takes the lock."""
        with self._lock:
            now = self._now()
            # As _refill(), inline and without min(), which would double the cost.
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
        """Takes a token; waits for it if it is due in time. Takes the lock, but not while it waits.

        Args:
            deadline: the call's; the token must be due before it.
            max_wait: seconds to wait at most; None for the configured ``max_wait``.
            closing: set when the plugin closes. Call :meth:`wake` after setting it.

        Raises:
            RateLimitExceededError: the token would be due too late. Raised at once, or during a wait after a change of
                the rate; ``retry_after`` has the seconds until a token is free.
            PluginClosedError: ``closing`` was set during the wait. The token is returned, as it is when any other
                exception (a KeyboardInterrupt, a worker's time limit) ends the wait.
        """
        if self.allow():
            return
        waiter = _Waiter()
        attempt, deadline = deadline, None if deadline is None else deadline.of_call
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
                if attempt is not None:
                    attempt.restart()
        except BaseException:
            self._abandon(waiter)
            raise
        if refused:
            raise self._refusal(wait)

    def refund(self) -> None:
        """Returns a token whose attempt was not made, since the breaker refused it. Takes the lock.

        Each waiting caller's token is due earlier by one token's time.
        """
        with self._lock:
            self._refill()
            self._return_token(list(self._waiters))

    def set_rate(self, config: RateLimitConfig) -> None:
        """Applies another configuration; tokens and reservations stay. Takes the lock.

        The due times of waiting callers change with the rate; a caller whose token is now due too late is refused.

        Raises:
            InvalidConfigError: as for the class; nothing has changed then.
        """
        with self._lock:
            now = self._refill()
            before = self._rate
            self._configure(config)
            self._tokens = min(self._tokens, self._burst)
            for waiter in self._waiters:
                waiter.due = now + max(0.0, waiter.due - now) * before / self._rate if self._enabled else now
        self.wake()

    def wake(self) -> None:
        """Makes every waiting caller read the clock and its ``closing`` event again."""
        with self._lock:
            waiters = list(self._waiters)
        for waiter in waiters:
            waiter.retimed.set()

    @property
    def tokens(self) -> float:
        """The tokens in the bucket; negative if tokens are reserved in advance."""
        with self._lock:
            self._refill()
            return self._tokens

    def after_fork_in_child(self) -> None:
        """Returns the tokens that the parent's threads have reserved."""
        self._tokens += len(self._waiters)
        self._waiters = {}

    # --- internal; the caller holds the lock, unless stated otherwise --------------------------------------------

    def _configure(self, config: RateLimitConfig) -> None:
        settings = completed(config)
        rate: float = settings.requests_per_second / settings.time_window
        burst = float(settings.burst_size)
        max_wait: float = settings.max_wait
        # False by default in a configuration; but a limiter that is constructed is meant to limit.
        enabled = config.enabled is not False
        # No call, hence no interrupt, between these.
        self._rate = rate
        self._burst = burst
        self._max_wait = max_wait
        self._enabled = enabled

    def _refill(self) -> float:
        """Adds the tokens due since the last time; returns the time, read under the lock so that it never decreases."""
        now = self._now()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        return now

    def _return_token(self, behind: list[_Waiter]) -> None:
        """Returns one token to the waiters ``behind`` it: each is due one token's time earlier.

        The next refill caps the bucket.
        """
        self._tokens += 1.0
        for waiter in behind:
            waiter.due -= 1.0 / self._rate
            waiter.retimed.set()

    # --- internal; the caller does not hold the lock -------------------------------------------------------------

    def _wait(self, waiter: _Waiter, deadline: Deadline | None, closing: Waitable | None) -> None:
        cancellation = None if deadline is None else deadline.cancellation

        def wait() -> None:
            while (left := self._seconds_left(waiter, closing)) > 0:
                if cancellation is not None and cancellation.cancelled:
                    return
                self.clock.wait(waiter.retimed, left)

        if cancellation is None:
            wait()
        else:  # a hedged attempt: it may be cancelled during the wait
            cancellation.guard(waiter.retimed.set, wait)
        with self._lock:
            self._waiters.pop(waiter, None)

    def _seconds_left(self, waiter: _Waiter, closing: Waitable | None) -> float:
        waiter.retimed.clear()  # before reading: a later change sets it again
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
                self._return_token(waiters[waiters.index(waiter) + 1 :])

    def _refusal(self, wait: float) -> RateLimitExceededError:
        return RateLimitExceededError(
            f"rate limit of {counted(float(self._rate), 'call')} per second reached, a token is free in {wait:.3f} s",
            plugin=self.name or None,
            retry_after=wait,
        )
