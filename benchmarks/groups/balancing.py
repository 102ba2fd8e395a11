"""What a pick costs, by strategy, among 10 members and among 1,000; and a refusal when every breaker is open."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.harness import Call, Group, Ratio
from goplugins import ExecutionContext, LoadBalancer, LoadBalancerConfig, LoadBalancingStrategy, PluginError
from goplugins.models import PluginStatus

__all__ = ["GROUP"]

_FEW, _MANY = 10, 1000


def _name(strategy: LoadBalancingStrategy, members: int) -> str:
    return f"{strategy}: one call, {members} members"


_REFUSED = "refused, 5 members, all breakers open"
_BARE = "100 µs of CPU time"

GROUP = Group(
    name="balancing",
    title="A call through a load balancer to members that do nothing: pick, count in, offer, count out, learn",
    clock=time.thread_time,
    timing="CPU time of the thread",
    ratios=(
        *(
            Ratio(f"{strategy}: 1,000 members vs 10", _name(strategy, _MANY), _name(strategy, _FEW), 2.0)
            for strategy in LoadBalancingStrategy
        ),
        Ratio("a refusal by 5 open breakers vs 100 µs", _REFUSED, _BARE, 1.0),
    ),
)


class _Member:
    """Answers at once, or has its breaker open."""

    def __init__(self, name: str, open_for: float = 0.0) -> None:
        self.name = name
        self._open_for = open_for

    def offer(self, call: Any) -> None:
        return None

    def retry_after(self) -> float:
        return self._open_for

    def admits(self) -> bool:
        return not self._open_for

    def status(self) -> PluginStatus:
        return PluginStatus.HEALTHY

    def subscribe(self, callback: Callable[[], object], /) -> None:
        return None


class _Bare:
    """What the balancer reads of a call."""

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
            call: Any = _Bare()
            send, number = balancer.send, 0

            def once() -> None:
                nonlocal number
                number += 1
                call.key = f"key-{number & 4095}"
                send(call)

            yield once


for _strategy in LoadBalancingStrategy:
    for _members in (_FEW, _MANY):
        _add(_strategy, _members)


@GROUP.row(_REFUSED)
def _(_: object) -> Iterator[Call]:
    with LoadBalancer("g", members=[_Member(f"m{number}", 60.0) for number in range(5)]) as balancer:
        context = ExecutionContext()

        def refused() -> None:
            try:
                balancer.execute(None, context)
            except PluginError:
                return
            raise AssertionError("every breaker was to be open")

        yield refused


@GROUP.row(_BARE)
def _(_: object) -> Iterator[Call]:
    def spin() -> None:
        end = time.thread_time() + 100e-6
        while time.thread_time() < end:
            pass

    yield spin
