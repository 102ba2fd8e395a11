"""What a call is as messages: the plugin service's envelope, or the messages of a service of another kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from goplugins.errors import (
    BadReplyError,
    GRPCTransportError,
    InvalidArgumentError,
    UnserializableRequestError,
)
from goplugins.runtime.call import Call
from goplugins.transports.envelope import check_request_id, parse_value
from goplugins.transports.grpc.health import parse
from goplugins.transports.grpc.messages import EXECUTE, messages
from goplugins.transports.line_messages import failure_of
from goplugins.transports.protobuf_codec import is_message_type

__all__ = ["Envelope", "Exchange", "Native"]


class Exchange(Protocol):
    """Turns calls into messages and replies into values."""

    method: str
    wants_metadata: bool

    def prepare(self, call: Call) -> None:
        """Sets ``call.payload``."""
        ...

    def request(self, call: Call, remaining: float) -> bytes:
        """The message of one attempt, which has ``remaining`` seconds."""
        ...

    def read(self, call: Call, reply: bytes, metadata: Sequence[Any]) -> Any:
        """The typed response, or what the plugin says went wrong."""
        ...


class Envelope:
    """JSON in the messages of ``plugin.proto``."""

    method = EXECUTE
    wants_metadata = False

    def __init__(self) -> None:
        self._messages = messages()

    def prepare(self, call: Call) -> None:
        call.payload = call.codec.encode(call.request)

    def request(self, call: Call, remaining: float) -> bytes:
        message = self._messages.ExecuteRequest(
            payload=call.payload, request_id=call.request_id, timeout_ms=max(int(remaining * 1000), 1)
        )
        if call.headers:
            message.headers.update(call.headers)
        if call.metadata:
            message.metadata.update(call.metadata)
        return message.SerializeToString()  # type: ignore[no-any-return]

    def read(self, call: Call, reply: bytes, metadata: Sequence[Any]) -> Any:
        """The typed response.

        Raises:
            PluginExecutionError: the plugin's own error.
            ReplyTypeError: the data does not fit the response type.
            BadReplyError: the reply is no answer to this call.
        """
        message = parse(self._messages.ExecuteResponse, reply)
        payload, request_id = message.payload, message.request_id
        error, kind, own = message.error, message.error_kind, message.metadata
        if not (payload or request_id or error or kind):
            raise BadReplyError("the reply is empty: it has none of payload, error and request_id")
        if request_id != call.request_id:
            check_request_id({"request_id": request_id}, call, required=False)
        if own:
            call.reply_metadata = dict(own)
        if error or kind:
            fields = {"error": error, "error_kind": kind, "metadata": dict(own)}
            raise failure_of(fields, GRPCTransportError)
        return call.codec.decode(parse_value(payload, whole=True) if payload else None)


class Native:
    """A method of an existing service, with its own protobuf messages and no JSON."""

    wants_metadata = True

    def __init__(self, method: str) -> None:
        self.method = method

    def prepare(self, call: Call) -> None:
        """Writes the request message.

        Raises:
            InvalidArgumentError: the call's types are no message classes.
            UnserializableRequestError: the request is not of its type, or lacks a required field.
        """
        from google.protobuf.message import EncodeError

        request_type: Any = getattr(call.codec, "request_type", None)
        if not (is_message_type(request_type) and is_message_type(getattr(call.codec, "response_type", None))):
            raise InvalidArgumentError(
                f"options.method calls {self.method} with its own messages: bind the plugin with the protobuf classes "
                "of its request and response"
            )
        request = call.request
        if not isinstance(request, request_type):
            expected, got = request_type.__name__, type(request).__name__
            raise UnserializableRequestError(f"the request can't be sent: expected a {expected}, got a {got}")
        try:
            call.payload = request.SerializeToString()
        except (EncodeError, ValueError) as exc:
            raise UnserializableRequestError(f"the request can't be written: {exc}") from exc

    def request(self, call: Call, remaining: float) -> bytes:
        return call.payload

    def read(self, call: Call, reply: bytes, metadata: Sequence[Any]) -> Any:
        """The response message; the plugin's trailing metadata becomes the reply's.

        Raises:
            BadReplyError: the bytes are no such message.
        """
        found = {key: value for key, value in metadata if isinstance(value, str)}
        if found:
            call.reply_metadata = found
        return parse(call.codec.response_type, reply)  # type: ignore[attr-defined]
