"""Executes one request of a served plugin, independent of the transport: from the envelope's fields to an outcome."""

from __future__ import annotations

import contextlib
import enum
import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from goplugins.enums import PluginStatus
from goplugins.errors import InvalidArgumentError, PluginTimeoutError
from goplugins.json_text import NotJSONError, read_json
from goplugins.models.context import ExecutionContext
from goplugins.models.reply import Reply
from goplugins.models.results import HealthStatus
from goplugins.observability.tracing import serving_span
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock
from goplugins.runtime.deadline import Deadline, deadline
from goplugins.serve._contract import Rejected, Unavailable
from goplugins.serve._served import Function, Served

_logger = logging.getLogger("goplugins.serve")

HEALTH_TIMEOUT = 5.0
"""Seconds for a health check whose caller gives no time."""

INTERNAL_TEXT = "internal error"
"""What callers get of an exception: its own text may contain secrets."""

_FORWARDED = ("Idempotency-Key", "traceparent", "tracestate")
"""Headers of HTTP and gRPC that the function gets beside the message's own; all others concern the connection."""


encode_json = json.JSONEncoder(separators=(",", ":")).encode
"""One line of JSON."""


class Kind(enum.Enum):
    """How a request ended; the values are the ``error_kind`` of replies."""

    OK = "ok"
    REJECTED = "rejected"
    INVALID = "invalid"
    EXPIRED = "deadline"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"


@attrs.frozen
class Incoming:
    """A request as a transport received it.

    Attributes:
        data: parsed JSON, not yet converted to the request type.
        timeout: seconds until the caller's deadline when the request arrived; None without a deadline.
        arrived: when it arrived, on the clock's monotonic scale; it may have waited for a thread since.
        operation: which of the plugin's functions; empty for a plugin with one.
    """

    data: Any
    request_id: str
    arrived: float
    timeout: float | None = None
    headers: Mapping[str, str] = attrs.field(factory=dict)
    metadata: Mapping[str, str] = attrs.field(factory=dict)
    operation: str = ""


@attrs.frozen
class Outcome:
    """The result to send.

    Attributes:
        data: the response as JSON, for OK.
        error: the text for the caller, for all other kinds.
        metadata: for OK and REJECTED.
        retry_after: seconds, for UNAVAILABLE; None if the plugin gave none.
    """

    kind: Kind
    data: bytes = b""
    error: str = ""
    metadata: Mapping[str, str] = attrs.field(factory=dict)
    retry_after: float | None = None


def dispatch(plugin: Served, incoming: Incoming, clock: Clock = SYSTEM_CLOCK) -> Outcome:
    """Runs the plugin's function for one request.

    Any exception of the function becomes an outcome, SystemExit and CancelledError included: a plugin can't end its
    server. Only KeyboardInterrupt, GeneratorExit and greenlet's exit propagate: they are meant for the thread.
    """
    remaining = None
    if incoming.timeout is not None:
        remaining = incoming.arrived + incoming.timeout - clock.monotonic()
        if remaining <= 0:
            return Outcome(Kind.EXPIRED, error="the deadline passed before the plugin was called")
    try:
        limit = None if remaining is None else Deadline(clock.monotonic() + remaining, clock)
        function = plugin.find(incoming.operation)
        request = function.decode(incoming.data, limit)
        context = ExecutionContext(
            request_id=incoming.request_id,
            timeout=remaining,
            headers=incoming.headers,
            metadata=incoming.metadata,
            operation=function.operation,
        )
    except PluginTimeoutError as exc:
        return Outcome(Kind.EXPIRED, error=exc.message)
    except InvalidArgumentError as exc:
        return Outcome(Kind.INVALID, error=exc.message)
    return _run(function, request, context, incoming, clock)


def _run(plugin: Function, request: Any, context: ExecutionContext, incoming: Incoming, clock: Clock) -> Outcome:
    request_id = incoming.request_id
    limit = contextlib.nullcontext() if context.timeout is None else deadline(context.timeout, clock=clock)
    try:
        with limit, serving_span(plugin.name, request_id, incoming.headers, plugin.operation):
            response: Any = plugin(request, context)
        if type(response) is Reply:
            return Outcome(Kind.OK, data=plugin.encode(response.value), metadata=response.metadata)
        return Outcome(Kind.OK, data=plugin.encode(response))
    except Rejected as exc:
        return Outcome(Kind.REJECTED, error=exc.message, metadata=exc.metadata)
    except Unavailable as exc:
        return Outcome(Kind.UNAVAILABLE, error=exc.message, retry_after=exc.retry_after)
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as exc:
        if type(exc).__module__ == "greenlet":
            raise
        if isinstance(exc, PluginTimeoutError) and _is_over(incoming, clock):
            _logger.warning("%s, request %r: the deadline passed during execution: %s", plugin, request_id, exc)
            return Outcome(Kind.EXPIRED, error="the deadline passed during execution")
        _logger.exception("%s, request %r failed", plugin, request_id)
        return Outcome(Kind.INTERNAL, error=INTERNAL_TEXT)


def _is_over(incoming: Incoming, clock: Clock) -> bool:
    return incoming.timeout is not None and clock.monotonic() >= incoming.arrived + incoming.timeout


def checked_health(plugin: Served, timeout: float = HEALTH_TIMEOUT) -> tuple[bool, HealthStatus]:
    """Whether the plugin can take calls, and its whole status."""
    found = plugin.health(timeout)
    return found.status in {PluginStatus.HEALTHY, PluginStatus.DEGRADED}, found


def health_json(status: HealthStatus) -> str:
    """The data of a reply to a health request."""
    return encode_json({**attrs.asdict(status), "status": status.status.value})


def info_json(plugin: Served) -> str:
    """The data of a reply to an info request; operations only of a plugin that has some."""
    info = attrs.asdict(plugin.info())
    if not info["operations"]:
        del info["operations"]
    return encode_json(info)


def parse_value(text: bytes, what: str) -> Any:
    """Parses one JSON value; ``what`` names the text in an error.

    Raises:
        InvalidArgumentError: the text is something else.

    >>> parse_value(b'[1, "a"]', "the payload")
    [1, 'a']
    """
    try:
        return read_json(text)
    except NotJSONError as exc:
        raise InvalidArgumentError(f"{what} is not JSON: {exc}") from None


def parse_request(body: bytes) -> dict[str, Any]:
    """Parses one JSON object.

    Raises:
        InvalidArgumentError: the body is something else; the message does not quote it.
    """
    envelope = parse_value(body, "the request")
    if type(envelope) is not dict:
        raise InvalidArgumentError(f"the request is a JSON {type(envelope).__name__}, expected an object with data")
    return envelope


def text_field(envelope: Mapping[str, Any], field: str) -> str:
    """A string field; empty if it is missing or null.

    Raises:
        InvalidArgumentError: it is something else.
    """
    value = envelope.get(field)
    if value is None:
        return ""
    if type(value) is not str:
        raise InvalidArgumentError(f"{field}: expected a string")
    return value


def texts_field(envelope: Mapping[str, Any], field: str) -> dict[str, str]:
    """A field with an object of strings; empty if it is missing or null.

    Raises:
        InvalidArgumentError: it is something else.
    """
    value = envelope.get(field)
    if value is None:
        return {}
    if type(value) is not dict or not all(type(text) is str for text in value.values()):
        raise InvalidArgumentError(f"{field}: expected an object whose values are strings")
    return value


def with_forwarded(own: Mapping[str, str], header: Callable[[str], str | None]) -> dict[str, str]:
    """The headers that the function gets: the message's own, and the forwarded ones of the connection.

    Args:
        own: headers of the message; they take precedence.
        header: returns a header of the connection.

    >>> with_forwarded({"X-Tenant": "blue"}, {"traceparent": "00-1", "Host": "x"}.get)
    {'X-Tenant': 'blue', 'traceparent': '00-1'}
    """
    headers = dict(own)
    known = {name.lower() for name in headers}
    for name in _FORWARDED:
        if name.lower() not in known and (value := header(name)):
            headers[name] = value
    return headers
