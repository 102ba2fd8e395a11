"""The JSON envelope of HTTP, Unix sockets, exec and gRPC: parsing and checks of replies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from goplugins.errors import BadReplyError, PluginExecutionError, Replay, ReplyMismatchError, TruncatedReplyError
from goplugins.json_text import EMPTY, NotJSONError, read_json
from goplugins.runtime.call import Call
from goplugins.runtime.text import counted, cut, from_outside

MAX_ERROR_TEXT = 4096
"""Characters that are kept of a plugin's own error text, which appears in messages and logs."""


def dump_texts(values: Mapping[str, str]) -> str:
    """A mapping of strings as a JSON object on one line."""
    return json.dumps(dict(values), separators=(",", ":"))


def parse_value(body: bytes, *, whole: bool = False) -> Any:
    """The one JSON value in ``body``.

    Args:
        body: the text.
        whole: whether the wire guarantees that no part of the text is missing.

    Raises:
        TruncatedReplyError: the text ends within a value.
        BadReplyError: anything else, such as trailing bytes, NaN, or a key that an object has twice.
    """
    try:
        return read_json(body)
    except NotJSONError as exc:
        raise _broken(exc, body, whole) from None


def parse_object(body: bytes, *, whole: bool = False) -> dict[str, Any]:
    """The one JSON object in ``body``. See :func:`parse_value`.

    Raises:
        TruncatedReplyError: the text ends within a value.
        BadReplyError: anything else, such as trailing bytes, NaN, or a value that is not an object.
    """
    try:
        value = read_json(body)
    except NotJSONError as exc:
        raise _broken(exc, body, whole) from None
    if type(value) is not dict:
        raise BadReplyError(f"the reply is a JSON {type(value).__name__}, expected an object with data or error")
    return value


def _broken(exc: NotJSONError, body: bytes, whole: bool) -> BadReplyError:
    if not exc.ended:
        return BadReplyError(f"the reply is not JSON: {exc}")
    empty = exc.reason == EMPTY
    error = TruncatedReplyError(
        "the reply is empty" if empty else f"its JSON ends too early, after {counted(len(body), 'byte')}"
    )
    if whole:  # a retry would return the same broken text
        error.retryable, error.replay = False, Replay.NEVER
    return error


def check_request_id(envelope: dict[str, Any], call: Call, *, required: bool) -> None:
    """Rejects another call's reply; ``required`` on wires where nothing else correlates request and reply."""
    found = envelope.get("request_id")
    if found == call.request_id or (found is None and not required) or (found == "" and not required):
        return
    raise ReplyMismatchError(f"the reply has the request id {cut(str(found), 100)!r}, expected {call.request_id!r}")


def error_text(envelope: Mapping[str, Any]) -> str:
    """The plugin's own error text, cleaned; empty if the envelope has none."""
    error = envelope.get("error")
    if error is None or error == "":
        return ""
    return from_outside(error if isinstance(error, str) else json.dumps(error), MAX_ERROR_TEXT)


def metadata_of(envelope: Mapping[str, Any], field: str = "metadata") -> dict[str, str]:
    """The envelope's metadata, values as text.

    Raises:
        BadReplyError: it is not an object.
    """
    metadata = envelope.get(field)
    if metadata is None:
        return {}
    if not isinstance(metadata, dict):
        raise BadReplyError(f"the reply's {field} is a JSON {type(metadata).__name__}, expected an object")
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}


def decode_data(envelope: dict[str, Any], call: Call) -> Any:
    """The typed response in an envelope. Sets ``call.reply_metadata``.

    A missing ``data`` is null: Go servers omit empty data.

    Raises:
        PluginExecutionError: the envelope has a business error; its metadata is in ``details``.
        ReplyTypeError: the data does not fit the response type.
        BadReplyError: the envelope is malformed.
    """
    if "metadata" in envelope:
        call.reply_metadata = metadata_of(envelope)
    if "error" in envelope:
        error = error_text(envelope)
        if error:
            details = {"metadata": dict(call.reply_metadata)} if call.reply_metadata else None
            raise PluginExecutionError(error, details=details)
    return call.codec.decode(envelope.get("data"), call.deadline)
