"""One attempt of a call on a group: pick a member, send, record the outcome."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence, Set as AbstractSet
from typing import Any, NoReturn, TypeGuard

from goplugins.balancing.member_state import Condition, MemberState, Traffic, share_at
from goplugins.balancing.member_table import MemberTable
from goplugins.balancing.outlier_detection import Ejection, OutlierDetection
from goplugins.balancing.report import Refusals, no_member_error
from goplugins.balancing.strategies import NO_MEMBERS, Least, strategy_for
from goplugins.config import LoadBalancerConfig
from goplugins.errors import (
    OperationNotFoundError,
    PluginClosedError,
    PluginError,
    PluginTimeoutError,
    Replay,
    Verdict,
    is_fair_timeout,
    verdict_of,
)
from goplugins.models.context import ExecutionContext
from goplugins.observability.event_stream import EventStream, publish
from goplugins.observability.events import MemberEjected, MemberReturned
from goplugins.runtime.call import Call
from goplugins.runtime.cancellation import AttemptCancelledError
from goplugins.runtime.clock import Clock, Waiter
from goplugins.runtime.fork import create_lock, register_forkable
from goplugins.runtime.text import counted

logger = logging.getLogger("goplugins.balancing")

_REFUSED = "refused"
"""The kind of errors with which a member refuses a call before anything is sent: another member is picked."""

_READY = Condition.READY
_NO_REFUSALS: Refusals = {}


class MemberDispatcher:
    """The members of a group with the lock that guards them, and the path of a call to one of them.

    Args:
        config: the group's configuration.
        clock: measures and waits.
        rng: draws members.
        events: receives ejections and returns.

    Attributes:
        lock: guards the table and every member's state. Taken before a breaker's, never after it.
        table: the members and their conditions.
        closed: why calls are refused; empty while the group is open.
    """

    def __init__(
        self, config: LoadBalancerConfig, *, clock: Clock, rng: random.Random, events: EventStream | None = None
    ) -> None:
        self.config = config
        self._events = events
        self.clock = clock
        self.now = clock.monotonic
        self.closed = ""
        self._rng = rng
        self.lock = create_lock(self, "lock")
        self._start()
        outliers = OutlierDetection(config)
        self._transitions = outliers.transitions
        self.table = MemberTable(config, self._strategy, self._traffic, outliers)
        register_forkable(self)

    def _start(self) -> None:
        self._traffic = Traffic()
        self._strategy = strategy_for(self.config, self._rng, self._traffic)
        # Only these strategies must be notified when a member's score falls.
        self._score_fell = self._strategy.score_fell if isinstance(self._strategy, Least) else None

    def after_fork_in_child(self) -> None:
        """No calls in flight, and a new random seed: child processes must not pick in step."""
        self._rng.seed()
        self._transitions.clear()
        self._start()
        self.table.after_fork(self._strategy, self._traffic)

    # --- a call ------------------------------------------------------------------------------------------------

    def send(self, call: Call) -> Any:
        """Makes one attempt. If a member refuses the call before sending it, another member is picked.

        Raises:
            PluginError: the member's error, or the reason why no member can take the call.
        """
        refusals = _NO_REFUSALS
        while True:
            picked: MemberState | None = None
            counted = 0  # in the member's active calls
            started = 0.0
            try:
                with self.lock:
                    started = self.now()
                    state = self.pick(call, refusals, started)
                    if state is not None:
                        # No function call, hence no interrupt, until `picked` is set.
                        state.active += 1
                        state.traffic.active += 1
                        picked, counted = state, 1
                if state is None:
                    self._raise_no_member(refusals)
                call.member = state.name
                value = state.member.call_as_member(call)
                with self.lock:
                    state.active -= 1
                    state.traffic.active -= 1
                    counted = 0
                    self.record_success(state, call, started)
                    picked = None
                if state.waiters:
                    self._wake(state)
                if self._transitions:
                    self._publish_transitions()
                return value
            except Exception as error:
                if not counted or picked is None:
                    raise
                with self.lock:
                    state = picked
                    state.active -= 1
                    state.traffic.active -= 1
                    counted = 0
                    self._record_error(state, call, started, error)
                    picked = None
                refused = self._refused(state, call, error)
                if refused is None:
                    raise
                # Without its traceback, which would hold this frame and with it the error itself.
                refusals = {**refusals, state: refused.with_traceback(None)}
            finally:
                if picked is not None:  # an interrupt, or an exception of the host
                    with self.lock:  # no function call here either: a second interrupt may follow
                        picked.active -= counted
                        picked.traffic.active -= counted
                        self.table.stale = True  # an update of the strategy may have been interrupted
                    self._abandon(picked, call)

    def pick(self, call: Call, refusals: Refusals, now: float) -> MemberState | None:
        """The member for the call; None if no member can take it. Expects the lock."""
        table = self.table
        if table.stale or table.due <= now:
            self.refresh(now)
        if refusals or table.probes_due or call.tried or call.preferences or call.priority > 0:
            return self._pick_constrained(call, refusals, now)
        state = self._strategy.pick(call.key, NO_MEMBERS, False)
        if state is None or state.slow_start_until <= now:
            return state
        return self._apply_slow_start(state, call.key, NO_MEMBERS, False, now)

    def _pick_constrained(self, call: Call, refusals: Refusals, now: float) -> MemberState | None:
        """The slow path of :meth:`pick`: the call has preferences or earlier attempts, or probes are due."""
        table = self.table
        urgent = call.priority > 0
        if table.probes_due and not (refusals or urgent or call.tried or call.preferences):
            state = self._begin_probe(call, now)
            if state is not None:
                return state
        state = self.pick_ready(call.key, call.preferences, urgent, call.tried, refusals, now)
        if state is None and table.probes_due:
            return self._begin_probe(call, now)
        return state

    def pick_ready(
        self,
        key: str,
        preferences: Sequence[str],
        urgent: bool,
        tried: Sequence[str],
        refusals: Refusals,
        now: float,
    ) -> MemberState | None:
        """A ready member: preferred ones first, then untried ones, never one that has refused. Expects the lock."""
        states = self.table.states
        for name in preferences:
            preferred = states.get(name)
            if preferred is not None and preferred.ready and preferred not in refusals and name not in tried:
                return preferred
        exclude = {*refusals, *(states[name] for name in tried if name in states)}
        state = self._strategy.pick(key, exclude, urgent)
        if state is None and len(exclude) > len(refusals):
            exclude = {*refusals}
            state = self._strategy.pick(key, exclude, urgent)
        if state is None or state.slow_start_until <= now:
            return state
        return self._apply_slow_start(state, key, exclude, urgent, now)

    def _apply_slow_start(
        self, state: MemberState, key: str, exclude: AbstractSet[MemberState], urgent: bool, now: float
    ) -> MemberState:
        """Gives some turns of a member in slow start to others; all of them for urgent calls."""
        slow_start = self.config.slow_start
        # Relative to the member that is furthest: if all are in slow start, no turns are given away.
        share = share_at(state.slow_start_until, now, slow_start)
        share /= share_at(self.table.slow_start_until, now, slow_start)
        if self._score_fell is not None:
            # A member that is passed over keeps the lowest score: more turns must be given away for the same share.
            share /= share + (1.0 - share) * len(self.table.ready)
        if not urgent and self._rng.random() < share:
            return state
        return self._strategy.pick(key, {state, *exclude}, urgent) or state

    def _begin_probe(self, call: Call, now: float) -> MemberState | None:
        """Makes the call the probe of a member whose ejection is over."""
        state = self.table.probes_due[0]
        state.probe = call
        self.table.evaluate(state, now)
        if state.condition is Condition.PROBING:
            return state
        state.probe = None
        self.refresh(now)
        return None

    def select(self, context: ExecutionContext) -> MemberState:
        """The member that a call would go to now. Takes the lock; changes no counts.

        Raises:
            PluginError: no member can take a call, and why.
        """
        with self.lock:
            now = self.now()
            self.refresh(now)
            urgent = context.priority > 0
            state = self.pick_ready(context.key, context.preferences, urgent, (), _NO_REFUSALS, now)
        if state is None:
            self._raise_no_member(_NO_REFUSALS)
        return state

    def refresh(self, now: float) -> None:
        """Evaluates the members that are due, and rebuilds the strategy if needed. Expects the lock."""
        if self.table.due <= now:
            self.table.evaluate_due(now)
        if self.table.stale:
            self.table.rebuild(now)

    def _raise_no_member(self, refusals: Refusals) -> NoReturn:
        """Raises the error that says why no member can take the call. Takes the lock."""
        if self.closed:
            raise PluginClosedError(self.closed, plugin=self.config.name)
        with self.lock:
            now = self.now()
            self.refresh(now)
            states = list(self.table.states.values())
        error = no_member_error(self.config.name, states, refusals, now, self.config.slow_start)
        try:
            raise error from (list(refusals.values())[-1] if refusals else None)
        finally:
            del error  # its traceback holds this frame: a cycle for the garbage collector

    # --- outcomes: the lock is held ----------------------------------------------------------------------------

    def record_success(self, state: MemberState, call: Call, started: float) -> None:
        now = self.now()
        state.last_used = started
        state.total += 1
        state.succeeded += 1
        state.failures = 0
        state.add_latency(now - started, now)
        if state.condition is not _READY:
            self._end_probe(state, call)
            self.table.succeeded(state, started, now)
        if self._score_fell is not None and state.ready:
            self._score_fell(state)

    def _record_error(self, state: MemberState, call: Call, started: float, error: Exception) -> None:
        """Records an error by its :class:`goplugins.errors.Verdict`."""
        table, now = self.table, self.now()
        self._end_probe(state, call)
        state.last_used = started
        if isinstance(error, PluginError) and error.unsent:
            if isinstance(error, PluginClosedError):
                table.refused_as_closed(state, now)
            else:
                table.evaluate(state, now)
        else:
            call.tried = (*call.tried, state.name)
            state.total += 1
            verdict = _verdict(error, now - started, state)
            if verdict is Verdict.SUCCESS:
                state.succeeded += 1
                state.reset_failures()
                table.succeeded(state, started, now)
            elif verdict is Verdict.FAILURE:
                state.add_failure(now)
                state.last_error = _text(error)
                state.last_error_at = now
                table.failed(state, started, now)
            else:
                if isinstance(error, AttemptCancelledError):  # a member that always loses to hedges is slow
                    state.raise_latency(now - started, now)
                table.evaluate(state, now)
            if isinstance(error, PluginError) and error.elsewhere:
                self._allow_another(call, error)
        if self._score_fell is not None and state.ready:
            self._score_fell(state)

    def _allow_another(self, call: Call, error: PluginError) -> None:
        """Allows a retry, without the failed member's waiting time, if there is a member that was not tried yet."""
        for each in self.table.states.values():
            if (each.ready or each.condition is Condition.PROBE_DUE) and each.name not in call.tried:
                error.replay, error.retry_after = Replay.ALWAYS, None
                return

    @staticmethod
    def _end_probe(state: MemberState, call: Call) -> None:
        if state.probe is call:
            state.probe = None

    # --- after the outcome: the lock is not held ---------------------------------------------------------------

    def _refused(self, state: MemberState, call: Call, error: Exception) -> PluginError | None:
        """The error if it is a refusal and there is time left to try another member."""
        if state.waiters:
            self._wake(state)
        if self._transitions:
            self._publish_transitions()
        if _is_refusal(error) and call.deadline.at > self.now():
            return error
        _name_member(error, state)
        return None

    def _abandon(self, state: MemberState, call: Call) -> None:
        """Ends a call that was interrupted: it has no outcome."""
        with self.lock:
            self._end_probe(state, call)
            self.table.evaluate(state, self.now())
        if state.waiters:
            self._wake(state)

    def _publish_transitions(self) -> None:
        """Logs ejections and returns, and publishes their events. Several threads at once share the work."""
        while self._transitions:
            try:
                transition = self._transitions.popleft()
            except IndexError:  # another thread has taken the last one
                return
            group, at = self.config.name, self.clock.time()
            event: MemberEjected | MemberReturned
            if isinstance(transition, Ejection):
                member, seconds, ejections, failures, reason = transition
                event = MemberEjected(group, at, member, seconds, ejections, reason)
                text = "%s: member %s ejected for %g s after %s in a row; last error: %s"
                logger.warning(text, group, member, seconds, counted(failures, "failure"), reason)
            else:
                event = MemberReturned(group, at, transition.member)
                logger.info("%s: member %s is healthy again and takes calls", group, transition.member)
            if self._events is not None and self._events.changes:
                publish(self._events.changes, event)

    def _wake(self, state: MemberState) -> None:
        with self.lock:
            waiters = state.waiters if state.active == 0 else []
            if waiters:
                state.waiters = []
        for waiter in waiters:
            waiter.set()

    def drain(self, state: MemberState, timeout: float) -> bool:
        """Waits at most ``timeout`` seconds until the member has no call in flight; True if it has none."""
        waiter = Waiter()
        with self.lock:
            if state.active == 0:
                return True
            state.waiters = [*state.waiters, waiter]
        if timeout > 0:
            self.clock.wait(waiter, timeout)
        with self.lock:
            state.waiters = [each for each in state.waiters if each is not waiter]
            return state.active == 0 or waiter.is_set()


def _is_refusal(error: Exception) -> TypeGuard[PluginError]:
    """Whether a member has refused the call, or lacks its operation, so that another one can take it."""
    if isinstance(error, OperationNotFoundError):
        return True
    return isinstance(error, PluginError) and error.kind == _REFUSED and error.unsent


def _verdict(error: Exception, elapsed: float, state: MemberState) -> Verdict:
    verdict = verdict_of(error)
    if verdict is Verdict.FAILURE and isinstance(error, PluginTimeoutError):
        return Verdict.FAILURE if is_fair_timeout(elapsed, state.latency or 0.0) else Verdict.IGNORED
    return verdict


def _name_member(error: Exception, state: MemberState) -> None:
    """Puts the member's name into the details: the error's plugin will be the group."""
    if isinstance(error, PluginError):
        error.plugin = None
        error.details.setdefault("member", state.name)


def _text(error: Exception) -> str:
    return f"{error.code} {error.message}" if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"
