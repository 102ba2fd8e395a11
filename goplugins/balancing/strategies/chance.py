"""Strategies that draw members at random."""

from __future__ import annotations

import random
from collections.abc import Set as AbstractSet

from goplugins.balancing.member_state import MemberState
from goplugins.balancing.strategies.base import draw_other

_DRAWS = 4


class AliasTable:
    """Weighted random draws in constant time (Walker's alias method, built by Vose's algorithm)."""

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
        """A random member; the table must not be empty."""
        number = self._rng.random() * len(self.states)
        place = int(number)
        return self.states[place] if number < self._limits[place] else self._aliases[place]


class Random:
    """Draws members with equal probability, whatever their weights."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._draw = rng.random
        self._ready: list[MemberState] = []

    def rebuild(self, ready: list[MemberState], members: list[MemberState]) -> None:
        """See :class:`Strategy`."""
        self._ready = ready

    def pick(self, key: str, exclude: AbstractSet[MemberState], urgent: bool) -> MemberState | None:
        """See :class:`Strategy`."""
        ready = self._ready
        if exclude or not ready:
            return draw_other(ready, exclude, self._rng)
        return ready[int(self._draw() * len(ready))]


class WeightedRandom:
    """Draws members with a probability proportional to their weights."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._table = AliasTable([], rng)

    def rebuild(self, ready: list[MemberState], members: list[MemberState]) -> None:
        """See :class:`Strategy`."""
        self._table = AliasTable(ready, self._rng)

    def pick(self, key: str, exclude: AbstractSet[MemberState], urgent: bool) -> MemberState | None:
        """See :class:`Strategy`."""
        table = self._table
        if not table.states:
            return None
        if not exclude:
            return table.draw()
        for _ in range(_DRAWS):
            state = table.draw()
            if state not in exclude:
                return state
        return draw_other(table.states, exclude, self._rng)


class PowerOfTwo:
    """Draws two different members by weight, and picks the one with the lower latency x (calls in flight + 1).

    See Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing". Unlike the minimum over all members, the
    better of two does not send all callers to the same member at once.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._drawn = WeightedRandom(rng)
        self._count = 0

    def rebuild(self, ready: list[MemberState], members: list[MemberState]) -> None:
        """See :class:`Strategy`."""
        self._drawn.rebuild(ready, members)
        self._count = len(ready)

    def pick(self, key: str, exclude: AbstractSet[MemberState], urgent: bool) -> MemberState | None:
        """See :class:`Strategy`."""
        drawn = self._drawn
        first = drawn.pick(key, exclude, urgent)
        if first is None or self._count < 2:
            return first
        second: MemberState | None = None
        for _ in range(_DRAWS):
            second = drawn.pick(key, exclude, urgent)
            if second is not first:
                break
        else:
            second = drawn.pick(key, {first, *exclude}, urgent)
        return first if second is None or first.load() <= second.load() else second
