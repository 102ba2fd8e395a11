"""One attempt of a call on a group: pick, count in, offer, count out, learn."""

from __future__ import annotations

import logging
import random
import threading
from collections import deque
from collections.abc import Sequence, Set as AbstractSet
from typing import Any, NoReturn

from goplugins.balancing.member_state import Condition, MemberState, Traffic, share_at
from goplugins.balancing.member_table import Ejection, MemberTable, Return
from goplugins.balancing.no_member_error import Lost, refusal
from goplugins.balancing.strategies import NOBODY, Least, strategy_for
from goplugins.config import LoadBalancerConfig
from goplugins.errors import (
    PluginClosedError,
    PluginError,
    PluginTimeoutError,
    Verdict,
    verdict_of,
)
from goplugins.models.context import ExecutionContext
from goplugins.observability.event_stream import EventStream, hand_out
from goplugins.observability.events import MemberEjected, MemberReturned
from goplugins.runtime.call import Call
from goplugins.runtime.cancellation import AttemptCancelledError
from goplugins.runtime.clock import Clock, Waiter
from goplugins.runtime.fork import register_forkable

__all__ = ["Dispatcher"]

logger = logging.getLogger("goplugins.balancing")

_REFUSED = "refused"
"""The kind of errors with which a member refuses a call before anything is sent: another member is picked."""

_NOT_SENT = frozenset({_REFUSED, "argument"})
"""Kinds of errors of calls that were not sent: they are no attempts."""

_FAIR_TIMEOUT = 0.1
"""Seconds. A timeout says nothing about a member that had less than this and less than twice its usual latency."""

_READY = Condition.READY
_NOBODY_LOST: Lost = {}


class Dispatcher:
    """The members of a group with the lock that guards them, and the way of a call to one of them.

    Args:
        config: the group's.
        clock: measures and waits.
        rng: draws members.
        events: is told of ejections and returns.

    Attributes:
        lock: guards the table and every member's state. Taken before a breaker's, never after it.
        table: who may take calls.
        closed: why no call is taken any more; empty while they are.
    """

    def __init__(
        self, config: LoadBalancerConfig, *, clock: Clock, rng: random.Random, events: EventStream | None = None
    ) -> None:
        self.config = config
        self._events = events
        # Of the table, which writes it under the lock; told once that is free.
        self._news: deque[Ejection | Return] = deque()
        self.clock = clock
        self.now = clock.monotonic
        self.closed = ""
        self._rng = rng
        self._start()
        self.table = MemberTable(config, self._strategy, self._traffic, self._news)
        register_forkable(self)

    def _start(self) -> None:
        self.lock = threading.Lock()
        self._traffic = Traffic()
        self._strategy = strategy_for(self.config, self._rng, self._traffic)
        # Only some strategies want to know when a member has less to do.
        self._relieved = self._strategy.relieved if isinstance(self._strategy, Least) else None

    def after_fork_in_child(self) -> None:
        """A fresh lock, no calls under way, and chances and turns of its own: workers must not go in step."""
        self._rng.seed()
        self._news.clear()
        self._start()
        self.table.after_fork(self._strategy, self._traffic)

    # --- a call ------------------------------------------------------------------------------------------------

    def send(self, call: Call) -> Any:
        """One attempt. Members that refuse the call unsent are passed over until one takes it, or none is left.

        Raises:
            PluginError: of the member that took it, or why none did.
        """
        lost = _NOBODY_LOST
        while True:
            picked: MemberState | None = None
            counted = 0  # as under way on it
            started = 0.0
            try:
                with self.lock:
                    started = self.now()
                    state = self._next(call, lost, started)
                    if state is not None:
                        # No call, hence no interrupt, until it is clear who has to be counted out.
                        state.active += 1
                        state.traffic.active += 1
                        picked, counted = state, 1
                if state is None:
                    self._refuse(lost)
                call.member = state.name
                value = state.member.call_as_member(call)
                with self.lock:
                    state.active -= 1
                    state.traffic.active -= 1
                    counted = 0
                    self._succeeded(state, call, started)
                    picked = None
                if state.waiters:
                    self._wake(state)
                if self._news:
                    self._tell()
                return value
            except Exception as error:
                if not counted or picked is None:
                    raise
                with self.lock:
                    state = picked
                    state.active -= 1
                    state.traffic.active -= 1
                    counted = 0
                    self._learn(state, call, started, error)
                    picked = None
                refused = self._refused(state, call, error)
                if refused is None:
                    raise
                # Without its traceback, which would hold this frame and with it the error itself.
                lost = {**lost, state: refused.with_traceback(None)}
            finally:
                if picked is not None:  # an interrupt, or the host's own exception
                    with self.lock:  # and, again, no call: a second interrupt may be close behind
                        picked.active -= counted
                        picked.traffic.active -= counted
                        self.table.stale = True  # what the strategy was to be told may have been cut short
                    self._vanished(picked, call)

    def _next(self, call: Call, lost: Lost, now: float) -> MemberState | None:
        """Who gets the call; None if nobody can. Expects the lock."""
        table = self.table
        if table.stale or table.due <= now:
            self.refresh(now)
        if lost or table.trials or call.tried or call.preferences or call.priority > 0:
            return self._choose(call, lost, now)
        state = self._strategy.pick(call.key, NOBODY, False)
        if state is None or state.warm_at <= now:
            return state
        return self._unless_cold(state, call.key, NOBODY, False, now)

    def _choose(self, call: Call, lost: Lost, now: float) -> MemberState | None:
        """The long way of :meth:`_next`, for calls with wishes or a past. Expects the lock."""
        table = self.table
        urgent = call.priority > 0
        if table.trials and not (lost or urgent or call.tried or call.preferences):
            state = self._on_trial(call, now)
            if state is not None:
                return state
        state = self.find(call.key, call.preferences, urgent, call.tried, lost, now)
        if state is None and table.trials:
            return self._on_trial(call, now)
        return state

    def find(
        self,
        key: str,
        preferences: Sequence[str],
        urgent: bool,
        tried: Sequence[str],
        lost: Lost,
        now: float,
    ) -> MemberState | None:
        """Somebody who is ready: preferred ones first, then who was not tried yet, never one of the lost."""
        states = self.table.states
        for name in preferences:
            preferred = states.get(name)
            if preferred is not None and preferred.ready and preferred not in lost and name not in tried:
                return preferred
        avoid = {*lost, *(states[name] for name in tried if name in states)}
        state = self._strategy.pick(key, avoid, urgent)
        if state is None and len(avoid) > len(lost):
            avoid = {*lost}
            state = self._strategy.pick(key, avoid, urgent)
        if state is None or state.warm_at <= now:
            return state
        return self._unless_cold(state, key, avoid, urgent, now)

    def _unless_cold(
        self, state: MemberState, key: str, avoid: AbstractSet[MemberState], urgent: bool, now: float
    ) -> MemberState:
        """A member that starts slowly gives some of its turns away, all of them for an urgent call."""
        slow_start = self.config.slow_start
        # As measured by the warmest: where all begin, nobody has to wait.
        share = state.share(now, slow_start) / share_at(self.table.warmest, now, slow_start)
        if self._relieved is not None:
            # Turned away, it is the best choice of the next call again: it must give away more to take its share.
            share /= share + (1.0 - share) * len(self.table.ready)
        if not urgent and self._rng.random() < share:
            return state
        return self._strategy.pick(key, {state, *avoid}, urgent) or state

    def _on_trial(self, call: Call, now: float) -> MemberState | None:
        """Makes the call the probe of a member whose ejection is over."""
        state = self.table.trials[0]
        state.probe = call
        self.table.judge(state, now)
        if state.condition is Condition.PROBING:
            return state
        state.probe = None
        self.refresh(now)
        return None

    def select(self, context: ExecutionContext) -> MemberState:
        """Who would get a call now. Takes the lock; counts nothing in.

        Raises:
            PluginError: nobody, and why.
        """
        with self.lock:
            now = self.now()
            self.refresh(now)
            state = self.find(context.key, context.preferences, context.priority > 0, (), _NOBODY_LOST, now)
        if state is None:
            self._refuse(_NOBODY_LOST)
        return state

    def refresh(self, now: float) -> None:
        """Takes in all that is due. Expects the lock."""
        if self.table.due <= now:
            self.table.look(now)
        if self.table.stale:
            self.table.rebuild(now)

    def _refuse(self, lost: Lost) -> NoReturn:
        """Says why nobody can take the call. Takes the lock."""
        if self.closed:
            raise PluginClosedError(self.closed, plugin=self.config.name)
        with self.lock:
            now = self.now()
            self.refresh(now)
            states = list(self.table.states.values())
        error = refusal(self.config.name, states, lost, now, self.config.slow_start)
        try:
            raise error from (list(lost.values())[-1] if lost else None)
        finally:
            del error  # its traceback holds this frame: no work for the collector

    # --- its outcome: the lock is held -------------------------------------------------------------------------

    def _succeeded(self, state: MemberState, call: Call, started: float) -> None:
        now = self.now()
        state.last_used = started
        state.total += 1
        state.succeeded += 1
        state.failures = 0
        state.answered(now - started, now)
        if state.condition is not _READY:
            self._stop_probing(state, call)
            self.table.succeeded(state, started, now)
        if self._relieved is not None and state.ready:
            self._relieved(state)

    def _learn(self, state: MemberState, call: Call, started: float, error: Exception) -> None:
        """What an error says of the member: see :class:`goplugins.errors.Verdict`."""
        table, now = self.table, self.now()
        self._stop_probing(state, call)
        state.last_used = started
        if isinstance(error, PluginError) and error.kind in _NOT_SENT:
            if isinstance(error, PluginClosedError):
                table.refused_as_closed(state, now)
            else:
                table.judge(state, now)
        else:
            call.tried = (*call.tried, state.name)
            state.total += 1
            verdict = _verdict(error, now - started, state)
            if verdict is Verdict.SUCCESS:
                state.succeeded += 1
                state.recovered()
                table.succeeded(state, started, now)
            elif verdict is Verdict.FAILURE:
                state.failed_again(now)
                state.last_error = _text(error)
                state.last_error_at = now
                table.failed(state, started, now)
            else:
                if isinstance(error, AttemptCancelledError):  # or who only ever loses to hedges would never be slow
                    state.kept_waiting(now - started, now)
                table.judge(state, now)
        if self._relieved is not None and state.ready:
            self._relieved(state)

    @staticmethod
    def _stop_probing(state: MemberState, call: Call) -> None:
        if state.probe is call:
            state.probe = None

    # --- and what does not hold it -----------------------------------------------------------------------------

    def _refused(self, state: MemberState, call: Call, error: Exception) -> PluginError | None:
        """The error, if it is a refusal after which there is time to ask another member."""
        if state.waiters:
            self._wake(state)
        if self._news:
            self._tell()
        if isinstance(error, PluginError) and error.kind == _REFUSED and call.deadline.at > self.now():
            return error
        _name_member(error, state)
        return None

    def _vanished(self, state: MemberState, call: Call) -> None:
        """The call, which is counted out, ended in no outcome, and says nothing."""
        with self.lock:
            self._stop_probing(state, call)
            self.table.judge(state, self.now())
        if state.waiters:
            self._wake(state)

    def _tell(self) -> None:
        """Tells who was ejected and who is back. Many threads may be at it: each news is told once."""
        while self._news:
            try:
                news = self._news.popleft()
            except IndexError:  # another thread has it
                return
            group, at = self.config.name, self.clock.time()
            event: MemberEjected | MemberReturned
            if isinstance(news, Ejection):
                event = MemberEjected(group, at, news.member, news.seconds, news.ejections, news.reason)
                text = "%s: member %s failed %d times in a row and is left alone for %g s; the last: %s"
                logger.warning(text, group, news.member, news.failures, news.seconds, news.reason)
            else:
                event = MemberReturned(group, at, news.member)
                logger.info("%s: member %s is well again", group, news.member)
            if self._events is not None and self._events.changes:
                hand_out(self._events.changes, event)

    def _wake(self, state: MemberState) -> None:
        with self.lock:
            waiters = state.waiters if state.active == 0 else []
            if waiters:
                state.waiters = []
        for waiter in waiters:
            waiter.set()

    def drain(self, state: MemberState, timeout: float) -> bool:
        """Waits until no call is under way on the member, at most ``timeout`` seconds; True if none is."""
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


def _verdict(error: Exception, elapsed: float, state: MemberState) -> Verdict:
    verdict = verdict_of(error)
    if verdict is Verdict.FAILURE and isinstance(error, PluginTimeoutError):
        fair = elapsed >= _FAIR_TIMEOUT or (state.latency is not None and elapsed >= 2 * state.latency)
        return Verdict.FAILURE if fair else Verdict.IGNORED
    return verdict


def _name_member(error: Exception, state: MemberState) -> None:
    """The caller knows the group's name only: that of the member stands among the details."""
    if isinstance(error, PluginError):
        error.plugin = None
        error.details.setdefault("member", state.name)


def _text(error: Exception) -> str:
    return f"{error.code} {error.message}" if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"
