"""A process's lines, and the debts of one that was still starting when its first caller gave up."""

from __future__ import annotations

import enum
import os
import select
import threading

from goplugins.errors import (
    BadReplyError,
    ConnectionLostError,
    PluginConnectionError,
    PluginError,
    PluginTimeoutError,
    Replay,
)
from goplugins.runtime.clock import Clock
from goplugins.runtime.deadline import Deadline
from goplugins.transports.envelope import parse_object
from goplugins.transports.exec import sigpipe
from goplugins.transports.line_channel import LineChannel

__all__ = ["ExecChannel", "State"]

_CHUNK = 65536
_MOST_CHUNKS = 64
"""That are read of one process before others have their turn."""


class State(enum.Enum):
    """Who may touch a process's pipes."""

    IDLE = "idle"  # nobody: it owes nothing, and must not say anything
    BUSY = "busy"  # the caller that has it
    STARTING = "starting"  # the keeper: its first caller gave up before it had begun to read
    LEAVING = "leaving"  # the keeper, for good


class _Debt:
    """A request whose caller is gone: what is unsent of it, and the reply that is still to come and be dropped."""

    __slots__ = ("line", "rest")

    def __init__(self, line: bytes, rest: bytes) -> None:
        self.line = line
        self.rest = rest


class ExecChannel(LineChannel):
    """The lines of one process.

    One rule holds for output that nobody asked for, a banner as well as bytes left over after a reply: the process
    is replaced, since no later line of its can be trusted to answer what was asked last.

    Args:
        stdin: our end of its stdin; does not block.
        stdout: our end of its stdout; does not block.
        limit: bytes that a reply may have.
        patience: seconds that it may take to answer its first request, after that request's caller gave up.
        clock: measures.

    Attributes:
        state: who may touch the pipes; the lock guards it.
        expires: the moment at which patience ends.
    """

    __slots__ = ("_debt", "_limit", "_lock", "_patience", "_stdin", "_was_starting", "expires", "state")

    def __init__(self, stdin: int, stdout: int, *, limit: int, patience: float, clock: Clock) -> None:
        super().__init__(
            stdout, stdin, lambda size: os.read(stdout, size), lambda data: sigpipe.write(stdin, data), clock
        )
        self._stdin = stdin
        self._limit = limit
        self._patience = patience
        self.expires = clock.monotonic() + patience
        self._debt: _Debt | None = None
        self._was_starting = False
        self.renew()
        self.state = State.IDLE

    def renew(self) -> None:
        """A fresh lock; in a forked child nobody may touch the pipes."""
        self._lock = threading.Lock()
        self.state = State.LEAVING

    # --- for the caller that has it ----------------------------------------------------------------------------

    def exchange(self, line: bytes, deadline: Deadline, limit: int) -> bytes:
        """See :meth:`LineChannel.exchange`. A process that still owes a reply gets ``line`` only after that reply.

        Raises:
            PluginError: see there; or the process did not come up, and nothing of ``line`` was sent.
        """
        with self._lock:
            leaving = self.state is State.LEAVING
            if not leaving:
                self.state = State.BUSY
        if leaving:
            self.clean, self.gone = False, True
            self.sent = self.received = 0
            raise ConnectionLostError("the process left before it was asked", replay=Replay.ALWAYS)
        if self._debt is not None:
            self._settle(self._debt, deadline, limit)
        try:
            reply = super().exchange(line, deadline, limit)
        except PluginTimeoutError:
            if self.sent and not self.replies:
                self._debt = _Debt(line, line[self.sent :])
            raise
        if self.clean:
            self.state = State.IDLE
        return reply

    def _settle(self, debt: _Debt, deadline: Deadline, limit: int) -> None:
        """Waits for the reply that is owed, and drops it."""
        until = Deadline(min(deadline.at, self.expires), deadline.clock)
        try:
            reply = super().exchange(debt.rest, until, limit)
            fault = self._fault_of(debt, reply)
        except PluginTimeoutError as exc:
            debt.rest = debt.rest[self.sent :]
            self.sent = 0
            if until.at < deadline.at:
                raise PluginConnectionError(self.too_slow) from exc
            message = "the process was still starting; nothing of this call was sent"
            raise PluginTimeoutError(message, replay=Replay.ALWAYS) from exc
        except ConnectionLostError as exc:
            self.sent = 0
            exc.replay = Replay.ALWAYS
            raise
        except PluginError as exc:
            self.sent = 0
            raise PluginConnectionError(f"the process came up wrong: {exc.message}") from exc
        self.sent = 0
        if fault:
            self.clean = False
            raise PluginConnectionError(f"the process came up wrong: {fault}")
        self._debt = None

    @property
    def too_slow(self) -> str:
        """What is wrong with a process whose patience has ended."""
        return f"the process did not come up within connection.connection_timeout, {self._patience:g} s"

    def _fault_of(self, debt: _Debt, reply: bytes) -> str:
        """What is wrong with a line that should be the owed reply; empty if it is that and nothing came after it."""
        try:
            found = parse_object(reply).get("request_id")
        except BadReplyError as exc:
            return exc.message
        # By its id, never by its place alone: a line that is not the owed reply may be anything.
        if found != parse_object(debt.line).get("request_id"):
            return f"its first line carries the request id {str(found)[:100]!r}, not that of its first request"
        return "it wrote more than its reply" if self._buffer else ""

    # --- for whoever lets go of it -----------------------------------------------------------------------------

    def may_stay(self, now: float) -> bool:
        """Whether a process whose call timed out is still starting, rather than at work on what it was asked.

        What tells the two apart is whether it has begun to read. One that was found starting once is given its
        whole time, whatever it does with it.
        """
        debt = self._debt
        if debt is None or now >= self.expires:
            return False
        sent = len(debt.line) - len(debt.rest)
        self._was_starting = self._was_starting or _unread(self._stdin) >= sent
        return self._was_starting

    def set_starting(self) -> None:
        """Leaves it to the keeper until somebody calls again. Takes the lock."""
        with self._lock:
            if self.state is State.BUSY:
                self.state = State.STARTING

    def retire(self, *states: State) -> bool:
        """Has nobody use it any more if it is in one of these states, and says whether it was. Takes the lock."""
        with self._lock:
            if self.state not in states:
                return False
            self.state = State.LEAVING
            return True

    # --- for the keeper ----------------------------------------------------------------------------------------

    def retire_if_noisy(self) -> int:
        """Has nobody use an idle process any more that has written or closed its stdout; what it did, 0 for nothing.

        Takes the lock. Under it, what can be read from an idle process is no reply: a caller has read that before.
        """
        with self._lock:
            if self.state is not State.IDLE:
                return 0
            poll = select.poll()  # the caller's own may be in use
            poll.register(self._reader, select.POLLIN)
            found = poll.poll(0)
            if not found:
                return 0
            self.state = State.LEAVING
            return found[0][1]

    def pump(self) -> str:
        """Moves what can be moved of a debt whose process nobody waits for; returns the process's fault, if any.

        Takes the lock, and holds it over reads and writes, which don't block: a caller may be about to take over.
        """
        with self._lock:
            debt = self._debt
            if self.state is not State.STARTING or debt is None:
                return ""
            try:
                if debt.rest:
                    debt.rest = debt.rest[sigpipe.write(self._stdin, debt.rest) :]
                fault = self._read_debt(debt)
            except BlockingIOError:
                return ""
            except OSError:
                fault = ""  # its end is seen by itself
            if fault:
                self.state = State.LEAVING
            return fault

    def _read_debt(self, debt: _Debt) -> str:
        for _ in range(_MOST_CHUNKS):
            chunk = self._read(_CHUNK)
            if not chunk:
                return ""
            self._buffer.feed(chunk)
            reply = self._buffer.take()
            if reply is None and len(self._buffer) <= self._limit:
                continue
            fault = "its first reply is too large" if reply is None else self._fault_of(debt, reply)
            if not fault:
                self._debt = None
                self.replies += 1
                self.clean = True
                self.state = State.IDLE
            return fault
        return ""


def _unread(stdin: int) -> int:
    """Bytes in the pipe that its reader has not taken yet; 0 where the system doesn't say."""
    import fcntl
    import struct
    import termios

    try:
        found: int = struct.unpack("i", fcntl.ioctl(stdin, termios.FIONREAD, b"\0" * 4))[0]
    except OSError:
        return 0
    return found
