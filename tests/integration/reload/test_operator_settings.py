"""What an operator has set on a plugin or a member outlasts every reload that keeps its name, on real servers."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from goplugins import CircuitBreakerOpenError, Manager, NoAvailablePluginsError, PluginError, ReloadError
from goplugins.models.plugin import PluginInfo
from tests.servers import Peer, RawServer, ok, reply_ok

UNREACHABLE = {"transport": "http", "endpoint": "http://127.0.0.1:1"}


def echo(request: object) -> object:
    return "ok"


class Servers:
    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self._folder = folder
        self._stack = stack

    def http(self) -> str:
        return self._stack.enter_context(RawServer(reply_ok)).url

    def unix(self) -> str:
        path = str(self._folder / "p.sock")
        self._stack.enter_context(RawServer(_lines, unix=path))
        return path


def _lines(peer: Peer) -> None:
    import json

    while line := peer.sock.recv(1 << 16):
        request = json.loads(line)
        reply = {"type": "execute", "request_id": request["request_id"], "success": True, "data": "ok"}
        peer.send(json.dumps(reply).encode() + b"\n")


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    with contextlib.ExitStack() as stack:
        yield Servers(tmp_path, stack)


def config(*plugins: dict[str, Any], **others: Any) -> dict[str, Any]:
    return {"log_level": "error", "plugins": [*plugins], **others}


def plugin(**fields: Any) -> dict[str, Any]:
    return {"name": "p", "transport": "http", "health_check": {"enabled": False}, "retry": {"max_retries": 0}, **fields}


Change = Callable[[Servers, dict[str, Any]], dict[str, Any]]


def edited(**fields: Any) -> Change:
    return lambda _, before: {**before, **fields}


CHANGES: dict[str, Change] = {
    "nothing": edited(),
    "a timeout": edited(connection={"request_timeout": 7}),
    "the connections": edited(connection={"max_connections": 3}),
    "retries": edited(retry={"max_retries": 1}),
    "a bulkhead": edited(bulkhead={"max_concurrent": 2}),
    "the breaker": edited(circuit_breaker={"failure_threshold": 9}),
    "a breaker with a window": edited(circuit_breaker={"failure_rate": 0.5, "window": "10s"}),
    "a breaker that is off": edited(circuit_breaker={"enabled": False}),
    "a breaker that only records": edited(circuit_breaker={"metrics_only": True}),
    "replaced, and only records": edited(circuit_breaker={"metrics_only": True}, connection={"max_connections": 3}),
    "the endpoint": lambda servers, before: {**before, "endpoint": servers.http()},
    "a Unix socket": lambda servers, before: {**before, "transport": "unix", "endpoint": servers.unix()},
    "a function": edited(transport="python", endpoint=f"{__name__}:echo"),
    "several endpoints": lambda servers, before: {
        **{name: value for name, value in before.items() if name != "endpoint"},
        "endpoints": [servers.http(), servers.http()],
    },
    "all addresses of a host": lambda servers, before: {
        **before,
        "endpoint": servers.http().replace("127.0.0.1", "localhost"),
        "options": {"resolve": True},
    },
}


def admitted(manager: Manager[Any, Any], name: str = "p") -> bool:
    try:
        manager.execute(name, "x", timeout=10)
    except (CircuitBreakerOpenError, NoAvailablePluginsError):
        return False
    return True


@pytest.mark.parametrize("strategy", ["graceful", "recreate", "rolling"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_disabled_plugin_stays_so(servers: Servers, change: str, strategy: str) -> None:
    before = plugin(endpoint=servers.http())
    after = CHANGES[change](servers, before)
    with Manager(str, str) as manager:
        manager.load_from_config(config(before))
        manager.control("p").disable()
        report = manager.reload_config(config(after), strategy)
        assert not admitted(manager)
        assert not manager.explain("p").admits
        (outcome,) = [each for each in report.plugins if each.name == "p"]
        assert outcome.disabled == ("p",)
        assert str(outcome).endswith("still disabled by an operator")
        manager.reload_config(config({**after, "priority": 4}), strategy)
        assert not admitted(manager)
        manager.control("p").enable()
        assert admitted(manager)
        report = manager.reload_config(config(before), strategy)
        assert admitted(manager)
        assert not any(each.disabled for each in report.plugins)


@pytest.mark.parametrize("gone", [[], [plugin(endpoint="http://127.0.0.1:1", enabled=False)]])
def test_a_removed_plugin_takes_its_settings_along(servers: Servers, gone: list[dict[str, Any]]) -> None:
    before, other = plugin(endpoint=servers.http()), {**plugin(endpoint=servers.http()), "name": "other"}
    with Manager(str, str) as manager:
        manager.load_from_config(config(before, other))
        manager.control("p").disable()
        manager.reload_config(config(*gone, other))
        manager.reload_config(config(before, other))
        assert admitted(manager)


@pytest.mark.parametrize("rollback", [True, False])
@pytest.mark.parametrize("strategy", ["graceful", "rolling"])
def test_a_failed_reload_changes_nothing(servers: Servers, strategy: str, rollback: bool) -> None:
    from goplugins import ReloadOptions

    before = plugin(endpoint=servers.http())
    broken = {**plugin(**UNREACHABLE), "name": "broken"}
    options = ReloadOptions(strategy=strategy, max_concurrent_reloads=1, rollback_on_failure=rollback)
    with Manager(str, str) as manager:
        manager.load_from_config(config(before))
        manager.control("p").disable()
        with pytest.raises(ReloadError):
            manager.reload_config(config({**before, "endpoint": servers.http()}, broken), options=options)
        assert not admitted(manager)
        manager.control("p").enable()
        assert admitted(manager)


class Slow:
    """A plugin in this process; creating another one for a reload waits for ``go_on``."""

    made = 0
    waits = threading.Event()
    go_on = threading.Event()

    def create_plugin(self, _: Any) -> Any:
        type(self).made += 1
        if self.made > 1:
            self.waits.set()
            assert self.go_on.wait(10)
        return self

    def supported_transports(self) -> list[str]:
        return ["python"]

    def validate_config(self, _: Any) -> None: ...

    def info(self) -> PluginInfo:
        return PluginInfo("p")

    def execute(self, request: Any, context: Any) -> str:
        return "ok"

    def health(self, timeout: float) -> Any:
        from goplugins import HealthStatus, PluginStatus

        return HealthStatus(PluginStatus.HEALTHY)

    def close(self) -> None: ...


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("disabled", [False, True])
def test_an_action_during_a_reload_counts(servers: Servers, disabled: bool, fails: bool) -> None:
    """Whichever plugin it has found: the one that leaves, or its successor."""
    Slow.made = 0
    Slow.waits.clear()
    Slow.go_on.clear()
    other = {**plugin(**UNREACHABLE), "name": "zz"}
    before = plugin(transport="python", type="slow", endpoint="m:v1")
    with Manager(str, str) as manager:
        manager.register_factory("slow", Slow())
        manager.load_from_config(config(before))
        if not disabled:
            manager.control("p").disable()
        after = config({**before, "endpoint": "m:v2"}, *([other] if fails else []))
        errors: list[BaseException] = []

        def reload() -> None:
            try:
                manager.reload_config(after)
            except ReloadError as error:
                errors.append(error)

        thread = threading.Thread(target=reload)
        thread.start()
        assert Slow.waits.wait(10)
        control = manager.control("p")
        control.disable() if disabled else control.enable()
        Slow.go_on.set()
        thread.join(10)
        assert bool(errors) is fails
        assert admitted(manager) is not disabled


GROUP_CHANGES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "a policy": {"retry": {"max_retries": 2}},
    "the strategy": {"strategy": "p2c"},
    "a weight": {"members": [{"name": "a", "weight": 3}, "b"]},
    "a member": {"members": ["a", "b", "c"]},
    "another order": {"members": ["b", "a"]},
}


@pytest.mark.parametrize("strategy", ["graceful", "recreate", "rolling"])
@pytest.mark.parametrize("change", GROUP_CHANGES)
def test_a_disabled_member_stays_so(servers: Servers, change: str, strategy: str) -> None:
    plugins = [{**plugin(endpoint=_named(servers, name)), "name": name} for name in "abc"]
    group = {"name": "g", "members": ["a", "b"]}
    with Manager(str, str) as manager:
        manager.load_from_config(config(*plugins, load_balancers=[group]))
        manager.control("g").disable(member="a")
        plugins[0]["endpoint"] = _named(servers, "a")
        changed = config(*plugins, load_balancers=[{**group, **GROUP_CHANGES[change]}])
        report = manager.reload_config(changed, strategy)
        assert "a" not in {manager.execute("g", "x") for _ in range(20)}
        (outcome,) = [each for each in report.plugins if each.name == "g"]
        assert outcome.disabled == ("a",)
        assert "still disabled by an operator: a" in str(outcome)
        assert manager.execute("a", "x") == "a"  # by its own name
        manager.control("g").enable(member="a")
        assert "a" in {manager.execute("g", "x") for _ in range(200)}


def _named(servers: Servers, name: str) -> str:
    def serve(peer: Peer) -> None:
        while (request := peer.read_request()) is not None:
            peer.send(ok(request, name))

    return servers._stack.enter_context(RawServer(serve)).url


def test_a_member_that_an_operator_has_enabled_stays_so(servers: Servers) -> None:
    plugins = [{**plugin(endpoint=_named(servers, name)), "name": name} for name in "ab"]
    group = {"name": "g", "members": ["a", {"name": "b", "enabled": False}]}
    with Manager(str, str) as manager:
        manager.load_from_config(config(*plugins, load_balancers=[group]))
        manager.control("g").enable(member="b")
        manager.reload_config(config(*plugins, load_balancers=[{**group, "strategy": "random"}]))
        assert {manager.execute("g", "x") for _ in range(200)} == {"a", "b"}


def test_a_member_that_left_the_group_takes_its_setting_along(servers: Servers) -> None:
    plugins = [{**plugin(endpoint=_named(servers, name)), "name": name} for name in "ab"]
    group = {"name": "g", "members": ["a", "b"]}
    with Manager(str, str) as manager:
        manager.load_from_config(config(*plugins, load_balancers=[group]))
        manager.control("g").disable(member="a")
        manager.reload_config(config(*plugins, load_balancers=[{**group, "members": ["b"]}]))
        manager.reload_config(config(*plugins, load_balancers=[group]))
        assert {manager.execute("g", "x") for _ in range(200)} == {"a", "b"}


@pytest.mark.parametrize("kept", ["endpoints", "resolve"])
def test_disabled_instances_stay_so(servers: Servers, kept: str) -> None:
    url = servers.http()
    fields: dict[str, Any] = {"endpoints": [url, servers.http()]}
    if kept == "resolve":
        fields = {"endpoint": url.replace("127.0.0.1", "localhost"), "options": {"resolve": True}}
    before = plugin(**fields)
    with Manager(str, str) as manager:
        manager.load_from_config(config(before))
        with contextlib.suppress(PluginError):  # an address of IPv6, where nothing listens
            manager.execute("p", "x")
        group = manager.explain("p").group
        assert group is not None
        for member in group.members:
            manager.control("p").disable(member=member.name)
        manager.reload_config(config({**before, "connection": {"max_connections": 2}}))
        assert not admitted(manager)
        manager.reload_config(config({**before, "connection": {"max_connections": 2}, "priority": 3}))
        assert not admitted(manager)
        for member in group.members:
            manager.control("p").enable(member=member.name)
        with contextlib.suppress(PluginError):
            manager.execute("p", "x")
        assert admitted(manager)
