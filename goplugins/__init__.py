"""A typed, blocking plugin client: calls by name over HTTP(S), gRPC, Unix sockets, subprocesses or in this process.

>>> import goplugins
>>> manager = goplugins.Manager()

Importing this package starts nothing, opens nothing and loads almost nothing: each public name is imported from its
module when it is first used.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

from goplugins._names import HOME_OF

if TYPE_CHECKING:
    from goplugins import serve as serve
    from goplugins._deadline import deadline as deadline
    from goplugins.balancing import (
        GroupExplanation as GroupExplanation,
        LoadBalancer as LoadBalancer,
        LoadBalancerStats as LoadBalancerStats,
        MemberExplanation as MemberExplanation,
    )
    from goplugins.bound import BoundPlugin as BoundPlugin
    from goplugins.config import (
        AuthConfig as AuthConfig,
        BulkheadConfig as BulkheadConfig,
        CacheConfig as CacheConfig,
        ChaosConfig as ChaosConfig,
        CircuitBreakerConfig as CircuitBreakerConfig,
        ConnectionConfig as ConnectionConfig,
        DiscoveryConfig as DiscoveryConfig,
        FallbackConfig as FallbackConfig,
        HealthCheckConfig as HealthCheckConfig,
        HedgeConfig as HedgeConfig,
        LoadBalancerConfig as LoadBalancerConfig,
        ManagerConfig as ManagerConfig,
        ObservabilityConfig as ObservabilityConfig,
        PluginConfig as PluginConfig,
        RateLimitConfig as RateLimitConfig,
        ReloadOptions as ReloadOptions,
        RetryConfig as RetryConfig,
    )
    from goplugins.discovery import (
        DiscoveredPlugin as DiscoveredPlugin,
        Discovery as Discovery,
        DiscoveryReport as DiscoveryReport,
        PluginManifest as PluginManifest,
    )
    from goplugins.errors import (
        AuthConfigError as AuthConfigError,
        AuthenticationError as AuthenticationError,
        BadReplyError as BadReplyError,
        BulkheadFullError as BulkheadFullError,
        CertificateError as CertificateError,
        CircuitBreakerOpenError as CircuitBreakerOpenError,
        CircuitBreakerTimeoutError as CircuitBreakerTimeoutError,
        ConfigError as ConfigError,
        ConfigFileError as ConfigFileError,
        ConfigSyntaxError as ConfigSyntaxError,
        ConnectionLostError as ConnectionLostError,
        DuplicatePluginNameError as DuplicatePluginNameError,
        ExecTransportError as ExecTransportError,
        GRPCTransportError as GRPCTransportError,
        HealthCheckFailedError as HealthCheckFailedError,
        HealthCheckTimeoutError as HealthCheckTimeoutError,
        HTTPTransportError as HTTPTransportError,
        InvalidArgumentError as InvalidArgumentError,
        InvalidCertificateError as InvalidCertificateError,
        InvalidConfigError as InvalidConfigError,
        InvalidEndpointFormatError as InvalidEndpointFormatError,
        InvalidEndpointURLError as InvalidEndpointURLError,
        InvalidHeaderError as InvalidHeaderError,
        InvalidPluginNameError as InvalidPluginNameError,
        InvalidTransportError as InvalidTransportError,
        LoadBalancerError as LoadBalancerError,
        ManagerClosedError as ManagerClosedError,
        MissingAPIKeyError as MissingAPIKeyError,
        MissingBasicCredentialsError as MissingBasicCredentialsError,
        MissingBearerTokenError as MissingBearerTokenError,
        MissingEndpointError as MissingEndpointError,
        MissingExecutableError as MissingExecutableError,
        MissingMTLSCertsError as MissingMTLSCertsError,
        MissingSocketPathError as MissingSocketPathError,
        NameResolutionError as NameResolutionError,
        NoAvailablePluginsError as NoAvailablePluginsError,
        NoPluginsConfiguredError as NoPluginsConfiguredError,
        PluginClosedError as PluginClosedError,
        PluginConnectionError as PluginConnectionError,
        PluginError as PluginError,
        PluginExecutionError as PluginExecutionError,
        PluginInternalError as PluginInternalError,
        PluginNotEnabledError as PluginNotEnabledError,
        PluginNotFoundError as PluginNotFoundError,
        PluginRequestError as PluginRequestError,
        PluginThrottledError as PluginThrottledError,
        PluginTimeoutError as PluginTimeoutError,
        PluginUnavailableError as PluginUnavailableError,
        RateLimitExceededError as RateLimitExceededError,
        ReloadError as ReloadError,
        RemoteCause as RemoteCause,
        Replay as Replay,
        ReplyMismatchError as ReplyMismatchError,
        ReplyTooLargeError as ReplyTooLargeError,
        ReplyTypeError as ReplyTypeError,
        SaturatedError as SaturatedError,
        TLSError as TLSError,
        TransportError as TransportError,
        TruncatedReplyError as TruncatedReplyError,
        UnexpectedRedirectError as UnexpectedRedirectError,
        UnixTransportError as UnixTransportError,
        UnresolvedVariableError as UnresolvedVariableError,
        UnserializableRequestError as UnserializableRequestError,
        UnsupportedAuthMethodError as UnsupportedAuthMethodError,
        UnsupportedTransportError as UnsupportedTransportError,
        Verdict as Verdict,
    )
    from goplugins.health import HealthChecker as HealthChecker, HealthMonitor as HealthMonitor
    from goplugins.manager import Manager as Manager
    from goplugins.metrics import (
        Latencies as Latencies,
        ManagerMetrics as ManagerMetrics,
        PluginMetrics as PluginMetrics,
    )
    from goplugins.models import (
        AuthMethod as AuthMethod,
        CallResult as CallResult,
        CircuitBreakerState as CircuitBreakerState,
        CircuitBreakerStats as CircuitBreakerStats,
        ExecutionContext as ExecutionContext,
        Explanation as Explanation,
        HealthStatus as HealthStatus,
        LoadBalancingStrategy as LoadBalancingStrategy,
        Plugin as Plugin,
        PluginFactory as PluginFactory,
        PluginInfo as PluginInfo,
        PluginStatus as PluginStatus,
        ReloadStrategy as ReloadStrategy,
        SpanStatusCode as SpanStatusCode,
        TransportType as TransportType,
    )
    from goplugins.observability.audit import (
        acting_as as acting_as,
    )
    from goplugins.observability.collector import (
        CounterMetric as CounterMetric,
        EnhancedMetricsCollector as EnhancedMetricsCollector,
        GaugeMetric as GaugeMetric,
        HistogramMetric as HistogramMetric,
        InMemoryCollector as InMemoryCollector,
        MetricsCollector as MetricsCollector,
        PrometheusBucket as PrometheusBucket,
        PrometheusMetric as PrometheusMetric,
    )
    from goplugins.observability.common import (
        CommonPluginMetrics as CommonPluginMetrics,
    )
    from goplugins.observability.events import (
        AttemptFinished as AttemptFinished,
        BreakerChanged as BreakerChanged,
        CallFinished as CallFinished,
        Event as Event,
        HealthChanged as HealthChanged,
        MemberEjected as MemberEjected,
        MemberReturned as MemberReturned,
        PluginAdded as PluginAdded,
        PluginControlled as PluginControlled,
        PluginRemoved as PluginRemoved,
        ReloadFinished as ReloadFinished,
    )
    from goplugins.observability.logs import (
        JSONFormatter as JSONFormatter,
    )
    from goplugins.observability.report import (
        GlobalMetrics as GlobalMetrics,
        ObservabilityReport as ObservabilityReport,
        PluginMetricsReport as PluginMetricsReport,
    )
    from goplugins.observability.stream import Subscription as Subscription
    from goplugins.observability.tracing import (
        Span as Span,
        TracingProvider as TracingProvider,
    )
    from goplugins.reload import (
        PluginDiff as PluginDiff,
        PluginOutcome as PluginOutcome,
        PluginReloader as PluginReloader,
        PluginUpdate as PluginUpdate,
        ReloadAction as ReloadAction,
        ReloadReport as ReloadReport,
    )
    from goplugins.resilience import (
        Bulkhead as Bulkhead,
        CircuitBreaker as CircuitBreaker,
        RateLimiter as RateLimiter,
        RetryBudget as RetryBudget,
    )
    from goplugins.sources import Origins as Origins, load_with_origins as load_with_origins
    from goplugins.transports.exec import ExecPlugin as ExecPlugin, ExecPluginFactory as ExecPluginFactory
    from goplugins.transports.function import (
        FunctionPlugin as FunctionPlugin,
        FunctionPluginFactory as FunctionPluginFactory,
    )
    from goplugins.transports.grpc import GRPCPlugin as GRPCPlugin, GRPCPluginFactory as GRPCPluginFactory
    from goplugins.transports.http import HTTPPlugin as HTTPPlugin, HTTPPluginFactory as HTTPPluginFactory
    from goplugins.transports.unix import (
        UnixSocketPlugin as UnixSocketPlugin,
        UnixSocketPluginFactory as UnixSocketPluginFactory,
    )
    from goplugins.watching import Watch as Watch

__version__ = "0.1.0"

__all__ = [
    "AttemptFinished",
    "AuthConfig",
    "AuthConfigError",
    "AuthMethod",
    "AuthenticationError",
    "BadReplyError",
    "BoundPlugin",
    "BreakerChanged",
    "Bulkhead",
    "BulkheadConfig",
    "BulkheadFullError",
    "CacheConfig",
    "CallFinished",
    "CallResult",
    "CertificateError",
    "ChaosConfig",
    "CircuitBreaker",
    "CircuitBreakerConfig",
    "CircuitBreakerOpenError",
    "CircuitBreakerState",
    "CircuitBreakerStats",
    "CircuitBreakerTimeoutError",
    "CommonPluginMetrics",
    "ConfigError",
    "ConfigFileError",
    "ConfigSyntaxError",
    "ConnectionConfig",
    "ConnectionLostError",
    "CounterMetric",
    "DiscoveredPlugin",
    "Discovery",
    "DiscoveryConfig",
    "DiscoveryReport",
    "DuplicatePluginNameError",
    "EnhancedMetricsCollector",
    "Event",
    "ExecPlugin",
    "ExecPluginFactory",
    "ExecTransportError",
    "ExecutionContext",
    "Explanation",
    "FallbackConfig",
    "FunctionPlugin",
    "FunctionPluginFactory",
    "GRPCPlugin",
    "GRPCPluginFactory",
    "GRPCTransportError",
    "GaugeMetric",
    "GlobalMetrics",
    "GroupExplanation",
    "HTTPPlugin",
    "HTTPPluginFactory",
    "HTTPTransportError",
    "HealthChanged",
    "HealthCheckConfig",
    "HealthCheckFailedError",
    "HealthCheckTimeoutError",
    "HealthChecker",
    "HealthMonitor",
    "HealthStatus",
    "HedgeConfig",
    "HistogramMetric",
    "InMemoryCollector",
    "InvalidArgumentError",
    "InvalidCertificateError",
    "InvalidConfigError",
    "InvalidEndpointFormatError",
    "InvalidEndpointURLError",
    "InvalidHeaderError",
    "InvalidPluginNameError",
    "InvalidTransportError",
    "JSONFormatter",
    "Latencies",
    "LoadBalancer",
    "LoadBalancerConfig",
    "LoadBalancerError",
    "LoadBalancerStats",
    "LoadBalancingStrategy",
    "Manager",
    "ManagerClosedError",
    "ManagerConfig",
    "ManagerMetrics",
    "MemberEjected",
    "MemberExplanation",
    "MemberReturned",
    "MetricsCollector",
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
    "ObservabilityReport",
    "Origins",
    "Plugin",
    "PluginAdded",
    "PluginClosedError",
    "PluginConfig",
    "PluginConnectionError",
    "PluginControlled",
    "PluginDiff",
    "PluginError",
    "PluginExecutionError",
    "PluginFactory",
    "PluginInfo",
    "PluginInternalError",
    "PluginManifest",
    "PluginMetrics",
    "PluginMetricsReport",
    "PluginNotEnabledError",
    "PluginNotFoundError",
    "PluginOutcome",
    "PluginReloader",
    "PluginRemoved",
    "PluginRequestError",
    "PluginStatus",
    "PluginThrottledError",
    "PluginTimeoutError",
    "PluginUnavailableError",
    "PluginUpdate",
    "PrometheusBucket",
    "PrometheusMetric",
    "RateLimitConfig",
    "RateLimitExceededError",
    "RateLimiter",
    "ReloadAction",
    "ReloadError",
    "ReloadFinished",
    "ReloadOptions",
    "ReloadReport",
    "ReloadStrategy",
    "RemoteCause",
    "Replay",
    "ReplyMismatchError",
    "ReplyTooLargeError",
    "ReplyTypeError",
    "RetryBudget",
    "RetryConfig",
    "SaturatedError",
    "Span",
    "SpanStatusCode",
    "Subscription",
    "TLSError",
    "TracingProvider",
    "TransportError",
    "TransportType",
    "TruncatedReplyError",
    "UnexpectedRedirectError",
    "UnixSocketPlugin",
    "UnixSocketPluginFactory",
    "UnixTransportError",
    "UnresolvedVariableError",
    "UnserializableRequestError",
    "UnsupportedAuthMethodError",
    "UnsupportedTransportError",
    "Verdict",
    "Watch",
    "__version__",
    "acting_as",
    "deadline",
    "load_with_origins",
    "serve",
]

logging.getLogger("goplugins").addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    if name in HOME_OF:
        value = getattr(importlib.import_module(HOME_OF[name]), name)
    elif name == "serve":
        value = importlib.import_module("goplugins.serve")
    else:
        raise AttributeError(f"module 'goplugins' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
