"""A call as gRPC metadata and messages: of PluginService, or of a service of another kind."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from typing import Any

from goplugins.config.operations import NAME_FIX, is_operation_name, operation_not_found
from goplugins.config.plugin import PluginConfig
from goplugins.errors import (
    AuthConfigError,
    BadReplyError,
    GRPCTransportError,
    InvalidArgumentError,
    InvalidHeaderError,
    OperationNotFoundError,
    UnserializableRequestError,
)
from goplugins.headers import check_headers
from goplugins.runtime.call import Call
from goplugins.transports.envelope import check_request_id, parse_value
from goplugins.transports.grpc.messages import EXECUTE, messages, parse
from goplugins.transports.line_messages import reply_error
from goplugins.transports.protobuf_codec import is_message_type

# --- metadata ------------------------------------------------------------------------------------------------------

Metadata = tuple[tuple[str, str | bytes], ...]

_NAME = re.compile(r"[0-9a-z_.\-]+")
_RESERVED = frozenset({"host", "content-type", "content-length", "connection", "te", "transfer-encoding", "user-agent"})
"""Headers of the connection, or set by grpc."""


class MetadataWriter:
    """Writes the metadata of one plugin's calls.

    Args:
        credentials: headers that no caller may override.

    Raises:
        AuthConfigError: metadata can't carry a credential; the text does not contain its value.
    """

    def __init__(self, credentials: Mapping[str, str]) -> None:
        try:
            written = [_pair(name, value, "auth.headers") for name, value in credentials.items()]
        except InvalidHeaderError as exc:
            raise AuthConfigError(exc.message, path="auth") from None  # the cause's frames hold the value
        self.credentials: Metadata = tuple(written)
        self._credential_names = frozenset(name for name, _ in written)

    def check(self, call: Call) -> None:
        """Refuses headers that can't be sent or that a caller may not set.

        Raises:
            InvalidHeaderError: names the header, not its value.
        """
        request_id = call.request_id
        if not (request_id.isascii() and request_id.isprintable()):
            raise InvalidHeaderError("request_id: gRPC metadata carries it, so it must be printable ASCII")
        if call.headers:
            check_headers(call.headers)
            for name, value in call.headers.items():
                if _pair(name, value, "headers")[0] in self._credential_names:
                    raise InvalidHeaderError(f"headers: {name!r} is set by auth and can't be overridden by a call")

    def metadata(self, call: Call) -> Metadata:
        """All metadata of a checked call."""
        request_id = call.request_id
        if call.headers:
            return self._merged(call)
        if call.idempotent:
            return (("x-request-id", request_id), ("idempotency-key", request_id), *self.credentials)
        return (("x-request-id", request_id), *self.credentials)

    @staticmethod
    def signed(metadata: Metadata, headers: Mapping[str, str]) -> Metadata:
        """Metadata with the headers of a provider in the place of any of the same name.

        Raises:
            InvalidHeaderError: metadata can't carry one of them.
        """
        added = dict(_pair(name, value, "it returned headers") for name, value in headers.items())
        return (*(pair for pair in metadata if pair[0] not in added), *added.items())

    def _merged(self, call: Call) -> Metadata:
        """A caller's own ``X-Request-ID`` replaces the call's: two would contradict each other."""
        merged: dict[str, str | bytes] = {"x-request-id": call.request_id}
        if call.idempotent:
            merged["idempotency-key"] = call.request_id
        merged.update(_pair(name, value, "headers") for name, value in call.headers.items())
        return (*merged.items(), *self.credentials)


def _pair(name: str, value: str, where: str) -> tuple[str, str | bytes]:
    """One header as metadata. The value of a name that ends in ``-bin`` is the base64 of bytes."""
    lower = name.lower()
    if not _NAME.fullmatch(lower):
        raise InvalidHeaderError(f"{where}: {name!r} is not a valid name of gRPC metadata")
    if lower in _RESERVED or lower.startswith("grpc-"):
        raise InvalidHeaderError(f"{where}: {name!r} is set by the gRPC connection itself")
    if lower.endswith("-bin"):
        try:
            return lower, base64.b64decode(value + "=" * (-len(value) % 4), validate=True)
        except (binascii.Error, ValueError):
            raise InvalidHeaderError(f"{where}[{name!r}]: the value of a -bin header must be base64") from None
    if not (value.isascii() and value.isprintable()):
        raise InvalidHeaderError(f"{where}[{name!r}]: gRPC metadata can only carry printable ASCII")
    return lower, value


# --- messages ------------------------------------------------------------------------------------------------------


class Envelope:
    """JSON in the messages of ``plugin.proto``."""

    method = EXECUTE
    needs_metadata = False

    def __init__(self) -> None:
        self._messages = messages()

    def prepare(self, call: Call) -> None:
        """Sets ``call.payload``.

        Raises:
            InvalidArgumentError: no operation can have the call's name, or the request does not fit its type.
        """
        if call.operation and not is_operation_name(call.operation):
            raise InvalidArgumentError(f"operation: {call.operation!r:.100} is not a name for an operation: {NAME_FIX}")
        call.payload = call.codec.encode(call.request)

    def request(self, call: Call, remaining: float) -> bytes:
        """The message of one attempt, which has ``remaining`` seconds."""
        message = self._messages.ExecuteRequest(
            payload=call.payload, request_id=call.request_id, timeout_ms=max(int(remaining * 1000), 1)
        )
        if call.headers:
            message.headers.update(call.headers)
        if call.metadata:
            try:
                message.metadata.update(call.metadata)
            except UnicodeEncodeError as exc:
                fault = f"metadata: {exc.object!r} contains a lone surrogate, which a gRPC message can't carry"
                raise InvalidArgumentError(fault) from None
        if call.operation:
            message.operation = call.operation
        return message.SerializeToString()  # type: ignore[no-any-return]

    def read(self, call: Call, reply: bytes, metadata: Sequence[Any]) -> Any:
        """The typed response.

        Raises:
            PluginExecutionError: the plugin's own error.
            ReplyTypeError: the data does not fit the response type.
            BadReplyError: the reply does not belong to this call.
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
            raise reply_error(fields, GRPCTransportError)
        return call.codec.decode(parse_value(payload, whole=True) if payload else None, call.deadline)


class Native:
    """A method of an existing service, with its own protobuf messages and no JSON.

    Args:
        method: its full name.
        field: the field of the configuration that has it.
    """

    needs_metadata = True

    def __init__(self, method: str, field: str) -> None:
        self.method = method
        self._field = field

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
                f"{self._field} calls {self.method} with its own messages: bind the plugin with the protobuf classes "
                "of its request and response"
            )
        request = call.request
        if not isinstance(request, request_type):
            expected, got = request_type.__name__, type(request).__name__
            raise UnserializableRequestError(f"the request can't be sent: expected a {expected}, got a {got}")
        try:
            call.payload = request.SerializeToString()
        except (EncodeError, ValueError) as exc:
            raise UnserializableRequestError(f"the request can't be encoded: {exc}") from exc

    def request(self, call: Call, remaining: float) -> bytes:
        """The message of one attempt."""
        return call.payload

    def read(self, call: Call, reply: bytes, metadata: Sequence[Any]) -> Any:
        """The response message; the plugin's trailing metadata becomes the reply's.

        Raises:
            BadReplyError: the bytes are no such message.
        """
        found = {key: value for key, value in metadata if isinstance(value, str)}
        if found:
            call.reply_metadata = found
        return parse(call.codec.response_type, reply)


Codec = Envelope | Native
"""Turns calls into request messages and reply messages into values."""


class Codecs:
    """The codecs of one plugin, by operation.

    Args:
        config: what an operation leaves out is the plugin's: without a method of its own it is ``options.method``.

    Attributes:
        native: no call goes to PluginService.
    """

    def __init__(self, config: PluginConfig) -> None:
        method = config.options.get("method")
        usual: Codec = Native(method, "options.method") if method else Envelope()
        self._by_name: dict[str, Codec] = {
            name: Native(operation.method, f"operations.{name}") if operation.method else usual
            for name, operation in config.operations.items()
        }
        self.native = all(isinstance(each, Native) for each in self._by_name.values() or (usual,))
        # Of a plugin whose operations are all methods, a call without one would go to a service that is not there.
        self._usual = None if self.native and not method else usual
        self._takes_any = not self._by_name and not method

    def find(self, operation: str) -> Codec:
        """The codec for a call.

        Raises:
            OperationNotFoundError: there is no such operation, or the call names none and there is no default.
        """
        codec = self._by_name.get(operation) if operation and not self._takes_any else self._usual
        if codec is not None:
            return codec
        if not self._by_name:
            text = f"operation {operation!r} is not configured: options.method is called without an operation"
            raise OperationNotFoundError(text)
        raise operation_not_found(operation, self._by_name)
