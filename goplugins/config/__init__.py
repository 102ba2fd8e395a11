"""The configuration of managers and plugins: frozen values, with the field names of the Go library's JSON."""

from __future__ import annotations

from goplugins.config.chaos import ChaosConfig
from goplugins.config.credentials import AuthConfig
from goplugins.config.durations import format_go_duration, parse_duration
from goplugins.config.manager import ManagerConfig
from goplugins.config.manager_sections import (
    DiscoveryConfig,
    LoadBalancerConfig,
    LoadBalancerMember,
    ObservabilityConfig,
    ReloadOptions,
)
from goplugins.config.operations import OperationConfig
from goplugins.config.plugin import PluginConfig
from goplugins.config.plugin_sections import (
    BulkheadConfig,
    CacheConfig,
    CircuitBreakerConfig,
    ConnectionConfig,
    FallbackConfig,
    HealthCheckConfig,
    HedgeConfig,
    RateLimitConfig,
    RetryConfig,
)

__all__ = [
    "AuthConfig",
    "BulkheadConfig",
    "CacheConfig",
    "ChaosConfig",
    "CircuitBreakerConfig",
    "ConnectionConfig",
    "DiscoveryConfig",
    "FallbackConfig",
    "HealthCheckConfig",
    "HedgeConfig",
    "LoadBalancerConfig",
    "LoadBalancerMember",
    "ManagerConfig",
    "ObservabilityConfig",
    "OperationConfig",
    "PluginConfig",
    "RateLimitConfig",
    "ReloadOptions",
    "RetryConfig",
    "format_go_duration",
    "parse_duration",
]
