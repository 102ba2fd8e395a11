"""Priority: the best tier takes the traffic, and hands over to the next what it is too weak for."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Set as AbstractSet

from goplugins.balancing.member_state import Condition, MemberState
from goplugins.balancing.strategies.rotation import RoundRobin

__all__ = ["Tiers"]

_OVERPROVISIONED = 1.4
"""A tier is thought to be built for this many times its load: it keeps all of it with 5 of 7 members."""


class Tiers:
    """Members of the largest priority first, in weighted turns; see Envoy's priority levels.

    A tier takes 1.4 times the share of its weight that may take calls, at most all of what the better ones left.
    Where that does not make up the whole, all shares are raised alike.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._rotations: dict[int, RoundRobin] = {}
        self._tiers: list[tuple[float, RoundRobin]] = []  # the share of the traffic up to and with each, and who

    def rebuild(self, ready: list[MemberState], members: list[MemberState]) -> None:
        """See :class:`Strategy`."""
        able: dict[int, list[MemberState]] = defaultdict(list)
        weights: dict[int, int] = defaultdict(int)
        for state in members:
            if state.condition is not Condition.DISABLED:
                weights[state.priority] += state.weight
        for state in ready:
            able[state.priority].append(state)
        shares, left = [], 1.0
        for priority in sorted(able, reverse=True):
            strength = _OVERPROVISIONED * sum(state.weight for state in able[priority]) / weights[priority]
            share = min(strength, left)
            left -= share
            rotation = self._rotations.get(priority) or RoundRobin(self._rng)
            self._rotations[priority] = rotation
            rotation.rebuild(able[priority], members)
            shares.append((share, rotation))
        total = 1.0 - left
        reached, tiers = 0.0, []
        for share, rotation in shares:
            reached += share / total
            tiers.append((reached if reached < 1.0 - 1e-9 else 1.0, rotation))
        self._tiers = tiers

    def pick(self, key: str, avoid: AbstractSet[MemberState], urgent: bool) -> MemberState | None:
        """See :class:`Strategy`. An urgent call gets the best tier that has anybody."""
        tiers = self._tiers
        if not tiers:
            return None
        start = 0
        if not urgent and tiers[0][0] < 1.0:
            number = self._rng.random()
            while tiers[start][0] <= number:
                start += 1
        places = (*range(start, len(tiers)), *range(start)) if avoid else (start,)
        for place in places:
            rotation: RoundRobin = tiers[place][1]
            state = rotation.pick(key, avoid, urgent)
            if state is not None:
                return state
        return None
