"""Fixes for unknown fields, and for single values in place of tables."""

from __future__ import annotations

import pytest

from tests.unit.config.helpers import PLUGIN, messages, plugin_messages


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("idempotent", "retry.idempotent"),
        ("max_retries", "retry.max_retries"),
        ("max-retries", "retry.max_retries"),
        ("max_retry", "retry.max_retries"),
        ("retries", "retry.max_retries"),
        ("timeout", "connection.request_timeout"),
        ("request_timeout", "connection.request_timeout"),
        ("max_connections", "connection.max_connections"),
        ("token", "auth.token"),
        ("interval", "health_check.interval"),
        ("max_wait", "rate_limit.max_wait or bulkhead.max_wait"),
        ("strategy", "balancing.strategy"),
        ("url", "endpoint"),
        ("command", "executable"),
    ],
)
def test_an_unknown_field_gets_the_path_that_it_has_in_a_section(name: str, place: str) -> None:
    assert plugin_messages(**{name: 1}) == {name: f"unknown field (write it as {place})"}


def test_unknown_fields_of_other_tables() -> None:
    group = {"name": "g", "members": ["a"], "timeout": 3, "max_retries": 2}
    assert messages({"plugins": [PLUGIN], "load_balancers": [group], "retry": {}, "request_timeout": 5}) == {
        "load_balancers[0].max_retries": "unknown field (write it as retry.max_retries)",
        "load_balancers[0].timeout": "unknown field (write it as request_timeout)",
        "request_timeout": "unknown field (write it as default_connection.request_timeout)",
        "retry": "unknown field (write it as default_retry)",
    }
    assert plugin_messages(connection={"timeout": 3}) == {
        "connection.timeout": "unknown field (write it as request_timeout)"
    }


def test_a_similar_name_in_the_same_table_is_preferred() -> None:
    assert plugin_messages(enable=True) == {"enable": "unknown field (did you mean 'enabled'?)"}
    assert plugin_messages(endpiont="x") == {"endpiont": "unknown field (did you mean 'endpoint'?)"}


def test_the_fix_does_not_repeat_a_key_that_contains_a_secret() -> None:
    found = plugin_messages(**{"token:hunter2": None})
    assert "hunter2" not in str(found)


@pytest.mark.parametrize(
    ("field", "value", "fix"),
    [
        ("balancing", "p2c", "write {strategy: p2c}"),
        ("balancing", "hunter2", "write a table such as {strategy: least-latency}"),
        ("cache", 60, "write {ttl: 60}"),
        ("cache", "60s", "write {ttl: 60s}"),
        ("retry", 3, "write {max_retries: 3}"),
        ("bulkhead", 10, "write {max_concurrent: 10}"),
        ("rate_limit", 50, "write {enabled: true, requests_per_second: 50}"),
        ("circuit_breaker", False, "write {enabled: false}"),
        ("hedge", True, "write {enabled: true}"),
        ("fallback", "other", "write {plugin: ...} with another plugin's name, or {value: ...} with a fixed answer"),
        ("auth", "hunter2", "write a table such as {method: bearer, token: ...}"),
        ("connection", 5, "write a table of fields such as max_connections, max_idle_connections, idle_timeout"),
    ],
)
def test_a_single_value_instead_of_a_table(field: str, value: object, fix: str) -> None:
    found = plugin_messages(**{field: value})
    assert list(found) == [field]
    assert found[field].startswith("expected a table, got a")
    assert found[field].endswith(f"({fix})")
