"""One attempt at a plugin under its breaker and limiter, and what its outcome says about the plugin."""

from __future__ import annotations

from typing import Any, Protocol

from goplugins.config.plugin_sections import HealthCheckConfig
from goplugins.enums import CircuitBreakerState
from goplugins.errors import (
    CircuitBreakerOpenError,
    CircuitBreakerTimeoutError,
    PluginError,
    PluginTimeoutError,
    RateLimitExceededError,
    Verdict,
    is_fair_timeout,
)
from goplugins.models.results import HealthStatus
from goplugins.observability.event_stream import EventStream, publish
from goplugins.observability.events import AttemptFinished
from goplugins.pipeline.policies import Policies
from goplugins.resilience.permits import Permit, SharedPermit
from goplugins.resilience.rate_limiter import RateLimiter
from goplugins.runtime.call import Call
from goplugins.runtime.clock import Clock, Event
from goplugins.runtime.counter import Counter
from goplugins.transports.interface import Sender

__all__ = ["Attempts", "Watcher"]

_SHORTEST_LOOK = 0.25
"""Seconds between two looks at a plugin whose breaker is open, at least."""


class Watcher(Protocol):
    """Who wants to know how calls ended; a :class:`~goplugins.health.HealthChecker`."""

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


class Attempts:
    """Makes attempts at one plugin.

    Args:
        sender: the wire.
        clock: measures.
        name: the plugin's.
        events: is told how attempts ended.

    Attributes:
        sender: the wire; may be replaced while attempts are under way, which end where they began.
        policies: see :class:`~goplugins.pipeline.policies.Policies`; set before the first attempt.
        watcher: is told of failures, and of the first success after one.
        closing: set when the plugin closes; ends a wait for the limiter.
    """

    policies: Policies

    def __init__(self, sender: Sender, clock: Clock, name: str = "", events: EventStream | None = None) -> None:
        self.sender = sender
        self._name = name
        self._events = EventStream() if events is None else events
        self._time = clock.time
        self.watcher: Watcher | None = None
        self.closing = Event()
        self._refused_by_breaker = Counter()
        self._refused_by_limiter = Counter()
        self._now = clock.monotonic
        self._is_suspect = False  # the watcher was told of a failure and not yet of a success
        self._usual_latency = 0.0

    @property
    def refused_by_breaker(self) -> int:
        """Attempts that the breaker refused."""
        return self._refused_by_breaker.total

    @property
    def refused_by_limiter(self) -> int:
        """Attempts that the limiter refused."""
        return self._refused_by_limiter.total

    def make(self, call: Call) -> Any:
        """One attempt, in the order that semantics demands: breaker, token, permit, send, record.

        Raises:
            PluginError: what went wrong, whether refused here or by the plugin.
        """
        deadline = call.deadline
        started = self._now()
        if deadline.at <= started:
            raise PluginTimeoutError("the deadline passed before anything was sent")
        policies = self.policies
        breaker = policies.breaker
        # One that is closed has a permit for all to share, as a rule, and then refuses nobody.
        refusal = breaker.refusal() if breaker.shared_permit is None else None
        if refusal is not None:
            self._refused_by_breaker.add()
            try:
                raise refusal  # few frames from the caller: a dead plugin has to cost no more than a live one
            finally:
                del refusal  # its traceback holds this frame: no work for the collector
        limiter = policies.limiter
        if limiter is not None and not limiter.allow():
            self._wait_for_token(limiter, call)
            started = self._now()
        try:
            permit = breaker.enter(deadline.at)
        except BaseException as exc:
            if limiter is not None:
                limiter.refund()
            if isinstance(exc, CircuitBreakerOpenError):
                self._refused_by_breaker.add()
            raise
        return self._send(permit, call, started)

    def _wait_for_token(self, limiter: RateLimiter, call: Call) -> None:
        # Who still waits when the plugin is replaced goes to its successor.
        admitted, call.admitted = call.admitted, False
        try:
            limiter.acquire(call.deadline, call.max_wait, closing=self.closing)
        except RateLimitExceededError:
            self._refused_by_limiter.add()
            raise
        call.admitted = admitted

    def _send(self, permit: Permit, call: Call, started: float) -> Any:
        """The rest of an attempt that was admitted at ``started``. The permit is settled exactly once."""
        call.attempts += 1
        try:
            value = self.sender.send(call)
        except PluginError as error:
            elapsed = self._now() - started
            self._record(permit, error, call, elapsed)
            if self._events.failed_attempts and not error.unsent:
                self._tell(call, elapsed, error)
            if permit.is_probe and type(error) is PluginTimeoutError:
                raise CircuitBreakerTimeoutError(
                    f"probing for the circuit breaker: {error.message}", details=error.details
                ) from error
            raise
        except BaseException:
            permit.ignore()
            raise
        elapsed = self._now() - started
        usual = self._usual_latency
        self._usual_latency = usual + (elapsed - usual) * 0.1 if usual else elapsed
        if type(permit) is SharedPermit:
            permit.successes.add()
        else:
            permit.success(elapsed)
        if self._is_suspect and self.watcher is not None:
            self._is_suspect = False
            self.watcher.report_success()
        if self._events.attempts:
            self._tell(call, elapsed, None)
        return value

    def _tell(self, call: Call, elapsed: float, error: PluginError | None) -> None:
        sinks = self._events.attempts if error is None else self._events.failed_attempts
        member = call.member if error is None else error.plugin or ""
        number, name = call.attempts, self._name
        publish(sinks, AttemptFinished(name, self._time(), call.request_id, number, elapsed, error, member))

    def _record(self, permit: Permit, error: PluginError, call: Call, elapsed: float) -> None:
        if error.unsent:
            call.attempts -= 1
        verdict = error.verdict
        if verdict is Verdict.SUCCESS:
            permit.success(elapsed)
        elif verdict is Verdict.IGNORED or (isinstance(error, PluginTimeoutError) and not self.was_fair(elapsed)):
            permit.ignore()
        else:
            permit.failure(elapsed)
            if self.watcher is not None:
                self._is_suspect = True
                self.watcher.report_failure(error)

    def was_fair(self, elapsed: float) -> bool:
        """Whether a plugin that timed out had time enough for it to be the plugin's fault."""
        return is_fair_timeout(elapsed, self._usual_latency)

    def breaker_changed(self, _: CircuitBreakerState, new: CircuitBreakerState) -> None:
        """The breaker's listener. No call finds out that a plugin is back while it keeps them away: looks have to."""
        if self.watcher is not None:
            recovery = self.policies.breaker.recovery_timeout
            self.watcher.shorten_interval(None if new is CircuitBreakerState.CLOSED else max(recovery, _SHORTEST_LOOK))
