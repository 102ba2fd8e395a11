"""The gate of a plugin: who is inside, whether it still lets anybody in, and how the calls went.

The count, the closed flag that guards it and the metrics share one lock, so that a call costs two acquisitions and
no call can slip in between "closed" and "empty".
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from goplugins.errors import PluginClosedError
from goplugins.models.metrics import bucket_of
from goplugins.resilience.counts import Counts
from goplugins.runtime.callbacks import run_callback
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock, Waiter
from goplugins.runtime.fork import register_forkable

if TYPE_CHECKING:
    from goplugins.runtime.call import Call


class InFlightTracker:
    """Counts calls in and out, refuses new ones once closed, and knows when the last one is out.

    A call enters and leaves on one thread. A thread that is inside already may enter again after the gate was
    closed: what was admitted may finish, nested calls included.

    >>> gate = InFlightTracker()
    >>> gate.enter()
    >>> gate.close("it was replaced")
    True
    >>> gate.drain(5.0, on_empty=lambda: print("last one out"))  # the one inside is this very thread
    True
    >>> gate.leave(ok=True, elapsed=0.25, attempts=1)
    last one out
    >>> gate.enter()
    Traceback (most recent call last):
    goplugins.errors.PluginClosedError: [PLUGIN_1207] it was replaced
    """

    def __init__(self, counts: Counts | None = None) -> None:
        self.counts = Counts() if counts is None else counts
        self._inside: dict[int, int] = {}  # thread ident -> how many calls deep
        self._in_flight = 0
        self._expected = 0  # admitted, and waiting for a worker
        self._transferred = 0
        self._reason: str | None = None
        self._drains: list[tuple[int, Waiter]] = []  # threads that wait for the others to leave
        self._on_empty: list[Callable[[], object]] = []
        register_forkable(self)

    def enter(self, call: Call | None = None) -> None:
        """Counts one call in. Takes the lock.

        Args:
            call: remembers that the call is inside. An interrupt (Ctrl-C, a task's time limit) may hit right
                after the count, and only the call itself can then tell that it has to leave.

        Raises:
            PluginClosedError: the gate is closed, and why.
        """
        # Looked up at each call: gevent may replace it after this module was imported.
        thread = threading.get_ident()
        with self.counts.lock:
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
                        if self._expected:  # or it was expected before a fork
                            self._expected -= 1
                return
        raise PluginClosedError(reason)

    def admit(self, call: Call) -> None:
        """Admits a call that will enter later, on another thread: what is queued is not lost when the gate closes.

        Raises:
            PluginClosedError: the gate is closed, and why.
        """
        with self.counts.lock:
            if self._reason is not None:
                raise PluginClosedError(self._reason)
            self._expected += 1
            call.expected = True

    def cancel_admission(self, call: Call) -> None:
        """The call will not come: its task was cancelled. Harmless for one that has come."""
        with self.counts.lock:
            if call.expected:
                call.expected = False
                if self._expected:
                    self._expected -= 1
        self._announce()

    def leave(self, ok: bool | None, elapsed: float, attempts: int, call: Call | None = None, code: str = "") -> None:
        """Counts one call out, on the thread that entered. Takes the lock; runs ``on_empty`` outside it.

        After a fork the child ignores the exits of calls that had entered in the parent. With a ``call``, who is
        interrupted in here calls it again: it goes on where it was.

        Args:
            ok: True if the call ended well; None if it has not ended but goes on elsewhere, where it will count.
            elapsed: how long it took, in seconds.
            attempts: how many attempts it made.
            call: what the call entered with; leaving a second time with it counts for nothing.
            code: what the call failed with.
        """
        thread = threading.get_ident()
        bucket = bucket_of(elapsed) if attempts else 0
        counts = self.counts
        with counts.lock:
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
                    counts.succeeded += 1
                elif ok is None:
                    self._transferred += 1
                    elapsed, attempts = 0.0, 0
                else:
                    counts.failed += 1
                    if code:
                        counts.errors[code] = counts.errors[code] + 1 if code in counts.errors else 1
                counts.duration += elapsed
                if attempts:
                    counts.attempts += attempts
                    try:
                        counts.latencies[bucket] += 1
                    except KeyError:
                        counts.latencies[bucket] = 1
        if self._drains or self._on_empty:
            self._announce()

    def close(self, reason: str) -> bool:
        """Lets nobody in any more, save threads that are inside. Takes the lock.

        Args:
            reason: the message for those who come too late.

        Returns:
            True if this closed the gate; False if it was closed before, then ``reason`` is ignored.
        """
        with self.counts.lock:
            if self._reason is not None:
                return False
            self._reason = reason
            return True

    def drain(
        self, timeout: float, clock: Clock = SYSTEM_CLOCK, *, on_empty: Callable[[], object] | None = None
    ) -> bool:
        """Waits until all calls are out, save those on the caller's own stack, which wait for this to return.

        It returns at the moment when the last call leaves. Close the gate first, or it waits for a lull.

        Args:
            timeout: seconds to wait at most.
            clock: whose seconds.
            on_empty: runs once nobody at all is inside, outside the lock: here, or where the caller's own stack
                has calls inside, when the last of them leaves. Not at all if this returns False. What it raises is
                logged.

        Returns:
            True if nobody else is inside; False if somebody still is after ``timeout``.
        """
        thread = threading.get_ident()
        drain = (thread, Waiter())
        waiting = False
        try:
            with self.counts.lock:
                waiting = self._others(thread) > 0
                if waiting:
                    self._drains.append(drain)
            if waiting:
                clock.wait(drain[1], timeout)
        finally:
            if waiting:
                with self.counts.lock:
                    self._drains = [other for other in self._drains if other is not drain]
        with self.counts.lock:
            # The event, not the count: a gate that is not closed may have filled again since the lull.
            if waiting and not drain[1].is_set() and self._others(thread) > 0:
                return False
            if on_empty is not None:
                self._on_empty.append(on_empty)
        self._announce()
        return True

    @property
    def in_flight(self) -> int:
        """How many calls are inside."""
        return self._in_flight

    @property
    def transferred(self) -> int:
        """How many calls went on elsewhere."""
        return self._transferred

    def holds(self, thread: int) -> bool:
        """Whether a call of that thread is inside."""
        return thread in self._inside

    @property
    def closed(self) -> bool:
        """True once :meth:`close` was called."""
        return self._reason is not None

    def after_fork_in_child(self) -> None:
        """No call is in flight: the parent's calls go on in the parent. Counts of ended calls stay."""
        self._inside = {}
        self._in_flight = 0
        self._expected = 0
        self._drains = []
        self._on_empty = []

    def _others(self, thread: int) -> int:
        """How many calls other threads have inside or on the way. The lock is held."""
        return self._in_flight + self._expected - self._inside.get(thread, 0)

    def _announce(self) -> None:
        """Tells those who wait for others to leave, and runs what is to run once nobody is inside. Takes the lock.

        It goes by who is inside now, so it may be called at any time, and again after an interrupt.
        """
        with self.counts.lock:
            drained = [wakeup for thread, wakeup in self._drains if self._others(thread) == 0]
        for wakeup in drained:
            wakeup.set()
        while self._run_next():
            pass

    def _run_next(self) -> bool:
        """Runs one callback, once, unless an interrupt breaks in; False if none is due."""
        callback = None
        try:
            with self.counts.lock:
                if self._in_flight or self._expected or not self._on_empty:
                    return False
                callback = self._on_empty[0]
                del self._on_empty[0]
            run_callback(callback)
        except BaseException:
            if callback is not None:
                with self.counts.lock:
                    self._on_empty.append(callback)
            raise
        return True
