"""The Unix socket transport."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import sys
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from goplugins.config.credentials import validate_auth
from goplugins.config.endpoints import Endpoint
from goplugins.config.plugin_sections import DEFAULT_CONNECTION, ConnectionConfig
from goplugins.config.schema import merge
from goplugins.enums import TransportType
from goplugins.errors import (
    InvalidEndpointFormatError,
    PluginConnectionError,
    PluginError,
    PluginTimeoutError,
    Replay,
    UnixTransportError,
)
from goplugins.models.context import ExecutionContext
from goplugins.models.plugin import PluginInfo
from goplugins.models.results import HealthStatus
from goplugins.runtime.call import Call
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock
from goplugins.runtime.deadline import Deadline
from goplugins.runtime.fork import close_in_children, register_forkable
from goplugins.transports.connection_pool import ConnectionPool
from goplugins.transports.interface import Sender
from goplugins.transports.line_channel import LineChannel
from goplugins.transports.line_client import LineClient
from goplugins.transports.single_call import single_call

if TYPE_CHECKING:
    from goplugins.config import PluginConfig

__all__ = ["UnixSocketPlugin", "UnixSocketPluginFactory", "socket_address"]

_NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)
"""A host that has given SIGPIPE its default back must not die of a plugin that went away."""


def socket_address(endpoint: str) -> str | bytes:
    """The address that the system knows a socket by: its path, or the abstract name behind ``@``.

    Raises:
        ConfigError: it is none, or too long.
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


class UnixConnection:
    """A connected socket and its lines."""

    __slots__ = ("_sock", "channel")

    def __init__(self, sock: socket.socket, clock: Clock) -> None:
        self._sock = sock
        sock.setblocking(False)
        descriptor = sock.fileno()
        self.channel = LineChannel(descriptor, descriptor, sock.recv, lambda data: sock.send(data, _NO_SIGNAL), clock)

    def interrupt(self) -> None:
        """Ends the exchange under way on another thread; the connection is of no use any more."""
        with contextlib.suppress(OSError):  # the peer was faster
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Closes the socket."""
        self._sock.close()

    def drop(self) -> None:
        """Closes this process's descriptor and nothing else: after a fork, the connection is the parent's."""
        descriptor = self._sock.detach()
        if descriptor >= 0:
            os.close(descriptor)


def _is_connected(sock: socket.socket) -> bool:
    """Whether a connect that did not fail did connect.

    A signal ends the wait for a place in the listener's queue. Python then waits until the socket can be written to,
    which of an unconnected one is true at once.
    """
    try:
        sock.getpeername()
    except OSError as exc:
        if exc.errno != errno.ENOTCONN:
            raise
        return False
    return True


class _Connector:
    """Connects. Knows nothing of the plugin, so that a forgotten plugin can be collected."""

    def __init__(self, endpoint: str, timeout: float, clock: Clock) -> None:
        self._endpoint = endpoint
        self._address = socket_address(endpoint)
        self._timeout = timeout
        self._clock = clock

    def connect(self, deadline: Deadline) -> UnixConnection:
        """A new connection.

        Raises:
            PluginConnectionError: nobody listens there, or this process may not connect.
            PluginTimeoutError: the plugin did not take the connection in time; nothing was sent.
        """
        until = Deadline(min(deadline.at, self._clock.monotonic() + self._timeout), self._clock)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            close_in_children(sock.fileno())
            sock.settimeout(None)
            self._try_to_connect(sock, until)
            while not _is_connected(sock):
                self._try_to_connect(sock, until)
            return UnixConnection(sock, self._clock)
        except BaseException as exc:
            sock.close()
            if isinstance(exc, OSError) and not isinstance(exc, PluginError):
                raise self._failure(exc) from exc
            raise

    def _try_to_connect(self, sock: socket.socket, until: Deadline) -> None:
        timeout = until.remaining()
        if timeout <= 0:
            raise PluginTimeoutError("no connection in time; nothing was sent", replay=Replay.ALWAYS)
        # A socket that does not block could not wait for a place in the listener's queue: it fails at once.
        seconds, rest = divmod(timeout, 1.0)
        wait = struct.pack("@ll", int(seconds), max(int(rest * 1e6), 1))  # zero would be for ever
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, wait)
        sock.connect(self._address)

    def _failure(self, exc: OSError) -> PluginConnectionError | PluginTimeoutError:
        where = self._endpoint
        if exc.errno in {errno.EAGAIN, errno.ETIMEDOUT}:
            return PluginTimeoutError(f"{where}: no connection in time; nothing was sent", replay=Replay.ALWAYS)
        if isinstance(exc, FileNotFoundError):
            return PluginConnectionError(f"there is no socket {where}")
        if isinstance(exc, ConnectionRefusedError):
            return PluginConnectionError(f"nobody listens at {where}")
        reason = exc.strerror or str(exc)
        if isinstance(exc, PermissionError):
            # The same the next time, unlike a plugin that is just being restarted.
            return PluginConnectionError(f"{where}: {reason}", retryable=False, replay=Replay.NEVER)
        return PluginConnectionError(f"no connection to {where}: {reason}")


class UnixSocketPlugin(Sender):
    """A plugin behind a Unix socket. Connects when it is first called; used by many threads at once.

    Args:
        config: what is None in ``connection`` takes the production defaults.
        clock: measures and waits.

    Raises:
        ConfigError: an endpoint or credential that can't be used.
    """

    def __init__(self, config: PluginConfig, *, clock: Clock = SYSTEM_CLOCK) -> None:
        connection = merge(config.connection or ConnectionConfig(), DEFAULT_CONNECTION)
        self._name = config.name
        self._endpoint = config.endpoint
        self._clock = clock
        self._timeout = connection.request_timeout or 30.0
        self._idempotent = bool(config.retry is not None and config.retry.idempotent)
        self._info: PluginInfo | None = None
        connector = _Connector(config.endpoint, connection.connection_timeout or 10.0, clock)
        pool: ConnectionPool[UnixConnection] = ConnectionPool(
            connector.connect,
            UnixConnection.close,
            lambda connection: bool(connection.channel.look()),
            drop=UnixConnection.drop,
            max_connections=connection.max_connections or 1,
            max_idle=connection.max_idle_connections or 0,
            idle_timeout=connection.idle_timeout or 30.0,
            clock=clock,
        )
        self._client = LineClient(
            pool,
            connection,
            config.auth,
            endpoint=config.endpoint,
            other=UnixTransportError,
            clock=clock,
            interrupt=UnixConnection.interrupt,
        )
        # Before the collector comes to the sockets, which would warn of not having been closed.
        weakref.finalize(self, pool.close).atexit = False
        self.watches_credentials = self._client.files is not None
        register_forkable(self)

    # --- Sender ------------------------------------------------------------------------------------------------

    def prepare(self, call: Call) -> None:
        """Writes the request as JSON, and refuses headers that can't be sent."""
        self._client.prepare(call)

    def send(self, call: Call) -> Any:
        """One line out, one line in. See :class:`goplugins.transports.interface.Sender`."""
        return self._client.send(call)

    def health(self, timeout: float) -> HealthStatus:
        """One health message, outside the policies; UNKNOWN if every connection is in use; never raises."""
        return self._client.health(timeout)

    def info(self) -> PluginInfo:
        """What the plugin says of itself; asked once, and until it has answered what the configuration says."""
        if self._info is None:
            metadata = {"transport": TransportType.UNIX.value, "endpoint": self._endpoint}
            known = PluginInfo(name=self._name, metadata=metadata)
            self._info = self._client.info(known)
            return self._info or known
        return self._info

    def close(self) -> None:
        """Closes idle connections now, and those in use as their calls end; later calls are refused."""
        self._client.pool.close()

    def sweep(self) -> None:
        """Closes connections that were idle for longer than ``idle_timeout``; for a scheduler."""
        self._client.pool.sweep()

    def renew_credentials(self) -> None:
        """Looks whether its token has changed on disk, and sends the new one if it has; for a scheduler."""
        if self._client.files is not None:
            self._client.files.renew()

    # --- Plugin ------------------------------------------------------------------------------------------------

    def execute(self, request: Any, context: ExecutionContext = ExecutionContext(), /) -> Any:  # noqa: B008 - frozen
        """One attempt with plain JSON values, outside the policies.

        Raises:
            PluginError: what went wrong.
        """
        return single_call(
            self, request, context, timeout=self._timeout, idempotent=self._idempotent, clock=self._clock
        )

    def after_fork_in_child(self) -> None:
        """Forgets the parent's connections."""
        self._client.pool.after_fork_in_child()

    def __repr__(self) -> str:
        return f"<UnixSocketPlugin {self._name!r} at {self._endpoint}>"


class UnixSocketPluginFactory:
    """Makes plugins behind Unix sockets.

    Args:
        clock: for its plugins.
        resolve: not used: a socket has no name to resolve. Every built-in factory is offered one.
    """

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK, resolve: Callable[..., object] | None = None) -> None:
        self._clock = clock

    def create_plugin(self, config: PluginConfig) -> UnixSocketPlugin:
        """A plugin that has not connected to anything yet.

        Raises:
            ConfigError: what :meth:`validate_config` raises.
        """
        return UnixSocketPlugin(config, clock=self._clock)

    def supported_transports(self) -> Sequence[str]:
        """The value ``unix``."""
        return (TransportType.UNIX,)

    def validate_config(self, config: PluginConfig) -> None:
        """Checks endpoint and credentials; opens nothing.

        Raises:
            ConfigError: what can't be used.
        """
        socket_address(config.endpoint)
        validate_auth(config.auth, config.transport)
