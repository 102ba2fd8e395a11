"""The strategies that leave it to chance."""

from __future__ import annotations

import random
from collections.abc import Set as AbstractSet

from goplugins.balancing.member_state import MemberState
from goplugins.balancing.strategies.base import draw_other

__all__ = ["AliasTable", "PowerOfTwo", "Random", "WeightedRandom"]

_DRAWS = 4


class AliasTable:
    """Draws by weight in constant time (Walker's alias method, built as Vose does it)."""

    __slots__ = ("_aliases", "_limits", "_rng", "states")

    def __init__(self, states: list[MemberState], rng: random.Random) -> None:
        self.states = states
        self._rng = rng
        count = len(states)
        total = sum(state.weight for state in states)
        scaled = [state.weight * count / total for state in states]
        self._limits = [place + 1.0 for place in range(count)]
        self._aliases = states.copy()
        small = [place for place in range(count) if scaled[place] < 1.0]
        large = [place for place in range(count) if scaled[place] >= 1.0]
        while small and large:
            low, high = small.pop(), large[-1]
            self._limits[low] = low + scaled[low]
            self._aliases[low] = states[high]
            scaled[high] -= 1.0 - scaled[low]
            if scaled[high] < 1.0:
                small.append(large.pop())

    def draw(self) -> MemberState:
        """One of the members; there must be some."""
        number = self._rng.random() * len(self.states)
        place = int(number)
        return self.states[place] if number < self._limits[place] else self._aliases[place]


class Random:
    """Any member, each as likely as the other, whatever its weight."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._draw = rng.random
        self._ready: list[MemberState] = []

    def rebuild(self, ready: list[MemberState], members: list[MemberState]) -> None:
        """See :class:`Strategy`."""
        self._ready = ready

    def pick(self, key: str, avoid: AbstractSet[MemberState], urgent: bool) -> MemberState | None:
        """See :class:`Strategy`."""
        ready = self._ready
        if avoid or not ready:
            return draw_other(ready, avoid, self._rng)
        return ready[int(self._draw() * len(ready))]


class WeightedRandom:
    """Any member, as likely as its weight says."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._table = AliasTable([], rng)

    def rebuild(self, ready: list[MemberState], members: list[MemberState]) -> None:
        """See :class:`Strategy`."""
        self._table = AliasTable(ready, self._rng)

    def pick(self, key: str, avoid: AbstractSet[MemberState], urgent: bool) -> MemberState | None:
        """See :class:`Strategy`."""
        table = self._table
        if not table.states:
            return None
        if not avoid:
            return table.draw()
        for _ in range(_DRAWS):
            state = table.draw()
            if state not in avoid:
                return state
        return draw_other(table.states, avoid, self._rng)


class PowerOfTwo:
    """Two different members drawn by weight; of them the one with the lower latency x (calls under way + 1).

    See Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing". Unlike the best of all, the better
    of two does not draw everybody to one member at once.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._drawn = WeightedRandom(rng)
        self._count = 0

    def rebuild(self, ready: list[MemberState], members: list[MemberState]) -> None:
        """See :class:`Strategy`."""
        self._drawn.rebuild(ready, members)
        self._count = len(ready)

    def pick(self, key: str, avoid: AbstractSet[MemberState], urgent: bool) -> MemberState | None:
        """See :class:`Strategy`."""
        drawn = self._drawn
        first = drawn.pick(key, avoid, urgent)
        if first is None or self._count < 2:
            return first
        second: MemberState | None = None
        for _ in range(_DRAWS):
            second = drawn.pick(key, avoid, urgent)
            if second is not first:
                break
        else:
            second = drawn.pick(key, {first, *avoid}, urgent)
        return first if second is None or first.load() <= second.load() else second
