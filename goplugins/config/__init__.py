"""The configuration of managers and plugins: frozen values with the field names of the Go library's JSON."""

from __future__ import annotations

from goplugins.config.durations import format_go_duration, parse_duration
from goplugins.config.manager import ManagerConfig
from goplugins.config.plugin import PluginConfig
from goplugins.config.sections import (
    AuthConfig,
    CacheConfig,
    CircuitBreakerConfig,
    ConnectionConfig,
    FallbackConfig,
    HealthCheckConfig,
    RateLimitConfig,
    RetryConfig,
)
from goplugins.config.services import (
    DiscoveryConfig,
    LoadBalancerConfig,
    LoadBalancerMember,
    ObservabilityConfig,
    ReloadOptions,
)

__all__ = [
    "AuthConfig",
    "CacheConfig",
    "CircuitBreakerConfig",
    "ConnectionConfig",
    "DiscoveryConfig",
    "FallbackConfig",
    "HealthCheckConfig",
    "LoadBalancerConfig",
    "LoadBalancerMember",
    "ManagerConfig",
    "ObservabilityConfig",
    "PluginConfig",
    "RateLimitConfig",
    "ReloadOptions",
    "RetryConfig",
    "format_go_duration",
    "parse_duration",
]
