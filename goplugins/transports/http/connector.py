"""New connections to a plugin, or to the proxy before it, for both engines."""

from __future__ import annotations

import ssl

from goplugins.errors import PluginError
from goplugins.runtime.clock import Clock
from goplugins.runtime.deadline import Deadline
from goplugins.transports.http import errors
from goplugins.transports.http.target import Target
from goplugins.transports.http.urllib3_connection import PluginConnection, TLSConnection
from goplugins.transports.resolver import Resolver


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

    def open(self, deadline: Deadline) -> PluginConnection:
        """A connection on which TLS, and a proxy's tunnel where there is one, are established.

        Raises:
            PluginError: no connection; nothing of a request was sent.
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
        except errors.LIBRARY_ERRORS as exc:
            raise errors.connect_error(exc, limit, tls=target.tls)  # noqa: B904 - its cause is set
        return connection
