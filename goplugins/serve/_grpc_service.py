"""The methods of PluginService and of the standard health service for a served plugin, bytes to bytes."""

from __future__ import annotations

import logging
import math
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from goplugins.enums import PluginStatus
from goplugins.errors import InvalidArgumentError
from goplugins.runtime.clock import Clock
from goplugins.serve._dispatch import (
    INTERNAL_TEXT,
    Incoming,
    Kind,
    Outcome,
    dispatch,
    encode_json,
    parse_value,
    with_forwarded,
)
from goplugins.transports.grpc.fork_support import load
from goplugins.transports.grpc.messages import CHECK, EXECUTE, HEALTH, INFO, messages

if TYPE_CHECKING:
    from goplugins.serve._auth import Guard
    from goplugins.serve._served import Served

_logger = logging.getLogger("goplugins.serve")

_HEALTH_TIMEOUT = 5.0

_STATUS = {Kind.INVALID: "INVALID_ARGUMENT", Kind.EXPIRED: "DEADLINE_EXCEEDED", Kind.UNAVAILABLE: "UNAVAILABLE"}
"""The status of a request that was not executed; all other kinds are replies."""

_Metadata = Mapping[str, str | bytes]


class _Abort(Exception):  # noqa: N818 - ends a call with a status; does not leave this module
    def __init__(self, status: str, text: str, trailing: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.trailing = trailing


class Service:
    """The methods.

    Attributes:
        methods: name -> method.
    """

    def __init__(self, plugin: Served, guard: Guard, clock: Clock) -> None:
        self._plugin = plugin
        self._guard = guard
        self._clock = clock
        self._messages = messages()
        self.methods: Mapping[str, Callable[[bytes, Any, _Metadata], bytes]] = {
            EXECUTE: self._execute,
            HEALTH: self._health,
            INFO: self._info,
            CHECK: self._check,
        }

    def handler(self, name: str) -> Callable[[bytes, Any], bytes]:
        """A method with the signature that grpc calls, and with its errors as statuses."""
        method = self.methods[name]

        def handle(request: bytes, context: Any) -> bytes:
            try:
                return method(request, context, self._checked_metadata(context))
            except _Abort as abort:
                status, text, trailing = abort.status, abort.text, abort.trailing
            except Exception:
                # Only a defect of this module gets here.
                _logger.exception("plugin %r, method %s: unexpected error", self._plugin.name, name)
                status, text, trailing = "INTERNAL", INTERNAL_TEXT, ()
            return abort_with(context, status, text, trailing)

        return handle

    def _checked_metadata(self, context: Any) -> _Metadata:
        """The metadata of a call, which has the expected credentials."""
        metadata = dict(context.invocation_metadata() or ())
        if not self._guard.admits(lambda name: _bytes(metadata.get(name)), context.peer()):
            raise _Abort("UNAUTHENTICATED", "unauthorized")
        return metadata

    def _execute(self, request: bytes, context: Any, metadata: _Metadata) -> bytes:
        message = _parse(self._messages.ExecuteRequest, request)
        request_id = message.request_id or _text(metadata.get("x-request-id")) or uuid.uuid4().hex
        try:
            data = parse_value(message.payload, "the payload") if message.payload else None
        except InvalidArgumentError as exc:
            raise _Abort("INVALID_ARGUMENT", exc.message) from exc
        incoming = Incoming(
            data,
            request_id,
            self._clock.monotonic(),
            _timeout(context, message.timeout_ms),
            with_forwarded(message.headers, lambda name: _text(metadata.get(name.lower()))),
            dict(message.metadata),
            message.operation,
        )
        return self._reply(dispatch(self._plugin, incoming, self._clock), request_id)

    def _reply(self, outcome: Outcome, request_id: str) -> bytes:
        status = _STATUS.get(outcome.kind)
        if status is not None:
            trailing: tuple[tuple[str, str], ...] = ()
            if outcome.retry_after is not None:
                trailing = (("grpc-retry-pushback-ms", str(math.ceil(outcome.retry_after * 1000))),)
            raise _Abort(status, outcome.error, trailing)
        response = self._messages.ExecuteResponse(request_id=request_id)
        if outcome.kind is Kind.OK:
            response.payload = outcome.data
        else:
            response.error, response.error_kind = outcome.error, outcome.kind.value
        if outcome.metadata:
            response.metadata.update(outcome.metadata)
        return response.SerializeToString()  # type: ignore[no-any-return]

    def _health(self, request: bytes, context: Any, metadata: _Metadata) -> bytes:
        found = self._plugin.health(_timeout(context, 0) or _HEALTH_TIMEOUT)
        response = self._messages.HealthResponse(status=found.status.value, message=found.message)
        response.metadata.update(found.metadata)
        return response.SerializeToString()  # type: ignore[no-any-return]

    def _check(self, request: bytes, context: Any, metadata: _Metadata) -> bytes:
        """The standard service, for the server as a whole and for the plugin under its two names."""
        service = _parse(self._messages.HealthCheckRequest, request).service
        if service not in {"", "PluginService", self._plugin.name}:
            raise _Abort("NOT_FOUND", "unknown service")
        found = self._plugin.health(_timeout(context, 0) or _HEALTH_TIMEOUT)
        usable = found.status in {PluginStatus.HEALTHY, PluginStatus.DEGRADED}
        response = self._messages.HealthCheckResponse
        status = response.SERVING if usable else response.NOT_SERVING
        return response(status=status).SerializeToString()  # type: ignore[no-any-return]

    def _info(self, request: bytes, context: Any, metadata: _Metadata) -> bytes:
        info = self._plugin.info()
        response = self._messages.InfoResponse(
            name=info.name,
            version=info.version,
            description=info.description,
            author=info.author,
            capabilities=list(info.capabilities),
        )
        response.metadata.update(info.metadata)
        for name, operation in info.operations.items():
            response.operations.add(
                name=name,
                description=operation.description,
                idempotent=operation.idempotent,
                is_default=operation.default,
                request_schema=encode_json(operation.request),
                response_schema=encode_json(operation.response),
            )
        return response.SerializeToString()  # type: ignore[no-any-return]


def abort_with(context: Any, status: str, text: str, trailing: tuple[tuple[str, str], ...] = ()) -> NoReturn:
    """Ends the call with a status. Called outside of any ``except``, or grpc would log the whole chain."""
    if trailing:
        context.set_trailing_metadata(trailing)
    context.abort(getattr(load().StatusCode, status), text[:2000])
    raise AssertionError(status)  # abort has raised


def _parse(kind: Any, data: bytes) -> Any:
    from google.protobuf.message import DecodeError

    try:
        return kind.FromString(data)
    except DecodeError as exc:
        raise _Abort("INVALID_ARGUMENT", f"the request is no {kind.DESCRIPTOR.name}") from exc


def _timeout(context: Any, timeout_ms: int) -> float | None:
    """Seconds until the caller's deadline: the smaller of gRPC's own timeout and the message's.

    gRPC's includes the wait for a thread, but is rounded up on the wire, so a later attempt could seem to have more
    time than an earlier one.
    """
    counts = [timeout_ms / 1000.0] if timeout_ms > 0 else []
    remaining: float | None = context.time_remaining()
    if remaining is not None and remaining < 1e9:  # without a deadline, grpc may report a very long time
        counts.append(max(remaining, 1e-6))
    return min(counts, default=None)


def _text(value: str | bytes | None) -> str:
    return value if isinstance(value, str) else ""


def _bytes(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value
