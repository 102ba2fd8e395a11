"""The event stream of a manager: sinks on the thread of the call, subscriptions with a thread of their own."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Literal, Self

from goplugins.errors import InvalidArgumentError, belongs_to_host
from goplugins.observability.events import AttemptFinished, CallFinished, Event
from goplugins.runtime.fork import create_lock, register_forkable
from goplugins.runtime.log_throttle import LogThrottle

__all__ = ["EventStream", "Listener", "Sink", "Subscription", "Wanted", "publish"]

logger = logging.getLogger("goplugins.events")

Sink = Callable[[Event], object]
"""Receives events on the thread of the call; must return within a microsecond or two and never block."""

Listener = Callable[[Event], object]
"""Receives events on the thread of its subscription."""

Wanted = Literal["all", "failed", "none"]

_IDLE_SECONDS = 10.0
"""Seconds without events after which a subscription's thread ends."""


def publish(sinks: tuple[Sink, ...], event: Event) -> None:
    """Passes the event to each sink. An exception of a sink is logged, and affects neither other sinks nor the call."""
    for sink in sinks:
        try:
            sink(event)
        except Exception as exc:
            if belongs_to_host(exc):
                raise
            logger.exception("an event sink failed: %r", sink)


class EventStream:
    """Distributes a manager's events to sinks and subscriptions.

    Publishers write ``if stream.calls: publish(stream.calls, ...)``, so that no event is created without a sink.

    Attributes:
        calls: sinks for the ends of all calls.
        failed_calls: sinks for the ends of failed calls; includes those of ``calls``.
        attempts: sinks for the ends of all attempts.
        failed_attempts: sinks for the ends of failed attempts; includes those of ``attempts``.
        changes: sinks for all other events.
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
        self._lock = create_lock(self)

    def attach(
        self, sink: Sink, *, calls: Wanted = "all", attempts: Wanted = "all", changes: bool = True
    ) -> Callable[[], None]:
        """Passes events to ``sink``, on the threads where they occur; returns a function that ends this.

        Args:
            sink: must return within a microsecond or two and never block.
            calls: "all", "failed" or "none": which ends of calls it receives.
            attempts: the same for attempts.
            changes: whether it receives all other events.
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
        """Passes events to ``listener`` on a thread of its own; see :meth:`goplugins.Manager.subscribe`."""
        if not callable(listener):
            raise InvalidArgumentError(f"listener: expected a function of an event, got {listener!r}")
        if not isinstance(buffer, int) or buffer < 1:
            raise InvalidArgumentError(f"buffer: expected an integer of at least 1, got {buffer!r}")
        for kind in kinds:
            if not isinstance(kind, type):
                raise InvalidArgumentError(f"kinds: expected classes of events, got {kind!r}")
        subscription = Subscription(self, listener, tuple(kinds), buffer)
        with self._lock:
            self._subscriptions = (*self._subscriptions, subscription)
        return subscription

    def close(self, timeout: float) -> None:
        """Ends all subscriptions; waits at most ``timeout`` seconds for each to deliver its queued events."""
        with self._lock:
            ending, self._subscriptions = self._subscriptions, ()
        for subscription in ending:
            subscription.close(timeout)


class Subscription:
    """Delivers events to a listener, in their order, on a thread that starts with the first event.

    Publishers never wait: while ``buffer`` events are queued for a slow listener, new ones are dropped, which
    ``dropped`` counts and the log reports.

    Attributes:
        listener: receives the events.
    """

    def __init__(self, stream: EventStream, listener: Listener, kinds: tuple[type, ...], buffer: int) -> None:
        self.listener = listener
        self._kinds = kinds
        self._buffer = buffer
        self._dropped = 0
        self._throttle = LogThrottle()
        self._closed = False
        self._lock = create_lock(self)
        self._start()
        self._detach = stream.attach(
            self.put,
            calls="all" if not kinds or CallFinished in kinds else "none",
            attempts="all" if not kinds or AttemptFinished in kinds else "none",
            changes=not kinds or bool(set(kinds) - {CallFinished, AttemptFinished}),
        )
        register_forkable(self)

    @property
    def dropped(self) -> int:
        """How many events were dropped because the listener was too slow."""
        return self._dropped

    def put(self, event: Event) -> None:
        """Queues the event."""
        if self._closed or (self._kinds and not isinstance(event, self._kinds)):
            return
        if self._events.qsize() >= self._buffer:
            with self._lock:
                self._dropped += 1
            if self._throttle.count() is not None:
                logger.warning("listener %r is too slow; events dropped so far: %d", self.listener, self._dropped)
            return
        self._events.put(event)
        if self._thread is None:
            self._start_thread()

    def close(self, timeout: float = 1.0) -> None:
        """Accepts no more events; waits at most ``timeout`` seconds until the queued ones are delivered.

        Can be called repeatedly, and by the listener itself, where it does not wait.
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
        """Drops the queued events, which the parent delivers; the first event in the child starts a thread."""
        self._start()

    def _start(self) -> None:
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def _start_thread(self) -> None:
        with self._lock:
            if self._thread is not None:
                return
            thread = threading.Thread(target=self._deliver, name="goplugins-events", daemon=True)
            self._thread = thread
        try:
            thread.start()
        except RuntimeError as exc:  # the system has no thread left: the next event tries again
            self._thread = None
            logger.warning("no thread for the events of a subscription: %s", exc)

    def _resume(self) -> bool:
        """Continues on this thread, which was about to end, unless another one has started."""
        with self._lock:
            free = self._thread is None
            if free:
                self._thread = threading.current_thread()
        return free

    def _deliver(self) -> None:
        events = self._events
        while True:
            try:
                event = events.get(timeout=_IDLE_SECONDS)
            except queue.Empty:
                with self._lock:
                    self._thread = None
                if events.empty():
                    return
                if not self._resume():  # an event was queued just before, by a thread that saw this one
                    return
                continue
            if event is None:
                return
            try:
                self.listener(event)
            except Exception:
                logger.exception("an event listener failed: %r", self.listener)
            del event  # or it would be kept alive while this thread waits
