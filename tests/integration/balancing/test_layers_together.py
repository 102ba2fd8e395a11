"""Groups combined with hedges, bulkheads, caches, fallbacks and reloads, through a manager."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from goplugins import Manager, PluginError, PluginUnavailableError, ReloadOptions
from tests.servers import Peer, RawServer, http_reply, ok

pytestmark = pytest.mark.matrix

RETRY = {"idempotent": True, "max_retries": 1, "initial_interval": "1ms", "budget_ratio": 1.0}
HEDGE = {"enabled": True, "delay": "30ms"}


class Instance:
    """A server that answers with its name; ``hold`` delays it, ``fails`` makes it reply with 503."""

    def __init__(self, name: str, stack: ExitStack) -> None:
        self.name = name
        self.hold = threading.Event()
        self.hold.set()
        self.fails = False
        self.called = threading.Event()
        self.server = stack.enter_context(RawServer(self._serve))
        stack.callback(self.hold.set)
        self.url = f"http://127.0.0.1:{self.server.port}"

    def _serve(self, peer: Peer) -> None:
        while (request := peer.read_request()) is not None:
            self.called.set()
            self.hold.wait(10)
            peer.send(http_reply(status="503 Service Unavailable") if self.fails else ok(request, self.name))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def pair(stack: ExitStack) -> dict[str, Instance]:
    return {name: Instance(name, stack) for name in "ab"}


def plugin(name: str, url: str, **sections: Any) -> dict[str, Any]:
    own = {"name": name, "transport": "http", "endpoint": url, "health_check": {"enabled": False}}
    return {**own, "circuit_breaker": {"enabled": False}, **sections}


def group(pair: dict[str, Instance], stack: ExitStack, *, own: dict[str, Any] | None = None, **fields: Any) -> Any:
    """A manager with the group "g", whose member "a" is preferred by the strategy "priority"."""
    members = [{"name": "a", "priority": 2}, {"name": "b", "priority": 1}]
    balancer = {"name": "g", "members": members, "slow_start": 0, "retry": RETRY, **fields}
    plugins = [plugin(name, each.url, **(own or {})) for name, each in pair.items()]
    manager = stack.enter_context(Manager(str, str))
    manager.load_from_config({"log_level": "error", "plugins": plugins, "load_balancers": [balancer]})
    return manager


def endpoints(*instances: Instance, **sections: Any) -> dict[str, Any]:
    own = {"name": "g", "transport": "http", "health_check": {"enabled": False}, "retry": RETRY, **sections}
    return {"log_level": "error", "plugins": [{**own, "endpoints": [each.url for each in instances]}]}


def in_flight(manager: Manager[str, str]) -> int:
    found = manager.explain("g").group
    assert found is not None
    return sum(member.active for member in found.members)


def in_a_thread(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    return thread, results


# --- hedges ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["priority", "consistent-hash", "least-connections", "round-robin"])
def test_the_second_attempt_goes_to_another_member(strategy: str, pair: dict[str, Instance], stack: ExitStack) -> None:
    # Long enough for a busy machine: without a sent first attempt there is no second one.
    manager = group(pair, stack, strategy=strategy, hedge={"enabled": True, "delay": "200ms"})
    owner = manager.execute_result("g", "x", key="k").member
    for late in (owner, *({"a", "b"} - {owner})):
        pair[late].hold.clear()
        for _ in range(2):
            result = manager.execute_result("g", "x", key="k", timeout=5)
            assert result.member != late
        pair[late].hold.set()


@pytest.mark.parametrize("strategy", ["priority", "consistent-hash"])
def test_a_retry_of_a_hedgeable_call_goes_to_another_member(
    strategy: str, pair: dict[str, Instance], stack: ExitStack
) -> None:
    manager = group(pair, stack, strategy=strategy, hedge=HEDGE)
    owner = manager.execute_result("g", "x", key="k").member
    pair[owner].fails = True
    result = manager.execute_result("g", "x", key="k", timeout=5)
    assert (result.member, result.attempts) == (*({"a", "b"} - {owner}), 2)


def test_kept_errors_of_hedged_calls_hold_no_workers(pair: dict[str, Instance], stack: ExitStack) -> None:
    manager = stack.enter_context(Manager(str, str))
    retry = {"idempotent": True, "max_retries": 0}
    hedged = plugin("p", pair["a"].url, retry=retry, hedge=HEDGE)
    manager.load_from_config({"log_level": "error", "plugins": [hedged]})
    pair["a"].fails = True
    kept = [result.error for result in manager.map_results("p", ["x"] * 70, concurrency=1)]
    assert all(isinstance(error, PluginUnavailableError) for error in kept)
    pair["a"].fails = False
    pair["a"].hold.clear()
    threading.Timer(0.2, pair["a"].hold.set).start()
    manager.execute("p", "x")
    assert manager.metrics().plugins["p"].hedges_sent == 1


@pytest.mark.parametrize(
    "guard",
    [
        {"bulkhead": {"max_concurrent": 1, "max_waiting": 10}},
        {
            "rate_limit": {
                "enabled": True,
                "requests_per_second": 0.1,
                "burst_size": 1,
                "max_wait": "60s",
            }
        },
    ],
    ids=["bulkhead", "limiter"],
)
def test_a_losing_attempt_stops_waiting_for_a_slot_or_a_token(
    guard: dict[str, Any], pair: dict[str, Instance], stack: ExitStack
) -> None:
    manager = group(pair, stack, own=guard, strategy="priority", hedge=HEDGE, request_timeout=30)
    if "bulkhead" in guard:
        pair["a"].hold.clear()
        manager.submit("a", "x")
        assert pair["a"].called.wait(5)
    else:
        manager.execute("a", "x")
    assert manager.execute("g", "x") == "b"
    end = time.monotonic() + 0.3
    while in_flight(manager) and time.monotonic() < end:
        time.sleep(0.005)
    left = in_flight(manager)
    pair["a"].hold.set()
    assert left == 0


# --- reloads ---------------------------------------------------------------------------------------------------------


def test_waiting_calls_of_a_removed_group_reach_its_removed_members(stack: ExitStack) -> None:
    old, new = Instance("old", stack), Instance("new", stack)
    bulkhead = {"max_concurrent": 1, "max_waiting": 10}
    manager = stack.enter_context(Manager(str, str))
    manager.load_from_config(endpoints(old, bulkhead=bulkhead))
    old.hold.clear()
    futures = [manager.submit("g", "x", timeout=5)]
    assert old.called.wait(5)
    futures += [manager.submit("g", "x", timeout=5) for _ in range(4)]
    threading.Timer(0.2, old.hold.set).start()
    manager.reload_config(endpoints(new, bulkhead=bulkhead))
    assert [future.result(5) for future in futures] == ["old"] * 5
    assert manager.execute("g", "x") == "new"


def test_a_call_of_a_removed_group_is_retried_on_its_other_member(stack: ExitStack) -> None:
    one, two, new = (Instance(name, stack) for name in ("one", "two", "new"))
    manager = stack.enter_context(Manager(str, str))
    manager.load_from_config(endpoints(one, two))
    one.fails = two.fails = True
    one.hold.clear()
    two.hold.clear()
    thread, results = in_a_thread(lambda: manager.execute_result("g", "x", timeout=5))
    while not (one.called.is_set() or two.called.is_set()):
        time.sleep(0.001)
    first, second = (one, two) if one.called.is_set() else (two, one)
    second.fails = False
    second.hold.set()
    threading.Timer(0.1, first.hold.set).start()
    manager.reload_config(endpoints(new))
    thread.join(5)
    assert (results[0].value, results[0].attempts) == (second.name, 2)


def test_a_group_sends_no_calls_to_a_removed_member(pair: dict[str, Instance], stack: ExitStack) -> None:
    manager = group(pair, stack, strategy="priority")
    pair["a"].hold.clear()
    thread, results = in_a_thread(lambda: manager.execute("a", "x", timeout=5))
    assert pair["a"].called.wait(5)
    leaving, _ = in_a_thread(lambda: manager.unregister("a", drain_timeout=5.0))
    while "a" in manager.list_plugins():
        time.sleep(0.001)
    assert [manager.execute("g", "x", timeout=1) for _ in range(3)] == ["b"] * 3
    pair["a"].hold.set()
    thread.join(5)
    leaving.join(5)
    assert results == ["a"]


@pytest.mark.parametrize("kind", ["plugin", "group"])
@pytest.mark.parametrize("way", ["execute", "submit", "map"])
def test_a_call_that_waits_for_a_slot_after_the_drain_is_served_by_the_successor(
    kind: str, way: str, stack: ExitStack
) -> None:
    old, new = Instance("old", stack), Instance("new", stack)
    bulkhead = {"max_concurrent": 1, "max_waiting": 10}

    def config(instance: Instance) -> dict[str, Any]:
        if kind == "group":
            return endpoints(instance, bulkhead=bulkhead)
        return {"log_level": "error", "plugins": [plugin("g", instance.url, bulkhead=bulkhead)]}

    manager = stack.enter_context(Manager(str, str))
    manager.load_from_config(config(old))
    old.hold.clear()
    stuck = manager.submit("g", "x", timeout=5)
    assert old.called.wait(5)
    ways: dict[str, Callable[[], Any]] = {
        "execute": lambda: manager.execute("g", "x", timeout=5),
        "submit": lambda: manager.submit("g", "x", timeout=5).result(5),
        "map": lambda: next(iter(manager.map("g", ["x"], timeout=5))),
    }
    before = manager.metrics().plugins["g"].active_requests
    thread, results = in_a_thread(ways[way])
    end = time.monotonic() + 5
    while manager.metrics().plugins["g"].active_requests == before and time.monotonic() < end:
        time.sleep(0.001)
    manager.reload_config(config(new), options=ReloadOptions(drain_timeout=0.05))
    thread.join(5)
    assert results == ["new"]
    old.hold.set()
    with pytest.raises(PluginError) if stuck.exception(5) else ExitStack():
        stuck.result(5)


# --- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("idempotent", [False, True])
def test_a_failed_call_leaves_no_garbage_cycles(idempotent: bool, pair: dict[str, Instance], stack: ExitStack) -> None:
    retry = {"idempotent": idempotent, "max_retries": 0}
    cache = {"ttl": "1s"} if idempotent else None
    layers = {"retry": retry, "bulkhead": {"max_concurrent": 3}, "cache": cache, "hedge": HEDGE}
    manager = group(pair, stack, ejection_failures=10_000, **{key: value for key, value in layers.items() if value})
    pair["a"].fails = pair["b"].fails = True

    def cost(times: int) -> int:
        gc.collect()
        for _ in range(times):
            with suppress(PluginUnavailableError):
                manager.execute("g", "x")
        return gc.collect()

    gc.disable()
    try:
        cost(3)
        assert cost(50) < 50  # threads of the server and the pools may leave a few
    finally:
        gc.enable()


# --- attempt timeout -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("of", ["endpoints", "group", "member"])
def test_an_attempt_that_had_its_time_is_made_again_on_another_member(
    of: str, pair: dict[str, Instance], stack: ExitStack
) -> None:
    first, second = pair.values()
    timed = {"attempt_timeout": "200ms"}
    if of == "endpoints":
        manager = stack.enter_context(Manager(str, str))
        balancing = {"strategy": "consistent-hash", "slow_start": 0}
        manager.load_from_config(endpoints(*pair.values(), retry={**RETRY, **timed}, balancing=balancing))
        if manager.execute("g", "x", key="k") == second.name:
            first, second = second, first
    elif of == "group":
        manager = group(pair, stack, strategy="priority", retry={**RETRY, **timed})
    else:
        manager = group(pair, stack, strategy="priority", own={"retry": timed})
    first.hold.clear()

    result = manager.execute_result("g", "x", key="k", timeout=9)

    assert (result.value, result.attempts) == (second.name, 2)
    found = manager.explain("g").group
    assert found is not None
    assert [member.failures for member in found.members if member.name != result.member] == [1]
    assert in_flight(manager) == 0


def test_waits_within_a_member_are_no_time_of_the_groups_attempt(pair: dict[str, Instance], stack: ExitStack) -> None:
    """A member's bulkhead and limiter may wait longer than an attempt may take: nothing has been sent then."""
    limited = {
        "bulkhead": {"max_concurrent": 1, "max_waiting": 2},
        "rate_limit": {"enabled": True, "requests_per_second": 2, "burst_size": 1, "max_wait": 5},
    }
    del pair["b"]
    balancer = {"members": ["a"], "retry": {"attempt_timeout": "300ms", "max_retries": 0}}
    manager = group(pair, stack, own=limited, **balancer)
    results = list(manager.map_results("g", ["x"] * 3, timeout=9, concurrency=3))
    assert [result.error for result in results] == [None] * 3
    assert max(result.elapsed for result in results) > 0.5
