from __future__ import annotations

import json
from pathlib import Path

import pytest

from goplugins.config import (
    AuthConfig,
    CircuitBreakerConfig,
    ConnectionConfig,
    DiscoveryConfig,
    HealthCheckConfig,
    ManagerConfig,
    PluginConfig,
    RateLimitConfig,
    RetryConfig,
)
from goplugins.enums import AuthMethod, TransportType
from goplugins.errors import ConfigError, InvalidConfigError

VECTOR = Path(__file__).parents[2] / "data" / "go-v1.0.0-config.json"


def test_the_file_that_the_go_library_wrote() -> None:
    config = ManagerConfig.from_go_json(VECTOR.read_bytes())
    assert config == ManagerConfig(
        log_level="info",
        metrics_port=9090,
        default_retry=RetryConfig(
            max_retries=3, initial_interval=0.1, max_interval=5.0, multiplier=2.0, random_jitter=True
        ),
        default_circuit_breaker=CircuitBreakerConfig(
            enabled=True, failure_threshold=5, recovery_timeout=30.0, min_request_threshold=3, success_threshold=2
        ),
        default_health_check=HealthCheckConfig(enabled=True, interval=30.0, timeout=5.0, failure_limit=3),
        default_connection=ConnectionConfig(
            max_connections=10,
            max_idle_connections=5,
            idle_timeout=30.0,
            connection_timeout=10.0,
            request_timeout=30.0,
            keep_alive=True,
            disable_compression=False,
        ),
        default_rate_limit=RateLimitConfig(enabled=False, requests_per_second=10.0, burst_size=20, time_window=1.0),
        plugins=[
            PluginConfig(
                name="auth-service",
                type="http",
                transport=TransportType.HTTPS,
                endpoint="https://auth.example.com/api/v1/validate",
                priority=1,
                enabled=True,
                auth=AuthConfig(method=AuthMethod.BEARER, token="tok"),
                connection=ConnectionConfig(
                    max_connections=10, connection_timeout=10.0, request_timeout=1.5, disable_compression=False
                ),
                rate_limit=RateLimitConfig(enabled=True, requests_per_second=50.0, burst_size=100, time_window=1.0),
                labels={"environment": "production"},
            ),
            PluginConfig(
                name="local-processor",
                type="unix",
                transport=TransportType.UNIX,
                endpoint="/run/processor.sock",
                enabled=True,
                auth=AuthConfig(method=AuthMethod.NONE),
                retry=RetryConfig(
                    max_retries=1, initial_interval=0.05, max_interval=1.0, multiplier=1.5, random_jitter=False
                ),
            ),
            PluginConfig(
                name="data-processor",
                type="exec",
                transport=TransportType.EXECUTABLE,
                enabled=False,
                executable="/opt/processors/data-processor",
                args=["--config", "/etc/processor.conf"],
                env=["LOG_LEVEL=info"],
                work_dir="/srv/processor",
                auth=AuthConfig(method=AuthMethod.NONE),
                options={"batch": 10},
            ),
        ],
        discovery=DiscoveryConfig(enabled=True, directories=["/opt/plugins"], patterns=["plugin-*"], watch_mode=True),
    )


def test_with_its_defaults_filled_in() -> None:
    first, second, third = ManagerConfig.from_go_json(VECTOR.read_text()).with_defaults().plugins
    assert first.connection == ConnectionConfig(
        max_connections=10,
        max_idle_connections=5,
        idle_timeout=30.0,
        connection_timeout=10.0,
        request_timeout=1.5,
        keep_alive=True,  # false means left out
        disable_compression=False,
        max_response_bytes=4 * 1024 * 1024,
    )
    assert second.retry is not None
    assert second.retry.random_jitter is False  # false in a section that is not left out
    assert third.circuit_breaker is not None
    assert third.circuit_breaker.enabled is True  # a section of zeros is left out


def test_its_round_trip_through_our_own_json() -> None:
    config = ManagerConfig.from_go_json(VECTOR.read_text())
    assert ManagerConfig.from_json(config.to_json(include_secrets=True)) == config


def test_an_unknown_option_is_reported_by_validate() -> None:
    with pytest.raises(InvalidConfigError) as caught:
        ManagerConfig.from_go_json(VECTOR.read_text()).validate()
    assert caught.value.path == "plugins[2].options.batch"


def test_empty_values_of_go_are_left_out() -> None:
    text = json.dumps(
        {
            "log_level": "",
            "metrics_port": 0,
            "plugins": [
                {
                    "name": "a",
                    "type": "",
                    "transport": "",
                    "enabled": False,
                    "auth": {"method": ""},
                    "circuit_breaker": {"enabled": False, "failure_threshold": 2, "recovery_timeout": 0},
                    "args": None,
                }
            ],
            "discovery": {"enabled": False, "watch_mode": False},
        }
    )
    assert ManagerConfig.from_go_json(text) == ManagerConfig(
        plugins=[
            PluginConfig(
                name="a", enabled=False, circuit_breaker=CircuitBreakerConfig(enabled=False, failure_threshold=2)
            )
        ]
    )
    assert ManagerConfig.from_go_json('{"plugins": null}') == ManagerConfig()


def test_values_that_go_never_writes_are_rejected_with_their_path() -> None:
    with pytest.raises(ConfigError) as caught:
        ManagerConfig.from_go_json(
            '{"default_retry": {"initial_interval": "30s", "max_interval": 1.5, "max_retries": "x"}, "extra": 1,'
            ' "plugins": [{"connection": {"request_timeout": true}}, 5]}'
        )
    found = {problem.path: problem for problem in caught.value.problems}
    assert set(found) == {
        "default_retry.initial_interval",
        "default_retry.max_interval",
        "default_retry.max_retries",
        "extra",
        "plugins[0].connection.request_timeout",
        "plugins[1]",
    }
    assert found["default_retry.initial_interval"].message == "expected integer nanoseconds, got '30s'"
    assert all(problem.fix for problem in found.values())


@pytest.mark.parametrize("window", [60 * 10**9, 10**6, 10**9, 1])
def test_a_time_window_is_a_second_as_for_the_go_library(window: int) -> None:
    limit = {"enabled": True, "requests_per_second": 10, "burst_size": 5, "time_window": window}
    plugin = {"name": "a", "transport": "http", "endpoint": "http://h", "rate_limit": limit}
    config = ManagerConfig.from_go_json(json.dumps({"default_rate_limit": limit, "plugins": [plugin]}))
    assert config.default_rate_limit.time_window == 1.0
    assert config.plugins[0].rate_limit == RateLimitConfig(
        enabled=True, requests_per_second=10, burst_size=5, time_window=1.0
    )
