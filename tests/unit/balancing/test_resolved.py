"""A group whose members are the addresses of a host: when it asks, what it makes of the answer, what it leaves."""

from __future__ import annotations

import logging
import random
import socket
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from goplugins import Manager, ManagerConfig, PluginConfig
from goplugins.balancing.dns_group import MAX_MEMBERS, DnsGroup, name_at
from goplugins.config import LoadBalancerConfig
from goplugins.config.diff import update_of
from goplugins.config.groups import DnsGroupConfig, spread
from goplugins.enums import PluginStatus
from goplugins.errors import (
    BadReplyError,
    ConfigError,
    ConnectionLostError,
    InvalidConfigError,
    NameResolutionError,
    PluginClosedError,
    PluginConnectionError,
    PluginError,
    PluginTimeoutError,
    Replay,
)
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
    """Answers with ``addresses``, or raises ``error`` while there is one; ``hold`` keeps an answer back."""

    def __init__(self, *numbers: int) -> None:
        self.addresses = [at(number) for number in numbers]
        self.error: Exception | None = None
        self.hold: threading.Event | None = None
        self.asked: list[tuple[str, int]] = []

    def resolve(self, host: str, port: int, deadline: Deadline) -> list[Address]:
        self.asked.append((host, port))
        if self.hold is not None:
            assert self.hold.wait(10)
        if self.error is not None:
            raise self.error
        return self.addresses

    def now(self, *numbers: int) -> None:
        self.addresses = [at(number) for number in numbers]


class Instance(Sender):
    """What stands at one address."""

    def __init__(self, name: str, group: Group) -> None:
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


class Group:
    """A resolved group over fakes, on a manual clock. It is its own household."""

    def __init__(self, *numbers: int, interval: float = 30.0, auto_advance: bool = True, **balancing: Any) -> None:
        self.clock = ManualClock(start=1000.0, auto_advance=auto_advance)
        self.resolver = FakeResolver(*numbers)
        self.scheduler = Scheduler(clock=self.clock, threaded=False)
        self.served: Counter[str] = Counter()
        self.act: dict[str, Callable[[], object]] = {}
        self.built: list[Instance] = []
        self.house: list[str] = []
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

    # The household:

    def schedule_lookup(self, method: Callable[[], object], interval: float | None, first: float) -> ScheduledTask:
        return self.scheduler.schedule(method, interval, first=first, submit=lambda job: job(), jitter=0.0)

    def add_member(self, member: GuardedPlugin) -> None:
        if member.name not in self.house:
            self.house.append(member.name)
        if member.name in self.unwatched:
            self.unwatched.remove(member.name)

    def stop_watching(self, member: GuardedPlugin) -> None:
        self.unwatched.append(member.name)

    def remove_member(self, member: GuardedPlugin) -> None:
        self.house.remove(member.name)

    # What a test does:

    def call(self, **options: Any) -> Any:
        return self.group.send(make_call(self.clock, **options))

    def count(self, calls: int) -> Counter[str]:
        return Counter(self.call() for _ in range(calls))

    def wait(self, seconds: float) -> None:
        """Time passes, and what is due is done."""
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


# --- when it asks --------------------------------------------------------------------------------------------------


def test_nothing_is_asked_before_the_first_call() -> None:
    group = Group(1, 2)
    assert group.resolver.asked == []
    assert group.group.explain() is None
    assert group.scheduler.scheduled == 0
    group.call()
    assert group.resolver.asked == [("search.test", 80)]


def test_it_asks_again_while_there_are_calls_and_not_otherwise() -> None:
    group = Group(1)
    for asked in (1, 2, 3):
        group.call()
        assert len(group.resolver.asked) == asked
        group.wait(30.0)
    assert len(group.resolver.asked) == 4
    for _ in range(5):
        group.wait(30.0)
    assert len(group.resolver.asked) == 4
    assert group.scheduler.scheduled == 0


def test_the_first_call_after_a_quiet_time_goes_by_a_fresh_answer() -> None:
    group = Group(1)
    group.call()
    for _ in range(5):
        group.wait(30.0)
    group.resolver.now(2)
    assert group.call() == "p@10.0.0.2:80"
    group.resolver.now(3)
    group.wait(30.0)
    assert group.call() == "p@10.0.0.3:80"


def test_after_a_quiet_time_without_an_answer_the_old_one_serves() -> None:
    group = Group(1)
    group.call()
    for _ in range(5):
        group.wait(30.0)
    group.resolver.error = PluginTimeoutError("the name was not resolved in time")
    assert group.call() == "p@10.0.0.1:80"


@pytest.mark.parametrize(
    "error",
    [PluginConnectionError("refused"), PluginTimeoutError("no connection in time", replay=Replay.ALWAYS)],
    ids=["refused", "swallowed"],
)
def test_a_member_that_can_not_be_reached_is_reason_to_ask_early(error: PluginError) -> None:
    group = Group(1, 2)
    group.count(2)
    group.clock.advance(5.0)
    group.act["p@10.0.0.1:80"] = fail(error)
    group.resolver.now(2, 3)
    with pytest.raises(type(error)):
        group.count(2)
    assert len(group.resolver.asked) == 1
    group.wait(0.0)
    assert len(group.resolver.asked) == 2
    assert set(group.count(10)) == set(called(2, 3))


@pytest.mark.parametrize("error", [BadReplyError("garbage"), ConnectionLostError("reset"), PluginTimeoutError("slow")])
def test_a_member_that_was_reached_is_none(error: PluginError) -> None:
    group = Group(1)
    group.call()
    group.clock.advance(5.0)
    group.act["p@10.0.0.1:80"] = fail(error)
    with pytest.raises(type(error)):
        group.call()
    group.wait(5.0)
    assert len(group.resolver.asked) == 1


def test_early_lookups_are_a_second_apart() -> None:
    group = Group(1)
    group.call()
    group.act["p@10.0.0.1:80"] = fail(PluginConnectionError("refused"))
    began = group.clock.monotonic()
    for _ in range(100):
        with pytest.raises(PluginError):
            group.call()
        group.wait(0.05)
    passed = group.clock.monotonic() - began
    assert 4.9 < passed < 5.1
    assert 4 <= len(group.resolver.asked) - 1 <= 5


# --- what it makes of the answer -----------------------------------------------------------------------------------


def test_each_address_is_a_member() -> None:
    group = Group(1, 2, 3)
    assert group.count(30) == dict.fromkeys(called(1, 2, 3), 10)


def test_neither_order_nor_repetition_matters() -> None:
    group = Group(1, 2, 3)
    group.call()
    group.resolver.now(3, 1, 2, 1, 3)
    group.wait(30.0)
    assert group.members() == dict.fromkeys(called(1, 2, 3), "ready")
    assert len(group.built) == 3


def test_an_address_that_joins_a_group_at_work_starts_slowly() -> None:
    group = Group(1, slow_start=10)
    group.count(5)
    group.resolver.now(1, 2)
    group.wait(30.0)
    assert group.members() == {"p@10.0.0.1:80": "ready", "p@10.0.0.2:80": "starting slowly"}
    assert group.count(100)["p@10.0.0.2:80"] < 20


def test_one_that_vanishes_gets_no_more_calls_and_is_closed() -> None:
    group = Group(1, 2)
    group.count(4)
    group.resolver.now(2)
    group.wait(30.0)
    assert group.count(10) == {"p@10.0.0.2:80": 10}
    assert [(each.name, each.closed) for each in group.built] == [("p@10.0.0.1:80", 1), ("p@10.0.0.2:80", 0)]
    assert group.house == called(2)


def test_one_that_vanishes_is_closed_only_when_its_last_call_is_over() -> None:
    group = Group(1)
    inside, go_on = threading.Event(), threading.Event()

    def stay() -> None:
        inside.set()
        assert go_on.wait(10)

    group.act["p@10.0.0.1:80"] = stay
    answers: list[str] = []
    thread = threading.Thread(target=lambda: answers.append(group.call()))
    thread.start()
    assert inside.wait(10)
    group.resolver.now(2)
    group.wait(30.0)
    assert group.built[0].closed == 0
    assert group.members() == {"p@10.0.0.1:80": "draining", "p@10.0.0.2:80": "ready"}
    assert "its address is no longer in the answer" in str(group.group.explain())
    assert group.unwatched == called(1), "a server that is shut down on purpose is nobody's alarm"
    group.group.sweep()
    assert group.built[0].closed == 0
    go_on.set()
    thread.join(10)
    assert answers == called(1)
    group.group.sweep()
    assert group.built[0].closed == 1
    assert group.members() == {"p@10.0.0.2:80": "ready"}


def test_one_that_comes_back_before_it_has_left_stays_the_same() -> None:
    group = Group(1, 2)
    group.count(2)
    held = group.group._members["p@10.0.0.1:80"]
    held.tracker.enter()
    group.resolver.now(2)
    group.wait(30.0)
    assert group.members()["p@10.0.0.1:80"] == "disabled"
    group.call()
    group.resolver.now(1, 2)
    group.wait(30.0)
    held.tracker.leave(True, 0.0, 1)
    assert group.members() == dict.fromkeys(called(1, 2), "ready")
    assert group.unwatched == []
    assert len(group.built) == 2
    assert [each.closed for each in group.built] == [0, 0]


def test_where_all_addresses_change_at_once_the_new_ones_are_there_first() -> None:
    group = Group(1, 2)
    group.count(4)
    group.resolver.now(3, 4)
    group.wait(30.0)
    assert group.count(10) == dict.fromkeys(called(3, 4), 5)


@pytest.mark.parametrize(
    "answer",
    [NameResolutionError("the name 'search.test' can't be resolved: no such host"), PluginTimeoutError("late"), []],
)
def test_no_answer_keeps_the_old_members_and_is_told_once(answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    group = Group(1, 2)
    group.call()
    with caplog.at_level(logging.INFO, "goplugins.balancing"):
        group.resolver.addresses, group.resolver.error = ([], None) if answer == [] else ([], answer)
        for _ in range(4):
            group.wait(30.0)
            assert set(group.count(10)) == set(called(1, 2))
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        text = str(group.group.explain())
        assert "search.test: looked up 120.0 s ago; the last lookup, 0.0 s ago, failed: " in text
        group.resolver.now(1, 2)
        group.resolver.error = None
        group.wait(30.0)
        assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "failed" not in str(group.group.explain())


def test_no_more_than_64_addresses_and_members_stay_members() -> None:
    group = Group(*range(1, 81))
    group.call()
    first = set(group.members())
    assert len(first) == MAX_MEMBERS == 64
    group.resolver.addresses.reverse()
    group.wait(30.0)
    group.call()
    assert set(group.members()) == first
    assert len(group.built) == 64
    other = Group(*range(1, 81))
    other.group._rng = random.Random(8)
    other.call()
    assert set(other.members()) != first, "or some would be called by no process at all"


# --- the first time ------------------------------------------------------------------------------------------------


def test_a_name_that_is_not_found_is_the_calls_own_error() -> None:
    group = Group()
    group.resolver.error = NameResolutionError("the name 'search.test' can't be resolved")
    with pytest.raises(NameResolutionError):
        group.call()
    found = group.group.explain()
    assert found is not None
    assert found.members == ()
    assert "not found yet" in found.resolution
    group.resolver.error = None
    group.resolver.now(1)
    assert group.call() == "p@10.0.0.1:80"


def test_a_name_that_is_never_found_is_not_looked_up_by_every_call() -> None:
    group = Group()
    group.resolver.error = NameResolutionError("the name 'search.test' can't be resolved")
    for _ in range(20):
        with pytest.raises(NameResolutionError, match=r"can't be resolved") as caught:
            group.call()
    assert len(group.resolver.asked) == 3
    assert caught.value.retry_after == pytest.approx(1.0)
    group.resolver.error = None
    group.resolver.now(1)
    group.clock.advance(1.0)
    assert group.call() == "p@10.0.0.1:80"


def test_callers_at_the_same_time_share_one_lookup_and_its_members() -> None:
    group = Group(1, 2, auto_advance=False)
    group.resolver.hold = threading.Event()
    answers: list[str] = []
    threads = [threading.Thread(target=lambda: answers.append(group.call())) for _ in range(8)]
    for thread in threads:
        thread.start()
    group.clock.wait_for_waiters(7)
    group.resolver.hold.set()
    for thread in threads:
        thread.join(10)
    assert len(answers) == 8
    assert len(group.resolver.asked) == 1
    assert len(group.built) == 2


def test_who_waits_for_a_lookup_that_finds_nothing_is_told_so() -> None:
    group = Group(auto_advance=False)
    group.resolver.hold = threading.Event()
    group.resolver.error = NameResolutionError("the name 'search.test' can't be resolved")
    errors: list[PluginError] = []

    def ask() -> None:
        with pytest.raises(NameResolutionError) as caught:
            group.call()
        errors.append(caught.value)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    group.clock.wait_for_waiters(3)
    group.resolver.hold.set()
    for thread in threads:
        thread.join(10)
    assert len(errors) == len({id(error) for error in errors}) == 4
    assert len(group.resolver.asked) == 1


def test_a_caller_lost_in_its_lookup_holds_up_nobody() -> None:
    """An interrupt may hit between any two lines, and nothing that it leaves behind may stop later calls."""
    group = Group(1)
    lookups = group.group._lookups
    turn, outcome = lookups._enter()
    assert turn is not None
    assert lookups._enter() == (None, outcome)
    del turn
    assert outcome.done.is_set()
    assert group.call() == "p@10.0.0.1:80"


# --- the end, a fork, a reload -------------------------------------------------------------------------------------


def test_closing_leaves_nothing() -> None:
    group = Group(1, 2)
    group.count(2)
    group.act["p@10.0.0.1:80"] = fail(PluginConnectionError("refused"))
    with pytest.raises(PluginConnectionError):
        group.count(2)
    assert group.scheduler.scheduled == 2
    group.group.close()
    group.group.close()
    assert [each.closed for each in group.built] == [1, 1]
    assert group.house == []
    assert group.scheduler.scheduled == 0
    with pytest.raises(PluginClosedError):
        group.call()
    assert len(group.resolver.asked) == 1


def test_closing_while_an_answer_is_on_its_way_leaves_nothing() -> None:
    group = Group(1, 2)
    group.resolver.hold = threading.Event()
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            group.call()
        except PluginClosedError as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    while not group.resolver.asked:
        pass
    group.group.close()
    group.resolver.hold.set()
    thread.join(10)
    assert len(errors) == 1
    assert [each.closed for each in group.built] == [1, 1]
    assert group.house == []
    assert group.scheduler.scheduled == 0


def test_a_forked_child_keeps_the_members_and_asks_when_it_is_time() -> None:
    group = Group(1, 2)
    group.count(2)
    turn, _ = group.group._lookups._enter()  # a lookup of the parent's
    for part in (group.group._balancer._dispatcher, group.group._lookups, group.group):
        part.after_fork_in_child()
    assert set(group.count(4)) == set(called(1, 2))
    assert len(group.resolver.asked) == 1
    group.resolver.now(3)
    group.wait(30.0)
    assert set(group.count(4)) == set(called(3))
    assert group.scheduler.scheduled == 1
    del turn


def test_new_policies_are_taken_over_by_members_and_by_those_to_come() -> None:
    group = Group(1)
    group.call()
    wanted = resolved_config(circuit_breaker={"failure_threshold": 77})
    group.group.reconfigure(wanted)
    group.resolver.now(1, 2)
    group.wait(30.0)
    found = [member.config.circuit_breaker for member in group.group._members.values()]
    assert [breaker.failure_threshold for breaker in found if breaker is not None] == [77, 77]
    assert [each.closed for each in group.built] == [0, 0]


@pytest.mark.parametrize(
    ("fields", "paths", "in_place"),
    [
        ({"circuit_breaker": {"failure_threshold": 9}}, ["circuit_breaker.failure_threshold"], True),
        ({"retry": {"max_retries": 9}}, ["retry.max_retries"], True),
        ({"endpoint": "http://search.test/v2"}, ["endpoint"], False),
        ({"connection": {"max_connections": 3}}, ["connection.max_connections"], False),
        ({"options": {"resolve": True, "resolve_interval": 5}}, ["options.resolve_interval"], False),
        ({"balancing": {"strategy": "p2c"}}, ["balancer.strategy"], False),
    ],
)
def test_a_reload_tells_what_differs_as_it_was_written(
    fields: dict[str, Any], paths: list[str], in_place: bool
) -> None:
    options = fields.pop("options", None)
    update = update_of(resolved_config(), resolved_config(options, **fields))
    assert update is not None
    assert [change.path for change in update.changes] == paths
    assert update.in_place is in_place


# --- configuration -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"transport": "http", "endpoint": "http://10.0.0.1/"}, "the endpoint is an IP address"),
        ({"transport": "https", "endpoint": "https://[::1]:8443/"}, "the endpoint is an IP address"),
        ({"transport": "grpc", "endpoint": "[::1]:50051"}, "the endpoint is an IP address"),
        ({"transport": "grpc", "endpoint": "dns:///search.test:50051"}, "of the form host:port"),
        ({"transport": "grpc-tls", "endpoint": "unix:/run/x"}, "of the form host:port"),
        ({"transport": "http", "endpoints": ["http://a.test/", "http://b.test/"]}, "not for several"),
        ({"transport": "unix", "endpoint": "/run/x"}, "unknown option"),
        ({"transport": "python", "endpoint": "math:sin"}, "unknown option"),
        ({"transport": "exec", "executable": "/bin/cat"}, "unknown option"),
    ],
)
def test_resolving_is_refused_where_it_would_do_nothing(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text) as caught:
        PluginConfig(name="p", options={"resolve": True}, **fields).validate()
    assert caught.value.problems[0].path == "options.resolve"


def test_an_interval_without_resolving_is_refused() -> None:
    with pytest.raises(InvalidConfigError, match="has no effect without resolve"):
        PluginConfig(
            name="p",
            transport="http",
            endpoint="http://a.test/",
            options={"resolve_interval": 5.0},
        ).validate()


def test_resolving_behind_a_proxy_is_refused() -> None:
    plugin = {"name": "p", "transport": "http", "endpoint": "http://a.test/"}
    options = {"resolve": True, "proxy": "http://proxy.test:3128"}
    with Manager() as manager, pytest.raises(ConfigError, match="behind a proxy") as caught:
        manager.load_from_config({"plugins": [{**plugin, "options": options}]})
    assert caught.value.problems[0].path == "plugins[0].options.resolve"


def test_how_the_calls_are_shared_out_may_be_said() -> None:
    config = resolved_config(balancing={"strategy": "p2c"})
    assert isinstance(config.balancer, LoadBalancerConfig)
    assert config.balancer.strategy == "p2c"
    assert config.endpoint == "http://search.test/v1"


def fail(error: PluginError) -> Callable[[], object]:
    def act() -> None:
        raise type(error)(error.message, replay=error.replay)

    return act
