"""Properties of configurations, durations and merged settings."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import attrs
from hypothesis import example, given, settings, strategies as st

from goplugins.config import (
    AuthConfig,
    CacheConfig,
    CircuitBreakerConfig,
    ConnectionConfig,
    DiscoveryConfig,
    FallbackConfig,
    HealthCheckConfig,
    LoadBalancerConfig,
    LoadBalancerMember,
    ManagerConfig,
    ObservabilityConfig,
    PluginConfig,
    RateLimitConfig,
    RetryConfig,
    format_go_duration,
    parse_duration,
)
from goplugins.config.field_types import MAX_SECONDS
from goplugins.config.manager import load
from goplugins.enums import AuthMethod, LoadBalancingStrategy, TransportType
from goplugins.errors import ConfigError, InvalidArgumentError

texts = st.text(st.characters(codec="utf-8", exclude_characters="$"), max_size=12)
tables = st.dictionaries(texts, texts, max_size=3)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
seconds = st.floats(1e-9, MAX_SECONDS)
seconds_or_zero = st.just(0.0) | seconds
counts = st.integers(0, 2**40)
positives = st.integers(1, 2**40)
switches = st.booleans()
shares = st.floats(0, 1)
positive_shares = st.floats(0, 1, exclude_min=True)


def built(cls: type[Any], **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Instances with any subset of their fields set."""
    return st.fixed_dictionaries({}, optional=fields).map(lambda values: cls(**values))


auths = built(
    AuthConfig,
    method=st.sampled_from(AuthMethod),
    api_key=texts,
    token=texts,
    username=texts,
    password=texts,
    cert_file=texts,
    key_file=texts,
    ca_file=texts,
    headers=tables,
)
retries = built(
    RetryConfig,
    max_retries=counts,
    initial_interval=seconds_or_zero,
    max_interval=seconds_or_zero,
    multiplier=st.floats(1, 1e6),
    random_jitter=switches,
    idempotent=switches,
    budget_ratio=shares,
)
breakers = built(
    CircuitBreakerConfig,
    enabled=switches,
    failure_threshold=positives,
    recovery_timeout=seconds,
    min_request_threshold=positives,
    success_threshold=positives,
    max_recovery_timeout=seconds,
    window=seconds,
    failure_rate=positive_shares,
    slow_call_duration=seconds,
    slow_call_rate=positive_shares,
    metrics_only=switches,
)
checks = built(
    HealthCheckConfig, enabled=switches, interval=seconds, timeout=seconds, failure_limit=positives, endpoint=texts
)
connections = built(
    ConnectionConfig,
    max_connections=positives,
    max_idle_connections=counts,
    idle_timeout=seconds,
    connection_timeout=seconds,
    request_timeout=seconds,
    keep_alive=switches,
    disable_compression=switches,
    max_response_bytes=positives,
)
limits = built(
    RateLimitConfig,
    enabled=switches,
    requests_per_second=st.floats(0, 1e9, exclude_min=True),
    burst_size=positives,
    time_window=seconds,
    max_wait=seconds_or_zero,
)
fallbacks = built(
    FallbackConfig, plugin=texts, value=json_values, on=st.sampled_from([(), ("rate-limit",)]), reserve=seconds_or_zero
)
caches = built(
    CacheConfig,
    ttl=seconds,
    max_entries=positives,
    stale_if_error=seconds_or_zero,
    vary_headers=st.lists(texts, max_size=2),
)
plugins = built(
    PluginConfig,
    name=texts,
    type=texts.filter(lambda text: text not in {"", "http", "grpc", "unix", "exec", "python"}),
    transport=st.sampled_from(TransportType),
    endpoint=texts,
    priority=st.integers(-100, 100),
    enabled=switches,
    executable=texts,
    args=st.lists(texts, max_size=3),
    env=st.lists(texts, max_size=3),
    work_dir=texts,
    auth=auths,
    retry=retries,
    circuit_breaker=breakers,
    health_check=checks,
    connection=connections,
    rate_limit=limits,
    fallback=fallbacks,
    cache=caches,
    labels=tables,
    annotations=tables,
)
groups = built(
    LoadBalancerConfig,
    name=texts,
    strategy=st.sampled_from(LoadBalancingStrategy),
    members=st.lists(
        built(LoadBalancerMember, name=texts, weight=positives, priority=st.integers(-9, 9), enabled=switches),
        max_size=3,
    ),
    max_ejection_percent=st.integers(0, 100),
    slow_start=seconds_or_zero,
    request_timeout=seconds,
    retry=retries,
    rate_limit=limits,
    fallback=fallbacks,
)
managers = built(
    ManagerConfig,
    log_level=st.sampled_from(["debug", "info", "warn", "warning", "error", "critical"]),
    metrics_port=st.integers(0, 65535),
    default_retry=retries,
    default_circuit_breaker=breakers,
    default_health_check=checks,
    default_connection=connections,
    default_rate_limit=limits,
    plugins=st.lists(plugins, max_size=3),
    discovery=built(DiscoveryConfig, enabled=switches, directories=st.lists(texts, max_size=2), watch_mode=switches),
    load_balancers=st.lists(groups, max_size=2),
    observability=built(ObservabilityConfig, metrics_enabled=switches, tracing_sample_rate=shares),
)


@given(managers)
@settings(max_examples=60, deadline=None)
def test_a_written_configuration_is_read_unchanged(config: ManagerConfig) -> None:
    assert ManagerConfig.from_mapping(json.loads(config.to_json(include_secrets=True))) == config


@given(managers)
@settings(max_examples=40, deadline=None)
def test_resolving_is_idempotent_and_sets_all_fields(config: ManagerConfig) -> None:
    resolved = config.with_defaults()
    assert resolved.with_defaults() == resolved
    optional = {"window", "failure_rate", "slow_call_duration", "slow_call_rate", "endpoint"}
    optional |= {"attempt_timeout", "statuses", "kind", "max_lifetime"}
    for plugin in resolved.plugins:
        for section in (
            plugin.retry,
            plugin.circuit_breaker,
            plugin.health_check,
            plugin.connection,
            plugin.rate_limit,
        ):
            assert section is not None
            unset = {name for name, value in attrs.asdict(section).items() if value is None}
            assert unset <= optional


@given(plugin=plugins, defaults=retries, limit=limits, default_limit=limits)
@settings(max_examples=60, deadline=None)
def test_set_fields_are_kept_and_others_are_inherited(
    plugin: PluginConfig, defaults: RetryConfig, limit: RateLimitConfig, default_limit: RateLimitConfig
) -> None:
    config = ManagerConfig(
        plugins=[attrs.evolve(plugin, rate_limit=limit)], default_retry=defaults, default_rate_limit=default_limit
    )
    resolved = config.with_defaults().plugins[0]
    for own, default, production, result in [
        (plugin.retry or RetryConfig(), defaults, ManagerConfig().default_retry, resolved.retry),
        (limit, default_limit, ManagerConfig().default_rate_limit, resolved.rate_limit),
    ]:
        for field in attrs.fields(type(own)):
            candidates = [getattr(section, field.name) for section in (own, default, production)]
            assert getattr(result, field.name) == next((value for value in candidates if value is not None), None)


def problems_of(action: Callable[..., object], *args: Any, **how: Any) -> tuple[ConfigError, ...]:
    """The problems of a ConfigError; any other exception fails the test."""
    try:
        action(*args, **how)
    except ConfigError as error:
        return error.problems
    return ()


def assert_helpful(problems: tuple[ConfigError, ...]) -> None:
    for problem in problems:
        assert problem.path
        assert problem.fix
        assert problem.path in str(problem)
        assert problem.fix in str(problem)


@given(managers)
@settings(max_examples=30, deadline=None)
def test_validate_raises_only_config_errors_with_path_and_fix(config: ManagerConfig) -> None:
    assert_helpful(problems_of(config.validate, registered=()))


field_names = st.sampled_from([*(field.name for field in attrs.fields(ManagerConfig)), "other"])


@given(st.dictionaries(field_names, json_values, max_size=4))
@settings(max_examples=100, deadline=None)
def test_reading_any_value_raises_only_config_errors(values: dict[str, Any]) -> None:
    assert_helpful(problems_of(ManagerConfig.from_mapping, values))
    assert_helpful(problems_of(ManagerConfig.from_go_json, json.dumps(values)))
    assert_helpful(problems_of(load, values, environ={}))


@given(st.integers(-(2**62), 2**62))
@example(4503599627370491)  # float rounding: its product with 1e9 equals that of another number
def test_a_go_duration_is_the_nearest_number_of_seconds(nanoseconds: int) -> None:
    value = nanoseconds / 10**9
    # Up to 104 days a float is exact to the nanosecond; for longer durations the text is that of the float.
    text = format_go_duration(value)
    exact = abs(nanoseconds) < 2**52
    assert math.isclose(parse_duration(text), value, rel_tol=0 if exact else 1e-15)
    assert not exact or parse_duration(text) == value
    assert format_go_duration(parse_duration(text)) == text or not exact


@given(st.text("0123456789.hmsunµ+-e ", max_size=12))
def test_any_text_is_a_duration_or_raises_its_error(text: str) -> None:
    try:
        assert math.isfinite(parse_duration(text))
    except InvalidArgumentError as error:
        message = str(error)
    else:
        return
    assert "write" in message or "longest" in message
