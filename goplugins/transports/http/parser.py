"""Parsing of replies with llhttp: a reply is whole, well formed and within its limits, or rejected.

llhttp rejects what would let two parsers see two different messages: lengths that contradict each other or the
transfer encoding, folded headers, bare line feeds, control characters, broken chunk sizes. Its lenient modes stay off.
Limits, and whether a connection is kept alive, are decided here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Protocol

from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpResponseParser

from goplugins.errors import BadReplyError, PluginError, ReplyTooLargeError, TruncatedReplyError
from goplugins.runtime.text import counted, cut
from goplugins.transports.http import body as reply_body
from goplugins.transports.http.engine import Headers, HTTPReply

if TYPE_CHECKING:
    from collections.abc import Callable


_MOST_HEADERS = 101
"""Trailers included; the start of each message counts as one, since there may be interim replies."""

_LARGEST_HEAD = 65536
"""Bytes of header names and values together, trailers included."""

_SHORT_HEAD = 4 * _MOST_HEADERS
"""Bytes; a head that is no longer can't contain too many headers."""

_LONGEST_LINE = 65536
"""Bytes that may arrive without a callback of the parser."""

_START = b"HTTP/1."
_KEEP_ALIVE = b"\r\nconnection: keep-alive\r\n"
_NO_CONTENT = 204
_ERRORS = 300
"""From this status on, the status alone decides what a reply means, whatever its body is."""

_ERROR_BODY_TIME = 1.0
"""Seconds that the rest of an error's body may take."""

_NO_HEADERS: dict[bytes, bytes] = {}


_HINT = re.compile(rb"\btimeout *= *\"?(\d{1,9})(?!\d)", re.IGNORECASE)


class IdleLimit:
    """When an idle connection is given up, by the Keep-Alive header of a reply: an attribute of both parsers.

    Attributes:
        at: None while no reply has had one.
    """

    __slots__ = ("_now", "at")

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.at: float | None = None

    def read(self, header: bytes) -> None:
        """Gives the connection up before the server does: a call that is on its way at that moment would be lost."""
        found = _HINT.search(header)
        if found is not None:
            seconds = float(found[1])
            self.at = self._now() + max(seconds - 1.0, seconds / 2)


class Source(Protocol):
    """A connection to read from."""

    @property
    def received(self) -> int: ...
    @property
    def failure(self) -> OSError | None: ...
    def receive(self) -> bytes: ...
    def hasten(self, seconds: float) -> None: ...


class _ExtraBytes(Exception):  # noqa: N818 - passes only through the parser
    """Bytes beyond the reply."""


class FastPathParser:
    """Parses whole replies of the simplest kind in C: llhttp calls no Python function on the way.

    Args:
        limit: bytes that a body may have.
        idle_limit: of the connection.
    """

    __slots__ = ("_chunks", "_feed", "_idle_limit", "_incomplete", "_limit")

    def __init__(self, limit: int, idle_limit: IdleLimit) -> None:
        self._limit = limit
        self._idle_limit = idle_limit
        self._chunks: list[bytes] = []
        self._incomplete: list[bool] = []  # cleared at the end of a message
        self._begin()

    def _begin(self) -> None:
        callbacks = SimpleNamespace(on_body=self._chunks.append, on_message_complete=self._incomplete.clear)
        self._feed: Callable[[bytes], None] = HttpResponseParser(callbacks).feed_data

    def read(self, data: bytes) -> HTTPReply | None:
        """The reply, if ``data`` is one reply of status 200 with a body, after which the connection is kept alive.

        None says only that :class:`ReplyParser` has to parse ``data``.
        """
        start = data.find(b"\r\n\r\n") + 4
        if not (data.startswith(b"HTTP/1.1 200 ") and 4 <= start < len(data) and start <= _LARGEST_HEAD):
            return None
        head = data[: start - 2]
        lower = head.lower()
        if (
            b"encoding" in lower  # of the transfer, or of the content
            or (b"connection" in lower and lower.count(b"connection") != lower.count(_KEEP_ALIVE))
            or (start > _SHORT_HEAD and lower.count(b"\n") > _MOST_HEADERS)
        ):
            return None
        chunks, incomplete = self._chunks, self._incomplete
        incomplete.append(True)
        try:
            self._feed(data)
        except (HttpParserError, HttpParserUpgrade):
            incomplete.append(True)
        if incomplete or len(chunks) != 1 or len(chunks[0]) != len(data) - start or len(chunks[0]) > self._limit:
            # Malformed, incomplete, too large, or more than one reply.
            chunks.clear()
            incomplete.clear()
            self._begin()
            return None
        if b"\nkeep-alive:" in lower:
            self._idle_limit.read(lower.partition(b"\nkeep-alive:")[2].partition(b"\r")[0])
        return HTTPReply(200, head, chunks.pop(), True)


class ReplyParser:
    """Parses the replies of one connection, one after the other.

    Args:
        limit: bytes that a body may have, as sent and decompressed.
        idle_limit: of the connection.

    Attributes:
        keep_alive: whether the last reply was whole, with nothing after it, and the peer keeps the connection alive.
    """

    __slots__ = (
        "_bodiless",
        "_chunks",
        "_count",
        "_done",
        "_feed",
        "_headers",
        "_idle_limit",
        "_in_body",
        "_limit",
        "_parser",
        "_size",
        "_start",
        "_status",
        "_unparsed",
        "keep_alive",
        "on_body",
    )

    def __init__(self, limit: int, idle_limit: IdleLimit) -> None:
        self._limit = limit
        self._idle_limit = idle_limit
        self._chunks: list[bytes] = []
        self.on_body: Callable[[bytes], None] = self._chunks.append
        self._headers = _NO_HEADERS
        self._bodiless = self._done = self._in_body = self.keep_alive = False
        self._status = self._count = self._size = self._unparsed = 0
        self._start = b""
        self._parser = HttpResponseParser(self)
        self._feed: Callable[[bytes], None] = self._parser.feed_data

    def read(self, source: Source, data: bytes | None = None, *, bodiless: bool = False) -> HTTPReply:
        """The next reply, whole. After an error, the connection and this parser can't be used any more.

        Args:
            source: the connection.
            data: the first bytes, if received already; empty if the connection has ended.
            bodiless: whether it replies to a HEAD request: it announces a body that does not follow.

        Raises:
            EOFError: the connection ended before the reply began.
            PluginError: the reply is malformed, too large or too short; ``details`` has its status.
            OSError: the connection failed.
        """
        self._bodiless = bodiless
        try:
            return self._read(source, data)
        except PluginError as exc:
            if self._status >= 200:
                exc.details["status"] = self._status
            raise

    def _read(self, source: Source, data: bytes | None) -> HTTPReply:
        self._chunks.clear()
        self._done = self.keep_alive = False
        self._status = self._count = self._size = self._unparsed = 0
        self._start = b""
        self._parse(source, source.receive() if data is None else data)
        while self._status < 200:
            self._parse(source, source.receive())
        headers = self._headers
        if self._bodiless:  # llhttp waits for the body; a parser of its own for each is simpler than its flags
            self.keep_alive = False
            return HTTPReply(self._status, Headers(headers), b"", True)
        if b"keep-alive" in headers:
            self._idle_limit.read(headers[b"keep-alive"])
        if self._status >= _ERRORS:
            return HTTPReply(self._status, Headers(headers), self._error_body(source), True)
        framed = b"content-length" in headers or b"transfer-encoding" in headers
        if self._done and b"content-encoding" not in headers:
            body = b"".join(self._chunks)
            self._chunks.clear()  # an idle connection holds no body
            if len(body) > self._limit:
                raise ReplyTooLargeError(f"the reply is larger than {self._limit} bytes")
        else:
            encoding = reply_body.check_encoding(headers.get(b"content-encoding", b"").decode("latin-1"))
            body = reply_body.collect(self._rest(source), encoding, self._limit)
        return HTTPReply(self._status, Headers(headers), body, framed)

    def _error_body(self, source: Source) -> bytes:
        """As much as can be read in a short time, and nothing of a body that is announced as too large."""
        headers = self._headers
        length = headers.get(b"content-length", b"0")
        if not self._done:
            source.hasten(_ERROR_BODY_TIME if int(length) <= self._limit else 0.0)
        encoding = headers.get(b"content-encoding", b"").decode("latin-1")
        body, whole = reply_body.collect_error(
            self._rest(source), encoding, self._limit, lambda exc: exc is source.failure
        )
        self.keep_alive = self.keep_alive and whole
        return body

    def _rest(self, source: Source) -> Iterator[bytes]:
        chunks = self._chunks
        while True:
            yield from chunks
            chunks.clear()
            if self._done:
                return
            self._parse(source, source.receive())

    def _parse(self, source: Source, data: bytes) -> None:
        """Parses received bytes. Raises what :meth:`read` does."""
        if not data:
            self._end(source)
            return
        if len(self._start) < len(_START):  # llhttp accepts other protocols of this form, too
            self._start = start = (self._start + data[: len(_START)])[: len(_START)]
            if not _START.startswith(start):
                raise BadReplyError("the reply is not HTTP/1.0 or HTTP/1.1: it has no such status line")
        before = self._count + len(self._chunks)
        try:
            self._feed(data)
        except (HttpParserError, HttpParserUpgrade) as exc:
            self._raise_for(exc)
        if not self._done:
            self._unparsed = self._unparsed + len(data) if before == self._count + len(self._chunks) else 0
            if self._unparsed > _LONGEST_LINE:
                raise BadReplyError("the reply has a line that is too long")

    def _raise_for(self, exc: HttpParserError | HttpParserUpgrade) -> None:
        """Raises the error for what the parser, or one of its callbacks, rejected; ends a broken body of an error."""
        context = exc.__context__ if isinstance(exc, HttpParserCallbackError) else None
        overflow = str(exc) == "Content-Length overflow"
        if overflow and not self._status:
            self._status = self._parser.get_status_code()
        judged = self._done or self._status >= _ERRORS
        if context is not None and not isinstance(context, _ExtraBytes | (PluginError if judged else _ExtraBytes)):
            try:
                raise context from None  # an interrupt (Ctrl-C, a task's time limit) is wrapped like our own errors
            finally:
                del context, exc  # their tracebacks hold this frame: no work for the collector
        if judged:  # bytes follow a whole reply, or the body of an error ends here
            self._done, self.keep_alive = True, False
            return
        if isinstance(exc, HttpParserUpgrade):
            raise BadReplyError(f"the reply switches to another protocol than HTTP (status {self._status})") from None
        if overflow:
            message = f"the reply is larger than {self._limit} bytes: its Content-Length is far larger"
            raise ReplyTooLargeError(message) from exc
        raise BadReplyError(f"the reply is not HTTP: {exc}") from exc

    def _end(self, source: Source) -> None:
        """Handles the end of the connection, which ends a reply that announces no length."""
        self.keep_alive = False
        headers = self._headers
        if not source.received:
            raise EOFError
        if not self._status:
            raise TruncatedReplyError(f"the reply ended within its head, after {counted(source.received, 'byte')}")
        if self._status < 200:
            raise BadReplyError(f"the reply is an interim one only (status {self._status})")
        if self._status < _ERRORS and (b"content-length" in headers or b"transfer-encoding" in headers):
            raise TruncatedReplyError(
                f"the reply ended too early, after {counted(source.received, 'byte')} with its head"
            )
        self._done = True

    def break_cycles(self) -> None:
        """After the last reply: removes references that only the garbage collector could free."""
        del self._parser, self._feed

    # --- called by llhttp --------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._done:
            raise _ExtraBytes
        self._headers = {}
        self._in_body = False
        self._status = 0
        self._count += 1

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count = count = self._count + 1
        self._size = size = self._size + len(name) + len(value)
        if count > _MOST_HEADERS or size > _LARGEST_HEAD:
            raise BadReplyError("the reply has too many headers, or too long ones")
        if self._in_body:
            return  # trailers are not used
        name, headers = name.lower(), self._headers
        headers[name] = b"%b, %b" % (headers[name], value) if name in headers else value

    def on_headers_complete(self) -> None:
        parser, headers = self._parser, self._headers
        status = parser.get_status_code()
        if status < 100:
            raise BadReplyError(f"the reply is not HTTP: its status is {status}")
        self._status = status
        if self._bodiless and status >= 200:
            self._done = True
            return
        if status >= _ERRORS:
            pass  # see _error_body
        elif b"content-length" in headers:
            length = headers[b"content-length"]
            if int(length) > self._limit and status != _NO_CONTENT:
                announced = cut(length.decode("latin-1"), 40)
                raise ReplyTooLargeError(
                    f"the reply is larger than {self._limit} bytes: its Content-Length is {announced}"
                )
        elif b"transfer-encoding" in headers and headers[b"transfer-encoding"].strip().lower() != b"chunked":
            found = cut(headers[b"transfer-encoding"].decode("latin-1"), 40)
            raise BadReplyError(f"the reply has an unknown Transfer-Encoding: {found!r}")
        self._in_body = True

    def on_message_complete(self) -> None:
        if self._status >= 200:
            self._done = True
            # Available only now. HTTP/1.0 has no chunks, so a chunked reply of it is not trusted.
            self.keep_alive = self._parser.should_keep_alive() and (
                b"transfer-encoding" not in self._headers or self._parser.get_http_version() == "1.1"
            )
