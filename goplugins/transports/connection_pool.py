"""A bounded pool of connections: last in first out, fair to those who wait, and never a lock held over I/O."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Generic, TypeVar

from goplugins.errors import PluginClosedError, SaturatedError
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock, Waiter
from goplugins.runtime.deadline import Deadline
from goplugins.runtime.fork import register_forkable

__all__ = ["ConnectionPool", "Lease"]

C = TypeVar("C")


class _Place(Generic[C]):
    """Room for one connection. The pool counts places by weak references only.

    So whoever is interrupted at any moment (Ctrl-C, a worker's time limit) and loses a place gives it back by losing
    it: no code path, however unlikely, can leave the pool a place smaller, or a connection open.
    """

    __slots__ = ("__weakref__", "_abandon", "age", "connection", "since")

    def __init__(self, abandon: Callable[[C], None]) -> None:
        self._abandon = abandon
        self.age = 0
        self.connection: C | None = None
        self.since = 0.0

    def __del__(self) -> None:
        connection = getattr(self, "connection", None)  # an interrupt may have broken into __init__
        if connection is not None:
            self._abandon(connection)


class Lease(Generic[C]):
    """A connection on loan. ``reused`` tells one that has carried an exchange before from a new one."""

    __slots__ = ("connection", "epoch", "place", "reused")

    def __init__(self, place: _Place[C], connection: C, reused: bool, epoch: int) -> None:
        self.place: _Place[C] | None = place
        self.connection = connection
        self.reused = reused
        self.epoch = epoch


class _Waiter(Generic[C]):
    """A caller in the queue. It is woken with a place, with or without a connection in it, or to look around."""

    __slots__ = ("closed", "wakeup")

    def __init__(self) -> None:
        self.wakeup = Waiter()
        self.closed = False

    def serve(self, place: _Place[C]) -> None:
        """Hands a place over: in one step, so that no interrupt leaves a caller asleep that has been served."""
        self.wakeup.set(place)


class ConnectionPool(Generic[C]):
    """At most ``max_connections`` connections, idle ones and those in use taken together.

    Args:
        connect: opens a connection before the deadline, or raises.
        close: closes a connection; must not raise.
        is_dead: whether an idle connection can't be used any more (closed by the peer, or bytes left over). Called
            before each use, so it must be cheap and never block.
        drop: closes a connection's descriptors without any other effect, in a forked child; ``close`` by default.
        abandon: what becomes of a connection whose place an interrupt took away; runs in a finaliser, so it takes no
            lock. ``drop`` by default.
        max_connections: how many may be open.
        max_idle: how many are kept when not in use.
        idle_timeout: seconds after which an unused connection is not used again.
        clock: measures idle time and does the waiting.

    Every place that becomes free goes to the longest waiting caller first, so whenever somebody waits there is
    neither an idle connection nor a free place, and a newcomer can't overtake.
    """

    def __init__(
        self,
        connect: Callable[[Deadline], C],
        close: Callable[[C], None],
        is_dead: Callable[[C], bool],
        *,
        max_connections: int,
        max_idle: int,
        idle_timeout: float,
        drop: Callable[[C], None] | None = None,
        abandon: Callable[[C], None] | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._connect = connect
        self._close = close
        self._is_dead = is_dead
        self._drop = drop or close
        self._abandon = abandon or self._drop
        self.max_connections = max_connections
        self.max_idle = max_idle
        self.idle_timeout = idle_timeout
        self._clock = clock
        self._now = clock.monotonic
        self._epoch = 0
        self._age = 0
        self._closed = False
        self._reset()
        register_forkable(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._idle: deque[_Place[C]] = deque()
        self._places: dict[int, weakref.ref[_Place[C]]] = {}
        self._waiters: deque[_Waiter[C]] = deque()

    # --- taking ------------------------------------------------------------------------------------------------

    def acquire(self, deadline: Deadline) -> Lease[C]:
        """A connection, the most recently used one if any is idle; waits for a place no longer than the deadline.

        Raises:
            PluginClosedError: the pool was closed.
            SaturatedError: all connections stayed in use until the deadline.
        """
        lease = self.try_acquire(deadline)
        return lease if lease is not None else self._wait(deadline)

    def acquire_free(self, deadline: Deadline) -> Lease[C]:
        """Like :meth:`acquire`, but does not wait for a connection in use.

        Raises:
            SaturatedError: all connections are in use.
        """
        lease = self.try_acquire(deadline)
        if lease is None:
            raise SaturatedError("no connection is free")
        return lease

    def try_acquire(self, deadline: Deadline) -> Lease[C] | None:
        """Like :meth:`acquire`, but None at once where that would wait for a place. Connecting may take its time."""
        with self._lock:
            if self._closed:
                raise PluginClosedError("the plugin is closed")
            if self._idle:
                place = self._idle.pop()
            elif len(self._places) < self.max_connections:
                place = self._new_place()
            else:
                return None
        idle = place.connection
        try:
            if idle is not None and self._now() - place.since <= self.idle_timeout and not self._is_dead(idle):
                return Lease(place, idle, True, self._epoch)
        except BaseException:
            self._put_back(place, reusable=False)
            raise
        return self._settle(place, deadline)

    def _new_place(self) -> _Place[C]:
        """Expects the lock."""
        place: _Place[C] = _Place(self._abandon)
        places, waiters, key = self._places, self._waiters, id(place)

        def lost(_: object) -> None:
            # On any thread, at any point: nothing here needs the lock.
            places.pop(key, None)
            for waiter in list(waiters):
                waiter.wakeup.set()

        places[key] = weakref.ref(place, lost)
        return place

    def _wait(self, deadline: Deadline) -> Lease[C]:
        waiter: _Waiter[C] = _Waiter()
        with self._lock:
            # A place may have become free since try_acquire looked; nobody else would hand it over.
            queued = not self._closed and not self._idle and len(self._places) >= self.max_connections
            if queued:
                self._waiters.append(waiter)
        if not queued:
            return self.acquire(deadline)
        try:
            place = self._await_place(waiter, deadline)
        except BaseException:
            self._leave_queue(waiter)
            raise
        if place is None:
            if waiter.closed:
                raise PluginClosedError("the plugin was closed while this call waited for a connection")
            raise SaturatedError(f"no free connection before the deadline: all {self.max_connections} were in use")
        place.since = self._now()
        return self._settle(place, deadline)

    def _await_place(self, waiter: _Waiter[C], deadline: Deadline) -> _Place[C] | None:
        """The place that a queued waiter gets; None once the pool is closed or the time is over."""
        while True:
            wait = partial(self._clock.wait, waiter.wakeup, max(deadline.remaining(), 0.0))
            if deadline.cancellation is None:
                wait()
            else:
                deadline.cancellation.guard(waiter.wakeup.set, wait)
            with self._lock:
                # Handed over, perhaps in the very moment of giving up: it is ours either way.
                place: _Place[C] | None = waiter.wakeup.take()
                if place is None and not waiter.closed and len(self._places) < self.max_connections:
                    place = self._new_place()  # another's place was lost
                if place is not None or waiter.closed or deadline.remaining() <= 0:
                    self._withdraw(waiter)
                    return place

    def _withdraw(self, waiter: _Waiter[C]) -> None:
        """Takes a waiter out of the queue. Expects the lock."""
        if waiter in self._waiters:
            self._waiters.remove(waiter)

    def _leave_queue(self, waiter: _Waiter[C]) -> None:
        """Gives up for a caller that was interrupted, and passes on what it may have been handed. Takes the lock."""
        with self._lock:
            self._withdraw(waiter)
        place = waiter.wakeup.take()
        if place is not None:
            self._put_back(place, reusable=place.connection is not None)

    def _settle(self, place: _Place[C], deadline: Deadline) -> Lease[C]:
        """Turns a place, with or without an idle connection in it, into a lease. Expects no lock."""
        epoch = self._epoch
        while (idle := place.connection) is not None or self._idle:
            try:
                if idle is not None and self._now() - place.since <= self.idle_timeout and not self._is_dead(idle):
                    return Lease(place, idle, True, epoch)
                place.connection = None
                if idle is not None:
                    self._close(idle)
            except BaseException:
                self._put_back(place, reusable=False)
                raise
            with self._lock:
                if not self._idle:
                    break
                # Two places, one of them empty. No waiter wants it: there is an idle connection.
                self._places.pop(id(place), None)
                place = self._idle.pop()
        return self._connect_into(place, deadline, epoch)

    def _connect_into(self, place: _Place[C], deadline: Deadline, epoch: int) -> Lease[C]:
        place.age = self._age  # before it connects: what is renewed meanwhile, it may not have seen
        try:
            connection = self._connect(deadline)
        except BaseException:
            if epoch == self._epoch:
                self._free(place)
            raise
        place.connection = connection
        return Lease(place, connection, False, epoch)

    def renew(self, lease: Lease[C], deadline: Deadline) -> Lease[C]:
        """Closes the lease's connection and opens a new one in its place, without going through the queue.

        The old lease is void afterwards, also when this raises what ``connect`` raised.
        """
        place, lease.place = lease.place, None
        if place is None:
            raise PluginClosedError("the connection was given back already")
        place.connection = None
        try:
            self._close(lease.connection)
        except BaseException:
            self._free(place)
            raise
        return self._connect_into(place, deadline, lease.epoch)

    # --- giving back -------------------------------------------------------------------------------------------

    def release(self, lease: Lease[C], *, reusable: bool) -> None:
        """Gives the connection back, to be used again or closed. A lease from before a fork is only closed."""
        place, lease.place = lease.place, None
        if reusable and place is not None and lease.epoch == self._epoch:
            with self._lock:
                busy = self._closed or self._waiters or len(self._idle) >= self.max_idle
                if not busy and place.age == self._age and place.connection is not None:
                    place.since = self._now()
                    self._idle.append(place)
                    return
        if lease.epoch != self._epoch:
            self._drop(lease.connection)
        elif place is not None:
            self._put_back(place, reusable=reusable)

    def _put_back(self, place: _Place[C], *, reusable: bool) -> None:
        if not reusable or place.connection is None:
            self._discard(place)
            return
        with self._lock:
            if place.age != self._age:
                surplus = None  # it was opened in a way that has changed
            elif self._closed:
                surplus = place
            elif self._waiters:
                self._serve(place)
                return
            else:
                place.since = self._now()
                self._idle.append(place)
                if len(self._idle) <= self.max_idle:
                    return
                surplus = self._idle.popleft()  # the one unused for longest
            if surplus is not None:
                self._places.pop(id(surplus), None)
        if surplus is None:
            self._discard(place)
        else:
            self._close_all([surplus])

    def _discard(self, place: _Place[C]) -> None:
        """Closes what is in a place and gives the place on, or up. Expects no lock."""
        connection, place.connection = place.connection, None
        try:
            if connection is not None:
                self._close(connection)
        finally:
            self._free(place)

    def _serve(self, place: _Place[C]) -> None:
        """Hands a place to the first waiter. Expects the lock."""
        self._waiters[0].serve(place)  # and then takes it off: one that nobody knows of any more would sleep on
        self._waiters.popleft()

    def _free(self, place: _Place[C]) -> None:
        """Hands an empty place to the first waiter, or gives it up. Takes the lock."""
        with self._lock:
            if self._waiters:
                self._serve(place)
            else:
                self._places.pop(id(place), None)

    # --- maintenance ------------------------------------------------------------------------------------------------

    def sweep(self) -> int:
        """Closes idle connections older than ``idle_timeout``, for a scheduler; returns how many."""
        limit = self._now() - self.idle_timeout
        expired = []
        with self._lock:
            while self._idle and self._idle[0].since < limit:
                expired.append(self._idle.popleft())
                self._places.pop(id(expired[-1]), None)
        return self._close_all(expired)

    def renew_all(self) -> None:
        """Uses no connection again that was opened, or begun to be, before now: the way to open them has changed.

        Idle ones are closed at once, those in use when they are given back. Nobody is refused.
        """
        with self._lock:
            self._age += 1
            idle = list(self._idle)
            self._idle.clear()
            for place in idle:
                self._places.pop(id(place), None)
        self._close_all(idle)

    def close(self) -> None:
        """Refuses new callers, wakes those who wait, closes idle connections now and those in use when given back."""
        with self._lock:
            self._closed = True
            idle = list(self._idle)
            waiters = list(self._waiters)
            self._idle.clear()
            self._waiters.clear()
            for place in idle:
                self._places.pop(id(place), None)
            for waiter in waiters:
                waiter.closed = True
        for waiter in waiters:
            waiter.wakeup.set()
        self._close_all(idle)

    def _close_all(self, places: Iterable[_Place[C]]) -> int:
        count = 0
        for place in places:
            connection, place.connection = place.connection, None
            if connection is not None:
                self._close(connection)
                count += 1
        return count

    def after_fork_in_child(self) -> None:
        """Forgets all connections, closing this process's descriptors of them; the parent goes on with them."""
        places = [place for reference in list(self._places.values()) if (place := reference()) is not None]
        self._epoch += 1
        self._reset()
        for place in places:
            connection, place.connection = place.connection, None
            if connection is not None:
                self._drop(connection)

    @property
    def open(self) -> int:
        """Connections open or being opened."""
        return len(self._places)

    @property
    def idle(self) -> int:
        """Connections that nobody uses."""
        return len(self._idle)

    @property
    def waiting(self) -> int:
        """Callers in the queue."""
        return len(self._waiters)
