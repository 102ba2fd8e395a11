"""Lines over a pair of descriptors: one line out, one line in, and no system call beyond the deadline."""

from __future__ import annotations

import contextlib
import errno
import os
import select
from collections.abc import Callable

from goplugins.errors import (
    ConnectionLostError,
    PluginError,
    PluginTimeoutError,
    Replay,
    ReplyTooLargeError,
    TruncatedReplyError,
    missing_resource,
)
from goplugins.runtime.clock import Clock
from goplugins.runtime.deadline import Deadline
from goplugins.runtime.polling import create_poll
from goplugins.runtime.text import counted

_CHUNK = 65536
"""Bytes per read; for much larger ones the allocator requests memory from the system each time."""

_MAX_POLL = 2**31 - 1
"""Milliseconds: poll() takes a C int."""


class LineBuffer:
    r"""Splits received bytes into lines. Each byte is searched once, however small the pieces of a long line are.

    >>> buffer = LineBuffer()
    >>> buffer.feed(b"one")
    >>> buffer.take() is None
    True
    >>> buffer.feed(b" line\nand")
    >>> buffer.take(), len(buffer)
    (b'one line', 3)

    Attributes:
        held: bytes received and not yet taken; read only.
    """

    __slots__ = ("_searched", "held")

    def __init__(self) -> None:
        self.held = bytearray()
        self._searched = 0

    def feed(self, chunk: bytes) -> None:
        """Adds received bytes."""
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

    def __len__(self) -> int:
        return len(self.held)


class LineChannel:
    """Sends a line and reads the reply line. Used by one thread at a time; closes nothing itself.

    Args:
        reader: a non-blocking descriptor; the same as ``writer`` for a socket.
        writer: see ``reader``.
        read: reads at most the given number of bytes.
        write: writes what fits and returns its length.
        clock: measures.
        limit: bytes that a reply may have.
        end: a descriptor that becomes readable once the peer has ended, even if others hold its pipes; -1 for none.

    Attributes:
        sent: bytes of the request that the system has accepted in this exchange; 0 if the peer has not read all of it.
        received: bytes received in this exchange.
        gone: whether the peer had closed its side before it sent any byte of a reply.
        surplus: whether the peer has sent more than the last reply.
        clean: whether only whole lines were exchanged so far, so that the channel can be used again.
        replies: number of replies since the channel was opened.
    """

    __slots__ = (
        "_at",
        "_buffer",
        "_end",
        "_length",
        "_limit",
        "_now",
        "_poll",
        "_read",
        "_reader",
        "_started",
        "_write",
        "_writer",
        "clean",
        "gone",
        "received",
        "replies",
        "sent",
        "surplus",
    )

    def __init__(
        self,
        reader: int,
        writer: int,
        read: Callable[[int], bytes],
        write: Callable[[bytes | memoryview], int],
        clock: Clock,
        limit: int,
        end: int = -1,
    ) -> None:
        self._end = end
        self._reader = reader
        self._writer = writer
        self._read = read
        self._write = write
        self._now = clock.monotonic
        self._limit = limit
        poll = create_poll()
        poll.register(reader, select.POLLIN)
        if end >= 0:
            poll.register(end, select.POLLIN)
        self._poll = poll.poll
        self._buffer = LineBuffer()
        self._at = self._started = 0.0
        self._length = self.sent = self.received = self.replies = 0
        self.gone = self.surplus = False
        self.clean = True

    def poll_idle(self) -> int:
        """State of an idle channel: 0 for usable, POLLIN for unexpected bytes, POLLHUP for its end.

        The end of a socket sets POLLIN as well. After anything but 0 the channel is not clean any more.
        """
        ready = self._poll(0)
        if not ready:
            return 0
        self.clean = False
        return dict(ready).get(self._reader, select.POLLHUP)

    def exchange(self, line: bytes, deadline: Deadline) -> bytes:
        """Sends ``line``, which ends with its line break, and returns the reply without one.

        Raises:
            PluginTimeoutError: no whole line before the deadline.
            ConnectionLostError: the peer closed its side before it sent anything, or the connection broke.
            TruncatedReplyError: the peer closed its side within its line.
            ReplyTooLargeError: the reply exceeds the limit.
        """
        self.clean = self.gone = False
        self.sent = self.received = 0
        self._length = len(line)
        self._at = deadline.at
        self._started = self._now()
        broken = self._send(line)
        reply = self._receive(broken)
        self.replies += 1
        self.surplus = bool(self._buffer.held)
        self.clean = self.sent == len(line) and not self.surplus
        return reply

    def is_gone(self, exc: Exception) -> bool:
        """Whether ``exc``, of the last exchange, shows that the peer was gone before it sent any byte of a reply."""
        return self.gone and isinstance(exc, ConnectionLostError)

    # --- sending -----------------------------------------------------------------------------------------------

    def _send(self, line: bytes) -> OSError | None:
        """Sends what the system accepts. A broken pipe is returned, not raised: the peer may have sent the reason.

        Raises:
            ConnectionLostError: this machine lacks memory or buffers, so that there will be no reply.
        """
        try:
            self.sent = self._write(line)
        except BlockingIOError:
            pass
        except OSError as exc:
            return self._broken(exc)
        return None if self.sent == len(line) else self._send_rest(memoryview(line))

    def _send_rest(self, line: memoryview) -> OSError | None:
        """Sends the rest and reads meanwhile: a peer that is blocked in its own output would never read ours."""
        poll = create_poll()
        poll.register(self._reader, select.POLLIN)
        poll.register(self._writer, select.POLLOUT | (select.POLLIN if self._writer == self._reader else 0))
        if self._end >= 0:
            poll.register(self._end, select.POLLIN)
        try:
            while self.sent < len(line):
                ready = dict(poll.poll(self._milliseconds()))
                if not ready:
                    raise self._timeout()
                if ready.get(self._reader, 0) & ~select.POLLOUT and self._has_early_reply():
                    return None
                if self._end in ready:
                    return BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
                if self._writer in ready:
                    with contextlib.suppress(BlockingIOError):
                        self.sent += self._write(line[self.sent :])
        except PluginError:
            raise
        except OSError as exc:
            return self._broken(exc)
        return None

    def _broken(self, exc: OSError) -> OSError:
        if missing_resource(exc):
            raise self._lost(exc) from exc
        return exc

    def _has_early_reply(self) -> bool:
        """Reads bytes that arrived while the request is still being sent; True if sending more is useless."""
        try:
            chunk = self._read(_CHUNK)
        except BlockingIOError:
            return False
        self.received += len(chunk)
        self._buffer.feed(chunk)
        # A line before the end of the request is a refusal; a line that is too long is not read to its end.
        return not chunk or b"\n" in chunk or len(self._buffer) > self._limit

    # --- receiving ---------------------------------------------------------------------------------------------

    def _receive(self, broken: OSError | None) -> bytes:
        buffer, limit = self._buffer, self._limit
        held = buffer.held  # tested directly: no Python call, and empty as a rule
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
            if wait <= 0.0 or not (ready := self._poll(min(wait, _MAX_POLL))):
                raise self._timeout()
            try:
                chunk = self._read(_CHUNK)
            except BlockingIOError:
                if any(descriptor == self._end for descriptor, _ in ready):  # nothing more will come
                    raise self._lost(broken) from broken
                continue
            except OSError as exc:
                raise self._lost(exc) from exc
            if not chunk:
                raise self._lost(broken) from broken
            self.received += len(chunk)
            return chunk

    # --- errors ------------------------------------------------------------------------------------------------

    def _milliseconds(self) -> float:
        remaining = self._at - self._now()
        if remaining <= 0:
            raise self._timeout()
        return min(remaining * 1000.0, _MAX_POLL)

    def _timeout(self) -> PluginTimeoutError:
        if not self.sent:
            return PluginTimeoutError("the deadline passed before anything was sent", replay=Replay.ALWAYS)
        seconds = self._now() - self._started
        received = f"{self.received or 'no'} bytes received"
        return PluginTimeoutError(f"timed out after {seconds:.3g} s waiting for the reply ({received})")

    def _is_unread(self, exc: OSError | None) -> bool:
        """Whether the system shows that the peer, which is gone, has not read the whole request.

        Args:
            exc: what the system reported; None for the end of its output.
        """
        return False

    def _lost(self, exc: OSError | None) -> PluginError:
        self.gone = not self.received
        # A line without its end is no request, not even at the end of the input: more than the line break is missing.
        if self.sent < self._length - 1 or self._is_unread(exc):
            self.sent = 0
        reason = "" if exc is None else f": {exc.strerror or exc}"
        if self.gone:
            # Then the plugin can't have acted on the request.
            replay = None if self.sent else Replay.ALWAYS
            return ConnectionLostError(f"the plugin closed the connection before it replied{reason}", replay=replay)
        if exc is not None and not isinstance(exc, BrokenPipeError):
            return ConnectionLostError(f"the connection broke in the middle of the reply{reason}")
        return TruncatedReplyError(
            f"the reply ended too early, after {counted(self.received, 'byte')} without a line break"
        )
