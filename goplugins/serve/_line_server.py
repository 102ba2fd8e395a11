"""Serves a plugin over lines of JSON, one request and one reply each: the part that Unix sockets and stdio share."""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from goplugins.errors import InvalidArgumentError
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock
from goplugins.serve._auth import Guard
from goplugins.serve._dispatch import (
    HEALTH_TIMEOUT,
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
)
from goplugins.serve._served import Served, as_served
from goplugins.transports.line_channel import LineBuffer

if TYPE_CHECKING:
    from goplugins.config.credentials import AuthConfig

_logger = logging.getLogger("goplugins.serve")

MAX_DISCARDED = 64 * 1024 * 1024
"""Bytes of the rest of a line that is too long that are read and dropped after its refusal."""

DISCARD_TIMEOUT = 1.0
"""Seconds for that. Without it, a client that sends its whole line before it reads would get a broken pipe."""

_START = 4096
"""Bytes of a line that is too long in which its request id is searched."""

_REQUEST_ID = re.compile(rb'\s*\{\s*"type"\s*:\s*"\w*"\s*,\s*"request_id"\s*:\s*("(?:[^"\\]|\\.)*")')
_CREDENTIALS = frozenset({"authorization", "x-api-key"})


class LineReader:
    r"""Splits a caller's bytes into lines. A line longer than ``limit`` bytes is the last one, without its end.

    >>> reader = LineReader(limit=5)
    >>> reader.feed(b"one\ntwo\nthr"), reader.feed(b"eeeeee"), reader.ended
    ([b'one', b'two'], [b'threeeeee'], True)

    Attributes:
        ended: whether a line was too long: nothing more is read from this caller.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = LineBuffer()
        self.ended = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that are complete now, without their line breaks."""
        buffer = self._buffer
        buffer.feed(chunk)
        lines = []
        while not self.ended and (line := buffer.take()) is not None:
            lines.append(line)
            self.ended = len(line) > self._limit
        if not self.ended and len(buffer) > self._limit:
            lines.append(bytes(buffer.held))
            self.ended = True
        return lines

    @property
    def mid_line(self) -> bool:
        """Whether a line has begun and not ended."""
        return bool(self._buffer)


class LineService:
    """Executes requests and returns replies; used by many threads at once.

    Args:
        plugin: a function with :func:`~goplugins.serve.plugin`, or a :class:`~goplugins.serve.Plugin`.
        auth: credentials that every request must have in its ``headers``.
        max_request_bytes: longer lines are refused.
        threads: maximum calls executed at once; further ones wait. Health, info and ping don't wait.
        clock: source of time for the callers' deadlines.

    Attributes:
        requires_credentials: whether requests without credentials are refused.

    Raises:
        ConfigError: ``auth`` lacks its credentials, or has a method that headers can't express.
        InvalidArgumentError: the limit is below 1.
    """

    def __init__(
        self,
        plugin: Served,
        *,
        auth: AuthConfig | None,
        max_request_bytes: int,
        threads: int = 1,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if max_request_bytes < 1:
            raise InvalidArgumentError(
                f"max_request_bytes: expected an integer of 1 or more, got {max_request_bytes!r}"
            )
        self.max_request_bytes = max_request_bytes
        self._plugin = as_served(plugin)
        self._guard = Guard(auth, clock=clock)
        self.requires_credentials = bool(self._guard.names)
        self._secret_headers = _CREDENTIALS | self._guard.names
        self._slots = threading.BoundedSemaphore(threads)
        self._clock = clock

    def reader(self) -> LineReader:
        """A reader for the bytes of one caller."""
        return LineReader(self.max_request_bytes)

    def answer(self, line: bytes, arrived: float, caller: str) -> bytes:
        """The reply to one line, whatever the line contains.

        Args:
            line: without its line break.
            arrived: when it arrived, on the clock's monotonic scale; it may have waited for a thread since.
            caller: for the log.
        """
        kind, request_id = "", ""
        try:
            envelope = self._envelope(line)
            request_id = text_field(envelope, "request_id")
            kind = text_field(envelope, "type")
            headers = texts_field(envelope, "headers")
            lower = {name.lower(): value for name, value in headers.items()}
            if not self._guard.admits(lambda name: _bytes(lower.get(name)), caller):
                return _failure(kind, request_id, "unauthenticated", "unauthorized")
            return self._answer(kind, request_id, envelope, headers, arrived)
        except InvalidArgumentError as exc:
            # With the id, so that the caller can match the refusal with its request.
            return _failure(kind, request_id or _request_id_at_start(line), Kind.INVALID.value, exc.message)
        except Exception:
            # Only a defect of this module gets here; the caller must still get a reply.
            _logger.exception("plugin %r, request %r: unexpected error", self._plugin.name, request_id)
            return _failure(kind, request_id, Kind.INTERNAL.value, INTERNAL_TEXT)

    def _envelope(self, line: bytes) -> dict[str, Any]:
        if len(line) > self.max_request_bytes:
            raise InvalidArgumentError(f"the request is larger than {self.max_request_bytes} bytes")
        return parse_request(line)

    def _answer(
        self, kind: str, request_id: str, envelope: Mapping[str, Any], headers: dict[str, str], arrived: float
    ) -> bytes:
        if kind == "execute":
            incoming = Incoming(
                envelope.get("data"),
                request_id,
                arrived,
                _timeout(envelope),
                {name: value for name, value in headers.items() if name.lower() not in self._secret_headers},
                texts_field(envelope, "metadata"),
                text_field(envelope, "operation"),
            )
            # The wait for a slot counts against the caller's deadline, which is measured from the arrival.
            with self._slots:
                return _outcome(request_id, dispatch(self._plugin, incoming, self._clock))
        if kind == "health":
            return self._health(request_id, _timeout(envelope))
        if kind == "info":
            return _success(kind, request_id, info_json(self._plugin))
        if kind == "ping":
            return _success(kind, request_id)
        raise InvalidArgumentError("type: expected execute, health, info or ping")

    def _health(self, request_id: str, timeout: float | None) -> bytes:
        usable, status = checked_health(self._plugin, HEALTH_TIMEOUT if timeout is None else timeout)
        data = health_json(status)
        if usable:
            return _success("health", request_id, data)
        text = status.message or f"the plugin is {status.status.value}"
        return _line("health", request_id, b'"success":false,"data":%b,"error":%b' % (data.encode(), _text(text)))


def _request_id_at_start(line: bytes) -> str:
    """The request id of a line that can't be parsed."""
    found = _REQUEST_ID.match(line[:_START])
    try:
        return str(json.loads(found[1])) if found else ""
    except ValueError:
        return ""


def _timeout(envelope: Mapping[str, Any]) -> float | None:
    """Seconds; 0 is no timeout, as in Go."""
    value = envelope.get("timeout_ms")
    if value is None or value == 0:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e15:
        raise InvalidArgumentError("timeout_ms: expected a number of milliseconds greater than 0")
    return value / 1000.0


def _bytes(value: str | None) -> bytes | None:
    return None if value is None else value.encode("utf-8", "replace")


def _text(text: str) -> bytes:
    return encode_json(text).encode()


def _line(kind: str, request_id: str, rest: bytes) -> bytes:
    return b'{"type":%b,"request_id":%b,%b}\n' % (_text(kind), _text(request_id), rest)


def _success(kind: str, request_id: str, data: str = "") -> bytes:
    return _line(kind, request_id, b'"success":true,"data":%b' % data.encode() if data else b'"success":true')


def _failure(
    kind: str,
    request_id: str,
    error_kind: str,
    text: str,
    metadata: Mapping[str, str] | None = None,
    retry_after: float | None = None,
) -> bytes:
    fields: dict[str, Any] = {"success": False, "error": text, "error_kind": error_kind}
    headers = {} if retry_after is None else {"Retry-After": format(retry_after, "g")}
    if metadata:
        fields["metadata"] = dict(metadata)
        if "error_code" in metadata:
            headers["X-Error-Code"] = metadata["error_code"]  # Go clients read headers only
    if headers:
        fields["headers"] = headers
    return _line(kind, request_id, encode_json(fields)[1:-1].encode())


def _outcome(request_id: str, outcome: Outcome) -> bytes:
    if outcome.kind is Kind.OK:
        metadata = b',"metadata":%b' % encode_json(dict(outcome.metadata)).encode() if outcome.metadata else b""
        return _line("execute", request_id, b'"success":true,"data":%b%b' % (outcome.data, metadata))
    return _failure("execute", request_id, outcome.kind.value, outcome.error, outcome.metadata, outcome.retry_after)
