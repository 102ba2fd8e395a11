"""HTTP requests of calls: headers and body, as a mapping and as bytes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from json.encoder import encode_basestring_ascii as quoted
from typing import NoReturn

from goplugins.config.durations import format_go_duration
from goplugins.errors import InvalidEndpointURLError, InvalidHeaderError
from goplugins.headers import check_headers, check_latin_1, is_of_connection
from goplugins.runtime.call import Call
from goplugins.transports.envelope import dump_texts
from goplugins.transports.http.target import Target

_ENVELOPE_START = '{"data":'
_START_LENGTH = len(_ENVELOPE_START)
_HOST_TEXT = re.compile(r"[!-~]+")


class RequestWriter:
    """Writes the requests of one plugin.

    Args:
        target: origin, path and proxy.
        version: of goplugins, for the User-Agent.
        credentials: headers that no caller may override.
        defaults: headers that a caller may override, such as credentials of ``.netrc``.
        compression: whether compressed replies are accepted.
        keep_alive: whether connections are used again.

    Attributes:
        host: the Host header.
        path: of the POST of a call, as in the request line.
        health_path: of the GET of a health check.
        health_headers: of the GET, all but Host.
        health_message: the whole GET.

    Raises:
        InvalidEndpointURLError: the endpoint's host contains characters that a header can't.
    """

    def __init__(
        self,
        target: Target,
        *,
        version: str,
        credentials: Mapping[str, str],
        defaults: Mapping[str, str],
        compression: bool,
        keep_alive: bool,
    ) -> None:
        # A forwarding proxy gets its credentials with each request; a tunnel got them when it was established.
        self._fixed = {**(target.proxy_headers if target.prefix else {}), **credentials}
        self._reserved = frozenset(name.lower() for name in credentials)
        self._base = {
            "User-Agent": f"goplugins-python/{version}",
            "Accept-Encoding": "gzip, deflate" if compression else "identity",
            **defaults,
        }
        if not keep_alive:
            self._base["Connection"] = "close"
        self._with_body = {**self._base, "Content-Type": "application/json"}
        self.health_headers = {**self._base, **self._fixed}
        self.path = target.prefix + target.with_key(target.path)
        self.health_path = target.prefix + target.with_key(target.health_path)
        self.host = _host_header(target)
        self._start = self._head("POST", self.path, {})
        self._usual_head = self._start + lines({**self._with_body, **self._fixed})
        self.health_message = self.encode("GET", self.health_path, self.health_headers)

    def check(self, call: Call) -> None:
        """Rejects headers that can't be sent or that a caller must not set.

        Raises:
            InvalidHeaderError: the message has the header's name, never its value.
        """
        if not (call.request_id.isascii() and call.request_id.isprintable()):
            self._reject_request_id()
        headers = call.headers
        if not headers:
            return
        check_headers(headers)
        for name in headers:
            of_connection = is_of_connection(name)
            if of_connection or name.lower() in self._reserved:
                owner = "the connection" if of_connection else "auth"
                raise InvalidHeaderError(f"headers: {name!r} is set by {owner} and can't be overridden by a call")
        check_latin_1(headers)

    @staticmethod
    def _reject_request_id() -> NoReturn:
        raise InvalidHeaderError("request_id: it is sent in a header, so it must be printable ASCII")

    def headers(self, call: Call) -> dict[str, str]:
        """All headers of a call but Host and Content-Length."""
        headers = self._with_body.copy()
        headers["X-Request-ID"] = call.request_id
        if call.idempotent:
            headers["Idempotency-Key"] = call.request_id
        if call.headers:
            self._override(headers, call.headers)
        headers.update(self._fixed)
        return headers

    @staticmethod
    def _override(headers: dict[str, str], given: Mapping[str, str]) -> None:
        """Replaces headers by the caller's, in whatever case they are spelled: two values would contradict."""
        defaults = {name.lower(): name for name in headers}
        for name, value in given.items():
            headers.pop(defaults.get(name.lower(), ""), None)
            headers[name] = value

    @staticmethod
    def envelope_end(call: Call) -> bytes:
        """The part of the envelope after its data: request id, seconds that remain, operation, headers, metadata."""
        deadline = call.deadline
        remaining = deadline.at - deadline.clock.monotonic()
        # The usual range in Go's format, without a function call.
        timeout = f"{remaining:.9g}s" if 1.0 <= remaining < 59.0 else format_go_duration(max(remaining, 0.0))
        if not (call.headers or call.metadata or call.operation):
            return f',"request_id":{quoted(call.request_id)},"timeout":"{timeout}"}}'.encode()
        end = f',"request_id":{quoted(call.request_id)},"timeout":"{timeout}"'
        if call.operation:
            end += f',"operation":{quoted(call.operation)}'
        if call.headers:
            end += f',"headers":{dump_texts(call.headers)}'
        if call.metadata:
            end += f',"metadata":{dump_texts(call.metadata)}'
        return end.encode() + b"}"

    def body(self, call: Call) -> bytes:
        """The envelope."""
        return b'{"data":%b%b' % (call.payload, self.envelope_end(call))

    def parts(self, call: Call) -> tuple[str, str, dict[str, str], bytes | None]:
        """Method, path in the request line, headers but Host and Content-Length, and body (None for none) of a call."""
        return "POST", self.path, self.headers(call), self.body(call)

    # --- as bytes ----------------------------------------------------------------------------------------------

    def _head(self, method: str, path: str, headers: Mapping[str, str]) -> str:
        return f"{method} {path} HTTP/1.1\r\nHost: {self.host}\r\n{lines(headers)}"

    def encode(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None) -> bytes:
        """A whole request.

        Args:
            method: of the request line.
            path: of the request line.
            headers: all but Host and Content-Length.
            body: None for a request without one.

        Raises:
            InvalidHeaderError: a header contains a line break, or characters outside Latin-1.
        """
        head = self._head(method, path, headers)
        length = "" if body is None else f"Content-Length: {len(body)}\r\n"
        return f"{head}{length}\r\n".encode("latin-1") + (body or b"")

    def message(self, call: Call) -> bytes:
        """The whole request of a call, head and body.

        Raises:
            InvalidHeaderError: a header contains a line break; :meth:`check` was not called.
        """
        request_id = call.request_id
        if not (request_id.isascii() and request_id.isprintable()):
            self._reject_request_id()
        head = self._usual_head
        if call.headers:
            head = f"{self._start}{lines(self.headers(call))}"
        elif call.idempotent:
            head = f"{head}X-Request-ID: {request_id}\r\nIdempotency-Key: {request_id}\r\n"
        else:
            head = f"{head}X-Request-ID: {request_id}\r\n"
        payload, end = call.payload, self.envelope_end(call)
        length = _START_LENGTH + len(payload) + len(end)
        head = f"{head}Content-Length: {length}\r\n\r\n{_ENVELOPE_START}"
        return b"".join((head.encode("latin-1"), payload, end))  # copied once: a body may be large


def _host_header(target: Target) -> str:
    """The Host header: a port only if it is not the scheme's default, and no IPv6 zone."""
    host = re.sub(r"%[^\]]*", "", target.origin.partition("://")[2])
    try:
        if not host.isascii():
            host = host.encode("idna").decode("ascii")
    except UnicodeError:
        host = ""
    if not _HOST_TEXT.fullmatch(host):
        raise InvalidEndpointURLError("its host contains invalid characters", path="endpoint")
    return host


def lines(headers: Mapping[str, str]) -> str:
    """Headers as lines of a head. They were checked when they were set; this is a second check against injection."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if lines.count("\n") != len(headers) or lines.count("\r") != len(headers) or "\0" in lines:
        raise InvalidHeaderError("a header can't be sent: it holds a line break")
    try:
        lines.encode("latin-1")
    except UnicodeEncodeError:
        raise InvalidHeaderError("a header can't be sent: it is not Latin-1") from None
    return lines
