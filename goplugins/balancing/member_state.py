"""What a group knows of one member. Belongs to the group, whose lock guards all of it."""

from __future__ import annotations

import enum
import math
from typing import Any

from goplugins.balancing.member import Member
from goplugins.runtime.call import Call
from goplugins.runtime.clock import Waiter

__all__ = ["MAX_ORDER", "Condition", "MemberState", "Traffic", "share_at"]

MAX_ORDER = (1 << 24) - 1
"""The largest number that a member is told apart by."""

DECAY = 10.0
"""Seconds in which a latency that nothing confirms falls to 1/e: who is not called is tried again one day."""

_ASSUMED = 1.0
"""Seconds that a member is taken for that has never answered, only failed."""

_UNKNOWN = -math.inf
"""The cost of a member that was never called: it is the next to be."""

_NEVER_ANSWERED = 1e15
"""Beyond every cost: a member that is just being tried for the first time gets no second call meanwhile."""

_LOG_2 = math.log(2)
_MOST_DOUBLINGS = 10


class Condition(enum.StrEnum):
    """Why a member takes calls, or does not. The earlier ones hide the later ones."""

    DISABLED = "disabled"
    CLOSED = "closed"
    BREAKER_OPEN = "circuit breaker open"
    OFFLINE = "offline"
    EJECTED = "ejected"
    TRIAL = "about to be probed"
    PROBING = "being probed"
    READY = "ready"


class Traffic:
    """Calls under way on all members of a group."""

    __slots__ = ("active",)

    def __init__(self) -> None:
        self.active = 0


class MemberState:
    """Counts and standing of one member.

    Its latency is a peak EWMA (Finagle's "peak exponentially weighted moving average"): a slower sample counts at
    once, a quicker one slowly, and what is not confirmed decays. All members decay alike, so their order does not
    change between two samples: ``cost``, the logarithm at the origin of time, is compared instead of the value now.

    Attributes:
        active: calls under way.
        ready: True if it is among those that the strategy picks from.
        failures: in a row.
        ejected_at: when it was ejected; None if it is not.
        ejected_until: when the ejection gives way to a probe.
        ejections: in a row.
        probe: the call that probes it after an ejection.
        warm_at: when its slow start ends; 0 without one.
        blocked_until: when its breaker admits again, or it is looked at again after it was found closed.
        due: when it is to be looked at again; infinite if only news can change it.
        turn: virtual time of its next turn, for weighted rotation.
        entry: its place in the heap of a strategy that has one.
    """

    __slots__ = (
        "active",
        "blocked_until",
        "condition",
        "cost",
        "due",
        "ejected_at",
        "ejected_until",
        "ejections",
        "enabled",
        "entry",
        "failed",
        "failures",
        "found_closed",
        "last_error",
        "last_error_at",
        "last_used",
        "latency",
        "latency_at",
        "latency_sum",
        "member",
        "name",
        "offline",
        "order",
        "owned",
        "plugin",
        "priority",
        "probe",
        "ready",
        "returned_at",
        "step",
        "succeeded",
        "timed",
        "total",
        "traffic",
        "turn",
        "unsubscribe",
        "waiters",
        "warm_at",
        "weight",
    )

    def __init__(
        self,
        member: Member,
        plugin: Any,
        order: int,
        weight: int,
        priority: int,
        enabled: bool,
        traffic: Traffic,
    ) -> None:
        self.name = member.name
        self.member = member
        self.plugin = plugin
        self.owned = False
        self.order = order
        self.weight = weight
        self.step = 1.0 / weight
        self.priority = priority
        self.enabled = enabled
        self.condition = Condition.READY if enabled else Condition.DISABLED
        self.ready = False
        self.traffic = traffic
        self.active = 0
        self.waiters: list[Waiter] = []
        self.unsubscribe: Any = None
        self.total = self.succeeded = self.failed = self.failures = 0
        self.last_used = -math.inf
        self.last_error = ""
        self.last_error_at = -math.inf
        self.latency: float | None = None  # as of latency_at; None while nothing was measured
        self.latency_at = 0.0
        self.latency_sum = 0.0
        self.timed = 0
        self.cost = _UNKNOWN
        self.ejected_at: float | None = None
        self.ejected_until = 0.0
        self.ejections = 0
        self.returned_at = -math.inf
        self.probe: Call | None = None
        self.warm_at = 0.0
        self.blocked_until = 0.0
        self.found_closed = False
        self.offline = False
        self.due = math.inf
        self.turn = 0.0
        self.entry: tuple[float, float, int, MemberState] | None = None

    def answered(self, seconds: float, now: float) -> None:
        """Takes in the latency of a call that was answered well."""
        self.latency_sum += seconds
        self.timed += 1
        if self.latency is not None:
            kept = math.exp((self.latency_at - now) / DECAY)
            decayed = self.latency * kept
            if seconds < decayed:
                seconds = decayed + seconds * (1.0 - kept)
        self.latency = seconds
        self.latency_at = now
        self._reckon()

    def kept_waiting(self, seconds: float, now: float) -> None:
        """It had not answered after so long, and is waited for no longer: its latency is that at least."""
        latency = self.latency_now(now)
        if latency is None or seconds > latency:
            self.latency = seconds
            self.latency_at = now
            self._reckon()

    def failed_again(self, now: float) -> None:
        """Counts a failure. How long it took says nothing: who fails fast is not fast, but costs twice as much."""
        self.failed += 1
        self.failures += 1
        if self.latency is None and self.failed == 1:
            self.latency_at = now  # from when on it is taken for slow
        self._reckon()

    def recovered(self) -> None:
        """It served a call, in a way that says nothing of its latency."""
        self.failures = 0
        self._reckon()

    def _reckon(self) -> None:
        latency = self.latency
        if latency is None:
            if not self.failed:
                return
            latency = _ASSUMED
        doublings = min(self.failures, _MOST_DOUBLINGS)
        self.cost = math.log(max(latency, 1e-9)) + self.latency_at / DECAY + doublings * _LOG_2

    def load(self) -> float:
        """The logarithm of latency x (calls under way + 1): comparable between members, at any time."""
        cost = self.cost
        if cost == _UNKNOWN:
            return _NEVER_ANSWERED + self.active if self.active else _UNKNOWN
        return cost + math.log(self.active + 1)

    def crowd(self) -> float:
        """Calls under way per weight."""
        return self.active * self.step

    def latency_now(self, now: float) -> float | None:
        """The latency in seconds, decayed until now; None while nothing was measured."""
        return None if self.latency is None else self.latency * math.exp((self.latency_at - now) / DECAY)

    def share(self, now: float, slow_start: float) -> float:
        """How much of its turns it takes while it starts slowly: a tenth at first, 1 in the end."""
        return share_at(self.warm_at, now, slow_start)


def share_at(warm_at: float, now: float, slow_start: float) -> float:
    """The share of one whose slow start ends at ``warm_at``."""
    return 1.0 if warm_at <= now else max(0.1, 1.0 - (warm_at - now) / slow_start)
