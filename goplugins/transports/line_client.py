"""Calls over pooled line channels: the part that the Unix socket and exec transports share."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Generic, TypeVar

from goplugins.config.credentials import AuthConfig, auth_headers
from goplugins.config.plugin import PluginConfig
from goplugins.enums import AuthMethod, PluginStatus
from goplugins.errors import PluginError, PluginTimeoutError, Replay, ReplyTypeError, TransportError
from goplugins.models.context import ExecutionContext
from goplugins.models.plugin import PluginInfo
from goplugins.models.results import HealthStatus
from goplugins.runtime.call import Call
from goplugins.runtime.deadline import Deadline
from goplugins.transports.authorizer import Authorizer
from goplugins.transports.base import TransportSettings
from goplugins.transports.connection_pool import ConnectionPool, Lease
from goplugins.transports.credential_rotation import PluginCredentials
from goplugins.transports.envelope import error_text, metadata_of
from goplugins.transports.health_status import check_connection, run_check, status_of_word
from goplugins.transports.interface import Sender
from goplugins.transports.json_codec import codec_for
from goplugins.transports.line_messages import RequestLines, parse_reply, reply_error, reply_value
from goplugins.transports.provider import Provider
from goplugins.transports.reconnect import ExchangeConnection, Exchanges

_INFO_TIMEOUT = 5.0
"""Seconds."""

_REFUSED = "unauthenticated"
"""The ``error_kind`` of a reply to a line whose credentials are not accepted."""

C = TypeVar("C", bound=ExchangeConnection)


class LineClient(Sender, Generic[C]):
    """A sender over connections that exchange one JSON message for another, such as lines.

    Args:
        config: the plugin's.
        settings: what ``config`` says of every transport.
        pool: its connections. A request passed to them ends with a line break.
        error: class of the error for an ``error_kind`` that has no class of its own.
        credentials: sent in the headers of every line; by default made of ``config``.

    Attributes:
        pool: its connections.
    """

    def __init__(
        self,
        config: PluginConfig,
        settings: TransportSettings,
        pool: ConnectionPool[C],
        *,
        error: type[TransportError],
        credentials: PluginCredentials | None = None,
    ) -> None:
        self.pool = pool
        self._clock = settings.clock
        self._now = settings.clock.monotonic
        where = "endpoint" if config.endpoint else "executable"
        self._endpoint = config.endpoint or config.executable
        self._configured_info = PluginInfo(
            config.name, metadata={"transport": str(config.transport), where: self._endpoint}
        )
        self._info: PluginInfo | None = None
        self._error = error
        self._exchanges = Exchanges(pool, keep_alive=settings.connection.keep_alive is not False, errors=(PluginError,))
        self._settings = settings
        self._credentials = credentials or PluginCredentials(config.auth, settings.clock, config.name)
        self.watches_credentials = self._credentials.watched
        self._provider = Provider.of(config.auth, config.name, self._credentials.scrub)
        self._authorizer: Authorizer[RequestLines] | None = None
        self._use(self._credentials.auth)
        if config.auth is not None and config.auth.method is AuthMethod.OAUTH2:
            from goplugins.transports.http.oauth2 import authorizer_of

            self._authorizer = authorizer_of(config, self._lines_for, settings.clock)

    def _use(self, auth: AuthConfig) -> None:
        if self._authorizer is not None:
            self._authorizer.reload()
        self._lines = self._lines_for(auth)

    def _lines_for(self, auth: AuthConfig) -> RequestLines:
        headers = auth_headers(auth)
        self._credentials.protect(auth, headers)
        return RequestLines(headers, None if self._provider is None else self._sign)

    def _sign(self, operation: str, kind: str, headers: Mapping[str, str], data: bytes) -> dict[str, str]:
        assert self._provider is not None  # noqa: S101 - only passed on with a provider
        return self._provider.headers(operation, kind, self._endpoint, headers, data)

    # --- calls -------------------------------------------------------------------------------------------------

    def execute(self, request: Any, context: ExecutionContext = ExecutionContext(), /) -> Any:  # noqa: B008 - frozen
        """One attempt with plain JSON values, outside the policies.

        Raises:
            PluginError: the attempt failed.
        """
        return self._settings.execute(self, request, context)

    def prepare(self, call: Call) -> None:
        self._lines.check(call)
        call.payload = call.codec.encode(call.request)

    def send(self, call: Call) -> Any:
        """One attempt. See :class:`goplugins.transports.interface.Sender`."""
        deadline = call.deadline
        try:
            if deadline.at <= self._now():
                raise PluginTimeoutError("the deadline passed before anything was sent", replay=Replay.ALWAYS)
            if self._authorizer is not None:
                return self._authorizer.run(partial(self._exchange, call), deadline)
            return self._exchange(call, self._lines)
        except PluginError as error:
            error.endpoint = self._endpoint
            self._credentials.scrub_error(error, call.headers, call.signed)
            raise

    def _exchange(self, call: Call, lines: RequestLines) -> Any:
        deadline = call.deadline
        lease = self.pool.acquire(deadline)
        try:
            line = lines.execute(call, deadline.at - self._now())
        except BaseException:
            self.pool.release(lease, reusable=True)
            raise
        return reply_value(self._exchanges.run(lease, line, call, parse_reply), call, self._error)

    # --- maintenance -------------------------------------------------------------------------------------------

    def renew_credentials(self) -> None:
        """Sends the new token from now on if the token file has changed."""
        self._credentials.renew(self._use)

    def sweep(self) -> None:
        self.pool.sweep()

    def close(self) -> None:
        """Closes idle connections now, and those in use as their calls end; later calls are rejected."""
        self.pool.close()

    # --- health and info ---------------------------------------------------------------------------------------

    def health(self, timeout: float) -> HealthStatus:
        """A connection, or a health request if the configuration says that the plugin understands it.

        UNKNOWN if no connection is free; never raises.
        """
        return run_check(self._check, timeout, self._clock, self._credentials.scrub)

    def first_health(self, timeout: float) -> HealthStatus:
        """See :class:`goplugins.transports.interface.Sender`."""
        return run_check(self._check_new, timeout, self._clock, self._credentials.scrub)

    def _check_new(self, deadline: Deadline) -> HealthStatus:
        return self._check(deadline)

    def _check(self, deadline: Deadline) -> HealthStatus:
        if self._settings.health_kind != "message":
            if self.pool.open and not self.pool.idle:
                # A server that serves one connection after the other would have one more to accept for each check.
                return HealthStatus(message="every connection is in use", reported=False)
            return check_connection(self.pool, deadline)
        return self._ask(deadline)

    def _ask(self, deadline: Deadline) -> HealthStatus:
        """What the plugin replies to a health request."""
        reply = self._request("health", self.pool.acquire_free, deadline)
        success = reply["success"]
        data = reply.get("data")
        fields = data if isinstance(data, dict) else {}
        status = status_of_word(fields.get("status"), PluginStatus.HEALTHY if success else PluginStatus.UNHEALTHY)
        if not success and status is PluginStatus.HEALTHY:
            status = PluginStatus.UNHEALTHY
        message = fields.get("message")
        return HealthStatus(
            status,
            error_text(reply) or (message if isinstance(message, str) else ""),
            metadata=metadata_of(fields) if isinstance(fields.get("metadata"), dict) else {},
            reported=success or "status" in fields,
        )

    def info(self) -> PluginInfo:
        """What the configuration says of the plugin, and with health checks of the kind "message" what it says itself.

        The request is repeated until it has an answer.
        """
        if self._info is None and self._settings.health_kind == "message":
            self._info = self._request_info()
        return self._info or self._configured_info

    def _request_info(self) -> PluginInfo | None:
        """The plugin's info, completed from the configuration; None if it could not be had."""
        configured = self._configured_info
        deadline = Deadline.after(_INFO_TIMEOUT, self._clock)
        try:
            reply = self._request("info", self.pool.acquire, deadline)
            if not reply["success"]:
                raise reply_error(reply, self._error)
            data = reply.get("data")
            if not isinstance(data, dict):
                return None
            given = {key: value for key, value in data.items() if value not in (None, "")}
            found: PluginInfo = codec_for(Any, PluginInfo).decode({"name": configured.name, **given})
            return found
        except ReplyTypeError:
            return configured  # a plugin with an info of another form will not have a better one next time
        except PluginError:
            return None

    def _request(self, kind: str, acquire: Callable[[Deadline], Lease[C]], deadline: Deadline) -> dict[str, Any]:
        """A request about the plugin itself, which can be repeated."""
        authorizer = self._authorizer
        if authorizer is None:
            return self._exchange_about(kind, acquire(deadline), deadline, self._lines)
        used = authorizer.authorized(deadline)
        reply = self._exchange_about(kind, acquire(deadline), deadline, used.writer)
        if reply.get("error_kind") == _REFUSED and (renewed := authorizer.renewed(used, deadline)) is not None:
            reply = self._exchange_about(kind, acquire(deadline), deadline, renewed.writer)
        if reply.get("error_kind") != _REFUSED:
            authorizer.accepted()
        return reply

    def _exchange_about(self, kind: str, lease: Lease[C], deadline: Deadline, lines: RequestLines) -> dict[str, Any]:
        call = Call(None, codec_for(), deadline, uuid.uuid4().hex, idempotent=True)
        try:
            line = lines.request(kind, call, deadline.remaining())
            self._credentials.remember(call.signed)
        except BaseException:
            self.pool.release(lease, reusable=True)
            raise
        return self._exchanges.run(lease, line, call, parse_reply)
