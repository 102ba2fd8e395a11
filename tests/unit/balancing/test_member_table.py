"""Conditions of members: breakers, health, panic, slow start."""

from __future__ import annotations

from goplugins import PluginStatus
from goplugins.errors import (
    PluginClosedError,
)
from tests.unit.balancing.fakes import (
    FakeMember,
    Group,
)


def test_a_member_with_an_open_breaker_is_not_called() -> None:
    group = Group(3)
    group["a"].open_until = group.clock.monotonic() + 20
    group["a"].notify()
    assert group.count(30)["a"] == 0
    group.clock.advance(20)
    assert group.count(300)["a"] > 0


def test_a_breaker_change_without_notification_is_noticed_within_a_second() -> None:
    group = Group(3)
    group["a"].open_until = group.clock.monotonic() + 1000
    assert set(group.count(30)) == {"b", "c"}
    group["a"].open_until = 0.0  # reset, without a notification
    group.clock.advance(1.0)
    group.send()
    group.clock.advance(10)
    assert group.count(30)["a"] == 10


def test_a_closed_member_is_rechecked_after_a_second() -> None:
    group = Group(3)
    group["a"].error = PluginClosedError("it was removed")
    group.count(30)
    assert group["a"].calls == 1
    assert group.states()["a"] == "closed"
    group["a"].error = None
    group.clock.advance(1)
    group.send()
    group.clock.advance(10)
    assert group.count(30)["a"] == 10
    group["a"].gate_open = False
    group["a"].notify()
    assert group.states()["a"] == "closed"


def test_offline_members_get_no_calls() -> None:
    group = Group(4)
    for member, status in zip(group.members, ("offline", "unhealthy", "degraded", "unknown"), strict=True):
        member.becomes(PluginStatus(status))
    assert group.count(30) == {"b": 10, "c": 10, "d": 10}
    group["a"].becomes(PluginStatus.HEALTHY)
    assert group.eligible() == {*"abcd"}


def test_a_successful_health_check_ends_an_ejection_in_a_probe() -> None:
    group = Group(3)
    group["a"].becomes(PluginStatus.OFFLINE)
    group["a"].becomes(PluginStatus.UNKNOWN)
    group.eject("a")
    group["a"].becomes(PluginStatus.OFFLINE)
    group["a"].becomes(PluginStatus.HEALTHY)
    assert group.states()["a"] == "about to be probed"


def test_below_the_panic_threshold_only_ejection_and_health_are_ignored() -> None:
    group = Group(6, max_ejection_percent=100)
    group["a"].open_until = 2000.0
    group["a"].notify()
    group.balancer.disable_plugin("b")
    group.eject("c")
    assert group.eligible() == {"d", "e", "f"}  # 3 of 5 enabled ones
    assert not group.balancer.explain().panic
    group["d"].becomes(PluginStatus.OFFLINE)  # 2 of 5
    assert group.balancer.explain().panic
    assert group.eligible() == {"c", "d", "e", "f"}
    assert set(group.count(40)) == {"c", "d", "e", "f"}
    group["d"].becomes(PluginStatus.HEALTHY)
    assert group.eligible() == {"d", "e", "f"}


def test_a_success_in_a_panic_ends_an_ejection() -> None:
    group = Group(2, max_ejection_percent=100)
    group.eject("a", "b")
    assert group.balancer.explain().panic
    group["a"].error = None
    group.clock.advance(0.001)  # after the ejection
    group.send(preferences=("a",))
    assert group.states() == {"a": "starting slowly", "b": "ejected"}


def test_the_only_member_is_called_even_if_ejected() -> None:
    group = Group(1)
    group.eject("a")
    group["a"].error = None
    assert group.send() == "a"


def test_a_member_starts_slowly_only_in_a_group_at_work() -> None:
    group = Group(2)
    assert group.states() == {"a": "ready", "b": "ready"}
    group.send()
    group.balancer.add_plugin(FakeMember("new", group.clock))
    assert group.states()["new"] == "starting slowly"


def test_if_all_members_start_slowly_they_share_by_weight() -> None:
    group = Group(3, weights=(2, 1, 1))
    group.send()
    for name in "abc":
        group.balancer.disable_plugin(name)
    for name in "abc":
        group.balancer.enable_plugin(name)
    assert set(group.states().values()) == {"starting slowly"}
    assert group.count(40) == {"a": 20, "b": 10, "c": 10}


def test_before_the_first_call_members_do_not_start_slowly() -> None:
    group = Group(2)
    group["a"].gate_open = False
    group["a"].notify()
    assert group.states()["a"] == "closed"
    group["a"].gate_open = True
    group["a"].notify()
    assert group.states()["a"] == "ready"


def test_slow_start_can_be_disabled() -> None:
    group = Group(2, slow_start=0.0)
    group.balancer.disable_plugin("a")
    group.send()
    group.balancer.enable_plugin("a")
    assert group.count(40) == {"a": 20, "b": 20}
