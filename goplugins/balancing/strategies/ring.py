"""Consistent hashing: a key keeps its member, and few keys move when members are added or removed."""

from __future__ import annotations

import hashlib
import itertools
import math
import random
import struct
import zlib
from bisect import bisect_left
from collections.abc import Set as AbstractSet

from goplugins.balancing.member_state import MAX_NUMBER, MemberState, Traffic

_POINTS = 1024
"""Points on the ring per unit of weight."""

_ODD = 0xD1B54A32D192ED03  # the second place of a key is its first one times this

_MAX_POINTS = 1 << 18
"""Points of all members together. From a total weight of 256 on, each member has half, a quarter, ... of its points."""

_WORD = struct.Struct("<8Q")
_OWNER = MAX_NUMBER  # the low bits of a point: the number of its member
_BITS = 64
_MASK = (1 << _BITS) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_STEPS = 4096


def hash_key(key: str) -> int:
    """A place on the ring, 0 to 2**64 - 1: the same in every process, on every machine.

    Fast rather than collision resistant: CRC-32, spread over 64 bits by multiplications as in SplitMix64. Keys can be
    crafted to hit one member; the bounded load limits the effect.

    >>> hex(hash_key("user-123"))
    '0xc676fb8b508da0c'
    """
    number = zlib.crc32(key.encode("utf-8", "surrogatepass")) * _GOLDEN & _MASK
    return (number ^ (number >> 29)) * 0xBF58476D1CE4E5B9 & _MASK


def points_of(name: str, count: int) -> list[int]:
    """The first ``count`` points of a member, which depend on its name only."""
    points: list[int] = []
    for block in range((count + 7) // 8):
        points += _WORD.unpack(hashlib.blake2b(f"{block}:{name}".encode("utf-8", "surrogatepass")).digest())
    return points[:count]


class HashRing:
    """A ring of virtual nodes with bounded load.

    A key has two places on the ring, and belongs to the point that follows one of them at the shorter distance. This
    evens out the shares as three times as many points would, to within some 2 % of a share per unit of weight; see
    Appleton and O'Reilly, "Multi-probe consistent hashing". Removing a point does not change the distance to any other
    one, so only the keys of a removed member move. (Other keys move only when the total weight passes 256, 512,
    1024, ...: then the points of all members are halved, to bound the size of the ring.)

    Members that are out keep their points: a call goes to the owner of its key, or else to the owner of the next point
    that is ready and not overloaded. So a member that is out for a while moves only its own keys. Calls without a key
    are spread by weight.

    A member is overloaded with more than ``factor`` times the mean of calls in flight (by weight), but not with fewer
    than ``min_load`` calls. See Mirrokni, Thorup and Zadimoghaddam, "Consistent hashing with bounded loads".

    Args:
        rng: draws the places of calls without a key.
        traffic: calls in flight on all members.
        factor: 1 or more.
        min_load: calls in flight that a member may always have.
    """

    def __init__(self, rng: random.Random, traffic: Traffic, factor: float, min_load: int) -> None:
        self._rng = rng
        self._traffic = traffic
        self._factor = factor
        self._min_load = min_load
        self._ring = _Ring([])
        self._owners: dict[int, MemberState] = {}
        self._shrink = 0
        self._ready: list[MemberState] = []
        self._per_weight = 0.0  # factor / weight of the ready members

    def rebuild(self, ready: list[MemberState], members: list[MemberState]) -> None:
        """See :class:`Strategy`. Points are computed only for members that were added."""
        owners = {state.number: state for state in members}
        shrink = 0
        total = _POINTS * sum(state.weight for state in members)
        while total >> shrink > _MAX_POINTS:
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

    def pick(self, key: str, exclude: AbstractSet[MemberState], urgent: bool) -> MemberState | None:
        """See :class:`Strategy`."""
        if not self._ready:
            return None
        place = self._ring.find(hash_key(key) if key else self._rng.getrandbits(_BITS))
        state = self._owners[self._ring.points[place] & _OWNER]
        if state.ready and state.active < self._min_load and not exclude:
            return state
        return self._walk(place, exclude)

    def _walk(self, place: int, exclude: AbstractSet[MemberState]) -> MemberState | None:
        """The owner of the first point from ``place`` on that is ready, not overloaded and not excluded."""
        points, owners = self._ring.points, self._owners
        bound = self._per_weight * (self._traffic.active + 1)
        for offset in range(min(len(points), _STEPS)):
            state = owners[points[(place + offset) % len(points)] & _OWNER]
            most = max(self._min_load, math.ceil(bound * state.weight))
            if state.ready and state.active < most and state not in exclude:
                return state
        # Nearly all members are out, excluded or overloaded.
        others = (state for state in self._ready if state not in exclude)
        return min(others, key=MemberState.active_per_weight, default=None)


class _Ring:
    """Sorted points with an index by their leading bits: a search takes two or three steps."""

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
        """The index of the point that follows one of the two places of ``number`` at the shorter distance."""
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
