"""The default engine: sockets opened by urllib3, written in one system call, and read by the llhttp parser."""

from __future__ import annotations

import ssl
from typing import Any

from goplugins.runtime.call import Call
from goplugins.runtime.clock import Clock
from goplugins.runtime.deadline import Deadline
from goplugins.transports.connection_pool import ConnectionPool
from goplugins.transports.http.connection import Connection
from goplugins.transports.http.connector import Connector
from goplugins.transports.http.engine import HTTPReply, ReadReply, Writer, pool_for, unread
from goplugins.transports.http.target import Target
from goplugins.transports.reconnect import Exchanges, HealthAttempt
from goplugins.transports.resolver import Resolver


class HttptoolsEngine:
    """Exchanges over pooled connections. See :class:`goplugins.transports.http.engine.Engine` for its methods.

    Args:
        target: address, proxy and path.
        context: TLS, for a target that has it.
        connection: limits and times, resolved.
        resolver: finds addresses.
        clock: measures.

    Attributes:
        exchanges: runs them.
    """

    def __init__(
        self, target: Target, context: ssl.SSLContext | None, connection: Any, resolver: Resolver, clock: Clock
    ) -> None:
        self._connector = Connector(target, context, connection.connection_timeout, resolver, clock)
        self._limit = connection.max_response_bytes
        self._clock = clock
        self.pool: ConnectionPool[Connection] = pool_for(
            connection,
            clock,
            connect=self._connect,
            close=Connection.close,
            is_dead=Connection.is_dead,
            drop=Connection.drop,
        )
        self.exchanges = Exchanges(self.pool, keep_alive=bool(connection.keep_alive), errors=(OSError, EOFError))

    def _connect(self, deadline: Deadline) -> Connection:
        return Connection(self._connector.open(deadline), self._clock, self._limit)

    def send(self, call: Call, request: Writer, read: ReadReply) -> HTTPReply:
        lease = self.pool.acquire(call.deadline)
        return self.exchanges.run(lease, request.message(call), call, read)

    def get_health(self, request: Writer, deadline: Deadline) -> HTTPReply:
        lease = self.pool.acquire_free(deadline)
        return self.exchanges.run(lease, request.health_message, HealthAttempt(deadline), unread)

    def renew(self, context: ssl.SSLContext) -> None:
        self._connector.context = context
        self.pool.renew_all()
