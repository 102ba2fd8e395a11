"""A connection of the httptools engine: a non-blocking socket on which every wait ends at the exchange's deadline.

One system call writes a request, one waits and one reads. Python's own socket timeouts take twice as many, and start
again with each byte that a slow server sends.
"""

from __future__ import annotations

import re
import select
import socket
import ssl
import struct
import sys
from collections.abc import Callable
from functools import partial
from typing import cast

from goplugins.errors import PluginConnectionError, PluginError, PluginTimeoutError, Replay, ReplyTooLargeError
from goplugins.runtime.clock import Clock
from goplugins.runtime.deadline import Deadline
from goplugins.runtime.polling import create_poll
from goplugins.transports.http import errors
from goplugins.transports.http.connector import drop_socket, shut_down
from goplugins.transports.http.engine import FRAMING_ALLOWANCE, HTTPReply
from goplugins.transports.http.parser import FastPathParser, IdleLimit, ReplyParser

_CHUNK = 65536
_MAX_POLL = 86_400_000.0
"""Milliseconds: poll() takes a C int. A longer deadline is waited for in several steps."""

_TCP_INFO = struct.Struct("=B127xQ")
"""Of Linux's ``tcp_info``: the state, and ``tcpi_bytes_received``. The kernel only ever adds fields behind them."""

_ESTABLISHED = 1

_REQUEST_TIMEOUT = 408
"""On a kept connection: the server has waited too long for a request, and has not received this one."""

_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)

_REFUSAL = re.compile(rb"(?:HTTP/1\.\d 1\d\d[^\r\n]*\r\n(?:[^\r\n]+\r\n)*\r\n)*HTTP/1\.\d [3-9]\d\d ")
"""A final reply, after any interim ones, whose status decides what it means, before its request has been sent."""

_CLOSED_BY_PEER = (
    ConnectionResetError,
    BrokenPipeError,
    ConnectionAbortedError,
    ssl.SSLEOFError,
    ssl.SSLZeroReturnError,
)


class Connection:
    """One connected socket and the parsers of its replies.

    Attributes:
        clean: whether the last exchange ended with exactly one whole reply and both sides keep the connection alive.
        sent: bytes that the system has accepted in this exchange.
        received: bytes received in this exchange.
        eof: whether the peer has closed its side.
        failure: error of the system call that failed in this exchange.
        given_up: whether the peer had given up the idle connection before it received the request.
    """

    __slots__ = (
        "_at",
        "_idle_limit",
        "_kind",
        "_limit",
        "_now",
        "_parser",
        "_pending",
        "_poll",
        "_read",
        "_read_fast",
        "_received_before",
        "_reused",
        "_sock",
        "_started",
        "_tcp_info",
        "_unsent",
        "_write",
        "clean",
        "eof",
        "failure",
        "given_up",
        "received",
        "sent",
    )

    def __init__(self, sock: socket.socket, clock: Clock, limit: int) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._kind = socket.socket
        self._now = clock.monotonic
        self._at = self._started = 0.0
        self._limit = 8 * limit + FRAMING_ALLOWANCE
        self._idle_limit = IdleLimit(self._now)
        self._parser = ReplyParser(limit, self._idle_limit)
        self._read_fast = FastPathParser(limit, self._idle_limit).read
        register = create_poll()
        register.register(sock, select.POLLIN)
        self._poll = register.poll
        self._read: Callable[[int], bytes] = sock.recv
        self._write: Callable[[bytes | memoryview], int] = sock.send
        self._pending: Callable[[], int] | None = None
        self._tcp_info: Callable[[], bytes] | None = None
        self._received_before = 0
        if isinstance(sock, ssl.SSLSocket):  # its recv and send only check arguments and call these
            self._read, self._write, self._pending = sock.read, sock.write, sock.pending
        else:
            self._tcp_info = _tcp_info_of(sock)
        self.sent = self.received = self._unsent = 0
        self.clean = self.eof = self.given_up = self._reused = False
        self.failure: OSError | None = None

    def exchange(self, message: bytes, deadline: Deadline) -> HTTPReply:
        """Sends a request and reads the whole reply.

        Raises:
            OSError: a system call failed; ``failure`` is the same error.
            EOFError: the peer closed the connection before it replied.
            PluginError: the reply is broken, or the deadline passed before anything was sent.
        """
        self._at = at = deadline.at
        self._started = started = self._now()
        if at <= started:
            raise PluginTimeoutError("the deadline passed before anything was sent", replay=Replay.ALWAYS)
        self.clean = False
        self.sent = self.received = 0
        self.failure = None
        try:
            self.sent = count = self._write(message)
        except OSError as exc:
            return self._exchange_rest(message, exc)
        if count != len(message):
            return self._exchange_rest(message, None)
        data = self.receive()
        reply = self._read_fast(data)
        if reply is not None:
            self.clean = self.failure is None and (self._pending is None or not self._pending())
            return reply
        return self._read_reply(data, message)

    def _read_reply(self, data: bytes, message: bytes) -> HTTPReply:
        parser = self._parser
        reply = parser.read(self, data, bodiless=message.startswith(b"HEAD "))
        if reply.status == _REQUEST_TIMEOUT and self._reused:
            self.given_up, self.sent = True, 0
            raise EOFError
        if parser.keep_alive and self.failure is None and not self.eof:
            self.clean = self._pending is None or not self._pending()
        return reply

    # --- a request that the system does not accept at once ---------------------------------------------------------

    def _exchange_rest(self, message: bytes, failure: OSError | None) -> HTTPReply:
        """The exchange after a first write that perhaps failed.

        A server may refuse a large request early and close, or read no further: its reply, or its alert, says more than
        the broken pipe or the deadline. Without a reply, reading fails next.
        """
        early = bytearray()
        self._unsent = len(message)
        try:
            if failure is not None and not isinstance(failure, _WOULD_BLOCK):
                raise failure
            self._write_all(message, failure, early)
        except (ConnectionError, ssl.SSLEOFError) as exc:
            self.failure = exc
        except OSError as exc:
            self.failure = exc
            raise
        reply = self._read_reply(bytes(early) or self.receive(), message)
        self._unsent = len(message) - self.sent
        self.clean = self.clean and not self._unsent
        return reply

    def _write_all(self, message: bytes, refusal: OSError | None, early: bytearray) -> None:
        """Writes the rest, unless a refusal arrives meanwhile; adds to ``early`` what has arrived."""
        poll = create_poll()
        with memoryview(message) as view:
            while self.sent < len(message) and not self.eof and not _REFUSAL.match(early):
                # TLS may have to read before it can continue to write.
                reads_only = isinstance(refusal, ssl.SSLWantReadError)
                poll.register(self._sock, select.POLLIN if reads_only else select.POLLIN | select.POLLOUT)
                found = poll.poll(self._milliseconds())
                if found and found[0][1] & ~select.POLLOUT:
                    early += self._read_early()
                    if not reads_only:
                        continue
                try:
                    self.sent += self._write(view[self.sent :])
                    refusal = None
                except _WOULD_BLOCK as exc:
                    refusal = exc

    def _read_early(self) -> bytes:
        """What has arrived while a request is written; empty if that is a part of a TLS record only, or the end."""
        try:
            data = self._read(_CHUNK)
        except _WOULD_BLOCK:
            return b""
        self.received += len(data)
        self.eof = not data
        if self.received > self._limit:
            raise ReplyTooLargeError(f"the reply with its framing is larger than {self._limit} bytes")
        return data

    def _milliseconds(self) -> float:
        remaining = self._at - self._now()
        if remaining <= 0:
            raise TimeoutError("the deadline has passed")
        return min(remaining * 1e3, _MAX_POLL)

    # --- reading -----------------------------------------------------------------------------------------------

    def hasten(self, seconds: float) -> None:
        """Ends this exchange no later than in ``seconds``."""
        self._at = min(self._at, self._now() + seconds)

    def receive(self) -> bytes:
        """The bytes that have arrived, at least one; empty once the peer has closed its side.

        Raises:
            OSError: the system call failed, or nothing arrived before the deadline.
            ReplyTooLargeError: more arrived than any reply may have.
        """
        if self.received > self._limit:
            raise ReplyTooLargeError(f"the reply with its framing is larger than {self._limit} bytes")
        try:
            while True:
                wait = (self._at - self._now()) * 1e3
                if wait <= 0.0:
                    raise TimeoutError("the deadline has passed")
                pending = self._pending  # bytes that TLS has decrypted already are not known to the system
                if (pending is not None and pending()) or self._poll(min(wait, _MAX_POLL)):
                    try:
                        data = self._read(_CHUNK)
                    except _WOULD_BLOCK:
                        continue  # a part of a TLS record, or one that was no data
                    self.received += len(data)
                    self.eof = not data
                    return data
        except OSError as exc:
            self.failure = exc
            raise

    # --- for Exchanges -----------------------------------------------------------------------------------------

    def interrupt(self) -> None:
        """Ends the exchange that runs on another thread; the connection can't be used any more."""
        shut_down(self._sock)

    def is_gone(self, exc: Exception) -> bool:
        """Whether the peer had closed the connection before it sent any byte of a reply."""
        if self.given_up:
            return True
        if self.received or isinstance(exc, PluginError):
            return False
        return self.eof if self.failure is None else isinstance(self.failure, _CLOSED_BY_PEER)

    def error_of(self, exc: Exception, deadline: Deadline) -> PluginError:
        """The error for what an exchange raised."""
        if isinstance(exc, PluginError):
            return exc
        if self.given_up:
            return PluginConnectionError("the plugin closed the idle connection (HTTP 408) before it got the request")
        seconds = self._now() - self._started
        error = errors.exchange_error(
            self.failure, sent=self.sent, unsent=self._unsent - self.sent, received=self.received, seconds=seconds
        )
        error.__cause__ = self.failure or exc
        return error

    # --- for the pool ------------------------------------------------------------------------------------------

    def is_dead(self) -> bool:
        """Whether an idle connection must not be used again.

        It has become readable: closed by the peer, or with unexpected bytes; or the peer is about to close it. Or its
        waits would block all greenlets, since gevent has patched the standard library meanwhile.
        """
        self._reused = True
        limit = self._idle_limit.at
        if (limit is not None and self._now() >= limit) or self._kind is not socket.socket:
            return True
        if self._tcp_info is not None:
            self._received_before += self.received
            self.received = 0
            if _TCP_INFO.unpack(self._tcp_info()) == (_ESTABLISHED, self._received_before):
                return False
        if self._poll(0):
            return True
        self._tcp_info = None  # nothing to read, yet the counts differ: this system counts in another way
        return False

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        """Closes the socket."""
        self._sock.close()
        self._parser.break_cycles()
        self.failure = None  # its traceback refers to frames that refer to this connection

    def drop(self) -> None:
        """Closes this process's descriptor and nothing else: after a fork, the connection is the parent's."""
        drop_socket(self._sock)
        self._parser.break_cycles()


def _tcp_info_of(sock: socket.socket) -> Callable[[], bytes] | None:
    """Reads a connection's state and its bytes received so far; None where the system doesn't provide them.

    It shows as well as poll() whether anything has happened to an idle connection, and Python reads it without
    releasing the interpreter lock: with many threads, a released lock takes a while to get back.
    """
    option = getattr(socket, "TCP_INFO", None)
    platform: str = sys.platform
    if option is None or platform != "linux":
        return None
    read = cast("Callable[[], bytes]", partial(sock.getsockopt, socket.IPPROTO_TCP, option, _TCP_INFO.size))
    try:
        return read if _TCP_INFO.unpack(read()) == (_ESTABLISHED, 0) else None
    except (OSError, struct.error):  # an old kernel has fewer fields
        return None
