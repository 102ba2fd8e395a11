"""Attempts that fail for want of something in this process: retried, without an effect on breaker and health."""

from __future__ import annotations

import contextlib
import errno
import gc
import os

import pytest

from goplugins.balancing import LoadBalancer
from goplugins.config import FallbackConfig, LoadBalancerConfig, RetryConfig
from goplugins.enums import CircuitBreakerState
from goplugins.errors import ConnectionLostError, LocalResourceError, PluginConnectionError, PluginInternalError
from goplugins.testing import ManualClock

from .fakes import FakeSender, guarded, make_call
from .test_attempts import EAGER, Checker

LACKS = [
    OSError(errno.EMFILE, os.strerror(errno.EMFILE)),
    MemoryError(),
    RuntimeError("can't start new thread"),
    ImportError("x.so: cannot open shared object file: Too many open files"),
]


def caused(error, cause):
    error.__cause__ = cause
    return error


def lacking(error=None):
    return caused(error or PluginConnectionError("no connection"), LACKS[0])


@pytest.mark.parametrize("cause", LACKS, ids=repr)
@pytest.mark.parametrize("wrapped", [True, False])
def test_it_counts_for_nothing(cause, wrapped):
    sender, checker, clock = FakeSender(), Checker(), ManualClock()
    plugin = guarded(sender, clock, circuit_breaker=EAGER, retry={"max_retries": 0})
    plugin.watch_with(checker, lambda: True)
    for _ in range(3):
        sender.script.append(caused(PluginConnectionError("no connection"), cause) if wrapped else cause)
        with pytest.raises(LocalResourceError) as caught:
            plugin.call(make_call(clock))
        assert caught.value.plugin == "fake"
    assert plugin.pipeline.breaker.state is CircuitBreakerState.CLOSED
    assert plugin.pipeline.breaker.stats().failure_count == 0
    assert checker.reports == []
    assert plugin.call(make_call(clock)) == "ok"


@pytest.mark.parametrize(
    ("error", "idempotent", "calls"),
    [
        (lacking(), False, 2),
        (lacking(ConnectionLostError("lost")), False, 1),
        (lacking(ConnectionLostError("lost")), True, 2),
        (MemoryError(), False, 1),
        (MemoryError(), True, 2),
    ],
    ids=repr,
)
def test_it_is_sent_again_where_that_is_safe(error, idempotent, calls):
    sender, clock = FakeSender(error), ManualClock()
    plugin = guarded(sender, clock)
    if calls == 2:
        assert plugin.call(make_call(clock, idempotent=idempotent)) == "ok"
    else:
        with pytest.raises(LocalResourceError):
            plugin.call(make_call(clock, idempotent=idempotent))
    assert len(sender.sent) == calls


def test_a_failure_before_any_attempt_was_not_sent():
    sender, clock = FakeSender(), ManualClock()
    plugin = guarded(sender, clock)
    sender.prepare = lambda call: (_ for _ in ()).throw(MemoryError())
    with pytest.raises(LocalResourceError) as caught:
        plugin.call(make_call(clock))
    assert caught.value.unsent
    assert caught.value.attempts == 0


def test_a_start_of_background_work_that_lacks_something_fails_no_call():
    clock = ManualClock()
    plugin = guarded(FakeSender(), clock)
    outcomes = [LACKS[2], LACKS[0], True]
    ran = []

    def start():
        outcome = outcomes[len(ran)]
        ran.append(outcome)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    plugin.watch_with(Checker(), start)
    assert [plugin.call(make_call(clock)) for _ in range(5)] == ["ok"] * 5
    assert ran == outcomes


def test_the_fallback_answers():
    clock = ManualClock()
    config = FallbackConfig(value="instead")
    plugin = guarded(FakeSender(default=lacking()), clock, fallback={"value": config.value}, retry={"max_retries": 0})
    assert plugin.call(make_call(clock)) == "instead"


def test_it_leaves_no_garbage():
    clock = ManualClock()
    plugin = guarded(FakeSender(), clock, retry={"max_retries": 0})

    def fail(call):
        raise PluginConnectionError("no connection") from OSError(errno.EMFILE, "Too many open files")

    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            plugin.sender.script.append(fail)
            with contextlib.suppress(LocalResourceError):  # pytest.raises makes garbage of its own
                plugin.call(make_call(clock))
        assert gc.collect() == 0
    finally:
        gc.enable()


class Member:
    """A guarded plugin of a group."""

    def __init__(self, name, *script, default="ok"):
        self.sender = FakeSender(*script, default=default)
        self.plugin = guarded(self.sender, name=name, retry={"max_retries": 0})


def test_another_member_makes_the_call_and_none_is_ejected():
    config = LoadBalancerConfig(name="group", ejection_failures=1, retry=RetryConfig(max_retries=0))
    lacks, has = Member("a", default=lacking()), Member("b")
    with LoadBalancer(config, members=[lacks.plugin, has.plugin]) as group:
        assert [group.execute(1) for _ in range(6)] == ["ok"] * 6
        assert lacks.sender.sent
        assert {name: stats.failed_requests for name, stats in group.stats().items()} == {"a": 0, "b": 0}


def test_a_group_whose_members_all_lack_it_is_called_again():
    config = LoadBalancerConfig(name="group", retry=RetryConfig(max_retries=1, initial_interval=0.001))
    members = [Member("a", lacking()), Member("b", lacking())]
    with LoadBalancer(config, members=[each.plugin for each in members]) as group:
        assert group.execute(1) == "ok"


def test_a_request_that_may_have_arrived_goes_to_no_other_member():
    config = LoadBalancerConfig(name="group", retry=RetryConfig(max_retries=0))
    members = [Member(name, default=lacking(PluginInternalError("raised"))) for name in ("a", "b")]
    with LoadBalancer(config, members=[each.plugin for each in members]) as group, pytest.raises(LocalResourceError):
        group.execute(1)
    assert sum(len(each.sender.sent) for each in members) == 1
