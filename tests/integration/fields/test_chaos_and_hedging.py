"""Sections chaos and hedge."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from goplugins import HealthStatus, HedgeConfig, Manager, PluginConfig, PluginError, PluginStatus
from goplugins.config.manager import ManagerConfig
from goplugins.resilience.hedge_policy import HedgePolicy
from goplugins.testing import ManualClock
from goplugins.transports.chaos import with_chaos
from tests.integration.fields.bench import Experiment, runs
from tests.integration.hedging.conftest import Service
from tests.unit.pipeline.fakes import FakeSender, make_call

pytestmark = pytest.mark.matrix


class Chaos:
    """A sender with faults."""

    def __init__(self, **chaos: Any) -> None:
        self.clock = ManualClock()
        config = PluginConfig.from_mapping(
            {"name": "p", "transport": "http", "endpoint": "http://h", "chaos": {"enabled": True, "seed": 7, **chaos}}
        )
        config.validate()
        self.wire = FakeSender()
        self.wire.status = HealthStatus(PluginStatus.HEALTHY)
        self.sender = with_chaos(self.wire, ManagerConfig().resolve(config), clock=self.clock)

    def send(self) -> Any:
        call = make_call(self.clock, timeout=10.0)
        try:
            return self.sender.send(call)
        except PluginError as error:
            self.error = error
            return type(error).__name__


def fault(name: str, **others: Any) -> Callable[[Any], Any]:
    return lambda value: Chaos(**{**others, name: value}).send()


def delayed(**chaos: Any) -> float:
    bench = Chaos(**chaos)
    bench.send()
    return round(bench.clock.monotonic(), 3)


def outcomes(seed: int) -> str:
    bench = Chaos(seed=seed, error=0.5)
    return "".join("o" if bench.send() == "ok" else "x" for _ in range(8))


def retry_after(seconds: float) -> Any:
    bench = Chaos(error=1.0, status=503, retry_after=seconds)
    bench.send()
    return bench.error.retry_after


CHAOS = [
    Experiment("ChaosConfig.enabled", [(False, "ok"), (True, "HTTPTransportError")], fault("enabled", error=1.0)),
    Experiment("ChaosConfig.seed", [(1, outcomes(1)), (2, outcomes(2))], outcomes),
    Experiment("ChaosConfig.latency", [(0.0, 0.0), (1.0, 2.0)], lambda value: delayed(latency=value, delay=2.0)),
    Experiment("ChaosConfig.delay", [(2.0, 2.0), (3.0, 3.0)], lambda value: delayed(latency=1.0, delay=value)),
    Experiment("ChaosConfig.error", [(0.0, "ok"), (1.0, "HTTPTransportError")], fault("error")),
    Experiment(
        "ChaosConfig.status",
        [(500, "HTTPTransportError"), (401, "AuthenticationError"), (429, "PluginThrottledError")],
        fault("status", error=1.0),
    ),
    Experiment("ChaosConfig.retry_after", [(1.0, 1.0), (9.0, 9.0)], retry_after),
    Experiment("ChaosConfig.refuse", [(0.0, "ok"), (1.0, "PluginConnectionError")], fault("refuse")),
    Experiment("ChaosConfig.reset", [(0.0, "ok"), (1.0, "ConnectionLostError")], fault("reset")),
    Experiment("ChaosConfig.garbage", [(0.0, "ok"), (1.0, "BadReplyError")], fault("garbage")),
    Experiment("ChaosConfig.hang", [(0.0, "ok"), (1.0, "PluginTimeoutError")], fault("hang")),
    Experiment(
        "ChaosConfig.health",
        [(False, PluginStatus.HEALTHY), (True, PluginStatus.OFFLINE)],
        lambda value: Chaos(refuse=1.0, health=value).sender.health(1.0).status,
    ),
]


def attempts(hedged: bool) -> int:
    """Of a call whose first attempt waits for the second one, or half a second."""
    second = threading.Event()

    def slowness(number: int) -> float:
        if number:
            second.set()
        else:
            second.wait(0.5)
        return 0.0

    service = Service("http", slowness)
    plugin: dict[str, Any] = {
        "name": "p",
        "transport": "http",
        "endpoint": service.endpoint,
        "retry": {"idempotent": True},
    }
    plugin["health_check"] = {"enabled": False}
    try:
        with Manager() as manager:
            manager.load_from_config({"plugins": [{**plugin, "hedge": {"enabled": hedged, "delay": 0.01}}]})
            return manager.execute_result("p", "x", timeout=10).attempts
    finally:
        service.close()


def delay(**hedge: Any) -> Any:
    """After a hundred calls of 1 to 100 ms."""
    policy = HedgePolicy(HedgeConfig(enabled=True, **hedge), clock=ManualClock())
    for milliseconds in range(1, 101):
        policy.record(milliseconds / 1000)
    return policy.delay()


HEDGE = [
    Experiment("HedgeConfig.enabled", [(False, 1), (True, 2)], attempts),
    Experiment("HedgeConfig.delay", [(None, 0.096), (0.5, 0.5)], lambda value: delay(delay=value)),
    Experiment("HedgeConfig.percentile", [(0.5, 0.051), (0.9, 0.091)], lambda value: delay(percentile=value)),
    Experiment("HedgeConfig.min_delay", [(0.0, 0.096), (0.2, 0.2)], lambda value: delay(min_delay=value)),
]

EXPERIMENTS = [*CHAOS, *HEDGE]


@runs(EXPERIMENTS)
def test_a_field_changes(observe: Any, value: Any, seen: Any) -> None:
    assert observe(value) == seen


def test_seeds_differ() -> None:
    assert outcomes(1) != outcomes(2)
