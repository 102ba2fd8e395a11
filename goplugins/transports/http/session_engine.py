"""The engine for a `requests.Session` of the host application: its adapters, authentication, hooks and proxies.

The session decides how connections are opened, kept and reused, and their TLS. The engine bounds concurrent calls and
the size of replies and translates errors. The deadline is checked between reads, and each read ends at it. `requests`
allows no more: a server that sends its head byte by byte can outlast the deadline.
"""

from __future__ import annotations

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
    TLSError,
    TruncatedReplyError,
    belongs_to_host,
)
from goplugins.runtime.call import Call
from goplugins.runtime.clock import Clock
from goplugins.runtime.deadline import Deadline
from goplugins.transports.connection_pool import ConnectionPool, Lease
from goplugins.transports.http import body
from goplugins.transports.http.engine import HTTPReply, ReadReply, Writer, pool_for, unread
from goplugins.transports.http.target import Target
from goplugins.transports.tls import authorities_of

_CHUNK = 16384


class _Slot:
    """Stands for a connection of the session, to bound the number of concurrent calls."""

    clean = True


class SessionEngine:
    """Exchanges through a session of the application, which is never closed here.

    See :class:`goplugins.transports.http.engine.Engine` for its methods.

    Args:
        session: used by many threads at once, each call with headers and body of its own.
        target: address and path.
        auth: its certificate files, for the session to use; credentials travel in headers.
        connection: limits and times, resolved.
        clock: measures.
        trust_env: whether the environment may name proxies and certificate authorities; if not, a session that trusts
            it does not, either.

    Raises:
        InvalidConfigError: ``max_lifetime`` is configured, which the session decides.
    """

    def __init__(
        self,
        session: requests.Session,
        target: Target,
        auth: AuthConfig,
        connection: Any,
        clock: Clock,
        *,
        trust_env: bool,
    ) -> None:
        if connection.max_lifetime is not None:
            path = "connection.max_lifetime"
            raise InvalidConfigError("has no effect with a session", path=path, fix="its adapters keep connections")
        self._session = session
        self._origin = target.origin
        self._verify = authorities_of(auth, trust_env=trust_env).named or None  # without any, the session decides
        self._proxies = {target.scheme: target.proxy_url} if target.proxy_url else {}
        self._certificate = (auth.cert_file, auth.key_file) if auth.cert_file else None
        self._limit = connection.max_response_bytes
        self._connection_timeout = connection.connection_timeout
        self.pool: ConnectionPool[_Slot] = pool_for(
            connection, clock, connect=lambda _: _Slot(), close=lambda _: None, is_dead=lambda _: False
        )

    def send(self, call: Call, request: Writer, read: ReadReply) -> HTTPReply:
        lease = self.pool.acquire(call.deadline)
        prepared = self._request(*request.parts(call))
        return self._run(lease, prepared, call.deadline, lambda reply: read(reply, call, lease.connection))

    def get_health(self, request: Writer, deadline: Deadline) -> HTTPReply:
        lease = self.pool.acquire_free(deadline)
        prepared = self._request("GET", request.health_path, request.health_headers, None)
        return self._run(lease, prepared, deadline, unread)

    def _request(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> requests.Request:
        # With an authentication of its own, the request gets none from .netrc.
        auth = self._session.auth or _unchanged
        return requests.Request(method, self._origin + path, dict(headers), data=body, auth=auth)

    def _run(
        self,
        lease: Lease[_Slot],
        request: requests.Request,
        deadline: Deadline,
        read: Callable[[HTTPReply], HTTPReply],
    ) -> HTTPReply:
        try:
            return read(self._exchange(request, deadline))
        except Exception as exc:
            if isinstance(exc, PluginError) or not _is_failure(exc):
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
        prepared.headers.update(request.headers)  # also those that an authentication of the session has replaced

        def read_whole(response: requests.Response, *_: Any, **__: Any) -> None:
            # In a hook, since a session reads the body of a redirect to its end, however large, even if not followed.
            chunks = _chunks(response, deadline)
            if response.status_code >= 300:
                read.append(body.collect_error(chunks, "", self._limit, _is_failure)[0])
                return
            try:
                read.append(body.collect(chunks, "", self._limit))
            except PluginError as exc:
                exc.details["status"] = response.status_code
                raise

        prepared.hooks["response"].append(read_whole)
        settings: dict[str, Any] = {
            "proxies": {**self._proxies, **session.proxies},
            "stream": True,
            "verify": self._verify or session.verify,
            "cert": self._certificate or session.cert,
        }
        timeout = (min(remaining, self._connection_timeout), remaining)
        with session.send(prepared, timeout=timeout, allow_redirects=False, **settings) as response:
            framed = "content-length" in response.headers or "transfer-encoding" in response.headers
            return HTTPReply(response.status_code, response.headers, read[-1], framed)

    def renew(self, context: ssl.SSLContext) -> None:
        """Does nothing: the session reads the certificate files whenever it connects."""


def _unchanged(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _chunks(response: requests.Response, deadline: Deadline) -> Iterator[bytes]:
    """The decompressed body in pieces, as they arrive."""
    raw = response.raw
    while True:
        if deadline.remaining() <= 0:
            response.close()
            raise PluginTimeoutError("timed out in the middle of the reply")
        if isinstance(raw, urllib3.response.BaseHTTPResponse):
            chunk = raw.read1(_CHUNK, decode_content=True)  # what has arrived, without a wait for more
        else:  # an adapter may create replies of its own
            chunk = raw.read(_CHUNK)
        if not chunk:
            return
        yield chunk


def _is_failure(exc: Exception) -> bool:
    """Whether the exchange failed, as opposed to an exception of the application that was raised meanwhile."""
    kinds = (OSError, http.client.HTTPException, urllib3.exceptions.HTTPError, ValueError)
    return isinstance(exc, kinds) and not belongs_to_host(exc)


def _chain(exc: BaseException) -> Iterator[BaseException]:
    """The error and the errors that it wraps, in whichever way the libraries do that."""
    seen: list[BaseException] = []
    todo: list[object] = [exc]
    while todo:
        found = todo.pop(0)
        if isinstance(found, BaseException) and found not in seen:
            seen.append(found)
            yield found
            todo += [getattr(found, "reason", None), found.__cause__, found.__context__, *found.args[:2]]


def _safe_cause(exc: BaseException) -> BaseException | None:
    """The system's error in the chain; the libraries' own errors hold the request with its credentials."""
    return next((found for found in _chain(exc) if type(found).__module__ in ("builtins", "ssl", "socket")), None)


def _translated(exc: BaseException) -> PluginError:
    chain = list(_chain(exc))
    for kinds, make in _TRANSLATIONS:
        if any(isinstance(found, kinds) for found in chain):
            return make()
    if type(exc) is OSError and exc.errno is None:  # before connecting: a certificate file of the session is missing
        return PluginConnectionError(f"no connection: {exc}", retryable=False, replay=Replay.NEVER)
    return BadReplyError(f"the exchange failed: {type(exc).__name__}")


_Translation = tuple[tuple[type[BaseException], ...], Callable[[], PluginError]]

_TRANSLATIONS: tuple[_Translation, ...] = (
    ((ssl.SSLCertVerificationError,), lambda: CertificateError("the plugin's certificate was rejected")),
    (
        (requests.exceptions.ProxyError, urllib3.exceptions.ProxyError),
        lambda: PluginConnectionError("no connection through the proxy of the session"),
    ),
    (
        (socket.gaierror, urllib3.exceptions.NameResolutionError),
        lambda: NameResolutionError("the plugin's name can't be resolved"),
    ),
    (
        (urllib3.exceptions.NewConnectionError, ConnectionRefusedError),
        lambda: PluginConnectionError("no connection to the plugin"),
    ),
    (
        (requests.ConnectTimeout, urllib3.exceptions.ConnectTimeoutError),
        lambda: PluginTimeoutError("timed out while connecting; nothing was sent", replay=Replay.ALWAYS),
    ),
    ((requests.exceptions.SSLError, ssl.SSLError), lambda: TLSError("the TLS connection failed")),
    (
        (TimeoutError, requests.Timeout, urllib3.exceptions.TimeoutError),
        lambda: PluginTimeoutError("timed out waiting for the reply"),
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
"""Our error for an error of `requests`, if that or one that it wraps is of these kinds; the first match counts."""
