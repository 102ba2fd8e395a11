"""What the strategies have in common: an interface, and a turn that is theirs by weight."""

from __future__ import annotations

import random
from collections.abc import Set as AbstractSet
from typing import Protocol

from goplugins.balancing.member_state import MemberState

__all__ = ["NOBODY", "Strategy", "draw_other", "take_turn"]

NOBODY: frozenset[MemberState] = frozenset()

_DRAWS = 4


class Strategy(Protocol):
    """Picks a member among those that may take calls. All methods expect the group's lock."""

    def rebuild(self, ready: list[MemberState], members: list[MemberState]) -> None:
        """Goes by these from now on: who may take calls, and all that there are."""
        ...

    def pick(self, key: str, avoid: AbstractSet[MemberState], urgent: bool) -> MemberState | None:
        """The member for a call; None if all who may take it are to be avoided. Takes constant or logarithmic time.

        Args:
            key: what consistent hashing goes by.
            avoid: who shall not be picked.
            urgent: a call that matters more than spreading load evenly.
        """
        ...


def take_turn(state: MemberState, now: float) -> float:
    """Moves the member's next turn on, the further the less it weighs, and returns the virtual time of this one.

    Earliest deadline first: who is next is the one with the smallest ``turn``. ``now`` is the virtual time of the
    last turn taken; one who was away has not saved turns up.
    """
    turn = max(now, state.turn)
    state.turn = turn + state.step
    return turn


def draw_other(states: list[MemberState], avoid: AbstractSet[MemberState], rng: random.Random) -> MemberState | None:
    """One of ``states`` by chance that is not in ``avoid``; None if all are."""
    count = len(states)
    if not count:
        return None
    place = 0
    for _ in range(_DRAWS):
        place = int(rng.random() * count)
        if states[place] not in avoid:
            return states[place]
    for offset in range(1, count):
        state = states[(place + offset) % count]
        if state not in avoid:
            return state
    return None
