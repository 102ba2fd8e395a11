"""Least connections and least latency: the member with the lowest score."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Set as AbstractSet

from goplugins.balancing.member_state import MemberState
from goplugins.balancing.strategies.base import take_turn

_Entry = tuple[float, float, int, MemberState]


class Least:
    """Picks the member with the lowest score, by a lazy heap; equal scores take weighted turns.

    An entry may be below its member's score (which rises with a pick): it is corrected when it reaches the top. When a
    score falls, :meth:`score_fell` pushes a new entry; the outdated one is dropped when it reaches the top. A member is
    never without an entry, so that an interrupt at any line loses no member.

    Args:
        score: changes only with a pick, and before :meth:`score_fell`.
        rng: draws the first turns.
    """

    def __init__(self, score: Callable[[MemberState], float], rng: random.Random) -> None:
        self._score = score
        self._rng = rng
        self._heap: list[_Entry] = []
        self._ready: list[MemberState] = []
        self._now = 0.0  # virtual time of the last turn
        self._max_entries = 0
        self._incomplete = False  # entries were taken out and not put back
        self._known: set[MemberState] = set()

    def rebuild(self, ready: list[MemberState], members: list[MemberState]) -> None:
        """See :class:`Strategy`."""
        for state in ready:
            if state not in self._known:
                state.turn = self._now + self._rng.random() * state.step
        self._known = set(ready)
        self._ready = ready
        self._max_entries = 4 * len(ready) + 64
        self._rebuild_heap()

    def _rebuild_heap(self) -> None:
        self._incomplete = True
        heap = []
        for state in self._ready:
            entry = state.entry = (self._score(state), state.turn, state.number, state)
            heap.append(entry)
        heapq.heapify(heap)
        self._heap = heap
        self._incomplete = False

    def pick(self, key: str, exclude: AbstractSet[MemberState], urgent: bool) -> MemberState | None:
        """See :class:`Strategy`."""
        if self._incomplete:
            self._rebuild_heap()
        state = self._best() if not exclude else self._best_other(exclude)
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

    def _best_other(self, exclude: AbstractSet[MemberState]) -> MemberState | None:
        self._incomplete = True
        aside = []
        state = self._best()
        while state is not None and state in exclude:
            aside.append(heapq.heappop(self._heap))
            state = self._best()
        for entry in aside:
            heapq.heappush(self._heap, entry)
        self._incomplete = False
        return state

    def score_fell(self, state: MemberState) -> None:
        """Updates a ready member whose score may have fallen: a call has ended, or its latency has changed."""
        entry = state.entry
        score = self._score(state)
        if entry is None or score < entry[0]:
            state.entry = entry = (score, state.turn, state.number, state)
            heapq.heappush(self._heap, entry)
            if len(self._heap) > self._max_entries:
                self._rebuild_heap()
