"""The gRPC and gRPC-TLS transport."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from goplugins.config.credentials import AuthConfig, auth_headers, validate_auth
from goplugins.config.plugin_sections import DEFAULT_CONNECTION, ConnectionConfig
from goplugins.config.schema import merge
from goplugins.enums import TransportType
from goplugins.errors import (
    ConnectionLostError,
    PluginError,
    PluginTimeoutError,
    Replay,
    SaturatedError,
    redact_url,
)
from goplugins.models.context import ExecutionContext
from goplugins.models.plugin import PluginInfo
from goplugins.models.results import HealthStatus
from goplugins.runtime.call import Call
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock
from goplugins.runtime.deadline import Deadline
from goplugins.runtime.fork import register_forkable
from goplugins.transports.auth import joined_secrets, scrub, scrub_error, secrets_of, with_token
from goplugins.transports.connection_pool import ConnectionPool, Lease
from goplugins.transports.credential_files import CredentialFiles
from goplugins.transports.grpc.cancellation import call_unless_cancelled, end_interrupted
from goplugins.transports.grpc.channel import ActiveCall, Channel, Channels
from goplugins.transports.grpc.codecs import Codec, Envelope, Metadata, MetadataWriter, Native
from goplugins.transports.grpc.errors import Attempt, is_broken, translate
from goplugins.transports.grpc.fork_support import load
from goplugins.transports.grpc.health import HealthChecker
from goplugins.transports.grpc.messages import INFO, messages, parse
from goplugins.transports.grpc.target import channel_options, target_of, tls_credentials
from goplugins.transports.interface import Sender
from goplugins.transports.resolver import Address
from goplugins.transports.single_call import single_call

if TYPE_CHECKING:
    from goplugins.config import PluginConfig

__all__ = ["GRPCPlugin", "GRPCPluginFactory"]

_INFO_TIMEOUT = 2.0


class _Place:
    """One of the calls that may be under way at once. HTTP/2 carries them all over one connection."""

    __slots__ = ()


class GRPCPlugin(Sender):
    """A plugin behind gRPC. Connects when it is first called; used by many threads at once.

    ``connection.max_connections`` bounds the calls under way at once: they share one connection.

    Args:
        config: what is None in ``connection`` takes the production defaults.
        clock: measures and waits.
        address: where to connect, instead of where the endpoint's host is found.

    Raises:
        ConfigError: an endpoint, credential or certificate that can't be used.
    """

    def __init__(self, config: PluginConfig, *, clock: Clock = SYSTEM_CLOCK, address: Address | None = None) -> None:
        connection = merge(config.connection or ConnectionConfig(), DEFAULT_CONNECTION)
        self._files = CredentialFiles.of(config.auth, clock, self._renew, config.name)
        auth = with_token(config.auth)
        self._name = config.name
        self._clock = clock
        self._timeout = connection.request_timeout or 30.0
        self._connection_timeout = connection.connection_timeout or 10.0
        self._limit = connection.max_response_bytes or 0
        self._idempotent = bool(config.retry is not None and config.retry.idempotent)
        self._target = target = target_of(config, address)
        self._transport = config.transport or TransportType.GRPC
        self._endpoint = redact_url(config.endpoint)
        self._secrets: tuple[str, ...] = ()
        self._use(auth)
        self._codec: Codec = Native(target.method) if target.method else Envelope()
        self._channels = Channels(
            target.name,
            tls_credentials(auth, trust_env=target.trust_env) if target.tls else None,
            channel_options(target, connection),
            shared=bool(connection.keep_alive),
        )
        places = connection.max_connections or 1
        self._places: ConnectionPool[_Place] = ConnectionPool(
            lambda _: _Place(),
            lambda _: None,
            lambda _: False,
            max_connections=places,
            max_idle=places,
            idle_timeout=float("inf"),
            clock=clock,
        )
        self._health = HealthChecker(self._ask, target.health_service, bool(target.method), clock, self._scrub)
        self._info: PluginInfo | None = None
        self.watches_credentials = self._files is not None
        register_forkable(self)

    def _use(self, auth: AuthConfig) -> None:
        credentials = auth_headers(auth, "ascii")
        self._writer = MetadataWriter(credentials)
        self._secrets = joined_secrets(
            secrets_of(credentials, auth.password, auth.token, auth.api_key), before=self._secrets
        )

    # --- Sender ------------------------------------------------------------------------------------------------

    def prepare(self, call: Call) -> None:
        """Writes the request, and refuses headers that can't be sent."""
        self._writer.check(call)
        self._codec.prepare(call)

    def send(self, call: Call) -> Any:
        """One unary call. See :class:`goplugins.transports.interface.Sender`."""
        deadline = call.deadline
        codec = self._codec
        try:
            lease = self._places.acquire(deadline)
            try:
                request = codec.request(call, deadline.remaining())
                reply, metadata = self._invoke(codec.method, request, self._writer.metadata(call), deadline, call)
            finally:
                self._places.release(lease, reusable=True)
            return codec.read(call, reply, metadata)
        except PluginError as error:
            scrub_error(error, self._secrets)
            error.endpoint = self._endpoint
            raise

    def _invoke(
        self, method: str, request: bytes, metadata: Metadata, deadline: Deadline, call: Call | None
    ) -> tuple[bytes, Sequence[Any]]:
        """The exchange, and once more over a new connection if a used one turned out to be dead."""
        while True:
            active = self._channels.begin_call(deadline)
            try:
                return self._attempt(active, method, request, metadata, deadline)
            except ConnectionLostError as error:
                again = call is not None and call.idempotent and not call.reconnected and is_broken(error)
                if call is None or not again or not active.channel.replies or deadline.remaining() <= 0:
                    raise
                call.reconnected = True
            finally:
                self._channels.end_call(active)

    def _attempt(
        self, active: ActiveCall, method: str, request: bytes, metadata: Metadata, deadline: Deadline
    ) -> tuple[bytes, Sequence[Any]]:
        """One gRPC call over the channel, with its failure translated."""
        channel = active.channel
        replies = channel.replies
        remaining = deadline.remaining()
        if remaining <= 0:
            raise PluginTimeoutError("the deadline passed before anything was sent", replay=Replay.ALWAYS)
        started, thread = channel.started, threading.get_ident()
        own = started[thread] = []
        try:
            invoke = channel.method(method)
            cancellation = deadline.cancellation
            if cancellation is not None:
                reply, rpc = call_unless_cancelled(cancellation, invoke, request, remaining, metadata)
                trailing = rpc.trailing_metadata()
            elif self._codec.needs_metadata:
                reply, rpc = invoke.with_call(request, remaining, metadata)
                trailing = rpc.trailing_metadata()
            else:
                reply, trailing = invoke(request, remaining, metadata), ()
            channel.replies += 1
            return reply, trailing or ()
        except load().RpcError as exc:
            error = self._failure(exc, channel, replies, deadline, remaining, len(request))
            # A server's text that quotes the credentials must not appear in tracebacks either.
            raise error from (exc if self._scrub(str(exc)) == str(exc) else None)
        except BaseException as exc:
            end_interrupted(exc, own, active)
            raise
        finally:
            started.pop(thread, None)

    def _failure(
        self, exc: Any, channel: Channel, replies: int, deadline: Deadline, had: float, sent: int
    ) -> PluginError:
        """The error for a status; decides whether the channel is used again."""
        remaining = deadline.remaining()
        attempt = Attempt(
            connected=channel.is_connected(),
            answered=replies > 0,
            tls=self._target.tls,
            remaining=remaining,
            elapsed=had - remaining,
            connection_timeout=self._connection_timeout,
            limit=self._limit,
            sent=sent,
        )
        error = translate(exc, attempt, self._scrub)
        if is_broken(error):
            self._channels.replace(channel)
        elif not isinstance(error, PluginTimeoutError) or not attempt.is_over:
            channel.replies += 1
        elif channel.replies == replies:
            # No other call got a reply meanwhile: either the plugin is slow, or packets are lost.
            self._channels.replace(channel)
        return error

    def _ask(self, method: str, request: bytes, deadline: Deadline) -> bytes:
        """A call beside those of the plugin's users; takes a place only if one is free at once."""
        lease: Lease[_Place] | None = self._places.try_acquire(deadline)
        if lease is None:
            raise SaturatedError("no place is free")
        try:
            metadata = (("x-request-id", uuid.uuid4().hex), *self._writer.credentials)
            return self._invoke(method, request, metadata, deadline, None)[0]
        finally:
            self._places.release(lease, reusable=True)

    def health(self, timeout: float) -> HealthStatus:
        """One look, outside the policies; UNKNOWN if every place is taken; never raises."""
        return self._health.check(timeout)

    def info(self) -> PluginInfo:
        """What the plugin says of itself, asked once; what the configuration says until it has answered."""
        if self._info is None and not self._target.method:
            deadline = Deadline(self._clock.monotonic() + min(_INFO_TIMEOUT, self._timeout), self._clock)
            try:
                self._info = self._read_info(self._ask(INFO, b"", deadline))
            except PluginError:
                return self._configured_info()
        return self._info or self._configured_info()

    def _configured_info(self) -> PluginInfo:
        return PluginInfo(name=self._name, metadata={"transport": self._transport, "endpoint": self._endpoint})

    def _read_info(self, reply: bytes) -> PluginInfo:
        found = parse(messages().InfoResponse, reply)
        return PluginInfo(
            name=found.name or self._name,
            version=found.version,
            description=found.description,
            author=found.author,
            capabilities=tuple(found.capabilities),
            metadata=dict(found.metadata),
        )

    def close(self) -> None:
        """Closes the connection, once the calls in flight have ended; later calls are refused."""
        self._places.close()
        self._channels.close()

    def renew_credentials(self) -> None:
        """Looks whether certificates and tokens have changed on disk, and uses those that have; for a scheduler.

        No call is dropped: a connection with an old certificate is closed once its calls have ended.
        """
        if self._files is not None:
            self._files.renew()

    def _renew(self, auth: AuthConfig) -> None:
        target = self._target
        credentials = tls_credentials(auth, trust_env=target.trust_env) if target.tls else None
        self._use(auth)
        if credentials is not None:
            self._channels.use_credentials(credentials)

    # --- Plugin ------------------------------------------------------------------------------------------------

    def execute(self, request: Any, context: ExecutionContext = ExecutionContext(), /) -> Any:  # noqa: B008 - frozen
        """One attempt with plain JSON values, outside the policies.

        Raises:
            PluginError: what went wrong.
        """
        return single_call(
            self, request, context, timeout=self._timeout, idempotent=self._idempotent, clock=self._clock
        )

    def after_fork_in_child(self) -> None:
        """Forgets the parent's connection and calls."""
        self._channels.after_fork_in_child()
        self._places.after_fork_in_child()

    def _scrub(self, text: str) -> str:
        """A remote text without our credentials."""
        return scrub(text, self._secrets)

    def __repr__(self) -> str:
        return f"<GRPCPlugin {self._name!r} at {self._endpoint}>"


class GRPCPluginFactory:
    """Makes gRPC and gRPC-TLS plugins.

    Args:
        clock: for its plugins.
        resolve: not used: grpc resolves names on threads of its own, within each call's deadline.
    """

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK, resolve: Callable[..., object] | None = None) -> None:
        self._clock = clock

    def create_plugin(self, config: PluginConfig) -> GRPCPlugin:
        """A plugin that has not connected to anything yet.

        Raises:
            ConfigError: what :meth:`validate_config` raises, and certificate files that can't be used.
        """
        return GRPCPlugin(config, clock=self._clock)

    def create_at(self, config: PluginConfig, address: Address) -> GRPCPlugin:
        """A plugin for one of the addresses of its endpoint's host: all but the connection's other end is the host's.

        Raises:
            ConfigError: as :meth:`create_plugin`.
        """
        return GRPCPlugin(config, clock=self._clock, address=address)

    def supported_transports(self) -> Sequence[str]:
        """The values ``grpc`` and ``grpc-tls``."""
        return (TransportType.GRPC, TransportType.GRPC_TLS)

    def validate_config(self, config: PluginConfig) -> None:
        """Checks endpoint, method and credentials; opens no file.

        Raises:
            ConfigError: what can't be used.
        """
        target_of(config)
        validate_auth(config.auth, config.transport)
        if config.auth is not None:
            MetadataWriter(config.auth.headers)
