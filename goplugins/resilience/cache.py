"""Response cache with single-flight execution: identical concurrent calls make one request."""

from __future__ import annotations

import enum
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import attrs

from goplugins.config.defaults import completed
from goplugins.config.plugin_sections import CacheConfig
from goplugins.errors import InvalidArgumentError, InvalidConfigError, PluginError, PluginTimeoutError
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock, Waiter
from goplugins.runtime.deadline import Deadline
from goplugins.runtime.fork import create_lock, register_forkable

V = TypeVar("V")


class Origin(enum.Enum):
    """Where a response comes from."""

    CALL = "call"  # this call's own request
    CACHE = "cache"  # the cache
    COALESCED = "coalesced"  # the request of an identical concurrent call


@attrs.frozen(eq=False)
class _Entry(Generic[V]):
    """A response with its size, and when it was stored, on the clock's monotonic scale."""

    value: V
    size: int
    stored_at: float


@attrs.define(eq=False)
class _Caller(Generic[V]):
    """A call that takes part in an execution, or is about to."""

    deadline: Deadline
    execution: _Execution[V] | None = None
    waiter: Waiter = attrs.field(factory=Waiter)
    thread: int = attrs.field(factory=lambda: threading.get_ident())  # noqa: PLW0108 - gevent may replace it


@attrs.define(eq=False)
class _Execution(Generic[V]):
    """A request in flight: its leader, which makes it, and the callers that wait for its response.

    It has no leader from the time when one fails until the first waiting caller to wake up becomes the leader.
    """

    key: Hashable
    leader: _Caller[V] | None
    waiting: dict[_Caller[V], None] = attrs.field(factory=dict)  # in order of arrival; unchanged once done
    done: bool = False
    response: V | None = None  # None once done: there is one, but it can't be shared
    failure: str = ""  # the last leader's error


class ResponseCache(Generic[V]):
    """Responses by key, each fresh for ``ttl`` seconds; identical concurrent calls make one request.

    While a request is in flight, further calls with its key wait for the response, each until its own deadline. If
    the leader, which makes the request, fails or is interrupted, one of the waiting callers becomes the leader. Errors
    are never cached. The least recently used responses are evicted first. Safe to use from many threads; the lock is
    never held over a request or a wait.

    A forked child keeps the responses and forgets requests in flight, which are the parent's.

    Args:
        config: times and number of entries; a field that is None has its default, but ``ttl`` has none.
        clock: the source of time; performs the waits.
        size_of: the size of a response, in any unit. It must not fail.
        max_size: the maximum size of all responses together, in that unit; a larger one is not cached. None for no
            limit.

    Raises:
        InvalidConfigError: no ``ttl``, or a value out of range.
        InvalidArgumentError: ``max_size`` is less than 1.

    >>> from goplugins.config import CacheConfig
    >>> from goplugins.testing import ManualClock
    >>> clock = ManualClock()
    >>> cache = ResponseCache(CacheConfig(ttl=60.0), clock=clock)
    >>> cache.fetch("key", lambda: "a response", Deadline.after(1.0, clock))
    ('a response', <Origin.CALL: 'call'>)
    >>> cache.get("key")
    'a response'
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
            raise InvalidArgumentError(f"max_size: expected 1 or more, got {max_size!r}")
        self._configure(config)
        self._size_of = size_of
        self._max_size = max_size
        self._clock = clock
        self._now = clock.monotonic
        self._entries: OrderedDict[Hashable, _Entry[V]] = OrderedDict()  # least recently used first
        self._size = 0
        self._executions: dict[Hashable, _Execution[V]] = {}
        self._lock = create_lock(self)
        register_forkable(self)

    # --- lookup ------------------------------------------------------------------------------------------------

    def get(self, key: Hashable) -> V | None:
        """The response, if there is a fresh one. Takes the lock."""
        with self._lock:
            return self._fresh(key)

    def stale(self, key: Hashable) -> V | None:
        """The response to a failed call: one that expired less than ``stale_if_error`` seconds ago. Takes the lock."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None or self._now() >= self._expiry(entry):
                return None
            self._entries.move_to_end(key)
            return entry.value

    def fetch(self, key: Hashable, make: Callable[[], V | None], deadline: Deadline) -> tuple[V | None, Origin]:
        """The cached response, or that of an identical concurrent call, or else the return value of ``make``.

        A call within ``make``, on the same thread and with the same key, does not wait for itself: it makes its own
        request.

        Args:
            key: identifies the request.
            make: makes the request. It returns None for a response that can't be shared: that is neither cached nor
                shared, and each waiting caller makes its own request.
            deadline: bounds the wait for another call's response. ``make`` has to observe it by itself.

        Raises:
            PluginTimeoutError: no response from the identical call in time; ``details`` may have the ``last_error`` of
                its leaders.
            BaseException: the exception of ``make``.
        """
        caller: _Caller[V] = _Caller(deadline)
        try:
            cached = self._join(key, caller)
            if cached is not None:
                return cached, Origin.CACHE
            execution = caller.execution
            if execution is None:
                return make(), Origin.CALL
            if execution.leader is not caller and self._wait(execution, caller):
                response = execution.response
                return (make(), Origin.CALL) if response is None else (response, Origin.COALESCED)
            made = make()
            self._complete(execution, made)
        except BaseException as exc:
            try:
                self._leave(caller, exc)
            except BaseException:
                # An interrupt while leaving: a waiting caller may not have been woken yet.
                self._leave(caller, exc)
                raise
            raise
        return made, Origin.CALL

    # --- maintenance ------------------------------------------------------------------------------------------------

    def configure(self, config: CacheConfig) -> None:
        """Applies another configuration, also to cached responses. Takes the lock.

        Raises:
            InvalidConfigError: as for the class; nothing has changed then.
        """
        with self._lock:
            self._configure(config)
            self._evict()

    def _configure(self, config: CacheConfig) -> None:
        settings = completed(config)
        if settings.ttl is None:
            fix = "set the seconds for which a response is fresh"
            raise InvalidConfigError("is missing", path="ttl", fix=fix, source="CacheConfig")
        # No call, hence no interrupt, between these lines.
        self._ttl: float = settings.ttl
        self._stale: float = settings.stale_if_error
        self._max_entries: int = settings.max_entries

    def clear(self) -> None:
        """Removes all responses. Those in flight still reach the callers that wait for them, but are not cached."""
        with self._lock:
            self._entries = OrderedDict()
            self._size = 0
            self._executions = {}

    def __len__(self) -> int:
        """The number of cached responses, fresh or not."""
        return len(self._entries)

    @property
    def size(self) -> int:
        """Their total size, in units of ``size_of``."""
        return self._size

    @property
    def waiting(self) -> int:
        """The number of calls that wait for an identical one. Takes the lock."""
        with self._lock:
            return sum(len(execution.waiting) for execution in self._executions.values())

    def after_fork_in_child(self) -> None:
        """Forgets requests in flight. The size is computed again: another thread may have been changing it."""
        self._executions = {}
        self._size = sum(entry.size for entry in self._entries.values())

    # --- single-flight execution ---------------------------------------------------------------------------------

    def _join(self, key: Hashable, caller: _Caller[V]) -> V | None:
        """The cached response; otherwise sets ``caller.execution``, as leader or waiting caller. Takes the lock.

        ``caller.execution`` stays None if this very thread leads the execution. Interrupts come with calls: there is
        none between assignments that belong together.
        """
        with self._lock:
            cached = self._fresh(key)
            if cached is not None:
                return cached
            execution = self._executions.get(key)
            if execution is None:
                execution = _Execution(key, caller)
                caller.execution = execution
                self._executions[key] = execution
                return None
            leader, now = execution.leader, self._now()
            if leader is None or leader.deadline.at <= now:
                # A leader past its deadline is replaced: a function that ignores it must not block the key permanently.
                caller.execution = execution
                execution.leader = caller
            elif leader.thread != caller.thread:
                caller.execution = execution
                execution.waiting[caller] = None
        return None

    def _wait(self, execution: _Execution[V], caller: _Caller[V]) -> bool:
        """Waits; True once the execution is done, False if the caller has become its leader. Takes the lock."""
        deadline, started = caller.deadline, self._now()
        while True:
            self._clock.wait(caller.waiter, max(deadline.remaining(), 0.0))
            with self._lock:
                if execution.done:
                    return True
                if deadline.remaining() <= 0:
                    details = {"last_error": execution.failure} if execution.failure else None
                    waited = f"{self._now() - started:.3g} s, up to the call's deadline,"
                    message = f"timed out after waiting {waited} for the response to an identical call in flight"
                    raise PluginTimeoutError(message, details=details)
                if execution.leader is None:
                    execution.waiting.pop(caller, None)
                    execution.leader = caller
                    return False
                caller.waiter.clear()  # another caller was faster

    def _complete(self, execution: _Execution[V], response: V | None) -> None:
        """Caches the response and wakes the waiting callers. Takes the lock."""
        size = 0 if response is None or self._size_of is None else self._size_of(response)
        with self._lock:
            current = self._executions.get(execution.key) is execution  # the cache was not cleared meanwhile
            if not execution.done:
                execution.response = response
                execution.done = True
            if current:
                del self._executions[execution.key]
                if response is not None:
                    self._store(execution.key, response, size)
        _wake(execution.waiting)

    def _leave(self, caller: _Caller[V], error: BaseException) -> None:
        """Removes a failed caller; if it was the leader, another takes over. May be repeated. Takes the lock."""
        execution = caller.execution
        if execution is None:
            return
        with self._lock:
            done = execution.done
            if not done:
                execution.waiting.pop(caller, None)
                if execution.leader is caller:
                    execution.leader = None
                    if isinstance(error, PluginError):
                        execution.failure = f"{error.code} {error.message}"
                if execution.leader is None:
                    self._wake_successor(execution)
        if done:  # an interrupt while waiting callers were being woken
            _wake(execution.waiting)

    def _wake_successor(self, execution: _Execution[V]) -> None:
        """Wakes the first waiting caller, which becomes the leader if there is none. The caller holds the lock."""
        for successor in execution.waiting:
            successor.waiter.set()
            return
        if self._executions.get(execution.key) is execution:
            del self._executions[execution.key]

    # --- entries; the caller holds the lock ------------------------------------------------------------------------

    def _fresh(self, key: Hashable) -> V | None:
        entry = self._entries.get(key)
        if entry is None or self._now() >= entry.stored_at + self._ttl:
            return None
        self._entries.move_to_end(key)
        return entry.value

    def _store(self, key: Hashable, value: V, size: int) -> None:
        now = self._now()
        entries = self._entries
        before = entries.get(key)
        if before is not None:
            # Statements, not calls: no interrupt comes between a change of the entries and that of their size.
            del entries[key]
            self._size -= before.size
        most = self._max_size
        if most is not None and size > most:
            return
        entry = _Entry(value, size, now)
        entries[key] = entry
        self._size += size
        # Expired entries are removed, as far as they are the next to be evicted.
        for oldest, old in _first_two(entries):
            if now >= self._expiry(old):
                del entries[oldest]
                self._size -= old.size
        self._evict()

    def _evict(self) -> None:
        """Removes the least recently used entries beyond the bounds."""
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


def _wake(waiting: dict[_Caller[V], None]) -> None:
    """Wakes all callers. Harmless when repeated."""
    for caller in waiting:
        caller.waiter.set()
