"""Deadline and id of a web request for the plugin calls that it makes, in any WSGI application.

>>> def application(environ, start_response):
...     start_response("200 OK", [])
...     return [f"{deadline_left():.0f} s".encode()]
>>> def deadline_left():
...     from goplugins import deadline
...     with deadline(60) as limit:
...         return limit.remaining()
>>> application = PluginCalls(application, timeout=10)
>>> b"".join(application({"HTTP_X_REQUEST_TIMEOUT": "2s"}, lambda status, headers, error=None: None))
b'2 s'
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from goplugins.contrib._request_limits import Limits, Scope
from goplugins.doctor import bounded_here
from goplugins.runtime.request_ids import current_request_id

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["PluginCalls", "current_request_id"]


class PluginCalls:
    """Wraps an application. Flask's is wrapped by :mod:`goplugins.contrib.flask`; Django has a middleware of its own.

    Calls of a request end before ``timeout``, before the timeout in its headers, and before the server ends the
    worker, whichever comes first. While a streamed body is sent, only the latter two apply: it may take longer
    than an answer. Headers that can't be read are ignored.

    The request's id is taken from its header if it is short and plain, else created. Ids of its calls begin with it,
    and the response carries it.

    Args:
        application: the application.
        timeout: seconds for a request until its answer.
        timeout_headers: headers by which clients may shorten that: seconds or a Go duration; ``grpc-timeout`` in
            gRPC's notation.
        request_id_header: the header of the request's id, in request and response; empty for none.
    """

    def __init__(
        self,
        application: WSGIApplication,
        *,
        timeout: float | None = None,
        timeout_headers: Iterable[str] = Limits().timeout_headers,
        request_id_header: str = Limits().request_id_header,
    ) -> None:
        self._application = application
        self._limits = Limits(timeout, tuple(timeout_headers), request_id_header)
        bounded_here()

    @classmethod
    def within(cls, application: WSGIApplication, limits: Limits) -> PluginCalls:
        """The middleware with limits that are checked already."""
        return cls(
            application,
            timeout=limits.timeout,
            timeout_headers=limits.timeout_headers,
            request_id_header=limits.request_id_header,
        )

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answers a request."""
        scope = self._limits.scope(lambda name: environ.get(f"HTTP_{name.upper().replace('-', '_')}"))
        start = _Start(start_response, self._limits.request_id_header, scope.request_id)
        with scope.answering():
            body = self._application(environ, start)
        wrapper: Any = environ.get("wsgi.file_wrapper")
        if isinstance(body, list | tuple) or (isinstance(wrapper, type) and isinstance(body, wrapper)):
            return body  # the server sends files itself, if it gets the wrapper unchanged
        return _Body(body, scope, start)


class _Start:
    """The server's ``start_response``; adds the request's id to the response."""

    def __init__(self, start_response: StartResponse, header: str, request_id: str | None) -> None:
        self._start_response = start_response
        self._header = header
        self._request_id = request_id
        self.called = False

    def __call__(self, status: str, headers: list[tuple[str, str]], *error: Any) -> Callable[[bytes], object]:
        self.called = True
        own = self._header.lower()
        if self._request_id is not None and not any(name.lower() == own for name, _ in headers):
            headers = [*headers, (self._header, self._request_id)]
        return self._start_response(status, headers, *error)


class _Body:
    """A body that may be produced while it is sent, by calls that belong to the request."""

    def __init__(self, body: Iterable[bytes], scope: Scope, start: _Start) -> None:
        self._body = body
        self._scope = scope
        self._start = start
        self._parts: Iterator[bytes] | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        # An application that is itself a generator has not started yet.
        with self._scope.streaming() if self._start.called else self._scope.answering():
            if self._parts is None:
                self._parts = iter(self._body)
            return next(self._parts)

    def close(self) -> None:
        """Required of a body by WSGI."""
        close = getattr(self._body, "close", None)
        if close is not None:
            with self._scope.streaming():
                close()
