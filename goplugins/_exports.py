"""The public names and the modules that define them: ``__all__``, lazy imports and the type stub come from this table.

``python -m goplugins._exports`` prints the stub ``goplugins/__init__.pyi``; ``make format`` writes it.
"""

from __future__ import annotations

__all__ = ["MODULE_OF", "PUBLIC_NAMES", "stub"]

_MODULES: dict[str, tuple[str, ...]] = {
    "goplugins._version": ("__version__",),
    "goplugins.balancing": (
        "LoadBalancer",
        "LoadBalancerStats",
    ),
    "goplugins.config": (
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
        "ManagerConfig",
        "ObservabilityConfig",
        "OperationConfig",
        "PluginConfig",
        "RateLimitConfig",
        "ReloadOptions",
        "RetryConfig",
    ),
    "goplugins.config.diff": (
        "PluginDiff",
        "PluginUpdate",
    ),
    "goplugins.discovery": (
        "DiscoveredPlugin",
        "Discovery",
        "DiscoveryReport",
        "PluginManifest",
    ),
    "goplugins.discovery.origins": (
        "Origins",
        "load_with_origins",
    ),
    "goplugins.enums": (
        "AuthMethod",
        "CircuitBreakerState",
        "LoadBalancingStrategy",
        "PluginStatus",
        "ReloadStrategy",
        "SpanStatusCode",
        "TransportType",
    ),
    "goplugins.errors": (
        "AuthConfigError",
        "AuthenticationError",
        "BadReplyError",
        "BulkheadFullError",
        "CertificateError",
        "CircuitBreakerOpenError",
        "CircuitBreakerTimeoutError",
        "ConfigError",
        "ConfigFileError",
        "ConfigSyntaxError",
        "ConnectionLostError",
        "CredentialsProviderError",
        "DuplicatePluginNameError",
        "ExecTransportError",
        "GRPCTransportError",
        "HTTPTransportError",
        "HealthCheckFailedError",
        "HealthCheckTimeoutError",
        "InterceptorError",
        "InvalidArgumentError",
        "InvalidCertificateError",
        "InvalidConfigError",
        "InvalidEndpointFormatError",
        "InvalidEndpointURLError",
        "InvalidHeaderError",
        "InvalidPluginNameError",
        "InvalidTransportError",
        "LoadBalancerError",
        "LocalResourceError",
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
        "OperationNotFoundError",
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
        "ReloadError",
        "RemoteCause",
        "Replay",
        "ReplyMismatchError",
        "ReplyTooLargeError",
        "ReplyTypeError",
        "SaturatedError",
        "TLSError",
        "TokenRefusedError",
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
    "goplugins.manager.bound": ("BoundPlugin",),
    "goplugins.manager.config_watch": ("Watch",),
    "goplugins.manager.manager": ("Manager",),
    "goplugins.manager.pages": ("Pages",),
    "goplugins.manager.plugin_control": ("PluginControl",),
    "goplugins.manager.reloader": ("PluginReloader",),
    "goplugins.models.call_info": ("CallInfo",),
    "goplugins.models.context": ("ExecutionContext",),
    "goplugins.models.explanation": (
        "Explanation",
        "GroupExplanation",
        "MemberExplanation",
    ),
    "goplugins.models.file": ("File",),
    "goplugins.models.json_fields": ("json_fields",),
    "goplugins.models.metrics": (
        "Latencies",
        "ManagerMetrics",
        "OperationMetrics",
        "PluginMetrics",
    ),
    "goplugins.models.outgoing": ("OutgoingRequest",),
    "goplugins.models.plugin": (
        "OperationInfo",
        "Plugin",
        "PluginInfo",
    ),
    "goplugins.models.results": (
        "CallResult",
        "CircuitBreakerStats",
        "HealthStatus",
    ),
    "goplugins.observability.audit": ("acting_as",),
    "goplugins.observability.call_log": ("JSONFormatter",),
    "goplugins.observability.common_metrics": ("CommonPluginMetrics",),
    "goplugins.observability.event_stream": ("Subscription",),
    "goplugins.observability.events": (
        "AttemptFinished",
        "BreakerChanged",
        "CallFinished",
        "Event",
        "HealthChanged",
        "MemberEjected",
        "MemberReturned",
        "PluginAdded",
        "PluginControlled",
        "PluginRemoved",
        "ReloadFinished",
    ),
    "goplugins.observability.metrics_collector": (
        "CounterMetric",
        "EnhancedMetricsCollector",
        "GaugeMetric",
        "HistogramMetric",
        "InMemoryCollector",
        "MetricsCollector",
        "PrometheusBucket",
        "PrometheusMetric",
    ),
    "goplugins.observability.reload_report": (
        "PluginOutcome",
        "ReloadAction",
        "ReloadReport",
    ),
    "goplugins.observability.report": (
        "GlobalMetrics",
        "ObservabilityReport",
        "PluginMetricsReport",
    ),
    "goplugins.observability.spans": (
        "Span",
        "TracingProvider",
    ),
    "goplugins.resilience": (
        "Bulkhead",
        "CircuitBreaker",
        "RateLimiter",
        "RetryBudget",
    ),
    "goplugins.runtime.deadline": ("deadline",),
    "goplugins.serve.in_process": (
        "FunctionPlugin",
        "FunctionPluginFactory",
    ),
    "goplugins.transports.exec": (
        "ExecPlugin",
        "ExecPluginFactory",
    ),
    "goplugins.transports.grpc": (
        "GRPCPlugin",
        "GRPCPluginFactory",
    ),
    "goplugins.transports.http": (
        "HTTPPlugin",
        "HTTPPluginFactory",
    ),
    "goplugins.transports.interface": ("PluginFactory",),
    "goplugins.transports.unix": (
        "UnixSocketPlugin",
        "UnixSocketPluginFactory",
    ),
}

MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}
"""Public name -> the module that defines it."""

PUBLIC_NAMES = sorted([*MODULE_OF, "serve"])


def stub() -> str:
    """The text of ``goplugins/__init__.pyi``."""
    lines = ["# Written by `make format` from goplugins/_exports.py.", "from goplugins import serve as serve"]
    for module, names in sorted(_MODULES.items()):
        lines.append(f"from {module} import (")
        lines += [f"    {name} as {name}," for name in sorted(names)]
        lines.append(")")
    lines += ["", "__all__ = [", *(f'    "{name}",' for name in PUBLIC_NAMES), "]", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    print(stub(), end="")  # noqa: T201
