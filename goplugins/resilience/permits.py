"""Permits: the right to make one call through a circuit breaker, settled once by the call's outcome."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import TracebackType
from typing import Self

from goplugins.errors import Verdict, verdict_of
from goplugins.runtime.clock import Clock
from goplugins.runtime.counter import Counter

SETTLED = -1  # a generation that no breaker ever has

Settle = Callable[["Permit", bool | None, float | None], object]
"""Called with a permit, whether its call succeeded (None: ignored) and the call's seconds (None: unknown)."""


class Permit:
    """The right to make one call, settled once by its outcome; later outcomes are ignored.

    As a context manager it settles itself at the end of the block: success without an exception, otherwise by the
    exception: a :class:`~goplugins.errors.PluginError` by its ``verdict``, another ``Exception`` as a failure. An
    exception of the host (KeyboardInterrupt, a worker's soft time limit) says nothing of the plugin and is ignored.

    Attributes:
        is_probe: True if the call is one of the few that a half-open breaker admits.
        expires_at: when an unsettled probe loses its slot, on the breaker's clock.
        generation: the period between two state changes that it belongs to; negative once it is settled.

    >>> from goplugins import CircuitBreaker, CircuitBreakerConfig
    >>> breaker = CircuitBreaker(CircuitBreakerConfig(failure_threshold=5))
    >>> with breaker.acquire():
    ...     pass  # the call
    >>> permit = breaker.acquire()
    >>> permit.failure()
    >>> permit.success()  # ignored: the permit is settled
    >>> stats = breaker.stats()
    >>> stats.success_count, stats.failure_count
    (1, 1)
    """

    # Few fields, since one is made per call; a subclass is cheaper than a field that only probes need.
    __slots__ = ("_clock", "_settle", "_start", "expires_at", "generation")

    is_probe = False

    def __init__(self, settle: Settle, clock: Clock, generation: int, expires_at: float | None) -> None:
        self._settle = settle
        self._clock = clock
        self.generation = generation
        self.expires_at = expires_at

    def success(self, duration: float | None = None) -> None:
        """The call succeeded, after ``duration`` seconds."""
        self._settle(self, True, duration)

    def failure(self, duration: float | None = None) -> None:
        """The call failed by the plugin's fault, after ``duration`` seconds."""
        self._settle(self, False, duration)

    def ignore(self) -> None:
        """The outcome says nothing of the plugin: the permit is returned as if it had never been taken."""
        self._settle(self, None, None)

    def __enter__(self) -> Self:
        self._start = self._clock.monotonic()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        verdict = verdict_of(error)
        if verdict is Verdict.IGNORED:
            self.ignore()
        else:
            self._settle(self, verdict is Verdict.SUCCESS, self._clock.monotonic() - self._start)


class ProbePermit(Permit):
    """The permit of a call that probes the plugin for a half-open breaker."""

    __slots__ = ()

    is_probe = True


class SharedPermit(Permit):
    """The one permit of all calls in one closed period: a successful call costs no object and no lock.

    It can't tell whether a call has been settled before, so each caller must settle exactly once, whatever happens.
    Each closed period has its own: outcomes after the end of their period are ignored.

    Attributes:
        successes: successful calls that the breaker has not counted yet.
    """

    __slots__ = ("successes",)

    def __init__(self, settle: Settle, clock: Clock, generation: int) -> None:
        super().__init__(settle, clock, generation, None)
        self.successes = Counter()

    def success(self, duration: float | None = None) -> None:
        self.successes.add()

    def ignore(self) -> None:
        pass


def expiry_of(permit: Permit) -> float:
    """When the permit expires if it is not settled; infinite for one that does not."""
    return math.inf if permit.expires_at is None else permit.expires_at
