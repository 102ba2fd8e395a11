"""How long to wait after a start that failed."""

from __future__ import annotations

import threading

from goplugins.errors import PluginConnectionError, Replay
from goplugins.runtime.clock import Clock

__all__ = ["Backoff"]

_FIRST_DELAY = 0.05
_LONGEST_DELAY = 5.0


class Backoff:
    """Holds back starts after processes that failed before they had answered anything: 50 ms, doubling to 5 s."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.renew()

    def renew(self) -> None:
        """A fresh lock, and no failure known."""
        self._lock = threading.Lock()
        self._failures = 0
        self._decided = 0.0
        self._until = 0.0
        self._reason = ""
        self._lasting = False

    def check(self) -> None:
        """Passes if a start may be tried now.

        Raises:
            PluginConnectionError: not yet; ``retry_after`` says when. Not to be retried if the failure will last.
        """
        left = self._until - self._clock.monotonic()
        if self._failures and left > 0:
            raise PluginConnectionError(
                f"not started again so soon after {self._failures} failed start(s); the last: {self._reason}",
                retry_after=left,
                retryable=False if self._lasting else None,
                replay=Replay.NEVER if self._lasting else None,
            )

    def failed(self, started: float, reason: str, *, lasting: bool = False) -> None:
        """Counts a failure of something that was started at ``started``. Takes the lock."""
        now = self._clock.monotonic()
        with self._lock:
            if started < self._decided:
                return  # of the same wave as the failure that was counted last
            delay = min(_LONGEST_DELAY, _FIRST_DELAY * 2.0 ** min(self._failures, 30))
            self._failures += 1
            self._reason = reason
            self._lasting = lasting
            self._decided = now
            self._until = now + delay

    def worked(self) -> None:
        """A process has answered: the next one may start at once."""
        self._failures = 0
