"""Actions of operators: each on a plugin, on a group and on its members, with its event and its audit record."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from goplugins import (
    CircuitBreakerConfig,
    CircuitBreakerOpenError,
    HealthStatus,
    InvalidArgumentError,
    LoadBalancerConfig,
    Manager,
    ManagerConfig,
    PluginConfig,
    PluginControlled,
    PluginNotFoundError,
    acting_as,
)
from goplugins.enums import CircuitBreakerState, PluginStatus
from goplugins.models.plugin import PluginInfo


class Plugin:
    """Answers with its name; fails while ``broken``, and waits for ``gate`` if there is one."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.broken = False
        self.entered = threading.Event()
        self.gate: threading.Event | None = None

    def info(self) -> PluginInfo:
        return PluginInfo(self.name)

    def execute(self, request: Any, context: Any = None, /) -> str:
        self.entered.set()
        if self.gate is not None:
            self.gate.wait(30.0)
        if self.broken:
            raise ConnectionError("broken")
        return self.name

    def health(self, timeout: float) -> HealthStatus:
        return HealthStatus(PluginStatus.DEGRADED if self.broken else PluginStatus.HEALTHY)

    def close(self) -> None:
        pass


class Bench:
    def __init__(self) -> None:
        self.plugins = {name: Plugin(name) for name in ("a", "b")}
        self.manager: Manager[Any, Any] = Manager()
        for plugin in self.plugins.values():
            self.manager.register(plugin)
        group = LoadBalancerConfig(name="both", members=["a", "b"])
        self.manager.reload_config(ManagerConfig(load_balancers=(group,)))
        self.events: list[PluginControlled] = []
        self.manager._ready().events.attach(self._keep, calls="none", attempts="none")

    def _keep(self, event: Any) -> None:
        if isinstance(event, PluginControlled):
            self.events.append(event)

    def breaker(self, name: str) -> CircuitBreakerState | None:
        return self.manager.explain(name).breaker

    def answers(self, name: str, calls: int = 12) -> set[str]:
        return {self.manager.execute(name, None, timeout=10) for _ in range(calls)}


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    with made.manager:
        yield made


TARGETS = [("a", "", "a"), ("both", "", "both"), ("both", "a", "a")]
ENDS = ["enable", "reset_breaker", "close_breaker"]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize(("name", "member", "changed"), TARGETS)
def test_a_breaker_that_is_forced_open_rejects_calls_until_it_is_closed(
    bench: Bench, name: str, member: str, changed: str, end: str
) -> None:
    if member and end == "enable":
        end = "reset_breaker"  # a member's enable() is the end of its disable()
    control = bench.manager.control(name)
    control.force_open(member=member)
    with pytest.raises(CircuitBreakerOpenError):
        bench.manager.execute(changed, None)
    getattr(control, end)(member=member)
    assert changed in bench.answers(changed) | {changed}
    assert not bench.manager.explain(changed).reason
    assert [(event.plugin, event.member) for event in bench.events] == [(name, member)] * 2


@pytest.mark.parametrize("end", ["reset_breaker", "close_breaker", "enable"])
def test_a_breaker_that_has_opened_by_failures_is_closed(bench: Bench, end: str) -> None:
    bench.plugins["a"].broken = True
    while bench.breaker("a") is not CircuitBreakerState.OPEN:
        with pytest.raises(Exception, match="broken"):
            bench.manager.execute("a", None)
    bench.plugins["a"].broken = False
    getattr(bench.manager.control("a"), end)()
    assert bench.answers("a") == {"a"}


def test_a_disabled_plugin_is_drained(bench: Bench) -> None:
    plugin, control = bench.plugins["a"], bench.manager.control("a")
    plugin.gate = threading.Event()
    call = bench.manager.submit("a", None, timeout=30)
    assert plugin.entered.wait(10)
    assert not control.disable(0.01)
    with pytest.raises(CircuitBreakerOpenError):
        bench.manager.execute("a", None)
    plugin.gate.set()
    assert control.disable(10.0)
    assert call.result(10) == "a", "no call is ended by it"
    control.enable()
    assert bench.answers("a") == {"a"}


def test_a_disabled_member_takes_calls_by_its_own_name_only(bench: Bench) -> None:
    control = bench.manager.control("both")
    assert control.disable(5.0, member="a")
    assert bench.answers("both") == {"b"}
    assert bench.answers("a") == {"a"}
    control.enable(member="a")
    assert "a" in bench.answers("both", calls=200)


@pytest.mark.parametrize(("name", "member", "changed"), TARGETS)
def test_health_is_checked_now(bench: Bench, name: str, member: str, changed: str) -> None:
    for broken, status in ((False, PluginStatus.HEALTHY), (True, PluginStatus.DEGRADED)):
        for plugin in bench.plugins.values():
            plugin.broken = broken
            bench.manager.control(plugin.name).check_health()
        assert bench.manager.control(name).check_health(member=member).status is status


ACTIONS = ["force_open", "close_breaker", "reset_breaker", "disable", "enable", "check_health"]


@pytest.mark.parametrize("action", ACTIONS)
def test_each_action_is_audited_with_its_actor(bench: Bench, action: str, caplog: pytest.LogCaptureFixture) -> None:
    for name, member in (("a", ""), ("both", ""), ("both", "b")):
        caplog.clear()
        with acting_as("ada"):
            getattr(bench.manager.control(name), action)(member=member)
        (record,) = [each for each in caplog.records if each.name == "goplugins.audit"]
        assert (record.plugin, record.actor) == (name, "ada")  # type: ignore[attr-defined]
        assert (f"member {member}" in record.detail) == bool(member)  # type: ignore[attr-defined]


@pytest.mark.parametrize("action", ACTIONS)
def test_unknown_names(bench: Bench, action: str) -> None:
    with pytest.raises(PluginNotFoundError):
        bench.manager.control("none")
    for name, member in (("both", "none"), ("a", "b")):
        with pytest.raises(PluginNotFoundError, match=member):
            getattr(bench.manager.control(name), action)(member=member)
    control = bench.manager.control("a")
    bench.manager.unregister("a")
    with pytest.raises(PluginNotFoundError):
        getattr(control, action)()
    assert bench.events == []


def test_a_breaker_that_only_records_can_not_be_forced_open() -> None:
    with Manager() as manager:
        plugin = {
            "name": "p",
            "transport": "unix",
            "endpoint": "/run/p.sock",
            "circuit_breaker": {"metrics_only": True},
        }
        manager.load_from_config({"plugins": [plugin]})
        for action in ("force_open", "disable"):
            with pytest.raises(InvalidArgumentError, match="metrics_only"):
                getattr(manager.control("p"), action)()


def test_a_breaker_that_is_switched_off_is_off_again_afterwards() -> None:
    with Manager() as manager:
        manager.register(Plugin("off"), PluginConfig(name="off", circuit_breaker=CircuitBreakerConfig(enabled=False)))
        for end in ENDS:
            manager.control("off").force_open()
            with pytest.raises(CircuitBreakerOpenError):
                manager.execute("off", None)
            getattr(manager.control("off"), end)()
            assert manager.execute("off", None) == "off"
