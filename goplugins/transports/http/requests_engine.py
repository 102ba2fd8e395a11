"""The engine that carries exchanges through `requests`, by its documented extension point, a transport adapter.

The adapter takes connections from goplugins' own pool, so that limits, deadlines and what happens to a dead connection
are decided in one place.
"""

from __future__ import annotations

import contextlib
import functools
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
    SaturatedError,
    TruncatedReplyError,
    belongs_to_host,
)
from goplugins.runtime.call import Call
from goplugins.runtime.clock import Clock
from goplugins.runtime.deadline import Deadline
from goplugins.transports.connection_pool import ConnectionPool, Lease
from goplugins.transports.http import body, errors
from goplugins.transports.http.connector import Connector, Look, pool_of
from goplugins.transports.http.engine import FRAMING_ALLOWANCE, Check, HTTPReply
from goplugins.transports.http.request import RequestWriter
from goplugins.transports.http.target import Target
from goplugins.transports.http.urllib3_connection import DeadlineSocket, PluginConnection
from goplugins.transports.resolver import Resolver

__all__ = ["RequestsEngine"]

_CHUNK = 65536


@attrs.define
class _Exchange:
    """What travels past ``requests`` to the adapter, in the place of a timeout."""

    target: str
    deadline: Deadline
    attempt: Call | Look
    check: Callable[[HTTPReply], bool] | None
    wait: bool


class RequestsEngine:
    """Exchanges through a ``requests.Session``.

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
        self._adapter = _PoolAdapter(target, context, connection, resolver, clock)
        self._origin = target.origin
        self._session = _Session(self._adapter)

    def send(self, call: Call, request: RequestWriter, check: Check) -> HTTPReply:
        """See :class:`goplugins.transports.http.engine.Engine`."""
        exchange = _Exchange(request.path, call.deadline, call, functools.partial(check, call), wait=True)
        return self._make("POST", request.headers(call), request.body(call), exchange)

    def look(self, request: RequestWriter, deadline: Deadline) -> HTTPReply:
        """See :class:`goplugins.transports.http.engine.Engine`."""
        exchange = _Exchange(request.health_path, deadline, Look(deadline), None, wait=False)
        return self._make("GET", request.of_health, None, exchange)

    def _make(self, method: str, headers: Mapping[str, str], body: bytes | None, exchange: _Exchange) -> HTTPReply:
        request = requests.PreparedRequest()
        request.method, request.url, request.body = method, self._origin, body
        request.headers = headers  # type: ignore[assignment]  # read only from here on
        how: dict[str, Any] = {"timeout": exchange, "stream": True, "proxies": {}, "allow_redirects": False}
        return cast(HTTPReply, self._session.send(request, **how).raw)

    def close(self) -> None:
        self._adapter.close()

    def sweep(self) -> None:
        self._adapter.pool.sweep()

    def renew(self, context: ssl.SSLContext) -> None:
        self._adapter.connector.context = context
        self._adapter.pool.renew_all()

    def after_fork_in_child(self) -> None:
        self._session = _Session(self._adapter)  # its cookies have a lock
        self._adapter.pool.after_fork_in_child()

    @property
    def pool(self) -> ConnectionPool[PluginConnection]:
        return self._adapter.pool


class _Session(requests.Session):
    """A session that keeps nothing from one call to the next and follows nothing."""

    def __init__(self, adapter: BaseAdapter) -> None:
        super().__init__()
        self.trust_env = False
        self.adapters.clear()
        self.mount("http://", adapter)
        self.mount("https://", adapter)

    def get_redirect_target(self, resp: requests.Response) -> None:
        """None: requests would read a redirect's body to its end, however large."""


class _PoolAdapter(BaseAdapter):
    """Sends requests over pooled connections."""

    def __init__(
        self, target: Target, context: ssl.SSLContext | None, connection: Any, resolver: Resolver, clock: Clock
    ) -> None:
        super().__init__()
        self.connector = Connector(target, context, connection.connection_timeout, resolver, clock)
        self._keep_alive = connection.keep_alive
        self._limit = connection.max_response_bytes
        self.pool: ConnectionPool[PluginConnection] = pool_of(
            connection,
            clock,
            connect=self._connect,
            close=PluginConnection.discard,
            is_dead=lambda connection: connection.wire.is_dead,
            drop=PluginConnection.drop,
        )

    def close(self) -> None:
        self.pool.close()

    def _connect(self, deadline: Deadline) -> PluginConnection:
        connection = self.connector.open(deadline)
        connection.carry()
        return connection

    # --- exchanging --------------------------------------------------------------------------------------------

    def send(self, request: requests.PreparedRequest, *_: Any, timeout: Any = None, **__: Any) -> requests.Response:
        """The adapter's entry; ``timeout`` carries the whole exchange."""
        exchange: _Exchange = timeout
        response = requests.Response()
        response.raw = reply = self._exchange(request, exchange)
        response.status_code = reply.status
        return response

    def _exchange(self, request: requests.PreparedRequest, exchange: _Exchange) -> HTTPReply:
        deadline = exchange.deadline
        if deadline.remaining() <= 0:
            raise PluginTimeoutError("the deadline passed before anything was sent", replay=Replay.ALWAYS)
        lease = self.pool.acquire(deadline) if exchange.wait else self.pool.try_acquire(deadline)
        if lease is None:
            raise SaturatedError("no connection is free")
        return self._run(lease, request, exchange)

    def _run(self, lease: Lease[PluginConnection], request: requests.PreparedRequest, exchange: _Exchange) -> HTTPReply:
        """The exchange over the leased connection, and once more over a new one if that was dead all along."""
        reusable = reconnect = False
        connection = lease.connection
        wire = connection.wire
        try:
            cancellation = exchange.deadline.cancellation
            if cancellation is None:
                reply = self._attempt(connection, wire, request, exchange)
            else:
                work = functools.partial(self._attempt, connection, wire, request, exchange)
                reply = cancellation.guard(wire.interrupt, work)
            good = exchange.check is None or exchange.check(reply)
            reusable = good and self._keep_alive and _is_clean(connection)
            return reply
        except errors.WIRE_FAILURES as exc:
            if isinstance(exc, PluginError) or belongs_to_host(exc):
                raise
            reconnect = lease.reused and _may_reconnect(exc, wire, exchange)
            if not reconnect:
                raise errors.exchange_failure(exc, wire) from errors.safe_cause(exc, wire)
        finally:
            if not reconnect:
                self.pool.release(lease, reusable=reusable)
        exchange.attempt.reconnected = True
        return self._run(self.pool.renew(lease, exchange.deadline), request, exchange)

    def _attempt(
        self,
        connection: PluginConnection,
        wire: DeadlineSocket,
        request: requests.PreparedRequest,
        exchange: _Exchange,
    ) -> HTTPReply:
        wire.begin(exchange.deadline, 8 * self._limit + FRAMING_ALLOWANCE)
        writable = True
        try:
            connection.request(
                request.method or "",
                exchange.target,
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
        # A server may refuse early, reply (or alert) and hang up: what it said tells more than the broken pipe, and
        # if it said nothing, reading fails in its turn.
        with contextlib.suppress(ConnectionError, ssl.SSLEOFError):
            wire.flush()
        response = connection.getresponse()
        return self._read(response, wire)

    def _read(self, response: BaseHTTPResponse, wire: DeadlineSocket) -> HTTPReply:
        """The whole reply, within its cap."""
        if wire.eof:
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
                raise BadReplyError(f"the reply has an unreadable Content-Length: {length[:40]!r}")
            if len(length) > 18 or int(length) > self._limit:
                raise ReplyTooLargeError(f"the reply is larger than {self._limit} bytes: it announces {length[:40]}")
        encoding = body.check_encoding(headers.get("content-encoding", ""))
        content = body.collect(response.stream(_CHUNK, decode_content=False), encoding, self._limit)
        return HTTPReply(status, headers, content, bool(length or transfer))


def _is_clean(connection: PluginConnection) -> bool:
    """Whether nothing but a whole reply came, and both sides mean to go on. http.client unsets ``sock`` if not."""
    wire = connection.wire
    return connection.sock is not None and not wire.eof and wire.failure is None and not wire.has_leftover


def _may_reconnect(exc: Exception, wire: DeadlineSocket, exchange: _Exchange) -> bool:
    return (
        not exchange.attempt.reconnected
        and (wire.sent == 0 or exchange.attempt.idempotent)
        and errors.is_dead_connection(exc, wire)
        and exchange.deadline.remaining() > 0
    )
