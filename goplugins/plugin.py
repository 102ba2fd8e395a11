"""One guarded plugin: a sender behind its gate and policies. The middle hop of every call."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

import attrs

from goplugins._call import Call, Codec, Sender
from goplugins._clock import SYSTEM_CLOCK, Clock
from goplugins.config import PluginConfig
from goplugins.errors import (
    CircuitBreakerOpenError,
    CircuitBreakerTimeoutError,
    InvalidArgumentError,
    PluginClosedError,
    PluginError,
    PluginInternalError,
    PluginTimeoutError,
    RateLimitExceededError,
    Replay,
    SaturatedError,
    Verdict,
    belongs_to_host,
    redact_url,
)
from goplugins.models import (
    CircuitBreakerState,
    ExecutionContext,
    Explanation,
    HealthStatus,
    PluginInfo,
    PluginMetrics,
    PluginStatus,
)
from goplugins.resilience.budget import RetryBudget
from goplugins.resilience.circuit_breaker import CircuitBreaker, Permit
from goplugins.resilience.gate import InFlightGate
from goplugins.resilience.rate_limiter import RateLimiter
from goplugins.resilience.retry import RetryPolicy
from goplugins.scheduler import get_scheduler
from goplugins.transports._bare import execute_bare

__all__ = ["BarePlugin", "GuardedPlugin", "Policies", "resolved"]

logger = logging.getLogger("goplugins.plugin")

T = TypeVar("T")
Req = TypeVar("Req")
Resp = TypeVar("Resp")

_UNSENT = (SaturatedError, PluginClosedError, InvalidArgumentError)
"""What a sender raises before anything left this side: no attempt."""

_FAIR_TIMEOUT = 0.1
"""Seconds. A timeout says nothing about a plugin that had less than this and less than twice its usual latency."""


_SHORTEST_LOOK = 0.25
"""Seconds between two looks at a plugin whose breaker is open, at least."""


class Watcher(Protocol):
    """Who wants to know how calls ended; a :class:`~goplugins.health.HealthChecker`."""

    def report_success(self) -> None: ...
    def report_failure(self, error: BaseException, /) -> None: ...
    def hurry(self, interval: float | None, /) -> None: ...


@attrs.frozen
class Policies:
    """What guards a plugin; replaced as a whole."""

    breaker: CircuitBreaker
    limiter: RateLimiter | None
    retry: RetryPolicy
    budget: RetryBudget

    @classmethod
    def of(
        cls,
        config: PluginConfig,
        *,
        clock: Clock,
        rng: random.Random,
        on_transition: Callable[[CircuitBreakerState, CircuitBreakerState], object] | None = None,
    ) -> Policies:
        """The policies that a resolved configuration asks for."""
        retry, limit = resolved(config.retry), resolved(config.rate_limit)
        breaker = resolved(config.circuit_breaker)
        return cls(
            breaker=CircuitBreaker(breaker, clock=clock, rng=rng, name=config.name, on_transition=on_transition),
            limiter=RateLimiter(limit, clock=clock) if limit.enabled else None,
            retry=RetryPolicy(retry, rng=rng),
            budget=RetryBudget(resolved(retry.budget_ratio), clock=clock),
        )


def resolved(value: T | None) -> T:
    """A field of a configuration that has its defaults filled in: never None.

    Raises:
        InvalidArgumentError: it is None all the same.
    """
    if value is None:
        raise InvalidArgumentError("the plugin's configuration has fields to inherit: pass ManagerConfig().resolve(it)")
    return value


class GuardedPlugin:
    """A plugin with everything between a call and its wire.

    Args:
        sender: the wire, or an adapted object.
        plugin: what ``get_plugin`` shows.
        config: resolved: no field is None.
        from_config: whether a configuration file owns it (a reload then may replace it) or code does.

    Attributes:
        watcher: is told of failures, and of the first success after one.
        on_first_call: runs before the first call, in every process: background work starts by need.
    """

    def __init__(
        self,
        sender: Sender,
        plugin: Any,
        config: PluginConfig,
        *,
        from_config: bool = True,
        clock: Clock = SYSTEM_CLOCK,
        rng: random.Random | None = None,
    ) -> None:
        self.name = config.name
        self.config = config
        self.plugin = plugin
        self.from_config = from_config
        self.endpoint = redact_url(config.endpoint or config.executable or "")
        self.request_timeout: float = resolved(resolved(config.connection).request_timeout)
        self.idempotent: bool = resolved(resolved(config.retry).idempotent)
        self.sender = sender
        rng = rng or random.Random()  # noqa: S311 - only jitter
        self.policies = Policies.of(config, clock=clock, rng=rng, on_transition=self._breaker_changed)
        self.gate = InFlightGate()
        self.last_error: tuple[float, str] | None = None
        self.watcher: Watcher | None = None
        self._is_suspect = False  # the watcher was told of a failure and not yet of a success
        self.on_first_call: Callable[[], object] | None = None
        self.clock = clock
        self._now = clock.monotonic
        self._closing = threading.Event()
        self._refused_by_breaker = 0
        self._refused_by_limiter = 0
        self._budget_exhausted = 0
        self._usual_latency = 0.0

    # --- a call ------------------------------------------------------------------------------------------------

    def call(self, call: Call) -> Any:
        """The whole call: one attempt, and where that fails, replays as far as the policies allow.

        Raises:
            PluginError: what went wrong, with attempts and elapsed time. Exceptions of the host pass as they are.
        """
        if self.on_first_call is not None:
            self._wake_up()
        started = self._now()
        ok = False
        try:
            self.gate.enter(call)
            call.admitted = True
            value = self._run(call)
            ok = True
            return value
        except PluginError as error:
            self._annotate(error, call, started)
            raise
        except Exception as exc:
            if belongs_to_host(exc):
                raise
            fault = PluginInternalError(f"unexpected {type(exc).__name__} in goplugins: {exc}")
            self._annotate(fault, call, started)
            raise fault from exc
        finally:
            try:
                if call.inside:
                    self.gate.leave(ok, self._now() - started, call.attempts, call)
            except BaseException:
                # An interrupt in the very act of leaving. Leaving again counts for nothing if the first got through.
                self.gate.leave(ok, self._now() - started, call.attempts, call)
                raise

    def _run(self, call: Call) -> Any:
        try:
            self.sender.prepare(call)
            value = self._attempt(call)
        except PluginError as error:
            if call.attempts:
                self.policies.budget.deposit()
            if error.replay is Replay.NEVER:
                raise  # most refusals end here, and must stay as cheap as a call
            return self._replay(call, error)
        self.policies.budget.deposit()
        return value

    def _attempt(self, call: Call) -> Any:
        """One attempt, in the order that semantics demands: breaker, token, permit, send, record."""
        permit = self._admit(call)
        call.attempts += 1
        started = self._now()
        try:
            value = self.sender.send(call)
        except PluginError as error:
            self._record(permit, error, call, self._now() - started)
            if permit.is_probe and type(error) is PluginTimeoutError:
                raise CircuitBreakerTimeoutError(f"probing for the circuit breaker: {error.message}") from error
            raise
        except BaseException:
            permit.ignore()
            raise
        elapsed = self._now() - started
        usual = self._usual_latency
        self._usual_latency = usual + (elapsed - usual) * 0.1 if usual else elapsed
        permit.success(elapsed)
        if self._is_suspect and self.watcher is not None:
            self._is_suspect = False
            self.watcher.report_success()
        return value

    def _admit(self, call: Call) -> Permit:
        """The breaker's permit, and a token paid for it. What :meth:`CircuitBreaker.enter` gives is settled once."""
        deadline = call.deadline
        if deadline.at <= self._now():
            raise PluginTimeoutError("the deadline passed before anything was sent")
        policies = self.policies
        limiter = policies.limiter
        try:
            if limiter is None:
                return policies.breaker.enter(deadline.at)
            policies.breaker.check()
            if not limiter.allow():
                limiter.acquire(deadline, call.max_wait, wakeup=self._closing)
            try:
                return policies.breaker.enter(deadline.at)
            except BaseException:
                limiter.refund()
                raise
        except CircuitBreakerOpenError:
            self._refused_by_breaker += 1
            raise
        except RateLimitExceededError:
            self._refused_by_limiter += 1
            raise

    def _record(self, permit: Permit, error: PluginError, call: Call, elapsed: float) -> None:
        if isinstance(error, _UNSENT):
            call.attempts -= 1
        verdict = error.verdict
        if verdict is Verdict.SUCCESS:
            permit.success(elapsed)
        elif verdict is Verdict.IGNORED or (isinstance(error, PluginTimeoutError) and not self._was_fair(elapsed)):
            permit.ignore()
        else:
            permit.failure(elapsed)
            if self.watcher is not None:
                self._is_suspect = True
                self.watcher.report_failure(error)

    def _was_fair(self, elapsed: float) -> bool:
        """Whether a plugin that timed out had time enough for it to be the plugin's fault."""
        return elapsed >= _FAIR_TIMEOUT or 0 < 2 * self._usual_latency <= elapsed

    def _replay(self, call: Call, error: PluginError) -> Any:
        def exhausted() -> None:
            self._budget_exhausted += 1

        policies = self.policies
        return policies.retry.run(
            error,
            lambda: self._attempt(call),
            idempotent=call.idempotent,
            max_retries=call.max_retries,
            deadline=call.deadline,
            budget=policies.budget,
            clock=self.clock,
            wakeup=self._closing,
            on_budget_exhausted=exhausted,
        )

    def _annotate(self, error: PluginError, call: Call, started: float) -> None:
        error.plugin = error.plugin or self.name
        error.endpoint = error.endpoint or self.endpoint or None
        error.attempts = call.attempts
        error.elapsed = self._now() - started
        if call.attempts:  # a local refusal says nothing new, and would hide what led to it
            self.last_error = (self._now(), f"{error.code} {error.message}")

    def _wake_up(self) -> None:
        wake, self.on_first_call = self.on_first_call, None
        if wake is not None:
            wake()

    def _breaker_changed(self, _: CircuitBreakerState, new: CircuitBreakerState) -> None:
        """No call finds out that a plugin is back while its breaker keeps them away: health checks have to."""
        if self.watcher is not None:
            recovery: float = resolved(resolved(self.config.circuit_breaker).recovery_timeout)
            self.watcher.hurry(None if new is CircuitBreakerState.CLOSED else max(recovery, _SHORTEST_LOOK))

    # --- state -------------------------------------------------------------------------------------------------

    def health(self, timeout: float) -> HealthStatus:
        """Looks at the plugin's health, outside the policies. A good answer ends an open breaker's waiting time."""
        status = self.sender.health(timeout)
        if status.status is PluginStatus.HEALTHY:
            self.policies.breaker.probe_succeeded()
        return status

    def sweep(self) -> None:
        """Lets the wire close what it has not used for long, where it keeps anything."""
        sweep = getattr(self.sender, "sweep", None)
        if sweep is not None:
            sweep()

    def metrics(self, health_check_failures: int = 0) -> PluginMetrics:
        """The counts so far."""
        counts = self.gate.snapshot()
        return PluginMetrics(
            requests_total=counts.succeeded + counts.failed,
            requests_success=counts.succeeded,
            requests_failure=counts.failed,
            request_duration=counts.duration,
            attempts_total=counts.attempts,
            active_requests=counts.in_flight,
            circuit_breaker_trips=self.policies.breaker.trips,
            health_check_failures=health_check_failures,
            refused_rate_limit=self._refused_by_limiter,
            refused_circuit_breaker=self._refused_by_breaker,
            retry_budget_exhausted=self._budget_exhausted,
        )

    def explain(self, health: HealthStatus) -> Explanation:
        """Why it would or would not take a call now."""
        policies = self.policies
        tokens = policies.limiter.tokens if policies.limiter is not None else None
        reason = ""
        try:
            policies.breaker.check()
        except CircuitBreakerOpenError as refusal:
            reason = refusal.message
        if self.gate.closed:
            reason = "it is closed"
        elif not reason and tokens is not None and tokens < 1 and not resolved(self.config.rate_limit).max_wait:
            reason = "its rate limiter has no token"
        when, what = self.last_error or (None, "")
        return Explanation(
            name=self.name,
            admits=not reason,
            reason=reason,
            endpoint=self.endpoint,
            breaker=policies.breaker.state,
            health=health,
            tokens=tokens,
            in_flight=self.gate.in_flight,
            last_error=what,
            last_error_ago=None if when is None else self._now() - when,
            annotations=self.config.annotations or {},
        )

    # --- end ---------------------------------------------------------------------------------------------------

    def retire(self, timeout: float, reason: str = "it was removed") -> bool:
        """Refuses new calls, waits for those in flight at most ``timeout`` seconds, then closes the wire.

        A call on this very stack is not waited for: the last call out closes.

        Returns:
            True if no call was left behind.
        """
        self.refuse(reason)
        drained = self.drain(timeout)
        self.close()
        return drained

    def refuse(self, reason: str) -> None:
        """Lets no new call in, and wakes those that wait for a retry or a token."""
        self.gate.close(f"plugin {self.name!r}: {reason}")
        self._closing.set()
        if self.policies.limiter is not None:
            self.policies.limiter.wake()

    def drain(self, timeout: float) -> bool:
        """Waits for the calls in flight, save those on this stack, at most ``timeout`` seconds; True if all are out."""
        drained = self.gate.drain(timeout, self.clock)
        if not drained:
            logger.warning("%s: calls are still in flight after %.1f s", self.name, timeout)
        return drained

    def close(self) -> None:
        """Closes the wire: now, or with the last call out if that is on this very stack."""
        if not self.gate.drain(0.0, self.clock, on_empty=self._close_wire):
            self._close_wire()

    def _close_wire(self) -> None:
        try:
            self.sender.close()
        except Exception as exc:
            if belongs_to_host(exc):
                raise
            logger.exception("%s: could not be closed cleanly", self.name)

    def after_fork_in_child(self) -> None:
        """A fresh event: its lock may have been held. Policies, gate and sender are renewed on their own."""
        closing = threading.Event()
        if self._closing.is_set():
            closing.set()
        self._closing = closing
        # Not here: a child that only execs makes no call, and needs no thread.
        self.on_first_call = self.on_first_call or (lambda: get_scheduler().ensure_thread())


class BarePlugin(Generic[Req, Resp]):
    """What ``get_plugin`` shows of a wire: the :class:`~goplugins.models.Plugin` methods, typed, no policy."""

    def __init__(self, guarded: GuardedPlugin, codec: Codec) -> None:
        self.sender = guarded.sender
        self._guarded = guarded
        self._codec = codec

    def info(self) -> PluginInfo:
        """Who the plugin is."""
        return self.sender.info()

    def execute(self, request: Req, context: ExecutionContext = ExecutionContext(), /) -> Resp:  # noqa: B008 - frozen
        """One attempt, without retries, breaker or limiter."""
        guarded = self._guarded
        return execute_bare(  # type: ignore[no-any-return]
            self.sender,
            request,
            context,
            timeout=guarded.request_timeout,
            idempotent=guarded.idempotent,
            clock=guarded.clock,
            codec=self._codec,
        )

    def health(self, timeout: float) -> HealthStatus:
        """Looks at the plugin's health."""
        return self.sender.health(timeout)

    def close(self) -> None:
        """Nothing: the manager owns the wire. ``unregister`` closes it."""
