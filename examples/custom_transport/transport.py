"""A transport: JSON messages over a Unix socket, each preceded by its length in four bytes."""

from __future__ import annotations

import select
import socket
import struct

from goplugins import ConnectionLostError, PluginConfig, PluginConnectionError, PluginInfo, PluginTimeoutError
from goplugins.config.credentials import validate_auth
from goplugins.config.endpoints import Endpoint
from goplugins.enums import TransportType
from goplugins.errors import PluginError, Replay, ReplyTooLargeError, UnixTransportError
from goplugins.runtime.deadline import Deadline
from goplugins.runtime.fork import close_in_children
from goplugins.transports.base import TransportFactory, TransportSettings
from goplugins.transports.connection_pool import ConnectionPool
from goplugins.transports.credentials import PluginCredentials
from goplugins.transports.line_client import LineClient

LENGTH = struct.Struct(">I")


class Connection:
    """A connected socket. Makes one exchange at a time; ``ExchangeConnection`` lists what a connection needs."""

    def __init__(self, sock: socket.socket, limit: int) -> None:
        self._sock, self._limit = sock, limit
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self.clean, self.sent, self._received = True, 0, 0

    def exchange(self, message: bytes, deadline: Deadline) -> bytes:
        """Sends a message and returns the reply. No system call lasts beyond the deadline."""
        self.clean, self.sent, self._received = False, 0, 0
        try:
            data = LENGTH.pack(len(message)) + message
            while self.sent < len(data):
                self.sent += self._timed(deadline).send(data[self.sent :])
            (length,) = LENGTH.unpack(self._receive(LENGTH.size, deadline))
            if length > self._limit:
                raise ReplyTooLargeError(f"the reply has {length} bytes, more than {self._limit}")
            reply = self._receive(length, deadline)
        except OSError as exc:
            replay = None if self.sent else Replay.ALWAYS  # nothing was sent: any call may be repeated
            if isinstance(exc, TimeoutError):
                raise PluginTimeoutError("timed out waiting for the reply", replay=replay) from exc
            raise ConnectionLostError(f"the connection broke: {exc.strerror or exc}", replay=replay) from exc
        self.clean = True
        return reply

    def _timed(self, deadline: Deadline) -> socket.socket:
        if deadline.remaining() <= 0:
            raise TimeoutError
        self._sock.settimeout(deadline.remaining())
        return self._sock

    def _receive(self, length: int, deadline: Deadline) -> bytes:
        data = bytearray()
        while len(data) < length:
            chunk = self._timed(deadline).recv(min(length - len(data), 65536))
            if not chunk:
                raise ConnectionResetError("closed by the plugin")
            data += chunk
            self._received += len(chunk)
        return bytes(data)

    def interrupt(self) -> None:
        """Ends the exchange from another thread: a hedged call has got its reply elsewhere."""
        self._sock.shutdown(socket.SHUT_RDWR)

    def is_gone(self, exc: PluginError) -> bool:
        """Whether the plugin had closed the connection before it replied: then a new one is tried, once."""
        return isinstance(exc, ConnectionLostError) and not self._received

    def error_of(self, exc: PluginError, deadline: Deadline) -> PluginError:
        return exc

    def is_dead(self) -> bool:
        """Whether an idle connection was closed by the plugin, or has bytes that belong to no request."""
        return bool(self._poll.poll(0))

    def close(self) -> None:
        self._sock.close()


class FramedFactory(TransportFactory[LineClient[Connection]]):
    """For ``type: framed`` and ``transport: unix``, whose endpoints are paths."""

    transports = (TransportType.UNIX,)

    def validate_config(self, config: PluginConfig) -> None:
        Endpoint.parse(TransportType.UNIX, config.endpoint)
        validate_auth(config.auth, config.transport)

    def create_plugin(self, config: PluginConfig) -> LineClient[Connection]:
        settings = TransportSettings.of(config, self._clock)
        limits, path = settings.connection, config.endpoint

        def connect(deadline: Deadline) -> Connection:
            sock = socket.socket(socket.AF_UNIX)
            try:
                close_in_children(sock.fileno())  # of a process that forks meanwhile
                sock.settimeout(max(min(deadline.remaining(), limits.connection_timeout or 10.0), 0.001))
                sock.connect(path)
                return Connection(sock, limits.max_response_bytes or 0)
            except BaseException as exc:
                sock.close()
                if isinstance(exc, TimeoutError):
                    raise PluginTimeoutError("timed out while connecting", replay=Replay.ALWAYS) from exc
                if isinstance(exc, OSError):
                    raise PluginConnectionError(f"no connection to {path}: {exc.strerror}") from exc
                raise

        pool = ConnectionPool(
            connect,
            Connection.close,
            Connection.is_dead,
            max_connections=limits.max_connections or 1,
            max_idle=limits.max_idle_connections or 0,
            idle_timeout=limits.idle_timeout or 30.0,
            clock=self._clock,
        )
        credentials = PluginCredentials(config.auth, self._clock, config.name)
        info = PluginInfo(config.name, metadata={"transport": "framed", "endpoint": path})
        return LineClient(pool, settings, credentials, info=info, endpoint=path, error=UnixTransportError)
