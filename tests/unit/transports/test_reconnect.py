"""Exchanges over pooled connections: their repetition on a new connection, and the release of connections."""

from __future__ import annotations

from typing import Any

import pytest

from goplugins.errors import ConnectionLostError, PluginError
from goplugins.runtime.cancellation import AttemptCancelledError, Cancellation
from goplugins.runtime.deadline import CancellableDeadline, Deadline
from goplugins.testing import ManualClock
from goplugins.transports.connection_pool import ConnectionPool
from goplugins.transports.reconnect import Exchanges, HealthAttempt, may_reconnect


class FakeConnection:
    """Replies with the request, or fails as its script says."""

    def __init__(self, *script: Exception) -> None:
        self.script = list(script)
        self.clean = True
        self.sent = 0
        self.interrupted = False

    def exchange(self, request: Any, deadline: Deadline) -> Any:
        self.clean, self.sent = False, 0
        if self.script:
            error = self.script.pop(0)
            self.sent = int("sent" in str(error))
            raise error
        self.clean, self.sent = True, 1
        return request

    def interrupt(self) -> None:
        self.interrupted = True

    def is_gone(self, exc: Exception) -> bool:
        return "gone" in str(exc)

    def error_of(self, exc: Exception, deadline: Deadline) -> PluginError:
        error = ConnectionLostError(f"translated: {exc}")
        error.__cause__ = exc
        return error


class NotIdempotent:
    """An attempt that must not be sent twice."""

    idempotent = False

    def __init__(self, deadline: Deadline) -> None:
        self.deadline = deadline
        self.reconnected = False


class Bench:
    """A pool of fake connections; ``scripts`` has the failures of each connection."""

    def __init__(self, *scripts: list[Exception], keep_alive: bool = True) -> None:
        self.clock = ManualClock()
        self.opened: list[FakeConnection] = []
        self._scripts = list(scripts)
        self.pool: ConnectionPool[FakeConnection] = ConnectionPool(
            self._connect,
            lambda _: None,
            lambda _: False,
            max_connections=1,
            max_idle=1,
            idle_timeout=60.0,
            clock=self.clock,
        )
        self.exchanges = Exchanges(self.pool, keep_alive=keep_alive, errors=(OSError,))

    def _connect(self, _: Deadline) -> FakeConnection:
        self.opened.append(FakeConnection(*(self._scripts.pop(0) if self._scripts else ())))
        return self.opened[-1]

    def run(self, attempt: Any = None, read: Any = lambda reply, *_: reply) -> Any:
        attempt = attempt or HealthAttempt(Deadline(10.0, self.clock))
        lease = self.pool.acquire(attempt.deadline)
        return self.exchanges.run(lease, "request", attempt, read)


def test_the_result_of_read_is_returned_and_the_connection_kept():
    bench = Bench()
    assert bench.run(read=lambda reply, attempt, connection: (reply, connection.clean)) == ("request", True)
    assert bench.pool.idle == 1


def test_without_keep_alive_no_connection_is_kept():
    bench = Bench(keep_alive=False)
    bench.run()
    assert (bench.pool.open, len(bench.opened)) == (0, 1)


def test_a_connection_that_read_marks_unclean_is_closed():
    def read(reply: Any, attempt: Any, connection: FakeConnection) -> Any:
        connection.clean = False
        return reply

    bench = Bench()
    assert bench.run(read=read) == "request"
    assert bench.pool.open == 0


def test_a_reply_that_can_not_be_read_closes_the_connection():
    def read(*_: Any) -> None:
        raise PluginError("not JSON")

    bench = Bench()
    with pytest.raises(PluginError, match="not JSON"):
        bench.run(read=read)
    assert bench.pool.open == 0


def test_a_dead_pooled_connection_is_replaced_once():
    bench = Bench([])
    bench.run()
    bench.opened[0].script = [ConnectionResetError("gone")]
    attempt = HealthAttempt(Deadline(10.0, bench.clock))
    assert bench.run(attempt) == "request"
    assert attempt.reconnected
    assert len(bench.opened) == 2
    bench.opened[1].script = [ConnectionResetError("gone")]
    with pytest.raises(ConnectionLostError, match="translated: gone"):
        bench.run(attempt)
    assert (bench.pool.open, len(bench.opened)) == (0, 2)


@pytest.mark.parametrize("text", ["gone", "gone, request sent"])
def test_an_attempt_that_is_not_idempotent_is_repeated_only_if_nothing_was_sent(text):
    bench = Bench([])
    bench.run()
    bench.opened[0].script = [ConnectionResetError(text)]
    attempt = NotIdempotent(Deadline(10.0, bench.clock))
    if "sent" in text:
        with pytest.raises(ConnectionLostError) as caught:
            bench.run(attempt)
        assert isinstance(caught.value.__cause__, ConnectionResetError)
    else:
        assert bench.run(attempt) == "request"
    assert len(bench.opened) == (1 if "sent" in text else 2)


@pytest.mark.parametrize(
    "facts",
    [{"reused": False}, {"gone": False}, {"sent": True, "idempotent": False}, {"reconnected": True}, {"at": 0.0}],
)
def test_no_reconnect(facts):
    """On a new connection, after a reply has begun, where it is unsafe, a second time, or too late."""
    facts = {"reused": True, "gone": True, "sent": True, "idempotent": True, "reconnected": False, "at": 10.0, **facts}
    attempt = NotIdempotent(Deadline(facts["at"], ManualClock()))
    attempt.idempotent, attempt.reconnected = facts["idempotent"], facts["reconnected"]
    assert not may_reconnect(attempt, reused=facts["reused"], sent=facts["sent"], gone=facts["gone"])


def test_a_cancel_interrupts_the_connection_and_the_attempt():
    bench, cancellation = Bench(), Cancellation()
    attempt = HealthAttempt(CancellableDeadline(10.0, bench.clock, cancellation))

    def cancel(reply: Any, deadline: Any) -> Any:
        cancellation.cancel()
        return reply

    lease = bench.pool.acquire(Deadline(10.0, bench.clock))
    lease.connection.exchange = cancel  # type: ignore[method-assign]
    with pytest.raises(AttemptCancelledError):
        bench.exchanges.run(lease, "request", attempt, lambda reply, *_: reply)
    assert lease.connection.interrupted
    assert bench.pool.open == 0
