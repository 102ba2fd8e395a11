"""What a person reads when calls of a group fail: who is out, why, since when, and when it is tried again."""

from __future__ import annotations

import logging
import math
import pickle
from collections.abc import Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest

from goplugins import HealthCheckConfig, HealthChecker, HealthStatus, Manager, PluginInfo, PluginStatus
from goplugins.balancing import LoadBalancer
from goplugins.errors import (
    CircuitBreakerOpenError,
    ConfigError,
    NoAvailablePluginsError,
    PluginConnectionError,
    RateLimitExceededError,
)
from goplugins.observability.event_stream import EventStream
from goplugins.observability.events import Event, MemberEjected, MemberReturned
from goplugins.runtime.scheduler import Scheduler

from .fakes import FakeMember, Group, refused


def line_of(group: Group, name: str) -> str:
    lines = [line.strip() for line in str(group.balancer.explain()).splitlines()]
    (line,) = [line for line in lines if line.startswith((f"{name}:", f"{name} ("))]
    return line


# --- explain ---------------------------------------------------------------------------------------------------------


def test_a_latency_that_was_never_measured_is_not_shown() -> None:
    group = Group(2, "least-latency")
    group["a"].error = refused
    group.try_send(preferences=("a",))
    assert group.balancer.explain().members[0].latency is None
    assert "latency" not in line_of(group, "a")
    group["a"].error, group["a"].latency = None, 0.03
    group.send(preferences=("a",))
    assert group.balancer.explain().members[0].latency == pytest.approx(0.03)
    assert "latency 30.0 ms" in line_of(group, "a")


def test_one_that_is_out_shows_no_latency_which_has_long_faded() -> None:
    group = Group(3)
    group.count(6)
    assert "latency" in line_of(group, "a")
    group.eject("a")
    assert "latency" not in line_of(group, "a")


def test_where_calls_go_is_told_unless_the_name_does() -> None:
    group = Group(0)
    for name, endpoint in (("a", "http://10.0.0.7:80/v1"), ("p@10.0.0.8:80", "http://10.0.0.8:80"), ("c", "")):
        member = FakeMember(name, group.clock)
        member.endpoint = endpoint
        group.balancer.add_plugin(member)
    text = str(group.balancer.explain())
    assert "  a (http://10.0.0.7:80/v1): ready" in text
    assert "  p@10.0.0.8:80: ready" in text
    assert "  c: ready" in text


def test_when_nobody_takes_calls_the_head_says_when_the_first_is_tried() -> None:
    group = Group(2)
    for seconds, member in zip((20, 5), group.members, strict=True):
        member.open_until = group.clock.monotonic() + seconds
        member.notify()
    assert str(group.balancer.explain()).splitlines()[0] == (
        "group (round-robin): 0 of 2 members are eligible; next try in 5.0 s"
    )


def test_what_only_an_operator_can_end_is_told_as_that() -> None:
    group = Group(2)
    group["a"].open_until = math.inf
    group["a"].notify()
    group.balancer.disable_plugin("b")
    assert str(group.balancer.explain()).splitlines()[0].endswith("are eligible; none is tried again until an operator acts")
    assert "a: circuit breaker open (held open by force_open(), until reset()), 0 in flight" in line_of(group, "a")
    assert "(until the configuration or enable_plugin() enables it)" in line_of(group, "b")
    error = group.try_send()
    assert isinstance(error, CircuitBreakerOpenError)
    assert error.retry_after is None


def watched(group: Group, name: str) -> HealthChecker:
    """Has the member's health looked at every 10 s: it is always refused."""
    plugin = SimpleNamespace(health=lambda timeout: HealthStatus(PluginStatus.OFFLINE, "connection refused"))
    checker = HealthChecker(
        plugin,
        HealthCheckConfig(enabled=True, interval=10.0, timeout=1.0, failure_limit=1),
        clock=group.clock,
        scheduler=Scheduler(clock=group.clock, threaded=False),
        submit=lambda job: job(),
    )
    group[name].watcher = checker
    return checker


def test_of_one_that_is_offline_the_health_checks_word_and_its_next_look_are_told() -> None:
    group = Group(3)
    checker = watched(group, "a")
    checker.start()
    group["a"].becomes(checker.check().status)
    group.clock.advance(4)
    line = line_of(group, "a")
    assert line.startswith(
        "a: offline (until a successful health check; last check: 1 failed checks in a row; the last: "
    )
    assert "connection refused" in line
    assert "next try in 7.0 s" in line  # 10 s and the jitter, less 4


def test_an_open_breaker_whose_member_is_looked_at_may_end_early_and_says_so() -> None:
    group = Group(2)
    checker = watched(group, "a")
    group["a"].open_until = group["b"].open_until = group.clock.monotonic() + 30
    for member in group.members:
        member.notify()
    assert "a: circuit breaker open, next try in 30.0 s" in line_of(group, "a")
    checker.start()
    assert "a: circuit breaker open (a successful health check ends it early), next try in 30.0 s" in line_of(
        group, "a"
    )
    assert "b: circuit breaker open, next try in 30.0 s" in line_of(group, "b")


# --- the error -------------------------------------------------------------------------------------------------------


def test_the_refusals_one_line_says_what_happened_last() -> None:
    group = Group(3, panic_threshold=0, max_ejection_percent=100)
    group.eject("a", "b")
    group.clock.advance(2)
    group["c"].error = refused
    group.eject("c")
    error = group.try_send()
    assert str(error) == (
        "[LOADBALANCER_1701] plugin 'group': none of 3 members can take the call: 3 ejected; next try in 28.000 s; "
        "last error (member 'c', 0.0 s ago): PLUGIN_1205 connection refused"
    )


def test_an_endless_last_error_is_cut() -> None:
    group = Group(1, panic_threshold=0)
    group["a"].error = lambda: PluginConnectionError("no " * 1000)
    for _ in range(5):
        group.try_send()
    error = group.try_send()
    assert isinstance(error, NoAvailablePluginsError)
    assert len(str(error)) < 500
    assert str(error).endswith("...")


def test_the_error_travels_with_all_that_it_says() -> None:
    group = Group(2, panic_threshold=0)
    group.eject("a")
    group["b"].error = RateLimitExceededError("no token", retry_after=0.25)
    error = group.try_send()
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)
    assert again.details == error.details
    assert again.retry_after == error.retry_after == 0.25


def test_of_all_that_is_out_the_smallest_wait_is_told() -> None:
    group = Group(4, panic_threshold=0, max_ejection_percent=100)
    checker = watched(group, "c")
    checker.start()
    group["c"].becomes(checker.check().status)
    group.balancer.disable_plugin("d")
    group.eject("a")
    group["b"].open_until = group.clock.monotonic() + 25
    group["b"].notify()
    error = group.try_send()
    assert isinstance(error, NoAvailablePluginsError)
    assert error.retry_after == pytest.approx(11)  # the next look at c
    assert [found["next_try"] for found in error.details["members"]] == pytest.approx([30, 25, 11, None])


def test_a_failed_call_names_its_member_in_its_text() -> None:
    balancer: LoadBalancer[Any, Any] = LoadBalancer("search")
    member = FakeMember("one", Group(0).clock)
    member.error = refused
    balancer.add_plugin(member)
    with pytest.raises(PluginConnectionError) as caught:
        balancer.execute("shoes")
    assert str(caught.value).startswith("[PLUGIN_1205] plugin 'search', member 'one': connection refused")


# --- news ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def told() -> Iterator[tuple[Group, list[Event]]]:
    events = EventStream()
    seen: list[Event] = []
    detach = events.attach(seen.append, calls="none", attempts="none")
    group = Group(3)
    group.balancer._dispatcher._events = events
    yield group, seen
    detach()


def test_an_ejection_and_a_return_are_events(told: tuple[Group, list[Event]]) -> None:
    group, seen = told
    group.eject("a")
    (event,) = seen
    assert event == MemberEjected(
        "group", event.at, "a", seconds=30.0, ejections=1, reason="PLUGIN_1205 connection refused"
    )
    group.clock.advance(31)
    group.try_send()
    assert isinstance(seen[-1], MemberEjected)
    assert (len(seen), seen[-1].seconds, seen[-1].ejections) == (2, 60.0, 2)
    group["a"].error = None
    group.clock.advance(61)
    assert group.send() == "a"
    assert seen[2:] == [MemberReturned("group", seen[-1].at, "a")]
    group.count(100)
    assert len(seen) == 3


def test_they_are_told_with_no_lock_held(told: tuple[Group, list[Event]]) -> None:
    group, _ = told
    states: list[dict[str, str]] = []
    assert group.balancer._dispatcher._events is not None
    group.balancer._dispatcher._events.attach(lambda _: states.append(group.states()), calls="none")
    group.eject("a")
    assert [state["a"] for state in states] == ["ejected"]


def test_they_are_in_the_log_once_each(caplog: pytest.LogCaptureFixture) -> None:
    group = Group(3)
    with caplog.at_level(logging.INFO, "goplugins.balancing"):
        group.eject("a")
        group.clock.advance(31)
        group["a"].error = None
        group.count(100)
    text = "group: member a ejected for 30 s after 5 failures in a row; last error: "
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert told == [
        ("WARNING", f"{text}PLUGIN_1205 connection refused"),
        ("INFO", "group: member a is healthy again and takes calls"),
    ]


class Local:
    """A plugin in this process."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.fails = False

    def info(self) -> PluginInfo:
        return PluginInfo(self.name)

    def execute(self, request: Any, context: Any, /) -> str:
        if self.fails:
            raise PluginConnectionError("connection refused")
        return self.name

    def health(self, timeout: float) -> HealthStatus:
        return HealthStatus(PluginStatus.HEALTHY)

    def close(self) -> None:
        pass


def test_a_managers_subscribers_hear_of_its_groups() -> None:
    one, two = Local("one"), Local("two")
    seen: list[Event] = []
    with Manager() as manager:
        manager.register(one)
        manager.register(two)
        group = {"name": "g", "members": ["one", "two"], "retry": {"max_retries": 0}, "ejection_failures": 2}
        manager.load_from_config({"log_level": "error", "load_balancers": [group]})
        manager.subscribe(seen.append, MemberEjected, MemberReturned)
        one.fails = True
        for _ in range(8):
            with suppress(PluginConnectionError):
                manager.execute("g", None)
    (event,) = seen
    assert isinstance(event, MemberEjected)
    assert (event.plugin, event.member) == ("g", "one")


# --- through a manager -----------------------------------------------------------------------------------------------


def test_a_member_that_is_no_longer_there_is_told_as_that() -> None:
    with Manager() as manager:
        for name in ("one", "two"):
            manager.register(Local(name))
        manager.load_from_config({"load_balancers": [{"name": "g", "members": ["one", "two"]}]})
        manager.unregister("one")
        assert "one: closed (no plugin of this name is registered), next try in " in str(manager.explain("g"))


# --- what a configuration may not ask of a group ---------------------------------------------------------------------


def served(request: str) -> str:
    return request


HEDGED = {"name": "g", "members": ["web", "local"], "hedge": {"enabled": True}}
WEB = {"name": "web", "transport": "http", "endpoint": "http://127.0.0.1:1"}


@pytest.mark.parametrize(
    "local",
    [
        {"name": "local", "transport": "python", "endpoint": "tests.unit.balancing.test_reading_at_night:served"},
        {"name": "local", "transport": "exec", "executable": "/bin/true"},
    ],
    ids=["python", "exec"],
)
def test_a_group_with_a_member_whose_calls_can_not_be_taken_back_is_not_hedged(local: dict[str, Any]) -> None:
    with Manager() as manager:
        with pytest.raises(ConfigError, match=f"member 'local' over {local['transport']} can't be cancelled") as caught:
            manager.load_from_config({"plugins": [WEB, local], "load_balancers": [HEDGED]})
        assert [problem.path for problem in caught.value.problems] == ["load_balancers[0].hedge.enabled"]
        off = {**HEDGED, "hedge": {"enabled": False}}
        manager.load_from_config({"plugins": [WEB, local], "load_balancers": [off]})


def test_nor_is_one_with_a_member_that_code_has_registered_without_saying_what_it_is_called_over() -> None:
    with Manager() as manager:
        manager.register(Local("local"))
        with pytest.raises(ConfigError, match="member 'local' can't be cancelled") as caught:
            manager.load_from_config({"plugins": [WEB], "load_balancers": [HEDGED]})
        assert [problem.path for problem in caught.value.problems] == ["load_balancers[0].hedge.enabled"]
