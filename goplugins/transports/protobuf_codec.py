"""Protobuf messages as request and response types: their JSON form for the wires that carry JSON."""

from __future__ import annotations

import sys
from typing import Any

from goplugins.errors import ReplyTypeError, UnserializableRequestError

__all__ = ["ProtobufJSONCodec", "is_message_type"]

_NOT_OBJECTS = frozenset(
    f"google/protobuf/{name}.proto" for name in ("duration", "field_mask", "struct", "timestamp", "wrappers")
)
"""Where the messages are declared that JSON shows as something else than an object."""


def is_message_type(kind: Any) -> bool:
    """Whether ``kind`` is a class that protoc generated. Loads nothing: who has such a class has loaded protobuf."""
    module = sys.modules.get("google.protobuf.message")
    return module is not None and isinstance(kind, type) and issubclass(kind, module.Message)


class ProtobufJSONCodec:
    """Like :class:`~goplugins.transports.json_codec.JSONCodec`, for a pair of types with at least one message class.

    The JSON is protobuf's own mapping: lowerCamelCase names (field names are read, too), 64-bit integers as strings.
    Fields of a reply that the class does not know are skipped, as in the binary form.
    """

    __slots__ = ("_other", "request_type", "response_type")

    def __init__(self, request_type: Any = Any, response_type: Any = Any) -> None:
        from goplugins.transports.json_codec import JSONCodec

        self.request_type = request_type
        self.response_type = response_type
        # For the side that is no message; a message class means nothing to it.
        self._other = JSONCodec(
            Any if is_message_type(request_type) else request_type,
            Any if is_message_type(response_type) else response_type,
        )

    def encode(self, request: Any) -> bytes:
        """The request as one line of JSON.

        Raises:
            UnserializableRequestError: the request is not of the type, or has a value that JSON lacks.
        """
        kind = self.request_type
        if not is_message_type(kind):
            return self._other.encode(request)
        if not isinstance(request, kind):
            expected, got = kind.__name__, type(request).__name__
            raise UnserializableRequestError(
                f"the request can't be written as JSON: expected a {expected}, got a {got}"
            )
        from google.protobuf.json_format import MessageToJson, SerializeToJsonError

        try:
            return MessageToJson(request, indent=None, ensure_ascii=True).encode("ascii")
        except (SerializeToJsonError, TypeError, ValueError, RecursionError) as exc:
            raise UnserializableRequestError(f"the request can't be written as JSON: {exc}") from exc

    def decode(self, data: Any) -> Any:
        """The response message from parsed JSON.

        Raises:
            ReplyTypeError: names the field that does not fit.
        """
        kind = self.response_type
        if not is_message_type(kind):
            return self._other.decode(data)
        if not isinstance(data, dict) and kind.DESCRIPTOR.file.name not in _NOT_OBJECTS:
            what = (
                "data is missing or null" if data is None else f"expected an object @ data, got {type(data).__name__}"
            )
            raise ReplyTypeError(f"the reply is no {kind.__name__}: {what}")
        from google.protobuf.json_format import ParseDict, ParseError

        try:
            return ParseDict(data, kind(), ignore_unknown_fields=True)
        except (ParseError, TypeError, ValueError, AttributeError, RecursionError) as exc:
            raise ReplyTypeError(f"the reply is no {kind.__name__}: {exc} @ data") from exc
