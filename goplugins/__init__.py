"""A typed, blocking plugin client: calls by name over HTTP(S), with every policy on the path.

>>> import goplugins
>>> manager = goplugins.Manager()

Importing this package starts nothing, opens nothing and loads almost nothing: each public name is imported from its
module when it is first used.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from goplugins import serve as serve
    from goplugins._deadline import (
        deadline as deadline,
    )
    from goplugins.bound import (
        BoundPlugin as BoundPlugin,
    )
    from goplugins.config import (
        AuthConfig as AuthConfig,
    )
    from goplugins.config import (
        CacheConfig as CacheConfig,
    )
    from goplugins.config import (
        CircuitBreakerConfig as CircuitBreakerConfig,
    )
    from goplugins.config import (
        ConnectionConfig as ConnectionConfig,
    )
    from goplugins.config import (
        DiscoveryConfig as DiscoveryConfig,
    )
    from goplugins.config import (
        FallbackConfig as FallbackConfig,
    )
    from goplugins.config import (
        HealthCheckConfig as HealthCheckConfig,
    )
    from goplugins.config import (
        LoadBalancerConfig as LoadBalancerConfig,
    )
    from goplugins.config import (
        ManagerConfig as ManagerConfig,
    )
    from goplugins.config import (
        ObservabilityConfig as ObservabilityConfig,
    )
    from goplugins.config import (
        PluginConfig as PluginConfig,
    )
    from goplugins.config import (
        RateLimitConfig as RateLimitConfig,
    )
    from goplugins.config import (
        ReloadOptions as ReloadOptions,
    )
    from goplugins.config import (
        RetryConfig as RetryConfig,
    )
    from goplugins.errors import (
        AuthConfigError as AuthConfigError,
    )
    from goplugins.errors import (
        AuthenticationError as AuthenticationError,
    )
    from goplugins.errors import (
        BadReplyError as BadReplyError,
    )
    from goplugins.errors import (
        CertificateError as CertificateError,
    )
    from goplugins.errors import (
        CircuitBreakerOpenError as CircuitBreakerOpenError,
    )
    from goplugins.errors import (
        CircuitBreakerTimeoutError as CircuitBreakerTimeoutError,
    )
    from goplugins.errors import (
        ConfigError as ConfigError,
    )
    from goplugins.errors import (
        ConfigFileError as ConfigFileError,
    )
    from goplugins.errors import (
        ConfigSyntaxError as ConfigSyntaxError,
    )
    from goplugins.errors import (
        ConnectionLostError as ConnectionLostError,
    )
    from goplugins.errors import (
        DuplicatePluginNameError as DuplicatePluginNameError,
    )
    from goplugins.errors import (
        ExecTransportError as ExecTransportError,
    )
    from goplugins.errors import (
        GRPCTransportError as GRPCTransportError,
    )
    from goplugins.errors import (
        HealthCheckFailedError as HealthCheckFailedError,
    )
    from goplugins.errors import (
        HealthCheckTimeoutError as HealthCheckTimeoutError,
    )
    from goplugins.errors import (
        HTTPTransportError as HTTPTransportError,
    )
    from goplugins.errors import (
        InvalidArgumentError as InvalidArgumentError,
    )
    from goplugins.errors import (
        InvalidCertificateError as InvalidCertificateError,
    )
    from goplugins.errors import (
        InvalidConfigError as InvalidConfigError,
    )
    from goplugins.errors import (
        InvalidEndpointFormatError as InvalidEndpointFormatError,
    )
    from goplugins.errors import (
        InvalidEndpointURLError as InvalidEndpointURLError,
    )
    from goplugins.errors import (
        InvalidHeaderError as InvalidHeaderError,
    )
    from goplugins.errors import (
        InvalidPluginNameError as InvalidPluginNameError,
    )
    from goplugins.errors import (
        InvalidTransportError as InvalidTransportError,
    )
    from goplugins.errors import (
        LoadBalancerError as LoadBalancerError,
    )
    from goplugins.errors import (
        ManagerClosedError as ManagerClosedError,
    )
    from goplugins.errors import (
        MissingAPIKeyError as MissingAPIKeyError,
    )
    from goplugins.errors import (
        MissingBasicCredentialsError as MissingBasicCredentialsError,
    )
    from goplugins.errors import (
        MissingBearerTokenError as MissingBearerTokenError,
    )
    from goplugins.errors import (
        MissingEndpointError as MissingEndpointError,
    )
    from goplugins.errors import (
        MissingExecutableError as MissingExecutableError,
    )
    from goplugins.errors import (
        MissingMTLSCertsError as MissingMTLSCertsError,
    )
    from goplugins.errors import (
        MissingSocketPathError as MissingSocketPathError,
    )
    from goplugins.errors import (
        NameResolutionError as NameResolutionError,
    )
    from goplugins.errors import (
        NoAvailablePluginsError as NoAvailablePluginsError,
    )
    from goplugins.errors import (
        NoPluginsConfiguredError as NoPluginsConfiguredError,
    )
    from goplugins.errors import (
        PluginClosedError as PluginClosedError,
    )
    from goplugins.errors import (
        PluginConnectionError as PluginConnectionError,
    )
    from goplugins.errors import (
        PluginError as PluginError,
    )
    from goplugins.errors import (
        PluginExecutionError as PluginExecutionError,
    )
    from goplugins.errors import (
        PluginInternalError as PluginInternalError,
    )
    from goplugins.errors import (
        PluginNotEnabledError as PluginNotEnabledError,
    )
    from goplugins.errors import (
        PluginNotFoundError as PluginNotFoundError,
    )
    from goplugins.errors import (
        PluginRequestError as PluginRequestError,
    )
    from goplugins.errors import (
        PluginThrottledError as PluginThrottledError,
    )
    from goplugins.errors import (
        PluginTimeoutError as PluginTimeoutError,
    )
    from goplugins.errors import (
        PluginUnavailableError as PluginUnavailableError,
    )
    from goplugins.errors import (
        RateLimitExceededError as RateLimitExceededError,
    )
    from goplugins.errors import (
        RemoteCause as RemoteCause,
    )
    from goplugins.errors import (
        Replay as Replay,
    )
    from goplugins.errors import (
        ReplyMismatchError as ReplyMismatchError,
    )
    from goplugins.errors import (
        ReplyTooLargeError as ReplyTooLargeError,
    )
    from goplugins.errors import (
        ReplyTypeError as ReplyTypeError,
    )
    from goplugins.errors import (
        SaturatedError as SaturatedError,
    )
    from goplugins.errors import (
        TLSError as TLSError,
    )
    from goplugins.errors import (
        TransportError as TransportError,
    )
    from goplugins.errors import (
        TruncatedReplyError as TruncatedReplyError,
    )
    from goplugins.errors import (
        UnexpectedRedirectError as UnexpectedRedirectError,
    )
    from goplugins.errors import (
        UnixTransportError as UnixTransportError,
    )
    from goplugins.errors import (
        UnresolvedVariableError as UnresolvedVariableError,
    )
    from goplugins.errors import (
        UnserializableRequestError as UnserializableRequestError,
    )
    from goplugins.errors import (
        UnsupportedAuthMethodError as UnsupportedAuthMethodError,
    )
    from goplugins.errors import (
        UnsupportedTransportError as UnsupportedTransportError,
    )
    from goplugins.errors import (
        Verdict as Verdict,
    )
    from goplugins.health import (
        HealthChecker as HealthChecker,
    )
    from goplugins.health import (
        HealthMonitor as HealthMonitor,
    )
    from goplugins.manager import (
        Manager as Manager,
    )
    from goplugins.models import (
        AuthMethod as AuthMethod,
    )
    from goplugins.models import (
        CallResult as CallResult,
    )
    from goplugins.models import (
        CircuitBreakerState as CircuitBreakerState,
    )
    from goplugins.models import (
        CircuitBreakerStats as CircuitBreakerStats,
    )
    from goplugins.models import (
        ExecutionContext as ExecutionContext,
    )
    from goplugins.models import (
        Explanation as Explanation,
    )
    from goplugins.models import (
        HealthStatus as HealthStatus,
    )
    from goplugins.models import (
        LoadBalancingStrategy as LoadBalancingStrategy,
    )
    from goplugins.models import (
        ManagerMetrics as ManagerMetrics,
    )
    from goplugins.models import (
        Plugin as Plugin,
    )
    from goplugins.models import (
        PluginFactory as PluginFactory,
    )
    from goplugins.models import (
        PluginInfo as PluginInfo,
    )
    from goplugins.models import (
        PluginMetrics as PluginMetrics,
    )
    from goplugins.models import (
        PluginStatus as PluginStatus,
    )
    from goplugins.models import (
        ReloadStrategy as ReloadStrategy,
    )
    from goplugins.models import (
        SpanStatusCode as SpanStatusCode,
    )
    from goplugins.models import (
        TransportType as TransportType,
    )
    from goplugins.resilience import (
        CircuitBreaker as CircuitBreaker,
    )
    from goplugins.resilience import (
        RateLimiter as RateLimiter,
    )
    from goplugins.resilience import (
        RetryBudget as RetryBudget,
    )
    from goplugins.transports.http import (
        HTTPPlugin as HTTPPlugin,
    )
    from goplugins.transports.http import (
        HTTPPluginFactory as HTTPPluginFactory,
    )

__version__ = "0.1.0"

_HOMES = {
    "goplugins._deadline": ("deadline",),
    "goplugins.bound": ("BoundPlugin",),
    "goplugins.config": (
        "AuthConfig",
        "CacheConfig",
        "CircuitBreakerConfig",
        "ConnectionConfig",
        "DiscoveryConfig",
        "FallbackConfig",
        "HealthCheckConfig",
        "LoadBalancerConfig",
        "ManagerConfig",
        "ObservabilityConfig",
        "PluginConfig",
        "RateLimitConfig",
        "ReloadOptions",
        "RetryConfig",
    ),
    "goplugins.errors": (
        "AuthConfigError",
        "AuthenticationError",
        "BadReplyError",
        "CertificateError",
        "CircuitBreakerOpenError",
        "CircuitBreakerTimeoutError",
        "ConfigError",
        "ConfigFileError",
        "ConfigSyntaxError",
        "ConnectionLostError",
        "DuplicatePluginNameError",
        "ExecTransportError",
        "GRPCTransportError",
        "HTTPTransportError",
        "HealthCheckFailedError",
        "HealthCheckTimeoutError",
        "InvalidArgumentError",
        "InvalidCertificateError",
        "InvalidConfigError",
        "InvalidEndpointFormatError",
        "InvalidEndpointURLError",
        "InvalidHeaderError",
        "InvalidPluginNameError",
        "InvalidTransportError",
        "LoadBalancerError",
        "ManagerClosedError",
        "MissingAPIKeyError",
        "MissingBasicCredentialsError",
        "MissingBearerTokenError",
        "MissingEndpointError",
        "MissingExecutableError",
        "MissingMTLSCertsError",
        "MissingSocketPathError",
        "NameResolutionError",
        "NoAvailablePluginsError",
        "NoPluginsConfiguredError",
        "PluginClosedError",
        "PluginConnectionError",
        "PluginError",
        "PluginExecutionError",
        "PluginInternalError",
        "PluginNotEnabledError",
        "PluginNotFoundError",
        "PluginRequestError",
        "PluginThrottledError",
        "PluginTimeoutError",
        "PluginUnavailableError",
        "RateLimitExceededError",
        "RemoteCause",
        "Replay",
        "ReplyMismatchError",
        "ReplyTooLargeError",
        "ReplyTypeError",
        "SaturatedError",
        "TLSError",
        "TransportError",
        "TruncatedReplyError",
        "UnexpectedRedirectError",
        "UnixTransportError",
        "UnresolvedVariableError",
        "UnserializableRequestError",
        "UnsupportedAuthMethodError",
        "UnsupportedTransportError",
        "Verdict",
    ),
    "goplugins.health": (
        "HealthChecker",
        "HealthMonitor",
    ),
    "goplugins.manager": ("Manager",),
    "goplugins.models": (
        "AuthMethod",
        "CallResult",
        "CircuitBreakerState",
        "CircuitBreakerStats",
        "ExecutionContext",
        "Explanation",
        "HealthStatus",
        "LoadBalancingStrategy",
        "ManagerMetrics",
        "Plugin",
        "PluginFactory",
        "PluginInfo",
        "PluginMetrics",
        "PluginStatus",
        "ReloadStrategy",
        "SpanStatusCode",
        "TransportType",
    ),
    "goplugins.resilience": (
        "CircuitBreaker",
        "RateLimiter",
        "RetryBudget",
    ),
    "goplugins.transports.http": (
        "HTTPPlugin",
        "HTTPPluginFactory",
    ),
}

_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AuthConfig",
    "AuthConfigError",
    "AuthMethod",
    "AuthenticationError",
    "BadReplyError",
    "BoundPlugin",
    "CacheConfig",
    "CallResult",
    "CertificateError",
    "CircuitBreaker",
    "CircuitBreakerConfig",
    "CircuitBreakerOpenError",
    "CircuitBreakerState",
    "CircuitBreakerStats",
    "CircuitBreakerTimeoutError",
    "ConfigError",
    "ConfigFileError",
    "ConfigSyntaxError",
    "ConnectionConfig",
    "ConnectionLostError",
    "DiscoveryConfig",
    "DuplicatePluginNameError",
    "ExecTransportError",
    "ExecutionContext",
    "Explanation",
    "FallbackConfig",
    "GRPCTransportError",
    "HTTPPlugin",
    "HTTPPluginFactory",
    "HTTPTransportError",
    "HealthCheckConfig",
    "HealthCheckFailedError",
    "HealthCheckTimeoutError",
    "HealthChecker",
    "HealthMonitor",
    "HealthStatus",
    "InvalidArgumentError",
    "InvalidCertificateError",
    "InvalidConfigError",
    "InvalidEndpointFormatError",
    "InvalidEndpointURLError",
    "InvalidHeaderError",
    "InvalidPluginNameError",
    "InvalidTransportError",
    "LoadBalancerConfig",
    "LoadBalancerError",
    "LoadBalancingStrategy",
    "Manager",
    "ManagerClosedError",
    "ManagerConfig",
    "ManagerMetrics",
    "MissingAPIKeyError",
    "MissingBasicCredentialsError",
    "MissingBearerTokenError",
    "MissingEndpointError",
    "MissingExecutableError",
    "MissingMTLSCertsError",
    "MissingSocketPathError",
    "NameResolutionError",
    "NoAvailablePluginsError",
    "NoPluginsConfiguredError",
    "ObservabilityConfig",
    "Plugin",
    "PluginClosedError",
    "PluginConfig",
    "PluginConnectionError",
    "PluginError",
    "PluginExecutionError",
    "PluginFactory",
    "PluginInfo",
    "PluginInternalError",
    "PluginMetrics",
    "PluginNotEnabledError",
    "PluginNotFoundError",
    "PluginRequestError",
    "PluginStatus",
    "PluginThrottledError",
    "PluginTimeoutError",
    "PluginUnavailableError",
    "RateLimitConfig",
    "RateLimitExceededError",
    "RateLimiter",
    "ReloadOptions",
    "ReloadStrategy",
    "RemoteCause",
    "Replay",
    "ReplyMismatchError",
    "ReplyTooLargeError",
    "ReplyTypeError",
    "RetryBudget",
    "RetryConfig",
    "SaturatedError",
    "SpanStatusCode",
    "TLSError",
    "TransportError",
    "TransportType",
    "TruncatedReplyError",
    "UnexpectedRedirectError",
    "UnixTransportError",
    "UnresolvedVariableError",
    "UnserializableRequestError",
    "UnsupportedAuthMethodError",
    "UnsupportedTransportError",
    "Verdict",
    "__version__",
    "deadline",
    "serve",
]

logging.getLogger("goplugins").addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        value = getattr(importlib.import_module(_HOME_OF[name]), name)
    elif name == "serve":
        value = importlib.import_module("goplugins.serve")
    else:
        raise AttributeError(f"module 'goplugins' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
