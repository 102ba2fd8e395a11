"""The values that travel through the public API: enums, contexts, results, and the Plugin protocol."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import attrs

from goplugins.errors import InvalidArgumentError, InvalidHeaderError

if TYPE_CHECKING:
    from goplugins.balancing import GroupExplanation
    from goplugins.config import PluginConfig

__all__ = [
    "AuthMethod",
    "CallResult",
    "CircuitBreakerState",
    "CircuitBreakerStats",
    "ExecutionContext",
    "Explanation",
    "HealthStatus",
    "LoadBalancingStrategy",
    "Plugin",
    "PluginFactory",
    "PluginInfo",
    "PluginStatus",
    "ReloadStrategy",
    "SpanStatusCode",
    "TransportType",
    "check_headers",
    "trusted_context",
]

Req = TypeVar("Req")
Resp = TypeVar("Resp")
ReqIn_contra = TypeVar("ReqIn_contra", contravariant=True)
RespOut_co = TypeVar("RespOut_co", covariant=True)


class _GoEnum(enum.StrEnum):
    """A string enum that also accepts Go's integer, which is the place of the member: ``PluginStatus(1)``."""

    @classmethod
    def _missing_(cls, value: object) -> _GoEnum | None:
        if isinstance(value, int) and not isinstance(value, bool):
            members = list(cls)
            if 0 <= value < len(members):
                return members[value]
        return None


class TransportType(_GoEnum):
    """How a plugin is reached."""

    HTTP = "http"
    HTTPS = "https"
    GRPC = "grpc"
    GRPC_TLS = "grpc-tls"
    UNIX = "unix"
    EXECUTABLE = "exec"
    PYTHON = "python"


class AuthMethod(_GoEnum):
    """How a call proves who it comes from."""

    NONE = "none"
    API_KEY = "api-key"
    BEARER = "bearer"
    BASIC = "basic"
    MTLS = "mtls"
    CUSTOM = "custom"


class PluginStatus(_GoEnum):
    """A plugin's health; UNKNOWN until somebody looked."""

    UNKNOWN = "unknown"
    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"
    OFFLINE = "offline"


class CircuitBreakerState(_GoEnum):
    """CLOSED admits, OPEN refuses, HALF_OPEN probes."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class LoadBalancingStrategy(_GoEnum):
    """How a balancer picks the member for a call."""

    ROUND_ROBIN = "round-robin"
    RANDOM = "random"
    LEAST_CONNECTIONS = "least-connections"
    LEAST_LATENCY = "least-latency"
    WEIGHTED_RANDOM = "weighted-random"
    CONSISTENT_HASH = "consistent-hash"
    PRIORITY = "priority"
    P2C = "p2c"


class ReloadStrategy(_GoEnum):
    """How a changed configuration takes effect."""

    RECREATE = "recreate"
    GRACEFUL = "graceful"
    ROLLING = "rolling"


class SpanStatusCode(_GoEnum):
    """How a traced call ended."""

    OK = "ok"
    ERROR = "error"
    TIMEOUT = "timeout"


_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, 5.6.2: a token
_BREAKS_A_LINE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def check_headers(headers: Mapping[str, str], where: str = "headers") -> None:
    """Refuses header names and values that are not text or would break out of their line.

    Raises:
        InvalidHeaderError: names the header; never its value, which may be a secret.
    """
    for name, value in headers.items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            raise InvalidHeaderError(f"{where}: {name!r} is not a header name")
        if not isinstance(value, str):
            raise InvalidHeaderError(f"{where}[{name!r}]: expected a string, got {type(value).__name__}")
        if _BREAKS_A_LINE.search(value):
            raise InvalidHeaderError(f"{where}[{name!r}]: the value holds a line break or control character")


def _positive(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not value > 0):
        raise InvalidArgumentError(f"{attribute.name}: expected seconds greater than 0, got {value!r}")


def _count(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise InvalidArgumentError(f"{attribute.name}: expected an integer of 0 or more, got {value!r}")


def _mapping(attribute: attrs.Attribute[Any], value: Any) -> None:
    if type(value) is not dict and not isinstance(value, Mapping):
        raise InvalidArgumentError(f"{attribute.name}: expected a mapping of strings, got {type(value).__name__}")


def _headers(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    _mapping(attribute, value)
    if value:
        check_headers(value, attribute.name)


def _header_value(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is not None:
        check_headers({attribute.name: value}, "context")


def _texts(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    _mapping(attribute, value)
    for key, text in value.items():
        if not isinstance(key, str) or not isinstance(text, str):
            raise InvalidArgumentError(f"{attribute.name}[{key!r}]: expected strings, got {type(text).__name__}")


class _ContextSlots:
    """The storage of a context, writable: a frozen one takes its fields at four times the cost."""

    __slots__ = (
        "__weakref__",
        "headers",
        "idempotent",
        "key",
        "max_retries",
        "metadata",
        "preferences",
        "priority",
        "request_id",
        "timeout",
    )


@attrs.frozen
class ExecutionContext(_ContextSlots):
    """What a caller says about one call. None, empty and 0 defer to the plugin's configuration.

    Attributes:
        request_id: travels with the call and its logs; made when None.
        timeout: seconds for the whole call, every attempt and wait included.
        max_retries: replays after a first failed attempt.
        headers: sent with the call, on every transport.
        metadata: sent in the envelope, for the plugin's own use.
        idempotent: True if doing it twice does no harm: opens more failures to replays.
        key: what a consistent-hash balancer routes by, and part of a cache key.
        priority: larger is more important, where a balancer or queue chooses.
        preferences: names of balancer members to prefer, best first.

    Raises:
        InvalidArgumentError: timeout of 0 or less, negative ``max_retries``, a header with a line break, headers or
            metadata that are no mapping of strings.
    """

    request_id: str | None = attrs.field(default=None, validator=_header_value)
    timeout: float | None = attrs.field(default=None, validator=_positive)
    max_retries: int | None = attrs.field(default=None, validator=_count)
    headers: Mapping[str, str] = attrs.field(factory=dict, validator=_headers)
    metadata: Mapping[str, str] = attrs.field(factory=dict, validator=_texts)
    idempotent: bool | None = None
    key: str = ""
    priority: int = 0
    preferences: Sequence[str] = ()


def trusted_context(
    request_id: str,
    timeout: float,
    headers: Mapping[str, str],
    metadata: Mapping[str, str],
    idempotent: bool,
    key: str,
    priority: int,
    preferences: Sequence[str],
) -> ExecutionContext:
    """A context of parts that were checked when the call was put together: checking costs more than the call."""
    context: Any = _ContextSlots()
    context.request_id = request_id
    context.timeout = timeout
    context.max_retries = None
    context.headers = headers
    context.metadata = metadata
    context.idempotent = idempotent
    context.key = key
    context.priority = priority
    context.preferences = preferences
    context.__class__ = ExecutionContext
    return context  # type: ignore[no-any-return]


@attrs.frozen
class PluginInfo:
    """Who a plugin is."""

    name: str
    version: str = ""
    description: str = ""
    author: str = ""
    capabilities: Sequence[str] = ()
    metadata: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen
class HealthStatus:
    """What a look at a plugin's health found.

    Attributes:
        status: the verdict.
        message: why, for a person.
        last_check: when it was looked at, in seconds since the Unix epoch; 0 for never.
        response_time: how long the look took, in seconds.
        metadata: the plugin's own further facts.
    """

    status: PluginStatus = PluginStatus.UNKNOWN
    message: str = ""
    last_check: float = 0.0
    response_time: float = 0.0
    metadata: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen
class CallResult(Generic[Resp]):
    """A call's answer with its circumstances.

    Attributes:
        value: the typed response. An item of ``map_results`` that failed raises its error here.
        source: "plugin", or where a policy answered in its stead: "fallback", "cache", "stale".
        attempts: how many attempts were made.
        elapsed: seconds from start to answer.
        member: the balancer member that answered, or the plugin's own name.
        request_id: the id that the call travelled under.
        metadata: what the plugin sent beside the data.
        error: what went wrong, in an item of ``map_results`` that failed.
    """

    _value: Resp | None
    source: str = "plugin"
    attempts: int = 1
    elapsed: float = 0.0
    member: str = ""
    request_id: str = ""
    metadata: Mapping[str, str] = attrs.field(factory=dict)
    error: Exception | None = None

    def __repr__(self) -> str:
        answer = f"value={self._value!r}" if self.error is None else f"error={self.error!r}"
        facts = ((name, getattr(self, name)) for name in ("attempts", "elapsed", "member", "request_id", "metadata"))
        rest = "".join(f", {name}={fact!r}" for name, fact in facts if fact not in ("", {}))
        return f"CallResult({answer}, source={self.source!r}{rest})"

    @property
    def ok(self) -> bool:
        """True if there is a value."""
        return self.error is None

    @property
    def value(self) -> Resp:
        """The typed response; raises :attr:`error` where there is one."""
        if self.error is not None:
            raise self.error
        return self._value  # type: ignore[return-value]


@attrs.frozen
class CircuitBreakerStats:
    """A breaker's counts since its last reset. ``last_failure`` is in seconds since the Unix epoch; 0 for never."""

    state: CircuitBreakerState
    failure_count: int
    success_count: int
    request_count: int
    last_failure: float


@attrs.frozen
class Explanation:
    """Why a plugin would or would not take the next call; ``print`` it.

    Attributes:
        name: the plugin.
        admits: True if a call made now would be sent.
        reason: what stands in its way, and until when; empty if nothing does.
        endpoint: where calls go, without credentials.
        breaker: the circuit breaker's state.
        health: what the last look found.
        tokens: calls that the rate limiter would admit at once; None without a limiter.
        in_flight: calls under way.
        last_error: the last failed call's code and message.
        last_error_ago: how long ago that was, in seconds.
        annotations: the plugin's own, from its configuration.
        chaos: the faults that are injected; empty if none are.
        group: of a group, where each member stands.
    """

    name: str
    admits: bool
    reason: str
    endpoint: str
    breaker: CircuitBreakerState
    health: HealthStatus
    tokens: float | None
    in_flight: int
    last_error: str = ""
    last_error_ago: float | None = None
    annotations: Mapping[str, str] = attrs.field(factory=dict)
    chaos: str = ""
    group: GroupExplanation | None = None

    def __str__(self) -> str:
        where = "a group" if self.group is not None else self.endpoint or "in this process"
        # A group has no breaker: its members have theirs.
        state = "" if self.group is not None else f"circuit breaker {self.breaker}, health {self.health.status}, "
        lines = [
            f"{self.name} ({where}): " + ("takes calls" if self.admits else f"takes no calls: {self.reason}"),
            f"  {state}{self.in_flight} in flight"
            + ("" if self.tokens is None else f", rate limiter has {self.tokens:.0f} tokens"),
        ]
        if self.last_error:
            lines.append(f"  last error {self.last_error_ago:.1f} s ago: {self.last_error}")
        if self.group is not None:
            lines += [f"  {line}" for line in str(self.group).splitlines()]
        if self.chaos:
            lines.append(f"  chaos is on, faults are injected: {self.chaos}")
        lines += [f"  {key}: {value}" for key, value in self.annotations.items()]
        return "\n".join(lines)


class Plugin(Protocol[ReqIn_contra, RespOut_co]):
    """What can be called by name: a service behind a transport, a balancer, or an object of your own."""

    def info(self) -> PluginInfo:
        """Who the plugin is; may ask it over the wire the first time."""
        ...

    def execute(self, request: ReqIn_contra, context: ExecutionContext, /) -> RespOut_co:
        """One attempt. Raises a :class:`~goplugins.errors.PluginError` for what went wrong."""
        ...

    def health(self, timeout: float) -> HealthStatus:
        """Looks at the plugin's health for at most ``timeout`` seconds; never raises."""
        ...

    def close(self) -> None:
        """Lets go of connections and processes; harmless when repeated."""
        ...


class PluginFactory(Protocol):
    """Makes plugins of one kind from configuration."""

    def create_plugin(self, config: PluginConfig) -> Plugin[Any, Any]:
        """A plugin that has not connected to anything yet."""
        ...

    def supported_transports(self) -> Sequence[str]:
        """Values of :class:`TransportType`."""
        ...

    def validate_config(self, config: PluginConfig) -> None:
        """Raises a :class:`~goplugins.errors.ConfigError` for what the factory can't build."""
        ...
