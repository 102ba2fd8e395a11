"""Every error that goplugins raises: one root, one class per kind, one stable code each.

The codes of the ranges 1000 to 1799 that the Go library defines keep their meaning; kinds that it lacks have
codes of their own in the same ranges. No error carries a credential: messages and attributes are built from
redacted values only.
"""

from __future__ import annotations

import enum
import json
import pickle
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit, urlunsplit

__all__ = [
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
    "belongs_to_host",
    "redact_url",
]


class Replay(enum.Enum):
    """Whether the failed attempt may be sent again without risking a second effect."""

    ALWAYS = "always"
    IF_IDEMPOTENT = "if-idempotent"
    NEVER = "never"


class Verdict(enum.Enum):
    """What an attempt that ended with this error tells a circuit breaker about the plugin."""

    SUCCESS = "success"
    FAILURE = "failure"
    IGNORED = "ignored"


def redact_url(url: str) -> str:
    """Returns ``url`` without user info, query and fragment: the parts that can carry a secret."""
    try:
        parts = urlsplit(url)
        if not parts.netloc:
            return url.split("?", 1)[0]
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    except ValueError:
        return "<unreadable URL>"


_HOST_PACKAGES = frozenset({"billiard", "celery", "gevent", "eventlet"})


def belongs_to_host(exc: BaseException) -> bool:
    """True for an exception that the host throws into whatever code happens to run, such as a task's time limit.

    Celery's SoftTimeLimitExceeded is an ``Exception``, so its home has to tell. Such an exception passes every
    layer unwrapped and is never retried.
    """
    return not isinstance(exc, Exception) or type(exc).__module__.partition(".")[0] in _HOST_PACKAGES


class RemoteCause(Exception):  # noqa: N818 - it stands for a cause, it is none
    """Stands for a cause that could not travel as itself (unpicklable, or sent as JSON): its type and text."""


_JSON_FIELDS = ("code", "plugin", "endpoint", "attempts", "elapsed", "retryable", "retry_after", "details")


class PluginError(Exception):
    """The root of all that a call, a configuration or a manager raises.

    Attributes:
        message: what went wrong, without plugin name and attempts (``str(error)`` adds those).
        code: the stable code, such as ``PLUGIN_1204``.
        plugin: the plugin's name, if one was involved.
        endpoint: where the call went, without credentials.
        attempts: how many attempts were really made; 0 means that nothing was sent.
        elapsed: seconds from the start of the call to this error.
        retryable: True if the same call may succeed later.
        retry_after: seconds after which to try again, where the plugin or a policy said so.
        details: further facts, JSON values only, such as ``{"status": 503}``.
        replay: whether an attempt that ended so may be sent again (see :class:`Replay`).

    Attributes, cause and notes survive ``pickle`` and ``copy``; through a JSON channel that carries ``args`` (such
    as Celery's result backend) the attributes survive and the cause arrives as a :class:`RemoteCause`.
    """

    code: str = "PLUGIN_1200"
    retryable: bool = False
    replay: Replay = Replay.NEVER
    verdict: ClassVar[Verdict] = Verdict.FAILURE
    _json_fields: ClassVar[tuple[str, ...]] = _JSON_FIELDS

    def __init__(
        self,
        message: str = "",
        state: Mapping[str, Any] | None = None,
        *,
        plugin: str | None = None,
        endpoint: str | None = None,
        attempts: int = 0,
        elapsed: float = 0.0,
        retryable: bool | None = None,
        retry_after: float | None = None,
        replay: Replay | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.plugin = plugin
        self.endpoint = endpoint
        self.attempts = attempts
        self.elapsed = elapsed
        self.retry_after = retry_after
        self.details: dict[str, Any] = dict(details or {})
        if retryable is not None:
            self.retryable = retryable
        if replay is not None:
            self.replay = replay
        if state is not None:
            self._restore_json(state)

    def __str__(self) -> str:
        text = f"plugin {self.plugin!r}: {self.message}" if self.plugin else self.message
        if self.attempts > 1:
            text += f" (after {self.attempts} attempts in {self.elapsed:.3f} s)"
        stopped = self.details.get("replay_refused") or self.details.get("retry_stopped")
        if stopped:
            text += f" (no further attempt: {stopped})"
        return f"[{self.code}] {text}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.message!r})"

    if not TYPE_CHECKING:  # checkers know BaseException.args as a plain attribute, and would refuse a property

        @property
        def args(self) -> tuple[Any, ...]:
            """The message, then a mapping of JSON values from which the constructor rebuilds the attributes."""
            return (self.message, self._json_state())

        @args.setter
        def args(self, value: Sequence[Any]) -> None:
            self.message = str(value[0]) if value else ""

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, dict(self.__dict__), _portable(self.__cause__))

    def _json_state(self) -> dict[str, Any]:
        state = {name: getattr(self, name) for name in self._json_fields}
        try:
            json.dumps(state["details"])
        except (TypeError, ValueError):
            state["details"] = {key: str(value) for key, value in self.details.items()}
        if self.__cause__ is not None:
            state["cause"] = f"{type(self.__cause__).__name__}: {self.__cause__}"
        return state

    def _restore_json(self, state: Mapping[str, Any]) -> None:
        for name in self._json_fields:
            if name in state and state[name] != getattr(self, name, None):
                setattr(self, name, state[name])
        if "cause" in state:
            self.__cause__ = RemoteCause(str(state["cause"]))


def _rebuild(
    cls: type[PluginError], message: str, attributes: dict[str, Any], cause: BaseException | None
) -> PluginError:
    error = cls.__new__(cls, message)
    error.__dict__.update(attributes)
    error.__cause__ = cause
    return error


def _portable(cause: BaseException | None) -> BaseException | None:
    """The cause itself where it pickles, else its type and text: an error must always be able to travel."""
    if cause is None:
        return None
    try:
        pickle.loads(pickle.dumps(cause))  # noqa: S301 - our own bytes of a moment ago
    except Exception:  # noqa: BLE001 - a foreign __reduce__ may raise anything
        return RemoteCause(f"{type(cause).__name__}: {cause}")
    return cause


# --- configuration, 1000 to 1099 -------------------------------------------------------------------------------


_ANY_SOURCE = "configuration"
"""What a source without a name of its own is called; not worth saying where the field's path is said."""


class ConfigError(PluginError, ValueError):
    """A configuration that can't be used; ``path`` names the field and ``fix`` says what to write there.

    ``source`` is where the field stands, such as a file's name. One problem of several leaves it to the error that
    holds them all.
    """

    code = "PLUGIN_1012"
    verdict = Verdict.IGNORED
    _json_fields = (*_JSON_FIELDS, "path", "fix", "source")

    def __init__(
        self,
        message: str = "",
        state: Mapping[str, Any] | None = None,
        *,
        path: str = "",
        fix: str = "",
        source: str = "",
        **attributes: Any,
    ) -> None:
        self.path = path
        self.fix = fix
        self.source = source
        super().__init__(message, state, **attributes)

    @property
    def problems(self) -> tuple[ConfigError, ...]:
        """All problems that were found: this one, or several of an :class:`InvalidConfigError`."""
        return (self,)

    def __str__(self) -> str:
        source = f"{self.source}: " if self.source not in ("", self.path, _ANY_SOURCE) else ""
        where = f"{self.path}: " if self.path else ""
        fix = f" ({self.fix})" if self.fix else ""
        return f"[{self.code}] {source}{where}{self.message}{fix}"


class InvalidConfigError(ConfigError):
    """A wrong or unknown field, or several problems at once (then ``problems`` has each)."""

    def __init__(
        self,
        message: str = "",
        state: Mapping[str, Any] | None = None,
        *,
        problems: Sequence[ConfigError] = (),
        **kw: Any,
    ) -> None:
        self._problems = tuple(problems)
        super().__init__(message, state, **kw)

    @property
    def problems(self) -> tuple[ConfigError, ...]:
        return self._problems or (self,)

    def __str__(self) -> str:
        if not self._problems:
            return super().__str__()
        lines = "".join(f"\n  - {problem}" for problem in self._problems)
        return f"[{self.code}] {self.message}{lines}"

    @classmethod
    def of(cls, problems: Sequence[ConfigError], source: str = _ANY_SOURCE) -> ConfigError:
        """The one problem itself, or an error that holds them all; either names ``source``."""
        if len(problems) == 1:
            problems[0].source = problems[0].source or source
            return problems[0]
        return cls(f"{source}: {len(problems)} problems", problems=problems, source=source)


class InvalidPluginNameError(ConfigError):
    """A plugin's name is missing or has characters that a name can't have."""

    code = "PLUGIN_1001"


class InvalidTransportError(ConfigError):
    """A plugin names no transport."""

    code = "PLUGIN_1002"


class MissingEndpointError(ConfigError):
    """A transport that calls an address has none."""

    code = "PLUGIN_1003"


class InvalidEndpointURLError(ConfigError):
    """The endpoint is not a URL that this transport can call."""

    code = "PLUGIN_1004"


class InvalidEndpointFormatError(ConfigError):
    """The endpoint is not an address of the form that this transport takes."""

    code = "PLUGIN_1005"


class MissingSocketPathError(ConfigError):
    """A Unix socket plugin names no socket."""

    code = "PLUGIN_1006"


class MissingExecutableError(ConfigError):
    """An exec plugin names no executable."""

    code = "PLUGIN_1007"


class UnsupportedTransportError(ConfigError):
    """No such transport, or no factory for it."""

    code = "PLUGIN_1008"


class NoPluginsConfiguredError(ConfigError):
    """A configuration without any plugin."""

    code = "PLUGIN_1009"


class DuplicatePluginNameError(ConfigError):
    """Two plugins of one name."""

    code = "PLUGIN_1010"


class ConfigSyntaxError(ConfigError):
    """Text that is not the JSON, TOML or YAML that it should be."""

    code = "PLUGIN_1011"


class UnresolvedVariableError(ConfigError):
    """``${VAR}`` where VAR is not set and no default is given."""

    code = "PLUGIN_1013"


class ConfigFileError(ConfigError):
    """A configuration file that is missing, unreadable, or of an unknown kind."""

    code = "PLUGIN_1014"


# --- authentication, 1100 to 1199 ------------------------------------------------------------------------------


class AuthConfigError(ConfigError):
    """An ``auth`` section that can't be used."""

    code = "AUTH_1100"


class MissingAPIKeyError(AuthConfigError):
    """Method api-key without ``api_key``."""

    code = "AUTH_1101"


class MissingBearerTokenError(AuthConfigError):
    """Method bearer without ``token``."""

    code = "AUTH_1102"


class MissingBasicCredentialsError(AuthConfigError):
    """Method basic without ``username`` and ``password``."""

    code = "AUTH_1103"


class MissingMTLSCertsError(AuthConfigError):
    """Method mtls without ``cert_file`` and ``key_file``."""

    code = "AUTH_1104"


class UnsupportedAuthMethodError(AuthConfigError):
    """No such authentication method."""

    code = "AUTH_1105"


class InvalidCertificateError(AuthConfigError):
    """A certificate, key or CA file that is missing or can't be used."""

    code = "AUTH_1106"


class AuthenticationError(PluginError):
    """The plugin refused the credentials (HTTP 401 and 403, gRPC UNAUTHENTICATED and PERMISSION_DENIED)."""

    code = "AUTH_1107"
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
    verdict = Verdict.SUCCESS


class PluginTimeoutError(PluginError, TimeoutError):
    """No whole answer before the call's deadline."""

    code = "PLUGIN_1204"
    retryable = True
    replay = Replay.IF_IDEMPOTENT


class PluginConnectionError(PluginError, ConnectionError):
    """No connection to the plugin: nothing was sent."""

    code = "PLUGIN_1205"
    retryable = True
    replay = Replay.ALWAYS


class SaturatedError(PluginError):
    """This side has no free connection, worker or place for the call; nothing was sent."""

    code = "PLUGIN_1206"
    retryable = True
    verdict = Verdict.IGNORED


class PluginClosedError(PluginError):
    """The plugin was closed, replaced or removed."""

    code = "PLUGIN_1207"
    verdict = Verdict.IGNORED


class ManagerClosedError(PluginClosedError):
    """A call after ``shutdown``."""


class BadReplyError(PluginError):
    """The reply is not an answer to this request."""

    code = "PLUGIN_1208"


class ReplyTooLargeError(BadReplyError):
    """The reply is larger than ``connection.max_response_bytes``, as sent or once decompressed."""

    code = "PLUGIN_1209"


class InvalidArgumentError(PluginError, ValueError):
    """A call's own argument can't be used; nothing was sent."""

    code = "PLUGIN_1210"
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


class CertificateError(TLSError):
    """The plugin's certificate is not to be trusted: expired, of another host, or of an unknown authority."""

    code = "TRANSPORT_1309"
    retryable = False
    replay = Replay.NEVER


# --- policies, 1400 to 1799 ------------------------------------------------------------------------------------


class CircuitBreakerOpenError(PluginError):
    """Refused by the circuit breaker; ``retry_after`` says when it admits the next call."""

    code = "CIRCUIT_1401"
    retryable = True
    verdict = Verdict.IGNORED


class CircuitBreakerTimeoutError(PluginTimeoutError):
    """A call that the breaker let through to probe the plugin did not answer in time."""

    code = "CIRCUIT_1402"


class RateLimitExceededError(PluginError):
    """Refused by this side's rate limiter; ``retry_after`` says when a token is free."""

    code = "RATELIMIT_1501"
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


class NoAvailablePluginsError(PluginError):
    """No member of a balanced group can take the call."""

    code = "LOADBALANCER_1701"
    retryable = True
    verdict = Verdict.IGNORED


class LoadBalancerError(PluginError):
    """A balanced group could not be called as asked."""

    code = "LOADBALANCER_1702"
