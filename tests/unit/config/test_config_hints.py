"""What a newcomer gets wrong, and whether the message says what to write instead."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from goplugins.config import ManagerConfig, PluginConfig
from goplugins.config.loading import load_config
from goplugins.config.sizes import parse_size
from goplugins.errors import ConfigError

GOOD = {"name": "a", "transport": "http", "endpoint": "http://host/p"}


def told(**plugin: Any) -> dict[str, str]:
    """Path below the plugin to what is said of it."""
    return of({"plugins": [{**GOOD, **plugin}]})


def of(values: Any, **environ: str) -> dict[str, str]:
    try:
        load_config(values, environ=environ)
    except ConfigError as error:
        return {each.path.removeprefix("plugins[0]."): f"{each.message} ({each.fix})" for each in error.problems}
    return {}


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
def test_a_field_that_stands_elsewhere_is_told_its_place(name: str, place: str) -> None:
    assert told(**{name: 1}) == {name: f"unknown field (write it as {place})"}


def test_the_same_in_other_tables() -> None:
    group = {"name": "g", "members": ["a"], "timeout": 3, "max_retries": 2}
    assert of({"plugins": [GOOD], "load_balancers": [group], "retry": {}, "request_timeout": 5}) == {
        "load_balancers[0].max_retries": "unknown field (write it as retry.max_retries)",
        "load_balancers[0].timeout": "unknown field (write it as request_timeout)",
        "request_timeout": "unknown field (write it as default_connection.request_timeout)",
        "retry": "unknown field (write it as default_retry)",
    }
    assert told(connection={"timeout": 3}) == {"connection.timeout": "unknown field (write it as request_timeout)"}


def test_what_is_near_comes_first_in_the_own_table() -> None:
    assert told(enable=True) == {"enable": "unknown field (did you mean 'enabled'?)"}
    assert told(endpiont="x") == {"endpiont": "unknown field (did you mean 'endpoint'?)"}


def test_a_key_with_a_secret_in_it_is_not_repeated_by_the_hint() -> None:
    found = told(**{"token:hunter2": None})
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
def test_a_single_value_where_a_table_belongs(field: str, value: object, fix: str) -> None:
    found = told(**{field: value})
    assert list(found) == [field]
    assert found[field].startswith("expected a table, got a")
    assert found[field].endswith(f"({fix})")


@pytest.mark.parametrize(("number", "seconds"), [(5_000_000_000, "5"), (1_500_000_000, "1.5"), (100_000_000, "0.1")])
def test_nanoseconds_of_go_are_recognised(number: int, seconds: str) -> None:
    text = told(connection={"request_timeout": number})["connection.request_timeout"]
    assert text.startswith(f"expected a duration of a year at most, got {number} (write {seconds} if ")
    assert "from_go_json" in text
    assert "goplugins config import-go" in text


@pytest.mark.parametrize("value", [1e30, 10**400, float("inf"), "9000h"])
def test_other_long_durations(value: object) -> None:
    text = told(connection={"request_timeout": value})["connection.request_timeout"]
    assert text.startswith("expected a duration of a year at most, got ")
    assert text.endswith("(write at most 31622400 seconds)")


def test_the_file_that_the_go_library_wrote_says_so_at_each_duration() -> None:
    path = Path(__file__).parents[2] / "data" / "go-v1.0.0-config.json"
    values = json.loads(path.read_text())
    found = of(values)
    assert all(
        "import-go" in found[f"default_connection.{name}"]
        for name in ("idle_timeout", "connection_timeout", "request_timeout")
    )


# --- sizes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4 MiB", 4 << 20),
        ("4MiB", 4 << 20),
        (" 4 Mi ", 4 << 20),
        ("1 GiB", 1 << 30),
        ("64 kB", 64_000),
        ("64KB", 64_000),
        ("64KiB", 65_536),
        ("1.5 KiB", 1536),
        ("2TB", 2 * 10**12),
        ("10 B", 10),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size
    config = ManagerConfig.from_mapping({"plugins": [{**GOOD, "connection": {"max_response_bytes": text}}]})
    assert config.plugins[0].connection is not None
    assert config.plugins[0].connection.max_response_bytes == size


@pytest.mark.parametrize(
    "text", ["", "4", "4 M", "4 mb", "4 iB", "MiB", "-4 MiB", "1.0001 kB", "4 MiB x", "1" * 50 + "B"]
)
def test_what_is_no_size(text: str) -> None:
    found = told(connection={"max_response_bytes": text})["connection.max_response_bytes"]
    assert found.startswith("expected a size in bytes, got ")
    assert found.endswith('(write bytes as an integer, or text such as "4 MiB" or "64 kB")')


def test_a_size_of_nothing_and_a_size_in_code() -> None:
    wrong = {"connection.max_response_bytes": "expected an integer of 1 or more, got 0 (write an integer of 1 or more)"}
    assert told(connection={"max_response_bytes": "0 B"}) == wrong
    assert told(connection={"max_response_bytes": 0}) == wrong
    with pytest.raises(ConfigError, match="expected an integer"):
        PluginConfig(**GOOD, connection=_connection("4 MiB")).validate()


def _connection(size: Any) -> Any:
    from goplugins.config import ConnectionConfig

    return ConnectionConfig(max_response_bytes=size)


def test_a_size_from_a_variable_and_as_an_option() -> None:
    plugin: dict[str, Any] = {"name": "a", "transport": "exec", "executable": "x", "options": {"max_memory": "1 GiB"}}
    plugin["connection"] = {"max_response_bytes": "${SIZE}"}
    for text, size in (("1 MiB", 1 << 20), ("123", 123)):
        config = load_config({"plugins": [plugin]}, environ={"SIZE": text}).plugins[0]
        assert config.options == {"max_memory": 1 << 30}
        assert config.connection is not None
        assert config.connection.max_response_bytes == size


# --- one mistake, one message --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plugin", "path"),
    [
        ({"endpoint": "", "endpoints": "http://host", "balancing": {"strategy": "p2c"}}, "endpoints"),
        ({"endpoint": "", "endpoints": [5]}, "endpoints[0]"),
        ({"transport": "unix", "endpoint": "", "endpoints": 5}, "endpoints"),
        ({"options": {"resolve": "yes", "resolve_interval": 3}, "balancing": {"strategy": "p2c"}}, "options.resolve"),
        ({"options": 5, "balancing": {"strategy": "p2c"}}, "options"),
        ({"retry": {"initial_interval": 9, "max_interval": "x"}}, "retry.max_interval"),
        ({"retry": {"initial_interval": "x", "max_interval": 0.01}}, "retry.initial_interval"),
        ({"bulkhead": {"max_concurrent": 5, "adaptive": "yes", "min_concurrent": 3}}, "bulkhead.adaptive"),
        ({"bulkhead": {"max_concurrent": 5, "max_waiting": "x", "max_wait": 3}}, "bulkhead.max_waiting"),
        ({"chaos": {"enabled": True, "reset": 0.1, "error": "x", "status": 503}}, "chaos.error"),
        ({"chaos": {"enabled": True, "reset": 0.1, "latency": "x", "delay": 1}}, "chaos.latency"),
    ],
)
def test_what_follows_from_a_field_that_can_not_be_read_is_not_told(plugin: dict[str, Any], path: str) -> None:
    assert list(told(**plugin)) == [path]


def test_an_address_that_is_wrong_in_itself_is_told_all_the_same() -> None:
    assert set(told(endpoint="ftp://x", endpoints=5)) == {"endpoint", "endpoints"}
