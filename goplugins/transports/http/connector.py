"""New connections to a plugin, or to the proxy before it: one deadline for addresses, tunnel and TLS."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING

from urllib3.connection import HTTPSConnection

from goplugins.errors import PluginConnectionError, PluginError, Replay
from goplugins.runtime.clock import Clock
from goplugins.runtime.deadline import Deadline
from goplugins.runtime.fork import close_in_children
from goplugins.runtime.text import from_outside
from goplugins.transports.http import errors
from goplugins.transports.http.target import Target
from goplugins.transports.resolver import Resolver, literal_address
from goplugins.transports.tcp import AddressOrder, connect_tcp
from goplugins.transports.tls import usable_context

if TYPE_CHECKING:
    from goplugins.runtime.cancellation import Cancellation


_MAX_PROXY_HEAD = 65536
"""Bytes of a proxy's reply to a request for a tunnel."""

_PROXY_STATUS = re.compile(rb"HTTP/1\.[01] ((\d)\d\d(?!\d)[^\r\n]*)")


class Connector:
    """Opens connections to one target, and learns which of its addresses answer.

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
        self._order = AddressOrder(clock)

    def open(self, deadline: Deadline) -> socket.socket:
        """A connected socket on which TLS, and a proxy's tunnel where there is one, are established.

        Raises:
            PluginError: no connection; nothing of a request was sent.
        """
        started = self._clock.monotonic()
        own = started + self._timeout
        limit = Deadline(min(deadline.at, own), self._clock)
        if self.context is not None:
            self.context = usable_context(self.context)
        opening = _Opening(self._target, self.context, self._resolver, self._order, limit)
        try:
            return opening.run(deadline.cancellation)
        except errors.LIBRARY_ERRORS as exc:
            if isinstance(exc, PluginError):  # some of them are errors of the system, too
                error: PluginError = exc
            else:
                seconds, late = self._clock.monotonic() - started, limit.remaining() <= 0
                whose = "connection.connection_timeout" if own < deadline.at else "the call's deadline"
                error = errors.connect_error(exc, opening.stage, late=late, after=f"{seconds:.3g} s ({whose})")
            if opening.at_proxy:
                error.message = f"the proxy {self._target.proxy}: {error.message}"
                error.details["proxy"] = self._target.proxy
            try:
                raise error
            finally:
                del error  # its traceback holds this frame: no work for the collector


class _Opening:
    """One connection that is being opened.

    Attributes:
        stage: what it waits for, for the text of an error.
        at_proxy: whether the other side is a proxy, until that has made a tunnel.
    """

    def __init__(
        self,
        target: Target,
        context: ssl.SSLContext | None,
        resolver: Resolver,
        order: AddressOrder,
        deadline: Deadline,
    ) -> None:
        self._target = target
        self._context = context
        self._resolver = resolver
        self._order = order
        self._deadline = deadline
        self._on_socket: Callable[[socket.socket], None] | None = None
        self._sock: socket.socket | None = None
        self.stage = errors.CONNECTING
        self.at_proxy = target.proxy is not None

    def run(self, cancellation: Cancellation | None) -> socket.socket:
        """The socket; closes it if opening the connection fails, or is cancelled or interrupted."""
        try:
            if cancellation is None:
                return self._open()
            sockets = _OpeningSockets(cancellation)
            self._on_socket = sockets.add
            try:
                return cancellation.guard(sockets.shut_down, self._open)
            finally:
                sockets.close()
        except BaseException:
            if self._sock is not None:
                self._sock.close()
            raise

    def _open(self) -> socket.socket:
        host, port = self._target.first_hop
        literal = literal_address(host, port)
        found = [literal] if literal is not None else self._resolver.resolve(host, port, self._deadline)
        options = self._target.socket_options
        sock = connect_tcp(found, options, self._deadline, order=self._order, on_socket=self._on_socket)
        self._sock = sock
        if not self._target.tls:
            return sock
        if self.at_proxy:
            self._request_tunnel(sock)
            self.at_proxy = False
        self.stage = errors.TLS
        self._bound(sock)  # for the whole of OpenSSL's handshake
        connection = _TLSConnection(sock, self._target, self._context)
        connection.connect()
        self._sock = secured = connection.sock
        return secured

    def _bound(self, sock: socket.socket) -> None:
        """Limits the next wait on the socket to what is left of the deadline."""
        remaining = self._deadline.remaining()
        if remaining <= 0:
            raise TimeoutError
        sock.settimeout(remaining)

    def _request_tunnel(self, sock: socket.socket) -> None:
        """CONNECT by hand: http.client's own would begin its timeout anew with each byte of a slow proxy."""
        self.stage = errors.TUNNEL
        self._bound(sock)
        sock.sendall(_tunnel_request(self._target))
        head = b""
        while b"\r\n\r\n" not in head:
            self._bound(sock)
            received = sock.recv(_MAX_PROXY_HEAD)
            head += received
            if not received or len(head) > _MAX_PROXY_HEAD:
                raise PluginConnectionError("its reply to CONNECT is " + ("too long" if received else "cut short"))
        found = _PROXY_STATUS.match(head)
        if found is None:
            raise PluginConnectionError("its reply to CONNECT is not HTTP")
        if found[2] != b"2":
            # A refusal of credentials, or of the plugin's host, is the same the next time.
            final = found[2] != b"5"
            replay = Replay.NEVER if final else None
            status = from_outside(found[1], 200)
            raise PluginConnectionError(f"it refused the tunnel: HTTP {status}", retryable=not final, replay=replay)


class _TLSConnection(HTTPSConnection):
    """TLS by urllib3, over a socket that is connected to the plugin already."""

    def __init__(self, sock: socket.socket, target: Target, context: ssl.SSLContext | None) -> None:
        super().__init__(target.host, target.port, ssl_context=context)
        self._connected = sock

    def _new_conn(self) -> socket.socket:
        return self._connected


def _tunnel_request(target: Target) -> bytes:
    host = target.host.partition("%")[0]
    host = f"[{host}]" if ":" in host else host.encode("idna").decode("ascii")
    headers = {"Host": f"{host}:{target.port}", **target.proxy_headers}
    lines = [f"CONNECT {host}:{target.port} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


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
    shutdown = getattr(socket.socket, "shutdown", None)  # None for eventlet's class, whose objects have it
    with contextlib.suppress(OSError):  # the peer closed first
        sock.shutdown(socket.SHUT_RDWR) if shutdown is None else shutdown(sock, socket.SHUT_RDWR)


def drop_socket(sock: socket.socket) -> None:
    """Closes this process's descriptor and nothing else, TLS or not: after a fork, the connection is the parent's."""
    descriptor = sock.detach()
    if descriptor >= 0:
        os.close(descriptor)
