"""The error of a call that no member can take."""

from __future__ import annotations

import pickle

import pytest

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
