"""The engine that HTTP plugins have: a connection that urllib3 made, written in one go and read by a parser in C."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from goplugins.errors import PluginError, SaturatedError, belongs_to_host
from goplugins.runtime.call import Call
from goplugins.runtime.clock import Clock
from goplugins.runtime.deadline import Deadline
from goplugins.transports.connection_pool import ConnectionPool, Lease
from goplugins.transports.http import errors
from goplugins.transports.http.connection import Connection
from goplugins.transports.http.connector import Connector, Look, pool_of
from goplugins.transports.http.engine import Check, HTTPReply
from goplugins.transports.http.request import RequestWriter
from goplugins.transports.http.target import Target
from goplugins.transports.resolver import Resolver

__all__ = ["HttptoolsEngine"]


class _Attempt(Protocol):
    """What an exchange needs to know of the call, or of the look at the plugin's health, that it is for."""

    @property
    def deadline(self) -> Deadline: ...
    @property
    def idempotent(self) -> bool: ...

    reconnected: bool


class HttptoolsEngine:
    """Exchanges over pooled connections.

    Args:
        target: where to; its addresses, proxy and path.
        context: TLS, for a target that has it.
        connection: limits and times, resolved.
        resolver: finds addresses.
        clock: measures.
    """

    def __init__(
        self, target: Target, context: ssl.SSLContext | None, connection: Any, resolver: Resolver, clock: Clock
    ) -> None:
        self._connector = Connector(target, context, connection.connection_timeout, resolver, clock)
        self._keep_alive = bool(connection.keep_alive)
        self._limit = connection.max_response_bytes
        self._clock = clock
        self.pool: ConnectionPool[Connection] = pool_of(
            connection,
            clock,
            connect=self._connect,
            close=Connection.close,
            is_dead=Connection.is_dead,
            drop=Connection.drop,
        )

    def _connect(self, deadline: Deadline) -> Connection:
        return Connection(self._connector.open(deadline).sock, self._clock, self._limit)

    # --- exchanging --------------------------------------------------------------------------------------------

    def send(self, call: Call, request: RequestWriter, check: Check) -> HTTPReply:
        """See :class:`goplugins.transports.http.engine.Engine`."""
        lease = self.pool.acquire(call.deadline)
        return self._run(lease, request.message(call), call, check)

    def look(self, request: RequestWriter, deadline: Deadline) -> HTTPReply:
        """See :class:`goplugins.transports.http.engine.Engine`."""
        lease = self.pool.try_acquire(deadline)
        if lease is None:
            raise SaturatedError("no connection is free")
        return self._run(lease, request.message_of_health(), Look(deadline), None)

    def _run(
        self,
        lease: Lease[Connection],
        message: bytes,
        attempt: _Attempt,
        check: Callable[[Any, HTTPReply], bool] | None,
    ) -> HTTPReply:
        """The exchange over the leased connection, and once more over a new one if that was dead all along."""
        reusable = reconnect = False
        wire, deadline = lease.connection, attempt.deadline
        cancellation = deadline.cancellation
        try:
            if cancellation is None:
                reply = wire.exchange(message, deadline)
            else:
                reply = cancellation.guard(wire.interrupt, partial(wire.exchange, message, deadline))
            reusable = (check is None or check(attempt, reply)) and self._keep_alive and wire.clean
            return reply
        except (OSError, EOFError) as exc:
            if isinstance(exc, PluginError) or belongs_to_host(exc):
                raise
            reconnect = lease.reused and _may_reconnect(exc, wire, attempt)
            if not reconnect:
                raise errors.exchange_failure(exc, wire) from errors.safe_cause(exc, wire)
        finally:
            if not reconnect:
                self.pool.release(lease, reusable=reusable)
        attempt.reconnected = True
        return self._run(self.pool.renew(lease, deadline), message, attempt, check)

    # --- maintenance ------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """See :class:`goplugins.transports.http.engine.Engine`."""
        self.pool.close()

    def sweep(self) -> None:
        """See :class:`goplugins.transports.http.engine.Engine`."""
        self.pool.sweep()

    def renew(self, context: ssl.SSLContext) -> None:
        """See :class:`goplugins.transports.http.engine.Engine`."""
        self._connector.context = context
        self.pool.renew_all()

    def after_fork_in_child(self) -> None:
        """See :class:`goplugins.transports.http.engine.Engine`."""
        self.pool.after_fork_in_child()


def _may_reconnect(exc: BaseException, wire: Connection, attempt: _Attempt) -> bool:
    return (
        not attempt.reconnected
        and (wire.sent == 0 or attempt.idempotent)
        and errors.is_dead_connection(exc, wire)
        and attempt.deadline.remaining() > 0
    )
