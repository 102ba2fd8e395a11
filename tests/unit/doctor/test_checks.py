"""Known problems of plugins under a server."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from goplugins.config import PluginConfig
from goplugins.doctor import Finding, Host, examine

from .conftest import plugins

GRPC = {"transport": "grpc", "endpoint": "127.0.0.1:9"}
GUNICORN = Host("gunicorn", 4, 60.0, "gunicorn's --timeout")


def kinds(configs: list[PluginConfig], of: Host, **options: Any) -> list[str]:
    return [finding.kind for finding in examine(configs, of, **options)]


def test_no_problem_no_finding() -> None:
    assert kinds(plugins(), Host()) == []
    assert kinds(plugins({}, GRPC), GUNICORN) == []


@pytest.mark.parametrize(
    ("given", "facts", "kind", "text"),
    [
        ({}, {"name": "uwsgi", "threads": False}, "uwsgi-threads", "enable-threads = true"),
        (GRPC, {"name": "uwsgi", "fork_hooks": False}, "uwsgi-fork-hooks", "py-call-uwsgi-fork-hooks = true"),
        (GRPC, {"gevent": True}, "gevent-grpc", "init_gevent()"),
        (GRPC, {"eventlet": True}, "eventlet-grpc", "another kind of worker"),
        (GRPC, {"grpc_forks": False}, "grpc-fork-support", "GRPC_ENABLE_FORK_SUPPORT=1"),
        (
            {"rate_limit": {"enabled": True, "requests_per_second": 10}},
            {},
            "limit-per-worker",
            "p0 10/s is 40/s",
        ),
        (
            {"rate_limit": {"enabled": True, "requests_per_second": 10, "time_window": 60}},
            {},
            "limit-per-worker",
            "p0 10/60 s is 40/60 s",
        ),
        ({"bulkhead": {"max_concurrent": 5}}, {}, "limit-per-worker", "p0 5 at once is 20"),
        ({"connection": {"request_timeout": 90}}, {}, "timeout-above-worker", "p0 90 s"),
        ({"connection": {"request_timeout": 60}}, {}, "timeout-above-worker", "gunicorn's --timeout of 60 s"),
    ],
)
def test_each_kind_of_problem(given: dict[str, Any], facts: dict[str, Any], kind: str, text: str) -> None:
    found = examine(plugins(given), attrs.evolve(GUNICORN, **facts))
    assert [finding.kind for finding in found] == [kind]
    assert text in str(found[0])
    assert found[0].why
    assert found[0].fix


def test_problems_of_grpc_need_a_grpc_plugin() -> None:
    bad = attrs.evolve(GUNICORN, name="uwsgi", gevent=True, eventlet=True, grpc_forks=False, fork_hooks=False)
    assert kinds(plugins(), bad) == []
    good = attrs.evolve(bad, grpc_gevent=True, eventlet=False, grpc_forks=True, fork_hooks=True)
    assert kinds(plugins(GRPC), good) == []


def test_limits_of_one_worker_are_not_multiplied() -> None:
    limited = plugins({"rate_limit": {"enabled": True}})
    assert kinds(limited, attrs.evolve(GUNICORN, workers=1)) == []
    assert kinds(limited, attrs.evolve(GUNICORN, workers=None)) == []


def test_disabled_plugins_and_limits_are_ignored() -> None:
    assert kinds(plugins({"enabled": False, "connection": {"request_timeout": 90}}, {}), GUNICORN) == []
    assert kinds(plugins({"rate_limit": {"enabled": False}}), GUNICORN) == []


def test_a_plugin_with_several_endpoints_is_listed_once() -> None:
    endpoints = {"endpoint": "", "endpoints": ["http://127.0.0.1:9", "http://127.0.0.1:10"]}
    given = {**endpoints, "connection": {"request_timeout": 90}, "rate_limit": {"enabled": True}}
    found = examine(plugins(given), GUNICORN)
    assert [finding.kind for finding in found] == ["limit-per-worker", "timeout-above-worker"]
    assert all(str(finding).count("p0") == 1 for finding in found)


def test_a_finding_lists_the_first_of_many_plugins() -> None:
    many = plugins(*({"connection": {"request_timeout": 90}} for _ in range(20)))
    (found,) = examine(many, GUNICORN)
    assert "and 15 more" in found.why + found.what


def test_timeouts_of_calls_that_are_bounded_otherwise_are_ignored() -> None:
    late = plugins({"connection": {"request_timeout": 90}})
    assert kinds(late, GUNICORN, bounded=True) == []


def test_a_finding_is_one_line() -> None:
    assert "\n" not in str(Finding("kind", "what", "why", "fix"))
