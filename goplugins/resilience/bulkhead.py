"""Bulkhead: bounds the calls in flight at one plugin, so that a slow plugin can't occupy every thread."""

from __future__ import annotations

import math
from collections import deque
from types import TracebackType
from typing import Self

from goplugins.config.defaults import completed
from goplugins.config.plugin_sections import BulkheadConfig
from goplugins.errors import BulkheadFullError, InvalidConfigError, PluginClosedError, PluginError
from goplugins.resilience.adaptive_limit import AdaptiveLimit
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock, Waitable, Waiter
from goplugins.runtime.counter import Counter
from goplugins.runtime.deadline import Deadline
from goplugins.runtime.fork import create_lock, register_forkable
from goplugins.runtime.slots import SlotSet
from goplugins.runtime.text import counted

# Seconds between two checks for a slot that an interrupt has freed: a finaliser may take no lock, so it can't hand the
# slot over. Slots that are released are handed over at once.
_CHECK_INTERVAL = 0.5


def load_signal(error: BaseException | None) -> bool | None:
    """What the end of an attempt says of the plugin's load, as :meth:`Bulkhead.release` takes it.

    True for an answer; False for a timeout, a 429 or a 503; None for any other error, whose duration says nothing.
    """
    if error is None:
        return True
    return False if isinstance(error, PluginError) and error.overload else None


class _Slot:
    """The right to be in flight. There are never more slots, used and free, than the limit.

    The bulkhead refers to them weakly: if an interrupt at any moment (Ctrl-C, a worker's time limit) loses a slot, it
    is garbage collected and thereby returned.
    """

    __slots__ = ("__weakref__", "epoch")

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch


class BulkheadPermit:
    """Holds a slot for one call. As a context manager it is released at the end of the block, with the block's time."""

    # A slot passes from call to call, so a caller gets this object instead: with the slot it could release twice.
    __slots__ = ("_started", "bulkhead", "slot")

    bulkhead: Bulkhead
    slot: _Slot | None
    _started: float

    def __enter__(self) -> Self:
        self._started = self.bulkhead.clock.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        bulkhead = self.bulkhead
        try:
            bulkhead.release(self, bulkhead.clock.monotonic() - self._started, load_signal(error))
        except BaseException:
            bulkhead.release(self)  # does nothing if the first one was complete
            raise


class _QueuedCall:
    """A call in the queue. Once ``served`` its slot has been handed over, whatever becomes of it."""

    __slots__ = ("served", "slot", "waiter")

    def __init__(self) -> None:
        self.slot: _Slot | None = None
        self.served = False
        self.waiter = Waiter()


class Bulkhead:
    """Admits at most ``max_concurrent`` calls at once; ``max_waiting`` more may wait, and are served in order.

    With ``adaptive`` the limit moves between ``min_concurrent`` and ``max_concurrent`` with the plugin's latency
    (see :class:`~goplugins.resilience.adaptive_limit.AdaptiveLimit`). Safe to use from many threads; the lock is never
    held over a wait.

    Args:
        config: limits and waiting; a field that is None has its default, but ``max_concurrent`` has none.
        clock: the source of time; performs the waits.
        name: the plugin's name, for errors.
        refused: counts refused calls; by default a counter of its own.

    Raises:
        InvalidConfigError: no limit, a lower limit above the upper one, or a value out of range.

    >>> from goplugins import BulkheadConfig
    >>> bulkhead = Bulkhead(BulkheadConfig(max_concurrent=2), name="geo")
    >>> with bulkhead.acquire(), bulkhead.acquire():
    ...     bulkhead.acquire()
    Traceback (most recent call last):
    goplugins.errors.BulkheadFullError: [PLUGIN_1218] plugin 'geo': its limit of 2 calls at once is reached, and \
max_waiting is 0
    >>> bulkhead.in_use, bulkhead.refused
    (0, 1)
    """

    def __init__(
        self, config: BulkheadConfig, *, clock: Clock = SYSTEM_CLOCK, name: str = "", refused: Counter | None = None
    ) -> None:
        self.clock = clock
        self.name = name
        self._now = clock.monotonic
        self._lock = create_lock(self)
        self._adaptive: AdaptiveLimit | None = None
        self._closed = False
        self._refused = Counter() if refused is None else refused
        self._limit = 0
        self._epoch = 0
        self._reset()
        self._configure(config)
        register_forkable(self)

    def _reset(self) -> None:
        self._slots = SlotSet()
        self._free: list[_Slot] = []
        self._queue: deque[_QueuedCall] = deque()

    # --- acquire -----------------------------------------------------------------------------------------------
    #
    # Taking and returning a free slot needs no lock: a list's pop and append are atomic, and ten times as fast. No
    # hand-over is lost between them: release() reads the queue after the slot is in the list, and acquire() reads the
    # list after the call is in the queue, so that one of the two finds the other.

    def acquire(self, deadline: Deadline | None = None, *, closing: Waitable | None = None) -> BulkheadPermit:
        """A permit; waits for a slot where the configuration allows. Takes the lock unless a slot is free.

        Args:
            deadline: the call's; a wait never passes it.
            closing: set when the plugin closes. Call :meth:`wake` after setting it.

        Raises:
            BulkheadFullError: no slot was free, and none became free in time. ``details`` has ``limit``, ``in_use``
                and ``waiting``.
            PluginClosedError: the bulkhead was closed, or ``closing`` was set during the wait. No slot is taken then,
                nor if any other exception (a KeyboardInterrupt, a worker's time limit) ends the wait.
        """
        permit = BulkheadPermit()
        permit.bulkhead = self
        if self._free and not self._queue:
            try:
                # No call between the two: a slot that an interrupt takes before the assignment is lost, hence returned.
                permit.slot = self._free.pop()
                return permit
            except IndexError:
                pass  # another thread was faster
        permit.slot = None
        queued: _QueuedCall | None = None
        try:
            with self._lock:
                self._serve()
                if not self._queue:
                    permit.slot = self._take()
                if permit.slot is None and not self._closed and len(self._queue) < self._max_waiting:
                    queued = _QueuedCall()
                    self._queue.append(queued)
                    self._serve()
            if permit.slot is None:
                permit.slot = self._wait(queued, None if deadline is None else deadline.of_call, closing)
                if deadline is not None:
                    deadline.restart()
        except BaseException:
            permit.slot = None  # or the traceback would hold it
            self._leave_queue(queued)
            raise
        return permit

    def _wait(self, queued: _QueuedCall | None, deadline: Deadline | None, closing: Waitable | None) -> _Slot:
        """The slot that is handed over. Takes the lock, but not while it waits."""
        cancellation = None if deadline is None else deadline.cancellation
        if queued is None or cancellation is None:
            self._wait_until_served(queued, deadline, closing)
        else:  # a hedged attempt: it may be cancelled during the wait
            cancellation.guard(queued.waiter.set, lambda: self._wait_until_served(queued, deadline, closing))
        assert queued is not None  # noqa: S101 - or it was refused
        slot, queued.slot = queued.slot, None
        assert slot is not None  # noqa: S101 - it was served
        return slot

    def _wait_until_served(
        self, queued: _QueuedCall | None, deadline: Deadline | None, closing: Waitable | None
    ) -> None:
        """Returns when the call has been served or its attempt cancelled. Takes the lock, but not while it waits."""
        cancellation = None if deadline is None else deadline.cancellation
        started = self._now()
        latest, limit = started + self._max_wait, "max_wait"
        if deadline is not None and deadline.at < latest:
            latest, limit = deadline.at, "the call's deadline"
        while queued is None or not queued.served:
            if self._closed or (closing is not None and closing.is_set()):
                message = "it was closed while the call waited for its bulkhead"
                raise PluginClosedError(message, plugin=self.name or None)
            if queued is None:
                raise self._refusal(f"{self.waiting} wait already" if self._max_waiting else "max_waiting is 0")
            queued.waiter.clear()  # before reading: a later change sets it again
            if cancellation is not None and cancellation.cancelled:
                return
            left = latest - self._now()
            with self._lock:
                self._serve()
                late = left <= 0 and not queued.served
                if late:
                    self._queue.remove(queued)
            if late:
                raise self._refusal(f"no slot became free in {self._now() - started:.3g} s, up to {limit}")
            if not queued.served:
                self.clock.wait(queued.waiter, min(left, _CHECK_INTERVAL))

    def _leave_queue(self, queued: _QueuedCall | None) -> None:
        """Removes a call from the queue; a slot that it was handed goes to the next. Takes the lock."""
        with self._lock:
            if queued is not None:
                queued.slot = None
                if queued in self._queue:
                    self._queue.remove(queued)
            self._serve()

    def _refusal(self, reason: str) -> BulkheadFullError:
        self._refused.add()
        limit = self._limit
        return BulkheadFullError(
            f"its limit of {counted(limit, 'call')} at once is reached, and {reason}",
            plugin=self.name or None,
            details={"limit": limit, "in_use": self.in_use, "waiting": self.waiting},
        )

    def lend(self) -> BulkheadPermit:
        """A permit whatever the limit is, for a call that is in flight already; release it when the call ends."""
        permit = BulkheadPermit()
        permit.bulkhead = self
        permit.slot = _Slot(self._epoch)
        self._slots.hold(permit.slot)
        return permit

    # --- release -----------------------------------------------------------------------------------------------

    def release(self, permit: BulkheadPermit, elapsed: float = 0.0, ok: bool | None = None) -> None:
        """Returns a slot, which goes to the call that has waited longest. Takes the lock if a call waits.

        A second release does nothing, and neither does that of a permit from before a fork: after an interrupt the
        caller may release again. If it does not, the slot is returned when the permit is garbage collected.

        Args:
            permit: what :meth:`acquire` returned.
            elapsed: seconds that the plugin took, without waits and backoff.
            ok: True if it answered; False if it was overloaded: timed out, or said so; None for an end that says
                nothing of its load. Both matter only with ``adaptive``; see :func:`load_signal`.
        """
        slot, permit.slot = permit.slot, None
        if slot is None or slot.epoch != self._epoch:
            return
        try:
            if self._adaptive is not None:
                self._observe(elapsed, ok)
            if len(self._slots) <= self._limit:
                self._free.append(slot)
            if self._queue or len(self._slots) > self._limit:
                slot = None  # unless it is in the list, it is dropped
                self._settle()
        except BaseException:
            # After an interrupt: in the list or not, the slot is not lost, and neither are waiting calls.
            slot = None
            self._settle()
            raise

    def _observe(self, elapsed: float, ok: bool | None) -> None:
        with self._lock:
            if self._adaptive is not None and not self._closed:
                self._adaptive.observe(self._now(), elapsed, ok, self.in_use)
                self._limit = self._adaptive.limit

    def _settle(self) -> None:
        """Drops free slots beyond the limit and serves the queue. Takes the lock."""
        with self._lock:
            while len(self._slots) > self._limit and self._free:
                self._free.pop()  # and it is collected, unless another thread was faster
            self._serve()

    # --- state -------------------------------------------------------------------------------------------------

    def configure(self, config: BulkheadConfig) -> None:
        """Applies another configuration. Takes the lock.

        Calls in flight are not affected: if the limit fell, slots are not given again until fewer are in use. Waiting
        calls go on waiting.

        Raises:
            InvalidConfigError: as for the class; nothing has changed then.
        """
        with self._lock:
            self._configure(config)
        self._settle()

    def wake(self) -> None:
        """Makes every waiting call read the clock and its ``closing`` event again. Takes the lock."""
        with self._lock:
            for queued in self._queue:
                queued.waiter.set()

    def close(self) -> None:
        """Refuses new calls; waiting calls fail with a PluginClosedError. Calls in flight are not affected."""
        with self._lock:
            self._closed = True
            self._limit = 0
        self._settle()
        self.wake()

    @property
    def limit(self) -> int:
        """How many calls may be in flight; 0 once closed."""
        return self._limit

    @property
    def in_use(self) -> int:
        """The number of slots in use."""
        return max(0, len(self._slots) - len(self._free))

    @property
    def waiting(self) -> int:
        """The number of calls that wait for a slot."""
        return len(self._queue)

    @property
    def is_full(self) -> bool:
        """Whether the next call would be refused."""
        return self.in_use >= self._limit and self.waiting >= self._max_waiting

    @property
    def refused(self) -> int:
        """The number of calls that were refused for lack of a slot, at once or after waiting."""
        return self._refused.total

    def after_fork_in_child(self) -> None:
        """Forgets the parent's calls, in flight and waiting."""
        self._epoch += 1
        self._reset()

    # --- internal; the caller holds the lock -------------------------------------------------------------------

    def _configure(self, config: BulkheadConfig) -> None:
        settings = completed(config)
        high, low, adaptive = settings.max_concurrent, settings.min_concurrent, settings.adaptive
        if high is None:
            fix = "set how many calls may be in flight at once"
            raise InvalidConfigError("is missing", path="max_concurrent", fix=fix, source="BulkheadConfig")
        if adaptive and low > high:
            message, fix = "is more than max_concurrent", f"set at most {high}"
            raise InvalidConfigError(message, path="min_concurrent", fix=fix, source="BulkheadConfig")
        self._max_waiting: int = settings.max_waiting
        self._max_wait: float = math.inf if settings.max_wait is None else settings.max_wait
        if not adaptive:
            self._adaptive = None
        elif self._adaptive is None:
            self._adaptive = AdaptiveLimit(low, high)
        else:
            self._adaptive.set_bounds(low, high)
        self._limit = 0 if self._closed else high if self._adaptive is None else self._adaptive.limit

    def _serve(self) -> None:
        """Hands slots to waiting calls, first come first served. After an interrupt, another call completes it."""
        queue = self._queue
        while queue:
            queued = queue[0]
            if not queued.served:
                queued.slot = self._take()
                if queued.slot is None:
                    return
                queued.served = True  # no call, hence no interrupt, before this line
            queued.waiter.set()
            queue.popleft()

    def _take(self) -> _Slot | None:
        """A free slot, or a new one while there are fewer than the limit."""
        try:
            return self._free.pop()
        except IndexError:
            pass
        if len(self._slots) >= self._limit:
            return None
        slot = _Slot(self._epoch)
        try:
            self._slots.hold(slot)
        except BaseException:
            del slot  # or the traceback would hold it
            raise
        return slot
