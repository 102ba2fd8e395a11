"""Lines over a pair of descriptors: one out, one in, no system call beyond the deadline."""

from __future__ import annotations

import contextlib
import select
from collections.abc import Callable

from goplugins.errors import (
    ConnectionLostError,
    PluginError,
    PluginTimeoutError,
    Replay,
    ReplyTooLargeError,
    TruncatedReplyError,
)
from goplugins.runtime.clock import Clock
from goplugins.runtime.deadline import Deadline

__all__ = ["LineBuffer", "LineChannel"]

_CHUNK = 65536
"""Bytes a read; much larger ones would make the allocator ask the system for memory each time."""

_LONGEST_POLL = 2**31 - 1


class LineBuffer:
    r"""Bytes in, lines out. Each byte is looked at once, however small the pieces that a long line comes in.

    >>> buffer = LineBuffer()
    >>> buffer.feed(b"one")
    >>> buffer.take() is None
    True
    >>> buffer.feed(b" line\nand")
    >>> buffer.take(), len(buffer)
    (b'one line', 3)

    Attributes:
        held: what was read and not yet taken; for looking at.
    """

    __slots__ = ("_searched", "held")

    def __init__(self) -> None:
        self.held = bytearray()
        self._searched = 0

    def feed(self, chunk: bytes) -> None:
        """Adds what was read."""
        self.held += chunk

    def take(self) -> bytes | None:
        """The next whole line without its line break; None if there is none yet."""
        held = self.held
        end = held.find(b"\n", self._searched)
        if end < 0:
            self._searched = len(held)
            return None
        with memoryview(held) as view:
            line = bytes(view[:end])
        del held[: end + 1]  # moves the beginning, copies nothing
        self._searched = 0
        return line

    def start(self, length: int) -> bytes:
        """The first ``length`` bytes, left where they are."""
        return bytes(self.held[:length])

    def clear(self) -> None:
        """Drops everything."""
        self.held.clear()
        self._searched = 0

    def __len__(self) -> int:
        return len(self.held)


class LineChannel:
    """Sends a line and reads the one that answers it. Used by one thread at a time; closes nothing itself.

    Args:
        reader: a descriptor that does not block; the same as ``writer`` for a socket.
        writer: see ``reader``.
        read: reads at most so many bytes from it.
        write: writes what fits, and says how much that was.
        clock: measures.

    Attributes:
        sent: bytes of the request that the system has taken, in this exchange.
        received: bytes that came, in this exchange.
        gone: whether the peer had gone before it sent any byte of a reply.
        clean: whether nothing but whole lines came and went, so that the channel may be used again.
        replies: lines that came in answer, ever.
    """

    __slots__ = (
        "_at",
        "_buffer",
        "_now",
        "_poll",
        "_read",
        "_reader",
        "_write",
        "_writer",
        "clean",
        "gone",
        "received",
        "replies",
        "sent",
    )

    def __init__(
        self,
        reader: int,
        writer: int,
        read: Callable[[int], bytes],
        write: Callable[[bytes | memoryview], int],
        clock: Clock,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._read = read
        self._write = write
        self._now = clock.monotonic
        poll = select.poll()
        poll.register(reader, select.POLLIN)
        self._poll = poll.poll
        self._buffer = LineBuffer()
        self._at = 0.0
        self.sent = self.received = self.replies = 0
        self.gone = False
        self.clean = True

    def look(self) -> int:
        """What there is on an idle channel: 0, POLLIN for bytes that nobody asked for, POLLHUP for its end.

        A socket's end comes with POLLIN, too. After anything but 0 the channel is not clean any more.
        """
        ready = self._poll(0)
        if not ready:
            return 0
        self.clean = False
        return ready[0][1]

    def exchange(self, line: bytes, deadline: Deadline, limit: int) -> bytes:
        """Sends ``line``, which ends with its line break, and returns the answer without one.

        Raises:
            PluginTimeoutError: no whole line in time.
            ConnectionLostError: the peer went away before it sent anything, or the connection broke.
            TruncatedReplyError: the peer went away within its line.
            ReplyTooLargeError: the answer has more than ``limit`` bytes.
        """
        self.clean = self.gone = False
        self.sent = self.received = 0
        self._at = deadline.at
        broken = self._send(line, limit)
        reply = self._receive(limit, broken)
        self.replies += 1
        self.clean = self.sent == len(line) and not self._buffer.held
        return reply

    # --- sending -----------------------------------------------------------------------------------------------

    def _send(self, line: bytes, limit: int) -> OSError | None:
        """Sends as much as the peer takes. A break is returned, not raised: the peer may have said why."""
        try:
            self.sent = self._write(line)
        except BlockingIOError:
            pass
        except OSError as exc:
            return exc
        return None if self.sent == len(line) else self._send_rest(memoryview(line), limit)

    def _send_rest(self, line: memoryview, limit: int) -> OSError | None:
        """Sends the rest, and reads along: a peer that is stuck in its own output would never take ours."""
        poll = select.poll()
        poll.register(self._reader, select.POLLIN)
        poll.register(self._writer, select.POLLOUT | (select.POLLIN if self._writer == self._reader else 0))
        try:
            while self.sent < len(line):
                ready = dict(poll.poll(self._milliseconds()))
                if not ready:
                    raise self._timeout()
                if ready.get(self._reader, 0) & ~select.POLLOUT and self._has_spoken(limit):
                    return None
                if self._writer in ready:
                    with contextlib.suppress(BlockingIOError):
                        self.sent += self._write(line[self.sent :])
        except PluginError:
            raise
        except OSError as exc:
            return exc
        return None

    def _has_spoken(self, limit: int) -> bool:
        """Takes what has come while the request is still being sent; True if there is no use in sending more."""
        try:
            chunk = self._read(_CHUNK)
        except BlockingIOError:
            return False
        self.received += len(chunk)
        self._buffer.feed(chunk)
        # An answer before its question was over is a refusal, and one without an end is none.
        return not chunk or b"\n" in chunk or len(self._buffer) > limit

    # --- receiving ---------------------------------------------------------------------------------------------

    def _receive(self, limit: int, broken: OSError | None) -> bytes:
        buffer = self._buffer
        held = buffer.held  # asked as itself: it is C, and empty as a rule
        line = buffer.take() if held else None
        while line is None:
            if len(held) > limit:
                raise ReplyTooLargeError(f"the reply is larger than {limit} bytes")
            chunk = self._next_chunk(broken)
            if not held and chunk.find(b"\n") == len(chunk) - 1:
                line = chunk[:-1]  # the usual case, without a copy through the buffer
            else:
                buffer.feed(chunk)
                line = buffer.take()
        if len(line) > limit:
            raise ReplyTooLargeError(f"the reply is larger than {limit} bytes")
        return line

    def _next_chunk(self, broken: OSError | None) -> bytes:
        while True:
            wait = (self._at - self._now()) * 1000.0
            if wait <= 0.0 or not self._poll(min(wait, _LONGEST_POLL)):
                raise self._timeout()
            try:
                chunk = self._read(_CHUNK)
            except BlockingIOError:
                continue
            except OSError as exc:
                raise self._lost(exc) from exc
            if not chunk:
                raise self._lost(broken) from broken
            self.received += len(chunk)
            return chunk

    # --- what went wrong ---------------------------------------------------------------------------------------

    def _milliseconds(self) -> float:
        remaining = self._at - self._now()
        if remaining <= 0:
            raise self._timeout()
        return min(remaining * 1000.0, _LONGEST_POLL)

    def _timeout(self) -> PluginTimeoutError:
        if not self.sent:
            return PluginTimeoutError("the deadline passed before anything was sent", replay=Replay.ALWAYS)
        got = f"{self.received} bytes of it" if self.received else "nothing"
        return PluginTimeoutError(f"no whole reply in time; {got} had come")

    def _lost(self, exc: OSError | None) -> PluginError:
        self.gone = not self.received
        reason = "" if exc is None else f": {exc.strerror or exc}"
        if self.gone:
            # Without a single byte taken by the system, nobody can have acted on it.
            replay = None if self.sent else Replay.ALWAYS
            return ConnectionLostError(f"the plugin closed the connection before it replied{reason}", replay=replay)
        if exc is not None and not isinstance(exc, BrokenPipeError):
            return ConnectionLostError(f"the connection broke in the middle of the reply{reason}")
        return TruncatedReplyError(f"the reply ended too early, after {self.received} bytes without a line break")
