"""The strategies that go to the member with the least of something: calls under way, or latency."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Set as AbstractSet

from goplugins.balancing.member_state import MemberState
from goplugins.balancing.strategies.base import take_turn

__all__ = ["Least"]

_Entry = tuple[float, float, int, MemberState]


class Least:
    """A lazy heap: the member with the lowest score; among equals, whose turn it is by weight.

    An entry may be lower than its member's score is by now (it got a call): that is put right when it comes to the
    top. It is never higher for long: when a score falls, a new entry is pushed and the old one is thrown away when
    it comes up. A member is never without an entry, so that an interrupt at any place loses nobody.

    Args:
        score: what is to be low. May change only with a pick, and where :meth:`relieved` is called.
        rng: at which place the turns begin.
    """

    def __init__(self, score: Callable[[MemberState], float], rng: random.Random) -> None:
        self._score = score
        self._rng = rng
        self._heap: list[_Entry] = []
        self._ready: list[MemberState] = []
        self._now = 0.0  # virtual time: that of the last turn
        self._most = 0
        self._torn = False  # entries were taken out and not put back
        self._seen: set[MemberState] = set()

    def rebuild(self, ready: list[MemberState], members: list[MemberState]) -> None:
        """See :class:`Strategy`."""
        for state in ready:
            if state not in self._seen:
                state.turn = self._now + self._rng.random() * state.step
        self._seen = set(ready)
        self._ready = ready
        self._most = 4 * len(ready) + 64
        self._reheap()

    def _reheap(self) -> None:
        self._torn = True
        heap = []
        for state in self._ready:
            entry = state.entry = (self._score(state), state.turn, state.order, state)
            heap.append(entry)
        heapq.heapify(heap)
        self._heap = heap
        self._torn = False

    def pick(self, key: str, avoid: AbstractSet[MemberState], urgent: bool) -> MemberState | None:
        """See :class:`Strategy`."""
        if self._torn:
            self._reheap()
        state = self._best() if not avoid else self._best_other(avoid)
        if state is not None:
            self._now = take_turn(state, self._now)
        return state

    def _best(self) -> MemberState | None:
        heap = self._heap
        while heap:
            top = heap[0]
            state = top[3]
            if top is not state.entry:
                heapq.heappop(heap)
                continue
            score = self._score(state)
            if score <= top[0] and state.turn <= top[1]:
                return state
            # No call between these two lines but heapq's own, which is not interrupted.
            state.entry = entry = (score, state.turn, top[2], state)
            heapq.heapreplace(heap, entry)
        return None

    def _best_other(self, avoid: AbstractSet[MemberState]) -> MemberState | None:
        self._torn = True
        aside = []
        state = self._best()
        while state is not None and state in avoid:
            aside.append(heapq.heappop(self._heap))
            state = self._best()
        for entry in aside:
            heapq.heappush(self._heap, entry)
        self._torn = False
        return state

    def relieved(self, state: MemberState) -> None:
        """A call of a member that may take calls has ended, or its latency is another: it may be the best by now."""
        entry = state.entry
        score = self._score(state)
        if entry is None or score < entry[0]:
            state.entry = entry = (score, state.turn, state.order, state)
            heapq.heappush(self._heap, entry)
            if len(self._heap) > self._most:
                self._reheap()
