"""Statistics and explanations of members."""

from __future__ import annotations

import math

import pytest

from goplugins.errors import (
    CircuitBreakerOpenError,
)
from tests.unit.balancing.fakes import (
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
        "a: offline (until a successful health check; last check: 1 failed checks in a row; the last: "
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
