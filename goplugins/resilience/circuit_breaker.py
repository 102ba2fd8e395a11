"""Circuit breaker: refuses calls to a plugin that keeps failing, then admits a few probes."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from goplugins.enums import CircuitBreakerState
from goplugins.errors import CircuitBreakerOpenError
from goplugins.models.results import CircuitBreakerStats
from goplugins.resilience.breaker_rules import BreakerMode, BreakerRules, refusal_of
from goplugins.resilience.permits import SETTLED, Permit, ProbePermit, SharedPermit, expiry_of
from goplugins.resilience.rolling_window import RollingWindow
from goplugins.runtime.callbacks import run_callback
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock
from goplugins.runtime.counter import Counter
from goplugins.runtime.fork import create_lock, register_forkable

if TYPE_CHECKING:
    from goplugins.config import CircuitBreakerConfig


_CLOSED = CircuitBreakerState.CLOSED
_OPEN = CircuitBreakerState.OPEN
_HALF_OPEN = CircuitBreakerState.HALF_OPEN

# Callers of allow_request() that never record an outcome would accumulate permits; beyond this the oldest is dropped.
_MAX_ANONYMOUS = 4096


# Reading an enum's member as an attribute is slow in Python 3.11, and these are read at each call.
_NORMAL = BreakerMode.NORMAL
_DISABLED = BreakerMode.DISABLED
_FORCED = BreakerMode.FORCED


class CircuitBreaker:
    """Refuses calls to a plugin that keeps failing. Safe to use from many threads.

    CLOSED admits all calls. It opens after ``failure_threshold`` failures in a row (once ``min_request_threshold``
    calls have ended since it last closed) or, where configured, when over the last ``window`` seconds the share of
    failures reaches ``failure_rate`` or that of slow calls ``slow_call_rate``. OPEN refuses for
    ``recovery_timeout``, twice as long at each further trip in a row up to ``max_recovery_timeout``. The next
    request makes it HALF_OPEN: at most ``success_threshold`` probes at a time are admitted; as many successes
    close it, one failure opens it again. The outcome of a call that was admitted before the last state change is
    ignored.

    Args:
        config: thresholds and times; a field that is None has its default.
        clock: the source of time.
        rng: the source of the jitter of repeated open times.
        name: the plugin's name, for errors.
        on_transition: called with the old and the new state after each change, outside the lock. It may come late
            under contention; its exceptions are logged.
        trips: counts how often outcomes have opened it; by default a counter of its own.

    Raises:
        InvalidConfigError: a threshold or time out of range.

    >>> from goplugins import CircuitBreakerConfig
    >>> from goplugins.testing import ManualClock
    >>> clock = ManualClock()
    >>> breaker = CircuitBreaker(CircuitBreakerConfig(failure_threshold=3, recovery_timeout=30.0), clock=clock)
    >>> for _ in range(3):
    ...     breaker.acquire().failure()
    >>> breaker.acquire()
    Traceback (most recent call last):
    goplugins.errors.CircuitBreakerOpenError: [CIRCUIT_1401] circuit breaker is open, next call admitted in 30.000 s
    >>> clock.advance(30.0)
    >>> for _ in range(2):
    ...     with breaker.acquire():
    ...         pass  # the call
    >>> breaker.state
    <CircuitBreakerState.CLOSED: 'closed'>
    """

    def __init__(
        self,
        config: CircuitBreakerConfig,
        *,
        clock: Clock = SYSTEM_CLOCK,
        rng: random.Random | None = None,
        name: str = "",
        on_transition: Callable[[CircuitBreakerState, CircuitBreakerState], object] | None = None,
        trips: Counter | None = None,
    ) -> None:
        self.clock = clock
        self.name = name
        self._now = clock.monotonic
        # The system's generator: forked workers would all draw the same jitter from an inherited one.
        self._rng = rng or random.SystemRandom()
        self._on_transition = on_transition
        self._lock = create_lock(self)
        self._rules = BreakerRules.of(config)
        self._mode = _NORMAL if self._rules.enabled else _DISABLED
        self._refuses = False  # while forced open, also under rules with ``metrics_only``, which came later
        self._window = self._rules.new_window()
        self._state = _CLOSED
        self._generation = 0  # incremented at each state change: outcomes of older permits are ignored
        self._calls = 0  # calls that have ended since it last closed
        self._consecutive = 0  # failures in a row
        self._probes: list[Permit] = []  # probe slots in use while HALF_OPEN
        self._probe_successes = 0
        self._anonymous: deque[Permit] = deque(maxlen=_MAX_ANONYMOUS)
        self._streak = 0  # trips in a row, without closing in between
        self._opened_at = 0.0
        self._open_until = 0.0
        self._trips = Counter() if trips is None else trips
        self._requests = self._successes = self._failures = 0
        self._last_failure = 0.0
        self._admitted = Counter()  # requests admitted without the lock, not yet counted
        # Public: while it is not None every call is admitted, which a caller can read without a method call.
        self.shared_permit = self._new_shared_permit(_CLOSED, 0, self._window)
        register_forkable(self)

    # --- one call ----------------------------------------------------------------------------------------------

    def acquire(self, expires_at: float | None = None) -> Permit:
        """Admits one call, which must settle the permit. Takes the lock.

        Args:
            expires_at: the call's deadline on the clock's monotonic scale, at which an unsettled probe loses its slot;
                without a deadline, after ``recovery_timeout``.

        Raises:
            CircuitBreakerOpenError: refused; ``retry_after`` has the seconds until a call is admitted at the latest.
        """
        permit = self._admit(expires_at)
        if isinstance(permit, Permit):
            return permit
        raise refusal_of(self.name, *permit)

    def enter(self, expires_at: float | None = None) -> Permit:
        """:meth:`acquire` for a caller that settles exactly once, whatever happens; takes no lock while closed.

        Raises:
            CircuitBreakerOpenError: as :meth:`acquire`.
        """
        shared = self.shared_permit
        if shared is None:
            return self.acquire(expires_at)
        self._admitted.add()
        return shared

    def _settle(self, permit: Permit, succeeded: bool | None, duration: float | None) -> None:
        """Counts the outcome of a permit (None: ignored). Takes the lock."""
        with self._lock:
            generation, permit.generation = permit.generation, SETTLED
            if generation != self._generation:
                return
            old = self._state
            self._count(permit, succeeded, duration)
            new = self._state
        self._notify(old, new)

    def _settle_shared(self, permit: Permit, succeeded: bool | None, duration: float | None) -> None:
        """Counts a failure of a call that :meth:`enter` admitted while closed. Takes the lock."""
        with self._lock:
            if permit is not self.shared_permit:
                return  # its closed period has ended
            old = self._state
            self._count(permit, succeeded, duration)
            new = self._state
        self._notify(old, new)

    def check(self) -> None:
        """Raises what :meth:`acquire` would raise now, taking and changing nothing.

        Raises:
            CircuitBreakerOpenError: open and not yet due, or half-open with all probe slots in use.
        """
        refusal = self.refusal()
        if refusal is not None:
            try:
                raise refusal
            finally:
                del refusal  # its traceback holds this frame: no work for the collector

    def refusal(self) -> CircuitBreakerOpenError | None:
        """The error that :meth:`check` would raise; None if a call would be admitted."""
        state = self._state
        if state is _CLOSED:
            return None
        if state is _OPEN and self._mode is _NORMAL and not self._rules.metrics_only:
            left = self._open_until - self._now()  # most refusals; each attribute is read once, so no lock is needed
        else:
            with self._lock:
                state = self._state
                left = self._seconds_left(self._now())
        return refusal_of(self.name, state, left) if left > 0 else None

    def retry_after(self) -> float:
        """Seconds until a call is admitted at the latest; 0 if one is admitted now, infinite while forced open."""
        if self._state is _CLOSED:
            return 0.0
        with self._lock:
            return self._seconds_left(self._now())

    # --- the reference's interface -----------------------------------------------------------------------------

    def allow_request(self) -> bool:
        """Admits one call without a permit; report its outcome by :meth:`record_success` or :meth:`record_failure`.

        An outcome that is not reported within ``recovery_timeout`` is ignored.
        """
        return isinstance(self._admit(None, anonymous=True), Permit)

    def record_success(self) -> None:
        """Settles the oldest unsettled call that :meth:`allow_request` admitted in the current state, if any."""
        self._record(succeeded=True)

    def record_failure(self) -> None:
        """As :meth:`record_success`, for a call that failed."""
        self._record(succeeded=False)

    @property
    def state(self) -> CircuitBreakerState:
        """The state. It stays OPEN when the open time has passed: only the next request makes it HALF_OPEN."""
        return self._state

    @property
    def recovery_timeout(self) -> float:
        """Seconds that it stays open the first time."""
        return self._rules.recovery_timeout

    @property
    def trips(self) -> int:
        """How often outcomes have opened it, in all; :meth:`reset` does not clear it."""
        return self._trips.total

    def stats(self) -> CircuitBreakerStats:
        """The counts since the last :meth:`reset`: admitted requests, successes and failures."""
        with self._lock:
            self._collect()
            return CircuitBreakerStats(self._state, self._failures, self._successes, self._requests, self._last_failure)

    def reset(self) -> None:
        """Closes the breaker and clears the counts; ends :meth:`force_open`, but not :meth:`disable`."""
        with self._lock:
            old = self._state
            self._enter(_CLOSED)
            if self._mode is _FORCED:
                self._mode = _NORMAL
            self._admitted.take()
            self._requests = self._successes = self._failures = 0
            self._last_failure = 0.0
        self._notify(old, _CLOSED)

    # --- the operator's interface ------------------------------------------------------------------------------

    def close(self) -> None:
        """Closes the breaker, which may open again; its counts stay. Ends :meth:`force_open` and :meth:`disable`."""
        self._override(_NORMAL, _CLOSED)

    def force_open(self) -> None:
        """Refuses every call until :meth:`enable` or :meth:`reset`; with ``metrics_only`` it still refuses none.

        If ``metrics_only`` is configured later, it goes on refusing.
        """
        self._refuses = not self._rules.metrics_only
        self._override(_FORCED, _OPEN)

    @property
    def is_forced_open(self) -> bool:
        """Whether :meth:`force_open` holds it open, and calls are refused."""
        return self._mode is _FORCED and (self._refuses or not self._rules.metrics_only)

    def hold_open(self, held: bool) -> None:
        """Forces it open, or ends that, as another breaker of the plugin's name is: whatever its rules, and unnotified.

        Takes the lock.
        """
        with self._lock:
            if held:
                self._refuses = True
                self._enter(_OPEN)
                self._mode = _FORCED
            elif self._mode is _FORCED:
                self._enter(_CLOSED)
                self._mode = _NORMAL if self._rules.enabled else _DISABLED

    def disable(self) -> None:
        """Admits every call until :meth:`enable`; outcomes are counted, but change no state."""
        self._override(_DISABLED, _CLOSED)

    def enable(self) -> None:
        """Ends :meth:`disable`, ``enabled: false`` and :meth:`force_open`: closes it and applies the rules again."""
        if self._mode is not _NORMAL:
            self._override(_NORMAL, _CLOSED)

    def probe_succeeded(self) -> None:
        """A health check succeeded: ends the open time, so that the next request becomes a probe."""
        with self._lock:
            if self._state is _OPEN and self._mode is _NORMAL:
                self._open_until = min(self._open_until, self._now())

    def configure(self, config: CircuitBreakerConfig) -> None:
        """Applies another configuration; state and counts stay.

        A changed ``enabled`` takes effect as :meth:`enable` or :meth:`disable`, unless the breaker is forced open. A
        shorter ``recovery_timeout`` also shortens the current open time.

        Raises:
            InvalidConfigError: a threshold or time out of range; nothing has changed then.
        """
        rules = BreakerRules.of(config)
        with self._lock:
            old = self._state
            before = self._rules
            window = rules.new_window()
            # The buckets of another rule or width can't be kept.
            if rules.window != before.window or (window is None) != (self._window is None):
                self._collect()
                shared = self._new_shared_permit(old, self._generation, window)
                self._window, self.shared_permit = window, shared
            if rules.enabled != before.enabled and self._mode is not _FORCED:
                self._enter(_CLOSED)
                self._mode = _NORMAL if rules.enabled else _DISABLED
            self._rules = rules
            if self._state is _OPEN and self._mode is _NORMAL:
                self._open_until = min(self._open_until, self._opened_at + rules.open_time(self._streak, self._rng))
            new = self._state
        self._notify(old, new)

    def after_fork_in_child(self) -> None:
        """Forgets calls in flight, which are the parent's. The state stays."""
        self._collect()
        self._generation += 1
        self.shared_permit = self._new_shared_permit(self._state, self._generation, self._window)
        self._probes = []
        self._probe_successes = 0
        self._anonymous.clear()

    # --- internal; the caller holds the lock, unless stated otherwise ------------------------------------------

    def _admit(
        self, expires_at: float | None, *, anonymous: bool = False
    ) -> Permit | tuple[CircuitBreakerState, float]:
        """A permit, or the state and the seconds until the next one. Takes the lock."""
        with self._lock:
            old = self._state
            now = self._now()
            if old is _OPEN and self._mode is _NORMAL and now >= self._open_until:
                self._enter(_HALF_OPEN)
            new = self._state
            left = self._seconds_left(now)
            permit = None
            if left <= 0:
                self._requests += 1
                if anonymous or expires_at is None:
                    expires_at = now + self._rules.recovery_timeout
                permit = self._permit(expires_at)
                if anonymous:
                    self._drop_expired(now)
                    self._anonymous.append(permit)
        self._notify(old, new)
        return permit or (new, left)

    def _permit(self, expires_at: float) -> Permit:
        # With metrics_only more calls are admitted than there are probe slots; only the slots are tracked.
        if self._state is _HALF_OPEN and len(self._probes) < self._rules.success_threshold:
            probe = ProbePermit(self._settle, self.clock, self._generation, expires_at)
            self._probes.append(probe)
            return probe
        return Permit(self._settle, self.clock, self._generation, expires_at)

    def _seconds_left(self, now: float) -> float:
        if self._mode is _FORCED and (self._refuses or not self._rules.metrics_only):
            return math.inf
        if self._state is _CLOSED or self._rules.metrics_only:
            return 0.0
        if self._state is _OPEN:
            return max(0.0, self._open_until - now)
        if len(self._probes) < self._rules.success_threshold:
            return 0.0
        self._probes = [probe for probe in self._probes if expiry_of(probe) > now]
        if len(self._probes) < self._rules.success_threshold:
            return 0.0
        return min(map(expiry_of, self._probes)) - now

    def _record(self, *, succeeded: bool) -> None:
        """Takes the lock."""
        with self._lock:
            self._drop_expired(self._now())
            if not self._anonymous:
                return
            old = self._state
            permit = self._anonymous.popleft()
            permit.generation = SETTLED
            self._count(permit, succeeded, None)
            new = self._state
        self._notify(old, new)

    def _drop_expired(self, now: float) -> None:
        anonymous = self._anonymous
        while anonymous and expiry_of(anonymous[0]) <= now:
            anonymous.popleft()

    def _count(self, permit: Permit, succeeded: bool | None, duration: float | None) -> None:
        """Counts an outcome of the current generation and changes the state where a rule requires it."""
        if permit.is_probe and permit in self._probes:
            self._probes.remove(permit)
        if succeeded is None:
            return
        self._collect()
        self._calls += 1
        if succeeded:
            self._successes += 1
            self._consecutive = 0
        else:
            self._failures += 1
            self._consecutive += 1
            self._last_failure = self.clock.time()
        if self._mode is not _NORMAL:
            return
        if self._state is _CLOSED:
            self._evaluate(succeeded, duration)
        elif self._state is _HALF_OPEN:
            self._evaluate_probe(succeeded)

    def _evaluate(self, succeeded: bool, duration: float | None) -> None:
        rules = self._rules
        now = self._now()
        if self._window is not None:
            self._window.record(now, failed=not succeeded, slow=rules.is_slow(duration))
        in_a_row = self._consecutive >= rules.failure_threshold and self._calls >= rules.min_request_threshold
        if in_a_row or (self._window is not None and rules.rates_exceeded(self._window)):
            self._trip(now)

    def _evaluate_probe(self, succeeded: bool) -> None:
        if not succeeded:
            self._trip(self._now())
            return
        self._probe_successes += 1
        if self._probe_successes >= self._rules.success_threshold:
            self._enter(_CLOSED)

    def _trip(self, now: float) -> None:
        streak = self._streak + 1
        # These two have no effect before the state is OPEN.
        self._opened_at = now
        self._open_until = now + self._rules.open_time(streak, self._rng)
        self._enter(_OPEN)
        self._streak = streak  # no call, hence no interrupt, before this line
        self._trips.add()

    def _collect(self) -> None:
        """Adds what was counted without the lock. A success among it ends a row of failures."""
        self._requests += self._admitted.take()
        fresh = 0 if self.shared_permit is None else self.shared_permit.successes.take()
        if fresh:
            self._successes += fresh
            self._calls += fresh
            self._consecutive = 0

    def _new_shared_permit(
        self, state: CircuitBreakerState, generation: int, window: RollingWindow | None
    ) -> SharedPermit | None:
        """The permit that calls share from now on; None where each outcome has to be judged."""
        return (
            SharedPermit(self._settle_shared, self.clock, generation) if state is _CLOSED and window is None else None
        )

    def _enter(self, state: CircuitBreakerState) -> None:
        """Changes the state as a whole, or not at all if an interrupt (Ctrl-C, a worker's time limit) raises."""
        self._collect()
        generation = self._generation + 1
        window = None if self._window is None else self._window.emptied()
        shared = self._new_shared_permit(state, generation, window)
        anonymous: deque[Permit] = deque(maxlen=_MAX_ANONYMOUS)
        # No call, hence no interrupt, between here and the caller's next one.
        self._state = state
        self._generation = generation
        self.shared_permit = shared
        self._probes = []
        self._probe_successes = 0
        self._anonymous = anonymous
        if state is _CLOSED:
            self._calls = self._consecutive = self._streak = 0
            self._window = window

    def _override(self, mode: BreakerMode, state: CircuitBreakerState) -> None:
        """Takes the lock."""
        with self._lock:
            old = self._state
            self._enter(state)
            self._mode = mode
        self._notify(old, state)

    def _notify(self, old: CircuitBreakerState, new: CircuitBreakerState) -> None:
        """Calls ``on_transition`` after a change. The caller does not hold the lock."""
        if new is not old and self._on_transition is not None:
            run_callback(self._on_transition, old, new)
