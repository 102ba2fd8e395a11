"""Connections of urllib3 whose every system call ends at the deadline of the exchange that it belongs to."""

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

__all__ = ["DeadlineSocket", "PluginConnection", "TLSConnection", "drop_socket", "open_socket", "shut_down"]

_JOIN_LIMIT = 65536
"""Bytes up to which head and body are copied together into one packet."""


class DeadlineSocket:
    """What http.client sees of a connected socket: sends and receives that never outlast the current exchange.

    A server may take its time over each byte; a timeout per system call would let it go on for ever.

    Attributes:
        sent: bytes handed to the system in this exchange.
        received: bytes taken from it in this exchange.
        eof: whether the peer has closed its side.
        failure: the error of the system call that failed; libraries above replace it by their own.
    """

    __slots__ = ("_at", "_held", "_now", "_poll", "_reader", "_sock", "eof", "failure", "limit", "received", "sent")

    def __init__(self, sock: socket.socket, clock: Clock) -> None:
        self._sock = sock
        self._now = clock.monotonic
        self._at = 0.0
        self._held: list[ReadableBuffer] = []
        self._reader = _ReplyReader(self)
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self.limit = 0
        self.sent = self.received = 0
        self.eof = False
        self.failure: OSError | None = None

    def begin(self, deadline: Deadline, limit: int) -> None:
        """Starts an exchange that ends at ``deadline`` and reads at most ``limit`` bytes."""
        self._at = deadline.at
        self.limit = limit
        self.sent = self.received = 0
        self.failure = None

    def _arm(self) -> None:
        remaining = self._at - self._now()
        if remaining <= 0:
            raise TimeoutError("the deadline has passed")
        self._sock.settimeout(remaining)

    # --- what http.client and urllib3 call ---------------------------------------------------------------------

    def sendall(self, data: ReadableBuffer) -> None:
        """Holds the data back until :meth:`flush`: head and body then leave in one packet and wake the server once."""
        self._held.append(data)

    def flush(self) -> None:
        """Sends what was held back."""
        held, self._held = self._held, []
        if len(held) > 1 and sum(len(memoryview(part)) for part in held) <= _JOIN_LIMIT:
            held = [b"".join(held)]
        try:
            for part in held:
                with memoryview(part) as view:
                    done, size = 0, len(view)
                    while done < size:
                        self._arm()
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
            self._arm()
            count = self._sock.recv_into(buffer)
        except OSError as exc:
            self.failure = exc
            raise
        self.received += count
        if not count:
            self.eof = True
        return count

    def makefile(self, mode: str = "rb", *_: Any, **__: Any) -> _ReplyReader:
        """The one reader of this connection; what a reply leaves in its buffer stays there to be noticed."""
        return self._reader

    def settimeout(self, timeout: float | None) -> None:
        """Nothing: the exchange's deadline rules."""

    def close(self) -> None:
        """Nothing: http.client closes a connection while its last reply is still being read. See :meth:`destroy`."""

    def fileno(self) -> int:
        return self._sock.fileno()

    # --- what the pool needs -----------------------------------------------------------------------------------

    @property
    def has_leftover(self) -> bool:
        """Whether bytes beyond the reply have arrived."""
        return self._reader.has_buffered or (isinstance(self._sock, ssl.SSLSocket) and self._sock.pending() > 0)

    @property
    def is_dead(self) -> bool:
        """Whether an idle connection has become readable: closed by the peer, or with bytes nobody asked for."""
        return bool(self._poll.poll(0))

    def shutdown(self, how: int = socket.SHUT_RDWR) -> None:
        """Wakes a thread that reads or writes here."""
        self._sock.shutdown(how)

    def interrupt(self) -> None:
        """Ends the exchange under way on another thread; the connection is of no use any more."""
        shut_down(self._sock)

    def destroy(self) -> None:
        """Closes the descriptor."""
        self._sock.close()
        self.failure = None  # it knows the frames that know this socket

    def drop(self) -> None:
        """Closes this process's descriptor only; see :func:`drop_socket`."""
        drop_socket(self._sock)


class _RawReader(io.RawIOBase):
    """The unbuffered side of a reader."""

    def __init__(self, wire: DeadlineSocket) -> None:
        self._receive = wire.recv_into
        self.dry = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        return 0 if self.dry else self._receive(buffer)


class _ReplyReader(io.BufferedReader):
    """Reads replies, one after the other. Stays open when a reply is done with it."""

    def __init__(self, wire: DeadlineSocket) -> None:
        self._source = _RawReader(wire)
        super().__init__(self._source, 16384)

    def close(self) -> None:
        """Nothing: the next reply is read here, too."""

    def flush(self) -> None:
        """Nothing: a finaliser of http.client's calls this late, and Python 3.13 prints what it raises."""

    @property
    def has_buffered(self) -> bool:
        self._source.dry = True  # a peek at an empty buffer would read
        try:
            return bool(self.peek(1))
        finally:
            self._source.dry = False


class _Handles:
    """Duplicates of the sockets of a connection that is being opened, by which another thread may end that.

    TLS hands the descriptor from one object to another in the midst of it; a duplicate stays.
    """

    def __init__(self, cancellation: Cancellation) -> None:
        self._cancellation = cancellation
        self._held: list[socket.socket] = []

    def hold(self, sock: socket.socket) -> None:
        """Includes ``sock``. The cancel, which marks before it looks here, finds it, or is found here."""
        self._held.append(sock.dup())
        close_in_children(self._held[-1].fileno())
        if self._cancellation.cancelled:
            self.shut_down()

    def shut_down(self) -> None:
        """Wakes whoever connects, writes or reads."""
        for sock in self._held:
            shut_down(sock)

    def close(self) -> None:
        for sock in self._held:
            sock.close()


def shut_down(sock: socket.socket) -> None:
    """Wakes whoever reads or writes there, on another thread; the descriptor stays."""
    # Not an SSLSocket's own method, which takes off the encryption under a thread that may go on to read.
    with contextlib.suppress(OSError):  # the peer was faster
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


def drop_socket(sock: socket.socket) -> None:
    """Closes this process's descriptor and nothing else, TLS and all: after a fork, the connection is the parent's."""
    descriptor = sock.detach()
    if descriptor >= 0:
        os.close(descriptor)


def open_socket(
    addresses: Sequence[Address],
    options: Sequence[tuple[int, int, int | bytes]],
    deadline: Deadline,
    on_socket: Callable[[socket.socket], None] | None = None,
) -> socket.socket:
    """Connects to the first address that takes the connection.

    Those still to be tried share what remains, so that one that swallows packets doesn't use up all the time.
    ``on_socket`` is shown each socket before it connects.

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
        raise PluginTimeoutError("no connection in time; nothing was sent", replay=Replay.ALWAYS) from failure
    reason = failure.strerror or str(failure)
    raise PluginConnectionError(f"no connection: {reason[:1].lower()}{reason[1:]}") from failure


class _TunnelSocket(DeadlineSocket):
    """Sends at once: http.client knows of no flush."""

    __slots__ = ()

    def sendall(self, data: ReadableBuffer) -> None:
        super().sendall(data)
        self.flush()


class PluginConnection(HTTPConnection):
    """HTTP over TCP: addresses by our resolver, one deadline for all of connecting, one for each exchange.

    A subclass, since that is how urllib3's connections are extended: ``_new_conn`` is where they take their socket.
    """

    auto_open = 0  # http.client would reconnect behind the pool's back

    def __init__(self, host: str, port: int, resolver: Resolver, clock: Clock, **options: Any) -> None:
        super().__init__(host, port, **options)
        self._resolver = resolver
        self._clock = clock
        self._wire: DeadlineSocket | None = None
        self._connect_by = Deadline(0.0, clock)
        self._on_socket: Callable[[socket.socket], None] | None = None

    def open(self, deadline: Deadline, cancellation: Cancellation | None = None) -> None:
        """Resolves, connects, tunnels and shakes hands before ``deadline``, and before a cancel.

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
            self.discard()
            raise

    def carry(self) -> None:
        """Puts the socket behind a :class:`DeadlineSocket`, for exchanges that http.client makes."""
        self._wire = self.sock = DeadlineSocket(self.sock, self._clock)

    def _connect_unless(self, cancellation: Cancellation) -> None:
        handles = _Handles(cancellation)
        self._on_socket = handles.hold
        try:
            cancellation.guard(handles.shut_down, self.connect)
        finally:
            handles.close()

    @property
    def wire(self) -> DeadlineSocket:
        """The connected socket; still there when http.client has let go of ``sock``."""
        if self._wire is None:
            raise RuntimeError("the connection is not open")
        return self._wire

    def _new_conn(self) -> socket.socket:
        literal = literal_address(self.host, self.port)
        found = [literal] if literal is not None else self._resolver.resolve(self.host, self.port, self._connect_by)
        sock = open_socket(found, self.socket_options or (), self._connect_by, self._on_socket)
        remaining = self._connect_by.remaining()
        if remaining <= 0:
            sock.close()
            raise PluginTimeoutError("no connection in time; nothing was sent", replay=Replay.ALWAYS)
        sock.settimeout(remaining)  # OpenSSL's handshake takes this for its whole length
        return sock

    def _tunnel(self) -> None:
        """Asks the proxy for a tunnel, behind a deadline of the same kind: a proxy may drip, too."""
        plain = self.sock
        self.sock = wire = _TunnelSocket(plain, self._clock)
        wire.begin(self._connect_by, 1 << 20)
        try:
            super()._tunnel()  # type: ignore[misc,unused-ignore]  # http.client's own
        except BaseException:
            plain.close()
            raise
        self.sock = plain
        plain.settimeout(max(self._connect_by.remaining(), 0.001))

    def discard(self) -> None:
        """Closes the connection for good."""
        wire, sock = self._wire, self.sock
        self.close()
        if wire is not None:
            wire.destroy()
        elif sock is not None:
            sock.close()

    def drop(self) -> None:
        """Closes this process's descriptor only; see :func:`drop_socket`."""
        if self._wire is not None:
            self._wire.drop()


class TLSConnection(PluginConnection, HTTPSConnection):
    """HTTP over TLS."""
