"""The counts of one plugin, in one object: all its parts add to it, and so does its successor after a reload."""

from __future__ import annotations

from goplugins.models.metrics import Latencies, PluginMetrics
from goplugins.runtime.counter import Counter
from goplugins.runtime.fork import create_lock


class Counts:
    """What is counted for a plugin's name; see :class:`~goplugins.models.metrics.PluginMetrics` for each count.

    Counters are made when they are first used: most plugins need few of them.

    Attributes:
        lock: guards the fields below. It is the lock of the plugin's in-flight tracker, too, so that counting costs a
            call no further acquisition.
        succeeded: calls that returned a value.
        failed: calls that raised.
        attempts: attempts of ended calls.
        duration: seconds of ended calls.
        latencies: ended calls with at least one attempt, by the bucket of their duration.
        errors: calls that raised, by the code of their error.

    >>> counts = Counts()
    >>> _ = counts.cache_hits.add()
    >>> counts.metrics().cache_hits
    1
    """

    circuit_breaker_trips: Counter
    health_checks: Counter
    health_check_failures: Counter
    refused_rate_limit: Counter
    refused_circuit_breaker: Counter
    refused_bulkhead: Counter
    retry_budget_exhausted: Counter
    hedges_sent: Counter
    hedges_won: Counter
    cache_hits: Counter
    cache_misses: Counter
    cache_coalesced: Counter
    stale_answers: Counter
    fallback_answers: Counter
    fallback_failures: Counter

    def __init__(self) -> None:
        self.lock = create_lock(self, "lock")
        self._reset()

    def _reset(self) -> None:
        self.succeeded = self.failed = self.attempts = 0
        self.duration = 0.0
        self.latencies: dict[int, int] = {}
        self.errors: dict[str, int] = {}

    def __getattr__(self, name: str) -> Counter:
        if name not in _COUNTERS:
            raise AttributeError(name)
        made: Counter = self.__dict__.setdefault(name, Counter())  # atomic: threads get the same one
        return made

    def metrics(self, active_requests: int = 0) -> PluginMetrics:
        """The counts so far, consistent with each other. Takes the lock.

        Args:
            active_requests: calls in flight now.
        """
        with self.lock:
            return self._metrics(active_requests)

    def take(self) -> PluginMetrics:
        """The counts so far; they start again at 0. Takes the lock."""
        with self.lock:
            taken = self._metrics(0)
            self._reset()
            for name in _COUNTERS:
                self.__dict__.pop(name, None)
        return taken

    def _metrics(self, active_requests: int) -> PluginMetrics:
        made = {name: self.__dict__[name].total for name in _COUNTERS if name in self.__dict__}
        return PluginMetrics(
            requests_total=self.succeeded + self.failed,
            requests_success=self.succeeded,
            requests_failure=self.failed,
            request_duration=self.duration,
            attempts_total=self.attempts,
            active_requests=active_requests,
            latencies=Latencies(self.latencies.copy()),
            errors=self.errors.copy(),
            **made,
        )


_COUNTERS = frozenset(Counts.__annotations__)
