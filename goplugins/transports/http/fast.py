"""The engine that HTTP plugins have: a connection that urllib3 made, written in one go and read by a parser in C."""

from __future__ import annotations

import functools
import os
import ssl
from typing import Any

from goplugins._call import Call
from goplugins._clock import Clock
from goplugins._deadline import Deadline
from goplugins.errors import PluginError, PluginTimeoutError, Replay, SaturatedError, belongs_to_host
from goplugins.transports._pool import ConnectionPool, Lease
from goplugins.transports._resolve import Resolver
from goplugins.transports.http import _failures
from goplugins.transports.http._connect import Connector, pool_of
from goplugins.transports.http._request import RequestWriter
from goplugins.transports.http._target import Target
from goplugins.transports.http._wire import Wire
from goplugins.transports.http.engine import Check, HTTPReply

__all__ = ["FastEngine"]


class FastEngine:
    """Exchanges over pooled connections of its own.

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
        self._keep_alive = connection.keep_alive
        self._limit = connection.max_response_bytes
        self._clock = clock
        self._pid = os.getpid()
        self.pool: ConnectionPool[Wire] = pool_of(
            connection, clock, connect=self._connect, close=Wire.close, is_dead=Wire.is_dead, drop=Wire.drop
        )

    def _connect(self, deadline: Deadline) -> Wire:
        return Wire(self._connector.open(deadline).sock, self._clock, self._limit)

    # --- exchanging --------------------------------------------------------------------------------------------

    def send(self, call: Call, request: RequestWriter, check: Check) -> HTTPReply:
        """See :class:`goplugins.transports.http.engine.Engine`."""
        self._stay_at_home()
        deadline = call.deadline
        _check_time(deadline)
        return self._run(self.pool.acquire(deadline), request.message, call, check)

    def look(self, request: RequestWriter, deadline: Deadline) -> HTTPReply:
        """See :class:`goplugins.transports.http.engine.Engine`."""
        self._stay_at_home()
        _check_time(deadline)
        lease = self.pool.try_acquire(deadline)
        if lease is None:
            raise SaturatedError("no connection is free")
        return self._run(lease, request.message, _Look(deadline), None)

    def _run(self, lease: Lease[Wire], write: Callable[[Call], bytes], call: Call, check: Check | None) -> HTTPReply:
        """The exchange over the leased connection, and once more over a new one if that was dead all along."""
        reusable = reconnect = False
        wire = lease.connection
        deadline = call.deadline
        ...
