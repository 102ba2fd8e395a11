"""Time as a part that is handed in: everything that waits or measures takes a :class:`Clock`."""

from __future__ import annotations

import threading
import time
from queue import Empty, SimpleQueue
from typing import Any, Protocol

__all__ = ["SYSTEM_CLOCK", "Clock", "Event", "SystemClock", "Waitable", "Waiter"]


class Waitable(Protocol):
    """What a thread can wait for: a :class:`Waiter`, a ``threading.Event``."""

    def is_set(self) -> bool: ...

    def wait(self, timeout: float | None = None, /) -> bool: ...


class Waiter:
    """Wakes the one thread that waits for it, and may hand it something.

    An Event is Python code around a lock: a signal handler that raises in there (Ctrl-C, a worker's time limit) can
    leave the lock held, and whoever sets the Event later hangs. Here all is single C calls, so nothing can be left
    behind, and even a finaliser may set it.

    The queue is not what is waited for: a ``SimpleQueue.get`` with a timeout waits for ever when the thread loses the
    processor for that long in its first instant (CPython 3.11, 3.12), or when a signal handler takes longer than what
    is left of the timeout.

    >>> waiter = Waiter()
    >>> waiter.set("a place")
    >>> waiter.wait(1.0), waiter.take(), waiter.take(), waiter.is_set()
    (True, 'a place', None, False)
    """

    __slots__ = ("_asleep", "_given")

    def __init__(self) -> None:
        self._given: SimpleQueue[Any] = SimpleQueue()
        self._asleep = threading.Lock()  # who waits waits for this, and who wakes it releases it
        self._asleep.acquire()

    def set(self, gift: object = None) -> None:
        """Wakes the waiting thread, or the next one to wait."""
        try:
            self._given.put(gift)
        finally:  # after an interrupt, too, or it would sleep on with the gift in its hands
            try:  # noqa: SIM105 - suppress() costs more than all the rest
                self._asleep.release()
            except RuntimeError:  # it has been woken already
                pass

    def is_set(self) -> bool:
        """Whether there is something to take."""
        return not self._given.empty()

    def wait(self, timeout: float | None = None, /) -> bool:
        """Waits until it is set, at most ``timeout`` seconds; True if it is."""
        given, asleep = self._given, self._asleep
        if given.empty():
            left = -1.0 if timeout is None else max(timeout, 0.0)
            end = time.monotonic() + left
            asleep.acquire(False)
            while given.empty() and asleep.acquire(True, left):  # more than once if that was for an earlier gift
                left = -1.0 if timeout is None else max(end - time.monotonic(), 0.0)
        return not given.empty()

    def take(self) -> Any:
        """The first thing that it was handed, if any; the wakeups without one that came before are used up."""
        try:
            while (gift := self._given.get_nowait()) is None:
                pass
        except Empty:
            return None
        return gift

    def clear(self) -> None:
        """Takes all, so that it is not set any more."""
        while self.is_set():
            self.take()


class Event:
    """An event that any number of threads wait for: each on a :class:`Waiter` of its own, for the same reason.

    >>> bell = Event()
    >>> bell.set()
    >>> bell.is_set(), bell.wait(1.0)
    (True, True)
    """

    __slots__ = ("_rung", "_waiting")

    def __init__(self) -> None:
        self._rung = False
        self._waiting: set[Waiter] = set()  # whose changes are single C calls

    def set(self) -> None:
        """Wakes all who wait; nobody waits any more."""
        self._rung = True
        for waiter in self._waiting.copy():
            waiter.set()

    def is_set(self) -> bool:
        """Whether it has been set."""
        return self._rung

    def wait(self, timeout: float | None = None, /) -> bool:
        """Waits until it is set, at most ``timeout`` seconds; True if it is."""
        waiter = Waiter()
        try:
            self._waiting.add(waiter)
            # Looked at only now: whoever sets it after this finds the waiter.
            return self._rung or waiter.wait(timeout) or self._rung
        finally:
            self._waiting.discard(waiter)


class Clock(Protocol):
    """What the parts need of time. ``goplugins.testing.ManualClock`` is the one for tests."""

    def monotonic(self) -> float:
        """Seconds since some fixed moment; never goes back."""
        ...

    def time(self) -> float:
        """Seconds since the Unix epoch."""
        ...

    def wait(self, waiter: Waitable, timeout: float | None) -> bool:
        """Waits until ``waiter`` is set, at most ``timeout`` seconds; True if it is set."""
        ...


class SystemClock:
    """The machine's own clock."""

    # Bound as attributes of the class: a call costs one C call and no Python frame.
    monotonic = staticmethod(time.monotonic)
    time = staticmethod(time.time)

    @staticmethod
    def wait(waiter: Waitable, timeout: float | None) -> bool:
        return waiter.wait(timeout)


SYSTEM_CLOCK: Clock = SystemClock()
