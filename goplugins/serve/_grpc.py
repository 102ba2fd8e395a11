"""The gRPC server under ``serve``: PluginService, and the standard health service beside it."""

from __future__ import annotations

import logging
import math
import threading
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import attrs

from goplugins.enums import PluginStatus
from goplugins.errors import ConfigError, InvalidArgumentError, InvalidCertificateError
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock
from goplugins.serve._addresses import check_free
from goplugins.serve._auth import Guard
from goplugins.serve._dispatch import INTERNAL_TEXT, Incoming, Kind, Outcome, dispatch, parse_value, with_passed_on
from goplugins.serve._grpc_threads import Aside, Threads
from goplugins.serve._plugin import ServedPlugin
from goplugins.transports.grpc.fork_support import load
from goplugins.transports.grpc.messages import CHECK, EXECUTE, HEALTH, INFO, messages

if TYPE_CHECKING:
    from goplugins.config.credentials import AuthConfig

__all__ = ["Server", "ServerTLS"]

_logger = logging.getLogger("goplugins.serve")

_HEALTH_TIMEOUT = 5.0
_WAITING = 1000
"""Calls that may wait for a thread; further ones are refused with RESOURCE_EXHAUSTED."""

_STATUS = {Kind.INVALID: "INVALID_ARGUMENT", Kind.EXPIRED: "DEADLINE_EXCEEDED", Kind.UNAVAILABLE: "UNAVAILABLE"}
"""How a request that the plugin never judged ends; all else is a reply."""


@attrs.frozen
class ServerTLS:
    """The PEM files of a server.

    Attributes:
        cert_file: its certificate, with the chain.
        key_file: the private key of ``cert_file``.
        ca_file: the authorities of its callers, who then all have to present a certificate; none when empty.
    """

    cert_file: str
    key_file: str
    ca_file: str = ""

    def credentials(self) -> Any:
        """What grpc takes.

        Raises:
            InvalidCertificateError: a file that can't be read.
        """
        pair = (_read(self.key_file, "key_file"), _read(self.cert_file, "cert_file"))
        authorities = _read(self.ca_file, "ca_file") if self.ca_file else None
        return load().ssl_server_credentials([pair], authorities, require_client_auth=authorities is not None)


def _read(file: str, field: str) -> bytes:
    try:
        with open(file, "rb") as stream:
            return stream.read()
    except OSError as exc:
        reason = exc.strerror or str(exc)
        raise InvalidCertificateError(f"{file!r} can't be used: {reason}", path=field) from exc


class _Abort(Exception):  # noqa: N818 - a way to end a call
    """Ends a call with a status."""

    def __init__(self, status: str, text: str, trailing: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.trailing = trailing


class _Service:
    """The methods, bytes to bytes."""

    def __init__(self, plugin: ServedPlugin[Any, Any], guard: Guard, clock: Clock) -> None:
        self._plugin = plugin
        self._guard = guard
        self._clock = clock
        self._messages = messages()
        self.methods: Mapping[str, Callable[[bytes, Any, Mapping[str, str | bytes]], bytes]] = {
            EXECUTE: self._execute,
            HEALTH: self._health,
            INFO: self._info,
            CHECK: self._check,
        }

    def handler(self, method: str) -> Callable[[bytes, Any], bytes]:
        """The method as grpc calls it; all but calls are answered beside them."""
        answer = self.methods[method]

        def handle(request: bytes, context: Any) -> bytes:
            try:
                return answer(request, context, self._admitted(context))
            except _Abort as abort:
                status, text, trailing = abort.status, abort.text, abort.trailing
            except Exception:
                # Only a fault of this module gets here.
                _logger.exception("plugin %r, method %s: no answer", self._plugin.info().name, method)
                status, text, trailing = "INTERNAL", INTERNAL_TEXT, ()
            return _end(context, status, text, trailing)

        return handle if method == EXECUTE else Aside(handle)

    def _admitted(self, context: Any) -> Mapping[str, str | bytes]:
        """The metadata of a call that brings what is expected."""
        metadata = dict(context.invocation_metadata() or ())
        if not self._guard.admits(lambda name: _bytes(metadata.get(name)), context.peer()):
            raise _Abort("UNAUTHENTICATED", "unauthorized")
        return metadata

    def _execute(self, request: bytes, context: Any, metadata: Mapping[str, str | bytes]) -> bytes:
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
            with_passed_on(message.headers, lambda name: _text(metadata.get(name.lower()))),
            dict(message.metadata),
        )
        return self._answer(dispatch(self._plugin, incoming, self._clock), request_id)

    def _answer(self, outcome: Outcome, request_id: str) -> bytes:
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

    def _health(self, request: bytes, context: Any, metadata: Mapping[str, str | bytes]) -> bytes:
        found = self._plugin.health(_timeout(context, 0) or _HEALTH_TIMEOUT)
        response = self._messages.HealthResponse(status=found.status.value, message=found.message)
        response.metadata.update(found.metadata)
        return response.SerializeToString()  # type: ignore[no-any-return]

    def _check(self, request: bytes, context: Any, metadata: Mapping[str, str | bytes]) -> bytes:
        """The standard service; it knows the server as a whole, and the plugin's service by its two names."""
        service = _parse(self._messages.HealthCheckRequest, request).service
        if service not in {"", "PluginService", self._plugin.info().name}:
            raise _Abort("NOT_FOUND", "unknown service")
        found = self._plugin.health(_timeout(context, 0) or _HEALTH_TIMEOUT)
        usable = found.status in {PluginStatus.HEALTHY, PluginStatus.DEGRADED}
        kind = self._messages.HealthCheckResponse
        return kind(status=kind.SERVING if usable else kind.NOT_SERVING).SerializeToString()  # type: ignore[no-any-return]

    def _info(self, request: bytes, context: Any, metadata: Mapping[str, str | bytes]) -> bytes:
        info = self._plugin.info()
        response = self._messages.InfoResponse(
            name=info.name,
            version=info.version,
            description=info.description,
            author=info.author,
            capabilities=list(info.capabilities),
        )
        response.metadata.update(info.metadata)
        return response.SerializeToString()  # type: ignore[no-any-return]


def _end(context: Any, status: str, text: str, trailing: tuple[tuple[str, str], ...]) -> NoReturn:
    """Raises what ends the call; outside of any ``except``, or grpc would log the whole chain."""
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
    """Seconds that the caller has left: gRPC's count, which a wait for a thread shortens, and the message's own.

    gRPC rounds on the wire, so a later attempt could seem to have more time than the one before.
    """
    counts = [timeout_ms / 1000.0] if timeout_ms > 0 else []
    remaining: float | None = context.time_remaining()
    if remaining is not None and remaining < 1e9:  # grpc's "none" may be a very long time
        counts.append(max(remaining, 1e-6))
    return min(counts, default=None)


def _text(value: str | bytes | None) -> str:
    return value if isinstance(value, str) else ""


def _bytes(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value


class Server:
    """Answers gRPC: bound when made, :meth:`run` on a thread of its own, :meth:`stop` from any other.

    Args:
        plugin: what :func:`~goplugins.serve.plugin` made.
        address: ``host:port`` or ``unix:/path``, as grpc takes it; port 0 finds a free one.
        auth: credentials that every call must bring, health checks included.
        threads: how many calls run at once; further ones wait, within their callers' deadlines.
        max_request_bytes: larger requests are refused.
        tls: certificates; plaintext without.

    Attributes:
        port: the real port; 1 for a Unix socket.

    Raises:
        ConfigError: the address can't be used, or ``auth`` lacks its credentials.
        InvalidCertificateError: a certificate file that can't be used.
    """

    def __init__(
        self,
        plugin: ServedPlugin[Any, Any],
        address: str,
        *,
        auth: AuthConfig | None = None,
        threads: int = 8,
        max_request_bytes: int = 4 * 1024 * 1024,
        tls: ServerTLS | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if not isinstance(plugin, ServedPlugin):
            raise InvalidArgumentError(f"expected a function with @serve.plugin, got {type(plugin).__name__}")
        grpc = load()
        service = _Service(plugin, Guard(auth, clock=clock), clock)
        most = threads + 2 * _WAITING  # room for other methods while calls are refused
        self._threads = Threads(threads, _WAITING, most)
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._grace: float | None = None
        self._started = False
        self._server: Any = grpc.server(
            self._threads,
            handlers=(_Handlers({name: service.handler(name) for name in service.methods}, self._threads),),
            options=(
                ("grpc.so_reuseport", 0),  # or a second server would share the port, and nobody would know
                ("grpc.max_receive_message_length", max_request_bytes),
                ("grpc.max_send_message_length", -1),
            ),
            maximum_concurrent_rpcs=most,
        )
        self.port = self._bind(address, tls)

    def _bind(self, address: str, tls: ServerTLS | None) -> int:
        credentials = None if tls is None else tls.credentials()
        where = f"{'grpc' if tls is None else 'grpcs'}://{address}"
        host, _, number = address.rpartition(":")
        if number.isdigit() and int(number) and "/" not in host:
            # grpc does not say what is wrong, and of several addresses it is content with one.
            check_free(host.removeprefix("[").removesuffix("]"), int(number), where)
        port: int
        try:
            if credentials is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, credentials)
        except RuntimeError as exc:
            raise ConfigError(f"can't listen on {where}", fix="take an address that is free, and is ours") from exc
        if not port:  # grpc's older way to say so
            raise ConfigError(f"can't listen on {where}", fix="take an address that is free, and is ours")
        return port

    def run(self) -> None:
        """Answers until :meth:`stop`, then finishes what is under way."""
        with self._lock:
            if not self._stopping.is_set():
                self._server.start()
                self._started = True
        if self._started:
            self._server.wait_for_termination()
        self._threads.shutdown(wait=False)

    def stop(self, grace: float) -> None:
        """Makes :meth:`run` end, at the latest in ``grace`` seconds; a later call can only shorten that."""
        with self._lock:
            self._stopping.set()
            if self._grace is not None and grace >= self._grace:
                return
            self._grace = grace
            if self._started:
                self._server.stop(grace)  # returns at once


class _Handlers:
    """Finds the handler of a method; a :class:`grpc.GenericRpcHandler`, which may only be named once it is loaded."""

    def __init__(self, methods: Mapping[str, Callable[[bytes, Any], bytes]], threads: Threads) -> None:
        handler = load().unary_unary_rpc_method_handler
        self._handlers = {name: handler(method) for name, method in methods.items()}
        self._refusal = handler(Aside(_refuse))
        self._threads = threads

    def service(self, details: Any) -> Any:
        """The handler, or None for a method that is not known."""
        if details.method == EXECUTE and self._threads.full:
            return self._refusal
        return self._handlers.get(details.method)


def _refuse(request: bytes, context: Any) -> bytes:
    _end(context, "RESOURCE_EXHAUSTED", f"all threads are busy, and {_WAITING} calls wait for one", ())
