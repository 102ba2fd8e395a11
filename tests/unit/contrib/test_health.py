"""``/healthz`` and ``/readyz``: who stands in the way of requests, told cheaply and without a secret."""

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
from tests.unit.contrib.dashboards import Mood, ask, call

ONCE = PluginConfig(
    retry=RetryConfig(max_retries=0), circuit_breaker=CircuitBreakerConfig(failure_threshold=3, min_request_threshold=1)
)
UNWATCHED = PluginConfig(health_check=HealthCheckConfig(enabled=False))


@pytest.fixture
def manager():
    with Manager() as manager:
        yield manager


@pytest.fixture
def plugin(manager):
    plugin = Mood()
    manager.register(plugin, ONCE)
    return plugin


def looked(manager):
    """Once somebody has looked at everything."""
    manager.health()
    return manager


def test_a_process_is_alive_whatever_its_plugins_are(manager, plugin):
    plugin.status = PluginStatus.OFFLINE
    looked(manager)
    answer = ask(health.wsgi(manager), "/healthz")
    assert (answer.status, answer.json) == (200, {"status": "alive"})
    manager.shutdown()
    assert ask(health.wsgi(manager), "/healthz").status == 200


def test_it_is_ready_when_all_are_well(manager, plugin):
    answer = ask(health.wsgi(looked(manager)), "/readyz")
    assert (answer.status, answer.json) == (200, {"status": "ready"})
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("status", [PluginStatus.OFFLINE, PluginStatus.UNHEALTHY])
def test_who_is_ill_is_named(manager, plugin, status):
    manager.register(Mood("billing"))
    plugin.status = status
    answer = ask(health.wsgi(looked(manager)), "/readyz")
    assert answer.status == 503
    assert answer.json == {"status": "not ready", "culprits": {"auth": "unhealthy"}}


def test_degraded_is_good_enough(manager, plugin):
    plugin.status = PluginStatus.DEGRADED
    assert health.culprits(looked(manager)) == {}


def test_an_open_breaker_stands_in_the_way_and_the_error_is_not_told(manager, plugin):
    looked(manager)
    plugin.fail("token s3cret was refused")
    call(manager, times=5)
    answer = ask(health.wsgi(manager), "/readyz")
    assert answer.json["culprits"] == {"auth": "circuit open"}
    assert "s3cret" not in answer.text


def test_a_plugin_is_a_culprit_until_its_first_health_check(manager):
    class Slow(Mood):
        def health(self, timeout):
            seen.wait(5)
            return super().health(timeout)

    seen = threading.Event()
    manager.register(Slow())
    application = health.wsgi(manager)
    assert ask(application, "/readyz").json["culprits"] == {"auth": "not checked yet"}
    seen.set()
    looked(manager)
    assert ask(application, "/readyz").status == 200


def test_who_is_never_looked_at_is_not_waited_for(manager):
    manager.register(Mood(), UNWATCHED)
    assert health.culprits(manager) == {}


def test_a_group_is_ready_while_one_member_takes_calls(manager):
    members = [Mood("one"), Mood("two")]
    group = LoadBalancer("search", members=members)
    manager.register(group)
    assert health.culprits(manager) == {}
    group.disable_plugin("one")
    assert health.culprits(manager) == {}
    group.disable_plugin("two")
    assert health.culprits(manager) == {"search": "no member"}


def test_only_what_is_required_counts(manager, plugin):
    manager.register(Mood("billing"))
    plugin.status = PluginStatus.OFFLINE
    looked(manager)
    assert ask(health.wsgi(manager, required=["billing"]), "/readyz").status == 200
    assert health.culprits(manager, ["billing", "search"]) == {"search": "not there"}


def test_a_manager_that_was_shut_down_is_not_ready(manager, plugin):
    looked(manager).shutdown()
    assert ask(health.wsgi(manager), "/readyz").json["culprits"] == {"manager": "shut down"}


def test_a_manager_without_plugins_is_ready(manager):
    assert health.culprits(manager) == {}


def test_nobody_is_asked_anything_by_a_question(manager):
    manager.register(Mood(), UNWATCHED)  # or the first regular look may come meanwhile
    looked(manager)
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
def test_where_it_answers(manager, prefix, path, method, status):
    answer = ask(health.wsgi(manager), path, method, prefix=prefix)
    assert answer.status == status
    assert bool(answer.text) is (method != "HEAD")
