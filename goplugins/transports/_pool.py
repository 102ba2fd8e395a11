"""A bounded pool of connections: last in first out, fair to those who wait, and never a lock held over I/O."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from goplugins._clock import SYSTEM_CLOCK, Clock
from goplugins._deadline import Deadline
from goplugins.errors import PluginClosedError, SaturatedError

__all__ = ["ConnectionPool", "Lease"]

C = TypeVar("C")


class Lease(Generic[C]):
    """A connection on loan. ``reused`` tells one that has carried an exchange before from a new one."""

    __slots__ = ("connection", "epoch", "reused")

    def __init__(self, connection: C, reused: bool, epoch: int) -> None:
        self.connection = connection
        self.reused = reused
        self.epoch = epoch


class _Waiter(Generic[C]):
    """A caller in the queue. Once ``served``, it owns one place, with ``idle`` in it or still to be connected."""

    __slots__ = ("closed", "idle", "served", "wakeup")

    def __init__(self) -> None:
        self.wakeup = threading.Event()
        self.served = False
        self.closed = False
        self.idle: C | None = None


class ConnectionPool(Generic[C]):
    """At most ``max_connections`` connections, idle ones and those in use taken together.

    Args:
        connect: opens a connection before the deadline, or raises.
        close: closes a connection; must not raise.
        is_dead: whether an idle connection can't be used any more (closed by the peer, or bytes left over). Called
            before each use, so it must be cheap and never block.
        drop: closes a connection's descriptors without any other effect, in a forked child; ``close`` by default.
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
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._connect = connect
        self._close = close
        self._is_dead = is_dead
        self._drop = drop or close
        self.max_connections = max_connections
        self.max_idle = max_idle
        self.idle_timeout = idle_timeout
        self._clock = clock
        self._now = clock.monotonic
        self._epoch = 0
        self._closed = False
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._idle: deque[tuple[C, float]] = deque()
        self._leases: set[Lease[C]] = set()
        self._waiters: deque[_Waiter[C]] = deque()
        self._open = 0

    # --- taking ------------------------------------------------------------------------------------------------

    def acquire(self, deadline: Deadline) -> Lease[C]:
        """A connection, the most recently used one if any is idle; waits for a place no longer than the deadline.

        Raises:
            PluginClosedError: the pool was closed.
            SaturatedError: all connections stayed in use until the deadline.
        """
        lease = self.try_acquire(deadline)
        return lease if lease is not None else self._wait(deadline)

    def try_acquire(self, deadline: Deadline) -> Lease[C] | None:
        """Like :meth:`acquire`, but None at once where that would wait for a place. Connecting may take its time."""
        with self._lock:
            if self._closed:
                raise PluginClosedError("the plugin is closed")
            if self._idle:
                idle, since = self._idle.pop()
            elif self._open < self.max_connections:
                self._open += 1
                idle, since = None, 0.0
            else:
                return None
        return self._settle(idle, since, deadline)

    def _wait(self, deadline: Deadline) -> Lease[C]:
        waiter: _Waiter[C] = _Waiter()
        with self._lock:
            # A place may have become free since try_acquire looked; nobody else would hand it over.
            if not self._closed and not self._idle and self._open >= self.max_connections:
                self._waiters.append(waiter)
                queued = True
            else:
                queued = False
        if not queued:
            return self.acquire(deadline)
        try:
            self._clock.wait(waiter.wakeup, max(deadline.remaining(), 0.0))
        except BaseException:
            self._leave_queue(waiter)
            raise
        if not waiter.served and not self._withdraw(waiter):
            if waiter.closed:
                raise PluginClosedError("the plugin was closed while this call waited for a connection")
            raise SaturatedError(f"no free connection before the deadline: all {self.max_connections} were in use")
        # Served, perhaps in the very moment of giving up: the place is ours either way.
        return self._settle(waiter.idle, self._now(), deadline)

    def _withdraw(self, waiter: _Waiter[C]) -> bool:
        """Takes a waiter out of the queue; True if it had been served meanwhile. Takes the lock."""
        with self._lock:
            if waiter.served:
                return True
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            return False

    def _leave_queue(self, waiter: _Waiter[C]) -> None:
        """Gives up for a caller that was interrupted, and passes on what it may have been handed."""
        if not self._withdraw(waiter):
            return
        if waiter.idle is None:
            self._free_place()
        else:
            self._put_back(waiter.idle, self._epoch, reusable=True)

    def _settle(self, idle: C | None, since: float, deadline: Deadline) -> Lease[C]:
        """Turns a place, with or without an idle connection in it, into a lease. Expects no lock."""
        epoch = self._epoch
        while idle is not None:
            try:
                usable = self._now() - since <= self.idle_timeout and not self._is_dead(idle)
                if not usable:
                    self._close(idle)
            except BaseException:
                self._put_back(idle, epoch, reusable=False)
                raise
            if usable:
                return self._lend(idle, True, epoch)
            with self._lock:
                if not self._idle:
                    break
                # Two places, one of them empty now. No waiter wants it: there was an idle connection.
                idle, since = self._idle.pop()
                self._open -= 1
        return self._connect_into(deadline, epoch)

    def _connect_into(self, deadline: Deadline, epoch: int) -> Lease[C]:
        try:
            connection = self._connect(deadline)
        except BaseException:
            if epoch == self._epoch:
                self._free_place()
            raise
        return self._lend(connection, False, epoch)

    def _lend(self, connection: C, reused: bool, epoch: int) -> Lease[C]:
        lease = Lease(connection, reused, epoch)
        self._leases.add(lease)  # one atomic operation; read only in a child, after a fork
        return lease

    def renew(self, lease: Lease[C], deadline: Deadline) -> Lease[C]:
        """Closes the lease's connection and opens a new one in its place, without going through the queue.

        The old lease is void afterwards, also when this raises what ``connect`` raised.
        """
        self._leases.discard(lease)
        try:
            self._close(lease.connection)
        except BaseException:
            self._free_place()
            raise
        return self._connect_into(deadline, lease.epoch)

    # --- giving back -------------------------------------------------------------------------------------------

    def release(self, lease: Lease[C], *, reusable: bool) -> None:
        """Gives the connection back, to be used again or closed. A lease from before a fork is only closed."""
        self._leases.discard(lease)
        self._put_back(lease.connection, lease.epoch, reusable=reusable)

    def _put_back(self, connection: C, epoch: int, *, reusable: bool) -> None:
        if epoch != self._epoch:
            self._drop(connection)
            return
        if not reusable:
            try:
                self._close(connection)
            finally:
                self._free_place()
            return
        waiter = None
        surplus: C | None = None
        with self._lock:
            if self._closed:
                surplus = connection
                self._open -= 1
            elif self._waiters:
                waiter = self._waiters.popleft()
                waiter.idle = connection
                waiter.served = True
            else:
                self._idle.append((connection, self._now()))
                if len(self._idle) > self.max_idle:
                    surplus = self._idle.popleft()[0]  # the one unused for longest
                    self._open -= 1
        if waiter is not None:
            waiter.wakeup.set()
        elif surplus is not None:
            self._close(surplus)

    def _free_place(self) -> None:
        """Hands the place of a connection that is gone to the first waiter, or counts it as free. Takes the lock."""
        with self._lock:
            if not self._waiters:
                self._open -= 1
                return
            waiter = self._waiters.popleft()
            waiter.served = True
        waiter.wakeup.set()

    # --- upkeep ------------------------------------------------------------------------------------------------

    def sweep(self) -> int:
        """Closes idle connections older than ``idle_timeout``, for a scheduler; returns how many."""
        limit = self._now() - self.idle_timeout
        expired = []
        with self._lock:
            while self._idle and self._idle[0][1] < limit:
                expired.append(self._idle.popleft()[0])
            self._open -= len(expired)
        for connection in expired:
            self._close(connection)
        return len(expired)

    def close(self) -> None:
        """Refuses new callers, wakes those who wait, closes idle connections now and those in use when given back."""
        with self._lock:
            self._closed = True
            idle = [connection for connection, _ in self._idle]
            waiters = list(self._waiters)
            self._idle.clear()
            self._waiters.clear()
            self._open -= len(idle)
            for waiter in waiters:
                waiter.closed = True
        for waiter in waiters:
            waiter.wakeup.set()
        for connection in idle:
            self._close(connection)

    def after_fork_in_child(self) -> None:
        """Forgets all connections, closing this process's descriptors of them; the parent goes on with them."""
        inherited = [connection for connection, _ in self._idle]
        inherited.extend(lease.connection for lease in self._leases)
        self._epoch += 1
        self._reset()
        for connection in inherited:
            self._drop(connection)

    @property
    def open(self) -> int:
        """Connections open or being opened."""
        return self._open

    @property
    def idle(self) -> int:
        """Connections that nobody uses."""
        return len(self._idle)

    @property
    def waiting(self) -> int:
        """Callers in the queue."""
        return len(self._waiters)
