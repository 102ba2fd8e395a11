"""One guarded plugin: a sender behind its gate and policies. The middle hop of every call."""

from __future__ import annotations

import contextlib
import logging
import random
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from goplugins.config import BulkheadConfig, PluginConfig
from goplugins.config.schema import same_value
from goplugins.enums import CircuitBreakerState, PluginStatus
from goplugins.errors import (
    PluginClosedError,
    PluginError,
    PluginInternalError,
    PluginNotFoundError,
    Replay,
    belongs_to_host,
    redact_url,
)
from goplugins.models.explanation import Explanation
from goplugins.models.metrics import PluginMetrics
from goplugins.models.results import HealthStatus
from goplugins.observability.event_stream import EventStream, publish
from goplugins.observability.events import BreakerChanged, CallFinished
from goplugins.pipeline.attempts import Attempts, Watcher
from goplugins.pipeline.policies import Policies, resolved
from goplugins.pipeline.statistics import counted, explain
from goplugins.resilience.bulkhead import Bulkhead, load_signal
from goplugins.resilience.hedge_policy import HedgePolicy
from goplugins.resilience.in_flight import InFlightTracker
from goplugins.runtime.call import Call
from goplugins.runtime.callbacks import run_callback
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock, Event
from goplugins.runtime.scheduler import get_scheduler
from goplugins.runtime.workers import WorkerPool
from goplugins.transports.interface import Sender

__all__ = ["Forward", "GuardedPlugin"]

if TYPE_CHECKING:
    from goplugins.pipeline.cache_and_fallback import Answers
    from goplugins.pipeline.hedging import Hedger

logger = logging.getLogger("goplugins.plugin")


Forward = Callable[[str, Call], Any]
"""Makes a call of another plugin, by its name and under its own policies."""


_NO_BULKHEAD = BulkheadConfig(max_concurrent=1_000_000_000)


def _nobody(name: str, call: Call) -> Any:
    raise PluginNotFoundError("there is no manager to find it", plugin=name)


class GuardedPlugin:
    """A plugin with everything between a call and its wire.

    Args:
        sender: the wire, or an adapted object.
        plugin: what ``get_plugin`` shows.
        config: resolved: no field is None.
        hedge_pool: runs hedged attempts; none are made without.
        forward: makes a call of another plugin, for a fallback.
        events: is told of what happens.
        from_config: whether a configuration file owns it (a reload then may replace it) or code does.

    Attributes:
        attempts: the wire and the policies of single attempts.
        budget_exhausted: replays that the budget refused.
        hedges_before: sent and won by hedgers that were replaced.
        on_first_call: runs before the first call, in every process: background work starts by need.
        superseded: another one has taken its place, and makes the calls that it has not admitted.
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
    ) -> None:
        self.name = config.name
        self.config = config
        self.plugin = plugin
        self.from_config = from_config
        self.endpoint = redact_url(config.endpoint or config.executable or "")
        self.request_timeout: float = resolved(resolved(config.connection).request_timeout)
        self.idempotent: bool = resolved(resolved(config.retry).idempotent)
        self._rng = rng = rng or random.Random()  # noqa: S311 - only jitter
        self.events = EventStream() if events is None else events
        self.attempts = Attempts(sender, clock, config.name, self.events)
        self.attempts.policies = Policies.of(config, clock=clock, rng=rng, on_transition=self._breaker_changed)
        self.tracker = InFlightTracker()
        self.last_error: tuple[float, str] | None = None
        self.on_first_call: Callable[[], object] | None = None
        self.superseded = False
        self.clock = clock
        self._now = clock.monotonic
        self._time = clock.time
        self.budget_exhausted = 0
        self.bulkhead: Bulkhead | None = None
        self.hedger: Hedger | None = None
        self.answers: Answers | None = None
        self.hedges_before = (0, 0)
        self._forward = forward or _nobody
        self._inside: Callable[[Call], Any]
        self._once: Callable[[Call], Any]
        self._answer: Callable[[Call], Any]
        self._layers(None, config, hedge_pool)
        self._listeners: list[Callable[[], object]] = []

    @property
    def sender(self) -> Sender:
        """The wire."""
        return self.attempts.sender

    @property
    def wire(self) -> Sender:
        """The wire itself, without injected faults."""
        return self.sender.wire

    @property
    def policies(self) -> Policies:
        """What guards the attempts."""
        return self.attempts.policies

    # --- a call ------------------------------------------------------------------------------------------------

    def call(self, call: Call, run: Callable[[Call], Any] | None = None) -> Any:
        """The whole call: one attempt, and where that fails, replays as far as the policies allow.

        Args:
            call: what to ask, and by when.
            run: what to do once inside, instead.

        Raises:
            PluginError: what went wrong, with attempts and elapsed time. Exceptions of the host pass as they are.
        """
        if self.on_first_call is not None:
            self._wake_up()
        started = self._now()
        ok: bool | None = False
        code = ""
        try:
            self.tracker.enter(call)
            call.admitted = True
            self.attempts.sender.prepare(call)
            value = self._answer(call) if run is None else run(call)
            ok = True
            if self.events.calls:
                self._tell(call, started, None, run)
            return value
        except PluginError as error:
            if self.superseded and not call.admitted and isinstance(error, PluginClosedError):
                ok = None
                raise  # it has not failed: the successor makes it
            code = error.code
            self._annotate(error, call, started)
            self._tell(call, started, error, run)
            raise
        except BaseException as exc:
            if ok:
                raise  # an interrupt, and the call is told of already
            if not isinstance(exc, Exception) or belongs_to_host(exc):
                code = type(exc).__name__
                self._tell(call, started, exc, run)
                raise
            fault = PluginInternalError(f"unexpected {type(exc).__name__} in goplugins: {exc}")
            code = fault.code
            self._annotate(fault, call, started)
            self._tell(call, started, fault, run)
            raise fault from exc
        finally:
            try:
                if call.inside:
                    self.tracker.leave(ok, self._now() - started, call.attempts, call, code)
            except BaseException:
                # An interrupt in the very act of leaving. Leaving again counts for nothing if the first got through.
                self.tracker.leave(ok, self._now() - started, call.attempts, call, code)
                raise

    def call_as_member(self, call: Call, *, nested: bool = False) -> Any:
        """One attempt under this plugin's own gate and policies, for the group of which it is a member.

        ``call`` learns what the plugin sent beside the data; its attempts are counted by whoever makes it.

        Args:
            call: what the group was asked.
            nested: the group had let it in before both were taken out: this plugin's closed gate is no bar.

        Raises:
            PluginError: what went wrong. With ``attempts`` 0 nothing was sent, and another member may be asked.
        """
        leg = call.copy_for_attempt(call.deadline)
        leg.nested = nested
        value = self.call(leg, self._once)
        call.adopt_result(leg)
        call.member = self.name
        return value

    def _run(self, call: Call) -> Any:
        attempts = self.attempts
        try:
            hedger = self.hedger  # a reload may take it away
            value = attempts.make(call) if hedger is None else hedger(call, attempts.make)
        except PluginError as error:
            if call.attempts:
                attempts.policies.budget.deposit()
            if error.replay is Replay.NEVER:
                raise  # most refusals end here, and must stay as cheap as a call
            return self._replay(call, error)
        attempts.policies.budget.deposit()
        return value

    def _run_within(self, bulkhead: Bulkhead, run: Callable[[Call], Any], call: Call) -> Any:
        """``run`` while holding a place in the bulkhead, which learns from it how many the plugin can serve."""
        call.admitted = False  # who still waits when the plugin is replaced goes to its successor
        place = bulkhead.acquire(call.deadline, closing=self.attempts.closing)
        call.admitted = True
        ok: bool | None = None
        started = self._now()
        try:
            value = run(call)
            # With replays the time is mostly backoff, and says nothing of the plugin.
            ok = True if call.attempts == 1 else None
            return value
        except BaseException as exc:
            if call.attempts and (not isinstance(exc, TimeoutError) or self.attempts.was_fair(self._now() - started)):
                ok = load_signal(exc)
            raise
        finally:
            try:
                bulkhead.release(place, self._now() - started, ok)
            except BaseException:
                bulkhead.release(place)  # counts for nothing if the first time got through
                raise

    def _run_inside(self, call: Call) -> Any:
        return self._inside(call)

    # --- what is around the attempts -----------------------------------------------------------------------------

    def _layers(self, old: PluginConfig | None, new: PluginConfig, hedge_pool: WorkerPool | None) -> None:
        """Puts around the attempts what the configuration asks for; what it does not ask for costs nothing."""
        self._inside, self._once = self._run, self.attempts.make
        if new.bulkhead is not None:
            if self.bulkhead is None:
                self.bulkhead = Bulkhead(new.bulkhead, clock=self.clock, name=self.name)
            else:
                self.bulkhead.configure(new.bulkhead)
            self._inside = partial(self._run_within, self.bulkhead, self._run)
            self._once = partial(self._run_within, self.bulkhead, self.attempts.make)
        elif self.bulkhead is not None:  # its counts stay, and who waits for a place gets in
            self.bulkhead.configure(_NO_BULKHEAD)
        if old is None or new.hedge != old.hedge:
            self._hedge(new, hedge_pool)
        if old is not None and new.cache == old.cache and same_value(new.fallback, old.fallback):
            if new.cache is None and new.fallback is None:
                self._answer = self._inside
            return
        self._answer = self._inside
        if new.cache is not None or new.fallback is not None:
            from goplugins.pipeline.cache_and_fallback import Answers, layered

            self.answers = self.answers or Answers()
            self._answer = layered(
                self._run_inside,
                new,
                forward=self._forward,
                counts=self.answers,
                clock=self.clock,
                note=self._note,
            )

    def _hedge(self, config: PluginConfig, pool: WorkerPool | None) -> None:
        before, self.hedger = self.hedger, None
        if before is not None:
            self.hedges_before = (self.hedges_before[0] + before.sent, self.hedges_before[1] + before.won)
        if config.hedge is not None and config.hedge.enabled and pool is not None:
            from goplugins.pipeline.hedging import Hedger

            policy = HedgePolicy(config.hedge, clock=self.clock)
            self.hedger = Hedger(policy, pool, self.policies.budget, self.clock)

    def reconfigure(self, config: PluginConfig, *, hedge_pool: WorkerPool | None = None) -> None:
        """Goes by the policies of another configuration from now on. The wire is not touched, counts and states stay.

        Args:
            config: resolved; the same in all that the wire and its connections depend on.
            hedge_pool: runs hedged attempts; none are made without.
        """
        old = self.config
        self.attempts.policies = self.policies.adapted(config, clock=self.clock, rng=self._rng)
        self.request_timeout = resolved(resolved(config.connection).request_timeout)
        self.idempotent = resolved(resolved(config.retry).idempotent)
        self._layers(old, config, hedge_pool)
        if config.chaos != old.chaos:
            from goplugins.transports.chaos import ChaosSender, with_chaos

            before = self.sender
            self.attempts.sender = with_chaos(self.wire, config, clock=self.clock)
            if isinstance(before, ChaosSender):
                before.end()  # delayed attempts continue now
        if self.attempts.watcher is not None and config.health_check != old.health_check:
            self.attempts.watcher.reconfigure(resolved(config.health_check))
        self.config = config
        self.notify_changed()

    def _replay(self, call: Call, error: PluginError) -> Any:
        def exhausted() -> None:
            self.budget_exhausted += 1

        policies = self.policies
        try:
            return policies.retry.run(
                error,
                lambda: self.attempts.make(call),
                idempotent=call.idempotent,
                max_retries=call.max_retries,
                deadline=call.deadline,
                budget=policies.budget,
                clock=self.clock,
                closing=self.attempts.closing,
                on_budget_exhausted=exhausted,
            )
        finally:
            del error  # its traceback holds this frame: no work for the collector

    def _annotate(self, error: PluginError, call: Call, started: float) -> None:
        error.elapsed = self._now() - started
        error.attempts = call.attempts
        if error.plugin is None:
            error.plugin = self.name
        if error.endpoint is None:
            error.endpoint = self.endpoint or None
        if call.attempts:  # a local refusal says nothing new, and would hide what led to it
            self.last_error = (self._now(), f"{error.code} {error.message}")

    def _tell(self, call: Call, started: float, error: BaseException | None, run: object) -> None:
        sinks = self.events.calls if error is None else self.events.failed_calls
        if sinks:
            at, elapsed = self._time(), self._now() - started
            sent, as_member = call.attempts, run is not None
            publish(
                sinks,
                CallFinished(self.name, at, call.request_id, elapsed, sent, call.source, call.member, error, as_member),
            )

    def _note(self, call: Call, error: PluginError) -> None:
        """For who answers in the plugin's place: the error is told although nobody sees it."""
        self._annotate(error, call, self._now() - error.elapsed)

    def _wake_up(self) -> None:
        wake, self.on_first_call = self.on_first_call, None
        if wake is not None:
            wake()

    # --- as a member of a group ----------------------------------------------------------------------------------

    @property
    def watcher(self) -> Watcher | None:
        """Its periodic health checks; None without."""
        return self.attempts.watcher

    def admits(self) -> bool:
        """Whether its breaker would admit a call now and its gate is open. Calls nobody."""
        return not self.tracker.closed and self.policies.breaker.retry_after() <= 0

    def retry_after(self) -> float:
        """Seconds until its breaker admits a call at the latest; 0 if it does now, infinite while forced open."""
        return self.policies.breaker.retry_after()

    def status(self) -> PluginStatus:
        """Its health as last seen; asks nobody."""
        watcher = self.attempts.watcher
        return PluginStatus.UNKNOWN if watcher is None else watcher.status.status

    def subscribe(self, callback: Callable[[], object], /) -> Callable[[], object]:
        """Has ``callback`` called, outside all locks, when breaker, health or gate have changed; returns its end."""
        self._listeners.append(callback)

        def unsubscribe() -> None:
            with contextlib.suppress(ValueError):
                self._listeners.remove(callback)

        return unsubscribe

    def notify_changed(self) -> None:
        """Tells those who subscribed."""
        for callback in tuple(self._listeners):
            run_callback(callback)

    def _breaker_changed(self, old: CircuitBreakerState, new: CircuitBreakerState) -> None:
        self.attempts.breaker_changed(old, new)
        if self.events.changes:
            again = self.policies.breaker.retry_after()
            publish(self.events.changes, BreakerChanged(self.name, self.clock.time(), old, new, again))
        self.notify_changed()

    # --- state -------------------------------------------------------------------------------------------------

    def health(self, timeout: float) -> HealthStatus:
        """Looks at the plugin's health, outside the policies. A good answer ends an open breaker's waiting time."""
        status = self.sender.health(timeout)
        if status.status is PluginStatus.HEALTHY:
            breaker = self.policies.breaker
            if breaker.state is not CircuitBreakerState.CLOSED:
                breaker.probe_succeeded()
                self.notify_changed()
        return status

    def sweep(self) -> None:
        """Closes connections that were idle for too long."""
        self.wire.sweep()

    def metrics(self, health_checks: int = 0, health_check_failures: int = 0) -> PluginMetrics:
        """The counts so far."""
        return counted(self, health_checks, health_check_failures)

    def explain(self, health: HealthStatus) -> Explanation:
        """Why it would or would not take a call now."""
        return explain(self, health)

    # --- end ---------------------------------------------------------------------------------------------------

    def drain_and_close(self, timeout: float, reason: str = "it was removed") -> bool:
        """Refuses new calls, waits for those in flight at most ``timeout`` seconds, then closes the wire.

        A call on this very stack is not waited for: the last call out closes.

        Returns:
            True if no call was left behind.
        """
        self.reject_calls(reason)
        drained = self.drain(timeout)
        self.close()
        return drained

    def reject_calls(self, reason: str) -> None:
        """Lets no new call in, and wakes those that wait for a retry or a token."""
        self.tracker.close(f"plugin {self.name!r}: {reason}")
        self.attempts.closing.set()
        if self.policies.limiter is not None:
            self.policies.limiter.wake()
        if self.bulkhead is not None:
            self.bulkhead.wake()
        self.notify_changed()

    def stop_accepting(self, reason: str = "another has taken its place") -> int:
        """Lets no new call in, as :meth:`reject_calls`, but leaves those inside to their retries and waits.

        Returns:
            How many calls of other threads are inside.
        """
        self.tracker.close(f"plugin {self.name!r}: {reason}")
        self.notify_changed()
        return self.tracker.in_flight - self.tracker.holds(threading.get_ident())

    def drain(self, timeout: float) -> bool:
        """Waits for the calls in flight, save those on this stack, at most ``timeout`` seconds; True if all are out."""
        drained = self.tracker.drain(timeout, self.clock)
        if not drained:
            logger.warning("%s: calls are still in flight after %.1f s", self.name, timeout)
        return drained

    def close(self) -> None:
        """Closes the wire: now, or with the last call out if that is on this very stack."""
        if not self.tracker.drain(0.0, self.clock, on_empty=self._close_wire):
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
        closing = Event()
        if self.attempts.closing.is_set():
            closing.set()
        self.attempts.closing = closing
        # Not here: a child that only execs makes no call, and needs no thread.
        self.on_first_call = self.on_first_call or (lambda: get_scheduler().ensure_thread())
