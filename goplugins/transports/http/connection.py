"""A connection of the fast engine: a socket that never blocks, every wait of which ends at the exchange's deadline.

One system call writes a request, one waits and one reads; Python's own timeouts would take twice as many, and they
start anew with each byte that a slow server sends.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import sys
from collections.abc import Callable
from functools import partial
from typing import cast

from goplugins.errors import PluginTimeoutError, Replay, ReplyTooLargeError
from goplugins.runtime.clock import Clock
from goplugins.runtime.deadline import Deadline
from goplugins.transports.http.engine import FRAMING_ALLOWANCE, HTTPReply
from goplugins.transports.http.parser import FastPathParser, ReplyParser
from goplugins.transports.http.urllib3_connection import drop_socket, shut_down

__all__ = ["Connection"]

_CHUNK = 65536
_LONGEST_WAIT = 86_400_000.0
"""Milliseconds: poll() refuses what an int can't hold. A longer deadline is waited for in several steps."""

_TCP_INFO = struct.Struct("=B127xQ")
"""Of Linux's ``tcp_info``: the state, and ``tcpi_bytes_received``. The kernel only ever adds fields behind them."""

_ESTABLISHED = 1

_NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Connection:
    """One connected socket and the parser of its replies.

    Attributes:
        clean: whether nothing but a whole reply came in this exchange, and both sides mean to go on.
        sent: bytes handed to the system in this exchange.
        received: bytes taken from it in this exchange.
        eof: whether the peer has closed its side.
        failure: the system call that failed in this exchange.
    """

    __slots__ = (
        "_at",
        "_glance",
        "_info",
        "_limit",
        "_now",
        "_parser",
        "_pending",
        "_poll",
        "_read",
        "_sock",
        "_taken",
        "_write",
        "clean",
        "eof",
        "failure",
        "received",
        "sent",
    )

    def __init__(self, sock: socket.socket, clock: Clock, limit: int) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._now = clock.monotonic
        self._at = 0.0
        self._limit = 8 * limit + FRAMING_ALLOWANCE
        self._parser = ReplyParser(limit)
        self._glance = FastPathParser(limit).read
        register = select.poll()
        register.register(sock, select.POLLIN)
        self._poll = register.poll
        self._read: Callable[[int], bytes] = sock.recv
        self._write: Callable[[bytes | memoryview], int] = sock.send
        self._pending: Callable[[], int] | None = None
        self._info: Callable[[], bytes] | None = None
        self._taken = 0
        if isinstance(sock, ssl.SSLSocket):  # its recv and send only look at arguments and call these
            self._read, self._write, self._pending = sock.read, sock.write, sock.pending
        else:
            self._info = _info_of(sock)
        self.sent = self.received = 0
        self.clean = self.eof = False
        self.failure: OSError | None = None

    def exchange(self, message: bytes, deadline: Deadline) -> HTTPReply:
        """Sends a request and reads the whole reply.

        Raises:
            OSError: a system call failed, which ``failure`` is then, too.
            EOFError: the peer closed the connection before it replied.
            PluginError: the reply is broken, or there was no time left to send anything.
        """
        self._at = at = deadline.at
        if at <= self._now():
            raise PluginTimeoutError("the deadline passed before anything was sent", replay=Replay.ALWAYS)
        self.clean = False
        self.sent = self.received = 0
        self.failure = None
        try:
            self.sent = count = self._write(message)
        except OSError as exc:
            self._write_rest(message, exc)
        else:
            if count != len(message):
                self._write_rest(message)
        data = self.receive()
        reply = self._glance(data)
        if reply is not None:
            self.clean = self.failure is None and (self._pending is None or not self._pending())
            return reply
        parser = self._parser
        reply = parser.read(self, data)
        if parser.keep_alive and self.failure is None and not self.eof:
            self.clean = self._pending is None or not self._pending()
        return reply

    # --- writing -----------------------------------------------------------------------------------------------

    def _write_rest(self, message: bytes, failure: OSError | None = None) -> None:
        """What the first write left over, or failed with.

        A server may refuse early, reply (or alert) and hang up: what it said tells more than the broken pipe, and if
        it said nothing, reading fails in its turn.
        """
        try:
            if failure is not None and not isinstance(failure, _NOT_NOW):
                raise failure
            self._write_all(message, failure)
        except (ConnectionError, ssl.SSLEOFError) as exc:
            self.failure = exc
        except OSError as exc:
            self.failure = exc
            raise

    def _write_all(self, message: bytes, refusal: OSError | None) -> None:
        poll = select.poll()
        with memoryview(message) as view:
            while self.sent < len(message):
                # TLS may have to read before it can go on writing.
                poll.register(
                    self._sock, select.POLLIN if isinstance(refusal, ssl.SSLWantReadError) else select.POLLOUT
                )
                poll.poll(self._milliseconds())
                try:
                    self.sent += self._write(view[self.sent :])
                    refusal = None
                except _NOT_NOW as exc:
                    refusal = exc

    def _milliseconds(self) -> float:
        remaining = self._at - self._now()
        if remaining <= 0:
            raise TimeoutError("the deadline has passed")
        return min(remaining * 1e3, _LONGEST_WAIT)

    # --- reading -----------------------------------------------------------------------------------------------

    def receive(self) -> bytes:
        """What has come, at least a byte; empty once the peer has closed its side.

        Raises:
            OSError: the system call failed, or nothing came in time.
            ReplyTooLargeError: more came than any reply may have.
        """
        if self.received > self._limit:
            raise ReplyTooLargeError(f"the reply with its framing is larger than {self._limit} bytes")
        try:
            while True:
                wait = (self._at - self._now()) * 1e3
                if wait <= 0.0:
                    raise TimeoutError("the deadline has passed")
                pending = self._pending  # what TLS has decrypted already, the system does not know of
                if (pending is not None and pending()) or self._poll(min(wait, _LONGEST_WAIT)):
                    try:
                        data = self._read(_CHUNK)
                    except _NOT_NOW:
                        continue  # a part of a TLS record, or one that was no data
                    self.received += len(data)
                    self.eof = not data
                    return data
        except OSError as exc:
            self.failure = exc
            raise

    # --- what the pool needs -----------------------------------------------------------------------------------

    def is_dead(self) -> bool:
        """Whether an idle connection has become readable: closed by the peer, or with bytes nobody asked for."""
        if self._info is not None:
            self._taken += self.received
            self.received = 0
            if _TCP_INFO.unpack(self._info()) == (_ESTABLISHED, self._taken):
                return False
        if self._poll(0):
            return True
        self._info = None  # there is nothing to read: this system counts in another way
        return False

    def fileno(self) -> int:
        return self._sock.fileno()

    def interrupt(self) -> None:
        """Ends the exchange under way on another thread; the connection is of no use any more."""
        shut_down(self._sock)

    def close(self) -> None:
        """Closes the descriptor."""
        self._sock.close()
        self._parser.let_go()
        self.failure = None  # it knows the frames that know this wire

    def drop(self) -> None:
        """Closes this process's descriptor and nothing else: after a fork, the connection is the parent's."""
        drop_socket(self._sock)
        self._parser.let_go()


def _info_of(sock: socket.socket) -> Callable[[], bytes] | None:
    """What tells a connection's state and the bytes that ever came over it; None where the system doesn't.

    It shows as well as poll() whether anything has happened to an idle connection, and Python asks for it without
    giving up the interpreter's lock: with many threads, who gives that up waits in line to get it back.
    """
    option = getattr(socket, "TCP_INFO", None)
    platform: str = sys.platform
    if option is None or platform != "linux":
        return None
    ask = cast("Callable[[], bytes]", partial(sock.getsockopt, socket.IPPROTO_TCP, option, _TCP_INFO.size))
    try:
        return ask if _TCP_INFO.unpack(ask()) == (_ESTABLISHED, 0) else None
    except (OSError, struct.error):  # an old kernel tells less
        return None
