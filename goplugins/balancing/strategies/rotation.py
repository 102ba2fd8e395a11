"""Smooth weighted round-robin."""

from __future__ import annotations

import heapq
import random
from collections.abc import Set as AbstractSet

from goplugins.balancing.member_state import MemberState
from goplugins.balancing.strategies.base import take_turn

_SKIPS = 8  # excluded members that are skipped in turn before all members are searched


class RoundRobin:
    """Smooth weighted round-robin, implemented as earliest deadline first: a heap of the members' next turns.

    The first turns are random, so that many processes don't call the members in step.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._heap: list[tuple[float, int, MemberState]] = []
        self._now = 0.0  # virtual time of the last turn
        self._known: set[MemberState] = set()

    def rebuild(self, ready: list[MemberState], members: list[MemberState]) -> None:
        """See :class:`Strategy`. Members that were ready before keep their turns."""
        for state in ready:
            if state not in self._known or state.turn < self._now:
                state.turn = self._now + self._rng.random() * state.step
        self._known = set(ready)
        heap = [(state.turn, state.number, state) for state in ready]
        heapq.heapify(heap)
        self._heap = heap

    def pick(self, key: str, exclude: AbstractSet[MemberState], urgent: bool) -> MemberState | None:
        """See :class:`Strategy`."""
        heap = self._heap
        skips = _SKIPS
        while heap:
            turn, number, state = heap[0]
            if turn < state.turn:  # it was picked out of turn
                heapq.heapreplace(heap, (state.turn, number, state))
                continue
            # take_turn(), inlined.
            self._now = turn
            state.turn = turn + state.step
            heapq.heapreplace(heap, (state.turn, number, state))
            if not exclude or state not in exclude:
                return state
            skips -= 1
            if not skips:
                return self._first_other(exclude)
        return None

    def _first_other(self, exclude: AbstractSet[MemberState]) -> MemberState | None:
        others = (entry[2] for entry in self._heap if entry[2] not in exclude)
        found = min(others, key=lambda state: state.turn, default=None)
        if found is not None:
            take_turn(found, self._now)  # its heap entry is updated when it reaches the top
        return found
