"""Statistics and explanations of members, the health of a group, and the error of a call that no member can take."""

from __future__ import annotations

import math
import pickle

import pytest

from goplugins import PluginStatus
from goplugins.balancing import LoadBalancer
from goplugins.errors import (
    CircuitBreakerOpenError,
    NoAvailablePluginsError,
    PluginConnectionError,
    RateLimitExceededError,
)
from tests.unit.balancing.fakes import (
    Echo,
    FakeMember,
    Group,
    refused,
    watched,
)


def line_of(group: Group, name: str) -> str:
    lines = [line.strip() for line in str(group.balancer.explain()).splitlines()]
    (line,) = [line for line in lines if line.startswith((f"{name}:", f"{name} ("))]
    return line


def test_explain_shows_state_reason_and_next_try_of_each_member() -> None:
    group = Group(4)
    group.eject("a")
    group["b"].open_until = group.clock.monotonic() + 12
    group["b"].notify()
    group.balancer.disable_plugin("c")
    group.clock.advance(2)
    text = str(group.balancer.explain())
    assert text.splitlines()[0].startswith("group (round-robin): ")
    assert "a: ejected (ejection 1 in a row, after 5 failures in a row" in text
    assert "last error 2.0 s ago: PLUGIN_1205 connection refused" in text
    assert "b: circuit breaker open, next try in 10.0 s" in text
    assert "c: disabled (until the configuration or enable_plugin() enables it)" in text
    assert "d: ready" in text


def test_an_unmeasured_latency_is_not_shown() -> None:
    group = Group(2, "least-latency")
    group["a"].error = refused
    group.try_send(preferences=("a",))
    assert group.balancer.explain().members[0].latency is None
    assert "latency" not in line_of(group, "a")
    group["a"].error, group["a"].latency = None, 0.03
    group.send(preferences=("a",))
    assert group.balancer.explain().members[0].latency == pytest.approx(0.03)
    assert "latency 30.0 ms" in line_of(group, "a")


def test_the_latency_of_an_ejected_member_is_not_shown() -> None:
    group = Group(3)
    group.count(6)
    assert "latency" in line_of(group, "a")
    group.eject("a")
    assert "latency" not in line_of(group, "a")


def test_the_endpoint_is_shown_unless_the_name_contains_it() -> None:
    group = Group(0)
    for name, endpoint in (("a", "http://10.0.0.7:80/v1"), ("p@10.0.0.8:80", "http://10.0.0.8:80"), ("c", "")):
        member = FakeMember(name, group.clock)
        member.endpoint = endpoint
        group.balancer.add_plugin(member)
    text = str(group.balancer.explain())
    assert "  a (http://10.0.0.7:80/v1): ready" in text
    assert "  p@10.0.0.8:80: ready" in text
    assert "  c: ready" in text


def test_if_no_member_is_eligible_the_headline_has_the_next_try() -> None:
    group = Group(2)
    for seconds, member in zip((20, 5), group.members, strict=True):
        member.open_until = group.clock.monotonic() + seconds
        member.notify()
    assert str(group.balancer.explain()).splitlines()[0] == (
        "group (round-robin): 0 of 2 members are eligible; next try in 5.0 s"
    )


def test_states_that_only_an_operator_ends() -> None:
    group = Group(2)
    group["a"].open_until = math.inf
    group["a"].notify()
    group.balancer.disable_plugin("b")
    assert str(group.balancer.explain()).splitlines()[0].endswith("none is tried again until an operator acts")
    assert "a: circuit breaker open (held open by force_open(), until reset()), 0 in flight" in line_of(group, "a")
    assert "(until the configuration or enable_plugin() enables it)" in line_of(group, "b")
    error = group.try_send()
    assert isinstance(error, CircuitBreakerOpenError)
    assert error.retry_after is None


def test_an_offline_member_shows_its_last_and_next_health_check() -> None:
    group = Group(3)
    checker = watched(group, "a")
    checker.start()
    group["a"].becomes(checker.check().status)
    group.clock.advance(4)
    line = line_of(group, "a")
    assert line.startswith(
        "a: offline (until a successful health check; last check: 1 failed check in a row; the last: "
    )
    assert "connection refused" in line
    assert "next try in 7.0 s" in line  # 10 s and the jitter, less 4


def test_with_health_checks_an_open_breaker_may_close_early() -> None:
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


def test_stats_count_calls_and_failures() -> None:
    group = Group(2)
    group["a"].latency = 0.25
    for _ in range(3):
        group.send(preferences=("a",))
    group["a"].error = refused
    group.try_send(preferences=("a",))
    group.clock.advance(60)
    stats = group.balancer.stats()
    assert stats["a"].total_requests == 4
    assert stats["a"].successful_requests == 3
    assert stats["a"].failed_requests == 1
    assert stats["a"].success_rate == 75.0
    assert stats["a"].average_latency == pytest.approx(0.25)
    assert stats["a"].health_score == 80
    assert stats["a"].last_used == pytest.approx(group.clock.time() - 60.25)
    assert stats["b"].last_used == 0.0
    assert stats["b"].success_rate == 0.0


def test_members_of_unknown_health_are_checked_within_the_timeout() -> None:
    plugins = [Echo("first"), Echo("second")]
    with LoadBalancer("search", members=plugins) as balancer:
        assert balancer.health(1.0).status is PluginStatus.HEALTHY
        assert all(0 < timeout <= 1.0 for plugin in plugins for timeout in plugin.checks)


def test_the_groups_health_names_members_that_are_out() -> None:
    group = Group(3)
    assert group.balancer.health(1.0).status is PluginStatus.UNKNOWN  # never healthy before the first check
    for member in group.members:
        member.becomes(PluginStatus.HEALTHY)
    assert group.balancer.health(1.0).status is PluginStatus.HEALTHY
    group["b"].becomes(PluginStatus.OFFLINE)
    found = group.balancer.health(1.0)
    assert (found.status, found.message) == (PluginStatus.DEGRADED, "1 of 3 members: b (offline)")
    for member in group.members:
        member.becomes(PluginStatus.OFFLINE)
    assert group.balancer.health(1.0).status is PluginStatus.OFFLINE


def test_if_all_breakers_are_open_the_error_has_the_smallest_retry_after() -> None:
    group = Group(3)
    for seconds, member in zip((20, 5, 60), group.members, strict=True):
        member.open_until = group.clock.monotonic() + seconds
    group.balancer.add_plugin(FakeMember("off", group.clock), enabled=False)
    with pytest.raises(CircuitBreakerOpenError) as caught:
        group.send()
    assert caught.value.retry_after == 5
    assert caught.value.plugin == "group"
    assert "3 circuit breaker open, 1 disabled; next try in 5.000 s" in str(caught.value)
    group.clock.advance(5)
    assert group.send() == "b"


def test_the_error_describes_each_member() -> None:
    group = Group(3, panic_threshold=0, max_ejection_percent=100)
    group.eject("a")
    group.balancer.disable_plugin("b")
    group["c"].error = RateLimitExceededError("no token", retry_after=0.25)
    group.clock.advance(10)
    with pytest.raises(NoAvailablePluginsError) as caught:
        group.send()
    error = caught.value
    assert error.code == "LOADBALANCER_1701"
    assert error.retry_after == 0.25
    assert isinstance(error.__cause__, RateLimitExceededError)
    first, second, third = error.details["members"]
    assert first["name"] == "a"
    assert first["state"] == "ejected"
    assert first["next_try"] == pytest.approx(20)
    assert first["last_error"] == "PLUGIN_1205 connection refused"
    assert first["last_error_ago"] == pytest.approx(10)
    assert (second["state"], second["next_try"]) == ("disabled", None)
    assert (third["state"], third["reason"], third["next_try"]) == ("refused the call", "no token", 0.25)


def test_a_group_without_members() -> None:
    with pytest.raises(NoAvailablePluginsError, match="the group has no members"):
        Group(0).send()


def test_the_error_describes_at_most_ten_members() -> None:
    group = Group(100)
    for member in group.members:
        member.open_until = 2000.0
    error = group.try_send()
    assert isinstance(error, CircuitBreakerOpenError)
    assert len(error.details["members"]) == 10
    assert error.details["members_left_out"] == 90


def test_the_message_has_the_latest_error() -> None:
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


def test_a_long_last_error_is_truncated() -> None:
    group = Group(1, panic_threshold=0)
    group["a"].error = lambda: PluginConnectionError("no " * 1000)
    for _ in range(5):
        group.try_send()
    error = group.try_send()
    assert isinstance(error, NoAvailablePluginsError)
    assert len(str(error)) < 500
    assert str(error).endswith("...")


def test_the_error_can_be_pickled() -> None:
    group = Group(2, panic_threshold=0)
    group.eject("a")
    group["b"].error = RateLimitExceededError("no token", retry_after=0.25)
    error = group.try_send()
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)
    assert again.details == error.details
    assert again.retry_after == error.retry_after == 0.25


def test_retry_after_is_the_smallest_of_all_waits() -> None:
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
    assert error.retry_after == pytest.approx(11)  # the next health check of c
    assert [found["next_try"] for found in error.details["members"]] == pytest.approx([30, 25, 11, None])


def test_a_call_without_an_eligible_member_makes_no_attempt() -> None:
    with LoadBalancer("search", members=[Echo("first"), Echo("second")]) as balancer:
        balancer.disable_plugin("first")
        balancer.disable_plugin("second")
        with pytest.raises(NoAvailablePluginsError, match="2 disabled") as caught:
            balancer.execute("x")
        assert caught.value.attempts == 0
