"""A DNS group over fake members, with a fake resolver, on a manual clock."""

from __future__ import annotations

import random
import socket
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

from goplugins import ManagerConfig, PluginConfig
from goplugins.balancing.dns_group import DnsGroup, name_at
from goplugins.config.groups import DnsGroupConfig, spread
from goplugins.enums import PluginStatus
from goplugins.errors import PluginError
from goplugins.models.plugin import PluginInfo
from goplugins.models.results import HealthStatus
from goplugins.pipeline.plugin import GuardedPlugin
from goplugins.runtime.call import Call
from goplugins.runtime.deadline import Deadline
from goplugins.runtime.scheduler import ScheduledTask, Scheduler
from goplugins.testing import ManualClock
from goplugins.transports.interface import Sender
from goplugins.transports.resolver import Address
from tests.unit.balancing.fakes import make_call


def at(number: int) -> Address:
    return socket.AF_INET, (f"10.0.0.{number}", 80)


def called(*numbers: int) -> list[str]:
    return [f"p@10.0.0.{number}:80" for number in numbers]


class FakeResolver:
    """Returns ``addresses``, or raises ``error`` if there is one; waits for ``hold`` before."""

    def __init__(self, *numbers: int) -> None:
        self.addresses = [at(number) for number in numbers]
        self.error: Exception | None = None
        self.hold: threading.Event | None = None
        self.lookups: list[tuple[str, int]] = []

    def resolve(self, host: str, port: int, deadline: Deadline) -> list[Address]:
        self.lookups.append((host, port))
        if self.hold is not None:
            assert self.hold.wait(10)
        if self.error is not None:
            raise self.error
        return self.addresses

    def set(self, *numbers: int) -> None:
        self.addresses = [at(number) for number in numbers]


class Instance(Sender):
    """The sender of the member at one address."""

    def __init__(self, name: str, group: DnsGroupOfFakes) -> None:
        self.name = name
        self.closed = 0
        self._group = group

    def prepare(self, call: Call) -> None:
        pass

    def send(self, call: Call) -> str:
        assert not self.closed, "a call on a closed member"
        self._group.served[self.name] += 1
        act = self._group.act.get(self.name)
        if act is not None:
            act()
        return self.name

    def health(self, timeout: float) -> HealthStatus:
        return HealthStatus(PluginStatus.HEALTHY)

    def info(self) -> PluginInfo:
        return PluginInfo(self.name)

    def close(self) -> None:
        self.closed += 1


class DnsGroupOfFakes:
    """A DNS group over fakes, on a manual clock. It is the owner of its members."""

    def __init__(self, *numbers: int, interval: float = 30.0, auto_advance: bool = True, **balancing: Any) -> None:
        self.clock = ManualClock(start=1000.0, auto_advance=auto_advance)
        self.resolver = FakeResolver(*numbers)
        self.scheduler = Scheduler(clock=self.clock, threaded=False)
        self.served: Counter[str] = Counter()
        self.act: dict[str, Callable[[], object]] = {}
        self.built: list[Instance] = []
        self.owned: list[str] = []
        self.unwatched: list[str] = []
        config = resolved_config({"resolve_interval": interval}, balancing={"slow_start": 0, **balancing})
        self.group = DnsGroup(
            config, resolver=self.resolver, build=self.build, owner=self, clock=self.clock, rng=random.Random(7)
        )

    def build(self, config: PluginConfig, address: Address) -> GuardedPlugin:
        assert config.name == name_at("p", address)
        assert config.endpoint == "http://search.test/v1"
        self.built.append(Instance(config.name, self))
        return GuardedPlugin(self.built[-1], self.built[-1], config, clock=self.clock)

    # MemberOwner:

    def schedule_lookup(self, method: Callable[[], object], interval: float | None, first: float) -> ScheduledTask:
        return self.scheduler.schedule(method, interval, first=first, submit=lambda job: job(), jitter=0.0)

    def add_member(self, member: GuardedPlugin) -> None:
        if member.name not in self.owned:
            self.owned.append(member.name)
        if member.name in self.unwatched:
            self.unwatched.remove(member.name)

    def stop_watching(self, member: GuardedPlugin) -> None:
        self.unwatched.append(member.name)

    def remove_member(self, member: GuardedPlugin) -> None:
        self.owned.remove(member.name)

    # For tests:

    def call(self, **options: Any) -> Any:
        return self.group.send(make_call(self.clock, **options))

    def count(self, calls: int) -> Counter[str]:
        return Counter(self.call() for _ in range(calls))

    def wait(self, seconds: float) -> None:
        """Advances the clock and runs what is due."""
        self.clock.advance(seconds)
        self.scheduler.run_due()

    def members(self) -> dict[str, str]:
        found = self.group.explain()
        assert found is not None
        return {member.name: member.state for member in found.members}


def resolved_config(options: dict[str, Any] | None = None, **fields: Any) -> DnsGroupConfig:
    plugin = {"name": "p", "transport": "http", "endpoint": "http://search.test/v1", **fields}
    plugin["options"] = {"resolve": True, **(options or {})}
    config = ManagerConfig.from_mapping({"plugins": [plugin]})
    config.validate()
    found = spread(config.with_defaults()).plugins[0]
    assert isinstance(found, DnsGroupConfig)
    return found


def fail(error: PluginError) -> Callable[[], object]:
    def act() -> None:
        raise type(error)(error.message, replay=error.replay)

    return act
