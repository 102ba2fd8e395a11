"""The engine that sends through `requests`, by its documented extension point, a transport adapter.

The adapter passes each request on to the default engine, so that connections, limits, deadlines and replies are decided
in one place.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from typing import Any, cast

import requests
from requests.adapters import BaseAdapter

from goplugins.runtime.call import Call
from goplugins.runtime.clock import Clock
from goplugins.runtime.deadline import Deadline
from goplugins.runtime.fork import register_forkable
from goplugins.transports.http.engine import HTTPReply, ReadReply, Writer, unread
from goplugins.transports.http.httptools_engine import HttptoolsEngine
from goplugins.transports.http.target import Target
from goplugins.transports.reconnect import HealthAttempt
from goplugins.transports.resolver import Resolver

_Exchange = Callable[[requests.PreparedRequest], HTTPReply]
"""Passes through ``requests`` to the adapter in the place of a timeout."""


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
        self._origin = target.origin
        self._engine = HttptoolsEngine(target, context, connection, resolver, clock)
        self.pool, self.renew = self._engine.pool, self._engine.renew
        self._session = _Session()
        register_forkable(self)

    def send(self, call: Call, request: Writer, read: ReadReply) -> HTTPReply:
        method, path, headers, body = request.parts(call)

        def exchange(sent: requests.PreparedRequest) -> HTTPReply:
            message = request.encode(method, path, sent.headers, cast("bytes | None", sent.body))
            return self._engine.exchanges.run(self.pool.acquire(call.deadline), message, call, read)

        return self._send(method, headers, body, exchange)

    def get_health(self, request: Writer, deadline: Deadline) -> HTTPReply:
        def exchange(sent: requests.PreparedRequest) -> HTTPReply:
            message = request.encode("GET", request.health_path, sent.headers)
            lease = self.pool.acquire_free(deadline)
            return self._engine.exchanges.run(lease, message, HealthAttempt(deadline), unread)

        return self._send("GET", request.health_headers, None, exchange)

    def _send(self, method: str, headers: Mapping[str, str], body: bytes | None, exchange: _Exchange) -> HTTPReply:
        request = requests.PreparedRequest()
        request.method, request.url, request.body = method, self._origin, body
        request.headers = dict(headers)  # type: ignore[assignment]  # instrumentation of requests adds its own
        options: dict[str, Any] = {"timeout": exchange, "stream": True, "proxies": {}, "allow_redirects": False}
        return cast(HTTPReply, self._session.send(request, **options).raw)

    def after_fork_in_child(self) -> None:
        """A new session: the cookies of the old one have a lock."""
        self._session = _Session()


class _Session(requests.Session):
    """A session that keeps nothing from one call to the next and follows no redirects."""

    def __init__(self) -> None:
        super().__init__()
        self.trust_env = False
        self.adapters.clear()
        self.mount("http://", _Adapter())
        self.mount("https://", _Adapter())

    def get_redirect_target(self, resp: requests.Response) -> None:
        """None: requests would read a redirect's body to its end, however large."""


class _Adapter(BaseAdapter):
    """Sends requests over pooled connections."""

    def send(self, request: requests.PreparedRequest, *_: Any, timeout: Any = None, **__: Any) -> requests.Response:
        """The adapter's entry; ``timeout`` makes the whole exchange."""
        response = requests.Response()
        response.raw = reply = timeout(request)
        response.status_code = reply.status
        return response

    def close(self) -> None:
        """Does nothing: the connections are closed by the pool."""
