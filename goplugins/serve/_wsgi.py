"""A served plugin as a WSGI application: calls, health, info and authentication over HTTP."""

from __future__ import annotations

import functools
import http
import logging
import math
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from goplugins.config.durations import parse_duration
from goplugins.errors import InvalidArgumentError
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock
from goplugins.serve._auth import Guard
from goplugins.serve._dispatch import (
    INTERNAL_TEXT,
    Incoming,
    Kind,
    Outcome,
    checked_health,
    dispatch,
    encode_json,
    health_json,
    info_json,
    parse_request,
    text_field,
    texts_field,
    with_forwarded,
)
from goplugins.serve._served import Served, as_served

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from goplugins.config.credentials import AuthConfig

MAX_REQUEST_BYTES = 4 * 1024 * 1024

ARRIVED = "goplugins.arrived"
"""Key of the environ where a server puts the arrival time of the request, on the clock's monotonic scale."""

_MAX_ID_IN_HEADER = 200
_STATUS = {status.value: f"{status.value} {status.phrase}" for status in http.HTTPStatus}
_STATUS_OF_KIND = {
    Kind.OK: 200,
    Kind.REJECTED: 200,
    Kind.INVALID: 400,
    Kind.EXPIRED: 504,
    Kind.UNAVAILABLE: 503,
    Kind.INTERNAL: 500,
}

_logger = logging.getLogger("goplugins.serve")


class _Refusal(Exception):  # noqa: N818 - an early reply; does not leave this module
    def __init__(self, status: int, text: str, *headers: tuple[str, str]) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.headers = headers


@attrs.frozen
class _Reply:
    status: int
    body: bytes
    request_id: str = ""
    headers: tuple[tuple[str, str], ...] = ()


def wsgi(
    plugin: Served,
    *,
    auth: AuthConfig | None = None,
    path: str | None = None,
    max_request_bytes: int = MAX_REQUEST_BYTES,
    clock: Clock = SYSTEM_CLOCK,
) -> WSGIApplication:
    """The plugin as an application for any WSGI server with threads.

    ``POST`` of an envelope calls the function; ``GET .../health`` replies with status 200 if the plugin is healthy or
    degraded, else 503; ``GET .../info`` returns name, version and operations.

    Args:
        plugin: a function with :func:`~goplugins.serve.plugin`, or a :class:`~goplugins.serve.Plugin`.
        auth: credentials that every request must have, health and info too: api-key, bearer, basic or custom.
        path: the path of calls, relative to the mount point of the application; any path when None.
        max_request_bytes: larger requests are refused with 413.
        clock: source of time for the callers' deadlines.

    Raises:
        InvalidArgumentError: ``plugin`` is not a served plugin, or ``max_request_bytes`` is not above 0.
        AuthConfigError: ``auth`` lacks its credentials, or is mtls, which a WSGI application can't check.
    """
    as_served(plugin)
    if max_request_bytes <= 0:
        raise InvalidArgumentError(f"max_request_bytes: expected more than 0, got {max_request_bytes}")
    base = None if path is None else f"/{path.strip('/')}".rstrip("/")
    return _App(plugin, Guard(auth, clock=clock), base, max_request_bytes, clock)


class _App:
    def __init__(self, plugin: Served, guard: Guard, base: str | None, max_request_bytes: int, clock: Clock) -> None:
        self._plugin = plugin
        self._guard = guard
        self._base = base
        self._max_request_bytes = max_request_bytes
        self._clock = clock

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request_id = environ.get("HTTP_X_REQUEST_ID", "")
        try:
            reply = self._answer(environ)
        except _Refusal as refusal:
            reply = _Reply(refusal.status, error_body(refusal.text, request_id), request_id, refusal.headers)
        except Exception:
            # Only a defect of this module, or of the server's environ, gets here.
            _logger.exception("plugin %r, request %r: unexpected error", self._plugin.name, request_id)
            reply = _Reply(500, error_body(INTERNAL_TEXT, request_id), request_id)
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(reply.body))), *reply.headers]
        if _fits_header(reply.request_id):
            headers.append(("X-Request-Id", reply.request_id))
        start_response(_STATUS[reply.status], headers)
        return [] if environ.get("REQUEST_METHOD") == "HEAD" else [reply.body]

    def _answer(self, environ: WSGIEnvironment) -> _Reply:
        header = functools.partial(_raw_header, environ)
        if not self._guard.admits(header, environ.get("REMOTE_ADDR", "an unknown address")):
            challenge = self._guard.challenge
            raise _Refusal(401, "unauthorized", *([("WWW-Authenticate", challenge)] if challenge else []))
        method = environ.get("REQUEST_METHOD", "")
        executes, read = self._route(environ.get("PATH_INFO", "").rstrip("/"))
        if method == "POST" and executes:
            return self._execute(environ)
        if read is not None and method in {"GET", "HEAD"}:
            return read()
        if not executes and read is None:
            raise _Refusal(404, "no such path")
        allowed = ([] if read is None else ["GET", "HEAD"]) + (["POST"] if executes else [])
        raise _Refusal(405, f"expected {' or '.join(allowed)}", ("Allow", ", ".join(allowed)))

    def _route(self, path: str) -> tuple[bool, Callable[[], _Reply] | None]:
        """Whether POST to this path is a call, and the handler of GET."""
        readers = {"/health": self._health, "/info": self._info}
        if self._base is None:
            _, slash, last = path.rpartition("/")
            return True, readers.get(slash + last)
        if not path.startswith(self._base):
            return False, None
        rest = path[len(self._base) :]
        return rest == "", readers.get(rest)

    def _health(self) -> _Reply:
        usable, status = checked_health(self._plugin)
        return _Reply(200 if usable else 503, health_json(status).encode())

    def _info(self) -> _Reply:
        return _Reply(200, info_json(self._plugin).encode())

    def _execute(self, environ: WSGIEnvironment) -> _Reply:
        arrived = environ.get(ARRIVED)
        if arrived is None:
            arrived = self._clock.monotonic()
        _check_content(environ)
        request_id = environ.get("HTTP_X_REQUEST_ID", "")
        try:
            envelope = parse_request(_read_body(environ, self._max_request_bytes))
            request_id = text_field(envelope, "request_id") or request_id or uuid.uuid4().hex
            incoming = Incoming(
                envelope.get("data"),
                request_id,
                arrived,
                _timeout(envelope),
                with_forwarded(texts_field(envelope, "headers"), lambda name: environ.get(_key(name))),
                texts_field(envelope, "metadata"),
                text_field(envelope, "operation"),
            )
        except InvalidArgumentError as exc:
            return _Reply(400, error_body(exc.message, request_id), request_id)
        outcome = dispatch(self._plugin, incoming, self._clock)
        # HTTP has whole seconds only; rounded up, since a retry before that time would be refused again.
        wait = () if outcome.retry_after is None else (("Retry-After", str(math.ceil(outcome.retry_after))),)
        return _Reply(_STATUS_OF_KIND[outcome.kind], _outcome_body(outcome, request_id), request_id, wait)


def _raw_header(environ: WSGIEnvironment, name: str) -> bytes | None:
    value = environ.get(_key(name))
    return None if value is None else value.encode("latin-1")  # how WSGI puts bytes into strings


def _key(name: str) -> str:
    """The environ's key of a header."""
    return "HTTP_" + name.upper().replace("-", "_")


def _check_content(environ: WSGIEnvironment) -> None:
    # It also keeps a web page from calling a plugin on its visitor's machine: forms and simple cross-site requests
    # can't have the content type JSON.
    kind = environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise _Refusal(415, "expected Content-Type: application/json")
    if environ.get("HTTP_CONTENT_ENCODING", "identity").lower() != "identity":
        raise _Refusal(415, "compressed requests are not supported", ("Accept-Encoding", "identity"))


def _read_body(environ: WSGIEnvironment, limit: int) -> bytes:
    """The request's body; reads neither beyond its end nor more than ``limit`` bytes."""
    length = environ.get("CONTENT_LENGTH", "")
    if length == "":
        # Without a length, reading is safe only if the server ends the input.
        if not environ.get("wsgi.input_terminated"):
            raise _Refusal(411, "expected Content-Length")
        body: bytes = environ["wsgi.input"].read(limit + 1)
        if len(body) > limit:
            raise _too_large(limit)
        return body
    if not (length.isascii() and length.isdigit()):
        raise _Refusal(400, "Content-Length is not a number")
    if len(length) > 15 or int(length) > limit:
        raise _too_large(limit)
    body = environ["wsgi.input"].read(int(length))
    if len(body) < int(length):
        raise _Refusal(400, "the request body is shorter than its Content-Length")
    return body


def _too_large(limit: int) -> _Refusal:
    return _Refusal(413, f"the request is larger than {limit} bytes")


def _timeout(envelope: Mapping[str, Any]) -> float | None:
    text = text_field(envelope, "timeout")
    if not text:
        return None
    try:
        return parse_duration(text)
    except InvalidArgumentError as exc:
        raise InvalidArgumentError(f"timeout: {exc.message}") from exc


def _fits_header(request_id: str) -> bool:
    """Whether the header may have this id: visible ASCII only. The envelope has any id."""
    return 0 < len(request_id) <= _MAX_ID_IN_HEADER and all("!" <= char <= "~" for char in request_id)


def error_body(text: str, request_id: str = "", metadata: Mapping[str, str] | None = None) -> bytes:
    """The envelope of an error."""
    envelope: dict[str, Any] = {"error": text}
    if request_id:
        envelope["request_id"] = request_id
    if metadata:
        envelope["metadata"] = dict(metadata)
    return encode_json(envelope).encode()


def _outcome_body(outcome: Outcome, request_id: str) -> bytes:
    if outcome.kind is Kind.OK:
        metadata = b',"metadata":%b' % encode_json(dict(outcome.metadata)).encode() if outcome.metadata else b""
        return b'{"data":%b,"request_id":%b%b}' % (outcome.data, encode_json(request_id).encode(), metadata)
    return error_body(outcome.error, request_id, outcome.metadata)
