"""The Unix socket transport."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
import sys
import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

from goplugins.config.credentials import validate_auth
from goplugins.config.endpoints import Endpoint
from goplugins.config.plugin import PluginConfig
from goplugins.enums import TransportType
from goplugins.errors import (
    InvalidEndpointFormatError,
    PluginConnectionError,
    PluginError,
    PluginTimeoutError,
    Replay,
    UnixTransportError,
)
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock
from goplugins.runtime.deadline import Deadline
from goplugins.runtime.fork import close_in_children
from goplugins.runtime.polling import create_poll
from goplugins.transports.base import TransportFactory, TransportSettings
from goplugins.transports.connection_pool import ConnectionPool
from goplugins.transports.line_channel import LineChannel
from goplugins.transports.line_client import LineClient

__all__ = ["UnixSocketPlugin", "UnixSocketPluginFactory", "socket_address", "socket_pool"]

C = TypeVar("C", bound="SocketConnection")

_Make = Callable[[socket.socket, Clock, int], C]

_NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)
"""Flag of send(): no SIGPIPE, which would end a host that has reset it to its default."""


def socket_address(endpoint: str) -> str | bytes:
    """The address of a socket for the system: its path, or the abstract name behind ``@``.

    Raises:
        ConfigError: it is not a path or name, or too long.
    """
    Endpoint.parse(TransportType.UNIX, endpoint)
    if not endpoint.startswith("@"):
        return endpoint
    platform: str = sys.platform  # a plain string, or type checkers take the other system's branch for dead code
    if platform != "linux":
        raise InvalidEndpointFormatError(
            "abstract socket names exist on Linux only", path="endpoint", fix="write a path"
        )
    return b"\0" + os.fsencode(endpoint[1:])


class SocketConnection:
    """This process's end of a connected socket: a base class for connections."""

    __slots__ = ()

    _sock: socket.socket

    def _is_unread(self, exc: OSError | None) -> bool:
        # Linux reports a reset of a Unix socket only if it was closed with bytes that its owner had not read.
        platform: str = sys.platform
        if platform != "linux":
            return False
        return _unread_bytes(self._sock) > 0 if exc is None else exc.errno == errno.ECONNRESET

    def is_dead(self) -> bool:
        """Whether an idle connection was closed by the peer, or has unexpected bytes."""
        poll = create_poll()
        poll.register(self._sock, select.POLLIN)
        return bool(poll.poll(0))

    def interrupt(self) -> None:
        """Ends the exchange that runs on another thread; the connection can't be used any more."""
        with contextlib.suppress(OSError):  # the peer closed first
            self._sock.shutdown(socket.SHUT_RDWR)

    def error_of(self, exc: PluginError, deadline: Deadline) -> PluginError:
        """The error as it is."""
        return exc

    def close(self) -> None:
        """Closes the socket."""
        self._sock.close()

    def drop(self) -> None:
        """Closes this process's descriptor and nothing else: after a fork, the connection is the parent's."""
        descriptor = self._sock.detach()
        if descriptor >= 0:
            os.close(descriptor)


class UnixConnection(SocketConnection, LineChannel):
    """A connected socket that carries lines."""

    __slots__ = ("_sock",)

    def __init__(self, sock: socket.socket, clock: Clock, limit: int) -> None:
        self._sock = sock
        sock.setblocking(False)
        descriptor = sock.fileno()
        super().__init__(descriptor, descriptor, sock.recv, lambda data: sock.send(data, _NO_SIGNAL), clock, limit)

    def is_dead(self) -> bool:
        # A socket from before gevent's patch would block all greenlets.
        return type(self._sock) is not socket.socket or bool(self.poll_idle())


def _unread_bytes(sock: socket.socket) -> int:
    """How much of what was sent waits in the peer's queue, in units of the kernel."""
    import fcntl
    import termios

    found: int = struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, b"\0" * 4))[0]
    return found


def _is_connected(sock: socket.socket) -> bool:
    """Whether connect() without an error has connected.

    A signal interrupts the wait for a place in the listener's backlog. Python then waits until the socket is writable,
    which an unconnected one is at once.
    """
    try:
        sock.getpeername()
    except OSError as exc:
        if exc.errno != errno.ENOTCONN:
            raise
        return False
    return True


class _Connector(Generic[C]):
    """Opens connections. Holds no reference to the plugin, so that a plugin without users can be collected."""

    def __init__(self, endpoint: str, settings: TransportSettings, make: _Make[C]) -> None:
        self._make = make
        self._endpoint = endpoint
        self._address = socket_address(endpoint)
        self._timeout = settings.connection.connection_timeout or 10.0
        self._limit = settings.connection.max_response_bytes or 0
        self._clock = settings.clock

    def connect(self, deadline: Deadline) -> C:
        """A new connection.

        Raises:
            PluginConnectionError: no process listens on the socket, or this one may not connect.
            PluginTimeoutError: the connection was not accepted in time; nothing was sent.
        """
        until = Deadline(min(deadline.at, self._clock.monotonic() + self._timeout), self._clock)
        try:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError as exc:
            raise self._error(exc) from exc
        try:
            close_in_children(sock.fileno())
            sock.settimeout(None)
            self._try_to_connect(sock, until)
            while not _is_connected(sock):
                self._try_to_connect(sock, until)
            return self._make(sock, self._clock, self._limit)
        except BaseException as exc:
            sock.close()
            if isinstance(exc, OSError) and not isinstance(exc, PluginError):
                raise self._error(exc) from exc
            raise

    def _try_to_connect(self, sock: socket.socket, until: Deadline) -> None:
        timeout = until.remaining()
        if timeout <= 0:
            raise PluginTimeoutError("timed out while connecting; nothing was sent", replay=Replay.ALWAYS)
        # A non-blocking connect() does not wait for a place in the listener's backlog: it fails at once.
        seconds, rest = divmod(timeout, 1.0)
        wait = struct.pack("@ll", int(seconds), max(int(rest * 1e6), 1))  # zero would mean no timeout
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, wait)
        sock.connect(self._address)

    def _error(self, exc: OSError) -> PluginConnectionError | PluginTimeoutError:
        where = self._endpoint
        if exc.errno in {errno.EAGAIN, errno.ETIMEDOUT}:
            message = f"timed out while connecting to {where}; nothing was sent"
            return PluginTimeoutError(message, replay=Replay.ALWAYS)
        if isinstance(exc, FileNotFoundError):
            return PluginConnectionError(f"there is no socket {where}")
        if isinstance(exc, ConnectionRefusedError):
            return PluginConnectionError(f"no process listens on {where}")
        reason = exc.strerror or str(exc)
        if isinstance(exc, PermissionError):
            # A retry would fail the same way, unlike with a plugin that is being restarted.
            return PluginConnectionError(f"{where}: {reason}", retryable=False, replay=Replay.NEVER)
        return PluginConnectionError(f"no connection to {where}: {reason}")


def socket_pool(endpoint: str, settings: TransportSettings, make: _Make[C]) -> ConnectionPool[C]:
    """A pool of connections to a Unix socket.

    Args:
        endpoint: of the plugin.
        settings: of the plugin.
        make: makes a connection of a connected socket, the clock, and the number of bytes that a reply may have.

    Raises:
        ConfigError: an endpoint that can't be used.
    """
    limits = settings.connection
    return ConnectionPool(
        _Connector(endpoint, settings, make).connect,
        lambda connection: connection.close(),
        lambda connection: connection.is_dead(),
        drop=lambda connection: connection.drop(),
        max_connections=limits.max_connections or 1,
        max_idle=limits.max_idle_connections or 0,
        idle_timeout=limits.idle_timeout or 30.0,
        max_lifetime=limits.max_lifetime,
        clock=settings.clock,
    )


class UnixSocketPlugin(LineClient[UnixConnection]):
    """A plugin behind a Unix socket. Connects with the first call; used by many threads at once.

    Args:
        config: fields of ``connection`` that are None take the production defaults.
        clock: measures and waits.

    Raises:
        ConfigError: an endpoint or credential that can't be used.
    """

    def __init__(self, config: PluginConfig, *, clock: Clock = SYSTEM_CLOCK) -> None:
        settings = TransportSettings.of(config, clock)
        pool = socket_pool(config.endpoint, settings, UnixConnection)
        super().__init__(config, settings, pool, error=UnixTransportError)
        # Runs before the collector reaches the sockets, which would warn that they were not closed.
        weakref.finalize(self, pool.close).atexit = False

    def __repr__(self) -> str:
        return f"<UnixSocketPlugin {self._settings.name!r} at {self._endpoint}>"


class UnixSocketPluginFactory(TransportFactory[UnixSocketPlugin]):
    """Creates plugins behind Unix sockets.

    Args:
        clock: for its plugins.
    """

    transports = (TransportType.UNIX,)

    def _create(self, config: PluginConfig) -> UnixSocketPlugin:
        return UnixSocketPlugin(config, clock=self._clock)

    def _check(self, config: PluginConfig) -> None:
        socket_address(config.endpoint)
        validate_auth(config.auth, config.transport)
