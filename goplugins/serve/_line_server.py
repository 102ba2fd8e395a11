"""A served plugin over lines: one JSON object in, one out. What Unix sockets and stdin share."""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from goplugins.config.credentials import auth_headers
from goplugins.enums import PluginStatus
from goplugins.errors import InvalidArgumentError
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock
from goplugins.serve._auth import Guard
from goplugins.serve._dispatch import (
    INTERNAL_TEXT,
    Incoming,
    Kind,
    Outcome,
    dispatch,
    parse_request,
    text_field,
    texts_field,
)
from goplugins.serve._plugin import ServedPlugin
from goplugins.transports.line_channel import LineBuffer

if TYPE_CHECKING:
    from goplugins.config.credentials import AuthConfig

__all__ = ["LineReader", "LineService"]

_logger = logging.getLogger("goplugins.serve")
_encode = json.JSONEncoder(separators=(",", ":")).encode

_HEALTH_TIMEOUT = 5.0
_MAX_DISCARDED = 64 * 1024 * 1024
"""Bytes of a line that is too long that are read, and dropped, before the connection is given up."""

_START = 4096
_REQUEST_ID = re.compile(rb'\s*\{\s*"type"\s*:\s*"\w*"\s*,\s*"request_id"\s*:\s*("(?:[^"\\]|\\.)*")')
_CREDENTIALS = frozenset({"authorization", "x-api-key"})


class LineReader:
    r"""Cuts what a caller sends into lines, and lines that are too long down to their beginning.

    >>> reader = LineReader(limit=5)
    >>> list(reader.feed(b"one\ntwo\nthr")), list(reader.feed(b"eeeeee")), list(reader.feed(b"e\nfour\n"))
    ([(b'one', True), (b'two', True)], [], [(b'threeeeee', False), (b'four', True)])
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = LineBuffer()
        self._start = b""
        self._dropped = 0

    def feed(self, chunk: bytes) -> list[tuple[bytes, bool]]:
        """The lines that are whole now, each with whether it is all there.

        Raises:
            InvalidArgumentError: a line goes on and on; nothing is to be expected of this caller.
        """
        lines = []
        buffer = self._buffer
        buffer.feed(chunk)
        while (line := buffer.take()) is not None:
            if self._dropped:
                line, self._start, self._dropped = self._start, b"", 0
                lines.append((line, False))
            else:
                lines.append((line, True) if len(line) <= self._limit else (line[:_START], False))
        if len(buffer) > self._limit or self._dropped:
            self._start = self._start or buffer.start(_START)
            self._dropped += len(buffer)
            buffer.clear()
            if self._dropped > max(_MAX_DISCARDED, 2 * self._limit):
                raise InvalidArgumentError("a line without an end")
        return lines

    @property
    def mid_line(self) -> bool:
        """Whether a line has begun and not ended."""
        return bool(self._buffer) or self._dropped > 0


class LineService:
    """Answers lines; used by many threads at once.

    Args:
        plugin: what :func:`~goplugins.serve.plugin` made.
        auth: credentials that every line must bring in its ``headers``.
        max_request_bytes: longer lines are refused.
        threads: how many calls run at once; further ones wait. Health, info and ping don't.
        clock: the clock of the callers' deadlines.

    Attributes:
        asks_for_credentials: whether lines without them are refused.

    Raises:
        ConfigError: ``auth`` lacks its credentials, or has a method that no header shows.
        InvalidArgumentError: a limit that is none.
    """

    def __init__(
        self,
        plugin: ServedPlugin[Any, Any],
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
        self._plugin = plugin
        self._guard = Guard(auth, clock=clock)
        expected = {name.lower() for name in auth_headers(auth)} if auth else set()
        self.asks_for_credentials = bool(expected)
        self._secret = _CREDENTIALS | expected
        self._places = threading.BoundedSemaphore(threads)
        self._clock = clock

    def reader(self) -> LineReader:
        """What cuts one caller's bytes into lines for :meth:`answer`."""
        return LineReader(self.max_request_bytes)

    def answer(self, line: bytes, whole: bool, arrived: float, caller: str) -> bytes:
        """The line in answer to one line; never raises for what the line holds.

        Args:
            line: without its line break.
            whole: False for the beginning of one that was too long.
            arrived: when it had come in, on the clock's monotonic scale; it may have waited for its turn since.
            caller: for the log.
        """
        kind, request_id = "", ""
        try:
            envelope = self._envelope(line, whole)
            request_id = text_field(envelope, "request_id")
            kind = text_field(envelope, "type")
            headers = texts_field(envelope, "headers")
            lower = {name.lower(): value for name, value in headers.items()}
            if not self._guard.admits(lambda name: _bytes(lower.get(name)), caller):
                return _failure(kind, request_id, "unauthenticated", "unauthorized")
            return self._answer(kind, request_id, envelope, headers, arrived)
        except InvalidArgumentError as exc:
            # Without the id the caller would not know what is refused.
            return _failure(kind, request_id or _request_id_at_start(line), Kind.INVALID.value, exc.message)
        except Exception:
            # Only a fault of this module gets here; its caller must still hear something.
            _logger.exception("plugin %r, request %r: no answer", self._plugin.info().name, request_id)
            return _failure(kind, request_id, Kind.INTERNAL.value, INTERNAL_TEXT)

    def _envelope(self, line: bytes, whole: bool) -> dict[str, Any]:
        if not whole:
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
                {name: value for name, value in headers.items() if name.lower() not in self._secret},
                texts_field(envelope, "metadata"),
            )
            # A wait for a place is at the caller's cost: what remains is measured from the arrival.
            with self._places:
                return _outcome(request_id, dispatch(self._plugin, incoming, self._clock))
        if kind == "health":
            return self._health(request_id, _timeout(envelope))
        if kind == "info":
            return _success(kind, request_id, _encode(attrs.asdict(self._plugin.info())))
        if kind == "ping":
            return _success(kind, request_id)
        raise InvalidArgumentError("type: expected execute, health, info or ping")

    def _health(self, request_id: str, timeout: float | None) -> bytes:
        status = self._plugin.health(_HEALTH_TIMEOUT if timeout is None else timeout)
        data = _encode({**attrs.asdict(status), "status": status.status.value})
        if status.status in {PluginStatus.HEALTHY, PluginStatus.DEGRADED}:
            return _success("health", request_id, data)
        text = status.message or f"the plugin is {status.status.value}"
        return _line("health", request_id, b'"success":false,"data":%b,"error":%b' % (data.encode(), _text(text)))


def _request_id_at_start(line: bytes) -> str:
    """The id of a line that can't be read as a whole."""
    found = _REQUEST_ID.match(line[:_START])
    try:
        return str(json.loads(found[1])) if found else ""
    except ValueError:
        return ""


def _timeout(envelope: Mapping[str, Any]) -> float | None:
    """Seconds; like Go, 0 is none."""
    value = envelope.get("timeout_ms")
    if value is None or value == 0:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e15:
        raise InvalidArgumentError("timeout_ms: expected a number of milliseconds greater than 0")
    return value / 1000.0


def _bytes(value: str | None) -> bytes | None:
    return None if value is None else value.encode("utf-8", "replace")


def _text(text: str) -> bytes:
    return _encode(text).encode()


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
            headers["X-Error-Code"] = metadata["error_code"]  # Go clients know headers only
    if headers:
        fields["headers"] = headers
    return _line(kind, request_id, _encode(fields)[1:-1].encode())


def _outcome(request_id: str, outcome: Outcome) -> bytes:
    if outcome.kind is Kind.OK:
        metadata = b',"metadata":%b' % _encode(dict(outcome.metadata)).encode() if outcome.metadata else b""
        return _line("execute", request_id, b'"success":true,"data":%b%b' % (outcome.data, metadata))
    return _failure("execute", request_id, outcome.kind.value, outcome.error, outcome.metadata, outcome.retry_after)
