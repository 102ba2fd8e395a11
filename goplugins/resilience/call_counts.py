"""The counts of one plugin, in one object: all its parts add to it, and so does its successor after a reload."""

from __future__ import annotations

from collections.abc import Callable, Container

from goplugins.models.metrics import OTHER, Latencies, OperationMetrics, PluginMetrics
from goplugins.runtime.counter import Counter
from goplugins.runtime.fork import create_lock


class _Counter:
    """A counter of :class:`Counts`, made at its first use: most plugins need few of them.

    Not a data descriptor, so that later uses find the counter in the object's dictionary, as any other attribute.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, counts: Counts, owner: type | None = None) -> Counter:
        made: Counter = counts.__dict__.setdefault(self._name, Counter())  # atomic: threads get the same one
        return made


class OperationCounts:
    """Counts of ended calls of one operation, which a plugin's in-flight tracker updates under its lock.

    Attributes:
        succeeded: calls that returned a value.
        failed: calls that raised.
        duration: their seconds.
        latencies: number of calls with at least one attempt, by the bucket of their duration.
        errors: number of calls that raised, by the code of their error.
    """

    __slots__ = ("__weakref__", "duration", "errors", "failed", "latencies", "succeeded")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Starts again at 0. Expects the lock."""
        self.succeeded = self.failed = 0
        self.duration = 0.0
        self.latencies: dict[int, int] = {}
        self.errors: dict[str, int] = {}

    def metrics(self) -> OperationMetrics:
        """The counts so far. Expects the lock."""
        return OperationMetrics(
            requests_total=self.succeeded + self.failed,
            requests_success=self.succeeded,
            requests_failure=self.failed,
            request_duration=self.duration,
            latencies=Latencies(self.latencies.copy()),
            errors=self.errors.copy(),
        )


class CallCounts(OperationCounts):
    """Counts of all ended calls of a plugin.

    Attributes:
        lock: guards the others. It is the tracker's lock, too, so that counting costs a call no further acquisition.
        attempts: attempts of the calls.
        operations: counts of the operations that were called, by name. Names that are not configured share one.
    """

    __slots__ = ("attempts", "lock", "operations")

    def __init__(self) -> None:
        self.lock = create_lock(self, "lock")
        super().__init__()

    def reset(self) -> None:
        """Starts again at 0. Expects the lock."""
        super().reset()
        self.attempts = 0
        self.operations: dict[str, OperationCounts] = {}

    def of_operation(self, name: str, configured: Callable[[], Container[str]]) -> OperationCounts:
        """The counts of an operation; of :data:`~goplugins.models.metrics.OTHER` for a name that is not configured.

        Args:
            name: as the caller gave it: any text.
            configured: returns the names that are kept apart, so that their number is bounded.
        """
        found = self.operations.get(name)
        if found is None:
            known = name if name in configured() else OTHER
            found = self.operations.setdefault(known, OperationCounts())  # atomic: threads get the same one
        return found


class Counts:
    """What is counted for a plugin's name; see :class:`~goplugins.models.metrics.PluginMetrics` for each count.

    Attributes:
        calls: counts of ended calls.

    >>> counts = Counts()
    >>> _ = counts.cache_hits.add()
    >>> counts.metrics().cache_hits
    1
    """

    circuit_breaker_trips = _Counter()
    health_checks = _Counter()
    health_check_failures = _Counter()
    refused_rate_limit = _Counter()
    refused_circuit_breaker = _Counter()
    refused_bulkhead = _Counter()
    retry_budget_exhausted = _Counter()
    hedges_sent = _Counter()
    hedges_won = _Counter()
    cache_hits = _Counter()
    cache_misses = _Counter()
    cache_coalesced = _Counter()
    stale_answers = _Counter()
    fallback_answers = _Counter()
    fallback_failures = _Counter()

    def __init__(self) -> None:
        self.calls = CallCounts()

    def metrics(self, active_requests: int = 0) -> PluginMetrics:
        """The counts so far, consistent with each other. Takes the lock.

        Args:
            active_requests: calls in flight now.
        """
        with self.calls.lock:
            return self._metrics(active_requests)

    def take(self) -> PluginMetrics:
        """The counts so far; they start again at 0. Takes the lock."""
        with self.calls.lock:
            taken = self._metrics(0)
            self.calls.reset()
            for name in _COUNTERS:
                self.__dict__.pop(name, None)
        return taken

    def _metrics(self, active_requests: int) -> PluginMetrics:
        made = {name: self.__dict__[name].total for name in _COUNTERS if name in self.__dict__}
        calls = self.calls
        return PluginMetrics(
            requests_total=calls.succeeded + calls.failed,
            requests_success=calls.succeeded,
            requests_failure=calls.failed,
            request_duration=calls.duration,
            attempts_total=calls.attempts,
            active_requests=active_requests,
            latencies=Latencies(calls.latencies.copy()),
            errors=calls.errors.copy(),
            operations={name: each.metrics() for name, each in list(calls.operations.items())},
            **made,
        )


_COUNTERS = frozenset(name for name, attribute in vars(Counts).items() if isinstance(attribute, _Counter))
