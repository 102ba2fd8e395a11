"""New connections to a plugin, or to the proxy before it: how both engines come by theirs."""

from __future__ import annotations

import ssl
from typing import Any

from goplugins.errors import PluginError
from goplugins.runtime.clock import Clock
from goplugins.runtime.deadline import Deadline
from goplugins.transports.connection_pool import ConnectionPool
from goplugins.transports.http import errors
from goplugins.transports.http.target import Target
from goplugins.transports.http.urllib3_connection import PluginConnection, TLSConnection
from goplugins.transports.resolver import Resolver

__all__ = ["Connector", "Look", "pool_of"]


class Look:
    """A look at a plugin's health, as far as an exchange asks: it may reconnect once, like a call."""

    __slots__ = ("deadline", "reconnected")

    idempotent = True

    def __init__(self, deadline: Deadline) -> None:
        self.deadline = deadline
        self.reconnected = False


class Connector:
    """Opens connections.

    Args:
        target: where to; its addresses, proxy and path.
        context: TLS, for a target that has it; may be replaced.
        timeout: seconds that opening one may take, within the call's deadline.
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

    def open(self, deadline: Deadline) -> PluginConnection:
        """An open one: connected, through a tunnel where there is a proxy before a secure target, and secured.

        Raises:
            PluginError: why there is none; nothing of a request was sent.
        """
        target, clock = self._target, self._clock
        limit = Deadline(min(deadline.at, clock.monotonic() + self._timeout), clock)
        host, port = target.first_hop
        connection: PluginConnection
        if target.tls:
            connection = TLSConnection(
                host, port, self._resolver, clock, socket_options=target.socket_options, ssl_context=self.context
            )
            if target.proxy is not None:
                connection.set_tunnel(target.host, target.port, headers=target.proxy_headers)
        else:
            connection = PluginConnection(host, port, self._resolver, clock, socket_options=target.socket_options)
        try:
            connection.open(limit, deadline.cancellation)
        except PluginError:
            raise
        except errors.WIRE_FAILURES as exc:
            error = errors.connect_failure(exc, limit, tls=target.tls)
            raise error from errors.safe_cause(exc, None)
        return connection


def pool_of(connection: Any, clock: Clock, **ways: Any) -> ConnectionPool[Any]:
    """A pool with the limits of a resolved ``connection`` section."""
    return ConnectionPool(
        **ways,
        max_connections=connection.max_connections,
        max_idle=connection.max_idle_connections,
        idle_timeout=connection.idle_timeout,
        clock=clock,
    )
