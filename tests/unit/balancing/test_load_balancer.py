"""The balancer as a plugin and a sender: methods, counts, threads, interrupts, forks, closing."""

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
from goplugins.enums import LoadBalancingStrategy
from goplugins.errors import (
    DuplicatePluginNameError,
    InvalidArgumentError,
    LoadBalancerError,
    PluginClosedError,
    PluginConnectionError,
    PluginNotFoundError,
)
from goplugins.models.context import ExecutionContext
from goplugins.runtime.call import Call
from tests.interrupts import Interrupt, interrupted
from tests.marks import sample
from tests.processes import in_child, run
from tests.unit.balancing.fakes import (
    STRATEGIES,
    TWO_STRATEGIES,
    Echo,
    FakeMember,
    Group,
    make_call,
    refused,
)


def test_plain_plugins_are_called_in_turn_and_closed_with_the_group() -> None:
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


def test_only_the_group_retries() -> None:
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
    """A group of members that all fail after ``latency`` seconds, and are never ejected."""
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


def test_retries_stay_within_the_deadline() -> None:
    group, balancer = failing(10, 1.0, max_retries=9)
    with pytest.raises(PluginConnectionError) as caught:
        balancer.execute("x", ExecutionContext(timeout=3.5))
    assert caught.value.attempts == 4  # the last one begins half a second before the end
    assert group.clock.monotonic() <= 1000.0 + 4.1
    assert sorted(member.calls for member in group.members) == [0] * 6 + [1] * 4


def test_retries_stay_within_the_retry_budget() -> None:
    group, balancer = failing(4, 0.0, max_retries=3)
    for _ in range(500):
        with pytest.raises(PluginConnectionError):
            balancer.execute("x")
    replays = sum(member.calls for member in group.members) - 500
    reserve = 100 + 10 * (group.clock.monotonic() - 1000.0)
    assert reserve + 90 <= replays <= reserve + 101  # and a fifth of the calls


def test_select_plugin_returns_what_was_added_and_changes_no_counts() -> None:
    plugins = [Echo("first"), Echo("second")]
    with LoadBalancer("search", members=plugins) as balancer:
        name, plugin = balancer.select_plugin()
        assert plugin is {"first": plugins[0], "second": plugins[1]}[name]
        assert {stats.active_connections for stats in balancer.stats().values()} == {0}
        assert {stats.total_requests for stats in balancer.stats().values()} == {0}
        assert balancer.select_plugin(ExecutionContext(preferences=("second",))).name == "second"


def test_weights_and_tiers_come_from_the_configuration() -> None:
    config = LoadBalancerConfig(
        name="search",
        members=(LoadBalancerMember(name="a", weight=3), LoadBalancerMember(name="b", priority=5, enabled=False)),
    )
    clock = Group(0).clock
    balancer: LoadBalancer[Any, Any] = LoadBalancer(config, members=[FakeMember("a", clock), FakeMember("b", clock)])
    stats = balancer.stats()
    assert (stats["a"].weight, stats["b"].priority, stats["b"].enabled) == (3, 5, False)


def test_a_duplicate_name_is_refused() -> None:
    group = Group(1)
    with pytest.raises(DuplicatePluginNameError, match="'a'"):
        group.balancer.add_plugin(FakeMember("a", group.clock))


def test_unknown_names_and_wrong_arguments_are_refused() -> None:
    group = Group(2)
    for method in (group.balancer.remove_plugin, group.balancer.enable_plugin, group.balancer.disable_plugin):
        with pytest.raises(PluginNotFoundError, match="it has a, b"):
            method("unknown")
    for weight in (0, -1, 1.5, True):
        with pytest.raises(InvalidArgumentError, match="weight"):
            group.balancer.add_plugin(FakeMember("c", group.clock), weight=weight)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="is not a plugin: it lacks info, execute"):
        group.balancer.add_plugin(object(), name="x")
    with pytest.raises(InvalidArgumentError, match="strategy"):
        LoadBalancer("x", strategy="best")


def test_a_removed_member_is_unsubscribed_and_closed_only_if_the_group_owns_it() -> None:
    group = Group(2)
    assert group.balancer.remove_plugin("a") is True
    assert group["a"].callbacks == []
    assert group.count(10) == {"b": 10}
    plugin = Echo("own")
    group.balancer.add_plugin(plugin)
    group.balancer.remove_plugin("own")
    assert plugin.closed == 1


def test_remove_waits_for_calls_in_flight() -> None:
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
    group.balancer.add_plugin(group["a"])  # added again: the old call is not counted
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


def test_a_closed_group_refuses_calls_and_members() -> None:
    group = Group(2)
    group.balancer.close()
    group.balancer.close()
    with pytest.raises(PluginClosedError, match="load balancer 'group' is closed"):
        group.send()
    with pytest.raises(PluginClosedError):
        group.balancer.add_plugin(FakeMember("c", group.clock))


def test_members_do_not_keep_the_group_alive() -> None:
    group = Group(1)
    member, gone = group["a"], weakref.ref(group.balancer)
    callback = member.callbacks[0]
    group.balancer = None  # type: ignore[assignment]
    gc.collect()
    assert gone() is None
    callback()


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("error", [Interrupt(), KeyboardInterrupt(), SystemExit(), refused(), ValueError()], ids=repr)
def test_no_call_stays_counted_whatever_it_raises(strategy: str, error: BaseException) -> None:
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
    """Interrupts come at random, as Ctrl-C or a worker's time limit do."""
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
def test_an_interrupt_while_recording_an_outcome_keeps_no_call_from_the_member(
    strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = Group(2, strategy, slow_start=0.0)
    group.count(4)

    def others_pick(_: Call) -> str:
        for _ in range(4):
            group.balancer.select_plugin()
        return "a"

    def interrupted(*_: Any) -> None:
        raise Interrupt

    group["a"].act = others_pick
    with monkeypatch.context() as patch:
        patch.setattr(group.balancer._dispatcher, "record_success", interrupted)
        with pytest.raises(Interrupt):
            group.send(preferences=("a",))
    group["a"].act = None
    assert group.balancer.stats()["a"].active_connections == 0
    assert group.count(40)["a"] >= 15


@pytest.mark.parametrize("strategy", sample(STRATEGIES, TWO_STRATEGIES, pytest.mark.stress))
def test_members_can_be_added_and_removed_during_calls(strategy: str) -> None:
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


def test_a_call_inherited_by_a_child_does_not_change_its_counts() -> None:
    assert run(fork_within_a_call) == [True, 0]


def test_strategies_are_those_of_the_configuration() -> None:
    assert {str(strategy) for strategy in STRATEGIES} == {str(strategy) for strategy in LoadBalancingStrategy}


def test_disable_drains_and_enable_starts_slowly() -> None:
    group = Group(2)
    seen: list[object] = []

    def serve(_: object) -> str:
        seen.append(group.balancer.disable_plugin("a"))
        seen.append(group.states()["a"])
        return "done"

    group["a"].act = serve
    assert group.send(preferences=("a",)) == "done"
    assert seen == [False, "draining"]
    assert group.states()["a"] == "disabled"
    assert group.balancer.disable_plugin("a") is True
    assert group.count(10) == {"b": 10}
    group.balancer.enable_plugin("a")
    assert group.states()["a"] == "starting slowly"


# --- what the constructor takes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", LoadBalancingStrategy)
def test_a_strategy_alone_is_a_strategy_as_in_go(strategy: LoadBalancingStrategy) -> None:
    balancer: LoadBalancer[Any, Any] = LoadBalancer(strategy)
    assert (balancer.config.strategy, balancer.name) == (strategy, strategy.value)
    assert balancer.explain().strategy is strategy
    assert LoadBalancer(strategy, strategy="p2c").config.strategy is LoadBalancingStrategy.P2C
    assert LoadBalancer(strategy.value).config.strategy is LoadBalancingStrategy.ROUND_ROBIN, "a plain text is a name"


def test_type_arguments_that_can_t_be_seen_are_refused_at_the_first_call() -> None:
    for balancer in (LoadBalancer[str, str]("search"), LoadBalancer[Any, str](LoadBalancerConfig(name="search"))):
        balancer.add_plugin(Echo("first"))
        with pytest.raises(LoadBalancerError, match=r"write LoadBalancer\(name, A, B\)") as caught:
            balancer.execute("x")
        assert (caught.value.code, caught.value.plugin) == ("LOADBALANCER_1702", "search")
    plain = LoadBalancer[Any, Any]("search", members=[Echo("first")])
    typed = LoadBalancer[str, str]("search", str, str, members=[Echo("first")])
    assert plain.execute("x") == typed.execute("x")


@pytest.mark.parametrize("options", [{"weight": 0}, {"weight": True}, {"weight": 1.5}, {"priority": "high"}])
def test_a_change_with_wrong_options_is_a_load_balancer_error(options: dict[str, Any]) -> None:
    balancer: LoadBalancer[Any, Any] = LoadBalancer("search")
    with pytest.raises(LoadBalancerError) as caught:
        balancer.add_plugin(Echo("first"), **options)
    assert isinstance(caught.value, InvalidArgumentError)
    assert balancer.stats() == {}
    with pytest.raises(LoadBalancerError, match="strategy"):
        LoadBalancer("search", strategy="best")
