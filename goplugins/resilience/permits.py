"""The right to make one call, and its outcome: what a circuit breaker hands out."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

from goplugins.errors import Verdict, verdict_of
from goplugins.runtime.counter import Counter

if TYPE_CHECKING:
    from goplugins.resilience.circuit_breaker import CircuitBreaker

__all__ = ["SETTLED", "Pass", "Permit", "Probe"]

SETTLED = -1  # a generation that never is


class Permit:
    """The right to make one call, to be settled once by its outcome; what comes after that is ignored.

    As a context manager it settles itself: success at the end of the block, otherwise by the exception: a
    :class:`~goplugins.errors.PluginError` by its ``verdict``, another ``Exception`` as a failure, and what the host
    throws in (KeyboardInterrupt, a worker's soft time limit) is ignored, since it says nothing of the plugin.

    Attributes:
        is_probe: True if the call is one of the few that a half-open breaker lets through.
        expires_at: when a probe gives up its place unsettled, on the breaker's clock.
        generation: which period between two changes of state it belongs to; negative once it is settled.

    >>> from types import SimpleNamespace
    >>> from goplugins.resilience import CircuitBreaker
    >>> breaker = CircuitBreaker(SimpleNamespace(failure_threshold=5))
    >>> with breaker.acquire():
    ...     pass  # the call
    >>> permit = breaker.acquire()
    >>> permit.failure()
    >>> permit.success()  # too late: it has its outcome
    >>> stats = breaker.stats()
    >>> stats.success_count, stats.failure_count
    (1, 1)
    """

    # One is made per call: three fields, and what only probes have is their class.
    __slots__ = ("_breaker", "_start", "expires_at", "generation")

    is_probe = False

    def __init__(self, breaker: CircuitBreaker, generation: int, expires_at: float | None) -> None:
        self._breaker = breaker
        self.generation = generation
        self.expires_at = expires_at

    def success(self, duration: float | None = None) -> None:
        """The plugin answered, after ``duration`` seconds."""
        self._breaker.settle(self, True, duration)

    def failure(self, duration: float | None = None) -> None:
        """The plugin did not serve, after ``duration`` seconds."""
        self._breaker.settle(self, False, duration)

    def ignore(self) -> None:
        """The call said nothing about the plugin: the permit goes back as if never taken."""
        self._breaker.settle(self, None)

    def __enter__(self) -> Self:
        self._start = self._breaker.clock.monotonic()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        verdict = verdict_of(error)
        if verdict is Verdict.IGNORED:
            self.ignore()
        else:
            duration = self._breaker.clock.monotonic() - self._start
            self._breaker.settle(self, verdict is Verdict.SUCCESS, duration)


class Probe(Permit):
    __slots__ = ()

    is_probe = True


class Pass(Permit):
    """What all calls of one closed period share: no object and no lock for a call that goes well.

    It can't know who has settled already, so it is only for callers that settle exactly once, by whatever happens.
    Each closed period has its own: what comes in after its end is counted where nobody looks any more.

    Attributes:
        successes: calls that went well, for the breaker to take in before it judges.
    """

    __slots__ = ("successes",)

    def __init__(self, breaker: CircuitBreaker, generation: int) -> None:
        super().__init__(breaker, generation, None)
        self.successes = Counter()

    def success(self, duration: float | None = None) -> None:
        self.successes.add()

    def failure(self, duration: float | None = None) -> None:
        self._breaker.settle_pass(self, duration)

    def ignore(self) -> None:
        pass
