"""``select.poll``, also where eventlet has removed it."""

from __future__ import annotations

import os
import select
from typing import Protocol


class Pollable(Protocol):
    """An object with a file descriptor."""

    def fileno(self) -> int: ...


class Poll(Protocol):
    """What is used of ``select.poll``."""

    def register(self, fd: int | Pollable, eventmask: int, /) -> None: ...

    def unregister(self, fd: int | Pollable, /) -> None: ...

    def poll(self, timeout: float | None = None, /) -> list[tuple[int, int]]: ...


def create_poll() -> Poll:
    """A new ``select.poll``, or one by ``select.select``, which eventlet replaces by its own."""
    kind: type[Poll] = getattr(select, "poll", _SelectPoll)
    return kind()


class _SelectPoll:
    def __init__(self) -> None:
        self._masks: dict[int, int] = {}

    def register(self, fd: int | Pollable, eventmask: int, /) -> None:
        self._masks[fd if isinstance(fd, int) else fd.fileno()] = eventmask

    def unregister(self, fd: int | Pollable, /) -> None:
        del self._masks[fd if isinstance(fd, int) else fd.fileno()]

    def poll(self, timeout: float | None = None, /) -> list[tuple[int, int]]:
        seconds = None if timeout is None or timeout < 0 else timeout / 1e3
        # Duplicates: eventlet refuses a second greenlet that waits for a descriptor.
        watched: dict[int, int] = {}
        try:
            for fd in self._masks:
                watched[os.dup(fd)] = fd
            readers = [copy for copy, fd in watched.items() if self._masks[fd] & select.POLLIN]
            writers = [copy for copy, fd in watched.items() if self._masks[fd] & select.POLLOUT]
            readable, writable, _ = select.select(readers, writers, [], seconds)
        finally:
            for copy in watched:
                os.close(copy)
        found = {watched[copy]: select.POLLIN for copy in readable}
        for copy in writable:
            found[watched[copy]] = found.get(watched[copy], 0) | select.POLLOUT
        return list(found.items())
