"""The path of a call to a member: refusals, preferences, retries, slow start."""

from __future__ import annotations

from typing import Any

import pytest

from goplugins.balancing import LoadBalancer
from goplugins.errors import (
    PluginClosedError,
    PluginConnectionError,
    RateLimitExceededError,
    SaturatedError,
)
from goplugins.runtime.call import Call
from goplugins.runtime.cancellation import AttemptCancelledError
from tests.unit.balancing.fakes import (
    STRATEGIES,
    FakeMember,
    Group,
    refused,
)


@pytest.mark.parametrize("error", [RateLimitExceededError("x"), SaturatedError("x"), PluginClosedError("x")], ids=repr)
def test_after_a_refusal_another_member_is_picked_within_the_same_attempt(error: Exception) -> None:
    group = Group(3)
    group["a"].error = error
    call = group.call(preferences=("a",))
    assert group.balancer.send(call) in ("b", "c")
    assert call.member in ("b", "c")
    assert call.tried == ()
    assert group.clock.monotonic() == 1000.0
    assert group.balancer.stats()["a"].total_requests == 0


def test_after_its_deadline_a_refused_call_tries_no_other_member() -> None:
    group = Group(3)
    group["a"].latency, group["a"].error = 5.0, SaturatedError("no free connection")
    with pytest.raises(SaturatedError):
        group.send(preferences=("a",), timeout=5)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_recovering_member_gets_its_share_gradually(strategy: str) -> None:
    group = Group(4, strategy, slow_start=10.0)
    for member in group.members:
        member.latency = 0.001
    group["d"].open_until = group.clock.monotonic() + 100
    group["d"].notify()
    for number in range(2000):
        group.send(key=f"user-{number}")
    group.clock.advance(100)
    given = [0] * 12
    beginning = group.clock.monotonic()
    number = 0
    while (second := int(group.clock.monotonic() - beginning)) < 12:
        given[second] += group.send(key=f"user-{number}") == "d"
        number += 1
    # Of 1,000 calls a second: a tenth of the fair 250 in the first two, all of it after ten.
    least, most = (given[1], given[11]) if strategy not in ("least-latency", "p2c") else (given[1], 400)
    assert least < 90
    assert given[0] < 60
    assert most > 150
    if strategy not in ("least-latency", "p2c"):
        assert given[1] < given[5] < given[10]


def test_urgent_calls_avoid_members_in_slow_start() -> None:
    group = Group(2, slow_start=10.0)
    group.balancer.disable_plugin("a")
    group.send()
    group.balancer.enable_plugin("a")
    assert group.count(40, priority=1) == {"b": 40}
    assert group.count(400)["a"] > 0


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_known_fault_a_retry_goes_to_an_untried_member(strategy: str) -> None:
    group = Group(4, strategy)
    for member in group.members:
        member.error = refused
    for number in range(50):
        call = group.call(key=f"user-{number}", idempotent=True)
        for _ in range(4):
            with pytest.raises(ConnectionError):
                group.balancer.send(call)
        assert sorted(call.tried) == [*"abcd"]
        for member in group.members:  # so that no member is ejected
            member.error = None
            group.send(preferences=(member.name,))
            member.error = refused


def test_a_retry_goes_to_a_tried_member_if_there_is_no_other() -> None:
    group = Group(2)
    call = group.call()
    call.tried = ("a", "b")
    assert group.balancer.send(call) in ("a", "b")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_known_fault_preferences_are_applied_in_order_while_eligible(strategy: str) -> None:
    group = Group(4, strategy)
    assert group.count(20, preferences=("unknown", "c", "b")) == {"c": 20}
    group.balancer.disable_plugin("c")
    assert group.count(20, preferences=("unknown", "c", "b")) == {"b": 20}
    retry = group.call(preferences=("b", "d"))
    retry.tried = ("b",)
    assert group.balancer.send(retry) == "d"


def test_the_error_of_a_failed_call_names_its_member() -> None:
    balancer: LoadBalancer[Any, Any] = LoadBalancer("search")
    member = FakeMember("one", Group(0).clock)
    member.error = refused
    balancer.add_plugin(member)
    with pytest.raises(PluginConnectionError) as caught:
        balancer.execute("shoes")
    assert str(caught.value).startswith("[PLUGIN_1205] plugin 'search', member 'one': connection refused")


@pytest.mark.parametrize("strategy", ["p2c", "least-latency"])
def test_a_member_that_always_loses_to_hedges_counts_as_slow(strategy: str) -> None:
    group = Group(2, strategy, slow_start=0.0)
    for member in group.members:
        member.latency = 0.01
    group.count(20)

    def late(call: Call) -> str:
        group.clock.advance(1.0)
        raise AttemptCancelledError("the attempt was cancelled")

    group["a"].act = late
    for _ in range(20):
        group.try_send()
    shown = {member.name: member for member in group.balancer.explain().members}
    assert (shown["a"].latency or 0.0) > 0.1 > (shown["b"].latency or 0.0)
    assert shown["a"].failures == 0
    assert group.count(20)["b"] >= 19
