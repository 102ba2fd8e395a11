"""``/healthz`` and ``/readyz``: name plugins that are not ready, without health checks and without error texts."""

from __future__ import annotations

import threading

import pytest

from goplugins import (
    CircuitBreakerConfig,
    HealthCheckConfig,
    LoadBalancer,
    Manager,
    PluginConfig,
    PluginStatus,
    RetryConfig,
)
from goplugins.contrib import health
from tests.unit.contrib.dashboards import FakePlugin, ask, call

ONCE = PluginConfig(
    retry=RetryConfig(max_retries=0), circuit_breaker=CircuitBreakerConfig(failure_threshold=3, min_request_threshold=1)
)
UNCHECKED = PluginConfig(health_check=HealthCheckConfig(enabled=False))


@pytest.fixture
def manager():
    with Manager() as manager:
        yield manager


@pytest.fixture
def plugin(manager):
    plugin = FakePlugin()
    manager.register(plugin, ONCE)
    return plugin


def checked(manager):
    """Checks the health of all plugins; returns the manager."""
    manager.health()
    return manager


def test_a_process_is_alive_even_with_offline_plugins(manager, plugin):
    plugin.status = PluginStatus.OFFLINE
    checked(manager)
    answer = ask(health.wsgi(manager), "/healthz")
    assert (answer.status, answer.json) == (200, {"status": "alive"})
    manager.shutdown()
    assert ask(health.wsgi(manager), "/healthz").status == 200


def test_a_process_with_healthy_plugins_is_ready(manager, plugin):
    answer = ask(health.wsgi(checked(manager)), "/readyz")
    assert (answer.status, answer.json) == (200, {"status": "ready"})
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("status", [PluginStatus.OFFLINE, PluginStatus.UNHEALTHY])
def test_unhealthy_plugins_are_named(manager, plugin, status):
    manager.register(FakePlugin("billing"))
    plugin.status = status
    answer = ask(health.wsgi(checked(manager)), "/readyz")
    assert answer.status == 503
    assert answer.json == {"status": "not ready", "culprits": {"auth": "unhealthy"}}


def test_degraded_plugins_are_ready(manager, plugin):
    plugin.status = PluginStatus.DEGRADED
    assert health.culprits(checked(manager)) == {}


def test_an_open_breaker_is_not_ready_and_the_error_is_not_shown(manager, plugin):
    checked(manager)
    plugin.fail("token s3cret was refused")
    call(manager, times=5)
    answer = ask(health.wsgi(manager), "/readyz")
    assert answer.json["culprits"] == {"auth": "circuit open"}
    assert "s3cret" not in answer.text


def test_a_plugin_is_not_ready_until_its_first_health_check(manager):
    class Slow(FakePlugin):
        def health(self, timeout):
            proceed.wait(5)
            return super().health(timeout)

    proceed = threading.Event()
    manager.register(Slow())
    application = health.wsgi(manager)
    assert ask(application, "/readyz").json["culprits"] == {"auth": "not checked yet"}
    proceed.set()
    checked(manager)
    assert ask(application, "/readyz").status == 200


def test_plugins_without_health_checks_are_ready(manager):
    manager.register(FakePlugin(), UNCHECKED)
    assert health.culprits(manager) == {}


def test_a_group_is_ready_while_one_member_takes_calls(manager):
    members = [FakePlugin("one"), FakePlugin("two")]
    group = LoadBalancer("search", members=members)
    manager.register(group)
    assert health.culprits(manager) == {}
    group.disable_plugin("one")
    assert health.culprits(manager) == {}
    group.disable_plugin("two")
    assert health.culprits(manager) == {"search": "no member"}


def test_only_required_plugins_count(manager, plugin):
    manager.register(FakePlugin("billing"))
    plugin.status = PluginStatus.OFFLINE
    checked(manager)
    assert ask(health.wsgi(manager, required=["billing"]), "/readyz").status == 200
    assert health.culprits(manager, ["billing", "search"]) == {"search": "not there"}


def test_a_manager_after_shutdown_is_not_ready(manager, plugin):
    checked(manager).shutdown()
    assert ask(health.wsgi(manager), "/readyz").json["culprits"] == {"manager": "shut down"}


def test_a_manager_without_plugins_is_ready(manager):
    assert health.culprits(manager) == {}


def test_a_request_runs_no_health_check(manager):
    manager.register(FakePlugin(), UNCHECKED)  # no scheduled check in between
    checked(manager)
    before = manager.metrics().plugins["auth"].health_checks
    for _ in range(50):
        ask(health.wsgi(manager), "/readyz")
    assert manager.metrics().plugins["auth"].health_checks == before


@pytest.mark.parametrize(
    ("prefix", "path", "method", "status"),
    [
        ("", "/healthz", "HEAD", 200),
        ("/ops", "/readyz", "GET", 200),
        ("/readyz", "", "GET", 200),
        ("/readyz", "/", "GET", 200),
        ("", "/", "GET", 404),
        ("", "/healthz/x", "GET", 404),
        ("", "/xhealthz", "GET", 404),
        ("", "/readyz", "POST", 405),
    ],
)
def test_paths_and_methods(manager, prefix, path, method, status):
    answer = ask(health.wsgi(manager), path, method, prefix=prefix)
    assert answer.status == status
    assert bool(answer.text) is (method != "HEAD")
