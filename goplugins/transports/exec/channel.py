"""Lines to and from one process, also to one that was still starting when its first caller gave up."""

from __future__ import annotations

import enum
import os
import select
import threading

import attrs

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
from goplugins.runtime.polling import create_poll
from goplugins.runtime.text import cut
from goplugins.transports.envelope import parse_object
from goplugins.transports.exec import sigpipe
from goplugins.transports.line_channel import LineChannel

_CHUNK = 65536
_MAX_CHUNKS = 64
"""Maximum chunks read from one starting process before the supervisor turns to the others."""


class State(enum.Enum):
    """The thread that may read and write a process's pipes."""

    IDLE = "idle"  # none: the process owes no reply, and must not write
    BUSY = "busy"  # the caller that leased it
    STARTING = "starting"  # the supervisor: the first caller gave up before the process began to read
    CLOSED = "closed"  # the supervisor, for good


@attrs.define(eq=False)
class _AbandonedRequest:
    """A request whose caller gave up. Its unsent rest has still to be sent, and its reply to be dropped."""

    line: bytes
    rest: bytes


class ExecChannel(LineChannel):
    """The lines of one process.

    Any output outside of a call, such as a banner or bytes left over after a reply, ends the process: no later line
    can be trusted to be the reply to the last request.

    Args:
        stdin: our end of its stdin; non-blocking.
        stdout: our end of its stdout; non-blocking.
        limit: maximum bytes of a reply.
        start_timeout: seconds until it must have answered its first request, if that request's caller gave up.
        pidfd: becomes readable when it ends; -1 for none.
        clock: source of time.

    Attributes:
        state: the thread that may use the pipes; guarded by the lock.
        start_ends: when the start timeout ends, on the clock's monotonic scale.
    """

    __slots__ = ("_abandoned", "_lock", "_start_timeout", "_stdin", "_was_starting", "start_ends", "state")

    def __init__(
        self, stdin: int, stdout: int, *, limit: int, start_timeout: float, clock: Clock, pidfd: int = -1
    ) -> None:
        super().__init__(
            stdout,
            stdin,
            lambda size: os.read(stdout, size),
            lambda data: sigpipe.write(stdin, data),
            clock,
            limit,
            pidfd,
        )
        self._stdin = stdin
        self._start_timeout = start_timeout
        self.start_ends = clock.monotonic() + start_timeout
        self._abandoned: _AbandonedRequest | None = None
        self._was_starting = False
        self._lock = threading.Lock()
        self.state = State.IDLE

    def disown(self) -> None:
        """In a forked child: the pipes are the parent's."""
        self._lock = threading.Lock()
        self.state = State.CLOSED

    # --- for the caller that leased it -------------------------------------------------------------------------

    def exchange(self, line: bytes, deadline: Deadline) -> bytes:
        """See :meth:`LineChannel.exchange`. An abandoned request is finished before ``line`` is sent.

        Raises:
            PluginError: see there; or the process failed to start, and nothing of ``line`` was sent.
        """
        with self._lock:
            closed = self.state is State.CLOSED
            if not closed:
                self.state = State.BUSY
        if closed:
            self.clean, self.gone = False, True
            self.sent = self.received = 0
            raise ConnectionLostError("the process ended before the request was sent", replay=Replay.ALWAYS)
        if self._abandoned is not None:
            self._finish(self._abandoned, deadline)
        try:
            reply = super().exchange(line, deadline)
        except PluginTimeoutError:
            if self.sent and not self.replies:
                self._abandoned = _AbandonedRequest(line, line[self.sent :])
            raise
        if self.clean:
            self.state = State.IDLE
        return reply

    def _is_unread(self, exc: OSError | None) -> bool:
        return _unread_bytes(self._stdin) > 0

    def _finish(self, request: _AbandonedRequest, deadline: Deadline) -> None:
        """Sends the rest of an abandoned request, waits for its reply, and drops it."""
        until = Deadline(min(deadline.at, self.start_ends), deadline.clock)
        try:
            reply = super().exchange(request.rest, until)
            fault = self._reply_fault(request, reply)
        except PluginTimeoutError as exc:
            request.rest = request.rest[self.sent :]
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
            raise PluginConnectionError(f"the process failed to start: {exc.message}") from exc
        self.sent = 0
        if fault:
            self.clean = False
            raise PluginConnectionError(f"the process failed to start: {fault}")
        self._abandoned = None

    @property
    def too_slow(self) -> str:
        """The fault of a process that has not started within its timeout."""
        return f"the process did not start within connection.connection_timeout, {self._start_timeout:g} s"

    def _reply_fault(self, request: _AbandonedRequest, reply: bytes) -> str:
        """What is wrong with the reply to an abandoned request; empty if it is that reply and no byte follows it."""
        try:
            found = parse_object(reply).get("request_id")
        except BadReplyError as exc:
            return exc.message
        # Checked by its id and not only by its position: a line with another id may be anything.
        if found != parse_object(request.line).get("request_id"):
            return f"its first line has the request id {cut(str(found), 100)!r}, not that of its first request"
        return "it wrote more than its reply" if self._buffer else ""

    # --- for the launcher, when a call has ended ---------------------------------------------------------------

    def is_starting(self, now: float) -> bool:
        """Whether a process whose call timed out is still starting, rather than working on the request.

        It is starting as long as it has not begun to read. Once found starting, it is given its whole start timeout.
        """
        request = self._abandoned
        if request is None or now >= self.start_ends:
            return False
        sent = len(request.line) - len(request.rest)
        self._was_starting = self._was_starting or _unread_bytes(self._stdin) >= sent
        return self._was_starting

    def set_starting(self) -> None:
        """Gives the pipes to the supervisor until the next call. Takes the lock."""
        with self._lock:
            if self.state is State.BUSY:
                self.state = State.STARTING

    def close_if(self, *states: State) -> bool:
        """Refuses later calls if the channel is in one of these states; returns whether it was. Takes the lock."""
        with self._lock:
            if self.state not in states:
                return False
            self.state = State.CLOSED
            return True

    # --- for the supervisor ------------------------------------------------------------------------------------

    def close_if_readable(self) -> int:
        """Closes an idle channel whose process has written to stdout or closed it; the poll event, or 0 for none.

        Takes the lock. While it is held, bytes from an idle process are no reply: its caller has read that before.
        """
        with self._lock:
            if self.state is not State.IDLE:
                return 0
            poll = create_poll()  # the caller's own may be in use
            poll.register(self._reader, select.POLLIN)
            found = poll.poll(0)
            if not found:
                return 0
            self.state = State.CLOSED
            return found[0][1]

    def advance_start(self) -> str:
        """Sends and reads what is possible without blocking for an abandoned request; the process's fault, if any.

        Takes the lock, and holds it over non-blocking reads and writes: a caller may be taking over.
        """
        with self._lock:
            request = self._abandoned
            if self.state is not State.STARTING or request is None:
                return ""
            try:
                if request.rest:
                    request.rest = request.rest[sigpipe.write(self._stdin, request.rest) :]
                fault = self._read_abandoned(request)
            except BlockingIOError:
                return ""
            except OSError:
                fault = ""  # the supervisor notices the end of the process by itself
            if fault:
                self.state = State.CLOSED
            return fault

    def _read_abandoned(self, request: _AbandonedRequest) -> str:
        for _ in range(_MAX_CHUNKS):
            chunk = self._read(_CHUNK)
            if not chunk:
                return ""
            self._buffer.feed(chunk)
            reply = self._buffer.take()
            if reply is None and len(self._buffer) <= self._limit:
                continue
            fault = "its first reply is too large" if reply is None else self._reply_fault(request, reply)
            if not fault:
                self._abandoned = None
                self.replies += 1
                self.clean = True
                self.state = State.IDLE
            return fault
        return ""


def _unread_bytes(stdin: int) -> int:
    """Bytes in the pipe that the process has not read yet; 0 where the system can't count them."""
    import fcntl
    import struct
    import termios

    try:
        found: int = struct.unpack("i", fcntl.ioctl(stdin, termios.FIONREAD, b"\0" * 4))[0]
    except OSError:
        return 0
    return found
