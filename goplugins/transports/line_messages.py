"""The messages of Unix sockets and exec, one JSON object a line: a call as a line, and what a line in answer means."""

from __future__ import annotations

from collections.abc import Mapping
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

from goplugins.errors import (
    AuthenticationError,
    BadReplyError,
    InvalidHeaderError,
    PluginError,
    PluginExecutionError,
    PluginInternalError,
    PluginRequestError,
    PluginTimeoutError,
    PluginUnavailableError,
    Replay,
    TransportError,
)
from goplugins.headers import check_headers
from goplugins.runtime.call import Call
from goplugins.transports.envelope import (
    check_request_id,
    decode_data,
    dump_texts,
    error_text,
    metadata_of,
    parse_object,
)

__all__ = ["RequestLines", "envelope_of", "failure_of", "value_of"]

_LONGEST_WAIT = 86400.0
_LONGEST_KIND = 100
_KEY = "Idempotency-Key"

_KINDS: Mapping[str, tuple[type[PluginError], str]] = {
    "internal": (PluginInternalError, "the plugin failed"),
    "invalid": (PluginRequestError, "the request was refused"),
    "deadline": (PluginTimeoutError, "the plugin ran out of time"),
    "unauthenticated": (AuthenticationError, "the plugin refused the credentials"),
}
"""``error_kind`` -> our error. "rejected", and none (Go servers send none), are business errors."""


class RequestLines:
    """Writes the requests of one plugin.

    Args:
        credentials: headers that no caller may override.
    """

    def __init__(self, credentials: Mapping[str, str]) -> None:
        self._credentials = dict(credentials)
        self._reserved = frozenset(name.lower() for name in credentials)
        self._plain = _headers_part(self._credentials)

    def check(self, call: Call) -> None:
        """Refuses headers that are none, or are not the caller's to set.

        Raises:
            InvalidHeaderError: names the header, never its value.
        """
        if call.headers:
            check_headers(call.headers)
            for name in call.headers:
                if name.lower() in self._reserved:
                    raise InvalidHeaderError(f"headers: {name!r} is set by auth and can't be overridden by a call")

    def execute(self, call: Call, remaining: float) -> bytes:
        """A call; tells the plugin how many seconds remain."""
        headers = self._plain
        if call.headers or call.idempotent:
            own = dict(call.headers)
            if call.idempotent and not any(name.lower() == "idempotency-key" for name in own):
                own[_KEY] = call.request_id
            headers = _headers_part({**own, **self._credentials})
        if call.metadata:
            headers += b',"metadata":%b' % dump_texts(call.metadata).encode()
        return b'{"type":"execute","request_id":%b,"data":%b%b,"timeout_ms":%d}\n' % (
            quoted(call.request_id).encode(),
            call.payload,
            headers,
            max(1, int(remaining * 1000)),
        )

    def ask(self, kind: str, request_id: str, remaining: float) -> bytes:
        """A question about the plugin itself: health, info or ping."""
        return b'{"type":"%b","request_id":%b,"data":null%b,"timeout_ms":%d}\n' % (
            kind.encode(),
            quoted(request_id).encode(),
            self._plain,
            max(1, int(remaining * 1000)),
        )


def _headers_part(headers: Mapping[str, str]) -> bytes:
    return b',"headers":%b' % dump_texts(headers).encode() if headers else b""


def envelope_of(line: bytes, call: Call) -> dict[str, Any]:
    """The fields of a line in answer to ``call``.

    Raises:
        BadReplyError: it is no whole JSON object, or does not say whether it reports success.
        ReplyMismatchError: it answers another call, or none: a line carries no other sign of what it answers.
    """
    envelope = parse_object(line, whole=True)
    if envelope.get("request_id") != call.request_id:
        check_request_id(envelope, call, required=True)
    if type(envelope.get("success")) is not bool:
        raise BadReplyError("the reply does not say whether it is a success")
    return envelope


def value_of(envelope: dict[str, Any], call: Call, other: type[TransportError]) -> Any:
    """The typed response in an envelope; sets ``call.reply_metadata``.

    Raises:
        PluginError: the failure that the envelope reports; ``other`` for an ``error_kind`` that has no class.
        ReplyTypeError: the data does not fit the response type.
        BadReplyError: the envelope is malformed.
    """
    if not envelope["success"]:
        raise failure_of(envelope, other)
    value = decode_data(envelope, call)
    if "headers" in envelope:
        headers = metadata_of(envelope, "headers")
        if headers:
            call.reply_metadata = {**headers, **call.reply_metadata}
    return value


def failure_of(envelope: dict[str, Any], other: type[TransportError]) -> PluginError:
    """The failure that an envelope reports, with the plugin's own text, metadata and headers."""
    kind = envelope.get("error_kind") or "rejected"
    text = error_text(envelope)
    details: dict[str, Any] = {}
    for field in ("metadata", "headers"):
        if isinstance(envelope.get(field), dict) and envelope[field]:
            details[field] = metadata_of(envelope, field)
    if kind == "rejected":
        return PluginExecutionError(text or "the plugin refused without a word", details=details)
    if kind == "unavailable":
        wait = _retry_after(details.get("headers", {}))
        replay = None if wait is None else Replay.ALWAYS  # it says that it has done nothing
        text = text or "unavailable"
        return PluginUnavailableError(text, retry_after=wait, replay=replay, details=details)
    found = _KINDS.get(kind) if isinstance(kind, str) else None
    if found is None:
        told = str(kind)
        details["error_kind"] = told if len(told) <= _LONGEST_KIND else "unknown"  # cut, it could not be scrubbed
    error, lead = found or (other, f"the plugin failed ({details['error_kind']})")
    return error(f"{lead}: {text}" if text else lead, details=details)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds. Unlike on HTTP, fractions are understood."""
    text = next((value for name, value in headers.items() if name.lower() == "retry-after"), "")
    try:
        seconds = float(text)
    except ValueError:
        return None
    return min(seconds, _LONGEST_WAIT) if seconds >= 0 else None
