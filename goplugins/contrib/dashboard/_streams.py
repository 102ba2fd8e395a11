"""Server-sent events: few at a time and none for long, since each of them holds one of the host's threads."""

from __future__ import annotations

import threading
from typing import Self

from goplugins.contrib.dashboard._board import Board, Snapshot
from goplugins.runtime.fork import register_forkable

__all__ = ["Stream", "Streams"]

_LONGEST = 25.0
"""Seconds after which a stream ends: before servers end a worker for one request that goes on and on. The browser opens
another one, if there is room."""

_PULSE = 5.0
"""Seconds without news after which something is sent all the same: so a viewer that is gone is noticed."""

_GRACE = 30.0
"""Seconds after its end at which a stream that its server never closed counts as gone."""


class Streams:
    """The streams of one dashboard.

    Args:
        board: what they show.
        most: how many there may be.
    """

    _open: set[Stream]

    def __init__(self, board: Board, most: int) -> None:
        self.board = board
        self._most = most
        self._begin()
        register_forkable(self)

    def admit(self, since: str) -> Stream | None:
        """A stream of what changes after ``since``; None if there are too many already. Takes the lock."""
        now = self.board.clock.monotonic()
        stream = Stream(self, since, now + _LONGEST)
        with self._lock:
            self._open = {each for each in self._open if each.ends + _GRACE > now}
            if len(self._open) >= self._most:
                return None
            self._open.add(stream)
        return stream

    def closed(self, stream: Stream) -> None:
        """It has ended. Takes the lock."""
        with self._lock:
            self._open.discard(stream)

    def after_fork_in_child(self) -> None:
        """None is open: the parent's threads stay there."""
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._open = set()


class Stream:
    """One viewer's stream, as a WSGI server iterates it; sleeps on the server's thread between two events.

    Attributes:
        ends: when, on the clock's monotonic scale.
    """

    def __init__(self, streams: Streams, since: str, ends: float) -> None:
        self.ends = ends
        self._streams = streams
        self._board = streams.board
        self._since = since
        self._last: Snapshot | None = None
        self._closed = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        board, last = self._board, self._last
        left = self.ends - board.clock.monotonic()
        if left <= 0 or self._closed:
            self.close()
            raise StopIteration
        mark = board.snapshot
        board.look()
        if last is None:
            self._last = board.wait(mark, _PULSE) if not mark.tick else mark
            # An end comes soon; then the browser is to be back at once.
            return b"retry: 500\n\n" + self._event(self._last)
        snapshot = board.wait(last, min(left, _PULSE))
        if snapshot is last:
            return b": still here\n\n"
        self._last = snapshot
        return self._event(snapshot)

    def _event(self, snapshot: Snapshot) -> bytes:
        message = snapshot.message(self._since)
        self._since = f"{snapshot.epoch}-{snapshot.tick}"
        return f"id: {self._since}\ndata: {message}\n\n".encode()

    def close(self) -> None:
        """Called by the server at the end, however it came."""
        if not self._closed:
            self._closed = True
            self._streams.closed(self)
