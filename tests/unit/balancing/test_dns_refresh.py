"""When a host's addresses are looked up, and what a failed lookup does."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest

from goplugins.errors import (
    BadReplyError,
    ConnectionLostError,
    NameResolutionError,
    PluginConnectionError,
    PluginError,
    PluginTimeoutError,
    Replay,
)
from tests.interrupts import interrupted_at
from tests.unit.balancing.dns_fakes import DnsGroupOfFakes as Group, called, fail


def test_the_first_lookup_is_made_by_the_first_call() -> None:
    group = Group(1, 2)
    assert group.resolver.lookups == []
    assert group.group.explain() is None
    assert group.scheduler.scheduled == 0
    group.call()
    assert group.resolver.lookups == [("search.test", 80)]


def test_lookups_are_repeated_while_there_are_calls_and_end_without() -> None:
    group = Group(1)
    for lookups in (1, 2, 3):
        group.call()
        assert len(group.resolver.lookups) == lookups
        group.wait(30.0)
    assert len(group.resolver.lookups) == 4
    for _ in range(5):
        group.wait(30.0)
    assert len(group.resolver.lookups) == 4
    assert group.scheduler.scheduled == 0


def test_the_first_call_after_a_pause_waits_for_fresh_addresses() -> None:
    group = Group(1)
    group.call()
    for _ in range(5):
        group.wait(30.0)
    group.resolver.set(2)
    assert group.call() == "p@10.0.0.2:80"
    group.resolver.set(3)
    group.wait(30.0)
    assert group.call() == "p@10.0.0.3:80"


def test_after_a_pause_a_failed_lookup_leaves_the_known_addresses_in_use() -> None:
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
def test_a_failed_connection_triggers_an_early_lookup(error: PluginError) -> None:
    group = Group(1, 2)
    group.count(2)
    group.clock.advance(5.0)
    group.act["p@10.0.0.1:80"] = fail(error)
    group.resolver.set(2, 3)
    with pytest.raises(type(error)):
        group.count(2)
    assert len(group.resolver.lookups) == 1
    group.wait(0.0)
    assert len(group.resolver.lookups) == 2
    assert set(group.count(10)) == set(called(2, 3))


@pytest.mark.parametrize("error", [BadReplyError("garbage"), ConnectionLostError("reset"), PluginTimeoutError("slow")])
def test_other_failures_trigger_no_early_lookup(error: PluginError) -> None:
    group = Group(1)
    group.call()
    group.clock.advance(5.0)
    group.act["p@10.0.0.1:80"] = fail(error)
    with pytest.raises(type(error)):
        group.call()
    group.wait(5.0)
    assert len(group.resolver.lookups) == 1


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
    assert 4 <= len(group.resolver.lookups) - 1 <= 5


@pytest.mark.parametrize(
    "answer",
    [NameResolutionError("the name 'search.test' can't be resolved: no such host"), PluginTimeoutError("late"), []],
)
def test_failed_lookups_keep_the_members_and_are_logged_once(answer: Any, caplog: pytest.LogCaptureFixture) -> None:
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
        group.resolver.set(1, 2)
        group.resolver.error = None
        group.wait(30.0)
        assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "failed" not in str(group.group.explain())


def test_the_first_call_raises_the_error_of_a_failed_lookup() -> None:
    group = Group()
    group.resolver.error = NameResolutionError("the name 'search.test' can't be resolved")
    with pytest.raises(NameResolutionError):
        group.call()
    found = group.group.explain()
    assert found is not None
    assert found.members == ()
    assert "not found yet" in found.resolution
    group.resolver.error = None
    group.resolver.set(1)
    assert group.call() == "p@10.0.0.1:80"


def test_after_three_failures_lookups_are_a_second_apart() -> None:
    group = Group()
    group.resolver.error = NameResolutionError("the name 'search.test' can't be resolved")
    for _ in range(20):
        with pytest.raises(NameResolutionError, match=r"can't be resolved") as caught:
            group.call()
    assert len(group.resolver.lookups) == 3
    assert caught.value.retry_after == pytest.approx(1.0)
    group.resolver.error = None
    group.resolver.set(1)
    group.clock.advance(1.0)
    assert group.call() == "p@10.0.0.1:80"


def test_concurrent_calls_share_one_lookup_and_its_members() -> None:
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
    assert len(group.resolver.lookups) == 1
    assert len(group.built) == 2


def test_each_waiting_call_raises_its_own_error_of_a_failed_lookup() -> None:
    group = Group(auto_advance=False)
    group.resolver.hold = threading.Event()
    group.resolver.error = NameResolutionError("the name 'search.test' can't be resolved")
    errors: list[PluginError] = []

    def send() -> None:
        with pytest.raises(NameResolutionError) as caught:
            group.call()
        errors.append(caught.value)

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    group.clock.wait_for_waiters(3)
    group.resolver.hold.set()
    for thread in threads:
        thread.join(10)
    assert len(errors) == len({id(error) for error in errors}) == 4
    assert len(group.resolver.lookups) == 1


def test_an_interrupt_at_any_point_of_a_lookup_does_not_block_the_next_call() -> None:
    for number in range(1000):
        group = Group(1)
        if not interrupted_at(number, group.call, ("dns_refresh.py",)):
            break
        assert group.call() == "p@10.0.0.1:80"
    assert number > 10
