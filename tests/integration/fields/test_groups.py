"""Load-balanced groups and their members, and the options of ``http`` and ``grpc``."""

from __future__ import annotations

import os
import socket
from collections import Counter
from typing import Any
from unittest import mock

import pytest

from goplugins import Manager, PluginConfig, PluginConnectionError, PluginError
from goplugins.config.manager import ManagerConfig
from goplugins.transports.grpc.target import channel_options, target_of
from tests.integration.fields.bench import Experiment, Scripted, runs
from tests.integration.fields.test_plugins import outcome, plugin, served
from tests.integration.hedging.conftest import Service
from tests.servers import RawServer, free_port
from tests.timing import until
from tests.unit.balancing.fakes import FakeMember, Group

pytestmark = pytest.mark.matrix

# --- a group ---------------------------------------------------------------------------------------------------------


class Members:
    """A group ``g`` of the plugins ``a`` and ``b``, from code; the keywords are its fields."""

    def __init__(self, **fields: Any) -> None:
        self.manager: Manager[Any, Any] = Manager()
        self.plugins = {name: Scripted(default=name) for name in "ab"}
        for name, each in self.plugins.items():
            self.manager.register(each, PluginConfig.from_mapping({"circuit_breaker": {"enabled": False}}), name=name)
        group = {"name": "g", "members": ["a", "b"], "slow_start": 0, **fields}
        self.manager.load_from_config({"log_level": "error", "load_balancers": [group]})
        self.name = group["name"]

    def call(self, request: Any = "x", **options: Any) -> Any:
        try:
            return self.manager.execute(self.name, request, **options)
        except PluginError as error:
            return type(error).__name__

    def answers(self, calls: int) -> dict[str, int]:
        return dict(Counter(self.call() for _ in range(calls)))


def member(**fields: Any) -> dict[str, int]:
    """The shares of ten calls of ``a``, which has these fields, and of ``b``."""
    strategy = "priority" if "priority" in fields else "round-robin"
    return Members(strategy=strategy, members=[{"name": "a", **fields}, {"name": "b", "priority": 1}]).answers(10)


def same_key(strategy: str) -> int:
    """How many members get ten calls with one key."""
    group = Members(strategy=strategy)
    return len({group.call(key="k") for _ in range(10)})


def failing(field: str, value: Any, **others: Any) -> Group:
    settings = {"max_ejection_percent": 100, "panic_threshold": 0, "ejection_failures": 1, **others, field: value}
    return Group(4, slow_start=0, **settings)


def ejected(value: int) -> int:
    group = failing("max_ejection_percent", value, ejection_failures=5)
    group.eject("a", "b", "c", "d")
    return list(group.states().values()).count("ejected")


def failures_until_ejected(value: int) -> int:
    group = failing("ejection_failures", value)
    group["a"].error = lambda: ConnectionRefusedError("down")
    for failures in range(1, 20):
        group.try_send(preferences=("a",))
        if group.states()["a"] == "ejected":
            return failures
    raise AssertionError("it was never ejected")


def ejected_for(field: str, value: float, trips: int = 1) -> float:
    """Seconds of the last ejection of some in a row."""
    group = failing(field, value, **({"ejection_time": 20.0} if field != "ejection_time" else {}))
    group.eject("a")
    for _ in range(trips - 1):
        group.clock.advance(1000.0)
        group.try_send()  # the probe, which fails
    found = next(each for each in group.balancer.explain().members if each.name == "a")
    assert found.next_try is not None
    seconds = found.next_try
    return round(seconds, -1)


def panics(value: int) -> bool:
    group = failing("panic_threshold", value)
    group.eject("a", "b")
    return group.balancer.explain().panic


def share_of_a_new_member(value: float) -> bool:
    """Whether a member that was added after the first call takes its full share at once."""
    group = Group(1, slow_start=value)
    group.send()
    group.members.append(FakeMember("b", group.clock))
    group.balancer.add_plugin(group.members[-1])
    return next(each.share for each in group.balancer.explain().members if each.name == "b") == 1


def owners_of_a_key(active: int, **fields: Any) -> int:
    """How many members get calls with one key, of which some are in flight."""
    group = Group(4, "consistent-hash", **fields)
    found = set()
    for _ in range(active):
        state = group.balancer._dispatcher.select(mock.Mock(key="k", priority=0, preferences=()))
        found.add(state.name)
        state.active += 1
        state.traffic.active += 1
    return len(found)


def group_call(field: str, script: list[Any], calls: int = 1, **others: Any) -> Any:
    def observe(value: Any) -> Any:
        group = Members(**{"retry": {"max_retries": 0}, **others, field: value})
        group.plugins["a"].script = list(script)
        group.plugins["b"].script = list(script)
        return [group.call() for _ in range(calls)][-1]

    return observe


def down() -> Any:
    raise PluginConnectionError("no connection")


def timeout_of_call(seconds: float) -> float:
    group = Members(request_timeout=seconds)
    group.call()
    (context,) = [each.contexts[0] for each in group.plugins.values() if each.contexts]
    return round(context.timeout, 1)


def hedged_by_a_group(enabled: bool) -> int:
    """The members that get a call whose first attempt takes half a second."""
    services = [Service("http", lambda _: 0.5) for _ in "ab"]
    try:
        with Manager() as manager:
            plugins = [
                {"name": name, "transport": "http", "endpoint": each.endpoint, "health_check": {"enabled": False}}
                for name, each in zip("ab", services, strict=True)
            ]
            hedge = {"enabled": enabled, "delay": 0.05}
            group = {"name": "g", "members": ["a", "b"], "retry": {"idempotent": True}, "hedge": hedge}
            manager.load_from_config({"log_level": "error", "plugins": plugins, "load_balancers": [group]})
            manager.execute("g", "x", timeout=10)
            return sum(bool(each.timeouts) for each in services)
    finally:
        for each in services:
            each.close()


def of_names(name: str) -> dict[str, int]:
    return Members(members=sorted({name, "b"})).answers(10)


def nested(bulkhead: Any) -> bool:
    """Whether a call of the group within a call of the group is refused."""
    group, inner = Members(bulkhead=bulkhead), list[Any]()

    def answer() -> str:
        if not inner:
            inner.append("begun")
            inner.append(group.call())
        return "ok"

    for each in group.plugins.values():
        each.default = answer
    group.call()
    return bool(inner[1] == "BulkheadFullError")


def sent_with_cache(cache: Any) -> int:
    group = Members(cache=cache, retry={"idempotent": True})
    for _ in range(3):
        group.call()
    return sum(each.calls for each in group.plugins.values())


LIMIT = {"enabled": True, "requests_per_second": 0.001, "burst_size": 1}
GROUPS = [
    Experiment("LoadBalancerMember.name", [("a", {"a": 5, "b": 5}), ("b", {"b": 10})], of_names),
    Experiment(
        "LoadBalancerMember.weight", [(1, {"a": 5, "b": 5}), (4, {"a": 8, "b": 2})], lambda value: member(weight=value)
    ),
    Experiment("LoadBalancerMember.priority", [(0, {"b": 10}), (2, {"a": 10})], lambda value: member(priority=value)),
    Experiment(
        "LoadBalancerMember.enabled",
        [(True, {"a": 5, "b": 5}), (False, {"b": 10})],
        lambda value: member(enabled=value),
    ),
    Experiment(
        "LoadBalancerConfig.name",
        [("one", True), ("two", True)],
        lambda value: Members(name=value).call() in {"a", "b"},
    ),
    Experiment("LoadBalancerConfig.strategy", [("round-robin", 2), ("consistent-hash", 1)], same_key),
    Experiment(
        "LoadBalancerConfig.members",
        [(["a"], {"a": 4}), (["a", "b"], {"a": 2, "b": 2})],
        lambda value: Members(members=value).answers(4),
    ),
    Experiment("LoadBalancerConfig.max_ejection_percent", [(25, 1), (50, 2)], ejected),
    Experiment("LoadBalancerConfig.ejection_failures", [(1, 1), (3, 3)], failures_until_ejected),
    Experiment(
        "LoadBalancerConfig.ejection_time",
        [(20.0, 20.0), (60.0, 60.0)],
        lambda value: ejected_for("ejection_time", value),
    ),
    Experiment(
        "LoadBalancerConfig.max_ejection_time",
        [(20.0, 20.0), (30.0, 30.0)],
        lambda value: ejected_for("max_ejection_time", value, trips=4),
    ),
    Experiment("LoadBalancerConfig.panic_threshold", [(10, False), (80, True)], panics),
    Experiment("LoadBalancerConfig.slow_start", [(0.0, True), (30.0, False)], share_of_a_new_member),
    Experiment(
        "LoadBalancerConfig.hash_load_factor",
        [(1.0, 4), (4.0, 1)],
        lambda value: owners_of_a_key(8, hash_load_factor=value, hash_min_load=0),
    ),
    Experiment(
        "LoadBalancerConfig.hash_min_load",
        [(1, True), (100, False)],
        lambda value: owners_of_a_key(8, hash_min_load=value) > 1,
    ),
    Experiment("LoadBalancerConfig.request_timeout", [(5.0, 5.0), (9.0, 9.0)], timeout_of_call),
    Experiment(
        "LoadBalancerConfig.retry",
        [({"max_retries": 0}, True), ({"max_retries": 2}, False)],
        lambda value: group_call("retry", [down])(value) == "PluginConnectionError",
    ),
    Experiment(
        "LoadBalancerConfig.rate_limit",
        [(None, False), (LIMIT, True)],
        lambda value: group_call("rate_limit", [], calls=2)(value) == "RateLimitExceededError",
    ),
    Experiment("LoadBalancerConfig.bulkhead", [(None, False), ({"max_concurrent": 1}, True)], nested),
    Experiment(
        "LoadBalancerConfig.fallback",
        [(None, "PluginConnectionError"), ({"value": "fallback"}, "fallback")],
        group_call("fallback", [down, down]),
    ),
    Experiment("LoadBalancerConfig.cache", [(None, 3), ({"ttl": 60}, 1)], sent_with_cache),
    Experiment("LoadBalancerConfig.hedge", [(False, 1), (True, 2)], hedged_by_a_group),
]


# --- options of http and grpc ----------------------------------------------------------------------------------------


def engine(name: str) -> str:
    with served(options={"engine": name}) as (_, manager):
        assert manager.execute("p", "x") == "ok"
        wire: Any = manager._lifecycle.registry.plugins["p"].wire
        return type(wire._engine).__name__


def through_proxy(options: dict[str, Any], **environ: str) -> int:
    """The number of requests of a call that reach a proxy; the plugin's own name does not exist."""
    with RawServer() as proxy, Manager() as manager:
        url = f"http://127.0.0.1:{proxy.port}"
        filled = {name: url if value == "PROXY" else value for name, value in options.items()}
        variables = dict.fromkeys(environ, url)
        own = plugin(proxy, endpoint="http://plugin.invalid/p", options=filled)
        with mock.patch.dict(os.environ, variables):
            manager.load_from_config({"log_level": "error", "plugins": [own]})
            outcome(manager, timeout=5)
        return len(proxy.requests)


def resolved(transport: str, value: bool) -> bool:
    """Whether the plugin is a group of its host's addresses."""
    endpoint = "http://localhost:1/" if transport == "http" else "localhost:1"
    own: dict[str, Any] = {"name": "p", "transport": transport, "endpoint": endpoint, "options": {"resolve": value}}
    own["retry"] = {"max_retries": 0}
    with Manager() as manager:
        manager.load_from_config({"log_level": "error", "plugins": [{**own, "health_check": {"enabled": False}}]})
        outcome(manager, timeout=2)
        return manager.explain("p").group is not None


def resolved_again(transport: str, interval: float) -> bool:
    """Whether the host is resolved again within two seconds."""
    lookups = 0
    original = socket.getaddrinfo

    def count(*args: Any, **kwargs: Any) -> Any:
        nonlocal lookups
        lookups += args[0] == "localhost"
        return original(*args, **kwargs)

    endpoint = f"localhost:{free_port()}"
    own: dict[str, Any] = {"name": "p", "transport": transport, "health_check": {"enabled": False}}
    own["endpoint"] = f"http://{endpoint}/" if transport == "http" else endpoint
    own |= {"options": {"resolve": True, "resolve_interval": interval}, "retry": {"max_retries": 0}}
    with mock.patch("socket.getaddrinfo", count), Manager() as manager:
        manager.load_from_config({"log_level": "error", "plugins": [own]})
        outcome(manager, timeout=2)
        before = lookups
        try:
            until(lambda: lookups > before + 1, 2.0)
        except AssertionError:
            return False
        return True


def method_called(name: str) -> str:
    from concurrent import futures

    from google.protobuf.wrappers_pb2 import StringValue

    from goplugins.transports.grpc.fork_support import load

    grpc, called = load(), []

    class Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, details: Any) -> Any:
            called.append(details.method)
            return grpc.unary_unary_rpc_method_handler(lambda request, _: request)

    server = grpc.server(futures.ThreadPoolExecutor(2), handlers=(Handlers(),))
    endpoint = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        with Manager(StringValue, StringValue) as manager:
            own = {"name": "p", "transport": "grpc", "endpoint": endpoint, "options": {"method": name}}
            manager.load_from_config({"plugins": [{**own, "health_check": {"enabled": False}}]})
            manager.execute("p", StringValue(value="x"))
    finally:
        server.stop(0).wait(5)
    return str(called[0])


def grpc_proxy(value: bool) -> Any:
    config = PluginConfig(name="p", transport="grpc", endpoint="h:1", options={"trust_env": value})
    full = ManagerConfig().resolve(config)
    assert full.connection is not None
    with mock.patch.dict(os.environ, {"grpc_proxy": "http://proxy.invalid:3128"}):
        return dict(channel_options(target_of(full, None), full.connection))["grpc.enable_http_proxy"]


OPTIONS = [
    Experiment("options.http.engine", [("fast", "HttptoolsEngine"), ("requests", "RequestsEngine")], engine),
    Experiment("options.http.proxy", [({}, 0), ({"proxy": "PROXY"}, 1)], through_proxy),
    Experiment(
        "options.http.trust_env",
        [(False, 0), (True, 1)],
        lambda value: through_proxy({"trust_env": value}, http_proxy="PROXY"),
    ),
    Experiment("options.http.resolve", [(False, False), (True, True)], lambda value: resolved("http", value)),
    Experiment("options.grpc.resolve", [(False, False), (True, True)], lambda value: resolved("grpc", value)),
    Experiment(
        "options.http.resolve_interval",
        [(0.05, True), (60.0, False)],
        lambda value: resolved_again("http", value),
        rare=True,
    ),
    Experiment(
        "options.grpc.resolve_interval",
        [(0.05, True), (60.0, False)],
        lambda value: resolved_again("grpc", value),
        rare=True,
    ),
    Experiment("options.grpc.method", [(name, name) for name in ("/a.B/C", "/a.B/D")], method_called),
    Experiment("options.grpc.trust_env", [(False, 0), (True, 1)], grpc_proxy),
]

EXPERIMENTS = [*GROUPS, *OPTIONS]


@runs(EXPERIMENTS)
def test_a_field_changes(observe: Any, value: Any, seen: Any) -> None:
    assert observe(value) == seen
