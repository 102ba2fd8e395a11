"""A call as an HTTP request: its headers and its body."""

from __future__ import annotations

from collections.abc import Mapping

from goplugins._call import Call
from goplugins.config.durations import format_go_duration
from goplugins.errors import InvalidHeaderError
from goplugins.models import check_headers
from goplugins.transports._envelope import dump_text, dump_texts

__all__ = ["RequestWriter"]

_OWN = frozenset({"host", "content-length", "transfer-encoding", "connection", "te", "trailer", "upgrade"})
_OWN_PREFIX = "proxy-"
"""Headers that frame the message or are the connection's: a caller's value would desynchronise the two sides."""


class RequestWriter:
    """Writes the requests of one plugin.

    Args:
        version: of goplugins, for the User-Agent.
        credentials: headers that no caller may override.
        compression: whether compressed replies are asked for.
        keep_alive: whether connections are used again.
        proxy_headers: credentials for a forwarding proxy.
    """

    def __init__(
        self,
        *,
        version: str,
        credentials: Mapping[str, str],
        compression: bool,
        keep_alive: bool,
        proxy_headers: Mapping[str, str],
    ) -> None:
        self._last = {**proxy_headers, **credentials}
        self._reserved = _OWN | {name.lower() for name in credentials}
        self._base = {
            "User-Agent": f"goplugins-python/{version}",
            "Accept-Encoding": "gzip, deflate" if compression else "identity",
        }
        if not keep_alive:
            self._base["Connection"] = "close"
        self._of_body = {**self._base, "Content-Type": "application/json"}
        self.of_health = {**self._base, **self._last}

    def check(self, call: Call) -> None:
        """Refuses headers that can't be sent or are not the caller's to set.

        Raises:
            InvalidHeaderError: names the header, never its value.
        """
        if not (call.request_id.isascii() and call.request_id.isprintable()):
            raise InvalidHeaderError("request_id: it travels in a header, so it must be printable ASCII")
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
    def body(call: Call, remaining: float) -> bytes:
        """The envelope, which tells the plugin how many seconds remain."""
        head = f'"request_id":{dump_text(call.request_id)},"timeout":"{format_go_duration(remaining)}"'
        if call.headers:
            head += f',"headers":{dump_texts(call.headers)}'
        if call.metadata:
            head += f',"metadata":{dump_texts(call.metadata)}'
        return b'{"data":%b,%b}' % (call.payload, head.encode())
