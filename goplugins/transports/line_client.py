"""Calls over pooled line channels: the half that Unix sockets and exec share."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from goplugins.config.credentials import AuthConfig, auth_headers
from goplugins.config.plugin_sections import ConnectionConfig
from goplugins.enums import PluginStatus
from goplugins.errors import (
    ConnectionLostError,
    PluginError,
    PluginTimeoutError,
    Replay,
    ReplyTypeError,
    SaturatedError,
    TransportError,
)
from goplugins.models.plugin import PluginInfo
from goplugins.models.results import HealthStatus
from goplugins.runtime.call import Call
from goplugins.runtime.clock import Clock
from goplugins.runtime.deadline import Deadline
from goplugins.transports.auth import joined_secrets, scrub, scrub_error, secrets_of, with_token
from goplugins.transports.connection_pool import ConnectionPool, Lease
from goplugins.transports.credential_files import CredentialFiles
from goplugins.transports.envelope import error_text, metadata_of
from goplugins.transports.health_status import failed_look, status_of_word
from goplugins.transports.json_codec import codec_for
from goplugins.transports.line_channel import LineChannel
from goplugins.transports.line_messages import RequestLines, envelope_of, failure_of, value_of

__all__ = ["HasChannel", "LineClient"]

_LONGEST_MESSAGE = 500
_INFO_TIMEOUT = 5.0


class HasChannel(Protocol):
    """A connection that carries lines."""

    @property
    def channel(self) -> LineChannel: ...


C = TypeVar("C", bound=HasChannel)


class LineClient(Generic[C]):
    """Makes exchanges with one plugin.

    Args:
        pool: its connections.
        connection: limits, resolved.
        auth: goes into the headers of every line.
        endpoint: for errors.
        other: the error for a failure of a kind that has no class of its own.
        clock: measures.
        explain: may add to an error what is known of the connection that it came over.
        interrupt: ends an exchange from another thread; must not block or raise. Without it, none can be cancelled.
    """

    def __init__(
        self,
        pool: ConnectionPool[C],
        connection: ConnectionConfig,
        auth: AuthConfig | None,
        *,
        endpoint: str,
        other: type[TransportError],
        clock: Clock,
        explain: Callable[[C, PluginError, Deadline], None] | None = None,
        interrupt: Callable[[C], None] | None = None,
    ) -> None:
        self.files = CredentialFiles.of(auth, clock, self.use, endpoint)
        self.pool = pool
        self._limit = connection.max_response_bytes or 0
        self._keep_alive = connection.keep_alive is not False
        self._secrets: tuple[str, ...] = ()
        self.use(with_token(auth))
        self._endpoint = endpoint
        self._other = other
        self._clock = clock
        self._now = clock.monotonic
        self._explain = explain
        self._interrupt = interrupt

    def use(self, auth: AuthConfig) -> None:
        """Sends these credentials from now on."""
        credentials = auth_headers(auth)
        self._lines = RequestLines(credentials)
        self._secrets = joined_secrets(
            secrets_of(credentials, auth.password, auth.token, auth.api_key), before=self._secrets
        )

    def prepare(self, call: Call) -> None:
        """Writes the request as JSON, and refuses headers that can't be sent."""
        self._lines.check(call)
        call.payload = call.codec.encode(call.request)

    def send(self, call: Call) -> Any:
        """One attempt. See :class:`goplugins.transports.interface.Sender`."""
        deadline = call.deadline
        try:
            if deadline.at <= self._now():
                raise PluginTimeoutError("the deadline passed before anything was sent", replay=Replay.ALWAYS)
            envelope = self._exchange(self.pool.acquire(deadline), call, deadline, None)
            return value_of(envelope, call, self._other)
        except PluginError as error:
            error.endpoint = self._endpoint
            scrub_error(error, self._secrets)
            raise

    # --- exchanging --------------------------------------------------------------------------------------------

    def _exchange(self, lease: Lease[C], call: Call, deadline: Deadline, question: str | None) -> dict[str, Any]:
        """One exchange over the leased connection, and once more over a new one if that was dead all along."""
        reusable = reconnect = False
        channel = lease.connection.channel
        try:
            remaining = deadline.at - self._now()
            if question is None:
                line = self._lines.execute(call, remaining)
            else:
                line = self._lines.ask(question, call.request_id, remaining)
            cancellation = deadline.cancellation
            if cancellation is None or self._interrupt is None:
                reply = channel.exchange(line, deadline, self._limit)
            else:
                work = partial(channel.exchange, line, deadline, self._limit)
                reply = cancellation.guard(partial(self._interrupt, lease.connection), work)
            envelope = envelope_of(reply, call)
            reusable = channel.clean and self._keep_alive
            return envelope
        except PluginError as error:
            channel.clean = False
            reconnect = lease.reused and _may_reconnect(error, channel, call, deadline)
            if not reconnect:
                if self._explain is not None:
                    self._explain(lease.connection, error, deadline)
                raise
        finally:
            if not reconnect:
                self.pool.release(lease, reusable=reusable)
        call.reconnected = True
        return self._exchange(self.pool.renew(lease, deadline), call, deadline, question)

    def _ask(self, question: str, deadline: Deadline, *, wait: bool) -> dict[str, Any]:
        """A question about the plugin itself, which may be asked twice."""
        call = Call(None, codec_for(), deadline, uuid.uuid4().hex, idempotent=True)
        lease = self.pool.acquire(deadline) if wait else self.pool.try_acquire(deadline)
        if lease is None:
            raise SaturatedError("no connection is free")
        return self._exchange(lease, call, deadline, question)

    # --- the plugin itself -------------------------------------------------------------------------------------

    def health(self, timeout: float) -> HealthStatus:
        """Asks how it is, within ``timeout`` seconds; UNKNOWN if no connection is free; never raises."""
        clock = self._clock
        started = clock.monotonic()
        metadata: dict[str, str] = {}
        try:
            # Not Deadline.after(): a caller's enclosing deadline must not make a plugin look dead.
            envelope = self._ask("health", Deadline(started + timeout, clock), wait=False)
            status, message, metadata = self._judged(envelope)
        except PluginError as error:
            status, message = failed_look(error)
        return HealthStatus(
            status=status,
            message=self.scrub(message)[:_LONGEST_MESSAGE],
            last_check=clock.time(),
            response_time=clock.monotonic() - started,
            metadata=metadata,
        )

    def _judged(self, envelope: dict[str, Any]) -> tuple[PluginStatus, str, dict[str, str]]:
        success = envelope["success"]
        data = envelope.get("data")
        facts = data if isinstance(data, dict) else {}
        status = status_of_word(facts.get("status"), PluginStatus.HEALTHY if success else PluginStatus.UNHEALTHY)
        if not success and status is PluginStatus.HEALTHY:
            status = PluginStatus.UNHEALTHY
        message = facts.get("message")
        text = error_text(envelope) or (message if isinstance(message, str) else "")
        metadata = metadata_of(facts) if isinstance(facts.get("metadata"), dict) else {}
        return status, text, {self.scrub(key): self.scrub(value) for key, value in metadata.items()}

    def info(self, fallback: PluginInfo) -> PluginInfo | None:
        """Asks who it is; None if it did not say. What it leaves out comes from ``fallback``."""
        try:
            envelope = self._ask("info", Deadline.after(_INFO_TIMEOUT, self._clock), wait=True)
            if not envelope["success"]:
                raise failure_of(envelope, self._other)
            data = envelope.get("data")
            if not isinstance(data, dict):
                return None
            told = {key: value for key, value in data.items() if value not in (None, "")}
            found: PluginInfo = codec_for(Any, PluginInfo).decode({"name": fallback.name, **told})
            return found
        except ReplyTypeError:
            return fallback  # it has no info that could be read, and will have none the next time
        except PluginError:
            return None

    # --- secrets -----------------------------------------------------------------------------------------------

    def scrub(self, text: str) -> str:
        """A remote text without our credentials: a plugin in its debugging mode may echo a request."""
        return scrub(text, self._secrets)


def _may_reconnect(error: PluginError, channel: LineChannel, call: Call, deadline: Deadline) -> bool:
    return (
        isinstance(error, ConnectionLostError)
        and channel.gone
        and not call.reconnected
        and (not channel.sent or call.idempotent)
        and deadline.remaining() > 0
    )
