"""Exchanges over pooled connections, repeated once on a new connection where the pooled one turns out to be dead."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from goplugins.errors import PluginError, belongs_to_host
from goplugins.runtime.deadline import Deadline
from goplugins.transports.connection_pool import ConnectionPool, Lease

R = TypeVar("R")


class Attempt(Protocol):
    """What an exchange needs to know of the call that it belongs to: a Call, or a :class:`HealthAttempt`."""

    @property
    def deadline(self) -> Deadline: ...
    @property
    def idempotent(self) -> bool: ...

    reconnected: bool


class HealthAttempt:
    """A health check as an attempt: safe to repeat, so it may reconnect once like an idempotent call."""

    __slots__ = ("deadline", "reconnected")

    idempotent = True

    def __init__(self, deadline: Deadline) -> None:
        self.deadline = deadline
        self.reconnected = False


class ExchangeConnection(Protocol):
    """A connection that makes one exchange at a time."""

    @property
    def clean(self) -> bool:
        """Whether the last exchange ended with exactly one whole reply, so that the connection can be used again."""
        ...

    @clean.setter
    def clean(self, value: bool, /) -> None: ...

    @property
    def sent(self) -> int:
        """Bytes of the request that the system has accepted in this exchange."""
        ...

    def exchange(self, request: Any, deadline: Deadline, /) -> Any:
        """Sends a request and returns the whole reply."""
        ...

    def interrupt(self) -> None:
        """Ends the exchange that runs on another thread. Must not block or raise."""
        ...

    def is_gone(self, exc: Any, /) -> bool:
        """Whether ``exc`` shows that the peer had closed the connection before it sent any byte of a reply."""
        ...

    def error_of(self, exc: Any, deadline: Deadline, /) -> PluginError:
        """The error to raise for ``exc``, with its cause set; ``exc`` itself if that is a PluginError already."""
        ...


C = TypeVar("C", bound=ExchangeConnection)


def may_reconnect(attempt: Attempt, *, reused: bool, sent: bool, gone: bool) -> bool:
    """Whether an attempt that failed may run once more on a new connection, without counting as a retry.

    Args:
        attempt: each may do so once.
        reused: whether the connection had completed an exchange before.
        sent: whether anything of the request was sent; then only an idempotent call is repeated.
        gone: whether the peer had closed the connection before it sent any byte of a reply.
    """
    return (
        reused
        and gone
        and not attempt.reconnected
        and (not sent or attempt.idempotent)
        and attempt.deadline.remaining() > 0
    )


class Exchanges(Generic[C]):
    """Runs the exchanges of one plugin.

    Args:
        pool: its connections.
        keep_alive: whether connections are used again.
        errors: what the exchange of a connection may raise.
    """

    def __init__(self, pool: ConnectionPool[C], *, keep_alive: bool, errors: tuple[type[Exception], ...]) -> None:
        self._pool = pool
        self._keep_alive = keep_alive
        self._errors = errors

    def run(self, lease: Lease[C], request: Any, attempt: Attempt, read: Callable[[Any, Any, C], R]) -> R:
        """The exchange over the leased connection, which is released in every case.

        Args:
            lease: of a connection from the pool.
            request: what the connection sends.
            attempt: deadline and cancellation; ``attempt.reconnected`` is set if the exchange was repeated.
            read: turns the reply, the attempt and the connection into the result while the connection is still held.
                If it raises, or sets ``connection.clean`` to False, the connection is not used again.

        Raises:
            PluginError: the exchange failed.
        """
        reusable = again = False
        connection, deadline = lease.connection, attempt.deadline
        cancellation = deadline.cancellation
        try:
            if cancellation is None:
                reply = connection.exchange(request, deadline)
            else:
                reply = cancellation.guard(connection.interrupt, partial(connection.exchange, request, deadline))
            result = read(reply, attempt, connection)
            reusable = self._keep_alive and connection.clean
            return result
        except self._errors as exc:
            if belongs_to_host(exc):
                raise
            connection.clean = False
            again = may_reconnect(attempt, reused=lease.reused, sent=connection.sent > 0, gone=connection.is_gone(exc))
            if not again:
                raise connection.error_of(exc, deadline)  # noqa: B904 - its cause is set
        finally:
            if not again:
                self._pool.release(lease, reusable=reusable)
        attempt.reconnected = True
        return self.run(self._pool.renew(lease, deadline), request, attempt, read)
