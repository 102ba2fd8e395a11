"""One request to a served plugin, whatever the wire: from the envelope's fields to what has to be answered."""

from __future__ import annotations

import contextlib
import enum
import json
import logging
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import attrs

from goplugins.errors import InvalidArgumentError, PluginTimeoutError
from goplugins.models.context import ExecutionContext
from goplugins.models.reply import Reply
from goplugins.observability.tracing import serving_span
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock
from goplugins.runtime.deadline import deadline
from goplugins.serve._exceptions import Rejected, Unavailable
from goplugins.serve._plugin import ServedPlugin

__all__ = [
    "Incoming",
    "Kind",
    "Outcome",
    "dispatch",
    "parse_request",
    "parse_value",
    "text_field",
    "texts_field",
    "with_passed_on",
]

_logger = logging.getLogger("goplugins.serve")

INTERNAL_TEXT = "internal error"
"""All that a caller learns of an exception: its own text may hold anything."""


_PASSED_ON = ("Idempotency-Key", "traceparent", "tracestate")
"""Headers of HTTP and gRPC that the function sees beside the message's own; others are between the two sides."""


class Kind(enum.Enum):
    """How a request ended; the values are the wire's ``error_kind``."""

    OK = "ok"
    REJECTED = "rejected"
    INVALID = "invalid"
    EXPIRED = "deadline"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"


@attrs.frozen
class Incoming:
    """A request as a wire read it.

    Attributes:
        data: parsed JSON, not yet typed.
        timeout: seconds that the caller had left when the request came in; None if it did not say.
        arrived: when it came in, on the clock's monotonic scale; it may have waited for a thread since.
    """

    data: Any
    request_id: str
    arrived: float
    timeout: float | None = None
    headers: Mapping[str, str] = attrs.field(factory=dict)
    metadata: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen
class Outcome:
    """What to answer: ``data`` is JSON, for OK; ``error`` is for the caller's eyes, for all else.

    ``metadata`` belongs to OK and REJECTED; ``retry_after`` is the seconds that an UNAVAILABLE plugin asks for, if it
    does.
    """

    kind: Kind
    data: bytes = b""
    error: str = ""
    metadata: Mapping[str, str] = attrs.field(factory=dict)
    retry_after: float | None = None


def dispatch(plugin: ServedPlugin[Any, Any], incoming: Incoming, clock: Clock = SYSTEM_CLOCK) -> Outcome:
    """Runs the plugin's function for one request and judges how that went.

    Whatever the function raises becomes an outcome, SystemExit and CancelledError included: a plugin can't end its
    server. Only KeyboardInterrupt, GeneratorExit and greenlet's exit pass: those are for whoever runs the thread.
    """
    remaining = None
    if incoming.timeout is not None:
        remaining = incoming.arrived + incoming.timeout - clock.monotonic()
        if remaining <= 0:
            return Outcome(Kind.EXPIRED, error="the deadline had passed before the plugin could start")
    try:
        request = plugin.decode(incoming.data)
        context = ExecutionContext(
            request_id=incoming.request_id, timeout=remaining, headers=incoming.headers, metadata=incoming.metadata
        )
    except InvalidArgumentError as exc:
        return Outcome(Kind.INVALID, error=exc.message)
    return _run(plugin, request, context, incoming, clock)


def _run(
    plugin: ServedPlugin[Any, Any], request: Any, context: ExecutionContext, incoming: Incoming, clock: Clock
) -> Outcome:
    name, request_id = plugin.info().name, incoming.request_id
    limit = contextlib.nullcontext() if context.timeout is None else deadline(context.timeout, clock=clock)
    try:
        with limit, serving_span(name, request_id, incoming.headers):
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
            _logger.warning("plugin %r, request %r: the deadline passed within: %s", name, request_id, exc)
            return Outcome(Kind.EXPIRED, error="the deadline passed within the plugin")
        _logger.exception("plugin %r, request %r failed", name, request_id)
        return Outcome(Kind.INTERNAL, error=INTERNAL_TEXT)


def _is_over(incoming: Incoming, clock: Clock) -> bool:
    return incoming.timeout is not None and clock.monotonic() >= incoming.arrived + incoming.timeout


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_decoder = json.JSONDecoder(parse_constant=_refuse_constant)


def parse_value(text: bytes, what: str) -> Any:
    """The one JSON value that ``text`` holds; ``what`` the text is goes into the error.

    Raises:
        InvalidArgumentError: it holds anything else; the message quotes none of it.

    >>> parse_value(b'[1, "a"]', "the payload")
    [1, 'a']
    """
    try:
        return _decoder.decode(text.decode("utf-8"))
    except json.JSONDecodeError as exc:
        raise InvalidArgumentError(f"{what} is not JSON: {exc.msg} at character {exc.pos}") from exc
    except UnicodeDecodeError as exc:
        raise InvalidArgumentError(f"{what} is not UTF-8: byte {exc.start}") from exc
    except (ValueError, RecursionError) as exc:
        raise InvalidArgumentError(f"{what} is not JSON: {exc}"[:200]) from exc


def parse_request(body: bytes) -> dict[str, Any]:
    """The one JSON object that ``body`` holds.

    Raises:
        InvalidArgumentError: it holds anything else; the text quotes none of it.
    """
    envelope = parse_value(body, "the request")
    if type(envelope) is not dict:
        raise InvalidArgumentError(f"the request is a JSON {type(envelope).__name__}, expected an object with data")
    return envelope


def text_field(envelope: Mapping[str, Any], field: str) -> str:
    """A field that holds text; empty if it is missing or null.

    Raises:
        InvalidArgumentError: it holds anything else.
    """
    value = envelope.get(field)
    if value is None:
        return ""
    if type(value) is not str:
        raise InvalidArgumentError(f"{field}: expected a string")
    return value


def texts_field(envelope: Mapping[str, Any], field: str) -> dict[str, str]:
    """A field that maps names to text; empty if it is missing or null.

    Raises:
        InvalidArgumentError: it holds anything else.
    """
    value = envelope.get(field)
    if value is None:
        return {}
    if type(value) is not dict or not all(type(text) is str for text in value.values()):
        raise InvalidArgumentError(f"{field}: expected an object whose values are strings")
    return value


def with_passed_on(own: Mapping[str, str], header: Callable[[str], str | None]) -> dict[str, str]:
    """The headers that the function sees: the message's own, and those of its wire that are meant for it.

    Args:
        own: from the message; they win.
        header: gives a header of the wire.

    >>> with_passed_on({"X-Tenant": "blue"}, {"traceparent": "00-1", "Host": "x"}.get)
    {'X-Tenant': 'blue', 'traceparent': '00-1'}
    """
    headers = dict(own)
    known = {name.lower() for name in headers}
    for name in _PASSED_ON:
        if name.lower() not in known and (value := header(name)):
            headers[name] = value
    return headers
