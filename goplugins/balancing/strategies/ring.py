"""Consistent hashing: the same key to the same member, and little moves when members come and go."""

from __future__ import annotations

import hashlib
import itertools
import math
import random
import struct
import zlib
from bisect import bisect_left
from collections.abc import Set as AbstractSet

from goplugins.balancing.member_state import MAX_ORDER, MemberState, Traffic

__all__ = ["HashRing", "hash_key"]

_POINTS = 1024
"""On the ring, per unit of weight."""

_ODD = 0xD1B54A32D192ED03  # times a key's first place: its second one

_MOST_POINTS = 1 << 18
"""Of all members together. Beyond (from a total weight of 256 on), everybody has half, a quarter, ... of its points."""

_WORD = struct.Struct("<8Q")
_OWNER = MAX_ORDER  # the low bits of a point say whose it is
_BITS = 64
_MASK = (1 << _BITS) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_STEPS = 4096


def hash_key(key: str) -> int:
    """A place on the ring, 0 to 2**64 - 1: the same in every process, on every machine.

    Cheap before all: CRC-32 spreads, the multiplications fill the word (as in SplitMix64). It keeps no adversary
    from finding keys of one member; the bounded load does.

    >>> hex(hash_key("user-123"))
    '0xc676fb8b508da0c'
    """
    number = zlib.crc32(key.encode("utf-8", "surrogatepass")) * _GOLDEN & _MASK
    return (number ^ (number >> 29)) * 0xBF58476D1CE4E5B9 & _MASK


def points_of(name: str, count: int) -> list[int]:
    """The first ``count`` points of a member, by its name alone."""
    points: list[int] = []
    for block in range((count + 7) // 8):
        points += _WORD.unpack(hashlib.blake2b(f"{block}:{name}".encode("utf-8", "surrogatepass")).digest())
    return points[:count]


class HashRing:
    """A ring of virtual nodes with bounded load.

    A key has two places on the ring, and goes to the owner of the next point after that place which is nearer to
    one: that evens the shares out as three times as many points would, to within some 2 % of a share per unit of
    weight; see Appleton and O'Reilly, "Multi-probe consistent hashing". A point that goes makes no way to another
    one longer, so only the keys of a removed member move. (More keys move only where the total weight passes 256,
    512, 1024, ...: then all have half as many points, or the ring would grow without end.)

    All members have their points, those too that may take no calls now: a call goes to the owner, or the owner of
    the next point that may take it and is not overloaded. So a member that is away for a while moves no keys but its
    own. A call without a key goes anywhere, by weight.

    A member is overloaded with more than ``factor`` times the mean of calls under way (by weight), but not below
    ``least`` calls. See Mirrokni, Thorup and Zadimoghaddam, "Consistent hashing with bounded loads".

    Args:
        rng: for calls without a key.
        traffic: the calls under way on all members.
        factor: 1 or more.
        least: calls under way that a member may always have.
    """

    def __init__(self, rng: random.Random, traffic: Traffic, factor: float, least: int) -> None:
        self._rng = rng
        self._traffic = traffic
        self._factor = factor
        self._least = least
        self._ring = _Ring([])
        self._owners: dict[int, MemberState] = {}
        self._shrink = 0
        self._ready: list[MemberState] = []
        self._per_weight = 0.0  # bounded load: factor / weight of those who may take calls

    def rebuild(self, ready: list[MemberState], members: list[MemberState]) -> None:
        """See :class:`Strategy`. Costs time only where members came or went."""
        owners = {state.order: state for state in members}
        shrink = 0
        total = _POINTS * sum(state.weight for state in members)
        while total >> shrink > _MOST_POINTS:
            shrink += 1
        if owners != self._owners or shrink != self._shrink:
            kept = {n for n, state in owners.items() if state is self._owners.get(n) and shrink == self._shrink}
            points = [point for point in self._ring.points if point & _OWNER in kept] if kept else []
            for number, state in owners.items():
                if number not in kept:
                    count = max(1, _POINTS * state.weight >> shrink)
                    points += [point & ~_OWNER | number for point in points_of(state.name, count)]
            self._ring, self._owners, self._shrink = _Ring(points), owners, shrink
        self._ready = ready
        weight = sum(state.weight for state in ready)
        self._per_weight = self._factor / weight if weight else 0.0

    def pick(self, key: str, avoid: AbstractSet[MemberState], urgent: bool) -> MemberState | None:
        """See :class:`Strategy`."""
        if not self._ready:
            return None
        place = self._ring.find(hash_key(key) if key else self._rng.getrandbits(_BITS))
        state = self._owners[self._ring.points[place] & _OWNER]
        if state.ready and state.active < self._least and not avoid:
            return state
        return self._walk(place, avoid)

    def _walk(self, place: int, avoid: AbstractSet[MemberState]) -> MemberState | None:
        """The owner of the first point from ``place`` on that can take the call."""
        points, owners = self._ring.points, self._owners
        bound = self._per_weight * (self._traffic.active + 1)
        for offset in range(min(len(points), _STEPS)):
            state = owners[points[(place + offset) % len(points)] & _OWNER]
            most = max(self._least, math.ceil(bound * state.weight))
            if state.ready and state.active < most and state not in avoid:
                return state
        # Nearly everybody is away, avoided or overloaded.
        others = (state for state in self._ready if state not in avoid)
        return min(others, key=MemberState.crowd, default=None)


class _Ring:
    """Sorted points, and where among them each slice of the ring begins: a search takes two or three steps."""

    __slots__ = ("_shift", "_slices", "points")

    def __init__(self, points: list[int]) -> None:
        points.sort()
        self.points = points
        bits = max(1, len(points).bit_length())
        self._shift = _BITS - bits
        counts = [0] * ((1 << bits) + 1)
        for point in points:
            counts[(point >> self._shift) + 1] += 1
        self._slices = list(itertools.accumulate(counts))

    def find(self, number: int) -> int:
        """The point with the shortest way to it from one of the number's two places."""
        points, slices, shift = self.points, self._slices, self._shift
        piece = number >> shift
        first = bisect_left(points, number, slices[piece], slices[piece + 1])
        other = number * _ODD & _MASK
        piece = other >> shift
        second = bisect_left(points, other, slices[piece], slices[piece + 1])
        if first == len(points):
            first = 0
        if second == len(points):
            second = 0
        return first if points[first] - number & _MASK <= points[second] - other & _MASK else second
