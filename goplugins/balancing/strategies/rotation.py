"""Round-robin: everybody in turn, as often as their weights say, and as evenly spread as can be."""

from __future__ import annotations

import heapq
import random
from collections.abc import Set as AbstractSet

from goplugins.balancing.member_state import MemberState
from goplugins.balancing.strategies.base import take_turn

__all__ = ["RoundRobin"]

_SKIPS = 8  # turns that are passed over before all members are looked through


class RoundRobin:
    """Smooth weighted round-robin, as "earliest deadline first": a heap of the members' next turns.

    Each process begins at another place, so that many of them don't call the members in step.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._heap: list[tuple[float, int, MemberState]] = []
        self._now = 0.0  # virtual time: that of the last turn
        self._seen: set[MemberState] = set()

    def rebuild(self, ready: list[MemberState], members: list[MemberState]) -> None:
        """See :class:`Strategy`. Who was there before keeps its turn."""
        for state in ready:
            if state not in self._seen or state.turn < self._now:
                state.turn = self._now + self._rng.random() * state.step
        self._seen = set(ready)
        heap = [(state.turn, state.order, state) for state in ready]
        heapq.heapify(heap)
        self._heap = heap

    def pick(self, key: str, avoid: AbstractSet[MemberState], urgent: bool) -> MemberState | None:
        """See :class:`Strategy`."""
        heap = self._heap
        skips = _SKIPS
        while heap:
            turn, order, state = heap[0]
            if turn < state.turn:  # it was called out of turn
                heapq.heapreplace(heap, (state.turn, order, state))
                continue
            # What take_turn() does, without the call.
            self._now = turn
            state.turn = turn + state.step
            heapq.heapreplace(heap, (state.turn, order, state))
            if not avoid or state not in avoid:
                return state
            skips -= 1
            if not skips:
                return self._first_other(avoid)
        return None

    def _first_other(self, avoid: AbstractSet[MemberState]) -> MemberState | None:
        others = (entry[2] for entry in self._heap if entry[2] not in avoid)
        found = min(others, key=lambda state: state.turn, default=None)
        if found is not None:
            take_turn(found, self._now)  # its entry in the heap is put right when it comes up
        return found
