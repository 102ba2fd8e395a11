"""The line protocol of Unix sockets and exec, one JSON object per line: requests, and the meaning of replies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
from goplugins.transports.provider import merged

_MAX_RETRY_AFTER = 86400.0
"""Seconds."""

_MAX_KIND = 100
"""Characters."""

_KEY = "Idempotency-Key"

_KINDS: Mapping[str, tuple[type[PluginError], str]] = {
    "internal": (PluginInternalError, "the plugin failed"),
    "invalid": (PluginRequestError, "the request was refused"),
    "deadline": (PluginTimeoutError, "the plugin did not finish before the deadline"),
    "unauthenticated": (AuthenticationError, "the plugin rejected the credentials"),
}
"""Error and beginning of its message by ``error_kind``. "rejected" and none (from Go servers) are business errors."""


Sign = Callable[[str, str, Mapping[str, str], bytes], Mapping[str, str]]


class RequestLines:
    """Writes the requests of one plugin.

    Args:
        credentials: headers that no caller may override.
        sign: the headers of a provider for one line, of operation, type, headers and data; None for no provider.
    """

    def __init__(self, credentials: Mapping[str, str], sign: Sign | None = None) -> None:
        self._credentials = dict(credentials)
        self._sign = sign
        self._reserved = frozenset(name.lower() for name in credentials)
        self._plain = _headers_part(self._credentials)

    def check(self, call: Call) -> None:
        """Rejects headers that are malformed or that a caller must not set.

        Raises:
            InvalidHeaderError: the message has the header's name, never its value.
        """
        if call.headers:
            check_headers(call.headers)
            for name in call.headers:
                if name.lower() in self._reserved:
                    raise InvalidHeaderError(f"headers: {name!r} is set by auth and can't be overridden by a call")

    def execute(self, call: Call, remaining: float) -> bytes:
        """The line of a call of which ``remaining`` seconds remain."""
        headers = self._plain
        if call.headers or call.idempotent or self._sign is not None:
            given = dict(call.headers)
            if call.idempotent and not any(name.lower() == "idempotency-key" for name in given):
                given[_KEY] = call.request_id
            headers = _headers_part(self._signed(call, "execute", {**given, **self._credentials}))
        if call.metadata:
            headers += b',"metadata":%b' % dump_texts(call.metadata).encode()
        if call.operation:
            headers += b',"operation":%b' % quoted(call.operation).encode()
        return b'{"type":"execute","request_id":%b,"data":%b%b,"timeout_ms":%d}\n' % (
            quoted(call.request_id).encode(),
            call.payload,
            headers,
            max(1, int(remaining * 1000)),
        )

    def _signed(self, call: Call, kind: str, headers: Mapping[str, str]) -> Mapping[str, str]:
        """The headers with those of the provider, if there is one; sets ``call.signed`` then."""
        if self._sign is None:
            return headers
        call.signed = signed = self._sign(call.operation, kind, headers, call.payload)
        return merged(headers, signed)

    def request(self, kind: str, call: Call, remaining: float) -> bytes:
        """The line of a request about the plugin itself: health, info or ping."""
        signed = self._plain if self._sign is None else _headers_part(self._signed(call, kind, self._credentials))
        return b'{"type":"%b","request_id":%b,"data":null%b,"timeout_ms":%d}\n' % (
            kind.encode(),
            quoted(call.request_id).encode(),
            signed,
            max(1, int(remaining * 1000)),
        )


def _headers_part(headers: Mapping[str, str]) -> bytes:
    return b',"headers":%b' % dump_texts(headers).encode() if headers else b""


def parse_reply(line: bytes, call: Call, *_: object) -> dict[str, Any]:
    """The fields of the reply line to ``call``.

    Raises:
        BadReplyError: it is not a whole JSON object, or its ``success`` is missing.
        ReplyMismatchError: its ``request_id`` is missing or another call's.
    """
    envelope = parse_object(line, whole=True)
    if envelope.get("request_id") != call.request_id:
        check_request_id(envelope, call, required=True)
    if type(envelope.get("success")) is not bool:
        raise BadReplyError("the reply has no boolean field success")
    return envelope


def reply_value(envelope: dict[str, Any], call: Call, other: type[TransportError]) -> Any:
    """The typed response in an envelope; sets ``call.reply_metadata``.

    Raises:
        PluginError: the failure that the envelope reports; ``other`` for an unknown ``error_kind``.
        ReplyTypeError: the data does not fit the response type.
        BadReplyError: the envelope is malformed.
    """
    if not envelope["success"]:
        raise reply_error(envelope, other)
    value = decode_data(envelope, call)
    if "headers" in envelope:
        headers = metadata_of(envelope, "headers")
        if headers:
            call.reply_metadata = {**headers, **call.reply_metadata}
    return value


def reply_error(envelope: dict[str, Any], other: type[TransportError]) -> PluginError:
    """The error that an envelope reports, with the plugin's text, metadata and headers; ``other`` for unknown kinds."""
    kind = envelope.get("error_kind") or "rejected"
    text = error_text(envelope)
    details: dict[str, Any] = {}
    for field in ("metadata", "headers"):
        if isinstance(envelope.get(field), dict) and envelope[field]:
            details[field] = metadata_of(envelope, field)
    if kind == "rejected":
        return PluginExecutionError(text or "the plugin rejected the request without a message", details=details)
    if kind == "unavailable":
        wait = _retry_after(details.get("headers", {}))
        replay = None if wait is None else Replay.ALWAYS  # the plugin has not started the request
        text = text or "unavailable"
        return PluginUnavailableError(text, retry_after=wait, replay=replay, details=details)
    found = _KINDS.get(kind) if isinstance(kind, str) else None
    if found is None:
        text_of_kind = str(kind)
        # Not cut: a part of a credential could not be removed.
        details["error_kind"] = text_of_kind if len(text_of_kind) <= _MAX_KIND else "unknown"
    error, lead = found or (other, f"the plugin failed ({details['error_kind']})")
    return error(f"{lead}: {text}" if text else lead, details=details)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds; unlike in HTTP, fractions are accepted."""
    text = next((value for name, value in headers.items() if name.lower() == "retry-after"), "")
    try:
        seconds = float(text)
    except ValueError:
        return None
    return min(seconds, _MAX_RETRY_AFTER) if seconds >= 0 else None
