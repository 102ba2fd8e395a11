"""The gRPC and gRPC-TLS transport."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from goplugins.config.credentials import AuthConfig, auth_headers, validate_auth
from goplugins.config.plugin import PluginConfig
from goplugins.enums import AuthMethod, PluginStatus, TransportType
from goplugins.errors import (
    ConnectionLostError,
    InvalidHeaderError,
    PluginError,
    PluginTimeoutError,
    Replay,
    local_failure,
    redact_url,
)
from goplugins.models.context import ExecutionContext
from goplugins.models.plugin import PluginInfo
from goplugins.models.results import HealthStatus
from goplugins.runtime.call import Call
from goplugins.runtime.cancellation import AttemptCancelledError
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock
from goplugins.runtime.deadline import Deadline
from goplugins.runtime.fork import register_forkable
from goplugins.transports.authorizer import Authorizer
from goplugins.transports.base import TransportFactory, TransportSettings
from goplugins.transports.connection_pool import ConnectionPool
from goplugins.transports.credential_rotation import PluginCredentials
from goplugins.transports.grpc.channel import ActiveCall, Channel, Channels
from goplugins.transports.grpc.codecs import Codecs, Metadata, MetadataWriter
from goplugins.transports.grpc.errors import Attempt, is_broken, translate
from goplugins.transports.grpc.fork_support import FORK_GUARD, load
from goplugins.transports.grpc.health import HealthChecker
from goplugins.transports.grpc.messages import INFO, messages, read_info
from goplugins.transports.grpc.target import channel_options, target_of, tls_credentials
from goplugins.transports.grpc.unary import UNREAD, Outcome, end
from goplugins.transports.health_status import run_check
from goplugins.transports.interface import Sender
from goplugins.transports.provider import Provider
from goplugins.transports.proxies import mention_proxy
from goplugins.transports.reconnect import Attempt as CallAttempt, HealthAttempt, may_reconnect
from goplugins.transports.resolver import Address

_INFO_TIMEOUT = 2.0


class _Slot:
    """One of the concurrent calls. HTTP/2 carries them all over one connection."""

    __slots__ = ()


class GRPCPlugin(Sender):
    """A plugin over gRPC. Connects at the first call; used by many threads at once.

    ``connection.max_connections`` limits the concurrent calls, which share one connection.

    Args:
        config: fields of ``connection`` that are None take the production defaults.
        clock: source of time.
        address: IP address to connect to, instead of resolving the endpoint's host.

    Raises:
        ConfigError: an endpoint, credential or certificate that can't be used.
    """

    def __init__(self, config: PluginConfig, *, clock: Clock = SYSTEM_CLOCK, address: Address | None = None) -> None:
        # Loaded by the thread that builds the plugin: a call has a deadline, and the process may fork beside it.
        load()
        messages()
        self._settings = settings = TransportSettings.of(config, clock)
        connection = settings.connection
        self._credentials = PluginCredentials(config.auth, clock, config.name)
        self.watches_credentials = self._credentials.watched
        self._connection_timeout = connection.connection_timeout or 10.0
        self._limit = connection.max_response_bytes or 0
        self._target = target = target_of(config, address)
        self._trust_env = bool(config.options.get("trust_env"))
        self._transport = config.transport or TransportType.GRPC
        self._endpoint = redact_url(config.endpoint)
        self._provider = Provider.of(config.auth, config.name, self._credentials.scrub)
        auth = self._credentials.auth
        self._use(auth)
        self._authorizer: Authorizer[MetadataWriter] | None = None
        if config.auth is not None and config.auth.method is AuthMethod.OAUTH2:
            from goplugins.transports.http.oauth2 import authorizer_of

            self._authorizer = authorizer_of(config, self._writer_for, clock)
        self._codecs = Codecs(config)
        self._channels = Channels(
            target.name,
            tls_credentials(auth, trust_env=self._trust_env) if target.tls else None,
            channel_options(target, connection),
            shared=bool(connection.keep_alive),
            max_lifetime=connection.max_lifetime,
            clock=clock,
        )
        slots = connection.max_connections or 1
        self._slots: ConnectionPool[_Slot] = ConnectionPool(
            lambda _: _Slot(),
            lambda _: None,
            lambda _: False,
            max_connections=slots,
            max_idle=slots,
            idle_timeout=float("inf"),
            clock=clock,
        )
        self._health = HealthChecker(self._request, target.health_service, settings.health_kind)
        self._info: PluginInfo | None = None
        register_forkable(self._channels)

    def _use(self, auth: AuthConfig) -> None:
        self._writer = self._writer_for(auth)

    def _writer_for(self, auth: AuthConfig) -> MetadataWriter:
        headers = auth_headers(auth, "ascii")
        self._credentials.protect(auth, headers)
        return MetadataWriter(headers)

    # --- Sender ------------------------------------------------------------------------------------------------

    def prepare(self, call: Call) -> None:
        self._writer.check(call)
        self._codecs.find(call.operation).prepare(call)

    def send(self, call: Call) -> Any:
        """One unary call. See :class:`goplugins.transports.interface.Sender`."""
        try:
            if self._authorizer is not None:
                return self._authorizer.run(partial(self._call, call), call.deadline)
            return self._call(call, self._writer)
        except PluginError as error:
            self._credentials.scrub_error(error, call.headers, call.signed)
            error.endpoint = self._endpoint
            raise

    def _call(self, call: Call, writer: MetadataWriter) -> Any:
        deadline = call.deadline
        codec = self._codecs.find(call.operation)
        lease = self._slots.acquire(deadline)
        try:
            request = codec.request(call, deadline.remaining())
            metadata = writer.metadata(call)
            if self._provider is not None:
                metadata, call.signed = self._signed(self._provider, call.operation, codec.method, metadata, request)
            reply, trailing = self._invoke(codec.method, request, metadata, deadline, call)
        finally:
            self._slots.release(lease, reusable=True)
        return codec.read(call, reply, trailing)

    def _signed(
        self, provider: Provider, operation: str, method: str, metadata: Metadata, request: bytes
    ) -> tuple[Metadata, Mapping[str, str]]:
        """The metadata with the headers of ``auth.provider``, and these headers."""
        headers = {name: value for name, value in metadata if isinstance(value, str)}
        url = f"{'https' if self._target.tls else 'http'}://{self._endpoint.rpartition('/')[2]}{method}"
        signed = provider.headers(operation, "POST", url, headers, request, "ascii")
        try:
            return MetadataWriter.signed(metadata, signed), signed
        except InvalidHeaderError as exc:
            provider.fail(exc.message)

    def _invoke(
        self, method: str, request: bytes, metadata: Metadata, deadline: Deadline, call: CallAttempt
    ) -> tuple[bytes, Sequence[Any]]:
        """Makes the call; once more over a new connection if the used one turned out to be dead."""
        while True:
            active = self._begin_call(deadline)
            try:
                return self._attempt(active, method, request, metadata, deadline)
            except ConnectionLostError as error:
                if not may_reconnect(call, reused=active.channel.replies > 0, sent=True, gone=is_broken(error)):
                    raise
                call.reconnected = True
            finally:
                self._channels.end_call(active)

    def _begin_call(self, deadline: Deadline) -> ActiveCall:
        """A call on a channel that is connected, or can be.

        Raises:
            LocalResourceError: not for want of descriptors, memory or threads here.
        """
        active: ActiveCall | None = None
        try:
            active = self._channels.begin_call(deadline)
            active.channel.check_connectable()
            return active
        except BaseException as exc:
            if active is not None:
                self._channels.end_call(active)
            lack = local_failure(exc, unsent=True)
            if lack is None or lack is exc:
                raise
            raise lack from exc

    def _attempt(
        self, active: ActiveCall, method: str, request: bytes, metadata: Metadata, deadline: Deadline
    ) -> tuple[bytes, Sequence[Any]]:
        """Makes one gRPC call over the channel, and translates its failure."""
        channel = active.channel
        replies = channel.replies
        remaining = deadline.remaining()
        if remaining <= 0:
            raise PluginTimeoutError("the deadline passed before anything was sent", replay=Replay.ALWAYS)
        started: list[Any] = []
        try:
            outcome = channel.invoke(started, method, request, remaining, metadata, deadline.cancellation)
        except BaseException as exc:
            end(exc, started, active)
            if UNREAD.keeps(started):
                self._channels.replace(channel)
            raise
        if outcome.unread:
            # Further requests would wait behind this one, and so would grpc in a forked child.
            self._channels.replace(channel)
        if outcome.status == "OK" and outcome.reply is not None:
            channel.replies += 1
            return outcome.reply, outcome.trailing
        raise self._failure(outcome, channel, replies, deadline, remaining, len(request))

    def _failure(
        self, outcome: Outcome, channel: Channel, replies: int, deadline: Deadline, had: float, sent: int
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
        error = translate(outcome, attempt, self._credentials.scrub)
        if self._target.proxy and (is_broken(error) or isinstance(error, PluginTimeoutError)):
            mention_proxy(error, redact_url(self._target.proxy))
        if is_broken(error):
            self._channels.replace(channel)
        elif not isinstance(error, PluginTimeoutError) or not attempt.is_over:
            channel.replies += 1
        elif channel.replies == replies:
            # No other call got a reply meanwhile: either the plugin is slow, or packets are lost.
            self._channels.replace(channel)
        return error

    def _request(self, method: str, request: bytes, deadline: Deadline) -> bytes:
        """A call about the plugin itself; does not wait for a slot."""
        if self._authorizer is None:
            return self._ask(method, request, deadline, self._writer)
        return self._authorizer.run(partial(self._ask, method, request, deadline), deadline)

    def _ask(self, method: str, request: bytes, deadline: Deadline, writer: MetadataWriter) -> bytes:
        lease = self._slots.acquire_free(deadline)
        try:
            metadata: Metadata = (("x-request-id", uuid.uuid4().hex), *writer.credentials)
            if self._provider is not None:
                metadata, signed = self._signed(self._provider, "", method, metadata, request)
                self._credentials.remember(signed)
            return self._invoke(method, request, metadata, deadline, HealthAttempt(deadline))[0]
        finally:
            self._slots.release(lease, reusable=True)

    def health(self, timeout: float) -> HealthStatus:
        """One health check, outside the policies; UNKNOWN if every slot is in use; never raises."""
        return run_check(self._check, timeout, self._settings.clock, self._credentials.scrub)

    def _check(self, deadline: Deadline) -> HealthStatus:
        try:
            with FORK_GUARD.cancelled_by_forks(deadline) as limit:
                return self._health.check(limit)
        except AttemptCancelledError:
            return HealthStatus(PluginStatus.UNKNOWN, "the process forked during the check", reported=False)

    def info(self) -> PluginInfo:
        """The plugin's reply to an info request; until then, the configured information."""
        if self._info is None and not self._codecs.native:
            clock = self._settings.clock
            deadline = Deadline(clock.monotonic() + min(_INFO_TIMEOUT, self._settings.timeout), clock)
            with contextlib.suppress(PluginError):
                self._info = read_info(self._request(INFO, b"", deadline), self._settings.name)
        configured = {"transport": self._transport, "endpoint": self._endpoint}
        return self._info or PluginInfo(name=self._settings.name, metadata=configured)

    def sweep(self) -> None:
        """Frees requests that were still unread when their calls ended; grpc itself closes idle connections."""
        UNREAD.sweep()

    def close(self) -> None:
        """Closes the connection once the calls in flight have ended; later calls are rejected."""
        self._slots.close()
        self._channels.close()

    def renew_credentials(self) -> None:
        """Loads changed certificates and tokens. Calls in flight end on their connection, which is then closed."""
        self._credentials.renew(self._renew)

    def _renew(self, auth: AuthConfig) -> None:
        target = self._target
        credentials = tls_credentials(auth, trust_env=self._trust_env) if target.tls else None
        if self._authorizer is not None:
            self._authorizer.reload()
        self._use(auth)
        if credentials is not None:
            self._channels.use_credentials(credentials)

    # --- Plugin ------------------------------------------------------------------------------------------------

    def execute(self, request: Any, context: ExecutionContext = ExecutionContext(), /) -> Any:  # noqa: B008 - frozen
        """One attempt with plain JSON values, outside the policies.

        Raises:
            PluginError: the attempt failed.
        """
        return self._settings.execute(self, request, context)

    def __repr__(self) -> str:
        return f"<GRPCPlugin {self._settings.name!r} at {self._endpoint}>"


class GRPCPluginFactory(TransportFactory[GRPCPlugin]):
    """Creates gRPC and gRPC-TLS plugins.

    Args:
        clock: for its plugins.
    """

    transports = (TransportType.GRPC, TransportType.GRPC_TLS)

    def _create(self, config: PluginConfig) -> GRPCPlugin:
        return GRPCPlugin(config, clock=self._clock)

    def create_at(self, config: PluginConfig, address: Address) -> GRPCPlugin:
        """A plugin that connects to one address of its endpoint's host; calls and certificate name the host.

        Raises:
            ConfigError: as :meth:`create_plugin`.
        """
        return GRPCPlugin(config, clock=self._clock, address=address)

    def _check(self, config: PluginConfig) -> None:
        target_of(config)
        validate_auth(config.auth, config.transport)
        if config.auth is not None:
            MetadataWriter(config.auth.headers)
