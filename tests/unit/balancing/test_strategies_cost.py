"""The cost of a pick and of a refusal: the same with many members, and low when all are down."""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

import goplugins
from goplugins.balancing.member_state import MemberState
from goplugins.errors import CircuitBreakerOpenError

from .fakes import STRATEGIES, Group, make_call

pytestmark = pytest.mark.matrix

_OURS = os.path.dirname(goplugins.__file__)


def best_time(function: Callable[[], object], times: int = 5) -> float:
    """CPU seconds of this thread, the best of several runs."""
    best = float("inf")
    for _ in range(times):
        started = time.thread_time()
        function()
        best = min(best, time.thread_time() - started)
    return best


class Load:
    """Several calls per member are in flight; with each step one begins, and a random one ends.

    Runs the two halves of the balancer's ``send``, which returns only at the end of a call.
    """

    def __init__(self, strategy: str, members: int, per_member: int = 5) -> None:
        self.group = Group(members, strategy, slow_start=0.0)
        self.dispatcher = self.group.balancer._dispatcher
        self.random = random.Random(3)
        self.number = 0
        self.in_flight = [self.begin() for _ in range(members * per_member)]

    def begin(self) -> tuple[Any, MemberState, float]:
        self.number += 1
        call = make_call(self.group.clock, key=f"user-{self.number & 1023}")
        with self.dispatcher.lock:
            now = self.dispatcher.now()
            state = self.dispatcher.pick(call, {}, now)
            assert state is not None
            state.active += 1
            state.traffic.active += 1
        return call, state, now

    def step(self) -> None:
        begun = self.begin()
        place = int(self.random.random() * len(self.in_flight))
        call, state, started = self.in_flight[place]
        self.in_flight[place] = begun
        self.group.clock.advance(0.001)
        with self.dispatcher.lock:
            state.active -= 1
            state.traffic.active -= 1
            self.dispatcher.record_success(state, call, started)


def lines_run(function: Callable[[], object], times: int) -> float:
    """Lines of the package that one call of ``function`` runs, on average. Work within C code is not included."""
    lines = 0

    def inside(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal lines
        lines += event == "line"
        return inside

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        return inside if frame.f_code.co_filename.startswith(_OURS) else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        for _ in range(times):
            function()
    finally:
        sys.settrace(before)
    return lines / times


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_under_load_a_call_runs_as_many_lines_with_1000_members_as_with_10(strategy: str) -> None:
    costs = []
    for members in (10, 1000):
        load = Load(strategy, members)
        for _ in range(2 * members):
            load.step()
        costs.append(lines_run(load.step, 4 * members))  # enough for periodic work to be included
    assert costs[1] <= 1.5 * costs[0], f"lines: {costs}"


def cost_of_picking(strategy: str, count: int) -> float:
    """Microseconds for one call of a member that does nothing."""
    group = Group(count, strategy)
    calls = [make_call(group.clock, key=f"user-{number}") for number in range(1000)]

    def each() -> None:
        for call in calls:
            group.balancer.send(call)

    each()
    return best_time(each) * 1000


def cost_under_load(strategy: str, count: int) -> float:
    """Microseconds for one call to begin and another one to end."""
    load = Load(strategy, count)

    def steps() -> None:
        for _ in range(1000):
            load.step()

    steps()
    return best_time(steps) * 1000


@pytest.mark.parametrize("cost", [cost_of_picking, cost_under_load])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_pick_among_1000_members_costs_at_most_twice_as_much_as_among_10(
    strategy: str, cost: Callable[[str, int], float]
) -> None:
    # A busy machine may spoil one measurement; a pick that visits all members spoils all.
    ratios = []
    for _ in range(4):
        ratios.append(cost(strategy, 1000) / cost(strategy, 10))
        if ratios[-1] <= 2:
            return
    pytest.fail(f"ratios: {ratios}")


def test_a_refusal_by_all_breakers_takes_microseconds() -> None:
    group = Group(5)
    group.eject("a")  # so that there is a last error to tell of
    for member in group.members:
        member.open_until = 1e9
        member.notify()
    assert isinstance(group.try_send(), CircuitBreakerOpenError)

    def refusals() -> None:
        for _ in range(20):
            group.try_send()

    # A third of that on an idle machine. A busy one may spoil many measurements, not all.
    assert best_time(refusals, 30) / 20 < 100e-6
