"""Clocks, and the objects that threads wait for. Everything that waits or measures time takes a :class:`Clock`."""

from __future__ import annotations

import threading
import time
from queue import Empty, SimpleQueue
from typing import Any, Protocol

__all__ = ["SYSTEM_CLOCK", "Clock", "Event", "SystemClock", "Waitable", "Waiter"]


class Waitable(Protocol):
    """An object that a thread can wait for: a :class:`Waiter`, an :class:`Event`, a ``threading.Event``."""

    def is_set(self) -> bool: ...

    def wait(self, timeout: float | None = None, /) -> bool: ...


class Waiter:
    """Wakes the one thread that waits for it, and passes it items.

    ``threading.Event`` is Python code around a lock: a signal handler that raises within it (Ctrl-C, a worker's time
    limit) can leave the lock held, so that the next ``set()`` hangs. A Waiter consists of single C calls, between
    which nothing is held; even a finaliser may set it.

    Its thread does not wait in ``SimpleQueue.get``: with a timeout, that waits without end if the thread loses the
    processor for that long at its start (CPython 3.11, 3.12), or if a signal handler takes longer than the rest of
    the timeout.

    >>> waiter = Waiter()
    >>> waiter.set("a connection")
    >>> waiter.wait(1.0), waiter.take(), waiter.take(), waiter.is_set()
    (True, 'a connection', None, False)
    """

    __slots__ = ("_asleep", "_items")

    def __init__(self) -> None:
        self._items: SimpleQueue[Any] = SimpleQueue()
        self._asleep = threading.Lock()  # acquired to wait, released to wake
        self._asleep.acquire()

    def set(self, item: object = None) -> None:
        """Wakes the waiting thread, or the next one to wait."""
        try:
            self._items.put(item)
        finally:  # after an interrupt, too, or the thread would sleep on beside its item
            try:  # noqa: SIM105 - suppress() costs more than all the rest
                self._asleep.release()
            except RuntimeError:  # it was woken already
                pass

    def is_set(self) -> bool:
        """Whether there is an item, be it None."""
        return not self._items.empty()

    def wait(self, timeout: float | None = None, /) -> bool:
        """Waits until it is set, at most ``timeout`` seconds; True if it is."""
        items, asleep = self._items, self._asleep
        if items.empty():
            left = -1.0 if timeout is None else max(timeout, 0.0)
            end = time.monotonic() + left
            asleep.acquire(False)
            while items.empty() and asleep.acquire(True, left):  # again if that was a late release of an earlier set()
                left = -1.0 if timeout is None else max(end - time.monotonic(), 0.0)
        return not items.empty()

    def take(self) -> Any:
        """Removes and returns the first item that is not None; None if there is none."""
        try:
            while (item := self._items.get_nowait()) is None:
                pass
        except Empty:
            return None
        return item

    def clear(self) -> None:
        """Removes all items, so that it is not set any more."""
        while self.is_set():
            self.take()


class Event:
    """An event that any number of threads wait for, each on a :class:`Waiter` of its own. It stays set.

    >>> event = Event()
    >>> event.set()
    >>> event.is_set(), event.wait(1.0)
    (True, True)
    """

    __slots__ = ("_is_set", "_waiting")

    def __init__(self) -> None:
        self._is_set = False
        self._waiting: set[Waiter] = set()  # whose changes are single C calls

    def set(self) -> None:
        """Wakes all waiting threads; later waits return at once."""
        self._is_set = True
        for waiter in self._waiting.copy():
            waiter.set()

    def is_set(self) -> bool:
        """Whether it has been set."""
        return self._is_set

    def wait(self, timeout: float | None = None, /) -> bool:
        """Waits until it is set, at most ``timeout`` seconds; True if it is."""
        waiter = Waiter()
        try:
            self._waiting.add(waiter)
            # Read only now: a set() after this finds the waiter.
            return self._is_set or waiter.wait(timeout) or self._is_set
        finally:
            self._waiting.discard(waiter)


class Clock(Protocol):
    """A source of time. ``goplugins.testing.ManualClock`` is the one for tests."""

    def monotonic(self) -> float:
        """Seconds since an unspecified moment; never decreases."""
        ...

    def time(self) -> float:
        """Seconds since the Unix epoch."""
        ...

    def wait(self, waiter: Waitable, timeout: float | None) -> bool:
        """Waits until ``waiter`` is set, at most ``timeout`` seconds; True if it is set."""
        ...


class SystemClock:
    """The machine's clock."""

    # The C functions themselves: a call costs no Python frame.
    monotonic = staticmethod(time.monotonic)
    time = staticmethod(time.time)

    @staticmethod
    def wait(waiter: Waitable, timeout: float | None) -> bool:
        return waiter.wait(timeout)


SYSTEM_CLOCK: Clock = SystemClock()


def wall_time() -> float:
    """Seconds since the epoch as the system has them, for C libraries: also where a test has frozen Python's clocks."""
    return time.clock_gettime(time.CLOCK_REALTIME)
