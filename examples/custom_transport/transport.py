"""A transport: JSON messages over a Unix socket, each preceded by its length in four bytes."""

from __future__ import annotations

import socket
import struct

from goplugins import ConnectionLostError, PluginConfig, PluginTimeoutError
from goplugins.enums import TransportType
from goplugins.errors import PluginError, Replay, ReplyTooLargeError, UnixTransportError
from goplugins.runtime.clock import Clock
from goplugins.runtime.deadline import Deadline
from goplugins.transports.base import TransportFactory, TransportSettings
from goplugins.transports.line_client import LineClient
from goplugins.transports.unix import SocketConnection, UnixSocketPluginFactory, socket_pool

LENGTH = struct.Struct(">I")


class Connection(SocketConnection):
    """A connected socket. Makes one exchange at a time; ``ExchangeConnection`` lists what a connection needs."""

    def __init__(self, sock: socket.socket, clock: Clock, limit: int) -> None:
        self._sock, self._limit = sock, limit
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

    def is_gone(self, exc: PluginError) -> bool:
        """Whether the plugin had closed the connection before it replied: then a new one is tried, once."""
        return isinstance(exc, ConnectionLostError) and not self._received


class FramedFactory(TransportFactory[LineClient[Connection]]):
    """For ``type: framed`` and ``transport: unix``, whose endpoints are paths."""

    transports = (TransportType.UNIX,)

    def _check(self, config: PluginConfig) -> None:
        UnixSocketPluginFactory().validate_config(config)

    def _create(self, config: PluginConfig) -> LineClient[Connection]:
        settings = TransportSettings.of(config, self._clock)
        pool = socket_pool(config.endpoint, settings, Connection)
        return LineClient(config, settings, pool, error=UnixTransportError)
