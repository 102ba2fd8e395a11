"""Who of a group may take calls: the standing of its members, and what changes it."""

from __future__ import annotations

import copy
import heapq
import math
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from goplugins.balancing.member import Member
from goplugins.balancing.member_state import MAX_ORDER, Condition, MemberState, Traffic
from goplugins.balancing.strategies import Strategy
from goplugins.enums import PluginStatus

if TYPE_CHECKING:
    from goplugins.config import LoadBalancerConfig

__all__ = ["Ejection", "MemberTable", "Return"]

_LOOK = 1.0
"""Seconds after which a member that only news could bring back is looked at all the same: news may be missed."""

_LIFTED = frozenset({Condition.READY, Condition.OFFLINE, Condition.EJECTED, Condition.TRIAL, Condition.PROBING})
"""Who takes calls in a panic."""

_MOST_DOUBLINGS = 30


class Ejection(NamedTuple):
    """A member was ejected: for how long, for which time and after how many failures in a row, the last of which."""

    member: str
    seconds: float
    ejections: int
    failures: int
    reason: str


class Return(NamedTuple):
    """An ejected member is well again."""

    member: str


class MemberTable:
    """The members of a group, and which of them are ready. Every method expects the group's lock.

    The standing of a member follows from facts (its breaker, its health, its failures, what an operator said). They
    are judged when there is news and when something is due, not when a call is made; what the strategy goes by is
    built anew when a judgement changed. An interrupt in between leaves it to be built by the next call.

    Attributes:
        states: all members by name.
        ready: those that the strategy picks from.
        trials: those whose ejection is over: the next call is theirs, to see whether they are well again.
        panic: too few are ready, so ejection and health don't count.
        warmest: when the first of the ready ends its slow start; past where one has.
        stale: ``ready`` must be rebuilt before the next pick.
        due: when the next member is to be looked at.
    """

    def __init__(
        self, config: LoadBalancerConfig, strategy: Strategy, traffic: Traffic, news: deque[Ejection | Return]
    ) -> None:
        self._news = news
        self._config = config
        self._strategy = strategy
        self._traffic = traffic
        self.states: dict[str, MemberState] = {}
        self.ready: list[MemberState] = []
        self.trials: list[MemberState] = []
        self.panic = False
        self.warmest = 0.0
        self.stale = False
        self.due = math.inf
        self._heap: list[tuple[float, int, MemberState]] = []
        self._entries = 0
        self._room = 0  # how many more may be ejected
        self._orders = 0

    # --- members -----------------------------------------------------------------------------------------------

    def add(self, member: Member, plugin: Any, weight: int, priority: int, enabled: bool, now: float) -> MemberState:
        """A new member, whose name is free. One that joins a group at work starts slowly."""
        taken = {state.order for state in self.states.values()}
        while self._orders in taken:
            self._orders = (self._orders + 1) & MAX_ORDER
        state = MemberState(member, plugin, self._orders, weight, priority, enabled, self._traffic)
        self._orders = (self._orders + 1) & MAX_ORDER
        self._warm_up(state, now)
        self.states[state.name] = state
        self.stale = True
        self.judge(state, now)
        return state

    def remove(self, name: str) -> MemberState:
        """Takes a member out; there must be one of that name."""
        self.stale = True
        state = self.states.pop(name)
        state.ready = False
        state.due = math.inf
        return state

    def after_fork(self, strategy: Strategy, traffic: Traffic) -> None:
        """New states for the same members: what a call of the parent still has to count out is out of sight."""
        self._strategy, self._traffic = strategy, traffic
        for name, old in self.states.items():
            state = self.states[name] = copy.copy(old)
            old.ready = False
            state.traffic = traffic
            state.active = 0
            state.probe = None
            state.waiters = []
            state.due = math.inf
        self._heap = []
        self.stale = True
        self.due = -math.inf  # whoever waited for something waits again
        for state in self.states.values():
            self._heap.append((-math.inf, state.order, state))
            state.due = -math.inf

    # --- standing ----------------------------------------------------------------------------------------------

    def judge(self, state: MemberState, now: float) -> None:
        """Finds out whether the member may take calls now, and when that is to be looked at again."""
        if self.states.get(state.name) is not state:
            return
        _look_at_breaker(state, now)
        offline = state.member.status() is PluginStatus.OFFLINE
        if state.offline and not offline and state.ejected_at is not None:
            state.ejected_until = min(state.ejected_until, now)  # a health check saw it well: worth a probe
        state.offline = offline
        if state.probe is not None and state.probe.deadline.at <= now:
            state.probe = None  # it never ended
        after = _condition(state, now)
        if after is not state.condition:
            self.stale = True
            if after is Condition.READY:
                self._warm_up(state, now)
            state.condition = after
        self._look_again(state, now)

    def _look_again(self, state: MemberState, now: float) -> None:
        condition = state.condition
        if condition in (Condition.READY, Condition.DISABLED, Condition.TRIAL):
            state.due = math.inf
            return
        if condition is Condition.EJECTED:
            due = state.ejected_until
        elif condition is Condition.PROBING and state.probe is not None:
            due = state.probe.deadline.at
        else:
            due = state.blocked_until if now < state.blocked_until < now + _LOOK else now + _LOOK
        if now < state.due <= due:
            return  # it will be looked at soon enough
        # The heap last: an entry without its announcement would not be found after an interrupt.
        state.due = due
        self.due = min(self.due, due)
        self._entries += 1
        heapq.heappush(self._heap, (due, self._entries, state))

    def look(self, now: float) -> None:
        """Judges whoever is due."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            due, _, state = heap[0]
            if due == state.due:
                self.judge(state, now)  # what it is due next is later than now: the top is still the same
            heapq.heappop(heap)
        self.due = heap[0][0] if heap else math.inf

    def rebuild(self, now: float) -> None:
        """Makes ``ready`` anew from the standing of all, and tells the strategy."""
        members = list(self.states.values())
        asked = [state for state in members if state.condition is not Condition.DISABLED]
        ready = [state for state in asked if state.condition is Condition.READY]
        panic = len(ready) * 100 < self._config.panic_threshold * len(asked)
        if panic:
            ready = [state for state in asked if state.condition in _LIFTED]
        for state in members:
            state.ready = False
        for state in ready:
            state.ready = True
        self._strategy.rebuild(ready, members)
        self.ready = ready
        self.trials = [] if panic else [state for state in asked if state.condition is Condition.TRIAL]
        self.panic = panic
        self.warmest = min((state.warm_at for state in ready), default=0.0)
        out = sum(state.ejected_at is not None for state in asked)
        self._room = max(1, int(len(asked) * self._config.max_ejection_percent / 100)) - out
        self.stale = False

    # --- outcomes ----------------------------------------------------------------------------------------------

    def succeeded(self, state: MemberState, started: float, now: float) -> None:
        """A call of a member that is not simply ready went well. One that began before its ejection says nothing."""
        if state.ejected_at is not None and started > state.ejected_at:
            state.ejected_at = None
            state.returned_at = now
            state.probe = None
            self._news.append(Return(state.name))
        self.judge(state, now)

    def failed(self, state: MemberState, started: float, now: float) -> None:
        """A call of the member failed: ejects it, or keeps it out, where that is due."""
        if state.ejected_at is not None:
            if started > state.ejected_at and state.ejected_until <= now:  # the probe
                self._eject(state, now)
        elif state.failures >= self._config.ejection_failures and state.enabled:
            if self.stale:
                self.rebuild(now)
            if self._room > 0:
                # It has been well for longer than it was out: this is not the next one in a row.
                if now - state.returned_at > self._ejection_time(state.ejections):
                    state.ejections = 0
                self._eject(state, now)
        self.judge(state, now)

    def _eject(self, state: MemberState, now: float) -> None:
        state.ejections += 1
        seconds = self._ejection_time(state.ejections)
        state.ejected_until = now + seconds
        state.ejected_at = now
        self._news.append(Ejection(state.name, seconds, state.ejections, state.failures, state.last_error))

    def _ejection_time(self, number: int) -> float:
        doublings = min(max(number - 1, 0), _MOST_DOUBLINGS)
        return min(self._config.ejection_time * 2.0**doublings, self._config.max_ejection_time)

    def refused_as_closed(self, state: MemberState, now: float) -> None:
        """The member's gate is closed: it is looked at again in a while."""
        state.found_closed = True
        state.blocked_until = now + _LOOK
        self.judge(state, now)

    # --- inside ------------------------------------------------------------------------------------------------

    def _warm_up(self, state: MemberState, now: float) -> None:
        """Begins a slow start, but for the members of a group that nobody has called yet: it would spare nobody."""
        slow_start = self._config.slow_start
        if slow_start and any(other.total for other in self.states.values()):
            state.warm_at = now + slow_start


def _look_at_breaker(state: MemberState, now: float) -> None:
    left = state.member.retry_after()
    if left > 0:
        state.blocked_until = now + left
        state.found_closed = False
    elif not state.member.admits():
        state.blocked_until = now + _LOOK
        state.found_closed = True
    elif state.blocked_until <= now or not state.found_closed:
        state.blocked_until = 0.0
        state.found_closed = False


def _condition(state: MemberState, now: float) -> Condition:
    if not state.enabled:
        return Condition.DISABLED
    if state.blocked_until > now:
        return Condition.CLOSED if state.found_closed else Condition.BREAKER_OPEN
    if state.offline:
        return Condition.OFFLINE
    if state.ejected_at is None:
        return Condition.READY
    if state.ejected_until > now:
        return Condition.EJECTED
    return Condition.TRIAL if state.probe is None else Condition.PROBING
