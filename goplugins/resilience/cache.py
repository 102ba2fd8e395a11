"""The answer cache: answers kept for a while, and one call in place of many identical ones at the same moment."""

from __future__ import annotations

import enum
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

from goplugins.config.defaults import setting
from goplugins.config.plugin_sections import CacheConfig
from goplugins.errors import InvalidArgumentError, PluginError, PluginTimeoutError
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock, Waiter
from goplugins.runtime.deadline import Deadline
from goplugins.runtime.fork import register_forkable

V = TypeVar("V")

_DEFAULTS = CacheConfig(max_entries=1024, stale_if_error=0.0)


class Origin(enum.Enum):
    """Where an answer comes from."""

    CALL = "call"  # by this call's own request
    CACHE = "cache"  # by an earlier call's
    COALESCED = "coalesced"  # by that of an identical call, which was under way


class _Entry(Generic[V]):
    """A response, with the time at which it was stored."""

    __slots__ = ("size", "stored_at", "value")

    def __init__(self, value: V, size: int, stored_at: float) -> None:
        self.value: Final = value
        self.size: Final = size
        self.stored_at: Final = stored_at


class _Caller(Generic[V]):
    """One call that is part of a flight, or about to be."""

    __slots__ = ("deadline", "flight", "thread", "wakeup")

    def __init__(self, deadline: Deadline) -> None:
        self.deadline: Final = deadline
        self.thread: Final = threading.get_ident()
        self.wakeup: Final = Waiter()
        self.flight: _Flight[V] | None = None


class _Flight(Generic[V]):
    """A request under way, with the one who makes it and those who wait for its answer.

    Nobody leads from the moment that a leader gives up until the first of the others to look takes over.
    """

    __slots__ = ("answer", "failure", "key", "leader", "over", "waiters")

    def __init__(self, key: Hashable, leader: _Caller[V]) -> None:
        self.key: Final = key
        self.leader: _Caller[V] | None = leader
        self.waiters: dict[_Caller[V], None] = {}  # in the order in which they came; nobody joins or leaves once over
        self.over = False
        self.answer: V | None = None  # None once over: there is one, but it can't be shared
        self.failure = ""  # the last leader's


class ResponseCache(Generic[V]):
    """Answers by key, each good for ``ttl`` seconds; identical calls at the same moment make one request.

    While a request is under way, further calls with its key wait for the answer, each until its own deadline. When
    the one that makes the request fails, or is interrupted, one of the others tries in its place. Errors are never
    kept. The least recently used answers leave first. Safe to use from many threads; the lock is never held over a
    request or a wait.

    A forked child keeps the answers and forgets the requests: those are the parent's.

    Args:
        config: how long and how many; a field that is None has its default, but ``ttl`` has none.
        clock: where the time comes from, and what waits.
        size_of: the size of an answer, in any unit. It must not fail.
        max_size: how much all answers together may take, in that unit; a larger one is not kept at all. No limit
            when None.

    Raises:
        InvalidArgumentError: no ``ttl`` or one of 0 or less, or a bound below 1.

    >>> from goplugins.config import CacheConfig
    >>> from goplugins.testing import ManualClock
    >>> clock = ManualClock()
    >>> cache = ResponseCache(CacheConfig(ttl=60.0), clock=clock)
    >>> cache.fetch("key", lambda: "an answer", Deadline.after(1.0, clock))
    ('an answer', <Origin.CALL: 'call'>)
    >>> cache.get("key")
    'an answer'
    >>> clock.advance(60.0)
    >>> cache.get("key") is None
    True
    """

    def __init__(
        self,
        config: CacheConfig,
        *,
        clock: Clock = SYSTEM_CLOCK,
        size_of: Callable[[V], int] | None = None,
        max_size: int | None = None,
    ) -> None:
        if max_size is not None and max_size < 1:
            raise InvalidArgumentError(f"cache: expected a max_size of 1 or more, got {max_size}")
        self._use(config)
        self._size_of = size_of
        self._max_size = max_size
        self._clock = clock
        self._now = clock.monotonic
        self._entries: OrderedDict[Hashable, _Entry[V]] = OrderedDict()  # the least recently used first
        self._size = 0
        self._flights: dict[Hashable, _Flight[V]] = {}
        self._lock = threading.Lock()
        register_forkable(self)

    # --- asking ------------------------------------------------------------------------------------------------

    def get(self, key: Hashable) -> V | None:
        """The answer, if there is one that is fresh. Takes the lock."""
        with self._lock:
            return self._fresh(key)

    def stale(self, key: Hashable) -> V | None:
        """The answer if it may stand in for a failed call: for ``stale_if_error`` seconds after its ``ttl``."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None or self._now() >= self._expiry(entry):
                return None
            self._entries.move_to_end(key)
            return entry.value

    def fetch(self, key: Hashable, make: Callable[[], V | None], deadline: Deadline) -> tuple[V | None, Origin]:
        """The answer that is kept, or that an identical call is about to get, or else what ``make`` returns.

        A call within ``make``, on the same thread and with the same key, doesn't wait for itself: it makes its own.

        Args:
            key: what tells one question from another.
            make: makes the request. None means that the answer is for its own call only: it is neither kept nor
                shared, and those who waited for it ask each for themselves.
            deadline: until when to wait for somebody else's answer. ``make`` has to keep to it by itself.

        Raises:
            PluginTimeoutError: no answer from the identical call in time; ``details`` may have the ``last_error`` of
                those who tried meanwhile.
            BaseException: what ``make`` raised.
        """
        caller: _Caller[V] = _Caller(deadline)
        try:
            kept = self._join(key, caller)
            if kept is not None:
                return kept, Origin.CACHE
            flight = caller.flight
            if flight is None:
                return make(), Origin.CALL
            if flight.leader is not caller and self._follow(flight, caller):
                answer = flight.answer
                return (make(), Origin.CALL) if answer is None else (answer, Origin.COALESCED)
            made = make()
            self._land(flight, made)
        except BaseException as exc:
            try:
                self._leave(caller, exc)
            except BaseException:
                # An interrupt in the very act of leaving: somebody may still wait to be woken.
                self._leave(caller, exc)
                raise
            raise
        return made, Origin.CALL

    # --- maintenance ------------------------------------------------------------------------------------------------

    def configure(self, config: CacheConfig) -> None:
        """Applies another configuration, also to the entries that are there. Takes the lock.

        Raises:
            InvalidArgumentError: as for the class; nothing has changed then.
        """
        with self._lock:
            self._use(config)
            self._evict()

    def _use(self, config: CacheConfig) -> None:
        ttl, entries = config.ttl, setting(config, _DEFAULTS, "max_entries")
        stale: float = setting(config, _DEFAULTS, "stale_if_error")
        if ttl is None or not ttl > 0 or not stale >= 0 or entries < 1:
            raise InvalidArgumentError(
                f"cache: expected a ttl above 0, stale_if_error of 0 or more and bounds of 1 or more, got {config}"
            )
        # No call, hence no interrupt, between these lines.
        self._ttl = ttl
        self._stale = stale
        self._max_entries: int = entries

    def clear(self) -> None:
        """Forgets all answers; those that are under way reach who waits for them, and are not kept. Takes the lock."""
        with self._lock:
            self._entries = OrderedDict()
            self._size = 0
            self._flights = {}

    def __len__(self) -> int:
        """How many answers are kept, fresh or not."""
        return len(self._entries)

    @property
    def size(self) -> int:
        """What they take together, in units of ``size_of``."""
        return self._size

    @property
    def waiting(self) -> int:
        """How many calls wait for an identical one. Takes the lock."""
        with self._lock:
            return sum(len(flight.waiters) for flight in self._flights.values())

    def after_fork_in_child(self) -> None:
        """A fresh lock and no request under way. The size is counted anew: another thread may have been at it."""
        self._lock = threading.Lock()
        self._flights = {}
        self._size = sum(entry.size for entry in self._entries.values())

    # --- a flight ----------------------------------------------------------------------------------------------

    def _join(self, key: Hashable, caller: _Caller[V]) -> V | None:
        """Finds the caller its place: in ``caller.flight``, as leader or among the waiters. Takes the lock.

        None where a call of this very thread leads. Interrupts come with calls: between what belongs together here
        there is none.
        """
        with self._lock:
            kept = self._fresh(key)
            if kept is not None:
                return kept
            flight = self._flights.get(key)
            if flight is None:
                flight = _Flight(key, caller)
                caller.flight = flight
                self._flights[key] = flight
                return None
            leader, now = flight.leader, self._now()
            if leader is None or leader.deadline.at <= now:
                # Nobody, or one who is overdue: a function that ignores its deadline must not block a key for good.
                caller.flight = flight
                flight.leader = caller
            elif leader.thread != caller.thread:
                caller.flight = flight
                flight.waiters[caller] = None
        return None

    def _follow(self, flight: _Flight[V], caller: _Caller[V]) -> bool:
        """Waits; True once the flight is over, False if it is the caller's now to lead. Takes the lock."""
        deadline = caller.deadline
        while True:
            self._clock.wait(caller.wakeup, max(deadline.remaining(), 0.0))
            with self._lock:
                if flight.over:
                    return True
                if deadline.remaining() <= 0:
                    details = {"last_error": flight.failure} if flight.failure else None
                    message = "waited in vain for the answer to an identical call that was under way"
                    raise PluginTimeoutError(message, details=details)
                if flight.leader is None:
                    flight.waiters.pop(caller, None)
                    flight.leader = caller
                    return False
                caller.wakeup.clear()  # somebody else was quicker

    def _land(self, flight: _Flight[V], answer: V | None) -> None:
        """Keeps the answer and tells those who wait. Takes the lock."""
        size = 0 if answer is None or self._size_of is None else self._size_of(answer)
        with self._lock:
            counts = self._flights.get(flight.key) is flight  # it wasn't cleared meanwhile
            if not flight.over:
                flight.answer = answer
                flight.over = True
            if counts:
                del self._flights[flight.key]
                if answer is not None:
                    self._keep(flight.key, answer, size)
        _wake(flight.waiters)

    def _leave(self, caller: _Caller[V], error: BaseException) -> None:
        """Goes, whatever the caller's part was; one who led leaves it to the next. May be repeated. Takes the lock."""
        flight = caller.flight
        if flight is None:
            return
        with self._lock:
            over = flight.over
            if not over:
                flight.waiters.pop(caller, None)
                if flight.leader is caller:
                    flight.leader = None
                    if isinstance(error, PluginError):
                        flight.failure = f"{error.code} {error.message}"
                if flight.leader is None:
                    self._call_next(flight)
        if over:  # an interrupt while those who wait were being told
            _wake(flight.waiters)

    def _call_next(self, flight: _Flight[V]) -> None:
        """Wakes the first of those who wait, who may lead if nobody else has begun to. Expects the lock."""
        for heir in flight.waiters:
            heir.wakeup.set()
            return
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]

    # --- what is kept; all of it expects the lock -----------------------------------------------------------------

    def _fresh(self, key: Hashable) -> V | None:
        entry = self._entries.get(key)
        if entry is None or self._now() >= entry.stored_at + self._ttl:
            return None
        self._entries.move_to_end(key)
        return entry.value

    def _keep(self, key: Hashable, value: V, size: int) -> None:
        now = self._now()
        entries = self._entries
        before = entries.get(key)
        if before is not None:
            # Statements, not calls: no interrupt comes between an entry's coming or going and its size's.
            del entries[key]
            self._size -= before.size
        most = self._max_size
        if most is not None and size > most:
            return
        entry = _Entry(value, size, now)
        entries[key] = entry
        self._size += size
        # What is good for nothing any more goes on the way, as far as it is the next to leave.
        for oldest, old in _first_two(entries):
            if now >= self._expiry(old):
                del entries[oldest]
                self._size -= old.size
        self._evict()

    def _evict(self) -> None:
        entries, most = self._entries, self._max_size
        while len(entries) > self._max_entries or (most is not None and self._size > most):
            oldest = next(iter(entries))
            old = entries[oldest]
            del entries[oldest]
            self._size -= old.size

    def _expiry(self, entry: _Entry[V]) -> float:
        """When the entry can no longer replace a failed call."""
        return entry.stored_at + self._ttl + self._stale


def _first_two(entries: OrderedDict[Hashable, _Entry[V]]) -> list[tuple[Hashable, _Entry[V]]]:
    return [item for item, _ in zip(entries.items(), range(2), strict=False)]


def _wake(waiters: dict[_Caller[V], None]) -> None:
    """Tells all. Harmless when repeated."""
    for caller in waiters:
        caller.wakeup.set()
