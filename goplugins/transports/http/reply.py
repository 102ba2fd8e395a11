"""What an HTTP reply means: the status decides first, then the envelope."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from goplugins.errors import (
    AuthenticationError,
    BadReplyError,
    HTTPTransportError,
    PluginError,
    PluginRequestError,
    PluginThrottledError,
    PluginUnavailableError,
    Replay,
    TruncatedReplyError,
    UnexpectedRedirectError,
)
from goplugins.runtime.call import Call
from goplugins.transports.envelope import check_request_id, error_text, metadata_of, parse_object
from goplugins.transports.http.engine import HTTPReply
from goplugins.transports.http.retry_after import parse_retry_after

__all__ = ["failure_text", "fields_of", "read_envelope", "status_error", "texts_of"]

_SNIPPET = 200


def read_envelope(call: Call, reply: HTTPReply) -> bool:
    """Sets ``reply.fields``, while the connection is still held: with a broken envelope, it must not be reused.

    Returns:
        Whether the connection may be used again.

    Raises:
        BadReplyError: a 2xx reply that is no envelope. What other replies hold is not known to be one.
        ReplyMismatchError: a 2xx reply to another call.
    """
    if not 200 <= reply.status < 300:
        return _read_failure(call, reply)
    try:
        fields = reply.fields = parse_object(reply.body)
    except TruncatedReplyError as exc:
        if reply.framed:  # read whole: sent again, it would be as broken
            exc.replay = Replay.NEVER
        raise
    if not ("data" in fields or "error" in fields or "request_id" in fields):
        raise BadReplyError("the reply is unrelated JSON: it has none of data, error and request_id")
    if fields.get("request_id") != call.request_id:
        check_request_id(fields, call, required=False)
    return True


def _read_failure(call: Call, reply: HTTPReply) -> bool:
    reply.fields = fields_of(reply)
    foreign = reply.fields.get("request_id")
    return not foreign or foreign == call.request_id


def fields_of(reply: HTTPReply) -> dict[str, Any]:
    """The JSON object that the body holds, or an empty one: a gateway's error page is no envelope."""
    try:
        return parse_object(reply.body)
    except BadReplyError:
        return {}


def texts_of(fields: dict[str, Any]) -> dict[str, str]:
    """The metadata, as far as it is one."""
    return metadata_of(fields) if isinstance(fields.get("metadata"), dict) else {}


def status_error(reply: HTTPReply, now: float, scrub: Callable[[str], str]) -> PluginError:
    """The error for a reply whose status is not 2xx, with the plugin's own text and metadata.

    Args:
        reply: the whole reply, with the fields of its envelope.
        now: seconds since the Unix epoch.
        scrub: takes secrets out of a text that came from afar.
    """
    error = _classified(reply, now)
    error.details["status"] = reply.status
    text = failure_text(reply)
    if text:
        error.message = f"{error.message}: {scrub(text)}"
    metadata = texts_of(reply.fields)
    if metadata:
        error.details["metadata"] = {scrub(key): scrub(value) for key, value in metadata.items()}
    return error


def failure_text(reply: HTTPReply) -> str:
    """What a reply that is not 2xx says for itself: the envelope's error, another service's message, plain text."""
    fields = reply.fields
    text = error_text(fields)
    for field in ("message", "detail", "title"):
        value = fields.get(field)
        if not text and isinstance(value, str):
            text = value[:_SNIPPET]
    if not text and "text/plain" in reply.headers.get("content-type", ""):  # of HTML, nothing
        text = re.sub(r"\s+", " ", reply.body[: 4 * _SNIPPET].decode("utf-8", "replace")).strip()[:_SNIPPET]
    return text


def _classified(reply: HTTPReply, now: float) -> PluginError:
    status = reply.status
    retry_after = parse_retry_after(reply.headers.get("retry-after"), now)
    if status == 429:
        return PluginThrottledError(f"HTTP {status}: too many calls", retry_after=retry_after)
    if status == 503:
        replay = None if retry_after is None else Replay.ALWAYS
        return PluginUnavailableError(f"HTTP {status}: unavailable", retry_after=retry_after, replay=replay)
    if status in (401, 403):
        return AuthenticationError(f"HTTP {status}: the plugin refused the credentials")
    if status < 400:
        return UnexpectedRedirectError(f"HTTP {status}: redirects are not followed")
    if status < 500:
        return PluginRequestError(f"HTTP {status}: the request was refused")
    replay = None if status in (500, 502, 504) else Replay.NEVER
    return HTTPTransportError(f"HTTP {status}: the plugin failed", retryable=replay is None, replay=replay)
