"""The innermost layer of a pipeline: single attempts under breaker and limiter."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Protocol

import attrs

from goplugins.config.plugin_sections import HealthCheckConfig
from goplugins.enums import CircuitBreakerState
from goplugins.errors import (
    CircuitBreakerOpenError,
    CircuitBreakerTimeoutError,
    PluginError,
    PluginTimeoutError,
    RateLimitExceededError,
    Verdict,
    host_exception,
    is_fair_timeout,
    local_failure,
)
from goplugins.models.results import HealthStatus
from goplugins.observability.event_stream import EventStream, publish
from goplugins.observability.events import AttemptFinished
from goplugins.resilience.bulkhead import Bulkhead
from goplugins.resilience.call_counts import Counts
from goplugins.resilience.circuit_breaker import CircuitBreaker
from goplugins.resilience.permits import Permit, SharedPermit
from goplugins.resilience.rate_limiter import RateLimiter
from goplugins.runtime.call import Call
from goplugins.runtime.clock import Clock, Event
from goplugins.runtime.deadline import AttemptDeadline, Deadline
from goplugins.transports.interface import Sender

Run = Callable[[Call], Any]
"""Makes a call or an attempt: what a layer wraps, and what the layer is for the next one."""

Forward = Callable[[str, Call], Any]
"""Makes a call of another plugin, by its name and under its own policies."""

_EARLY = 0.01
"""Seconds before a deadline in which a timeout, which the plugin may report as well, is that deadline's."""

_SHORTEST_INTERVAL = 0.25
"""Seconds between two health checks while the breaker is open, at least."""


class Checker(Protocol):
    """The plugin's health checker (:class:`~goplugins.HealthChecker`), which takes the outcomes of calls as well."""

    @property
    def status(self) -> HealthStatus: ...
    @property
    def is_running(self) -> bool: ...
    @property
    def next_check(self) -> float | None: ...
    def report_success(self) -> None: ...
    def report_failure(self, error: BaseException, /) -> None: ...
    def shorten_interval(self, interval: float | None, /) -> None: ...
    def reconfigure(self, config: HealthCheckConfig, /) -> None: ...


class AttemptHistory:
    """What a plugin's attempts have shown so far.

    Attributes:
        usual_latency: moving average of successful attempts, in seconds; 0 before the first.
        suspected: the next success is reported to the checker, which waits for it or has a failure of it.
        checker: receives failures, and the successes that it waits for.
    """

    __slots__ = ("checker", "suspected", "usual_latency")

    def __init__(self) -> None:
        self.usual_latency = 0.0
        self.suspected = False
        self.checker: Checker | None = None

    def was_fair(self, elapsed: float) -> bool:
        """Whether an attempt that timed out after ``elapsed`` seconds had enough time to count against the plugin."""
        return is_fair_timeout(elapsed, self.usual_latency)

    def report_success(self) -> None:
        """Reports a success that the checker waits for."""
        if self.checker is not None:
            self.suspected = False
            self.checker.report_success()

    def report_failure(self, error: PluginError) -> None:
        """Reports a failure that counts against the plugin to the checker."""
        if self.checker is not None:
            self.suspected = True
            self.checker.report_failure(error)

    def breaker_changed(self, new: CircuitBreakerState, recovery_timeout: float) -> None:
        """Has an open breaker's plugin checked more often: no call finds out that it is back."""
        if self.checker is not None:
            closed = new is CircuitBreakerState.CLOSED
            self.checker.shorten_interval(None if closed else max(recovery_timeout, _SHORTEST_INTERVAL))


class Limits:
    """The limits of a plugin, each since it was first configured: calls in flight count in them over every reload."""

    __slots__ = ("bulkhead", "limiter")

    def __init__(self) -> None:
        self.limiter: RateLimiter | None = None
        self.bulkhead: Bulkhead | None = None


@attrs.frozen(eq=False)
class Shared:
    """What all pipelines of one plugin share, whatever their configuration.

    Attributes:
        name: the plugin's name.
        clock: measures and waits.
        rng: draws jitter.
        events: receives attempts and calls that have ended.
        counts: of the plugin's name.
        forward: calls another plugin, for a fallback.
        on_transition: called with a breaker's old and new state.
        on_replaced_error: called with each error that an answer of cache or fallback hides from the caller.
        closing: set when the plugin closes; ends waits for a token, a slot or a retry.
        history: of the plugin's attempts.
        limits: limiter and bulkhead.
    """

    name: str
    clock: Clock
    rng: random.Random
    events: EventStream
    counts: Counts
    forward: Forward
    on_transition: Callable[[CircuitBreakerState, CircuitBreakerState], object]
    on_replaced_error: Callable[[Call, PluginError], object]
    closing: Event = attrs.field(factory=Event)
    history: AttemptHistory = attrs.field(factory=AttemptHistory)
    limits: Limits = attrs.field(factory=Limits)


class Attempt:
    """The innermost layer: one attempt with a permit of the breaker and a token of the limiter."""

    __slots__ = ("_breaker", "_events", "_history", "_limiter", "_now", "_sender", "_shared")

    def __init__(self, sender: Sender, breaker: CircuitBreaker, limiter: RateLimiter | None, shared: Shared) -> None:
        self._sender = sender
        self._breaker = breaker
        self._limiter = limiter
        self._shared = shared
        self._events = shared.events
        self._history = shared.history
        self._now = shared.clock.monotonic

    def run(self, call: Call) -> Any:
        """Makes the attempt: peek at the breaker, token, permit, send, record.

        Raises:
            PluginError: refused on this side, or failed.
        """
        deadline, now = call.deadline, self._now
        started = now()
        if deadline.at <= started:
            raise PluginTimeoutError("the deadline passed before anything was sent")
        breaker = self._breaker
        # A closed breaker has, as a rule, one permit that all calls share, and refuses none.
        refusal = breaker.refusal() if breaker.shared_permit is None else None
        if refusal is not None:
            self._shared.counts.refused_circuit_breaker.add()
            try:
                raise refusal  # few frames from the caller: a call of a dead plugin must cost no more than another
            finally:
                del refusal  # its traceback holds this frame: no work for the collector
        limiter = self._limiter
        if limiter is not None and not limiter.allow():
            self._wait_for_token(limiter, call)
            started = now()
        try:
            permit = breaker.enter(deadline.at)
        except BaseException as exc:
            if limiter is not None:
                limiter.refund()
            if isinstance(exc, CircuitBreakerOpenError):
                self._shared.counts.refused_circuit_breaker.add()
            raise
        return self._send(call, permit, started)

    def _send(self, call: Call, permit: Permit, started: float) -> Any:
        """Sends an attempt that was admitted at ``started``, and settles its permit exactly once."""
        call.attempts += 1
        try:
            value = self._sender.send(call)
        except Exception as exc:
            host = host_exception(exc)
            if host is not None:
                permit.ignore()
                try:
                    raise host  # as it is, whatever a transport took it for
                finally:
                    del host  # its traceback holds this frame: no work for the collector
            self._record_failure(permit, exc, call, self._now() - started)
            raise
        except BaseException:
            permit.ignore()
            raise
        elapsed = self._now() - started
        if type(permit) is SharedPermit:
            permit.successes.add()
        else:
            permit.success(elapsed)
        history = self._history
        usual = history.usual_latency
        history.usual_latency = usual + (elapsed - usual) * 0.1 if usual else elapsed
        if history.suspected:
            history.report_success()
        if self._events.attempts:
            self._emit(call, elapsed, None)
        return value

    def _wait_for_token(self, limiter: RateLimiter, call: Call) -> None:
        # A call that is still waiting when the plugin is replaced goes to the successor.
        admitted, call.admitted = call.admitted, False
        try:
            limiter.acquire(call.deadline, call.max_wait, closing=self._shared.closing)
        except RateLimitExceededError:
            self._shared.counts.refused_rate_limit.add()
            raise
        call.admitted = admitted

    def _record_failure(self, permit: Permit, exc: Exception, call: Call, elapsed: float) -> None:
        """Settles the permit by what the error says of the plugin, and reports it.

        Raises:
            LocalResourceError: in place of an error that was caused by a lack of this process or machine.
            CircuitBreakerTimeoutError: in place of the timeout of a breaker's probe.
        """
        local = local_failure(exc)
        if local is not None and local is not exc:
            try:
                self._record_failure(permit, local, call, elapsed)
                raise local from local.__cause__
            finally:
                del local, exc  # their tracebacks hold this frame: no work for the collector
        if not isinstance(exc, PluginError):
            permit.ignore()
            return
        history, error = self._history, exc
        verdict = error.verdict
        if verdict is Verdict.SUCCESS:
            permit.success(elapsed)
            if history.suspected:
                history.report_success()
        elif verdict is Verdict.IGNORED or (
            isinstance(error, PluginTimeoutError)
            and not _had_attempt_timeout(error, call.deadline)
            and not history.was_fair(elapsed)
        ):
            permit.ignore()
        else:
            permit.failure(elapsed)
            history.report_failure(error)
        if error.unsent:
            call.attempts -= 1
        elif self._events.failed_attempts:
            self._emit(call, elapsed, error)
        if permit.is_probe and type(error) is PluginTimeoutError:
            message = f"probing for the circuit breaker: {error.message}"
            raise CircuitBreakerTimeoutError(message, replay=error.replay, details=error.details) from error

    def _emit(self, call: Call, elapsed: float, error: PluginError | None) -> None:
        shared = self._shared
        sinks = shared.events.attempts if error is None else shared.events.failed_attempts
        member = call.member if error is None else error.plugin or ""
        name, at, request_id, attempt = shared.name, shared.clock.time(), call.request_id, call.attempts
        publish(sinks, AttemptFinished(name, at, request_id, attempt, elapsed, error, member, call.operation))


class TimedAttempt(Attempt):
    """An attempt with a deadline of its own, which begins when it is sent.

    Args:
        seconds: ``retry.attempt_timeout``.
    """

    __slots__ = ("_seconds",)

    def __init__(
        self, sender: Sender, breaker: CircuitBreaker, limiter: RateLimiter | None, shared: Shared, seconds: float
    ) -> None:
        super().__init__(sender, breaker, limiter, shared)
        self._seconds = seconds

    def _send(self, call: Call, permit: Permit, started: float) -> Any:
        of_call = call.deadline
        try:
            call.deadline = AttemptDeadline(of_call, self._seconds)
            return super()._send(call, permit, started)
        finally:
            call.deadline = of_call


def _had_attempt_timeout(error: PluginTimeoutError, deadline: Deadline) -> bool:
    """Whether the attempt has used up ``retry.attempt_timeout``; the error's text then says so."""
    seconds = deadline.attempt_timeout
    if seconds is None or deadline.remaining() > _EARLY:
        return False
    if "attempt_timeout" not in error.details:
        error.details["attempt_timeout"] = seconds
        error.message = f"{error.message}; retry.attempt_timeout is {seconds:g} s"
    return True
