"""Health and info of a plugin, as its manager reports them."""

from __future__ import annotations

import time
from typing import Any

import pytest

from goplugins import PluginInfo
from tests.integration.conformance.conftest import executions, remote, until
from tests.integration.conformance.plugins import Task

pytestmark = pytest.mark.matrix


@pytest.mark.parametrize(
    ("plugin", "status", "message"),
    [("worker", "healthy", ""), ("degraded", "degraded", ""), ("unhealthy", "unhealthy", "the disk is full")],
)
def test_health_is_the_status_reported_by_the_plugin(connect, wire, plugin, status, message):
    manager = connect(plugin)
    if not wire.listens:
        assert manager.health()["p"].status == "unknown"
        assert manager.execute("p", Task(value=1)).value == 1
    before = time.time()
    found = manager.health()["p"]
    assert found.status == status
    assert message in found.message
    assert before - 1 <= found.last_check <= time.time() + 1
    assert 0 <= found.response_time < 10
    assert manager.list_plugins()["p"].status == status
    assert manager.overall_health().status == status
    # Calls are rejected by the breaker, never because of the health status.
    assert manager.execute("p", Task(value=1)).value == 1


@remote
@pytest.mark.parametrize("kind", ["auto", "message", "connect"])
def test_a_killed_plugin_is_down_and_healthy_after_its_restart(start, connect, wire, kind):
    server = start()
    section = {"enabled": True, "kind": kind, "interval": 0.1, "timeout": 5, "failure_limit": 2}
    manager = connect(server, health_check=section)

    def status() -> Any:
        return manager.list_plugins()["p"].status

    if not wire.listens:
        assert manager.execute("p", Task(value=1)).value == 1
    assert manager.health()["p"].status == "healthy"
    server.kill()
    # The next call would start a program again, so that a process which was killed is no outage.
    until(lambda: status() == ("offline" if wire.listens else "degraded"))
    assert manager.overall_health().status == ("unhealthy" if wire.listens else "degraded")
    assert f"p is {status()}" in manager.overall_health().message
    server.start()
    if wire.listens:
        until(lambda: status() == "healthy")
    assert manager.execute("p", Task(value=1)).value == 1
    until(lambda: status() == "healthy")


@remote
def test_a_plugin_that_never_started_is_offline(start, connect, wire):
    server = start()
    server.kill()
    manager = connect(server, health_check={"failure_limit": 1})
    found = manager.health()["p"]
    assert found.status == ("offline" if wire.listens else "unknown")
    assert found.message


def test_without_a_free_connection_the_status_is_unknown(connect, gate, ledger):
    manager = connect(connection={"max_connections": 1})
    busy = manager.submit("p", Task(until=str(gate), ledger=str(ledger)))
    until(lambda: executions(ledger) == 1)
    assert manager.get_plugin("p").health(0.2).status == "unknown"
    gate.touch()
    busy.result(10)
    until(lambda: manager.get_plugin("p").health(5).status == "healthy")


def test_info(connect, wire):
    manager = connect("echo", Any, Any)
    manager.execute("p", 1)
    found = manager.get_plugin("p").info()
    if not wire.has_info:
        assert found.name == "p"
        return
    assert (found.name, found.version, found.description) == ("echo", "1.2.3", "returns its request")
    assert list(found.capabilities) == ["execute"]
    assert isinstance(found, PluginInfo)
    assert manager.execute("p", 1) == 1
