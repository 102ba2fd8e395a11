"""What is wrong with one plugin."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from goplugins.config import (
    CacheConfig,
    CircuitBreakerConfig,
    ConnectionConfig,
    FallbackConfig,
    ManagerConfig,
    PluginConfig,
    RateLimitConfig,
    RetryConfig,
)
from goplugins.errors import ConfigError
from tests.unit.config.helpers import GOOD, codes_of, problems_of


def test_values_set_in_code_are_checked_like_those_of_a_file() -> None:
    plugin = attrs.evolve(
        GOOD,
        retry=RetryConfig(max_retries="3", initial_interval="1s", multiplier=0.5),  # type: ignore[arg-type]
        labels={"a": 1},
        options={"trust_env": 1},
        enabled=1,
    )
    assert set(codes_of(plugin)) == {
        "retry.max_retries",
        "retry.initial_interval",
        "retry.multiplier",
        "labels.a",
        "options.trust_env",
        "enabled",
    }
    assert codes_of(ManagerConfig(plugins=None)) == {"plugins": "PLUGIN_1012"}  # type: ignore[arg-type]
    assert codes_of(ManagerConfig(plugins="abc")) == {"plugins": "PLUGIN_1012"}  # type: ignore[arg-type]
    config = ManagerConfig(plugins=[GOOD], default_retry={"max_retries": 1})  # type: ignore[arg-type]
    assert problems_of(config)["default_retry"].message == "expected a RetryConfig, got a table"


def test_options() -> None:
    found = problems_of(attrs.evolve(GOOD, options={"proxi": "http://p:1", "verify_hostname": False}))
    assert found["options.proxi"].fix == "did you mean 'proxy'?"
    known = "encoded_slashes, engine, protocol, proxy, resolve, resolve_interval, response_headers, trust_env"
    assert found["options.verify_hostname"].fix == f"known options: {known}"
    assert codes_of(attrs.evolve(GOOD, options={"proxy": "http://p:1", "trust_env": True})) == {}
    assert codes_of(attrs.evolve(GOOD, type="mine", options={"anything": object()})) == {}


def test_a_type_that_does_not_support_the_transport() -> None:
    assert codes_of(attrs.evolve(GOOD, type="grpc")) == {"type": "PLUGIN_1008"}
    assert codes_of(attrs.evolve(GOOD, type="http")) == codes_of(attrs.evolve(GOOD, type="payment")) == {}


def test_exec_details() -> None:
    plugin = PluginConfig(name="a", transport="exec", executable="/bin/x", env=["A=1", "B", "=c"], args=["a\x00"])
    assert set(codes_of(plugin)) == {"env[1]", "env[2]", "args[0]"}


EXEC = {"name": "a", "transport": "exec", "executable": "/bin/true"}


HTTP = {"name": "a", "transport": "http", "endpoint": "http://host/p"}


UNIX = {"name": "a", "transport": "unix", "endpoint": "/run/a.sock"}


PYTHON = {"name": "a", "transport": "python", "endpoint": "module:name"}


def policies(config: PluginConfig, name: str | None = "a", **arguments: Any) -> dict[str, ConfigError]:
    with pytest.raises(ConfigError) as caught:
        config.validate_policies(name, **arguments)
    return {problem.path: problem for problem in caught.value.problems}


@pytest.mark.parametrize(
    ("values", "path"),
    [
        ({"retry": RetryConfig(max_retries=-1)}, "retry.max_retries"),
        ({"retry": RetryConfig(initial_interval="1s")}, "retry.initial_interval"),
        ({"retry": {"max_retries": 1}}, "retry"),
        ({"rate_limit": RateLimitConfig(enabled=True, requests_per_second=0)}, "rate_limit.requests_per_second"),
        ({"rate_limit": RateLimitConfig(requests_per_second=5)}, "rate_limit.enabled"),
        ({"circuit_breaker": CircuitBreakerConfig(failure_rate=0.5)}, "circuit_breaker.window"),
        ({"connection": ConnectionConfig(request_timeout=-1)}, "connection.request_timeout"),
        ({"fallback": FallbackConfig()}, "fallback"),
        ({"fallback": FallbackConfig(plugin="a")}, "fallback.plugin"),
        ({"cache": CacheConfig()}, "cache.ttl"),
        ({"enabled": "no"}, "enabled"),
        ({"enabled": False}, "enabled"),
        ({"priority": "x"}, "priority"),
    ],
)
def test_policies_of_a_plugin_registered_in_code_are_checked(values: dict[str, Any], path: str) -> None:
    assert set(policies(PluginConfig(**values))) == {path}


def test_the_address_of_a_plugin_registered_in_code_is_not_checked() -> None:
    PluginConfig().validate_policies("a")
    PluginConfig(name="a", transport="http", endpoint="nowhere", options={"proxy": 5}).validate_policies()
    PluginConfig(transport="carrier-pigeon", type=5, endpoint=5).validate_policies("a")  # type: ignore[arg-type]


def test_the_registered_name_is_checked_instead_of_the_configured_one() -> None:
    assert policies(PluginConfig(), None)["name"].code == "PLUGIN_1001"
    assert policies(PluginConfig(name="a"), "a b")["name"].code == "PLUGIN_1001"
    with pytest.raises(ConfigError, match=r"plugin 'b': retry\.max_retries"):
        PluginConfig(name="a", retry=RetryConfig(max_retries=-1)).validate_policies("b")


def test_policies_are_checked_with_the_manager_s_defaults() -> None:
    config = PluginConfig(rate_limit=RateLimitConfig(requests_per_second=5))
    config.validate_policies("a", defaults=ManagerConfig(default_rate_limit=RateLimitConfig(enabled=True)))
    assert set(policies(config, defaults=ManagerConfig())) == {"rate_limit.enabled"}


@pytest.mark.parametrize(
    ("plugin", "field", "value", "fix"),
    [
        (HTTP, "executable", "/bin/x", "remove it, or write transport: exec"),
        (HTTP, "args", ["--x"], "remove it: only exec uses it"),
        (UNIX, "env", ["A=b"], "remove it: only exec uses it"),
        (PYTHON, "work_dir", "/srv", "remove it: only exec uses it"),
        (EXEC, "endpoint", "http://host/p", "remove it: executable is the program to run"),
        (UNIX, "health_check", {"endpoint": "/health"}, "remove it: health checks use the plugin's own address"),
        (EXEC, "health_check", {"endpoint": "/health"}, "remove it: health checks use the plugin's own address"),
        (PYTHON, "auth", {"method": "bearer", "token": "t"}, "remove it: a call within this process"),
        (PYTHON, "auth", {"headers": {"a": "b"}}, "remove it: a call within this process"),
    ],
)
def test_a_field_that_the_transport_does_not_use_is_refused(
    plugin: dict[str, Any], field: str, value: Any, fix: str
) -> None:
    found = problems_of(PluginConfig.from_mapping({**plugin, field: value}))
    path = "health_check.endpoint" if field == "health_check" else field
    assert list(found) == [path]
    assert found[path].message == f"is not used by transport {plugin['transport']}"
    assert found[path].fix.startswith(fix)


def test_empty_fields_of_another_transport_are_accepted() -> None:
    nothing = {"executable": "", "args": [], "env": [], "work_dir": ""}
    for plugin in (HTTP, UNIX, PYTHON):
        assert not problems_of(PluginConfig.from_mapping({**plugin, **nothing, "auth": {"method": "none"}}))
    assert not problems_of(PluginConfig.from_mapping({**EXEC, "endpoint": "", "endpoints": []}))


def test_an_inherited_health_endpoint_is_no_problem_of_the_plugin() -> None:
    config = {"default_health_check": {"endpoint": "/health"}, "plugins": [UNIX]}
    assert not problems_of(ManagerConfig.from_mapping(config))


def test_a_custom_factory_may_use_any_field() -> None:
    fields = {"executable": "/bin/x", "args": ["--x"], "auth": {"method": "bearer", "token": "t"}}
    assert not problems_of(PluginConfig.from_mapping({**PYTHON, "type": "mine", **fields}))
