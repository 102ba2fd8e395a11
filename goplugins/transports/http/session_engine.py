"""The engine for a `requests.Session` that the host hands over: its adapters, authentication, hooks and proxies.

What a session decides is the session's: how its connections are made, kept and used again, and its TLS. Ours are the
number of calls at once, the cap of replies, what errors mean, and the deadline as far as `requests` lets us: it is
checked between reads, and each read ends at it, but a server that sends its head byte by byte can outlast it.
"""

from __future__ import annotations

import functools
import http.client
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import requests
import urllib3.exceptions
import urllib3.response

from goplugins.config.credentials import AuthConfig
from goplugins.errors import (
    BadReplyError,
    CertificateError,
    ConnectionLostError,
    InvalidConfigError,
    InvalidHeaderError,
    NameResolutionError,
    PluginConnectionError,
    PluginError,
    PluginTimeoutError,
    Replay,
    SaturatedError,
    TLSError,
    TruncatedReplyError,
    belongs_to_host,
)
from goplugins.runtime.clock import Clock
from goplugins.runtime.deadline import Deadline
from goplugins.transports.connection_pool import ConnectionPool, Lease
from goplugins.transports.http import body
from goplugins.transports.http.connector import pool_of
from goplugins.transports.http.engine import Check, HTTPReply
from goplugins.transports.http.request import RequestWriter
from goplugins.transports.http.target import Target

__all__ = ["SessionEngine"]

_CHUNK = 16384


class _Seat:
    """Stands for a connection of the session's, so that calls at once can be bounded."""


class SessionEngine:
    """Exchanges through a session that is not ours. It is never closed here.

    Args:
        session: used by many threads at once, each call with headers and body of its own.
        target: where to.
        auth: its certificate files, for the session to use; credentials travel in headers.
        connection: limits and times, resolved.
        clock: measures.

    Raises:
        InvalidConfigError: a proxy is configured: it is the session's to know.
    """

    def __init__(
        self, session: requests.Session, target: Target, auth: AuthConfig, connection: Any, clock: Clock
    ) -> None:
        if target.proxy is not None:
            raise InvalidConfigError("a session has proxies of its own", path="options.proxy", fix="set them there")
        self._session = session
        self._origin = target.origin
        self._verify = auth.ca_file or None
        self._certificate = (auth.cert_file, auth.key_file) if auth.cert_file else None
        self._limit = connection.max_response_bytes
        self._connection_timeout = connection.connection_timeout
        self.pool: ConnectionPool[_Seat] = pool_of(
            connection, clock, connect=lambda _: _Seat(), close=lambda _: None, is_dead=lambda _: False
        )

    def send(self, call: Any, request: RequestWriter, check: Check) -> HTTPReply:
        """See :class:`goplugins.transports.http.engine.Engine`."""
        lease = self.pool.acquire(call.deadline)
        look = functools.partial(check, call)
        return self._run(lease, "POST", request.path, request.headers(call), request.body(call), call.deadline, look)

    def look(self, request: RequestWriter, deadline: Deadline) -> HTTPReply:
        """See :class:`goplugins.transports.http.engine.Engine`."""
        lease = self.pool.try_acquire(deadline)
        if lease is None:
            raise SaturatedError("no connection is free")
        return self._run(lease, "GET", request.health_path, request.of_health, None, deadline, None)

    def _run(
        self,
        lease: Lease[_Seat],
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes | None,
        deadline: Deadline,
        check: Callable[[HTTPReply], object] | None,
    ) -> HTTPReply:
        try:
            reply = self._exchange(requests.Request(method, self._origin + path, dict(headers), data=body), deadline)
            if check is not None:
                check(reply)
            return reply
        except (OSError, http.client.HTTPException, urllib3.exceptions.HTTPError, ValueError) as exc:
            if isinstance(exc, PluginError) or belongs_to_host(exc):
                raise
            raise _translated(exc) from _safe_cause(exc)
        finally:
            self.pool.release(lease, reusable=True)

    def _exchange(self, request: requests.Request, deadline: Deadline) -> HTTPReply:
        remaining = deadline.remaining()
        if remaining <= 0:
            raise PluginTimeoutError("the deadline passed before anything was sent", replay=Replay.ALWAYS)
        session, read = self._session, list[bytes]()
        prepared = session.prepare_request(request)

        def read_whole(response: requests.Response, *_: Any, **__: Any) -> None:
            # As a hook, since a session reads the body of a redirect to its end, however large, to follow it or not.
            read.append(body.collect(_chunks(response, deadline), "", self._limit))

        prepared.hooks["response"].append(read_whole)
        settings = session.merge_environment_settings(prepared.url or "", {}, True, self._verify, self._certificate)
        timeout = (min(remaining, self._connection_timeout), remaining)
        with session.send(prepared, timeout=timeout, allow_redirects=False, **settings) as response:
            framed = "content-length" in response.headers or "transfer-encoding" in response.headers
            return HTTPReply(response.status_code, response.headers, read[-1], framed)

    # --- maintenance ------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Refuses later calls. The session is its owner's to close."""
        self.pool.close()

    def sweep(self) -> None:
        """Nothing: idle connections are the session's."""

    def renew(self, context: ssl.SSLContext) -> None:
        """Nothing: the session reads the files whenever it connects."""

    def after_fork_in_child(self) -> None:
        """Frees the places of the parent's calls. The session's connections are its owner's."""
        self.pool.after_fork_in_child()


def _chunks(response: requests.Response, deadline: Deadline) -> Iterator[bytes]:
    """The body, decompressed, as it comes."""
    raw = response.raw
    while True:
        if deadline.remaining() <= 0:
            response.close()
            raise PluginTimeoutError("no whole reply in time; a part of it had come")
        if isinstance(raw, urllib3.response.BaseHTTPResponse):
            chunk = raw.read1(_CHUNK, decode_content=True)  # what has come, and no wait for more
        else:  # an adapter may make replies of its own
            chunk = raw.read(_CHUNK)
        if not chunk:
            return
        yield chunk


def _chain(exc: BaseException) -> Iterator[BaseException]:
    """The error and what lies behind it, however the libraries have wrapped it."""
    seen: list[BaseException] = []
    open_ends: list[object] = [exc]
    while open_ends:
        found = open_ends.pop(0)
        if isinstance(found, BaseException) and found not in seen:
            seen.append(found)
            yield found
            open_ends += [getattr(found, "reason", None), found.__cause__, found.__context__, *found.args[:2]]


def _safe_cause(exc: BaseException) -> BaseException | None:
    """The system's error behind it; the libraries' own hold the request with its credentials."""
    return next((found for found in _chain(exc) if type(found).__module__ in ("builtins", "ssl", "socket")), None)


def _translated(exc: BaseException) -> PluginError:
    chain = list(_chain(exc))
    for kinds, make in _MEANINGS:
        if any(isinstance(found, kinds) for found in chain):
            return make()
    return BadReplyError(f"the exchange failed: {type(exc).__name__}")


_Meaning = tuple[tuple[type[BaseException], ...], Callable[[], PluginError]]

_MEANINGS: tuple[_Meaning, ...] = (
    ((ssl.SSLCertVerificationError,), lambda: CertificateError("the plugin's certificate was refused")),
    (
        (socket.gaierror, urllib3.exceptions.NameResolutionError),
        lambda: NameResolutionError("the plugin's name can't be resolved"),
    ),
    (
        (urllib3.exceptions.NewConnectionError, requests.exceptions.ProxyError, ConnectionRefusedError),
        lambda: PluginConnectionError("no connection to the plugin"),
    ),
    (
        (requests.ConnectTimeout, urllib3.exceptions.ConnectTimeoutError),
        lambda: PluginTimeoutError("no connection in time; nothing was sent", replay=Replay.ALWAYS),
    ),
    ((requests.exceptions.SSLError, ssl.SSLError), lambda: TLSError("the TLS connection failed")),
    (
        (TimeoutError, requests.Timeout, urllib3.exceptions.TimeoutError),
        lambda: PluginTimeoutError("no whole reply in time"),
    ),
    ((requests.exceptions.InvalidHeader,), lambda: InvalidHeaderError("a header can't be sent")),
    (
        (requests.exceptions.ContentDecodingError, urllib3.exceptions.DecodeError),
        lambda: BadReplyError("the reply's compressed data is broken"),
    ),
    (
        (http.client.IncompleteRead, urllib3.exceptions.IncompleteRead, requests.exceptions.ChunkedEncodingError),
        lambda: TruncatedReplyError("the reply ended too early"),
    ),
    (
        (ConnectionError, requests.ConnectionError, urllib3.exceptions.ProtocolError),
        lambda: ConnectionLostError("the connection broke"),
    ),
)
"""What an error of `requests` means, if it or anything behind it is of these kinds; the first that fits."""
