"""State of one member within its group: counts, latency, ejection. Guarded by the group's lock."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from typing import Any

import attrs

from goplugins.balancing.member import Member
from goplugins.pipeline.plugin import GuardedPlugin
from goplugins.runtime.call import Call
from goplugins.runtime.clock import Waiter

MAX_NUMBER = (1 << 24) - 1
"""The largest :attr:`MemberState.number`."""

DECAY = 10.0
"""Seconds in which an unconfirmed latency decays to 1/e, so that a slow member gets a call again after a while."""

_ASSUMED_LATENCY = 1.0
"""Seconds; the assumed latency of a member that has failed and never answered."""

_NEVER_CALLED = -math.inf
"""The cost of a member that was never called: it is picked next."""

_NO_LATENCY_YET = 1e15
"""Above every cost: a member in its first call gets no second one at the same time."""

_LOG_2 = math.log(2)
_MAX_DOUBLINGS = 10


class Condition(enum.StrEnum):
    """Why a member takes calls, or does not. If several apply, the first one counts."""

    DISABLED = "disabled"
    CLOSED = "closed"
    BREAKER_OPEN = "circuit breaker open"
    OFFLINE = "offline"
    EJECTED = "ejected"
    PROBE_DUE = "about to be probed"
    PROBING = "being probed"
    READY = "ready"


@attrs.define
class Traffic:
    """Calls in flight on all members of a group."""

    active: int = 0


@attrs.define(eq=False)
class MemberState:
    """Counts and condition of one member.

    The latency is a peak EWMA (Finagle's "peak exponentially weighted moving average"): a slower sample replaces it at
    once, a quicker one lowers it gradually, and it decays while there are no samples. All members decay alike, so
    their order does not change between two samples, and ``cost``, the logarithm of the latency decayed from time 0, can
    be compared instead of the current value.

    Attributes:
        plugin: what was added to the group under this name.
        by_hand: whether it was enabled or disabled by hand, so that its configuration does not decide.
        number: unique within the group.
        owned: the guarded plugin if the group has created and must close it.
        step: virtual time between two turns: 1 / weight.
        ready: True if the strategy may pick it.
        active: calls in flight.
        waiters: threads that wait until no call is in flight.
        failures: in a row.
        latency: seconds at ``latency_at``; None without a sample.
        latency_sum: seconds of all ``timed`` calls.
        ejected_at: time of the ejection; None if it is not ejected.
        ejected_until: when the ejection ends in a probe.
        ejections: in a row.
        probe: the call that probes it after an ejection.
        slow_start_until: end of its slow start; 0 without one.
        blocked_until: when its breaker admits calls again, or a closed member is rechecked.
        closed: True if it was closed when last checked.
        due: when its condition is evaluated again; infinite if only a notification can change it.
        turn: virtual time of its next turn in weighted round-robin.
        entry: its entry in the heap of a strategy that has one.
    """

    member: Member
    plugin: Any
    number: int
    weight: int
    priority: int
    enabled: bool
    traffic: Traffic
    name: str = attrs.field(init=False)
    step: float = attrs.field(init=False)
    condition: Condition = attrs.field(init=False)
    owned: GuardedPlugin | None = None
    by_hand: bool = False
    ready: bool = False
    active: int = 0
    waiters: list[Waiter] = attrs.field(factory=list)
    unsubscribe: Callable[[], object] | None = None
    total: int = 0
    succeeded: int = 0
    failed: int = 0
    failures: int = 0
    last_used: float = -math.inf
    last_error: str = ""
    last_error_at: float = -math.inf
    latency: float | None = None
    latency_at: float = 0.0
    latency_sum: float = 0.0
    timed: int = 0
    cost: float = _NEVER_CALLED
    ejected_at: float | None = None
    ejected_until: float = 0.0
    ejections: int = 0
    returned_at: float = -math.inf
    probe: Call | None = None
    slow_start_until: float = 0.0
    blocked_until: float = 0.0
    closed: bool = False
    offline: bool = False
    due: float = math.inf
    turn: float = 0.0
    entry: tuple[float, float, int, MemberState] | None = None

    def __attrs_post_init__(self) -> None:
        self.name = self.member.name
        self.step = 1.0 / self.weight
        self.condition = Condition.READY if self.enabled else Condition.DISABLED

    def add_latency(self, seconds: float, now: float) -> None:
        """Adds the latency of an answered call."""
        self.latency_sum += seconds
        self.timed += 1
        if self.latency is not None:
            kept = math.exp((self.latency_at - now) / DECAY)
            decayed = self.latency * kept
            if seconds < decayed:
                seconds = decayed + seconds * (1.0 - kept)
        self.latency = seconds
        self.latency_at = now
        self._update_cost()

    def raise_latency(self, seconds: float, now: float) -> None:
        """Raises the latency to that of a call which was cancelled after ``seconds`` without an answer."""
        latency = self.latency_now(now)
        if latency is None or seconds > latency:
            self.latency = seconds
            self.latency_at = now
            self._update_cost()

    def add_failure(self, now: float) -> None:
        """Counts a failure. It is no latency sample, or failing fast would count as fast; it doubles the cost."""
        self.failed += 1
        self.failures += 1
        if self.latency is None and self.failed == 1:
            self.latency_at = now
        self._update_cost()

    def reset_failures(self) -> None:
        """Ends the failures in a row, for a call that was served but is no latency sample."""
        self.failures = 0
        self._update_cost()

    def _update_cost(self) -> None:
        latency = self.latency
        if latency is None:
            if not self.failed:
                return
            latency = _ASSUMED_LATENCY
        doublings = min(self.failures, _MAX_DOUBLINGS)
        self.cost = math.log(max(latency, 1e-9)) + self.latency_at / DECAY + doublings * _LOG_2

    def load(self) -> float:
        """The logarithm of latency x (calls in flight + 1): comparable between members, at any time."""
        cost = self.cost
        if cost == _NEVER_CALLED:
            return _NO_LATENCY_YET + self.active if self.active else _NEVER_CALLED
        return cost + math.log(self.active + 1)

    def active_per_weight(self) -> float:
        """Calls in flight / weight."""
        return self.active * self.step

    def latency_now(self, now: float) -> float | None:
        """The latency in seconds, decayed until now; None without a sample."""
        return None if self.latency is None else self.latency * math.exp((self.latency_at - now) / DECAY)


def share_at(slow_start_until: float, now: float, slow_start: float) -> float:
    """The share of its turns that a member takes: from 0.1 to 1 until its slow start ends, then 1."""
    return 1.0 if slow_start_until <= now else max(0.1, 1.0 - (slow_start_until - now) / slow_start)
