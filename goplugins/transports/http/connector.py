"""New connections to a plugin, or to the proxy before it: one deadline for addresses, tunnel and TLS."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from typing import TYPE_CHECKING, Any

from urllib3.connection import HTTPConnection, HTTPSConnection

from goplugins.errors import PluginConnectionError, PluginError, PluginTimeoutError, Replay
from goplugins.runtime.clock import Clock
from goplugins.runtime.deadline import Deadline
from goplugins.runtime.fork import close_in_children
from goplugins.runtime.text import from_outside
from goplugins.transports.http import errors
from goplugins.transports.http.target import Target
from goplugins.transports.resolver import Address, Resolver, literal_address

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from goplugins.runtime.cancellation import Cancellation


_MAX_PROXY_HEAD = 65536
"""Bytes of a proxy's reply to a request for a tunnel."""


class Connector:
    """Opens connections.

    Args:
        target: address and proxy.
        context: TLS, for a target that has it; may be replaced.
        timeout: seconds that opening a connection may take, within the call's deadline.
        resolver: finds addresses.
        clock: measures.
    """

    def __init__(
        self, target: Target, context: ssl.SSLContext | None, timeout: float, resolver: Resolver, clock: Clock
    ) -> None:
        self._target = target
        self.context = context
        self._timeout = timeout
        self._resolver = resolver
        self._clock = clock

    def open(self, deadline: Deadline) -> socket.socket:
        """A connected socket on which TLS, and a proxy's tunnel where there is one, are established.

        Raises:
            PluginError: no connection; nothing of a request was sent.
        """
        target, clock = self._target, self._clock
        limit = Deadline(min(deadline.at, clock.monotonic() + self._timeout), clock)
        host, port = target.first_hop
        connection: _Connection
        if target.tls:
            connection = _TLSConnection(
                host, port, self._resolver, clock, socket_options=target.socket_options, ssl_context=self.context
            )
            if target.proxy is not None:
                connection.set_tunnel(target.host, target.port)
                connection.tunnel_request = _tunnel_request(target)
        else:
            connection = _Connection(host, port, self._resolver, clock, socket_options=target.socket_options)
        try:
            return connection.open(limit, deadline.cancellation)
        except PluginError:
            raise
        except errors.LIBRARY_ERRORS as exc:
            raise errors.connect_error(exc, limit, tls=target.tls)  # noqa: B904 - its cause is set


class _Connection(HTTPConnection):
    """HTTP over TCP: addresses from the plugin's resolver, one deadline for opening the connection.

    A subclass, since that is how urllib3's connections are extended: ``_new_conn`` opens their socket.
    """

    def __init__(self, host: str, port: int, resolver: Resolver, clock: Clock, **options: Any) -> None:
        super().__init__(host, port, **options)
        self._resolver = resolver
        self._clock = clock
        self._connect_by = Deadline(0.0, clock)
        self._on_socket: Callable[[socket.socket], None] | None = None
        self.tunnel_request = b""

    def open(self, deadline: Deadline, cancellation: Cancellation | None) -> socket.socket:
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
            self.close()
            raise
        return self.sock

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
        """Requests a tunnel from the proxy: http.client's own method would wait anew for each byte of a slow one."""
        sock, deadline = self.sock, self._connect_by
        sock.sendall(self.tunnel_request)
        head = b""
        while b"\r\n\r\n" not in head:
            if len(head) > _MAX_PROXY_HEAD:
                raise PluginConnectionError("the proxy refused: its reply has a head that is too long")
            sock.settimeout(max(deadline.remaining(), 0.001))
            received = sock.recv(_MAX_PROXY_HEAD)
            if not received:
                raise ConnectionResetError("the proxy closed the connection")
            head += received
        version, _, status = head.partition(b"\r\n")[0].partition(b" ")
        if not version.startswith(b"HTTP/") or not status.startswith(b"200"):
            raise PluginConnectionError(f"the proxy refused: {from_outside(status or version, 200)}")
        sock.settimeout(max(deadline.remaining(), 0.001))


class _TLSConnection(_Connection, HTTPSConnection):
    """HTTP over TLS."""


def _tunnel_request(target: Target) -> bytes:
    host = f"[{target.host}]" if ":" in target.host else target.host
    authority = f"{host}:{target.port}"
    headers = {"Host": authority, **target.proxy_headers}
    lines = [f"CONNECT {authority} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1")


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
