"""Outlier detection: ejects members after consecutive failures, readmits them after a successful probe."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from goplugins.balancing.member_state import MemberState
from goplugins.config import LoadBalancerConfig

_MAX_DOUBLINGS = 30


class Ejection(NamedTuple):
    """A member was ejected.

    Attributes:
        seconds: until it is probed.
        ejections: in a row, this one included.
        failures: in a row that led to it.
        reason: the last failure.
    """

    member: str
    seconds: float
    ejections: int
    failures: int
    reason: str


class Return(NamedTuple):
    """An ejected member was readmitted."""

    member: str


class OutlierDetection:
    """The ejection rules of one group. Every method expects the group's lock.

    Attributes:
        transitions: ejections and returns to be published once the lock is released.
    """

    def __init__(self, config: LoadBalancerConfig) -> None:
        self._config = config
        self.transitions: deque[Ejection | Return] = deque()

    def capacity(self, members: Sequence[MemberState]) -> int:
        """How many more of ``members`` may be ejected: at most ``max_ejection_percent`` of them, and at least one."""
        ejected = sum(state.ejected_at is not None for state in members)
        return max(1, int(len(members) * self._config.max_ejection_percent / 100)) - ejected

    def is_candidate(self, state: MemberState) -> bool:
        """Whether the member has failed often enough to be ejected."""
        return state.ejected_at is None and state.failures >= self._config.ejection_failures and state.enabled

    def eject(self, state: MemberState, now: float) -> None:
        """Ejects a candidate, for longer with each ejection in a row."""
        # Healthy for longer than the last ejection took: the row of ejections is over.
        if now - state.returned_at > self._ejection_time(state.ejections):
            state.ejections = 0
        self._eject(state, now)

    def probe_failed(self, state: MemberState, started: float, now: float) -> None:
        """Prolongs the ejection if the failed call was the probe, and not one from before."""
        if state.ejected_at is not None and started > state.ejected_at and state.ejected_until <= now:
            self._eject(state, now)

    def succeeded(self, state: MemberState, started: float, now: float) -> None:
        """Readmits an ejected member, unless the call began before the ejection."""
        if state.ejected_at is not None and started > state.ejected_at:
            state.ejected_at = None
            state.returned_at = now
            state.probe = None
            self.transitions.append(Return(state.name))

    def _eject(self, state: MemberState, now: float) -> None:
        state.ejections += 1
        seconds = self._ejection_time(state.ejections)
        state.ejected_until = now + seconds
        state.ejected_at = now
        self.transitions.append(Ejection(state.name, seconds, state.ejections, state.failures, state.last_error))

    def _ejection_time(self, number: int) -> float:
        doublings = min(max(number - 1, 0), _MAX_DOUBLINGS)
        return min(self._config.ejection_time * 2.0**doublings, self._config.max_ejection_time)
