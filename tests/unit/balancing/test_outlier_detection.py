"""Ejection of failing members, probes, and their events."""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest

from goplugins import HealthStatus, Manager, PluginInfo, PluginStatus
from goplugins.errors import (
    AuthenticationError,
    PluginConnectionError,
    PluginExecutionError,
    PluginThrottledError,
    PluginTimeoutError,
)
from goplugins.observability.event_stream import EventStream
from goplugins.observability.events import Event, MemberEjected, MemberReturned
from tests.unit.balancing.fakes import (
    Group,
    refused,
)


def test_five_failures_in_a_row_eject_and_a_success_resets_the_count() -> None:
    group = Group(3)
    group["a"].error = refused
    for _ in range(4):
        group.try_send(preferences=("a",))
    group["a"].error = None
    group.send(preferences=("a",))
    group["a"].error = refused
    for _ in range(4):
        group.try_send(preferences=("a",))
    assert group.states()["a"] == "ready"
    group.try_send(preferences=("a",))
    assert group.states()["a"] == "ejected"
    assert group.count(50)["a"] == 0


def test_known_fault_an_ejection_ends_in_a_probe() -> None:
    group = Group(3)
    group.eject("a")
    group["a"].error = None
    group.clock.advance(29.9)
    assert group.count(10)["a"] == 0
    group.clock.advance(0.2)
    assert group.states()["a"] == "about to be probed"
    assert group.send() == "a"
    assert group.states()["a"] == "starting slowly"


def test_failed_probes_double_the_ejection_time_up_to_the_maximum() -> None:
    group = Group(3, max_ejection_time=100.0)
    group.eject("a")
    for seconds in (30, 60, 100, 100):
        group.clock.advance(seconds - 1)
        assert group.count(6)["a"] == 0
        group.clock.advance(2)
        assert group.count(6)["a"] == 1  # the probe, which fails


def test_a_healthy_time_resets_the_ejection_time() -> None:
    group = Group(3)
    group.eject("a")
    group.clock.advance(31)
    group["a"].error = None
    group.send()
    group.clock.advance(31)
    group.send(preferences=("a",))
    group.eject("a")
    group.clock.advance(31)
    assert group.states()["a"] == "about to be probed"


def test_during_a_probe_the_member_gets_no_other_call() -> None:
    group = Group(3)
    group.eject("a")
    group.clock.advance(31)
    group["a"].error = None
    seen: list[object] = []

    def serve(_: object) -> str:
        seen.append(group.states()["a"])
        seen.append(group.count(10)["a"])
        return "a"

    group["a"].act = serve
    assert group.send() == "a"
    assert seen == ["being probed", 0]


def test_after_a_probe_without_verdict_the_next_call_probes() -> None:
    group = Group(3)
    group.eject("a")
    group.clock.advance(31)
    group["a"].error = PluginThrottledError("HTTP 429")
    assert isinstance(group.try_send(), PluginThrottledError)
    assert group.states()["a"] == "about to be probed"


def test_a_probe_that_never_ends_is_given_up_at_its_deadline() -> None:
    group = Group(3)
    group.eject("a")
    group.clock.advance(31)
    dispatcher = group.balancer._dispatcher
    with dispatcher.lock:
        call = group.call(timeout=5)
        state = dispatcher.pick(call, {}, group.clock.monotonic())
    assert state is not None
    assert state.name == "a"
    assert group.states()["a"] == "being probed"
    group.clock.advance(5)
    assert group.states()["a"] == "about to be probed"


def test_an_answer_to_a_call_from_before_the_ejection_does_not_end_it() -> None:
    group = Group(3)

    def slow(_: object) -> str:
        group["a"].act = None
        group.eject("a")
        return "at last"

    group["a"].act = slow
    assert group.send(preferences=("a",)) == "at last"
    assert group.states()["a"] == "ejected"


def test_retries_and_urgent_calls_are_no_probes() -> None:
    group = Group(3)
    group.eject("a")
    group.clock.advance(31)
    assert group.send(priority=1) != "a"
    retry = group.call()
    retry.tried = ("b",)
    assert group.balancer.send(retry) == "c"
    assert group.balancer.select_plugin().name != "a"  # it is no call
    assert isinstance(group.try_send(), Exception)


@pytest.mark.parametrize(
    ("members", "percent", "ejected"), [(4, 50, 2), (5, 50, 2), (3, 10, 1), (10, 30, 3), (2, 100, 2)]
)
def test_at_most_the_percentage_is_ejected_and_at_least_one(members: int, percent: int, ejected: int) -> None:
    group = Group(members, max_ejection_percent=percent, panic_threshold=0)
    group.eject(*(member.name for member in group.members))
    assert Counter(group.states().values())["ejected"] == ejected


def test_a_failing_member_is_ejected_once_the_percentage_allows_it() -> None:
    group = Group(4, panic_threshold=0)
    group.eject("a", "b", "c")
    assert group.states()["c"] == "ready"
    group["a"].error = None
    group.clock.advance(31)
    group.count(4)  # the probe of a
    group.try_send(preferences=("c",))
    assert group.states()["c"] == "ejected"


@pytest.mark.parametrize(
    "error",
    [PluginExecutionError("no such account"), AuthenticationError("HTTP 401"), PluginThrottledError("HTTP 429")],
    ids=lambda error: type(error).__name__,
)
def test_errors_of_the_request_and_throttling_eject_no_member(error: Exception) -> None:
    group = Group(2)
    group["a"].error = error
    for _ in range(20):
        group.try_send(preferences=("a",))
    assert group.states()["a"] == "ready"
    stats = group.balancer.stats()["a"]
    assert stats.total_requests == 20
    assert stats.failed_requests == 0
    assert stats.successful_requests == (0 if isinstance(error, PluginThrottledError) else 20)


def test_a_timeout_counts_only_if_the_member_had_enough_time() -> None:
    group = Group(2)
    group["a"].latency, group["a"].error = 0.05, PluginTimeoutError("timed out")
    for _ in range(10):
        group.try_send(preferences=("a",))
    assert group.states()["a"] == "ready"
    group["a"].latency = 0.1
    for _ in range(5):
        group.try_send(preferences=("a",))
    assert group.states()["a"] == "ejected"


def test_a_foreign_exception_counts_as_failure_and_is_raised() -> None:
    group = Group(2)
    group["a"].error = ValueError("a bug")
    for _ in range(5):
        with pytest.raises(ValueError, match="a bug"):
            group.send(preferences=("a",))
    assert group.states()["a"] == "ejected"


def test_ejections_and_returns_are_events() -> None:
    events, seen = EventStream(), list[Event]()
    events.attach(seen.append, calls="none", attempts="none")
    group = Group(3, events=events)
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


def test_events_are_published_without_the_lock() -> None:
    events, states = EventStream(), list[dict[str, str]]()
    group = Group(3, events=events)
    events.attach(lambda _: states.append(group.states()), calls="none")
    group.eject("a")
    assert [state["a"] for state in states] == ["ejected"]


def test_ejections_and_returns_are_logged_once_each(caplog: pytest.LogCaptureFixture) -> None:
    group = Group(3)
    with caplog.at_level(logging.INFO, "goplugins.balancing"):
        group.eject("a")
        group.clock.advance(31)
        group["a"].error = None
        group.count(100)
    text = "group: member a ejected for 30 s after 5 failures in a row; last error: "
    logged = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert logged == [
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


def test_a_manager_publishes_the_events_of_its_groups() -> None:
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
