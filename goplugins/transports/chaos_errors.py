"""The errors of faults that were injected: made by the wire's own hand, so that policies judge them as real ones.

Wherever a wire has code that turns what came over it into an error, that code is given what would have come.
"""

from __future__ import annotations

import math
from typing import Any

from goplugins.config import ChaosConfig, PluginConfig
from goplugins.enums import TransportType
from goplugins.errors import (
    BadReplyError,
    ConnectionLostError,
    ExecTransportError,
    PluginConnectionError,
    PluginError,
    PluginInternalError,
    PluginTimeoutError,
    TransportError,
    UnixTransportError,
)

__all__ = ["FaultMaker"]

_HTTP = frozenset({TransportType.HTTP, TransportType.HTTPS})
_GRPC = frozenset({TransportType.GRPC, TransportType.GRPC_TLS})
_OTHER: dict[TransportType | None, type[TransportError]] = {
    TransportType.UNIX: UnixTransportError,
    TransportType.EXECUTABLE: ExecTransportError,
}

_GRPC_STATUS = {
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_KIND = {401: "unauthenticated", 403: "unauthenticated", 429: "unavailable", 503: "unavailable", 504: "deadline"}
"""The ``error_kind`` of a line; it has no word for 429."""


class FaultMaker:
    """Makes the errors that one plugin's wire would raise.

    Args:
        chaos: says which status an error has.
        plugin: says which wire it is.
    """

    def __init__(self, chaos: ChaosConfig, plugin: PluginConfig) -> None:
        self._status = chaos.status or 500
        self._retry_after = chaos.retry_after
        self._transport = plugin.transport
        self._native = bool(plugin.options.get("method"))

    def make(self, fault: str) -> PluginError:
        """The error of a fault, marked: its message says "injected", and ``details["chaos"]`` is true."""
        error = self._grpc(fault) if self._transport in _GRPC else self._any(fault)
        error.message = f"{error.message} (injected)"
        error.details["chaos"] = True
        return error

    def _any(self, fault: str) -> PluginError:
        if fault == "refuse":
            return PluginConnectionError("no connection: Connection refused")
        if fault == "reset":
            return ConnectionLostError("the connection broke before the reply: Connection reset by peer")
        if fault == "garbage":
            return BadReplyError("the reply is not JSON: Expecting value at character 0")
        if fault == "hang":
            return PluginTimeoutError("no whole reply in time; nothing had come")
        return self._http() if self._transport in _HTTP else self._line()

    def _http(self) -> PluginError:
        from goplugins.transports.http.engine import HTTPReply
        from goplugins.transports.http.reply import status_error

        headers = {} if self._retry_after is None else {"retry-after": str(math.ceil(self._retry_after))}
        return status_error(HTTPReply(self._status, headers, b"", True), 0.0, str)

    def _line(self) -> PluginError:
        from goplugins.transports.line_messages import reply_error

        kind = _KIND.get(self._status) or ("internal" if self._status >= 500 else "invalid")
        fields: dict[str, Any] = {"error_kind": kind, "error": f"as status {self._status}"}
        if self._retry_after is not None:
            fields["headers"] = {"Retry-After": str(self._retry_after)}
        return reply_error(fields, _OTHER.get(self._transport, PluginInternalError))

    def _grpc(self, fault: str) -> PluginError:
        if fault == "garbage":
            return self._any(fault)
        if fault == "refuse":
            return _status_error("UNAVAILABLE", "failed to connect to all addresses", connected=False)
        if fault == "reset":
            return _status_error("UNAVAILABLE", "recvmsg: Connection reset by peer")
        if fault == "hang":
            return _status_error("DEADLINE_EXCEEDED", "Deadline Exceeded", remaining=0.0)
        if self._status == 500 and not self._native:
            return self._line()  # an answer of the envelope, not a status
        status = _GRPC_STATUS.get(self._status) or ("INTERNAL" if self._status >= 500 else "INVALID_ARGUMENT")
        return _status_error(status, f"as status {self._status}", retry_after=self._retry_after)


class _Failure:
    """What grpc would have raised, as far as its translation looks at it."""

    def __init__(self, status: str, text: str, retry_after: float | None) -> None:
        self.name = status  # of the code, which is this object, too
        self._text = text
        pushback = () if retry_after is None else (("grpc-retry-pushback-ms", str(math.ceil(retry_after * 1000))),)
        self._trailing: tuple[tuple[str, str], ...] = pushback

    def code(self) -> _Failure:
        return self

    def details(self) -> str:
        return self._text

    def trailing_metadata(self) -> tuple[tuple[str, str], ...]:
        return self._trailing


def _status_error(
    status: str, text: str, *, connected: bool = True, remaining: float = 1.0, retry_after: float | None = None
) -> PluginError:
    from goplugins.transports.grpc.errors import Attempt, translate

    attempt = Attempt(
        connected=connected,
        answered=True,
        tls=False,
        remaining=remaining,
        elapsed=0.0,
        connection_timeout=math.inf,
        limit=0,
        sent=0,
    )
    failure: Any = _Failure(status, text, retry_after)
    return translate(failure, attempt, str)
