"""The balancer as a plugin and a sender: its methods, its counts, threads, interrupts, forks, life and death."""

from __future__ import annotations

import gc
import itertools
import os
import random
import threading
import time
import weakref
from typing import Any

import pytest

from goplugins.balancing import LoadBalancer
from goplugins.config import LoadBalancerConfig, LoadBalancerMember, RetryConfig
from goplugins.enums import LoadBalancingStrategy, PluginStatus
from goplugins.errors import (
    DuplicatePluginNameError,
    InvalidArgumentError,
    NoAvailablePluginsError,
    PluginClosedError,
    PluginConnectionError,
    PluginNotFoundError,
)
from goplugins.models.context import ExecutionContext
from goplugins.models.plugin import PluginInfo
from goplugins.models.results import HealthStatus
from goplugins.runtime.call import Call
from goplugins.runtime.cancellation import AttemptCancelledError
from tests.interrupts import Interrupt, interrupted
from tests.marks import sample
from tests.processes import in_child, run

from .fakes import STRATEGIES, TWO_STRATEGIES, FakeMember, Group, make_call, refused


class Echo:
    """A plugin object that counts its calls."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.calls = 0
        self.closed = 0
        self.error: Exception | None = None
        self.status = PluginStatus.HEALTHY
        self.looks: list[float] = []

    def info(self) -> PluginInfo:
        return PluginInfo(self.name)

    def execute(self, request: Any, context: ExecutionContext, /) -> Any:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return f"{self.name}: {request}"

    def health(self, timeout: float) -> HealthStatus:
        self.looks.append(timeout)
        return HealthStatus(self.status)

    def close(self) -> None:
        self.closed += 1


# --- stand-alone -----------------------------------------------------------------------------------------------------


def test_plugins_of_any_kind_behind_one_name() -> None:
    plugins = [Echo("first"), Echo("second")]
    with LoadBalancer("search", str, str, strategy="round-robin", members=plugins) as balancer:
        answers = [balancer.execute("x") for _ in range(10)]
    assert sorted(answers) == ["first: x"] * 5 + ["second: x"] * 5
    assert [plugin.closed for plugin in plugins] == [1, 1]


def test_a_failed_attempt_goes_to_another_member() -> None:
    plugins = [Echo("first"), Echo("second")]
    plugins[0].error = PluginConnectionError("connection refused")
    config = LoadBalancerConfig(name="search", retry=RetryConfig(max_retries=1, initial_interval=0.0))
    with LoadBalancer(config, members=plugins) as balancer:
        assert {balancer.execute("x") for _ in range(10)} == {"second: x"}


def test_members_make_single_attempts_only_the_group_retries() -> None:
    plugins = [Echo("first"), Echo("second"), Echo("third")]
    for plugin in plugins:
        plugin.error = PluginConnectionError("connection refused")
    config = LoadBalancerConfig(name="search", retry=RetryConfig(max_retries=2, initial_interval=0.0))
    with LoadBalancer(config, members=plugins) as balancer:
        with pytest.raises(PluginConnectionError) as caught:
            balancer.execute("x")
        assert caught.value.attempts == 3
    assert [plugin.calls for plugin in plugins] == [1, 1, 1]


def failing(count: int, latency: float, **retry: Any) -> tuple[Group, LoadBalancer[Any, Any]]:
    """A group of members that all fail after ``latency`` seconds, and are never left alone for it."""
    group = Group(0)
    config = LoadBalancerConfig(
        name="search",
        ejection_failures=10_000,
        retry=RetryConfig(initial_interval=0.0, random_jitter=False, **retry),
    )
    balancer: LoadBalancer[Any, Any] = LoadBalancer(config, clock=group.clock, rng=random.Random(3))
    for name in "abcdefghij"[:count]:
        member = FakeMember(name, group.clock, latency)
        member.error = refused
        group.members.append(member)
        balancer.add_plugin(member)
    return group, balancer


def test_failing_over_from_member_to_member_stays_within_the_calls_deadline() -> None:
    group, balancer = failing(10, 1.0, max_retries=9)
    with pytest.raises(PluginConnectionError) as caught:
        balancer.execute("x", ExecutionContext(timeout=3.5))
    assert caught.value.attempts == 4  # the last one begins half a second before the end
    assert group.clock.monotonic() <= 1000.0 + 4.1
    assert sorted(member.calls for member in group.members) == [0] * 6 + [1] * 4


def test_failing_over_stays_within_the_groups_retry_budget() -> None:
    group, balancer = failing(4, 0.0, max_retries=3)
    for _ in range(500):
        with pytest.raises(PluginConnectionError):
            balancer.execute("x")
    replays = sum(member.calls for member in group.members) - 500
    reserve = 100 + 10 * (group.clock.monotonic() - 1000.0)
    assert reserve + 90 <= replays <= reserve + 101  # and a fifth of the calls


def test_a_call_that_found_nobody_made_no_attempt() -> None:
    with LoadBalancer("search", members=[Echo("first"), Echo("second")]) as balancer:
        balancer.disable_plugin("first")
        balancer.disable_plugin("second")
        with pytest.raises(NoAvailablePluginsError, match="2 disabled") as caught:
            balancer.execute("x")
        assert caught.value.attempts == 0


def test_select_plugin_shows_what_was_added_and_counts_nothing_in() -> None:
    plugins = [Echo("first"), Echo("second")]
    with LoadBalancer("search", members=plugins) as balancer:
        name, plugin = balancer.select_plugin()
        assert plugin is {"first": plugins[0], "second": plugins[1]}[name]
        assert {stats.active_connections for stats in balancer.stats().values()} == {0}
        assert {stats.total_requests for stats in balancer.stats().values()} == {0}
        assert balancer.select_plugin(ExecutionContext(preferences=("second",))).name == "second"


def test_health_asks_members_of_which_nobody_knows_within_the_time() -> None:
    plugins = [Echo("first"), Echo("second")]
    with LoadBalancer("search", members=plugins) as balancer:
        assert balancer.health(1.0).status is PluginStatus.HEALTHY
        assert all(0 < look <= 1.0 for plugin in plugins for look in plugin.looks)


def test_the_groups_health_names_the_culprits() -> None:
    group = Group(3)
    assert group.balancer.health(1.0).status is PluginStatus.UNKNOWN  # never healthy before a first look
    for member in group.members:
        member.becomes(PluginStatus.HEALTHY)
    assert group.balancer.health(1.0).status is PluginStatus.HEALTHY
    group["b"].becomes(PluginStatus.OFFLINE)
    found = group.balancer.health(1.0)
    assert (found.status, found.message) == (PluginStatus.DEGRADED, "1 of 3 members: b (offline)")
    for member in group.members:
        member.becomes(PluginStatus.OFFLINE)
    assert group.balancer.health(1.0).status is PluginStatus.OFFLINE


def test_weights_and_tiers_come_from_the_configuration() -> None:
    config = LoadBalancerConfig(
        name="search",
        members=(LoadBalancerMember(name="a", weight=3), LoadBalancerMember(name="b", priority=5, enabled=False)),
    )
    clock = Group(0).clock
    balancer: LoadBalancer[Any, Any] = LoadBalancer(config, members=[FakeMember("a", clock), FakeMember("b", clock)])
    stats = balancer.stats()
    assert (stats["a"].weight, stats["b"].priority, stats["b"].enabled) == (3, 5, False)


# --- members come and go ---------------------------------------------------------------------------------------------


def test_a_name_is_there_once() -> None:
    group = Group(1)
    with pytest.raises(DuplicatePluginNameError, match="'a'"):
        group.balancer.add_plugin(FakeMember("a", group.clock))


def test_unknown_names_and_useless_arguments_are_refused() -> None:
    group = Group(2)
    for method in (group.balancer.remove_plugin, group.balancer.enable_plugin, group.balancer.disable_plugin):
        with pytest.raises(PluginNotFoundError, match="it has a, b"):
            method("nobody")
    for weight in (0, -1, 1.5, True):
        with pytest.raises(InvalidArgumentError, match="weight"):
            group.balancer.add_plugin(FakeMember("c", group.clock), weight=weight)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="is not a plugin: it lacks info, execute"):
        group.balancer.add_plugin(object(), name="x")
    with pytest.raises(InvalidArgumentError, match="strategy"):
        LoadBalancer("x", strategy="best")


def test_a_removed_member_gets_no_news_and_no_calls_and_stays_its_owners() -> None:
    group = Group(2)
    assert group.balancer.remove_plugin("a") is True
    assert group["a"].callbacks == []
    assert group.count(10) == {"b": 10}
    plugin = Echo("own")
    group.balancer.add_plugin(plugin)
    group.balancer.remove_plugin("own")
    assert plugin.closed == 1


def test_removing_waits_for_the_calls_under_way() -> None:
    group = Group(2)
    entered, release = threading.Event(), threading.Event()

    def serve(_: Any) -> str:
        entered.set()
        release.wait(10)
        return "done"

    group["a"].act = serve
    answers: list[str] = []
    caller = threading.Thread(target=lambda: answers.append(group.send(preferences=("a",))))
    caller.start()
    assert entered.wait(10)
    assert group.balancer.remove_plugin("a", drain_timeout=0.0) is False
    group.balancer.add_plugin(group["a"])  # the same again: the old call is not its
    assert group.balancer.stats()["a"].active_connections == 0
    release.set()
    caller.join(10)
    assert answers == ["done"]
    assert group.balancer.stats()["a"].active_connections == 0


def test_a_drain_ends_with_the_last_call() -> None:
    balancer: LoadBalancer[Any, Any] = LoadBalancer("group")
    member = FakeMember("a", Group(0).clock)
    entered, release = threading.Event(), threading.Event()

    def serve(_: Any) -> str:
        entered.set()
        release.wait(10)
        return "done"

    member.act = serve
    balancer.add_plugin(member)
    caller = threading.Thread(target=lambda: balancer.send(make_call(balancer._clock)))
    caller.start()
    assert entered.wait(10)
    threading.Timer(0.05, release.set).start()
    started = time.monotonic()
    assert balancer.disable_plugin("a", drain_timeout=30.0) is True
    assert time.monotonic() - started < 10
    caller.join(10)


def test_after_close_it_says_so() -> None:
    group = Group(2)
    group.balancer.close()
    group.balancer.close()
    with pytest.raises(PluginClosedError, match="load balancer 'group' is closed"):
        group.send()
    with pytest.raises(PluginClosedError):
        group.balancer.add_plugin(FakeMember("c", group.clock))


def test_members_hold_no_group_alive() -> None:
    group = Group(1)
    member, gone = group["a"], weakref.ref(group.balancer)
    callback = member.callbacks[0]
    group.balancer = None  # type: ignore[assignment]
    gc.collect()
    assert gone() is None
    callback()


# --- counts ----------------------------------------------------------------------------------------------------------


def test_stats_tell_what_happened() -> None:
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


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("error", [Interrupt(), KeyboardInterrupt(), SystemExit(), refused(), ValueError()], ids=repr)
def test_whatever_a_call_ends_with_it_is_counted_out(strategy: str, error: BaseException) -> None:
    group = Group(3, strategy)
    for member in group.members:
        member.error = error
    for number in range(30):
        with pytest.raises(BaseException):  # noqa: B017, PT011
            group.send(key=f"user-{number}")
    assert {stats.active_connections for stats in group.balancer.stats().values()} == {0}
    assert group.balancer._dispatcher._traffic.active == 0


@pytest.mark.parametrize("strategy", sample(STRATEGIES, TWO_STRATEGIES, pytest.mark.stress))
def test_an_interrupt_at_any_moment_loses_neither_a_count_nor_a_member(strategy: str) -> None:
    """Exceptions thrown into a calling thread at random, as Ctrl-C or a worker's time limit are."""
    group = Group(4, strategy, slow_start=0.0)
    keys = itertools.count()
    with interrupted(lambda: group.send(key=f"user-{next(keys)}"), threads=1, hits=200, seed=5):
        pass
    assert {stats.active_connections for stats in group.balancer.stats().values()} == {0}
    assert group.balancer._dispatcher._traffic.active == 0
    group.clock.advance(1.0)
    for member in group.members:
        member.latency = 0.01
    assert {group.send(key=f"user-{number}") for number in range(2000)} == {*"abcd"}


@pytest.mark.parametrize("strategy", ["least-connections", "least-latency"])
def test_an_interrupt_amid_counting_out_keeps_no_call_from_the_member(
    strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = Group(2, strategy, slow_start=0.0)
    group.count(4)

    def others_look_at_it(_: Call) -> str:
        for _ in range(4):
            group.balancer.select_plugin()
        return "a"

    def interrupted(*_: Any) -> None:
        raise Interrupt

    group["a"].act = others_look_at_it
    with monkeypatch.context() as patch:
        patch.setattr(group.balancer._dispatcher, "record_success", interrupted)
        with pytest.raises(Interrupt):
            group.send(preferences=("a",))
    group["a"].act = None
    assert group.balancer.stats()["a"].active_connections == 0
    assert group.count(40)["a"] >= 15


@pytest.mark.parametrize("strategy", sample(STRATEGIES, TWO_STRATEGIES, pytest.mark.stress))
def test_members_come_and_go_while_others_pick(strategy: str) -> None:
    balancer: LoadBalancer[Any, Any] = LoadBalancer("group", strategy=strategy, rng=random.Random(1))
    clock = balancer._clock
    manual = Group(0).clock
    for number in range(4):
        balancer.add_plugin(FakeMember(f"stays-{number}", manual))
    stop = threading.Event()
    faults: list[BaseException] = []

    def guard(work: Any) -> Any:
        def run() -> None:
            rng = random.Random(threading.get_ident())
            try:
                while not stop.is_set():
                    work(rng)
            except BaseException as error:
                faults.append(error)

        return run

    def call(rng: random.Random) -> None:
        balancer.send(make_call(clock, key=f"user-{rng.random()}"))

    def churn(rng: random.Random) -> None:
        name = f"guest-{threading.get_ident()}"
        balancer.add_plugin(FakeMember(name, manual), weight=rng.randrange(1, 4), priority=rng.randrange(3))
        balancer.disable_plugin(name)
        balancer.enable_plugin(name)
        balancer.explain()
        balancer.remove_plugin(name)

    threads = [threading.Thread(target=guard(work)) for work in (call, call, call, call, churn, churn)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    stop.set()
    for thread in threads:
        thread.join(10)
    assert faults == []
    stats = balancer.stats()
    assert set(stats) == {f"stays-{number}" for number in range(4)}
    assert {each.active_connections for each in stats.values()} == {0}
    assert balancer._dispatcher._traffic.active == 0


# --- forks -----------------------------------------------------------------------------------------------------------


def fork_during_a_call() -> Any:
    group = Group(3, "least-connections")
    entered, release = threading.Event(), threading.Event()

    def serve(_: Any) -> str:
        entered.set()
        release.wait(10)
        return "done"

    group["a"].act = serve
    caller = threading.Thread(target=group.send, kwargs={"preferences": ("a",)})
    caller.start()
    assert entered.wait(10)

    def child() -> Any:
        group["a"].act = None
        counts = [stats.active_connections for stats in group.balancer.stats().values()]
        return counts, sorted(set(group.count(30)))

    with group.balancer._dispatcher.lock:  # as another thread may hold it at the moment of the fork
        found = in_child(child)
    parents = group.balancer.stats()["a"].active_connections
    release.set()
    caller.join(10)
    return found, parents


def test_a_child_has_no_calls_under_way_and_calls_all_members() -> None:
    assert run(fork_during_a_call) == [[[0, 0, 0], ["a", "b", "c"]], 1]


def fork_within_a_call() -> Any:
    group = Group(2)
    child = [1]

    def fork(_: Any) -> str:
        child[0] = os.fork()
        return "done"

    group["a"].act = fork
    assert group.send(preferences=("a",)) == "done"
    counts = {stats.active_connections for stats in group.balancer.stats().values()}
    ok = counts == {0} and group.balancer._dispatcher._traffic.active == 0
    if child[0] == 0:
        os._exit(0 if ok else 1)
    return ok, os.waitstatus_to_exitcode(os.waitpid(child[0], 0)[1])


def test_a_call_that_a_child_inherited_is_not_counted_out_there() -> None:
    assert run(fork_within_a_call) == [True, 0]


# --- strategies ------------------------------------------------------------------------------------------------------


def test_strategies_are_those_of_the_configuration() -> None:
    assert {str(strategy) for strategy in STRATEGIES} == {str(strategy) for strategy in LoadBalancingStrategy}


@pytest.mark.parametrize("strategy", ["p2c", "least-latency"])
def test_who_only_ever_loses_to_hedges_is_known_to_be_slow(strategy: str) -> None:
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
