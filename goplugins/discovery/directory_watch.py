"""Telling when there is something new to discover."""

from __future__ import annotations

from goplugins.discovery.scanner import Discovery
from goplugins.runtime.clock import Clock

__all__ = ["DirectoryWatch"]


class DirectoryWatch:
    """Tells when what a scan would read is not what it was, and stays so: several files come one after the other.

    Used by one thread at a time, as :class:`goplugins.transports.credential_files.WatchedFiles`, whose methods it has.

    Args:
        discovery: where to look.
        clock: measures.
        settle: seconds that the directories must stay the same before the change counts.
        known: the signature of the scan that was made last; what there is now when None.
    """

    def __init__(self, discovery: Discovery, clock: Clock, *, settle: float = 0.5, known: str | None = None) -> None:
        self._discovery = discovery
        self._clock = clock
        self._settle = settle
        self._known = self._seen = discovery.signature() if known is None else known
        self._since = clock.monotonic()

    def changed(self) -> bool:
        """Whether there is something new that has settled; stays true until :meth:`accept`."""
        found = self._discovery.signature()
        if found != self._seen:
            self._seen = found
            self._since = self._clock.monotonic()
        return self.pending and self._clock.monotonic() - self._since >= self._settle

    @property
    def pending(self) -> bool:
        """Whether the last look found something new, settled or not."""
        return self._seen != self._known

    def accept(self) -> None:
        """What the last look found is known from now on."""
        self._known = self._seen
