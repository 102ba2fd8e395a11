"""Priority tiers: the highest one takes the traffic as far as its capacity allows, the next one the rest."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Set as AbstractSet

from goplugins.balancing.member_state import Condition, MemberState
from goplugins.balancing.strategies.rotation import RoundRobin

_OVERPROVISIONED = 1.4
"""The overprovisioning factor: a tier keeps all of its traffic while 5 of 7 members are ready."""


class Tiers:
    """Members of the highest priority first, by weighted round-robin; see Envoy's priority levels.

    A tier takes 1.4 times the fraction of its weight that is ready, at most what the higher tiers leave. If that does
    not add up to all traffic, the shares of all tiers are scaled up.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._rotations: dict[int, RoundRobin] = {}
        self._tiers: list[tuple[float, RoundRobin]] = []  # cumulative share of the traffic

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

    def pick(self, key: str, exclude: AbstractSet[MemberState], urgent: bool) -> MemberState | None:
        """See :class:`Strategy`. An urgent call gets the highest tier with a ready member."""
        tiers = self._tiers
        if not tiers:
            return None
        start = 0
        if not urgent and tiers[0][0] < 1.0:
            number = self._rng.random()
            while tiers[start][0] <= number:
                start += 1
        places = (*range(start, len(tiers)), *range(start)) if exclude else (start,)
        for place in places:
            rotation: RoundRobin = tiers[place][1]
            state = rotation.pick(key, exclude, urgent)
            if state is not None:
                return state
        return None
