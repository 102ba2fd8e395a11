"""Load balancing: cost of a pick for each strategy with 10 and 1,000 members, and of a call with all breakers open."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.harness import Call, Group, Ratio
from goplugins import ExecutionContext, LoadBalancer, LoadBalancerConfig, LoadBalancingStrategy, PluginError
from goplugins.enums import PluginStatus

__all__ = ["GROUP"]

_FEW, _MANY = 10, 1000
_BUSY = 5  # calls under way per member, under load


def _name(strategy: LoadBalancingStrategy, members: int) -> str:
    return f"{strategy}: one call, {members} members"


def _loaded(strategy: LoadBalancingStrategy, members: int) -> str:
    return f"{strategy}: under load, {members} members"


_REFUSED = "refused, 5 members, all breakers open"
_100_US = "100 µs of CPU time"

GROUP = Group(
    name="balancing",
    title="A call through a load balancer to members that do nothing: pick, send, record",
    clock=time.thread_time,
    timing="CPU time of the thread",
    ratios=(
        *(
            Ratio(f"{strategy}: 1,000 members vs 10", _name(strategy, _MANY), _name(strategy, _FEW), 2.0)
            for strategy in LoadBalancingStrategy
        ),
        *(
            Ratio(f"{strategy}, under load: 1,000 vs 10", _loaded(strategy, _MANY), _loaded(strategy, _FEW), 2.0)
            for strategy in LoadBalancingStrategy
        ),
        Ratio("a refusal by 5 open breakers vs 100 µs", _REFUSED, _100_US, 1.0),
    ),
)


class _Member:
    """Member that answers at once, or whose breaker is open."""

    def __init__(self, name: str, open_for: float = 0.0) -> None:
        self.name = name
        self._open_for = open_for

    def call_as_member(self, call: Any) -> None:
        return None

    def retry_after(self) -> float:
        return self._open_for

    def admits(self) -> bool:
        return not self._open_for

    def status(self) -> PluginStatus:
        return PluginStatus.HEALTHY

    def subscribe(self, callback: Callable[[], object], /) -> None:
        return None


class _StubCall:
    """The attributes of a call that the balancer reads."""

    key = ""
    priority = 0
    preferences = ()
    tried = ()
    member = ""


def _add(strategy: LoadBalancingStrategy, members: int) -> None:
    @GROUP.row(_name(strategy, members))
    def _(_: object) -> Iterator[Call]:
        config = LoadBalancerConfig(name="g", strategy=strategy, slow_start=0.0)
        with LoadBalancer(config, members=[_Member(f"m{number}") for number in range(members)]) as balancer:
            call: Any = _StubCall()
            send, number = balancer.send, 0

            def once() -> None:
                nonlocal number
                number += 1
                call.key = f"key-{number & 4095}"
                send(call)

            yield once


def _add_loaded(strategy: LoadBalancingStrategy, members: int) -> None:
    @GROUP.row(_loaded(strategy, members))
    def _(_: object) -> Iterator[Call]:
        config = LoadBalancerConfig(name="g", strategy=strategy, slow_start=0.0)
        with LoadBalancer(config, members=[_Member(f"m{number}") for number in range(members)]) as balancer:
            load = _Load(balancer, members * _BUSY)
            for _ in range(members * _BUSY):
                load.step()
            yield load.step


class _Load:
    """Keeps many calls in flight; each step starts one call and ends a random other one.

    It uses the two halves of the balancer's ``send``, which returns only when the call is over.
    """

    def __init__(self, balancer: LoadBalancer[Any, Any], calls: int) -> None:
        self._dispatcher = balancer._dispatcher
        self._call: Any = _StubCall()
        self._random = random.Random(1).random
        self._number = 0
        self._under_way = [self._begin() for _ in range(calls)]

    def _begin(self) -> tuple[Any, float]:
        dispatcher, call = self._dispatcher, self._call
        self._number += 1
        call.key = f"key-{self._number & 4095}"
        with dispatcher.lock:
            started = dispatcher.now()
            state = dispatcher.pick(call, {}, started)
            assert state is not None
            state.active += 1
            state.traffic.active += 1
        return state, started

    def step(self) -> None:
        begun = self._begin()
        calls, dispatcher = self._under_way, self._dispatcher
        index = int(self._random() * len(calls))
        state, started = calls[index]
        calls[index] = begun
        with dispatcher.lock:
            state.active -= 1
            state.traffic.active -= 1
            dispatcher.record_success(state, self._call, started)


for _strategy in LoadBalancingStrategy:
    for _members in (_FEW, _MANY):
        _add(_strategy, _members)
        _add_loaded(_strategy, _members)


@GROUP.row(_REFUSED)
def _(_: object) -> Iterator[Call]:
    with LoadBalancer("g", members=[_Member(f"m{number}", 60.0) for number in range(5)]) as balancer:
        context = ExecutionContext()

        def refused() -> None:
            try:
                balancer.execute(None, context)
            except PluginError:
                return
            raise AssertionError("a call got through although every breaker should be open")

        yield refused


@GROUP.row(_100_US)
def _(_: object) -> Iterator[Call]:
    def spin() -> None:
        end = time.thread_time() + 100e-6
        while time.thread_time() < end:
            pass

    yield spin
