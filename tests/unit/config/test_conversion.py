"""Plain values to configuration classes."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest

from goplugins.config import (
    AuthConfig,
    CacheConfig,
    FallbackConfig,
    LoadBalancerConfig,
    LoadBalancerMember,
    ManagerConfig,
    PluginConfig,
    ReloadOptions,
    RetryConfig,
)
from goplugins.enums import AuthMethod, LoadBalancingStrategy, ReloadStrategy, TransportType
from goplugins.errors import (
    ConfigError,
    ConfigSyntaxError,
    InvalidConfigError,
    UnsupportedAuthMethodError,
    UnsupportedTransportError,
)


def problems(values: Any) -> dict[str, ConfigError]:
    with pytest.raises(ConfigError) as caught:
        ManagerConfig.from_mapping(values)
    return {problem.path: problem for problem in caught.value.problems}


def one(values: Any) -> ConfigError:
    found = problems(values)
    assert len(found) == 1, found
    return next(iter(found.values()))


def test_all_problems_are_reported_with_path_and_fix() -> None:
    found = problems(
        {
            "metrics_port": 70000,
            "plugins": [
                {"name": 3, "transprt": "http"},
                "x",
                {
                    "transport": "htp",
                    "retry": {"max_retries": "three", "multiplier": True, "initial_interval": "30"},
                    "labels": {"version": 1.2},
                    "args": "--x",
                    "auth": {"method": "beerer"},
                },
                {"transport": "exec", "options": {"max_memory": "1G"}},
            ],
            "load_balancers": [{"members": [{"name": "a", "weight": 0}]}],
        }
    )
    assert set(found) == {
        "metrics_port",
        "plugins[0].name",
        "plugins[0].transprt",
        "plugins[1]",
        "plugins[2].transport",
        "plugins[2].retry.max_retries",
        "plugins[2].retry.multiplier",
        "plugins[2].retry.initial_interval",
        "plugins[2].labels.version",
        "plugins[2].args",
        "plugins[2].auth.method",
        "plugins[3].options.max_memory",
        "load_balancers[0].members[0].weight",
    }
    assert all(
        problem.fix and problem.path in str(problem) and problem.fix in str(problem) for problem in found.values()
    )
    assert str(found["plugins[2].retry.max_retries"]) == (
        "[PLUGIN_1012] plugins[2].retry.max_retries: expected an integer, got 'three' "
        "(write an integer of 0 or more, without quotes)"
    )
    assert isinstance(found["plugins[2].transport"], UnsupportedTransportError)
    assert isinstance(found["plugins[2].auth.method"], UnsupportedAuthMethodError)


def test_an_unknown_field_gets_a_similar_name() -> None:
    assert one({"default_retry": {"max-retry": 3}}).fix == "did you mean 'max_retries'?"
    assert one({"default_retry": {"zzz": 3}}).fix.startswith("known fields: max_retries, ")
    assert one({"plugins": [{"Name": "a"}]}).fix == "did you mean 'name'?"


@pytest.mark.parametrize(
    ("section", "field", "value", "expected"),
    [
        ("default_retry", "max_retries", True, "expected an integer, got true"),
        ("default_retry", "max_retries", 1.0, "expected an integer, got 1.0"),
        ("default_retry", "max_retries", -1, "expected an integer of 0 or more, got -1"),
        ("default_retry", "multiplier", False, "expected a number, got false"),
        ("default_retry", "multiplier", 0.5, "expected a number of at least 1, got 0.5"),
        ("default_retry", "multiplier", math.nan, "expected a number of at least 1, got NaN"),
        ("default_retry", "multiplier", math.inf, "expected a number of at least 1, got infinity"),
        ("default_retry", "multiplier", 10**400, "expected a number of at least 1, got a huge integer"),
        ("default_retry", "budget_ratio", 1.5, "expected a number from 0 to 1, got 1.5"),
        ("default_retry", "initial_interval", -0.1, "expected a duration of 0 or more, got -0.1"),
        ("default_retry", "initial_interval", "soon", "expected a duration, got 'soon'"),
        ("default_retry", "initial_interval", True, "expected a duration, got true"),
        ("default_retry", "random_jitter", 1, "expected true or false, got 1"),
        ("default_retry", "random_jitter", "yes", "expected true or false, got 'yes'"),
        ("default_connection", "request_timeout", 0, "expected a duration longer than 0, got 0"),
        ("default_connection", "request_timeout", "0s", "expected a duration longer than 0, got '0s'"),
        ("default_connection", "request_timeout", math.nan, "expected a duration longer than 0, got NaN"),
        ("default_connection", "request_timeout", 1e12, "expected a duration of a year at most, got 1000000000000.0"),
        ("default_connection", "max_connections", 0, "expected an integer of 1 or more, got 0"),
        ("default_circuit_breaker", "failure_threshold", 0, "expected an integer of 1 or more, got 0"),
        ("default_circuit_breaker", "failure_rate", 0, "expected a number above 0 and at most 1, got 0"),
        ("default_rate_limit", "requests_per_second", 0, "expected a number greater than 0, got 0"),
        ("default_health_check", "endpoint", 5, "expected a string, got a number"),
        ("observability", "metrics_prefix", "1x", "expected a prefix of metric names, got a string that is not one"),
        ("discovery", "directories", "/opt", "expected a list, got a string"),
        ("discovery", "directories", {"a": 1}, "expected a list, got a table"),
    ],
)
def test_wrong_values_are_reported(section: str, field: str, value: Any, expected: str) -> None:
    problem = one({section: {field: value}})
    assert (problem.path, problem.message) == (f"{section}.{field}", expected)
    assert problem.fix


@pytest.mark.parametrize("value", [[], "x", 5, True])
def test_a_section_must_be_a_table(value: Any) -> None:
    assert one({"default_retry": value}).message.startswith("expected a table, got ")
    assert one(value).path == "configuration"


def test_an_integer_is_read_as_a_float() -> None:
    retry = ManagerConfig.from_mapping({"default_retry": {"multiplier": 2, "max_interval": 3}}).default_retry
    assert (retry.multiplier, retry.max_interval) == (2.0, 3.0)
    assert type(retry.multiplier) is type(retry.max_interval) is float


def test_durations_as_text() -> None:
    plugin = PluginConfig.from_mapping(
        {"retry": {"initial_interval": "250us", "max_interval": "1m30s"}, "connection": {"request_timeout": " 1.5h"}}
    )
    assert plugin.retry == RetryConfig(initial_interval=0.00025, max_interval=90.0)
    assert plugin.connection is not None
    assert plugin.connection.request_timeout == 5400.0


def test_enums_are_read_from_values_and_go_s_integers() -> None:
    plugin = PluginConfig.from_mapping({"transport": 3, "auth": {"method": "api-key"}})
    assert plugin.transport is TransportType.GRPC_TLS
    assert plugin.auth is not None
    assert plugin.auth.method is AuthMethod.API_KEY
    assert one({"plugins": [{"transport": True}]}).message.endswith("got true")
    assert one({"plugins": [{"transport": 99}]}).message.endswith("got 99")
    assert one({"plugins": [{"transport": "HTTPS"}]}).fix == "did you mean 'https'?"


def test_enums_are_set_by_values_in_code() -> None:
    assert PluginConfig(transport="https").transport is TransportType.HTTPS
    assert AuthConfig(method="bearer").method is AuthMethod.BEARER
    assert LoadBalancerConfig(strategy="p2c").strategy is LoadBalancingStrategy.P2C
    assert ReloadOptions(strategy="rolling").strategy is ReloadStrategy.ROLLING


def test_null_means_left_out_except_in_a_fallback_value() -> None:
    config = ManagerConfig.from_mapping(
        {
            "plugins": [
                {"name": "a", "endpoint": None, "retry": None, "labels": None, "fallback": {"value": None, "on": None}}
            ],
            "metrics_port": None,
            "default_retry": {"max_retries": None},
        }
    )
    assert config.plugins == (PluginConfig(name="a", fallback=FallbackConfig(value=None)),)
    assert config.default_retry == RetryConfig()
    assert FallbackConfig(value=None) != FallbackConfig()


def test_members_of_a_group_may_be_plain_names() -> None:
    config = ManagerConfig.from_mapping({"load_balancers": [{"members": ["a", {"name": "b", "weight": 2}]}]})
    members = config.load_balancers[0].members
    assert members == (LoadBalancerMember(name="a"), LoadBalancerMember(name="b", weight=2))


def test_a_mapping_may_contain_configuration_classes() -> None:
    config = ManagerConfig.from_mapping(
        {"default_retry": RetryConfig(max_retries=1), "plugins": [PluginConfig(name="a")]}
    )
    assert config.default_retry == RetryConfig(max_retries=1)
    assert config.plugins == (PluginConfig(name="a"),)


def test_keys_that_are_not_strings_are_unknown_fields() -> None:
    assert one({1: 2}).path == "[1]"
    assert set(problems({"default_retry": {True: 1, 2: 3, "x": 1}})) == {
        "default_retry[True]",
        "default_retry[2]",
        "default_retry.x",
    }


def test_no_message_repeats_a_text_that_may_be_a_secret() -> None:
    found = problems(
        {
            "plugins": [
                {"auth": {"token": ["hunter2-secret"], "api_key": 987654321, "headers": {"X": 987654321}}},
                {"env": "PASSWORD=hunter2-secret", "endpoint": {"a": "hunter2-secret"}, "options": "hunter2-secret"},
                {"transport": "http", "options": {"proxy": "ftp://me:hunter2-secret@proxy"}},
            ]
        }
    )
    assert len(found) == 7
    for problem in found.values():
        assert "hunter2" not in str(problem)
        assert "987654321" not in str(problem)


def test_known_options_are_read_and_unknown_ones_kept_for_validate() -> None:
    def read(transport: str, options: dict[str, Any], **more: Any) -> PluginConfig:
        return PluginConfig.from_mapping({"name": "a", "transport": transport, "options": options, **more})

    assert read("exec", {"sha256": "A" * 64, "max_open_files": 9}).options == {"sha256": "A" * 64, "max_open_files": 9}
    assert read("grpc", {"method": "/pkg.Service/Do"}).options == {"method": "/pkg.Service/Do"}
    assert read("https", {"trust_env": None}).options == {}
    assert read("exec", {"batch": 10}).options == {"batch": 10}
    assert read("exec", {"inherit_env": "text"}, type="mine").options == {"inherit_env": "text"}
    for transport, options in [
        ("exec", {"inherit_env": 1}),
        ("exec", {"sha256": "A" * 63}),
        ("exec", {"max_cpu_seconds": 0}),
        ("python", {"isolate": "yes"}),
        ("http", {"trust_env": "no"}),
        ("https", {"proxy": "proxy:3128"}),
        ("grpc", {"method": "Do"}),
    ]:
        with pytest.raises(InvalidConfigError) as caught:
            read(transport, options)
        assert caught.value.path == f"options.{next(iter(options))}"


def test_json_is_read_strictly() -> None:
    for text, message in [
        ('{"log_level": "info", "log_level": "debug"}', "the key 'log_level' occurs more than once"),
        ('{"default_retry": {"multiplier": NaN}}', "NaN is not JSON"),
        ('{"log_level":\n  info}', "line 2, column 3"),
        ("[" * 100_000, "nested too deeply"),
        (b"\xff\xfe{}", "not UTF-8"),
    ]:
        with pytest.raises(ConfigSyntaxError) as caught:
            ManagerConfig.from_json(text, source="the source")
        assert message in str(caught.value)
        assert caught.value.path == "the source"
        assert caught.value.fix
        assert caught.value.__cause__ is None  # it would carry the whole text into a pickle
    assert ManagerConfig.from_json(b"\xef\xbb\xbf{}") == ManagerConfig()


def test_reload_options_are_read_and_checked() -> None:
    assert ReloadOptions.from_mapping({"drain_timeout": "1m", "strategy": "recreate"}) == ReloadOptions(
        drain_timeout=60.0, strategy=ReloadStrategy.RECREATE
    )
    with pytest.raises(InvalidConfigError, match="max_concurrent_reloads"):
        ReloadOptions(max_concurrent_reloads=0).validate()
    ReloadOptions().validate()


def test_configurations_are_frozen_and_can_be_copied_and_pickled() -> None:
    labels = {"a": "1"}
    plugin = PluginConfig(name="a", labels=labels, args=["x"], fallback=FallbackConfig(), cache=CacheConfig(ttl=1.0))
    labels["a"] = "2"
    assert plugin.labels == {"a": "1"}
    assert plugin.args == ("x",)
    for copied in (pickle.loads(pickle.dumps(plugin)), copy.deepcopy(plugin)):
        assert copied == plugin
    with pytest.raises(AttributeError):
        plugin.name = "b"
