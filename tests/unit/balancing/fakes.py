"""Fake members, and groups of them on a manual clock."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from goplugins.balancing import LoadBalancer
from goplugins.config import HealthCheckConfig, LoadBalancerConfig
from goplugins.enums import LoadBalancingStrategy, PluginStatus
from goplugins.errors import CircuitBreakerOpenError, PluginConnectionError, PluginUnavailableError
from goplugins.health import HealthChecker
from goplugins.models.context import ExecutionContext
from goplugins.models.plugin import PluginInfo
from goplugins.models.results import HealthStatus
from goplugins.observability.event_stream import EventStream
from goplugins.pipeline.attempts import Checker
from goplugins.runtime.call import Call
from goplugins.runtime.deadline import Deadline
from goplugins.runtime.scheduler import Scheduler
from goplugins.testing import ManualClock
from goplugins.transports.json_codec import codec_for

STRATEGIES = list(LoadBalancingStrategy)
TWO_STRATEGIES = ["round-robin", "least-connections"]
"""For tests that take seconds: `make stress` runs them with all."""


class FakeMember:
    """Answers with its name after ``latency`` seconds of the clock, or raises ``error`` if there is one."""

    def __init__(self, name: str, clock: ManualClock, latency: float = 0.0) -> None:
        self.name = name
        self.clock = clock
        self.latency = latency
        self.error: BaseException | Callable[[], BaseException] | None = None
        self.act: Callable[[Call], Any] | None = None
        self.open_until = 0.0
        self.gate_open = True
        self.health_status = PluginStatus.UNKNOWN
        self.endpoint = ""
        self.checker: Checker | None = None
        self.callbacks: list[Callable[[], object]] = []
        self.calls = 0

    def call_as_member(self, call: Call) -> Any:
        if self.retry_after() > 0:
            raise CircuitBreakerOpenError("circuit breaker is open", plugin=self.name, retry_after=self.retry_after())
        self.calls += 1
        if self.act is not None:
            return self.act(call)
        if self.latency:
            self.clock.advance(self.latency)
        if self.error is not None:
            raise self.error if isinstance(self.error, BaseException) else self.error()
        return self.name

    def retry_after(self) -> float:
        return max(0.0, self.open_until - self.clock.monotonic())

    def admits(self) -> bool:
        return self.gate_open and not self.retry_after()

    def status(self) -> PluginStatus:
        return self.health_status

    def health(self, timeout: float) -> HealthStatus:
        return HealthStatus(self.health_status)

    def subscribe(self, callback: Callable[[], object], /) -> Callable[[], object]:
        self.callbacks.append(callback)
        return lambda: self.callbacks.remove(callback)

    def notify(self) -> None:
        for callback in list(self.callbacks):
            callback()

    def becomes(self, status: PluginStatus) -> None:
        self.health_status = status
        self.notify()


def refused() -> PluginConnectionError:
    return PluginConnectionError("connection refused")


def unavailable() -> PluginUnavailableError:
    return PluginUnavailableError("HTTP 503")


class Group:
    """A balancer over fakes ``a``, ``b``, ``c``, ... on a manual clock with seeded dice."""

    def __init__(
        self,
        count: int = 3,
        strategy: str = "round-robin",
        *,
        weights: Any = (),
        events: EventStream | None = None,
        **settings: Any,
    ) -> None:
        self.clock = ManualClock(start=1000.0)
        self.members = [FakeMember(_name(number), self.clock) for number in range(count)]
        config = LoadBalancerConfig(name="group", strategy=LoadBalancingStrategy(strategy), **settings)
        self.balancer: LoadBalancer[Any, Any] = LoadBalancer(
            config, clock=self.clock, rng=random.Random(7), events=events
        )
        for number, member in enumerate(self.members):
            self.balancer.add_plugin(member, weight=weights[number] if weights else 1)

    def __getitem__(self, name: str) -> FakeMember:
        return next(member for member in self.members if member.name == name)

    def call(self, timeout: float = 30.0, **options: Any) -> Call:
        return make_call(self.clock, timeout, **options)

    def send(self, **options: Any) -> Any:
        return self.balancer.send(self.call(**options))

    def try_send(self, **options: Any) -> Any:
        """The answer, or the error."""
        try:
            return self.send(**options)
        except Exception as error:
            return error

    def count(self, calls: int, **options: Any) -> Counter[str]:
        """Makes so many calls; how many each member got."""
        given: Counter[str] = Counter()
        for _ in range(calls):
            call = self.call(**options)
            try:
                self.balancer.send(call)
            except Exception:
                assert call.member
            given[call.member] += 1
        return given

    def states(self) -> dict[str, str]:
        return {member.name: member.state for member in self.balancer.explain().members}

    def eligible(self) -> set[str]:
        return {member.name for member in self.balancer.explain().members if member.eligible}

    def eject(self, *names: str) -> None:
        """Fails five calls in a row on each member."""
        for name in names:
            self[name].error = refused
            for _ in range(5):
                self.try_send(preferences=(name,))


def make_call(clock: Any, timeout: float = 30.0, **options: Any) -> Call:
    return Call("request", codec_for(), Deadline(clock.monotonic() + timeout, clock), "id-1", **options)


def _name(number: int) -> str:
    return chr(ord("a") + number) if number < 26 else f"m{number}"


class Echo:
    """A plain plugin that counts its calls."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.calls = 0
        self.closed = 0
        self.error: Exception | None = None
        self.status = PluginStatus.HEALTHY
        self.checks: list[float] = []

    def info(self) -> PluginInfo:
        return PluginInfo(self.name)

    def execute(self, request: Any, context: ExecutionContext, /) -> Any:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return f"{self.name}: {request}"

    def health(self, timeout: float) -> HealthStatus:
        self.checks.append(timeout)
        return HealthStatus(self.status)

    def close(self) -> None:
        self.closed += 1


def watched(group: Group, name: str) -> HealthChecker:
    """Gives the member health checks every 10 s, which always fail."""
    plugin = SimpleNamespace(health=lambda timeout: HealthStatus(PluginStatus.OFFLINE, "connection refused"))
    checker = HealthChecker(
        plugin,
        HealthCheckConfig(enabled=True, interval=10.0, timeout=1.0, failure_limit=1),
        clock=group.clock,
        scheduler=Scheduler(clock=group.clock, threaded=False),
        submit=lambda job: job(),
    )
    group[name].checker = checker
    return checker
