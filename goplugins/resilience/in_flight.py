"""In-flight tracker: counts a plugin's calls in flight and their results, and rejects new calls once closed.

The count of calls in flight, the closed flag and the plugin's counts share one lock, so that a call costs two
acquisitions and no call can enter between "closed" and "drained".
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Container
from typing import TYPE_CHECKING

from goplugins.errors import PluginClosedError
from goplugins.models.metrics import bucket_of
from goplugins.resilience.call_counts import Counts
from goplugins.runtime.callbacks import run_callback
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock, Waiter
from goplugins.runtime.fork import register_forkable

if TYPE_CHECKING:
    from goplugins.resilience.bulkhead import Bulkhead, BulkheadPermit
    from goplugins.runtime.call import Call


class InFlightTracker:
    """Counts calls as they enter and leave, rejects new calls once closed, and waits for the last call to leave.

    A call enters and leaves on one thread. A thread with a call in flight may enter again after the tracker was
    closed, so that an admitted call can end, its nested calls included.

    Args:
        counts: counts the results of calls; by default an object of its own.
        operations: returns the operations whose calls are counted apart.

    >>> tracker = InFlightTracker()
    >>> tracker.enter()
    >>> tracker.close("it was replaced")
    True
    >>> tracker.drain(5.0, on_empty=lambda: print("no call in flight"))  # does not wait for this thread's own call
    True
    >>> tracker.leave(ok=True, elapsed=0.25, attempts=1)
    no call in flight
    >>> tracker.enter()
    Traceback (most recent call last):
    goplugins.errors.PluginClosedError: [PLUGIN_1207] it was replaced
    """

    def __init__(self, counts: Counts | None = None, operations: Callable[[], Container[str]] = tuple) -> None:
        self.counts = Counts() if counts is None else counts
        self._operations = operations
        self._calls = self.counts.calls
        self._inside: dict[int, int] = {}  # thread ident -> its calls in flight
        self._in_flight = 0
        self._expected = 0  # admitted calls that wait for a worker
        self._transferred = 0
        self._reason: str | None = None
        self._drains: list[tuple[int, Waiter]] = []  # threads that wait for the calls of others to leave
        self._on_empty: list[Callable[[], object]] = []
        self._lent: dict[int, list[BulkheadPermit]] = {}  # by thread, of calls that entered before there was a bulkhead
        register_forkable(self)

    def enter(self, call: Call | None = None) -> None:
        """Counts a call that enters. Takes the lock.

        Args:
            call: its ``inside`` is set. If an interrupt (Ctrl-C, a task's time limit) hits right after the count, the
                caller can see by it that the call has to leave.

        Raises:
            PluginClosedError: the tracker is closed, with the reason.
        """
        # Read from the module at each call: gevent may replace it after this module was imported.
        thread = threading.get_ident()
        with self._calls.lock:
            depth = self._inside.get(thread, 0)
            reason = self._reason
            if reason is None or depth or (call is not None and (call.expected or call.nested)):
                # No call, hence no interrupt, between these lines.
                self._inside[thread] = depth + 1
                self._in_flight += 1
                if call is not None:
                    call.inside = True
                    if call.expected:
                        call.expected = False
                        if self._expected:  # 0 if it was expected before a fork
                            self._expected -= 1
                return
        raise PluginClosedError(reason)

    def admit(self, call: Call) -> None:
        """Admits a call that will enter later, on another thread, even if the tracker has been closed by then.

        Raises:
            PluginClosedError: the tracker is closed, with the reason.
        """
        with self._calls.lock:
            if self._reason is not None:
                raise PluginClosedError(self._reason)
            self._expected += 1
            call.expected = True

    def cancel_admission(self, call: Call) -> None:
        """Withdraws an admitted call whose task was cancelled. Does nothing for a call that has entered."""
        with self._calls.lock:
            if call.expected:
                call.expected = False
                if self._expected:
                    self._expected -= 1
        self._notify()

    def leave(  # noqa: C901, PLR0912 - no part of it can be a function: see within
        self, ok: bool | None, elapsed: float, attempts: int, call: Call | None = None, code: str = ""
    ) -> None:
        """Counts a call that leaves, on the thread that entered. Takes the lock; runs ``on_empty`` outside it.

        A forked child ignores calls that had entered in the parent. With a ``call`` it may be called again after an
        interrupt, and continues where it was.

        Args:
            ok: True if the call succeeded; None if it was transferred to another plugin, which counts its result.
            elapsed: the call's duration in seconds.
            attempts: the number of its attempts.
            call: the call that entered; leaving a second time with it is not counted.
            code: the code of the error that the call failed with.
        """
        thread = threading.get_ident()
        bucket = bucket_of(elapsed) if attempts else 0
        calls = self._calls
        named = calls.of_operation(call.operation, self._operations) if call is not None and call.operation else None
        with calls.lock:
            depth = self._inside.get(thread, 0)
            if depth and (call is None or call.inside):
                # No call, hence no interrupt, between these lines.
                if depth == 1:
                    del self._inside[thread]
                else:
                    self._inside[thread] = depth - 1
                self._in_flight -= 1
                if call is not None:
                    call.inside = False
                if ok:
                    calls.succeeded += 1
                elif ok is None:
                    self._transferred += 1
                    elapsed, attempts = 0.0, 0
                else:
                    calls.failed += 1
                    if code:
                        calls.errors[code] = calls.errors[code] + 1 if code in calls.errors else 1
                calls.duration += elapsed
                if attempts:
                    calls.attempts += attempts
                    try:
                        calls.latencies[bucket] += 1
                    except KeyError:
                        calls.latencies[bucket] = 1
                if named is not None:  # the same once more: a loop could be interrupted
                    if ok:
                        named.succeeded += 1
                    elif ok is not None:
                        named.failed += 1
                        named.errors[code] = named.errors[code] + 1 if code in named.errors else 1
                    named.duration += elapsed
                    if attempts:
                        named.latencies[bucket] = named.latencies[bucket] + 1 if bucket in named.latencies else 1
        if self._drains or self._on_empty or self._lent:
            self._notify()

    def lend_permits(self, bulkhead: Bulkhead) -> None:
        """Has each call in flight hold a slot of a bulkhead that is new, until it leaves. Takes the lock.

        It may be called again after an interrupt.
        """
        with self._calls.lock:
            inside = dict(self._inside)
        for thread, depth in inside.items():
            lent = self._lent.setdefault(thread, [])
            lent += [bulkhead.lend() for _ in range(depth - len(lent))]
        self._notify()

    def _return_permits(self) -> None:
        """Releases the slots that were lent to calls that have left. Takes the lock.

        The calls of a thread leave in the reverse order: later ones, which have slots of their own, leave before.
        """
        returned = []
        with self._calls.lock:
            for thread in list(self._lent):
                depth, lent = self._inside.get(thread, 0), self._lent[thread]
                returned += lent[depth:]
                del lent[depth:]
                if not lent:
                    del self._lent[thread]
        for permit in returned:
            permit.bulkhead.release(permit)

    def close(self, reason: str) -> bool:
        """Rejects new calls from now on, save those of threads with a call in flight. Takes the lock.

        Args:
            reason: the message of the error for rejected calls.

        Returns:
            True if this closed the tracker; False if it was closed before, then ``reason`` is ignored.
        """
        with self._calls.lock:
            if self._reason is not None:
                return False
            self._reason = reason
            return True

    def drain(
        self, timeout: float, clock: Clock = SYSTEM_CLOCK, *, on_empty: Callable[[], object] | None = None
    ) -> bool:
        """Waits until all calls have left, save those on this thread's own stack, which wait for this to return.

        Close the tracker first, or new calls may enter meanwhile.

        Args:
            timeout: seconds to wait at most.
            clock: performs the wait.
            on_empty: called outside the lock once no call at all is in flight: here or, if this thread has calls in
                flight, when the last of them leaves. Not called if this returns False. Its exceptions are logged.

        Returns:
            True if no other thread has a call in flight; False if one still has after ``timeout``.
        """
        thread = threading.get_ident()
        drain = (thread, Waiter())
        waiting = False
        try:
            with self._calls.lock:
                waiting = self._others(thread) > 0
                if waiting:
                    self._drains.append(drain)
            if waiting:
                clock.wait(drain[1], timeout)
        finally:
            if waiting:
                with self._calls.lock:
                    self._drains = [other for other in self._drains if other is not drain]
        with self._calls.lock:
            # The event, not the count: if the tracker is not closed, calls may have entered since it was set.
            if waiting and not drain[1].is_set() and self._others(thread) > 0:
                return False
            if on_empty is not None:
                self._on_empty.append(on_empty)
        self._notify()
        return True

    @property
    def in_flight(self) -> int:
        """The number of calls in flight."""
        return self._in_flight

    @property
    def transferred(self) -> int:
        """The number of calls that were transferred to another plugin."""
        return self._transferred

    def holds(self, thread: int) -> bool:
        """Whether that thread has a call in flight."""
        return thread in self._inside

    @property
    def closed(self) -> bool:
        """True once :meth:`close` was called."""
        return self._reason is not None

    def after_fork_in_child(self) -> None:
        """Forgets the parent's calls in flight. The counts of ended calls stay."""
        self._inside = {}
        self._in_flight = 0
        self._expected = 0
        self._drains = []
        self._on_empty = []
        self._lent = {}

    def _others(self, thread: int) -> int:
        """The number of calls of other threads, in flight or admitted. The caller holds the lock."""
        return self._in_flight + self._expected - self._inside.get(thread, 0)

    def _notify(self) -> None:
        """Returns lent slots, wakes drains, and runs ``on_empty`` callbacks if no call is in flight. Takes the lock.

        It reads the current counts, so it may be called at any time, and again after an interrupt.
        """
        if self._lent:
            self._return_permits()
        with self._calls.lock:
            drained = [waiter for thread, waiter in self._drains if self._others(thread) == 0]
        for waiter in drained:
            waiter.set()
        while self._run_next():
            pass

    def _run_next(self) -> bool:
        """Runs one callback, which is queued again after an interrupt; False if none is due."""
        callback = None
        try:
            with self._calls.lock:
                if self._in_flight or self._expected or not self._on_empty:
                    return False
                callback = self._on_empty[0]
                del self._on_empty[0]
            run_callback(callback)
        except BaseException:
            if callback is not None:
                with self._calls.lock:
                    self._on_empty.append(callback)
            raise
        return True
