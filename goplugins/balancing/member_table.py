"""The members of a group, their conditions, and which of them the strategy may pick."""

from __future__ import annotations

import copy
import math
from typing import Any

from goplugins.balancing.member import Member
from goplugins.balancing.member_state import MAX_NUMBER, Condition, MemberState, Traffic
from goplugins.balancing.outlier_detection import OutlierDetection
from goplugins.balancing.strategies import Strategy
from goplugins.config import LoadBalancerConfig
from goplugins.enums import PluginStatus

_RECHECK_INTERVAL = 1.0
"""Seconds between two checks of a member that is out: a notification of its return may be lost."""

_LIFTED = frozenset({Condition.READY, Condition.OFFLINE, Condition.EJECTED, Condition.PROBE_DUE, Condition.PROBING})
"""Conditions in which members take calls in a panic."""

_NEVER_DUE = frozenset({Condition.READY, Condition.DISABLED, Condition.PROBE_DUE})
"""Conditions that change by notifications and calls only, not by time."""


class MemberTable:
    """The members of a group, and which of them are ready. Every method expects the group's lock.

    A member's condition follows from its breaker, its health, its failures and whether it is enabled. It is evaluated
    at notifications, at outcomes that change it and when it is due, not with each call. The strategy is rebuilt when a
    condition changed; after an interrupt in between, with the next call.

    Attributes:
        states: all members by name.
        ready: those that the strategy picks from.
        probes_due: those whose ejection is over: the next call goes to one of them as its probe.
        panic: too few members are ready, so ejection and health are ignored.
        slow_start_until: when the first of the ready members ends its slow start; 0 or past if one has.
        stale: ``ready`` must be rebuilt before the next pick.
        due: when the next member is due for evaluation.
    """

    def __init__(
        self, config: LoadBalancerConfig, strategy: Strategy, traffic: Traffic, outliers: OutlierDetection
    ) -> None:
        self._config = config
        self._strategy = strategy
        self._traffic = traffic
        self._outliers = outliers
        self.states: dict[str, MemberState] = {}
        self.ready: list[MemberState] = []
        self.probes_due: list[MemberState] = []
        self.panic = False
        self.slow_start_until = 0.0
        self.stale = False
        self.due = math.inf
        self._ejectable = 0
        self._next_number = 0

    # --- members -----------------------------------------------------------------------------------------------

    def add(self, member: Member, plugin: Any, weight: int, priority: int, enabled: bool, now: float) -> MemberState:
        """Adds a member, whose name must be free. In a group that has served calls it begins with a slow start."""
        taken = {state.number for state in self.states.values()}
        while self._next_number in taken:
            self._next_number = (self._next_number + 1) & MAX_NUMBER
        state = MemberState(member, plugin, self._next_number, weight, priority, enabled, self._traffic)
        self._next_number = (self._next_number + 1) & MAX_NUMBER
        self._begin_slow_start(state, now)
        self.states[state.name] = state
        self.stale = True
        self.evaluate(state, now)
        return state

    def remove(self, name: str) -> MemberState:
        """Removes a member; there must be one of that name."""
        self.stale = True
        state = self.states.pop(name)
        state.ready = False
        return state

    def after_fork(self, strategy: Strategy, traffic: Traffic) -> None:
        """New states for the same members: calls of the parent change the old ones."""
        self._strategy, self._traffic = strategy, traffic
        for name, old in self.states.items():
            state = self.states[name] = copy.copy(old)
            old.ready = False
            state.traffic = traffic
            state.active = 0
            state.probe = None
            state.waiters = []
            state.due = -math.inf
        self.stale = True
        self.due = -math.inf

    # --- conditions --------------------------------------------------------------------------------------------

    def evaluate(self, state: MemberState, now: float) -> None:
        """Evaluates a member's condition, and schedules the next evaluation."""
        if self.states.get(state.name) is not state:
            return
        _check_breaker(state, now)
        offline = state.member.status() is PluginStatus.OFFLINE
        if state.offline and not offline and state.ejected_at is not None:
            state.ejected_until = min(state.ejected_until, now)  # no longer offline by its health check: probe it now
        state.offline = offline
        if state.probe is not None and state.probe.deadline.at <= now:
            state.probe = None  # it never ended
        after = _condition(state, now)
        if after is not state.condition:
            self.stale = True
            if after is Condition.READY:
                self._begin_slow_start(state, now)
            state.condition = after
        state.due = _next_evaluation(state, now)
        self.due = min(self.due, state.due)

    def evaluate_due(self, now: float) -> None:
        """Evaluates all members that are due."""
        states = list(self.states.values())
        for state in states:
            if state.due <= now:
                self.evaluate(state, now)
        self.due = min((state.due for state in states), default=math.inf)

    def rebuild(self, now: float) -> None:
        """Rebuilds ``ready`` and the strategy from the conditions of all members."""
        members = list(self.states.values())
        enabled = [state for state in members if state.condition is not Condition.DISABLED]
        ready = [state for state in enabled if state.condition is Condition.READY]
        panic = len(ready) * 100 < self._config.panic_threshold * len(enabled)
        if panic:
            ready = [state for state in enabled if state.condition in _LIFTED]
        for state in members:
            state.ready = False
        for state in ready:
            state.ready = True
        self._strategy.rebuild(ready, members)
        self.ready = ready
        self.probes_due = [] if panic else [state for state in enabled if state.condition is Condition.PROBE_DUE]
        self.panic = panic
        self.slow_start_until = min((state.slow_start_until for state in ready), default=0.0)
        self.due = min((state.due for state in members), default=math.inf)
        self._ejectable = self._outliers.capacity(enabled)
        self.stale = False

    # --- outcomes ----------------------------------------------------------------------------------------------

    def succeeded(self, state: MemberState, started: float, now: float) -> None:
        """A call of a member in another condition than READY has succeeded."""
        self._outliers.succeeded(state, started, now)
        self.evaluate(state, now)

    def failed(self, state: MemberState, started: float, now: float) -> None:
        """A call of the member has failed."""
        if self._outliers.is_candidate(state):
            if self.stale:
                self.rebuild(now)
            if self._ejectable > 0:
                self._outliers.eject(state, now)
        else:
            self._outliers.probe_failed(state, started, now)
        self.evaluate(state, now)

    def refused_as_closed(self, state: MemberState, now: float) -> None:
        """The member has refused a call because it is closed."""
        state.closed = True
        state.blocked_until = now + _RECHECK_INTERVAL
        self.evaluate(state, now)

    def notified(self, name: str, now: float) -> None:
        """The member has notified the group of a change."""
        state = self.states.get(name)
        if state is None:
            return
        if state.closed:
            state.closed = False
            state.blocked_until = 0.0
        self.evaluate(state, now)

    def _begin_slow_start(self, state: MemberState, now: float) -> None:
        """Begins a slow start, unless the whole group is new and has served no calls yet."""
        slow_start = self._config.slow_start
        if slow_start and any(other.total for other in self.states.values()):
            state.slow_start_until = now + slow_start


def _check_breaker(state: MemberState, now: float) -> None:
    left = state.member.retry_after()
    if left > 0:
        state.blocked_until = now + left
        state.closed = False
    elif not state.member.admits():
        state.blocked_until = now + _RECHECK_INTERVAL
        state.closed = True
    elif state.blocked_until <= now or not state.closed:
        state.blocked_until = 0.0
        state.closed = False


def _condition(state: MemberState, now: float) -> Condition:
    if not state.enabled:
        return Condition.DISABLED
    if state.blocked_until > now:
        return Condition.CLOSED if state.closed else Condition.BREAKER_OPEN
    if state.offline:
        return Condition.OFFLINE
    if state.ejected_at is None:
        return Condition.READY
    if state.ejected_until > now:
        return Condition.EJECTED
    return Condition.PROBE_DUE if state.probe is None else Condition.PROBING


def _next_evaluation(state: MemberState, now: float) -> float:
    condition = state.condition
    if condition in _NEVER_DUE:
        return math.inf
    if condition is Condition.EJECTED:
        return state.ejected_until
    if condition is Condition.PROBING and state.probe is not None:
        return state.probe.deadline.at
    # Rechecks of all members fall on the same moments, so that one pass serves many.
    recheck = (now // _RECHECK_INTERVAL + 1.0) * _RECHECK_INTERVAL
    return min(recheck, state.blocked_until) if state.blocked_until > now else recheck
