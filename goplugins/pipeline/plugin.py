"""One guarded plugin: a sender behind an in-flight tracker and a pipeline of policies. The middle hop of every call."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from goplugins.config import OperationConfig, PluginConfig
from goplugins.enums import CircuitBreakerState, PluginStatus
from goplugins.errors import (
    CircuitBreakerOpenError,
    PluginClosedError,
    PluginError,
    PluginInternalError,
    PluginNotFoundError,
    belongs_to_host,
    local_failure,
    redact_url,
)
from goplugins.models.explanation import Explanation, GroupExplanation
from goplugins.models.metrics import PluginMetrics
from goplugins.models.results import HealthStatus
from goplugins.observability.event_stream import EventStream, publish
from goplugins.observability.events import BreakerChanged, CallFinished
from goplugins.pipeline.attempts import Checker, Forward, Shared
from goplugins.pipeline.pipeline import Pipeline, resolved
from goplugins.resilience.call_counts import Counts
from goplugins.resilience.in_flight import InFlightTracker
from goplugins.runtime.call import Call
from goplugins.runtime.callbacks import Subscribers
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock
from goplugins.runtime.fork import create_lock
from goplugins.runtime.scheduler import get_scheduler
from goplugins.runtime.text import counted
from goplugins.runtime.workers import WorkerPool
from goplugins.transports.interface import Sender

logger = logging.getLogger("goplugins.plugin")


def _no_forward(name: str, call: Call) -> Any:
    raise PluginNotFoundError("there is no manager to find it", plugin=name)


class GuardedPlugin:
    """A plugin with everything between a call and its sender.

    Args:
        sender: makes the attempts: a transport, or an adapted object.
        plugin: what ``get_plugin`` shows.
        config: resolved: no field is None that has a default.
        from_config: whether a configuration file owns it (a reload may replace it then) or code does.
        clock: measures and waits.
        rng: draws jitter.
        hedge_pool: runs hedged attempts; without it there are none.
        forward: makes a call of another plugin, for a fallback.
        events: receives what happens.
        counts: of the plugin's name; a plugin that replaces another one gets those of its predecessor.

    Attributes:
        pipeline: the policies; a reload replaces it in one assignment.
        tracker: the calls in flight.
        on_first_call: runs before the first call in every process, since background work starts when it is needed, and
            before each further one until it returns True.
        superseded: another plugin has taken its place, and makes the calls that this one has not admitted.
        last_error: when the last call failed that was sent, and its code and message.
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
        hedge_pool: WorkerPool | None = None,
        forward: Forward | None = None,
        events: EventStream | None = None,
        counts: Counts | None = None,
    ) -> None:
        self.name = config.name
        self.plugin = plugin
        self.from_config = from_config
        self.endpoint = redact_url(config.endpoint or config.executable or "")
        self.clock = clock
        self.events = EventStream() if events is None else events
        self.counts = Counts() if counts is None else counts
        self.tracker = InFlightTracker(self.counts, lambda: self.pipeline.operations)
        self.last_error: tuple[float, str] | None = None
        self.on_first_call: Callable[[], bool] | None = None
        self.superseded = False
        self._now = clock.monotonic
        self._lock = create_lock(self)  # held only to swap pipelines
        self._subscribers = Subscribers()
        self._shared = Shared(
            name=config.name,
            clock=clock,
            rng=rng or random.Random(),  # noqa: S311 - only jitter
            events=self.events,
            counts=self.counts,
            forward=forward or _no_forward,
            on_transition=self._breaker_changed,
            on_replaced_error=self._record_replaced_error,
        )
        self.pipeline = Pipeline.build(config, sender, self._shared, hedge_pool=hedge_pool)

    @property
    def config(self) -> PluginConfig:
        """The present configuration, resolved."""
        return self.pipeline.config

    @property
    def sender(self) -> Sender:
        """Makes the attempts; may inject faults."""
        return self.pipeline.sender

    @property
    def wire(self) -> Sender:
        """The sender without injected faults."""
        return self.pipeline.sender.wire

    # --- a call ------------------------------------------------------------------------------------------------

    def call(self, call: Call, *, as_member: bool = False) -> Any:
        """The whole call: one attempt, and where that fails, retries as far as the policies allow.

        Args:
            call: what to send, and its deadline.
            as_member: makes one attempt for a group, which has the other policies.

        Raises:
            PluginError: what went wrong, with attempts and elapsed time. Exceptions of the host pass unchanged.
        """
        started = self._now()
        ok: bool | None = False
        code = ""
        pipeline = self.pipeline
        try:
            if self.on_first_call is not None:
                self._run_first_call_hook()
            self.tracker.enter(call)
            call.admitted = True
            pipeline.sender.prepare(call)
            value = (pipeline.run_as_member if as_member else pipeline.run)(call)
            ok = True
            if self.events.calls:
                self._emit(call, started, None, as_member)
            return value
        except PluginError as error:
            if self.superseded and not call.admitted and isinstance(error, PluginClosedError):
                ok = None
                raise  # it has not failed: the successor makes it
            code = error.code
            self._annotate(error, call, started)
            self._emit(call, started, error, as_member)
            raise
        except BaseException as exc:
            if ok:
                raise  # an interrupt after the call's event was emitted
            if not isinstance(exc, Exception) or belongs_to_host(exc):
                code = type(exc).__name__
                self._emit(call, started, exc, as_member)
                raise
            fault = _unexpected(exc, call)
            code = fault.code
            self._annotate(fault, call, started)
            self._emit(call, started, fault, as_member)
            raise fault from exc
        finally:
            try:
                if call.inside:
                    self.tracker.leave(ok, self._now() - started, call.attempts, call, code)
            except BaseException:
                # An interrupt within leave(). Leaving again counts for nothing if the first got through.
                self.tracker.leave(ok, self._now() - started, call.attempts, call, code)
                raise

    def call_as_member(self, call: Call, *, nested: bool = False) -> Any:
        """One attempt under this plugin's own tracker, bulkhead, breaker and limiter, for a group.

        ``call`` gets the reply's metadata; its attempts are counted by the group.

        Args:
            call: the group's call.
            nested: the group had admitted it before both were removed: this plugin admits it, although closed.

        Raises:
            PluginError: what went wrong. With ``attempts`` 0 nothing was sent, and another member may be tried.
        """
        attempt = call.copy_for_attempt(call.deadline)
        attempt.nested = nested
        value = self.call(attempt, as_member=True)
        call.adopt_result(attempt)
        call.member = self.name
        return value

    def _annotate(self, error: PluginError, call: Call, started: float) -> None:
        error.elapsed = self._now() - started
        error.attempts = call.attempts
        if error.plugin is None:
            error.plugin = self.name
        if call.operation and error.operation is None and error.plugin == self.name:
            error.operation = call.operation
        if error.endpoint is None:
            error.endpoint = self.endpoint or None
        if call.attempts:  # a local refusal says nothing new, and would hide what led to it
            self.last_error = (self._now(), f"{error.code} {error.message}")

    def _emit(self, call: Call, started: float, error: BaseException | None, as_member: bool) -> None:
        sinks = self.events.calls if error is None else self.events.failed_calls
        if sinks:
            at, elapsed = self.clock.time(), self._now() - started
            name, sent, source, member, operation = self.name, call.attempts, call.source, call.member, call.operation
            publish(
                sinks,
                CallFinished(name, at, call.request_id, elapsed, sent, source, member, error, as_member, operation),
            )

    def _record_replaced_error(self, call: Call, error: PluginError) -> None:
        self._annotate(error, call, self._now() - error.elapsed)

    def _run_first_call_hook(self) -> None:
        hook = self.on_first_call
        try:
            if hook is not None and hook() and self.on_first_call is hook:
                self.on_first_call = None
        except Exception as exc:
            if local_failure(exc) is None:
                raise
            # The call may need nothing of what is lacking; the next one runs the hook again.

    # --- policies ----------------------------------------------------------------------------------------------

    def reconfigure(
        self, config: PluginConfig, *, hedge_pool: WorkerPool | None = None, keep: Pipeline | None = None
    ) -> None:
        """Swaps in a pipeline with the policies of another configuration. The sender's connections are not touched.

        Calls in flight end on the pipeline that they began with.

        Args:
            config: resolved; the same in all that the sender and its connections depend on.
            hedge_pool: runs hedged attempts.
            keep: the pipeline whose policies keep their state; by default the present one.

        Raises:
            ConfigError: a fallback that can't be used; nothing has changed then.
        """
        while True:
            before = self.pipeline
            sender, commit = before.sender, None
            if config.chaos != before.config.chaos:
                from goplugins.transports.chaos import with_other_chaos

                sender, commit = with_other_chaos(sender, config, clock=self.clock)
            after = Pipeline.build(config, sender, self._shared, hedge_pool=hedge_pool, keep=keep or before)
            if before.bulkhead is None and after.bulkhead is not None:
                self.tracker.lend_permits(after.bulkhead)
            if self._swap(before, after):
                break
        if commit is not None:
            commit()
        if self.checker is not None and config.health_check != before.config.health_check:
            self.checker.reconfigure(resolved(config.health_check))
        self.notify_changed()

    def replace_sender(self, change: Callable[[Sender], Sender]) -> None:
        """Makes further calls through another sender.

        Args:
            change: takes the present sender and returns one that wraps it, or that it wraps. It is called again if the
                present one changes meanwhile.
        """
        while True:
            before = self.pipeline
            sender = change(before.sender)
            if sender is before.sender or self._swap(before, attrs.evolve(before, sender=sender)):
                return

    def _swap(self, before: Pipeline, after: Pipeline) -> bool:
        """Replaces the pipeline ``before``; False if another thread has replaced it meanwhile. Takes the lock."""
        with self._lock:
            if self.pipeline is not before:
                return False
            self.pipeline = after
            return True

    @property
    def operations(self) -> Mapping[str, OperationConfig]:
        """The operations, by name."""
        return self.pipeline.operations

    # --- as a member of a group ----------------------------------------------------------------------------------

    def admits(self) -> bool:
        """Whether it accepts calls, and its breaker would admit one now. Sends nothing."""
        return not self.tracker.closed and self.pipeline.breaker.retry_after() <= 0

    def retry_after(self) -> float:
        """Seconds until its breaker admits a call at the latest; 0 if it does now, infinite while forced open."""
        return self.pipeline.breaker.retry_after()

    def status(self) -> PluginStatus:
        """The result of the last health check."""
        checker = self.checker
        return PluginStatus.UNKNOWN if checker is None else checker.status.status

    def subscribe(self, callback: Callable[[], object], /) -> Callable[[], object]:
        """Has ``callback`` called, outside all locks, after changes of breaker, health or tracker.

        Returns:
            A function that ends the subscription.
        """
        return self._subscribers.add(callback)

    def notify_changed(self) -> None:
        """Calls the subscribers."""
        self._subscribers.notify()

    def _breaker_changed(self, old: CircuitBreakerState, new: CircuitBreakerState) -> None:
        breaker = self.pipeline.breaker
        self._shared.history.breaker_changed(new, breaker.recovery_timeout)
        if self.events.changes:
            event = BreakerChanged(self.name, self.clock.time(), old, new, breaker.retry_after())
            publish(self.events.changes, event)
        self.notify_changed()

    # --- state -------------------------------------------------------------------------------------------------

    @property
    def checker(self) -> Checker | None:
        """The plugin's health checker, once it is watched."""
        return self._shared.history.checker

    def watch_with(self, checker: Checker, on_first_call: Callable[[], bool]) -> None:
        """Has a checker take the outcomes of calls from now on, and ``on_first_call`` run before the next call."""
        self._shared.history.checker = checker
        self.on_first_call = on_first_call

    def expect_success(self) -> None:
        """Has the next success of an attempt reported to the checker."""
        self._shared.history.suspected = True

    def health(self, timeout: float) -> HealthStatus:
        """Checks the plugin's health, outside the policies. A good result ends the waiting time of an open breaker."""
        status = self.sender.health(timeout)
        if status.status is PluginStatus.HEALTHY:
            breaker = self.pipeline.breaker
            if breaker.state is not CircuitBreakerState.CLOSED:
                breaker.probe_succeeded()
                self.notify_changed()
        return status

    def judge(self, checked: HealthStatus) -> HealthStatus:
        """The plugin's health at this moment: a group's follows from its members, and an open breaker counts.

        Args:
            checked: by its own health checks and calls.
        """
        known = self.wire.group_health() or checked
        breaker = self.pipeline.breaker
        if breaker.state is CircuitBreakerState.CLOSED or known.status in (
            PluginStatus.UNHEALTHY,
            PluginStatus.OFFLINE,
        ):
            return known
        status, message = PluginStatus.DEGRADED, "the next calls are probes of its circuit breaker"
        if breaker.state is CircuitBreakerState.OPEN and breaker.retry_after() > 0:
            status, message = PluginStatus.UNHEALTHY, "its circuit breaker is open"
            if self.last_error is not None:
                message += f", after {self.last_error[1]}"
        return attrs.evolve(known, status=status, message=message, reported=False)

    def sweep(self) -> None:
        """Closes connections that were idle for too long."""
        self.wire.sweep()

    def metrics(self) -> PluginMetrics:
        """The counts of the plugin's name so far."""
        return self.counts.metrics(self.tracker.in_flight)

    def explain(self, health: HealthStatus) -> Explanation:
        """Whether it would admit a call now, and why not.

        Args:
            health: the result of the last health check.
        """
        pipeline = self.pipeline
        tokens = None if pipeline.limiter is None else pipeline.limiter.tokens
        group = self.wire.explain()
        reason = self._refusal(pipeline, tokens, group)
        when, last_error = self.last_error or (None, "")
        return Explanation(
            name=self.name,
            admits=not reason,
            reason=reason,
            endpoint=self.endpoint,
            breaker=pipeline.breaker.state,
            health=health,
            tokens=tokens,
            in_flight=self.tracker.in_flight,
            last_error=last_error,
            last_error_ago=None if when is None else self._now() - when,
            annotations=pipeline.config.annotations or {},
            chaos=pipeline.sender.chaos,
            group=group,
            operations={name: f"{each.method} {each.path}".strip() for name, each in pipeline.operations.items()},
        )

    def _refusal(self, pipeline: Pipeline, tokens: float | None, group: GroupExplanation | None) -> str:
        """Why it would refuse a call now; empty if it would not."""
        if self.tracker.closed:
            return "it is closed"
        try:
            pipeline.breaker.check()
        except CircuitBreakerOpenError as refusal:
            return refusal.message
        if tokens is not None and tokens < 1 and not resolved(pipeline.config.rate_limit).max_wait:
            return "its rate limiter has no token"
        if pipeline.bulkhead is not None and pipeline.bulkhead.is_full:
            return f"its bulkhead is full: {counted(pipeline.bulkhead.in_use, 'call')} at once"
        if group is not None and not any(member.eligible for member in group.members):
            return "none of its members does" if group.members else group.resolution or "it has no members"
        return ""

    # --- end ---------------------------------------------------------------------------------------------------

    def drain_and_close(self, timeout: float, reason: str = "it was removed") -> bool:
        """Rejects new calls, waits for those in flight at most ``timeout`` seconds, then closes the sender.

        A call on the caller's own stack is not waited for: the last call to end closes.

        Returns:
            True if all calls have ended.
        """
        self.reject_calls(reason)
        drained = self.drain(timeout)
        self.close()
        return drained

    def reject_calls(self, reason: str) -> None:
        """Rejects new calls, and ends the waits of admitted ones for a retry, a token or a slot."""
        self.tracker.close(f"plugin {self.name!r}: {reason}")
        self._shared.closing.set()
        pipeline = self.pipeline
        if pipeline.limiter is not None:
            pipeline.limiter.wake()
        if pipeline.bulkhead is not None:
            pipeline.bulkhead.wake()
        self.notify_changed()

    def stop_accepting(self, reason: str = "another has taken its place") -> int:
        """Rejects new calls, as :meth:`reject_calls`, but lets admitted ones wait and retry.

        Returns:
            How many calls of other threads are in flight.
        """
        self.tracker.close(f"plugin {self.name!r}: {reason}")
        self.notify_changed()
        return self.tracker.in_flight - self.tracker.holds(threading.get_ident())

    def drain(self, timeout: float) -> bool:
        """Waits at most ``timeout`` seconds for calls in flight, save those on this stack; True if all have ended."""
        drained = self.tracker.drain(timeout, self.clock)
        if not drained:
            logger.warning("%s: calls are still in flight after %.1f s", self.name, timeout)
        return drained

    def close(self) -> None:
        """Closes the sender: now, or at the end of the last call if that is on the caller's own stack."""
        if not self.tracker.drain(0.0, self.clock, on_empty=self._close_sender):
            self._close_sender()

    def _close_sender(self) -> None:
        try:
            self.sender.close()
        except Exception as exc:
            if belongs_to_host(exc):
                raise
            logger.exception("%s: could not be closed cleanly", self.name)

    def after_fork_in_child(self) -> None:
        """Has the scheduler's thread started by the next call: a child that only execs needs none."""
        self.on_first_call = self.on_first_call or _ensure_scheduler


def _unexpected(exc: Exception, call: Call) -> PluginError:
    fault = local_failure(exc, unsent=not call.attempts)
    return fault or PluginInternalError(f"unexpected {type(exc).__name__} in goplugins: {exc}")


def _ensure_scheduler() -> bool:
    return get_scheduler().ensure_thread()
