"""What can go wrong with a call: codes from 1107, and 1200 to 1799."""

from __future__ import annotations

from typing import ClassVar

from goplugins.errors._base import PluginError, Replay, Verdict


class AuthenticationError(PluginError):
    """The plugin refused the credentials (HTTP 401 and 403, gRPC UNAUTHENTICATED and PERMISSION_DENIED)."""

    code = "AUTH_1107"
    kind = "auth"
    verdict: ClassVar[Verdict] = Verdict.SUCCESS
    fallback = "never"


class TokenRefusedError(AuthenticationError):
    """The token endpoint refused the client of method oauth2, such as invalid_client; nothing was sent to the plugin.

    ``details`` has ``token_url``, ``token_status`` and, if the endpoint gave it, ``oauth2_error``.
    """

    code = "AUTH_1108"
    verdict = Verdict.IGNORED
    unsent = True


class CredentialsProviderError(PluginError):
    """The function ``auth.provider`` raised an exception, or returned something else than headers; nothing was sent."""

    code = "AUTH_1109"
    kind = "auth"
    verdict = Verdict.IGNORED
    unsent = True
    fallback = "never"


# --- a call, 1200 to 1299 --------------------------------------------------------------------------------------


class PluginNotFoundError(PluginError, LookupError):
    """No plugin of that name."""

    code = "PLUGIN_1201"
    verdict = Verdict.IGNORED
    fallback = "never"


class PluginNotEnabledError(PluginError):
    """The plugin is configured with ``enabled: false``."""

    code = "PLUGIN_1202"
    verdict = Verdict.IGNORED
    fallback = "never"


class PluginExecutionError(PluginError):
    """The plugin answered with an error of its own, such as "no such customer"; the message is the plugin's.

    ``details`` may hold the plugin's ``metadata``, such as its own error code.
    """

    code = "PLUGIN_1203"
    kind = "rejected"
    verdict = Verdict.SUCCESS
    fallback = "never"


class PluginTimeoutError(PluginError, TimeoutError):
    """No complete reply before the call's deadline."""

    code = "PLUGIN_1204"
    kind = "timeout"
    retryable = True
    replay = Replay.IF_IDEMPOTENT
    overload = True


class PluginConnectionError(PluginError, ConnectionError):
    """No connection to the plugin: nothing was sent."""

    code = "PLUGIN_1205"
    kind = "connection"
    retryable = True
    replay = Replay.ALWAYS
    elsewhere = True


class SaturatedError(PluginError):
    """No connection, worker thread or bulkhead slot was free for the call; nothing was sent."""

    code = "PLUGIN_1206"
    kind = "refused"
    retryable = True
    verdict = Verdict.IGNORED
    unsent = True


class LocalResourceError(SaturatedError):
    """This process or machine lacks what the call needs: a file descriptor, a thread, memory, a local port.

    It says nothing of the plugin: neither its breaker nor its health counts it.

    Attributes:
        unsent: False if the request may have reached the plugin; then only an idempotent call is made again.
    """

    code = "PLUGIN_1219"
    replay = Replay.ALWAYS


class PluginClosedError(PluginError):
    """The plugin was closed, replaced or removed."""

    code = "PLUGIN_1207"
    kind = "refused"
    verdict = Verdict.IGNORED
    unsent = True
    fallback = "never"


class ManagerClosedError(PluginClosedError):
    """The manager was shut down."""


class BadReplyError(PluginError):
    """The reply is not a valid answer to this request."""

    code = "PLUGIN_1208"
    kind = "reply"


class ReplyTooLargeError(BadReplyError):
    """The reply is larger than ``connection.max_response_bytes``, as sent or once decompressed."""

    code = "PLUGIN_1209"


class InvalidArgumentError(PluginError, ValueError):
    """An argument of the call is not valid; nothing was sent."""

    code = "PLUGIN_1210"
    kind = "argument"
    verdict = Verdict.IGNORED
    unsent = True
    fallback = "never"


class UnserializableRequestError(InvalidArgumentError):
    """The request can't be written as JSON."""

    code = "PLUGIN_1211"


class OperationNotFoundError(InvalidArgumentError, LookupError):
    """The plugin has no operation of that name, or has several and the call names none; nothing was sent."""

    code = "PLUGIN_1220"


class InterceptorError(PluginError):
    """An interceptor of the application raised an exception, or lost the answer; its name is in the message."""

    code = "PLUGIN_1221"
    kind = "refused"
    verdict = Verdict.IGNORED
    fallback = "never"


class ConnectionLostError(PluginConnectionError):
    """The connection broke during the call; the plugin may have processed the request."""

    code = "PLUGIN_1212"
    replay = Replay.IF_IDEMPOTENT
    elsewhere = False


class TruncatedReplyError(BadReplyError):
    """The reply is shorter than announced."""

    code = "PLUGIN_1213"
    retryable = True
    replay = Replay.IF_IDEMPOTENT


class ReplyMismatchError(BadReplyError):
    """The reply carries another call's request id."""

    code = "PLUGIN_1214"


class ReplyTypeError(BadReplyError):
    """The reply's data does not match the response type; the message names the field."""

    code = "PLUGIN_1215"
    verdict = Verdict.SUCCESS


class NameResolutionError(PluginConnectionError):
    """The endpoint's host name has no address."""

    code = "PLUGIN_1216"


class InvalidHeaderError(InvalidArgumentError):
    """A header name or value is not valid, such as a value with a line break."""

    code = "PLUGIN_1217"


class BulkheadFullError(SaturatedError):
    """The plugin's ``bulkhead`` is full; nothing was sent.

    ``details`` has ``limit``, ``in_use`` and ``waiting``.
    """

    code = "PLUGIN_1218"


# --- transports, 1300 to 1399 ----------------------------------------------------------------------------------


class TransportError(PluginError):
    """The service was reached, and failed."""

    code = "TRANSPORT_1300"
    retryable = True
    replay = Replay.IF_IDEMPOTENT


class HTTPTransportError(TransportError):
    """The plugin replied with an HTTP error status that has no class of its own; see ``details["status"]``."""

    code = "TRANSPORT_1301"


class GRPCTransportError(TransportError):
    """The plugin replied with a gRPC error status that has no class of its own; see ``details["status"]``."""

    code = "TRANSPORT_1302"


class UnixTransportError(TransportError):
    """The service behind a Unix socket failed."""

    code = "TRANSPORT_1303"


class ExecTransportError(TransportError):
    """The plugin process failed."""

    code = "TRANSPORT_1304"


class PluginInternalError(TransportError):
    """The plugin's code raised an exception (``error_kind: "internal"``)."""

    code = "TRANSPORT_1310"


class PluginUnavailableError(TransportError):
    """The service is temporarily unavailable (HTTP 503, gRPC UNAVAILABLE)."""

    code = "TRANSPORT_1305"
    overload = True


class PluginRequestError(TransportError):
    """The service rejected the request as invalid (HTTP 4xx, gRPC INVALID_ARGUMENT and similar)."""

    code = "TRANSPORT_1306"
    kind = "rejected"
    retryable = False
    replay = Replay.NEVER
    verdict = Verdict.SUCCESS
    fallback = "never"


class UnexpectedRedirectError(TransportError):
    """The plugin replied with a redirect (3xx). They are not followed: credentials would go elsewhere."""

    code = "TRANSPORT_1307"
    retryable = False
    replay = Replay.NEVER


class TLSError(PluginConnectionError):
    """The TLS handshake failed."""

    code = "TRANSPORT_1308"
    kind = "tls"


class CertificateError(TLSError):
    """The plugin's certificate is not trusted: expired, for another host, or from an unknown authority."""

    code = "TRANSPORT_1309"
    retryable = False
    replay = Replay.NEVER


# --- policies, 1400 to 1799 ------------------------------------------------------------------------------------


class CircuitBreakerOpenError(PluginError):
    """The circuit breaker is open; ``retry_after`` has the seconds until it admits the next call."""

    code = "CIRCUIT_1401"
    kind = "refused"
    retryable = True
    verdict = Verdict.IGNORED
    unsent = True


class CircuitBreakerTimeoutError(PluginTimeoutError):
    """A probe of the half-open circuit breaker timed out."""

    code = "CIRCUIT_1402"


class RateLimitExceededError(PluginError):
    """The plugin's ``rate_limit`` is exhausted; ``retry_after`` has the seconds until the next token."""

    code = "RATELIMIT_1501"
    kind = "refused"
    retryable = True
    verdict = Verdict.IGNORED
    unsent = True
    fallback = "rate-limit"


class PluginThrottledError(PluginError):
    """The plugin limits the rate of calls (HTTP 429, gRPC RESOURCE_EXHAUSTED)."""

    code = "RATELIMIT_1502"
    retryable = True
    replay = Replay.ALWAYS
    verdict = Verdict.IGNORED
    overload = True
    fallback = "rate-limit"


class HealthCheckFailedError(PluginError):
    """A health check failed: the plugin is not healthy, or did not answer."""

    code = "HEALTH_1601"
    retryable = True


class HealthCheckTimeoutError(HealthCheckFailedError, TimeoutError):
    """A health check timed out."""

    code = "HEALTH_1602"
    kind = "timeout"


class NoAvailablePluginsError(PluginError):
    """No member of a load-balanced group can take the call."""

    code = "LOADBALANCER_1701"
    kind = "refused"
    retryable = True
    verdict = Verdict.IGNORED
    unsent = True


class LoadBalancerError(InvalidArgumentError):
    """A load-balanced group can't be called or changed with these options; nothing was sent."""

    code = "LOADBALANCER_1702"
    fallback = "never"
