"""A bounded pool of connections: last in, first out; waiting callers are served in order; no lock is held over I/O."""

from __future__ import annotations

import math
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

C = TypeVar("C")


class _Slot(Generic[C]):
    """A slot for one connection. The pool counts slots by weak references only.

    A caller that is interrupted at any line (Ctrl-C, a worker's time limit) and drops its reference to a slot thereby
    returns it: no interrupt can make the pool smaller, or leave a connection open.
    """

    __slots__ = ("__weakref__", "_abandon", "connection", "expires", "generation", "idle_since")

    def __init__(self, abandon: Callable[[C], None]) -> None:
        self._abandon = abandon
        self.generation = 0
        self.connection: C | None = None
        self.idle_since = self.expires = 0.0

    def __del__(self) -> None:
        connection = getattr(self, "connection", None)  # an interrupt may have broken into __init__
        if connection is not None:
            self._abandon(connection)


class Lease(Generic[C]):
    """A connection in use by one caller. ``reused``: whether it completed an exchange before."""

    __slots__ = ("connection", "epoch", "reused", "slot")

    def __init__(self, slot: _Slot[C], connection: C, reused: bool, epoch: int) -> None:
        self.slot: _Slot[C] | None = slot
        self.connection = connection
        self.reused = reused
        self.epoch = epoch


class _QueuedCaller:
    """A caller in the queue. It is woken with a slot, with or without a connection, or to check the pool's state."""

    __slots__ = ("closed", "waiter")

    def __init__(self) -> None:
        self.waiter = Waiter()
        self.closed = False


class ConnectionPool(Generic[C]):
    """At most ``max_connections`` connections, idle and in use together.

    Args:
        connect: opens a connection before the deadline, or raises.
        close: closes a connection; must not raise.
        is_dead: whether an idle connection can't be used any more (closed by the peer, or unexpected bytes). Called
            before each use, so it must be cheap and never block.
        drop: closes a connection's descriptors without any other effect, in a forked child; ``close`` by default.
        abandon: disposes of a connection whose slot was lost by an interrupt. Runs in a finaliser, so it must not take
            a lock. ``drop`` by default.
        max_connections: bound on open connections.
        max_idle: bound on idle connections.
        idle_timeout: seconds after which an idle connection is not used again.
        max_lifetime: seconds after which a connection is not used again, idle or not; None for no limit.
        clock: measures idle time and waits.

    A slot that becomes free goes to the caller that has waited longest. So while callers wait there is neither an
    idle connection nor a free slot, and a new caller can't overtake them.
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
        max_lifetime: float | None = None,
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
        self.max_lifetime = math.inf if max_lifetime is None else max_lifetime
        self._clock = clock
        self._now = clock.monotonic
        self._epoch = 0
        self._generation = 0
        self._closed = False
        self._reset()
        register_forkable(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._idle: deque[_Slot[C]] = deque()
        self._slots: dict[int, weakref.ref[_Slot[C]]] = {}
        self._queue: deque[_QueuedCaller] = deque()

    # --- acquiring ---------------------------------------------------------------------------------------------

    def acquire(self, deadline: Deadline) -> Lease[C]:
        """A connection, the most recently used one if any is idle; waits for one until the deadline.

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
        """Like :meth:`acquire`, but None where that would wait for a connection in use. It may connect, however."""
        with self._lock:
            if self._closed:
                raise PluginClosedError("the plugin is closed")
            if self._idle:
                slot = self._idle.pop()
            elif len(self._slots) < self.max_connections:
                slot = self._new_slot()
            else:
                return None
        idle = slot.connection
        try:
            # As _is_usable, without a call: this is the usual way.
            if (
                idle is not None
                and (now := self._now()) - slot.idle_since <= self.idle_timeout
                and now < slot.expires
                and not self._is_dead(idle)
            ):
                return Lease(slot, idle, True, self._epoch)
        except BaseException:
            self._put_back(slot, reusable=False)
            raise
        return self._make_lease(slot, deadline)

    def _is_usable(self, slot: _Slot[C], idle: C) -> bool:
        now = self._now()
        return now - slot.idle_since <= self.idle_timeout and now < slot.expires and not self._is_dead(idle)

    def _new_slot(self) -> _Slot[C]:
        """Expects the lock."""
        slot: _Slot[C] = _Slot(self._abandon)
        slots, callers, key = self._slots, self._queue, id(slot)

        def lost(_: object) -> None:
            # Runs on any thread at any point, so it must not take the lock.
            slots.pop(key, None)
            for caller in list(callers):
                caller.waiter.set()

        slots[key] = weakref.ref(slot, lost)
        return slot

    def _wait(self, deadline: Deadline) -> Lease[C]:
        caller: _QueuedCaller = _QueuedCaller()
        with self._lock:
            # A slot may have become free since try_acquire; no other caller would pass it on.
            queued = not self._closed and not self._idle and len(self._slots) >= self.max_connections
            if queued:
                self._queue.append(caller)
        if not queued:
            return self.acquire(deadline)
        try:
            slot = self._await_slot(caller, deadline.of_call)
        except BaseException:
            self._leave_queue(caller)
            raise
        if slot is None:
            if caller.closed:
                raise PluginClosedError("the plugin was closed while this call waited for a connection")
            raise SaturatedError(f"no free connection before the deadline: all {self.max_connections} were in use")
        slot.idle_since = self._now()
        deadline.restart()
        return self._make_lease(slot, deadline)

    def _await_slot(self, caller: _QueuedCaller, deadline: Deadline) -> _Slot[C] | None:
        """The slot for a queued caller; None once the pool is closed or the deadline has passed."""
        while True:
            wait = partial(self._clock.wait, caller.waiter, max(deadline.remaining(), 0.0))
            if deadline.cancellation is None:
                wait()
            else:
                deadline.cancellation.guard(caller.waiter.set, wait)
            with self._lock:
                # A slot may have been passed at the moment of the timeout; it is used in either case.
                slot: _Slot[C] | None = caller.waiter.take()
                if slot is None and not caller.closed and len(self._slots) < self.max_connections:
                    slot = self._new_slot()  # another caller's slot was lost
                if slot is not None or caller.closed or deadline.remaining() <= 0:
                    self._withdraw(caller)
                    return slot

    def _withdraw(self, caller: _QueuedCaller) -> None:
        """Removes a caller from the queue. Expects the lock."""
        if caller in self._queue:
            self._queue.remove(caller)

    def _leave_queue(self, caller: _QueuedCaller) -> None:
        """Removes an interrupted caller, and passes on a slot that it may have got. Takes the lock."""
        with self._lock:
            self._withdraw(caller)
        slot = caller.waiter.take()
        if slot is not None:
            self._put_back(slot, reusable=slot.connection is not None)

    def _make_lease(self, slot: _Slot[C], deadline: Deadline) -> Lease[C]:
        """Makes a lease of a slot with or without an idle connection. Expects no lock."""
        epoch = self._epoch
        while (idle := slot.connection) is not None or self._idle:
            try:
                if idle is not None and self._is_usable(slot, idle):
                    return Lease(slot, idle, True, epoch)
                slot.connection = None
                if idle is not None:
                    self._close(idle)
            except BaseException:
                self._put_back(slot, reusable=False)
                raise
            with self._lock:
                if not self._idle:
                    break
                # Two slots, one of them empty. No caller waits for it: there is an idle connection.
                self._slots.pop(id(slot), None)
                slot = self._idle.pop()
        return self._connect_into(slot, deadline, epoch)

    def _connect_into(self, slot: _Slot[C], deadline: Deadline, epoch: int) -> Lease[C]:
        # Read before it connects: a renewal meanwhile may come too late for this connection.
        slot.generation = self._generation
        slot.expires = self._now() + self.max_lifetime
        try:
            connection = self._connect(deadline)
        except BaseException:
            if epoch == self._epoch:
                self._free(slot)
            raise
        slot.connection = connection
        return Lease(slot, connection, False, epoch)

    def renew(self, lease: Lease[C], deadline: Deadline) -> Lease[C]:
        """Closes the lease's connection and opens a new one in the same slot, without waiting in the queue.

        The old lease can't be used afterwards, also when this raises what ``connect`` raised.
        """
        slot, lease.slot = lease.slot, None
        if slot is None:
            raise PluginClosedError("the connection was released already")
        slot.connection = None
        try:
            self._close(lease.connection)
        except BaseException:
            self._free(slot)
            raise
        return self._connect_into(slot, deadline, lease.epoch)

    # --- releasing ---------------------------------------------------------------------------------------------

    def release(self, lease: Lease[C], *, reusable: bool) -> None:
        """Releases the connection, to be used again or closed. A lease from before a fork is only closed."""
        slot, lease.slot = lease.slot, None
        if reusable and slot is not None and lease.epoch == self._epoch:
            with self._lock:
                busy = self._closed or self._queue or len(self._idle) >= self.max_idle
                if not busy and slot.generation == self._generation and slot.connection is not None:
                    slot.idle_since = self._now()
                    self._idle.append(slot)
                    return
        if lease.epoch != self._epoch:
            self._drop(lease.connection)
        elif slot is not None:
            self._put_back(slot, reusable=reusable)

    def _put_back(self, slot: _Slot[C], *, reusable: bool) -> None:
        if not reusable or slot.connection is None:
            self._discard(slot)
            return
        with self._lock:
            if slot.generation != self._generation:
                excess = None  # opened with settings that have changed
            elif self._closed:
                excess = slot
            elif self._queue:
                self._serve(slot)
                return
            else:
                slot.idle_since = self._now()
                self._idle.append(slot)
                if len(self._idle) <= self.max_idle:
                    return
                excess = self._idle.popleft()  # the one idle for longest
            if excess is not None:
                self._slots.pop(id(excess), None)
        if excess is None:
            self._discard(slot)
        else:
            self._close_all([excess])

    def _discard(self, slot: _Slot[C]) -> None:
        """Closes a slot's connection and frees the slot. Expects no lock."""
        connection, slot.connection = slot.connection, None
        try:
            if connection is not None:
                self._close(connection)
        finally:
            self._free(slot)

    def _serve(self, slot: _Slot[C]) -> None:
        """Passes a slot to the first caller in the queue. Expects the lock."""
        # Passes the slot and wakes the caller in one step, before the caller leaves the queue: no interrupt in between
        # may lose either of them.
        self._queue[0].waiter.set(slot)
        self._queue.popleft()

    def _free(self, slot: _Slot[C]) -> None:
        """Passes an empty slot to the first caller in the queue, or removes it. Takes the lock."""
        with self._lock:
            if self._queue:
                self._serve(slot)
            else:
                self._slots.pop(id(slot), None)

    # --- maintenance ------------------------------------------------------------------------------------------------

    def sweep(self) -> int:
        """Closes idle connections that :meth:`acquire` would not use any more; returns their number."""
        now = self._now()
        limit = now - self.idle_timeout
        with self._lock:
            expired = [slot for slot in self._idle if slot.idle_since < limit or slot.expires <= now]
            for slot in expired:
                self._idle.remove(slot)
                self._slots.pop(id(slot), None)
        return self._close_all(expired)

    def renew_all(self) -> None:
        """Uses no connection again that was opened, or being opened, before now: connection settings have changed.

        Idle connections are closed at once, those in use when they are released. No caller is rejected.
        """
        with self._lock:
            self._generation += 1
            idle = list(self._idle)
            self._idle.clear()
            for slot in idle:
                self._slots.pop(id(slot), None)
        self._close_all(idle)

    def close(self) -> None:
        """Rejects new and waiting callers; closes idle connections now and those in use when they are released."""
        with self._lock:
            self._closed = True
            idle = list(self._idle)
            callers = list(self._queue)
            self._idle.clear()
            self._queue.clear()
            for slot in idle:
                self._slots.pop(id(slot), None)
            for caller in callers:
                caller.closed = True
        for caller in callers:
            caller.waiter.set()
        self._close_all(idle)

    def _close_all(self, slots: Iterable[_Slot[C]]) -> int:
        count = 0
        for slot in slots:
            connection, slot.connection = slot.connection, None
            if connection is not None:
                self._close(connection)
                count += 1
        return count

    def after_fork_in_child(self) -> None:
        """Forgets all connections and closes this process's descriptors; the parent continues to use them."""
        slots = [slot for reference in list(self._slots.values()) if (slot := reference()) is not None]
        self._epoch += 1
        self._reset()
        for slot in slots:
            connection, slot.connection = slot.connection, None
            if connection is not None:
                self._drop(connection)

    @property
    def open(self) -> int:
        """Number of connections open or being opened."""
        return len(self._slots)

    @property
    def idle(self) -> int:
        """Number of idle connections."""
        return len(self._idle)

    @property
    def waiting(self) -> int:
        """Number of callers in the queue."""
        return len(self._queue)
