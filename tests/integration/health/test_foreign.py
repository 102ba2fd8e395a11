"""Health of plugins that know nothing of goplugins: what is sent to them, what follows, and that all answers agree."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from goplugins import HealthStatus, Manager, PluginError, PluginInfo
from goplugins.contrib.health import culprits
from goplugins.errors import InvalidConfigError
from goplugins.manager.control import plugin_states
from goplugins.manager.standing import standing
from tests.integration.health.foreign import Foreign, grpc_server, program, socket_server, web_server

pytestmark = pytest.mark.matrix

FOREIGN: dict[str, Callable[[], Any]] = {
    "exec": program,
    "unix": socket_server,
    "http-404": web_server("404 Not Found"),
    "http-405": web_server("405 Method Not Allowed"),
    "http-501": web_server("501 Not Implemented"),
    "grpc": grpc_server,
}
LINES = ("exec", "unix")
LISTENING = tuple(name for name in FOREIGN if name != "exec")

PAGE = {"healthy": "healthy", "degraded": "degraded", "unhealthy": "down", "offline": "down", "unknown": "unknown"}
OVERALL = {**{word: word for word in PAGE}, "offline": "unhealthy"}


@pytest.fixture
def plugin(request: pytest.FixtureRequest) -> Iterator[Foreign]:
    with FOREIGN[request.param]() as found:
        yield found


@pytest.fixture
def load() -> Iterator[Callable[..., Manager[Any, Any]]]:
    """Loads managers of one plugin; the keywords are sections of its configuration."""
    with ExitStack() as managers:

        def make(plugin: Foreign, **sections: Any) -> Manager[Any, Any]:
            manager: Manager[Any, Any] = managers.enter_context(Manager())
            manager.load_from_config({"log_level": "critical", "plugins": [{**plugin.config, **sections}]})
            return manager

        yield make


def over(*names: str) -> Any:
    return pytest.mark.parametrize("plugin", names or tuple(FOREIGN), indirect=True)


def every(seconds: float = 0.05, **more: Any) -> dict[str, Any]:
    return {"health_check": {"interval": seconds, "timeout": 5, "failure_limit": 2, **more}}


def agreed(manager: Manager[Any, Any]) -> str:
    """The status that all answers about health give at one moment."""
    for _ in range(20):  # a check may end between two answers
        status = str(manager.list_plugins()["p"].status)
        state = next(state for state in plugin_states(manager) if state.name == "p")
        found = {
            "explain": str(manager.explain("p").health.status),
            "page": standing(state).severity,
            "overall": str(manager.overall_health().status),
            "ready": not culprits(manager),
        }
        if status == str(manager.list_plugins()["p"].status):
            break
    ready = status not in {"unhealthy", "offline"}
    assert found == {"explain": status, "page": PAGE[status], "overall": OVERALL[status], "ready": ready}
    return status


def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition was not met in time"
        time.sleep(0.005)


def checks(manager: Manager[Any, Any]) -> int:
    return manager.metrics().plugins["p"].health_checks


def fail(manager: Manager[Any, Any]) -> None:
    with pytest.raises(PluginError):
        manager.execute("p", 1, timeout=5)


@over()
@pytest.mark.parametrize("kind", ["auto", "connect", "none"])
def test_one_call_is_all_that_a_plugin_is_asked_for(plugin: Foreign, load: Callable[..., Any], kind: str) -> None:
    manager = load(plugin, **every(kind=kind))
    assert manager.execute("p", "work", timeout=10) == "work"
    if kind != "none":
        until(lambda: checks(manager) >= 4)
    until(lambda: agreed(manager) == "healthy")
    assert [each for each in plugin.seen() if each != "GET /plugin/health"] in (["execute"], ["POST /plugin"], [])
    if kind != "auto":
        assert "GET /plugin/health" not in plugin.seen()
    manager.get_plugin("p").info()
    assert len(plugin.seen()) <= 1 or kind == "auto"


@over()
def test_before_the_first_call(plugin: Foreign, load: Callable[..., Any]) -> None:
    manager = load(plugin, **every())
    manager.health()
    assert agreed(manager) == ("unknown" if plugin.config["transport"] == "exec" else "healthy")
    assert not [each for each in plugin.seen() if each != "GET /plugin/health"]


@over(*LINES)
def test_answered_calls_outweigh_checks_that_are_not_understood(plugin: Foreign, load: Callable[..., Any]) -> None:
    manager = load(plugin, **every(0.1, kind="message"))
    manager.execute("p", 1, timeout=10)
    until(lambda: checks(manager) >= 2)
    seen: list[str] = []
    while len(seen) < 5:
        before = checks(manager)
        manager.execute("p", 1)
        until(lambda before=before: checks(manager) > before)
        before = checks(manager)
        manager.execute("p", 1)
        status = agreed(manager)
        if checks(manager) <= before + 1:  # or the machine was too slow: the second check is without a call before it
            seen.append(status)
    assert set(seen) == {"degraded"}
    until(lambda: agreed(manager) == "offline")  # now that only checks are left
    assert "health" in plugin.seen()
    manager.execute("p", 1)
    assert agreed(manager) == "degraded"


@over(*LISTENING)
def test_a_plugin_that_has_gone_is_offline(plugin: Foreign, load: Callable[..., Any]) -> None:
    manager = load(plugin, circuit_breaker={"enabled": False}, **every())
    manager.execute("p", 1, timeout=10)
    until(lambda: agreed(manager) == "healthy")
    plugin.stop()
    until(lambda: agreed(manager) == "offline")


@over(*LISTENING)
def test_without_checks_calls_say_how_a_plugin_is(plugin: Foreign, load: Callable[..., Any]) -> None:
    breaker = {"failure_threshold": 3, "recovery_timeout": 0.5}
    manager = load(plugin, circuit_breaker=breaker, health_check={"kind": "none"})
    assert agreed(manager) == "unknown"
    manager.execute("p", 1, timeout=10)
    assert agreed(manager) == "healthy"
    plugin.stop()
    for _ in range(3):
        fail(manager)
    until(lambda: agreed(manager) == "unhealthy")  # its breaker is open
    until(lambda: agreed(manager) == "degraded")  # and would admit a probe


@over("http-404")
@pytest.mark.parametrize("section", [{"endpoint": "/plugin/status"}, {"kind": "message"}])
def test_an_endpoint_that_was_written_down_must_be_there(
    plugin: Foreign, load: Callable[..., Any], section: dict[str, str]
) -> None:
    manager = load(plugin, health_check={"failure_limit": 1, **section})
    assert str(manager.health()["p"].status) == "offline"
    assert "HTTP 404" in manager.health()["p"].message
    agreed(manager)


def test_a_program_that_is_missing_is_offline_and_back_once_it_is_there(load: Callable[..., Any]) -> None:
    with program() as plugin:
        real = plugin.config["executable"]
        plugin.config["executable"] = f"{real}-missing"
        manager = load(plugin, circuit_breaker={"enabled": False}, **every())
        manager.health()
        until(lambda: agreed(manager) == "offline")
        os.rename(real, f"{real}-missing")
        until(lambda: agreed(manager) == "unhealthy")  # nothing is known of it until a call has started it
        assert manager.execute("p", 1, timeout=10) == 1
        until(lambda: agreed(manager) == "healthy")


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"transport": "python", "endpoint": "m:f", "health_check": {"kind": "connect"}}, "kind"),
        ({"transport": "grpc", "endpoint": "h:1", "health_check": {"kind": "message", "endpoint": "s"}}, "endpoint"),
        ({"transport": "http", "endpoint": "http://h", "health_check": {"kind": "none", "endpoint": "/s"}}, "endpoint"),
        ({"transport": "http", "endpoint": "http://h", "health_check": {"kind": "ping"}}, "kind"),
    ],
)
def test_kinds_that_have_no_effect_are_refused(config: dict[str, Any], field: str) -> None:
    with Manager() as manager, pytest.raises(InvalidConfigError, match=rf"health_check\.{field}"):
        manager.load_from_config({"plugins": [{"name": "p", **config}]})


# --- groups ----------------------------------------------------------------------------------------------------------


def group_of(*plugins: Foreign, **sections: Any) -> dict[str, Any]:
    members = [{**plugin.config, "name": f"m{number}", **sections} for number, plugin in enumerate(plugins)]
    group = {"name": "p", "members": [member["name"] for member in members]}
    return {"log_level": "critical", "plugins": members, "load_balancers": [group]}


@pytest.mark.parametrize("name", LISTENING)
def test_instances_of_other_makers_take_calls(name: str, load: Callable[..., Any]) -> None:
    with FOREIGN[name]() as one, FOREIGN[name]() as two:
        endpoints = [each.config.pop("endpoint") for each in (one, two)]
        manager = load(one, endpoints=endpoints, **every())
        for _ in range(6):
            assert manager.execute("p", 1, timeout=10) == 1
        until(lambda: all(count.health_checks >= 3 for name, count in manager.metrics().plugins.items() if name != "p"))
        assert agreed(manager) == "healthy"
        one.stop()
        until(lambda: agreed(manager) == "degraded")
        two.stop()
        until(lambda: agreed(manager) == "offline")


def test_a_program_of_a_group_comes_back(tmp_path: Path) -> None:
    """No check starts a process: a member whose program could not be started gets calls again by itself."""
    with program() as one, program() as two, Manager() as manager:
        broken = one.config["executable"]
        os.rename(broken, f"{broken}-away")
        manager.load_from_config(group_of(one, two, circuit_breaker={"enabled": False}, **every()))
        with contextlib.suppress(PluginError):  # a start that can't succeed is not retried, not even by another member
            manager.execute("p", 1, timeout=10)
        until(lambda: str(manager.list_plugins()["m0"].status) == "offline")
        assert [manager.execute("p", number, timeout=10) for number in range(9)] == list(range(9))
        os.rename(f"{broken}-away", broken)

        def answers() -> bool:
            assert manager.execute("p", 1, timeout=10) == 1
            return str(manager.list_plugins()["m0"].status) == "healthy"

        until(answers, 30)


def test_a_reload_starts_the_one_process_that_the_first_call_uses(load: Callable[..., Any]) -> None:
    with socket_server() as old, program() as new:
        manager = load(old, **every())
        manager.execute("p", 1)
        manager.reload_config({"log_level": "critical", "plugins": [{**new.config, **every()}]})
        assert not new.seen(), "it was only started"
        assert manager.execute("p", 2, timeout=10) == 2
        assert new.seen() == ["execute"]


def test_a_server_of_one_connection_at_a_time_is_not_filled_with_checks() -> None:
    """A check that connects during a long call would take a place in the queue of such a server, each time anew."""
    with (
        tempfile.TemporaryDirectory(prefix="gp-") as folder,
        socket.socket(socket.AF_UNIX) as listener,
        Manager() as manager,
    ):
        listener.bind(f"{folder}/s")
        listener.listen(1)
        config = {"name": "p", "transport": "unix", "endpoint": f"{folder}/s", **every()}
        manager.load_from_config({"log_level": "critical", "plugins": [config]})
        waiting = manager.submit("p", 1, timeout=20)
        text = ""
        while not text:  # a check may have connected before the call did, and has closed its connection
            peer, _ = listener.accept()
            text = peer.makefile().readline()
        time.sleep(0.5)  # ten checks
        assert agreed(manager) not in {"unhealthy", "offline"}
        reply = {"request_id": json.loads(text)["request_id"], "success": True, "data": 2}
        peer.sendall(json.dumps(reply).encode() + b"\n")
        assert waiting.result(10) == 2
        until(lambda: agreed(manager) == "healthy")
        peer.close()


def test_a_plugin_object_without_a_health_check_is_judged_by_its_calls() -> None:
    class Plain:
        def info(self) -> PluginInfo:
            return PluginInfo("p")

        def execute(self, request: Any, context: Any) -> Any:
            return request

        def health(self, timeout: float) -> HealthStatus:
            raise NotImplementedError

        def close(self) -> None: ...

    with Manager() as manager:
        manager.register(Plain(), name="p")
        assert manager.execute("p", 1) == 1
        manager.health()
        assert agreed(manager) == "healthy"
