"""Connections of urllib3 on which every system call ends at the deadline of the exchange that it belongs to."""

from __future__ import annotations

import contextlib
import io
import os
import select
import socket
import ssl
from typing import TYPE_CHECKING, Any

from urllib3.connection import HTTPConnection, HTTPSConnection

from goplugins.errors import PluginConnectionError, PluginTimeoutError, Replay, ReplyTooLargeError
from goplugins.runtime.clock import Clock
from goplugins.runtime.deadline import Deadline
from goplugins.runtime.fork import close_in_children
from goplugins.transports.resolver import Address, Resolver, literal_address

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from _typeshed import ReadableBuffer, WriteableBuffer

    from goplugins.runtime.cancellation import Cancellation


_JOIN_LIMIT = 65536
"""Bytes up to which head and body are copied together into one packet."""


class DeadlineSocket:
    """A connected socket for http.client, on which sends and receives end at the current exchange's deadline.

    A timeout per system call would start again with each byte that a slow server sends.

    Attributes:
        sent: bytes that the system has accepted in this exchange.
        received: bytes received in this exchange.
        eof: whether the peer has closed its side.
        failure: error of the system call that failed; libraries above replace it by errors of their own.
    """

    __slots__ = ("_at", "_now", "_poll", "_reader", "_sock", "_unsent", "eof", "failure", "limit", "received", "sent")

    def __init__(self, sock: socket.socket, clock: Clock) -> None:
        self._sock = sock
        self._now = clock.monotonic
        self._at = 0.0
        self._unsent: list[ReadableBuffer] = []
        self._reader = _ReplyReader(self)
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self.limit = 0
        self.sent = self.received = 0
        self.eof = False
        self.failure: OSError | None = None

    def begin(self, deadline: Deadline, limit: int) -> None:
        """Starts an exchange that ends at ``deadline`` and receives at most ``limit`` bytes."""
        self._at = deadline.at
        self.limit = limit
        self.sent = self.received = 0
        self.failure = None

    def _set_timeout(self) -> None:
        remaining = self._at - self._now()
        if remaining <= 0:
            raise TimeoutError("the deadline has passed")
        self._sock.settimeout(remaining)

    # --- called by http.client and urllib3 ---------------------------------------------------------------------

    def sendall(self, data: ReadableBuffer) -> None:
        """Buffers the data until :meth:`flush`: head and body then leave in one packet and wake the server once."""
        self._unsent.append(data)

    def flush(self) -> None:
        """Sends the buffered data."""
        unsent, self._unsent = self._unsent, []
        if len(unsent) > 1 and sum(len(memoryview(part)) for part in unsent) <= _JOIN_LIMIT:
            unsent = [b"".join(unsent)]
        try:
            for part in unsent:
                with memoryview(part) as view:
                    done, size = 0, len(view)
                    while done < size:
                        self._set_timeout()
                        count = self._sock.send(view[done:] if done else view)
                        self.sent += count
                        done += count
        except OSError as exc:
            self.failure = exc
            raise

    def recv_into(self, buffer: WriteableBuffer) -> int:
        if self.received > self.limit:
            raise ReplyTooLargeError(f"the reply with its framing is larger than {self.limit} bytes")
        try:
            self._set_timeout()
            count = self._sock.recv_into(buffer)
        except OSError as exc:
            self.failure = exc
            raise
        self.received += count
        if not count:
            self.eof = True
        return count

    def makefile(self, mode: str = "rb", *_: Any, **__: Any) -> _ReplyReader:
        """The one reader of this connection; bytes that a reply leaves in its buffer stay there and are detected."""
        return self._reader

    def settimeout(self, timeout: float | None) -> None:
        """Does nothing: the exchange's deadline applies."""

    def close(self) -> None:
        """Does nothing: http.client closes a connection while its last reply is still read. See :meth:`destroy`."""

    def fileno(self) -> int:
        return self._sock.fileno()

    # --- called by the engine ----------------------------------------------------------------------------------

    @property
    def has_leftover(self) -> bool:
        """Whether bytes beyond the reply have arrived."""
        return self._reader.has_buffered or (isinstance(self._sock, ssl.SSLSocket) and self._sock.pending() > 0)

    @property
    def is_dead(self) -> bool:
        """Whether an idle connection has become readable: closed by the peer, or with unexpected bytes."""
        return bool(self._poll.poll(0))

    def interrupt(self) -> None:
        """Ends the exchange that runs on another thread; the connection can't be used any more."""
        shut_down(self._sock)

    def destroy(self) -> None:
        """Closes the socket."""
        self._sock.close()
        self.failure = None  # its traceback refers to frames that refer to this socket

    def drop(self) -> None:
        """Closes this process's descriptor only; see :func:`drop_socket`."""
        drop_socket(self._sock)


class _RawReader(io.RawIOBase):
    """The unbuffered side of a reader."""

    def __init__(self, sock: DeadlineSocket) -> None:
        self._receive = sock.recv_into
        self.at_end = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        return 0 if self.at_end else self._receive(buffer)


class _ReplyReader(io.BufferedReader):
    """Reads replies, one after the other. Stays open when a reply closes it."""

    def __init__(self, sock: DeadlineSocket) -> None:
        self._source = _RawReader(sock)
        super().__init__(self._source, 16384)

    def close(self) -> None:
        """Does nothing: the next reply is read here, too."""

    def flush(self) -> None:
        """Does nothing: a finaliser of http.client's calls this late, and Python 3.13 prints what it raises."""

    @property
    def has_buffered(self) -> bool:
        self._source.at_end = True  # a peek at an empty buffer would receive
        try:
            return bool(self.peek(1))
        finally:
            self._source.at_end = False


class _OpeningSockets:
    """Duplicates of the sockets of a connection that is being opened, with which another thread can end that.

    TLS passes the descriptor from one object to another meanwhile; a duplicate stays valid.
    """

    def __init__(self, cancellation: Cancellation) -> None:
        self._cancellation = cancellation
        self._duplicates: list[socket.socket] = []

    def add(self, sock: socket.socket) -> None:
        """Includes ``sock``, which is shut down at once if the attempt has been cancelled already."""
        self._duplicates.append(sock.dup())
        close_in_children(self._duplicates[-1].fileno())
        if self._cancellation.cancelled:
            self.shut_down()

    def shut_down(self) -> None:
        """Wakes the thread that connects, writes or reads."""
        for sock in self._duplicates:
            shut_down(sock)

    def close(self) -> None:
        for sock in self._duplicates:
            sock.close()


def shut_down(sock: socket.socket) -> None:
    """Wakes a thread that reads or writes on the socket; the descriptor stays open."""
    # Not an SSLSocket's own method, which removes the encryption under a thread that may continue to read.
    with contextlib.suppress(OSError):  # the peer closed first
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


def drop_socket(sock: socket.socket) -> None:
    """Closes this process's descriptor and nothing else, TLS or not: after a fork, the connection is the parent's."""
    descriptor = sock.detach()
    if descriptor >= 0:
        os.close(descriptor)


def open_socket(
    addresses: Sequence[Address],
    options: Sequence[tuple[int, int, int | bytes]],
    deadline: Deadline,
    on_socket: Callable[[socket.socket], None] | None = None,
) -> socket.socket:
    """Connects to the first address that accepts.

    The addresses still to be tried share the remaining time, so that one that drops packets does not use it up.
    ``on_socket`` gets each socket before it connects.

    Raises:
        PluginConnectionError: all of them refused or can't be reached.
        PluginTimeoutError: no answer in time; nothing was sent.
    """
    failure: OSError | None = None
    for position, (family, address) in enumerate(addresses):
        remaining = deadline.remaining()
        if remaining <= 0:
            break
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            close_in_children(sock.fileno())
            for option in options:
                sock.setsockopt(*option)
            if on_socket is not None:
                on_socket(sock)
            sock.settimeout(remaining / (len(addresses) - position))
            sock.connect(address)
        except OSError as exc:
            sock.close()
            if failure is None or not isinstance(exc, TimeoutError):
                failure = exc
            continue
        except BaseException:
            sock.close()
            raise
        return sock
    if failure is None or isinstance(failure, TimeoutError):
        raise _timeout() from failure
    reason = failure.strerror or str(failure)
    raise PluginConnectionError(f"no connection: {reason[:1].lower()}{reason[1:]}") from failure


def _timeout() -> PluginTimeoutError:
    return PluginTimeoutError("timed out while connecting; nothing was sent", replay=Replay.ALWAYS)


class _TunnelSocket(DeadlineSocket):
    """Sends at once: http.client does not flush."""

    __slots__ = ()

    def sendall(self, data: ReadableBuffer) -> None:
        super().sendall(data)
        self.flush()


class PluginConnection(HTTPConnection):
    """HTTP over TCP: addresses from the plugin's resolver, one deadline for opening the connection.

    A subclass, since that is how urllib3's connections are extended: ``_new_conn`` opens their socket.
    """

    auto_open = 0  # http.client would reconnect without the pool

    def __init__(self, host: str, port: int, resolver: Resolver, clock: Clock, **options: Any) -> None:
        super().__init__(host, port, **options)
        self._resolver = resolver
        self._clock = clock
        self._connect_by = Deadline(0.0, clock)
        self._on_socket: Callable[[socket.socket], None] | None = None

    def open(self, deadline: Deadline, cancellation: Cancellation | None = None) -> None:
        """Resolves, connects, and establishes tunnel and TLS before ``deadline``, unless cancelled.

        Raises:
            PluginError: of :func:`open_socket` and the resolver.
            OSError: the tunnel or the TLS handshake failed; the connection is closed.
        """
        self._connect_by = deadline
        try:
            if cancellation is None:
                self.connect()
            else:
                self._connect_unless(cancellation)
        except BaseException:
            sock = self.sock
            self.close()
            if sock is not None:
                sock.close()
            raise

    def _connect_unless(self, cancellation: Cancellation) -> None:
        sockets = _OpeningSockets(cancellation)
        self._on_socket = sockets.add
        try:
            cancellation.guard(sockets.shut_down, self.connect)
        finally:
            sockets.close()

    def _new_conn(self) -> socket.socket:
        literal = literal_address(self.host, self.port)
        found = [literal] if literal is not None else self._resolver.resolve(self.host, self.port, self._connect_by)
        sock = open_socket(found, self.socket_options or (), self._connect_by, self._on_socket)
        remaining = self._connect_by.remaining()
        if remaining <= 0:
            sock.close()
            raise _timeout()
        sock.settimeout(remaining)  # applies to the whole of OpenSSL's handshake
        return sock

    def _tunnel(self) -> None:
        """Requests a tunnel from the proxy, with a deadline of the same kind: a proxy may be slow, too."""
        plain = self.sock
        self.sock = sock = _TunnelSocket(plain, self._clock)
        sock.begin(self._connect_by, 1 << 20)
        try:
            super()._tunnel()  # type: ignore[misc,unused-ignore]  # http.client's own
        except BaseException:
            plain.close()
            raise
        self.sock = plain
        plain.settimeout(max(self._connect_by.remaining(), 0.001))


class TLSConnection(PluginConnection, HTTPSConnection):
    """HTTP over TLS."""
