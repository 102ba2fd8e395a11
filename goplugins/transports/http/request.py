"""A call as an HTTP request: its headers and its body."""

from __future__ import annotations

import re
from collections.abc import Mapping
from json.encoder import encode_basestring_ascii as quoted
from typing import NoReturn

from goplugins.config.durations import format_go_duration
from goplugins.errors import InvalidEndpointURLError, InvalidHeaderError
from goplugins.headers import check_headers
from goplugins.runtime.call import Call
from goplugins.transports.envelope import dump_texts
from goplugins.transports.http.target import Target

__all__ = ["RequestWriter"]

_DATA = '{"data":'
_FRAME = len(_DATA)
_HOST = re.compile(r"[!-~]+")

_OWN = frozenset({"host", "content-length", "transfer-encoding", "connection", "te", "trailer", "upgrade"})
_OWN_PREFIX = "proxy-"
"""Headers that frame the message or are the connection's: a caller's value would desynchronise the two sides."""


class RequestWriter:
    """Writes the requests of one plugin.

    Args:
        target: where they go.
        version: of goplugins, for the User-Agent.
        credentials: headers that no caller may override.
        compression: whether compressed replies are asked for.
        keep_alive: whether connections are used again.

    Attributes:
        path: what POST goes to, as it stands in the request line.
        health_path: what GET goes to.
        of_health: the headers of GET, all but Host.

    Raises:
        InvalidEndpointURLError: the endpoint's host can't stand in a header.
    """

    def __init__(
        self, target: Target, *, version: str, credentials: Mapping[str, str], compression: bool, keep_alive: bool
    ) -> None:
        # A forwarding proxy is told who we are with each request; one with a tunnel was, before there was a tunnel.
        self._last = {**(target.proxy_headers if target.prefix else {}), **credentials}
        self._reserved = _OWN | {name.lower() for name in credentials}
        self._base = {
            "User-Agent": f"goplugins-python/{version}",
            "Accept-Encoding": "gzip, deflate" if compression else "identity",
        }
        if not keep_alive:
            self._base["Connection"] = "close"
        self._of_body = {**self._base, "Content-Type": "application/json"}
        self.of_health = {**self._base, **self._last}
        self.path = target.prefix + target.path
        self.health_path = target.prefix + target.health_path
        host = _host(target)
        self._start = f"POST {self.path} HTTP/1.1\r\nHost: {host}\r\n"
        self._usual_head = self._start + _lines({**self._of_body, **self._last})
        health = f"GET {self.health_path} HTTP/1.1\r\nHost: {host}\r\n{_lines(self.of_health)}\r\n"
        self._health = health.encode("latin-1")

    def check(self, call: Call) -> None:
        """Refuses headers that can't be sent or are not the caller's to set.

        Raises:
            InvalidHeaderError: names the header, never its value.
        """
        if not (call.request_id.isascii() and call.request_id.isprintable()):
            self._refuse_request_id()
        headers = call.headers
        if not headers:
            return
        check_headers(headers)
        for name, value in headers.items():
            lower = name.lower()
            if lower in self._reserved or lower.startswith(_OWN_PREFIX):
                whose = "the connection's" if lower in _OWN or lower.startswith(_OWN_PREFIX) else "set by auth"
                raise InvalidHeaderError(f"headers: {name!r} is {whose} and can't be overridden by a call")
            try:
                value.encode("latin-1")
            except UnicodeEncodeError:
                raise InvalidHeaderError(f"headers[{name!r}]: the value has characters outside Latin-1") from None

    @staticmethod
    def _refuse_request_id() -> NoReturn:
        raise InvalidHeaderError("request_id: it travels in a header, so it must be printable ASCII")

    def headers(self, call: Call) -> dict[str, str]:
        """All headers of a call but Host and Content-Length."""
        headers = self._of_body.copy()
        headers["X-Request-ID"] = call.request_id
        if call.idempotent:
            headers["Idempotency-Key"] = call.request_id
        if call.headers:
            self._merge(headers, call.headers)
        headers.update(self._last)
        return headers

    @staticmethod
    def _merge(headers: dict[str, str], own: Mapping[str, str]) -> None:
        """A caller's ``user-agent`` replaces ours, however it is spelled: two would contradict each other."""
        ours = {name.lower(): name for name in headers}
        for name, value in own.items():
            headers.pop(ours.get(name.lower(), ""), None)
            headers[name] = value

    @staticmethod
    def tail(call: Call) -> bytes:
        """The envelope from behind its data on, which tells the plugin how long the attempt may take."""
        deadline = call.deadline
        remaining = deadline.at - deadline.clock.monotonic()
        # The usual range as Go would write it, without another call.
        timeout = f"{remaining:.9g}s" if 1.0 <= remaining < 59.0 else format_go_duration(max(remaining, 0.0))
        if not (call.headers or call.metadata):
            return f',"request_id":{quoted(call.request_id)},"timeout":"{timeout}"}}'.encode()
        tail = f',"request_id":{quoted(call.request_id)},"timeout":"{timeout}"'
        if call.headers:
            tail += f',"headers":{dump_texts(call.headers)}'
        if call.metadata:
            tail += f',"metadata":{dump_texts(call.metadata)}'
        return tail.encode() + b"}"

    def body(self, call: Call) -> bytes:
        """The envelope."""
        return b'{"data":%b%b' % (call.payload, self.tail(call))

    # --- as bytes ----------------------------------------------------------------------------------------------

    def message(self, call: Call) -> bytes:
        """The whole request of a call, head and body.

        Raises:
            InvalidHeaderError: a header would break out of its line; :meth:`check` was left out.
        """
        request_id = call.request_id
        if not (request_id.isascii() and request_id.isprintable()):
            self._refuse_request_id()
        head = self._usual_head
        if call.headers:
            head = f"{self._start}{_lines(self.headers(call))}"
        elif call.idempotent:
            head = f"{head}X-Request-ID: {request_id}\r\nIdempotency-Key: {request_id}\r\n"
        else:
            head = f"{head}X-Request-ID: {request_id}\r\n"
        payload, tail = call.payload, self.tail(call)
        head = f"{head}Content-Length: {_FRAME + len(payload) + len(tail)}\r\n\r\n{_DATA}"
        return b"".join((head.encode("latin-1"), payload, tail))  # copied once: a body may be large

    def message_of_health(self) -> bytes:
        """The whole request for the plugin's health."""
        return self._health


def _host(target: Target) -> str:
    """What the Host header says: the port only where it is not the scheme's usual one, no zone of an address."""
    host = re.sub(r"%[^\]]*", "", target.origin.partition("://")[2])
    try:
        if not host.isascii():
            host = host.encode("idna").decode("ascii")
    except UnicodeError:
        host = ""
    if not _HOST.fullmatch(host):
        raise InvalidEndpointURLError("its host has characters that no host has", path="endpoint")
    return host


def _lines(headers: Mapping[str, str]) -> str:
    """Headers as they stand in a head. They were checked when they were set; nothing may slip by all the same."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if lines.count("\n") != len(headers) or lines.count("\r") != len(headers) or "\0" in lines:
        raise InvalidHeaderError("a header can't be sent: it holds a line break")
    try:
        lines.encode("latin-1")
    except UnicodeEncodeError:
        raise InvalidHeaderError("a header can't be sent: it is not Latin-1") from None
    return lines
