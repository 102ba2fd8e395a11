"""The one way of events, from where they happen to who wants to know."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Literal, Self

from goplugins.errors import InvalidArgumentError, belongs_to_host
from goplugins.observability.events import AttemptFinished, CallFinished, Event
from goplugins.runtime.fork import register_forkable

__all__ = ["EventStream", "Listener", "Sink", "Subscription", "Wanted", "hand_out"]

logger = logging.getLogger("goplugins.events")

Sink = Callable[[Event], object]
"""Takes an event on the thread of the call: in a microsecond or two, without waiting for anything."""

Listener = Callable[[Event], object]
"""Takes an event on a thread of its subscription."""

Wanted = Literal["all", "failed", "none"]

_IDLE_SECONDS = 10.0
"""How long a subscription's thread stays without events."""

_COMPLAIN_EVERY = 1000
"""Events lost between two log lines about that."""


def hand_out(sinks: tuple[Sink, ...], event: Event) -> None:
    """Hands the event to each sink. What one raises is logged, and harms neither the others nor the call."""
    for sink in sinks:
        try:
            sink(event)
        except Exception as exc:
            if belongs_to_host(exc):
                raise
            logger.exception("a consumer of events failed: %r", sink)


class EventStream:
    """Carries a manager's events to sinks and subscribers.

    Where something happens, ``if stream.calls: hand_out(stream.calls, ...)`` makes an event only if anybody wants it.

    Attributes:
        calls: who takes every call's end.
        failed_calls: who takes the ends of calls that raised: those of ``calls`` among them.
        attempts: who takes every attempt's end.
        failed_attempts: who takes the ends of failed attempts.
        changes: who takes everything else.
    """

    __slots__ = (
        "__weakref__",
        "_lock",
        "_subscriptions",
        "attempts",
        "calls",
        "changes",
        "failed_attempts",
        "failed_calls",
    )

    def __init__(self) -> None:
        self.calls: tuple[Sink, ...] = ()
        self.failed_calls: tuple[Sink, ...] = ()
        self.attempts: tuple[Sink, ...] = ()
        self.failed_attempts: tuple[Sink, ...] = ()
        self.changes: tuple[Sink, ...] = ()
        self._subscriptions: tuple[Subscription, ...] = ()
        self._lock = threading.Lock()
        register_forkable(self)

    def attach(
        self, sink: Sink, *, calls: Wanted = "all", attempts: Wanted = "all", changes: bool = True
    ) -> Callable[[], None]:
        """Has events handed to ``sink``, on the thread on which they happened, from now on; returns its end.

        Args:
            sink: takes a microsecond or two, and waits for nothing.
            calls: "all", "failed" or "none": which ends of calls it takes.
            attempts: the same of attempts.
            changes: whether it takes everything else.
        """
        wanted = {
            "calls": calls == "all",
            "failed_calls": calls != "none",
            "attempts": attempts == "all",
            "failed_attempts": attempts != "none",
            "changes": changes,
        }
        with self._lock:
            for name, wants in wanted.items():
                if wants:
                    setattr(self, name, (*getattr(self, name), sink))

        def detach() -> None:
            with self._lock:
                for name in wanted:
                    setattr(self, name, tuple(each for each in getattr(self, name) if each is not sink))

        return detach

    def subscribe(self, listener: Listener, kinds: tuple[type, ...] = (), *, buffer: int = 10_000) -> Subscription:
        """Has events handed to ``listener`` on a thread of its own; see :meth:`goplugins.Manager.subscribe`."""
        if not callable(listener):
            raise InvalidArgumentError(f"listener: expected a function of an event, got {listener!r}")
        if not isinstance(buffer, int) or buffer < 1:
            raise InvalidArgumentError(f"buffer: expected an integer of at least 1, got {buffer!r}")
        for kind in kinds:
            if not isinstance(kind, type):
                raise InvalidArgumentError(f"kinds: expected classes of events, got {kind!r}")
        subscription = Subscription(listener, tuple(kinds), buffer)
        subscription._detach = self.attach(
            subscription.take,
            calls="all" if not kinds or CallFinished in kinds else "none",
            attempts="all" if not kinds or AttemptFinished in kinds else "none",
            changes=not kinds or bool(set(kinds) - {CallFinished, AttemptFinished}),
        )
        with self._lock:
            self._subscriptions = (*self._subscriptions, subscription)
        return subscription

    def close(self, timeout: float) -> None:
        """Ends all subscriptions; what they have not handed over yet has ``timeout`` seconds for it."""
        with self._lock:
            ending, self._subscriptions = self._subscriptions, ()
        for subscription in ending:
            subscription.close(timeout)

    def after_fork_in_child(self) -> None:
        """A fresh lock."""
        self._lock = threading.Lock()


class Subscription:
    """A listener that is told of events in their order, on a thread that starts with the first one.

    Nobody waits for it: of a listener that is too slow the newest events are lost once ``buffer`` of them wait, which
    ``dropped`` counts and the log tells.

    Attributes:
        listener: who is told.
    """

    def __init__(self, listener: Listener, kinds: tuple[type, ...], buffer: int) -> None:
        self.listener = listener
        self._kinds = kinds
        self._buffer = buffer
        self._detach: Callable[[], None] = _nothing
        self._dropped = 0
        self._closed = False
        self._begin()
        register_forkable(self)

    @property
    def dropped(self) -> int:
        """How many events were lost since they came faster than the listener takes them."""
        return self._dropped

    def take(self, event: Event) -> None:
        """Puts the event in the queue."""
        if self._closed or (self._kinds and not isinstance(event, self._kinds)):
            return
        if self._events.qsize() >= self._buffer:
            with self._lock:
                self._dropped += 1
                lost = self._dropped
            if lost % _COMPLAIN_EVERY == 1:
                logger.warning("%r is too slow: %d events lost so far", self.listener, lost)
            return
        self._events.put(event)
        if self._thread is None:
            self._start()

    def close(self, timeout: float = 1.0) -> None:
        """Takes no further events; waits at most ``timeout`` seconds until the listener has had those before.

        Harmless when repeated, and within the listener, where it waits for nothing.
        """
        self._closed = True
        self._detach()
        self._events.put(None)
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Subscription of {self.listener!r}: {'closed' if self._closed else 'open'}>"

    def after_fork_in_child(self) -> None:
        """The parent's events are the parent's to tell; the thread starts anew with the child's first one."""
        self._begin()

    def _begin(self) -> None:
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def _start(self) -> None:
        with self._lock:
            if self._thread is not None:
                return
            thread = threading.Thread(target=self._work, name="goplugins-events", daemon=True)
            self._thread = thread
        try:
            thread.start()
        except RuntimeError as exc:  # no thread left: the events wait, and the next one tries again
            self._thread = None
            logger.warning("no thread for a consumer of events: %s", exc)

    def _take_turn(self) -> bool:
        with self._lock:
            free = self._thread is None
            if free:
                self._thread = threading.current_thread()
        return free

    def _work(self) -> None:
        events = self._events
        while True:
            try:
                event = events.get(timeout=_IDLE_SECONDS)
            except queue.Empty:
                with self._lock:
                    self._thread = None
                if events.empty():
                    return
                if not self._take_turn():  # one came at the last moment, and saw a thread
                    return
                continue
            if event is None:
                return
            try:
                self.listener(event)
            except Exception:
                logger.exception("a consumer of events failed: %r", self.listener)
            del event  # or the last one would live for as long as this thread waits


def _nothing() -> None:
    pass
