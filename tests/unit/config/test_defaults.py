"""Defaults: of the production, of the manager, and what follows from other fields."""

from __future__ import annotations

import attrs
import pytest

from goplugins.config import (
    AuthConfig,
    CacheConfig,
    CircuitBreakerConfig,
    ConnectionConfig,
    FallbackConfig,
    HealthCheckConfig,
    LoadBalancerConfig,
    ManagerConfig,
    ObservabilityConfig,
    PluginConfig,
    RateLimitConfig,
    ReloadOptions,
    RetryConfig,
)
from goplugins.config.defaults import completed
from goplugins.config.plugin_sections import DEFAULT_RETRY
from goplugins.enums import AuthMethod, ReloadStrategy, TransportType
from goplugins.errors import ConfigError


def resolved(plugin: PluginConfig, **defaults: object) -> PluginConfig:
    return ManagerConfig(plugins=[plugin], **defaults).with_defaults().plugins[0]


def test_the_production_defaults() -> None:
    config = ManagerConfig()
    assert config.log_level is None  # a library sets no level of its loggers by itself
    assert config.metrics_port is None  # a library opens no port by itself
    assert config.default_retry == RetryConfig(
        max_retries=3,
        initial_interval=0.1,
        max_interval=5.0,
        multiplier=2.0,
        random_jitter=True,
        idempotent=False,
        budget_ratio=0.2,
    )
    assert config.default_circuit_breaker == CircuitBreakerConfig(
        enabled=True,
        failure_threshold=5,
        recovery_timeout=30.0,
        min_request_threshold=3,
        success_threshold=2,
        metrics_only=False,
    )
    assert config.default_health_check == HealthCheckConfig(enabled=True, interval=30.0, timeout=5.0, failure_limit=3)
    assert config.default_connection == ConnectionConfig(
        max_connections=10,
        max_idle_connections=5,
        idle_timeout=30.0,
        connection_timeout=10.0,
        request_timeout=30.0,
        keep_alive=True,
        disable_compression=False,
        max_response_bytes=4 * 1024 * 1024,
    )
    assert config.default_rate_limit == RateLimitConfig(
        enabled=False, requests_per_second=10.0, burst_size=20, time_window=1.0, max_wait=0.0
    )
    assert ReloadOptions() == ReloadOptions(
        strategy=ReloadStrategy.GRACEFUL,
        drain_timeout=30.0,
        graceful_timeout=60.0,
        max_concurrent_reloads=3,
        health_check_timeout=10.0,
        rollback_on_failure=True,
    )


def test_a_plugin_without_sections_inherits_all_of_them() -> None:
    plugin = resolved(PluginConfig(name="a", transport="https"))
    assert plugin == PluginConfig(
        name="a",
        type="http",
        transport=TransportType.HTTPS,
        enabled=True,
        auth=AuthConfig(method=AuthMethod.NONE),
        retry=ManagerConfig().default_retry,
        circuit_breaker=attrs.evolve(ManagerConfig().default_circuit_breaker, max_recovery_timeout=240.0),
        health_check=ManagerConfig().default_health_check,
        connection=ManagerConfig().default_connection,
        rate_limit=ManagerConfig().default_rate_limit,
    )


@pytest.mark.parametrize(
    ("transport", "kind"),
    [
        ("http", "http"),
        ("https", "http"),
        ("grpc", "grpc"),
        ("grpc-tls", "grpc"),
        ("unix", "unix"),
        ("exec", "exec"),
        ("python", "python"),
        (None, None),
    ],
)
def test_the_type_follows_from_the_transport(transport: str | None, kind: str | None) -> None:
    assert resolved(PluginConfig(transport=transport)).type == kind
    assert resolved(PluginConfig(transport=transport, type="mine")).type == "mine"


def test_known_fault_an_omitted_auth_was_refused() -> None:
    config = ManagerConfig.from_mapping({"plugins": [{"name": "a", "transport": "http", "endpoint": "http://h/"}]})
    config.validate()
    config.with_defaults().validate()


def test_fields_are_inherited_individually() -> None:
    plugin = resolved(
        PluginConfig(retry=RetryConfig(max_retries=0, random_jitter=False)),
        default_retry=RetryConfig(max_retries=7, initial_interval=0.5),
    )
    assert plugin.retry == RetryConfig(
        max_retries=0,
        initial_interval=0.5,
        max_interval=5.0,
        multiplier=2.0,
        random_jitter=False,
        idempotent=False,
        budget_ratio=0.2,
    )


def test_with_defaults_is_idempotent() -> None:
    config = ManagerConfig(
        log_level="debug",
        plugins=[
            PluginConfig(
                name="a",
                transport="unix",
                circuit_breaker=CircuitBreakerConfig(recovery_timeout=60.0),
                cache=CacheConfig(ttl=1.0),
                fallback=FallbackConfig(value=1),
            )
        ],
        load_balancers=[LoadBalancerConfig(name="g")],
    ).with_defaults()
    assert config.with_defaults() == config
    assert config.observability == ObservabilityConfig()


def test_resolve_applies_the_same_defaults_to_further_plugins() -> None:
    config = ManagerConfig(default_retry=RetryConfig(max_retries=9))
    plugin = PluginConfig(name="a", transport="http")
    expected = attrs.evolve(config, plugins=[plugin]).with_defaults().plugins[0]
    assert config.resolve(plugin) == config.with_defaults().resolve(plugin) == expected
    assert expected.retry is not None
    assert expected.retry.max_retries == 9


@pytest.mark.parametrize(
    ("breaker", "longest"),
    [
        (CircuitBreakerConfig(recovery_timeout=1.0), 8.0),
        (CircuitBreakerConfig(recovery_timeout=1.0, max_recovery_timeout=2.0), 2.0),
        (CircuitBreakerConfig(recovery_timeout=5.0, max_recovery_timeout=2.0), 5.0),
        (CircuitBreakerConfig(), 240.0),
    ],
)
def test_max_recovery_timeout_follows_from_recovery_timeout(breaker: CircuitBreakerConfig, longest: float) -> None:
    found = resolved(PluginConfig(circuit_breaker=breaker)).circuit_breaker
    assert found is not None
    assert found.max_recovery_timeout == longest


def test_max_recovery_timeout_follows_from_the_plugin_s_own_recovery_timeout() -> None:
    config = ManagerConfig().with_defaults()
    plugin = config.resolve(PluginConfig(circuit_breaker=CircuitBreakerConfig(recovery_timeout=100.0)))
    assert plugin.circuit_breaker is not None
    assert plugin.circuit_breaker.max_recovery_timeout == 800.0


def test_a_group_inherits_retries_and_timeout_but_no_limit() -> None:
    config = ManagerConfig(
        default_rate_limit=RateLimitConfig(enabled=True),
        default_connection=ConnectionConfig(request_timeout=3.0),
        load_balancers=[
            LoadBalancerConfig(name="g"),
            LoadBalancerConfig(name="h", rate_limit=RateLimitConfig(burst_size=1)),
        ],
    )
    first, second = config.with_defaults().load_balancers
    assert first.retry == ManagerConfig().default_retry
    assert first.request_timeout == 3.0
    assert first.rate_limit is not None
    assert second.rate_limit is not None
    assert (first.rate_limit.enabled, second.rate_limit.enabled) == (False, True)


def test_a_fallback_value_of_null_is_kept() -> None:
    for value in (None, 0, {}):
        assert resolved(PluginConfig(fallback=FallbackConfig(value=value))).fallback == FallbackConfig(
            value=value, reserve=0.0
        )


def test_completed_sections() -> None:
    assert completed(RetryConfig(max_retries=5)) == attrs.evolve(DEFAULT_RETRY, max_retries=5)
    assert completed(CircuitBreakerConfig(recovery_timeout=2.0)).max_recovery_timeout == 16.0
    assert completed(CacheConfig()).ttl is None
    assert completed(CacheConfig()).max_entries == 1024


def test_completed_checks_values() -> None:
    with pytest.raises(ConfigError) as caught:
        completed(RetryConfig(max_retries=-1, multiplier="2"))  # type: ignore[arg-type]
    assert [problem.path for problem in caught.value.problems] == ["max_retries", "multiplier"]
    assert "RetryConfig" in str(caught.value)
