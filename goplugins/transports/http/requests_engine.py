"""The engine that sends through `requests`, by its documented extension point, a transport adapter.

The adapter takes connections from goplugins' own pool, so that limits, deadlines and reconnects are decided in one
place for all engines.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable, Mapping
from typing import Any, cast

import attrs
import requests
from requests.adapters import BaseAdapter
from urllib3.response import BaseHTTPResponse

from goplugins.errors import (
    BadReplyError,
    InvalidHeaderError,
    PluginError,
    PluginTimeoutError,
    Replay,
    ReplyTooLargeError,
    TruncatedReplyError,
)
from goplugins.runtime.call import Call
from goplugins.runtime.clock import Clock
from goplugins.runtime.deadline import Deadline
from goplugins.runtime.fork import register_forkable
from goplugins.transports.connection_pool import ConnectionPool, Lease
from goplugins.transports.http import body, errors
from goplugins.transports.http.connector import Connector
from goplugins.transports.http.engine import FRAMING_ALLOWANCE, HTTPReply, ReadReply, pool_for, unread
from goplugins.transports.http.request import RequestWriter
from goplugins.transports.http.target import Target
from goplugins.transports.http.urllib3_connection import DeadlineSocket, PluginConnection
from goplugins.transports.reconnect import Attempt, Exchanges, HealthAttempt
from goplugins.transports.resolver import Resolver

_CHUNK = 65536


@attrs.define
class _Exchange:
    """Passes through ``requests`` to the adapter in the place of a timeout.

    Attributes:
        path: of the request line; the URL is the same for all requests.
        attempt: deadline and cancellation.
        read: parses the reply.
        acquire: gets a connection from the pool.
        request: set by the adapter.
    """

    path: str
    attempt: Attempt
    read: ReadReply
    acquire: Callable[[Deadline], Lease[_Connection]]
    request: requests.PreparedRequest


class RequestsEngine:
    """Exchanges through a ``requests.Session``. See :class:`goplugins.transports.http.engine.Engine` for its methods.

    Args:
        target: address, proxy and path.
        context: TLS, for a target that has it.
        connection: limits and times, resolved.
        resolver: finds addresses.
        clock: measures.
    """

    def __init__(
        self, target: Target, context: ssl.SSLContext | None, connection: Any, resolver: Resolver, clock: Clock
    ) -> None:
        self._connector = Connector(target, context, connection.connection_timeout, resolver, clock)
        self._origin = target.origin
        self._limit = connection.max_response_bytes
        self._clock = clock
        self.pool: ConnectionPool[_Connection] = pool_for(
            connection,
            clock,
            connect=self._connect,
            close=_Connection.close,
            is_dead=_Connection.is_dead,
            drop=_Connection.drop,
        )
        self._adapter = _Adapter(
            Exchanges(self.pool, keep_alive=bool(connection.keep_alive), errors=errors.LIBRARY_ERRORS)
        )
        self._session = _Session(self._adapter)
        register_forkable(self)

    def _connect(self, deadline: Deadline) -> _Connection:
        return _Connection(self._connector.open(deadline), self._clock, self._limit)

    def send(self, call: Call, request: RequestWriter, read: ReadReply) -> HTTPReply:
        prepared = self._prepare("POST", request.headers(call), request.body(call))
        return self._send(_Exchange(request.path, call, read, self.pool.acquire, prepared))

    def get_health(self, request: RequestWriter, deadline: Deadline) -> HTTPReply:
        prepared = self._prepare("GET", request.health_headers, None)
        attempt = HealthAttempt(deadline)
        return self._send(_Exchange(request.health_path, attempt, unread, self.pool.acquire_free, prepared))

    def _prepare(self, method: str, headers: Mapping[str, str], body: bytes | None) -> requests.PreparedRequest:
        request = requests.PreparedRequest()
        request.method, request.url, request.body = method, self._origin, body
        request.headers = headers  # type: ignore[assignment]  # read only from here on
        return request

    def _send(self, exchange: _Exchange) -> HTTPReply:
        options: dict[str, Any] = {"timeout": exchange, "stream": True, "proxies": {}, "allow_redirects": False}
        return cast(HTTPReply, self._session.send(exchange.request, **options).raw)

    def renew(self, context: ssl.SSLContext) -> None:
        self._connector.context = context
        self.pool.renew_all()

    def after_fork_in_child(self) -> None:
        """A new session: the cookies of the old one have a lock."""
        self._session = _Session(self._adapter)


class _Session(requests.Session):
    """A session that keeps nothing from one call to the next and follows no redirects."""

    def __init__(self, adapter: BaseAdapter) -> None:
        super().__init__()
        self.trust_env = False
        self.adapters.clear()
        self.mount("http://", adapter)
        self.mount("https://", adapter)

    def get_redirect_target(self, resp: requests.Response) -> None:
        """None: requests would read a redirect's body to its end, however large."""


class _Adapter(BaseAdapter):
    """Sends requests over pooled connections."""

    def __init__(self, exchanges: Exchanges[_Connection]) -> None:
        super().__init__()
        self._exchanges = exchanges

    def send(self, request: requests.PreparedRequest, *_: Any, timeout: Any = None, **__: Any) -> requests.Response:
        """The adapter's entry; ``timeout`` holds the whole exchange."""
        exchange: _Exchange = timeout
        exchange.request = request
        attempt = exchange.attempt
        if attempt.deadline.remaining() <= 0:
            raise PluginTimeoutError("the deadline passed before anything was sent", replay=Replay.ALWAYS)
        lease = exchange.acquire(attempt.deadline)
        response = requests.Response()
        response.raw = reply = self._exchanges.run(lease, exchange, attempt, exchange.read)
        response.status_code = reply.status
        return response

    def close(self) -> None:
        """Does nothing: the connections are closed by the pool."""


class _Connection:
    """A connection of urllib3 with its socket behind a deadline; see
    :class:`goplugins.transports.reconnect.ExchangeConnection`.
    """

    __slots__ = ("_connection", "_limit", "_now", "_started", "clean", "socket")

    def __init__(self, connection: PluginConnection, clock: Clock, limit: int) -> None:
        self._connection = connection
        self._limit = limit
        self._now = clock.monotonic
        self._started = 0.0
        self.clean = False
        self.socket = connection.sock = DeadlineSocket(connection.sock, clock)

    @property
    def sent(self) -> int:
        return self.socket.sent

    def exchange(self, exchange: _Exchange, deadline: Deadline) -> HTTPReply:
        self.clean = False
        self._started = self._now()
        sock, connection, request = self.socket, self._connection, exchange.request
        sock.begin(deadline, 8 * self._limit + FRAMING_ALLOWANCE)
        writable = True
        try:
            connection.request(
                request.method or "",
                exchange.path,
                body=cast("bytes | None", request.body),
                headers=cast("Mapping[str, str]", request.headers),
                preload_content=False,
                decode_content=False,
            )
        except ValueError:
            writable = False
        if not writable:
            # Nothing was sent: see DeadlineSocket.sendall. Raised out here, since the ValueError quotes the value.
            raise InvalidHeaderError("a header can't be sent: it holds a line break or is not Latin-1")
        # A server may refuse early, reply (or send an alert) and close: its reply says more than the broken pipe, and
        # without a reply, reading fails next.
        with contextlib.suppress(ConnectionError, ssl.SSLEOFError):
            sock.flush()
        reply = self._read(connection.getresponse())
        # http.client unsets ``sock`` if the connection is not kept alive.
        kept = connection.sock is not None and not sock.eof and sock.failure is None
        self.clean = kept and not sock.has_leftover
        return reply

    def _read(self, response: BaseHTTPResponse) -> HTTPReply:
        """The whole reply, within its cap."""
        if self.socket.eof:
            raise TruncatedReplyError("the reply ended within its head")
        headers = response.headers
        status = response.status
        if status < 200:
            raise BadReplyError(f"the reply is an interim one only (status {status})")
        transfer = headers.get("transfer-encoding", "").strip().lower()
        if transfer not in ("", "chunked"):
            raise BadReplyError(f"the reply has an unknown Transfer-Encoding: {transfer[:40]!r}")
        if transfer and "content-length" in headers:
            raise BadReplyError("the reply has both a Content-Length and a Transfer-Encoding")
        length = headers.get("content-length", "").partition(",")[0].strip()
        if length and not transfer:
            if not (length.isascii() and length.isdigit()):
                raise BadReplyError(f"the reply has an invalid Content-Length: {length[:40]!r}")
            if len(length) > 18 or int(length) > self._limit:
                raise ReplyTooLargeError(
                    f"the reply is larger than {self._limit} bytes: its Content-Length is {length[:40]}"
                )
        encoding = body.check_encoding(headers.get("content-encoding", ""))
        content = body.collect(response.stream(_CHUNK, decode_content=False), encoding, self._limit)
        return HTTPReply(status, headers, content, bool(length or transfer))

    def interrupt(self) -> None:
        self.socket.interrupt()

    def is_gone(self, exc: Exception) -> bool:
        return errors.is_gone(exc, self.socket)

    def error_of(self, exc: Exception, deadline: Deadline) -> PluginError:
        return errors.exchange_error(exc, self.socket, self._now() - self._started)

    def is_dead(self) -> bool:
        return self.socket.is_dead

    def close(self) -> None:
        self._connection.close()
        self.socket.destroy()

    def drop(self) -> None:
        self.socket.drop()
