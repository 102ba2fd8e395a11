"""What can go wrong with a call: codes from 1107, and 1200 to 1799."""

from __future__ import annotations

from goplugins.errors._base import PluginError, Replay, Verdict

__all__ = [
    "AuthenticationError",
    "BadReplyError",
    "BulkheadFullError",
    "CertificateError",
    "CircuitBreakerOpenError",
    "CircuitBreakerTimeoutError",
    "ConnectionLostError",
    "ExecTransportError",
    "GRPCTransportError",
    "HTTPTransportError",
    "HealthCheckFailedError",
    "HealthCheckTimeoutError",
    "InvalidArgumentError",
    "InvalidHeaderError",
    "LoadBalancerError",
    "ManagerClosedError",
    "NameResolutionError",
    "NoAvailablePluginsError",
    "PluginClosedError",
    "PluginConnectionError",
    "PluginExecutionError",
    "PluginInternalError",
    "PluginNotEnabledError",
    "PluginNotFoundError",
    "PluginRequestError",
    "PluginThrottledError",
    "PluginTimeoutError",
    "PluginUnavailableError",
    "RateLimitExceededError",
    "ReplyMismatchError",
    "ReplyTooLargeError",
    "ReplyTypeError",
    "SaturatedError",
    "TLSError",
    "TransportError",
    "TruncatedReplyError",
    "UnexpectedRedirectError",
    "UnixTransportError",
    "UnserializableRequestError",
]


class AuthenticationError(PluginError):
    """The plugin refused the credentials (HTTP 401 and 403, gRPC UNAUTHENTICATED and PERMISSION_DENIED)."""

    code = "AUTH_1107"
    kind = "auth"
    verdict = Verdict.SUCCESS


# --- a call, 1200 to 1299 --------------------------------------------------------------------------------------


class PluginNotFoundError(PluginError, LookupError):
    """No plugin of that name."""

    code = "PLUGIN_1201"
    verdict = Verdict.IGNORED


class PluginNotEnabledError(PluginError):
    """The plugin is configured with ``enabled: false``."""

    code = "PLUGIN_1202"
    verdict = Verdict.IGNORED


class PluginExecutionError(PluginError):
    """The plugin answered that it can't do what was asked: a business error, with the plugin's own text.

    ``details`` may hold the plugin's ``metadata``, such as its own error code.
    """

    code = "PLUGIN_1203"
    kind = "rejected"
    verdict = Verdict.SUCCESS


class PluginTimeoutError(PluginError, TimeoutError):
    """No whole answer before the call's deadline."""

    code = "PLUGIN_1204"
    kind = "timeout"
    retryable = True
    replay = Replay.IF_IDEMPOTENT


class PluginConnectionError(PluginError, ConnectionError):
    """No connection to the plugin: nothing was sent."""

    code = "PLUGIN_1205"
    kind = "connection"
    retryable = True
    replay = Replay.ALWAYS


class SaturatedError(PluginError):
    """This side has no free connection, worker or place for the call; nothing was sent."""

    code = "PLUGIN_1206"
    kind = "refused"
    retryable = True
    verdict = Verdict.IGNORED


class PluginClosedError(PluginError):
    """The plugin was closed, replaced or removed."""

    code = "PLUGIN_1207"
    kind = "refused"
    verdict = Verdict.IGNORED


class ManagerClosedError(PluginClosedError):
    """A call after ``shutdown``."""


class BadReplyError(PluginError):
    """The reply is not an answer to this request."""

    code = "PLUGIN_1208"
    kind = "reply"


class ReplyTooLargeError(BadReplyError):
    """The reply is larger than ``connection.max_response_bytes``, as sent or once decompressed."""

    code = "PLUGIN_1209"


class InvalidArgumentError(PluginError, ValueError):
    """A call's own argument can't be used; nothing was sent."""

    code = "PLUGIN_1210"
    kind = "argument"
    verdict = Verdict.IGNORED


class UnserializableRequestError(InvalidArgumentError):
    """The request can't be written as JSON."""

    code = "PLUGIN_1211"


class ConnectionLostError(PluginConnectionError):
    """The connection broke while the call was under way; the plugin may have acted on it."""

    code = "PLUGIN_1212"
    replay = Replay.IF_IDEMPOTENT


class TruncatedReplyError(BadReplyError):
    """The reply ended before its announced end."""

    code = "PLUGIN_1213"
    retryable = True
    replay = Replay.IF_IDEMPOTENT


class ReplyMismatchError(BadReplyError):
    """The reply carries another call's request id."""

    code = "PLUGIN_1214"


class ReplyTypeError(BadReplyError):
    """The reply's data does not fit the response type; the message names the field."""

    code = "PLUGIN_1215"
    verdict = Verdict.SUCCESS


class NameResolutionError(PluginConnectionError):
    """The endpoint's host name has no address."""

    code = "PLUGIN_1216"


class InvalidHeaderError(InvalidArgumentError):
    """A header name or value that would break out of its line."""

    code = "PLUGIN_1217"


class BulkheadFullError(SaturatedError):
    """As many calls of the plugin are under way as its ``bulkhead`` admits; nothing was sent.

    ``details`` has ``limit``, ``in_use`` and ``waiting``.
    """

    code = "PLUGIN_1218"


# --- transports, 1300 to 1399 ----------------------------------------------------------------------------------


class TransportError(PluginError):
    """The wire worked, the service behind it did not."""

    code = "TRANSPORT_1300"
    retryable = True
    replay = Replay.IF_IDEMPOTENT


class HTTPTransportError(TransportError):
    """An HTTP status that is no answer (5xx, and what has no class of its own); ``details["status"]`` has it."""

    code = "TRANSPORT_1301"


class GRPCTransportError(TransportError):
    """A gRPC status that is no answer; ``details["status"]`` has its name."""

    code = "TRANSPORT_1302"


class UnixTransportError(TransportError):
    """A failure of the service behind a Unix socket."""

    code = "TRANSPORT_1303"


class ExecTransportError(TransportError):
    """A failure of a plugin process."""

    code = "TRANSPORT_1304"


class PluginInternalError(TransportError):
    """The plugin's own code failed and says no more (``error_kind: "internal"``, an exception of a Python plugin)."""

    code = "TRANSPORT_1310"


class PluginUnavailableError(TransportError):
    """The service says that it can't answer now (HTTP 503, gRPC UNAVAILABLE)."""

    code = "TRANSPORT_1305"


class PluginRequestError(TransportError):
    """The service refused the request as wrong (HTTP 4xx, gRPC INVALID_ARGUMENT and its like)."""

    code = "TRANSPORT_1306"
    kind = "rejected"
    retryable = False
    replay = Replay.NEVER
    verdict = Verdict.SUCCESS


class UnexpectedRedirectError(TransportError):
    """A 3xx: redirects are not followed, so that no credential leaves its host."""

    code = "TRANSPORT_1307"
    retryable = False
    replay = Replay.NEVER


class TLSError(PluginConnectionError):
    """The TLS handshake failed."""

    code = "TRANSPORT_1308"
    kind = "tls"


class CertificateError(TLSError):
    """The plugin's certificate is not to be trusted: expired, of another host, or of an unknown authority."""

    code = "TRANSPORT_1309"
    retryable = False
    replay = Replay.NEVER


# --- policies, 1400 to 1799 ------------------------------------------------------------------------------------


class CircuitBreakerOpenError(PluginError):
    """Refused by the circuit breaker; ``retry_after`` says when it admits the next call."""

    code = "CIRCUIT_1401"
    kind = "refused"
    retryable = True
    verdict = Verdict.IGNORED


class CircuitBreakerTimeoutError(PluginTimeoutError):
    """A call that the breaker let through to probe the plugin did not answer in time."""

    code = "CIRCUIT_1402"


class RateLimitExceededError(PluginError):
    """Refused by this side's rate limiter; ``retry_after`` says when a token is free."""

    code = "RATELIMIT_1501"
    kind = "refused"
    retryable = True
    verdict = Verdict.IGNORED


class PluginThrottledError(PluginError):
    """The plugin asked for fewer calls (HTTP 429, gRPC RESOURCE_EXHAUSTED)."""

    code = "RATELIMIT_1502"
    retryable = True
    replay = Replay.ALWAYS
    verdict = Verdict.IGNORED


class HealthCheckFailedError(PluginError):
    """A health check that was answered with "not healthy", or not at all."""

    code = "HEALTH_1601"
    retryable = True


class HealthCheckTimeoutError(HealthCheckFailedError, TimeoutError):
    """A health check without an answer in time."""

    code = "HEALTH_1602"
    kind = "timeout"


class NoAvailablePluginsError(PluginError):
    """No member of a balanced group can take the call."""

    code = "LOADBALANCER_1701"
    kind = "refused"
    retryable = True
    verdict = Verdict.IGNORED


class LoadBalancerError(PluginError):
    """A balanced group could not be called as asked."""

    code = "LOADBALANCER_1702"
