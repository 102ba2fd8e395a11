"""Every error that goplugins raises: one base class, one class and one stable code per kind of error.

The codes 1000 to 1799 that the Go library defines have the same meaning here; further kinds have codes of their own in
the same ranges. No error contains a credential: messages and attributes are built from redacted values only.
"""

from __future__ import annotations

from goplugins.errors._base import *  # noqa: F403
from goplugins.errors._calls import *  # noqa: F403
from goplugins.errors._configuration import *  # noqa: F403

__all__ = [
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
    "ReloadError",
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
    "belongs_to_host",
    "is_fair_timeout",
    "redact_url",
    "verdict_of",
]

# Tracebacks, pickles and logs name the public module, not the private one that defines the class.
for _public in [globals()[name] for name in __all__]:
    if isinstance(_public, type):
        _public.__module__ = __name__
