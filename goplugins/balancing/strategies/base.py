"""The interface of strategies, and the helpers that several of them use."""

from __future__ import annotations

import random
from collections.abc import Set as AbstractSet
from typing import Protocol

from goplugins.balancing.member_state import MemberState

NO_MEMBERS: frozenset[MemberState] = frozenset()

_DRAWS = 4


class Strategy(Protocol):
    """Picks one of the ready members. All methods expect the group's lock."""

    def rebuild(self, ready: list[MemberState], members: list[MemberState]) -> None:
        """Replaces the members: ``ready`` are those that may take calls, ``members`` are all."""
        ...

    def pick(self, key: str, exclude: AbstractSet[MemberState], urgent: bool) -> MemberState | None:
        """The member for a call, in constant or logarithmic time; None if all ready members are excluded.

        Args:
            key: the key for consistent hashing.
            exclude: members that must not be picked.
            urgent: the call's priority is above 0.
        """
        ...


def take_turn(state: MemberState, now: float) -> float:
    """Moves the member's next turn forward by 1 / weight, and returns the virtual time of this turn.

    Earliest deadline first: the member with the smallest ``turn`` is next. ``now`` is the virtual time of the last
    turn taken; a member that was out has not saved up turns.
    """
    turn = max(now, state.turn)
    state.turn = turn + state.step
    return turn


def draw_other(states: list[MemberState], exclude: AbstractSet[MemberState], rng: random.Random) -> MemberState | None:
    """A random one of ``states`` that is not in ``exclude``; None if all are."""
    count = len(states)
    if not count:
        return None
    place = 0
    for _ in range(_DRAWS):
        place = int(rng.random() * count)
        if states[place] not in exclude:
            return states[place]
    for offset in range(1, count):
        state = states[(place + offset) % count]
        if state not in exclude:
            return state
    return None
