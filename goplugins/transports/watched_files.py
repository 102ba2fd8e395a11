"""Detection of changed files: configuration, plugin directories, certificates, tokens."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable

from goplugins.runtime.clock import Clock

_RECENT = 2.0
"""Seconds. A file read so shortly after it was written may be written again with the same time stamp."""


class _File:
    """One file. Opened anew each time, so that changed symbolic links and renames over it are noticed."""

    __slots__ = ("_digest", "_stamp", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        self._stamp: tuple[int, ...] | None = None
        self._digest = ""

    def digest(self, now: float) -> str:
        """Digest of the content; empty if the file does not exist or can't be read."""
        try:
            found = os.stat(self.path)
            stamp = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
            if stamp == self._stamp:
                return self._digest
            if not stat.S_ISREG(found.st_mode):  # reading a pipe might never end
                return ""
            with open(self.path, "rb") as stream:
                self._digest = hashlib.sha256(stream.read()).hexdigest()
        except OSError:
            self._stamp = None
            return ""
        self._stamp = stamp if now - max(found.st_mtime, found.st_ctime) > _RECENT else None
        return self._digest


def reader_of(paths: Iterable[str], clock: Clock) -> Callable[[], tuple[str, ...]]:
    """Reads the files' digests, for :class:`WatchedFiles`."""
    files = [_File(path) for path in paths]

    def read() -> tuple[str, ...]:
        now = clock.time()
        return tuple(file.digest(now) for file in files)

    return read


class WatchedFiles:
    """Detects when the content of some files has changed and is stable.

    A file may be empty, half written or missing for a moment, and a key is written after its certificate. Used by one
    thread at a time.

    Args:
        read: the state of the files, such as :func:`reader_of` makes it; compared with ==.
        clock: measures.
        settle: seconds that new content must stay the same before it counts as changed.
        known: the state that is no change; by default the present one.
    """

    def __init__(self, read: Callable[[], object], clock: Clock, *, settle: float, known: object = None) -> None:
        self._read = read
        self._clock = clock
        self._settle = settle
        self._known = self._seen = read() if known is None else known
        self._since = clock.monotonic()

    def changed(self) -> bool:
        """Reads the files; whether there is new content that is stable. Stays true until :meth:`accept`."""
        found = self._read()
        if found != self._seen:
            self._seen = found
            self._since = self._clock.monotonic()
        return self.pending and self._clock.monotonic() - self._since >= self._settle

    @property
    def pending(self) -> bool:
        """Whether the last read found new content, stable or not."""
        return self._seen != self._known

    def accept(self) -> None:
        """Makes the content of the last read the known one."""
        self._known = self._seen
