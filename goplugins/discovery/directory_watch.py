"""Changes in plugin directories."""

from __future__ import annotations

from goplugins.discovery.scanner import Discovery
from goplugins.runtime.clock import Clock


class DirectoryWatch:
    """Detects changes of the files that a scan reads, once they have settled: files may change one after the other.

    Used by one thread at a time. Has the methods of :class:`goplugins.transports.watched_files.WatchedFiles`.

    Args:
        discovery: the scan.
        clock: measures time.
        settle: seconds that the directories must stay the same before a change counts.
        known: the signature of the last scan; that of the present files when None.
    """

    def __init__(self, discovery: Discovery, clock: Clock, *, settle: float = 0.5, known: str | None = None) -> None:
        self._discovery = discovery
        self._clock = clock
        self._settle = settle
        self._known = self._seen = discovery.signature() if known is None else known
        self._since = clock.monotonic()

    def changed(self) -> bool:
        """Checks the files: whether a change has settled; stays true until :meth:`accept`."""
        found = self._discovery.signature()
        if found != self._seen:
            self._seen = found
            self._since = self._clock.monotonic()
        return self.pending and self._clock.monotonic() - self._since >= self._settle

    @property
    def pending(self) -> bool:
        """Whether the last check found a change, settled or not."""
        return self._seen != self._known

    def accept(self) -> None:
        """Makes the state of the last check the known one."""
        self._known = self._seen
