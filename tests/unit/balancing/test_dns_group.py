"""A group whose members are the addresses of a host: members added, drained and closed."""

from __future__ import annotations

import random
import threading

import pytest

from goplugins.balancing.dns_group import MAX_MEMBERS
from goplugins.errors import (
    PluginClosedError,
    PluginConnectionError,
)
from tests.unit.balancing.dns_fakes import DnsGroupOfFakes as Group, called, fail, resolved_config


def test_each_address_is_a_member() -> None:
    group = Group(1, 2, 3)
    assert group.count(30) == dict.fromkeys(called(1, 2, 3), 10)


def test_order_and_duplicates_of_addresses_do_not_matter() -> None:
    group = Group(1, 2, 3)
    group.call()
    group.resolver.set(3, 1, 2, 1, 3)
    group.wait(30.0)
    assert group.members() == dict.fromkeys(called(1, 2, 3), "ready")
    assert len(group.built) == 3


def test_a_new_address_of_a_group_at_work_starts_slowly() -> None:
    group = Group(1, slow_start=10)
    group.count(5)
    group.resolver.set(1, 2)
    group.wait(30.0)
    assert group.members() == {"p@10.0.0.1:80": "ready", "p@10.0.0.2:80": "starting slowly"}
    assert group.count(100)["p@10.0.0.2:80"] < 20


def test_a_removed_address_gets_no_more_calls_and_is_closed() -> None:
    group = Group(1, 2)
    group.count(4)
    group.resolver.set(2)
    group.wait(30.0)
    assert group.count(10) == {"p@10.0.0.2:80": 10}
    assert [(each.name, each.closed) for each in group.built] == [("p@10.0.0.1:80", 1), ("p@10.0.0.2:80", 0)]
    assert group.owned == called(2)


def test_a_removed_address_is_closed_after_its_last_call() -> None:
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
    group.resolver.set(2)
    group.wait(30.0)
    assert group.built[0].closed == 0
    assert group.members() == {"p@10.0.0.1:80": "draining", "p@10.0.0.2:80": "ready"}
    assert "its address is no longer in the answer" in str(group.group.explain())
    assert group.unwatched == called(1), "a server that is shut down on purpose must not raise an alarm"
    group.group.sweep()
    assert group.built[0].closed == 0
    go_on.set()
    thread.join(10)
    assert answers == called(1)
    group.group.sweep()
    assert group.built[0].closed == 1
    assert group.members() == {"p@10.0.0.2:80": "ready"}


def test_an_address_that_returns_while_its_member_drains_keeps_that_member() -> None:
    group = Group(1, 2)
    group.count(2)
    held = group.group._members["p@10.0.0.1:80"]
    held.tracker.enter()
    group.resolver.set(2)
    group.wait(30.0)
    assert group.members()["p@10.0.0.1:80"] == "disabled"
    group.call()
    group.resolver.set(1, 2)
    group.wait(30.0)
    held.tracker.leave(True, 0.0, 1)
    assert group.members() == dict.fromkeys(called(1, 2), "ready")
    assert group.unwatched == []
    assert len(group.built) == 2
    assert [each.closed for each in group.built] == [0, 0]


def test_when_all_addresses_change_the_new_members_are_added_first() -> None:
    group = Group(1, 2)
    group.count(4)
    group.resolver.set(3, 4)
    group.wait(30.0)
    assert group.count(10) == dict.fromkeys(called(3, 4), 5)


def test_at_most_64_addresses_are_used_and_present_members_stay() -> None:
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


def test_close_leaves_no_members_and_no_scheduled_lookups() -> None:
    group = Group(1, 2)
    group.count(2)
    group.act["p@10.0.0.1:80"] = fail(PluginConnectionError("refused"))
    with pytest.raises(PluginConnectionError):
        group.count(2)
    assert group.scheduler.scheduled == 2
    group.group.close()
    group.group.close()
    assert [each.closed for each in group.built] == [1, 1]
    assert group.owned == []
    assert group.scheduler.scheduled == 0
    with pytest.raises(PluginClosedError):
        group.call()
    assert len(group.resolver.lookups) == 1


def test_close_during_a_lookup_leaves_no_members_and_no_scheduled_lookups() -> None:
    group = Group(1, 2)
    group.resolver.hold = threading.Event()
    errors: list[BaseException] = []

    def send() -> None:
        try:
            group.call()
        except PluginClosedError as error:
            errors.append(error)

    thread = threading.Thread(target=send)
    thread.start()
    while not group.resolver.lookups:
        pass
    group.group.close()
    group.resolver.hold.set()
    thread.join(10)
    assert len(errors) == 1
    assert [each.closed for each in group.built] == [1, 1]
    assert group.owned == []
    assert group.scheduler.scheduled == 0


def test_a_forked_child_keeps_the_members_and_its_own_schedule() -> None:
    group = Group(1, 2)
    group.count(2)
    group.resolver.hold = hold = threading.Event()
    parent = threading.Thread(target=group.wait, args=(30.0,))  # its lookup never ends in a child
    parent.start()
    while len(group.resolver.lookups) < 2:
        pass
    group.resolver.hold = None
    for part in (group.scheduler, group.group._balancer._dispatcher, group.group._dns, group.group):
        part.after_fork_in_child()
    assert set(group.count(4)) == set(called(1, 2))
    assert len(group.resolver.lookups) == 2
    group.resolver.set(3)
    group.wait(30.0)
    assert set(group.count(4)) == set(called(3))
    assert group.scheduler.scheduled == 1
    hold.set()
    parent.join(10)


def test_reconfigure_applies_policies_to_present_and_future_members() -> None:
    group = Group(1)
    group.call()
    wanted = resolved_config(circuit_breaker={"failure_threshold": 77})
    group.group.reconfigure(wanted)
    group.resolver.set(1, 2)
    group.wait(30.0)
    found = [member.config.circuit_breaker for member in group.group._members.values()]
    assert [breaker.failure_threshold for breaker in found if breaker is not None] == [77, 77]
    assert [each.closed for each in group.built] == [0, 0]


def test_a_member_that_an_operator_has_disabled_stays_so_when_its_address_comes_back() -> None:
    group = Group(1, 2)
    group.call()
    (first,) = [member for name, member in group.group._members.items() if name == "p@10.0.0.1:80"]
    first.pipeline.breaker.force_open()
    for numbers in ((2,), (1, 2), (2,), (1, 2)):
        group.resolver.set(*numbers)
        group.wait(30.0)
        assert group.count(10) == {"p@10.0.0.2:80": 10}
        assert group.group.operator_settings() == {"p@10.0.0.1:80": False}
    (again,) = [member for name, member in group.group._members.items() if name == "p@10.0.0.1:80"]
    assert again is not first
    again.pipeline.breaker.reset()
    group.wait(30.0)
    assert group.count(100)["p@10.0.0.1:80"]
    assert group.group.operator_settings() == {}
