"""The bulkhead: how many calls are inside one plugin at once, so that a slow one can't take every thread."""

from __future__ import annotations

import math
import threading
import weakref
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING, Self

from goplugins.config.defaults import setting
from goplugins.config.plugin_sections import DEFAULT_BULKHEAD
from goplugins.errors import (
    BulkheadFullError,
    InvalidArgumentError,
    PluginClosedError,
    PluginError,
)
from goplugins.resilience.adaptive_limit import AdaptiveLimit
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock, Waitable, Waiter
from goplugins.runtime.counter import Counter
from goplugins.runtime.deadline import Deadline
from goplugins.runtime.fork import register_forkable

if TYPE_CHECKING:
    from goplugins.config import BulkheadConfig


# A place that an interrupt took away comes back unannounced, since a finaliser may take no lock: whoever waits
# looks for it this often (seconds). All other places are handed over at once.
_LOOK = 0.5


def load_signal(error: BaseException | None) -> bool | None:
    """What the end of an attempt says of the plugin's load, as :meth:`Bulkhead.release` takes it.

    True for an answer; False for a timeout, a 429 or a 503; None for any other error, whose time says nothing.
    """
    if error is None:
        return True
    return False if isinstance(error, PluginError) and error.overload else None


class _Token:
    """What a place stands on. There are never more than the limit says, those in use and those that are free.

    The bulkhead counts them by weak references only: whoever is interrupted at any moment (Ctrl-C, a worker's time
    limit) and loses a place gives it back by losing it.
    """

    __slots__ = ("__weakref__", "epoch")

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch


class Place:
    """Room for one call. As a context manager it is released at the end of the block, with the block's time."""

    # The token goes from call to call, so it is not what a call gets: one that kept it could give it back twice.
    __slots__ = ("_begun", "bulkhead", "token")

    bulkhead: Bulkhead
    token: _Token | None
    _begun: float

    def __enter__(self) -> Self:
        self._begun = self.bulkhead.clock.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        bulkhead = self.bulkhead
        try:
            bulkhead.release(self, bulkhead.clock.monotonic() - self._begun, load_signal(error))
        except BaseException:
            bulkhead.release(self)  # nothing, if the first time got through
            raise


class _Waiter:
    """A caller in the queue. Once ``served`` it has its token, whatever it does with it."""

    __slots__ = ("served", "token", "wakeup")

    def __init__(self) -> None:
        self.token: _Token | None = None
        self.served = False
        self.wakeup = Waiter()


class Bulkhead:
    """Lets at most ``max_concurrent`` calls in at once; ``max_waiting`` more may wait, and are served as they came.

    With ``adaptive`` the limit moves between ``min_concurrent`` and ``max_concurrent`` with the plugin's latency
    (see :class:`~goplugins.resilience.adaptive_limit.AdaptiveLimit`). Safe to use from many threads; the lock is never
    held over a wait.

    Args:
        config: limits and waiting; a field that is None has its default, and ``max_concurrent`` has none.
        clock: where the time comes from, and what waits.
        name: the plugin's, for errors.
        refused: counts the callers that got no slot; by default a counter of its own.

    Raises:
        InvalidArgumentError: no limit, or one below 1; a lower limit above the upper one; a negative wait.

    >>> from types import SimpleNamespace
    >>> bulkhead = Bulkhead(SimpleNamespace(max_concurrent=2), name="geo")
    >>> with bulkhead.acquire(), bulkhead.acquire():
    ...     bulkhead.acquire()
    Traceback (most recent call last):
    goplugins.errors.BulkheadFullError: [PLUGIN_1218] plugin 'geo': its limit of 2 calls at once is reached, and \
nobody may wait
    >>> bulkhead.in_use, bulkhead.refused
    (0, 1)
    """

    def __init__(
        self, config: BulkheadConfig, *, clock: Clock = SYSTEM_CLOCK, name: str = "", refused: Counter | None = None
    ) -> None:
        self.clock = clock
        self.name = name
        self._now = clock.monotonic
        self._adaptive: AdaptiveLimit | None = None
        self._closed = False
        self._refused = Counter() if refused is None else refused
        self._epoch = 0
        self._reset()
        self._use(config)
        register_forkable(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._tokens: set[weakref.ref[_Token]] = set()
        # What a lost token does: a C function, which no interrupt can break into as it could into a line of ours.
        self._gone = self._tokens.discard
        self._free: list[_Token] = []
        self._waiters: deque[_Waiter] = deque()

    # --- going in ----------------------------------------------------------------------------------------------
    #
    # Taking a free token and giving one back need no lock: a list's pop and append are atomic, and cost a tenth.
    # No hand-over is lost between them. Who gives back looks for waiters after the token is in the list, and who
    # waits looks at the list after it stands in the queue; so one of the two sees the other.

    def acquire(self, deadline: Deadline | None = None, *, closing: Waitable | None = None) -> Place:
        """A place, waiting for it where the configuration allows. Takes the lock unless a place is free.

        Args:
            deadline: the call's; a wait never passes it.
            closing: set when the plugin closes. Whoever sets it calls :meth:`wake` next.

        Raises:
            BulkheadFullError: no place was free, and none came in time. ``details`` has ``limit``, ``in_use`` and
                ``waiting``.
            PluginClosedError: it was closed, or ``closing`` was set during the wait. Nothing is taken then, nor if
                anything else (a KeyboardInterrupt, a worker's time limit) breaks into the wait.
        """
        place = Place()
        place.bulkhead = self
        if self._free and not self._waiters:
            try:
                # Nothing comes between these two: what an interrupt takes away before is lost, hence given back.
                place.token = self._free.pop()
                return place
            except IndexError:
                pass  # another thread was faster
        place.token = None
        waiter: _Waiter | None = None
        try:
            with self._lock:
                self._serve()
                if not self._waiters:
                    place.token = self._take()
                if place.token is None and not self._closed and len(self._waiters) < self._max_waiting:
                    waiter = _Waiter()
                    self._waiters.append(waiter)
                    self._serve()
            if place.token is None:
                place.token = self._wait(waiter, deadline, closing)
        except BaseException:
            place.token = None  # or the traceback would hold it
            self._leave(waiter)
            raise
        return place

    def _wait(self, waiter: _Waiter | None, deadline: Deadline | None, closing: Waitable | None) -> _Token:
        """The token that is handed over. Takes the lock, but not while it waits."""
        cancellation = None if deadline is None else deadline.cancellation
        if waiter is None or cancellation is None:
            self._stand(waiter, deadline, closing)
        else:  # one of two attempts: it may have lost before it has its place
            cancellation.guard(waiter.wakeup.set, lambda: self._stand(waiter, deadline, closing))
        assert waiter is not None  # noqa: S101 - or it was refused
        token, waiter.token = waiter.token, None
        assert token is not None  # noqa: S101 - what served means
        return token

    def _stand(self, waiter: _Waiter | None, deadline: Deadline | None, closing: Waitable | None) -> None:
        """Until the waiter is served, or its attempt cancelled. Takes the lock, but not while it waits."""
        cancellation = None if deadline is None else deadline.cancellation
        latest = self._now() + self._max_wait
        if deadline is not None and deadline.at < latest:
            latest = deadline.at
        while waiter is None or not waiter.served:
            if self._closed or (closing is not None and closing.is_set()):
                raise PluginClosedError("it was closed before the call had its place", plugin=self.name or None)
            if waiter is None:
                raise self._refusal(f"{self.waiting} wait already" if self._max_waiting else "nobody may wait")
            waiter.wakeup.clear()  # before it looks: a change after the look sets it again
            if cancellation is not None and cancellation.cancelled:
                return
            left = latest - self._now()
            with self._lock:
                self._serve()
                late = left <= 0 and not waiter.served
                if late:
                    self._waiters.remove(waiter)
            if late:
                raise self._refusal("no place came free in time")
            if not waiter.served:
                self.clock.wait(waiter.wakeup, min(left, _LOOK))

    def _leave(self, waiter: _Waiter | None) -> None:
        """Out of the queue; what it may have been handed goes on to the next. Takes the lock."""
        with self._lock:
            if waiter is not None:
                waiter.token = None
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
            self._serve()

    def _refusal(self, reason: str) -> BulkheadFullError:
        self._refused.add()
        limit = self._limit
        return BulkheadFullError(
            f"its limit of {limit} calls at once is reached, and {reason}",
            plugin=self.name or None,
            details={"limit": limit, "in_use": self.in_use, "waiting": self.waiting},
        )

    # --- going out ---------------------------------------------------------------------------------------------

    def release(self, place: Place, elapsed: float = 0.0, ok: bool | None = None) -> None:
        """Gives a place back; the longest waiting caller has it next. Takes the lock if somebody waits.

        A second time counts for nothing, and so does a place from before a fork. So whoever is interrupted in here
        may simply call it again; if not, the place comes back once nobody, no traceback either, knows of it.

        Args:
            place: what :meth:`acquire` gave.
            elapsed: seconds that the plugin took, without waits and backoff.
            ok: True if it answered; False if it was overloaded: timed out, or said so; None for an end that says
                nothing of its load. Both matter only with ``adaptive``; see :func:`load_signal`.
        """
        token, place.token = place.token, None
        if token is None or token.epoch != self._epoch:
            return
        try:
            if self._adaptive is not None:
                self._observe(elapsed, ok)
            if len(self._tokens) <= self._limit:
                self._free.append(token)
            if self._waiters or len(self._tokens) > self._limit:
                token = None  # unless it is in the list, it goes
                self._settle()
        except BaseException:
            # An interrupt in the very act: in the list or not, the token is not lost, and nor is who waits for it.
            token = None
            self._settle()
            raise

    def _observe(self, elapsed: float, ok: bool | None) -> None:
        with self._lock:
            if self._adaptive is not None and not self._closed:
                self._adaptive.observe(self._now(), elapsed, ok, self.in_use)
                self._limit = self._adaptive.limit

    def _settle(self) -> None:
        """Takes the lock."""
        with self._lock:
            while len(self._tokens) > self._limit and self._free:
                self._free.pop()  # and it is gone, unless another thread was faster
            self._serve()

    # --- state -------------------------------------------------------------------------------------------------

    def configure(self, config: BulkheadConfig) -> None:
        """Goes by another configuration from now on. Takes the lock.

        Nobody is thrown out: where the limit fell, places are not given again until fewer are in use. Who waits goes
        on waiting as before.

        Raises:
            InvalidArgumentError: as for the class; nothing has changed then.
        """
        with self._lock:
            self._use(config)
        self._settle()

    def wake(self) -> None:
        """Has every waiter look at the clock and at its ``closing`` event again. Takes the lock."""
        with self._lock:
            for waiter in self._waiters:
                waiter.wakeup.set()

    def close(self) -> None:
        """Lets nobody in any more; who waits is refused with a PluginClosedError. Calls inside are not touched."""
        with self._lock:
            self._closed = True
            self._limit = 0
        self._settle()
        self.wake()

    @property
    def limit(self) -> int:
        """How many may be inside now; 0 once closed."""
        return self._limit

    @property
    def in_use(self) -> int:
        """How many places are taken."""
        return max(0, len(self._tokens) - len(self._free))

    @property
    def waiting(self) -> int:
        """How many callers wait for a place."""
        return len(self._waiters)

    @property
    def is_full(self) -> bool:
        """Whether the next caller would be refused."""
        return self.in_use >= self._limit and self.waiting >= self._max_waiting

    @property
    def refused(self) -> int:
        """How many callers were refused for want of a place, at once or after waiting."""
        return self._refused.total

    def after_fork_in_child(self) -> None:
        """A fresh lock, nobody inside and nobody waiting: the parent's calls go on in the parent."""
        self._epoch += 1
        self._reset()

    # --- what follows expects the lock ------------------------------------------------------------------------

    def _use(self, config: BulkheadConfig) -> None:
        high: int | None = setting(config, DEFAULT_BULKHEAD, "max_concurrent")
        low: int = setting(config, DEFAULT_BULKHEAD, "min_concurrent")
        adaptive: bool = setting(config, DEFAULT_BULKHEAD, "adaptive")
        max_waiting: int = setting(config, DEFAULT_BULKHEAD, "max_waiting")
        max_wait: float | None = setting(config, DEFAULT_BULKHEAD, "max_wait")
        wait = math.inf if max_wait is None else max_wait
        if high is None:
            raise InvalidArgumentError("bulkhead: max_concurrent is missing; say how many calls may be inside at once")
        if not (1 <= low <= high or (high >= 1 and not adaptive)) or max_waiting < 0 or not wait >= 0:
            raise InvalidArgumentError(
                f"bulkhead: expected 1 <= min_concurrent <= max_concurrent and waits of 0 or more, got {low}, {high}, "
                f"{max_waiting}, {max_wait}"
            )
        self._max_waiting = max_waiting
        self._max_wait = wait
        if not adaptive:
            self._adaptive = None
        elif self._adaptive is None:
            self._adaptive = AdaptiveLimit(low, high)
        else:
            self._adaptive.bound(low, high)
        self._limit = 0 if self._closed else high if self._adaptive is None else self._adaptive.limit

    def _serve(self) -> None:
        """Hands tokens to those who wait, first come first. Repeated after an interrupt, it goes on where it was."""
        waiters = self._waiters
        while waiters:
            waiter = waiters[0]
            if not waiter.served:
                waiter.token = self._take()
                if waiter.token is None:
                    return
                waiter.served = True  # no call, hence no interrupt, before this line
            waiter.wakeup.set()
            waiters.popleft()

    def _take(self) -> _Token | None:
        """A free token, or a new one while there are fewer than the limit says."""
        try:
            return self._free.pop()
        except IndexError:
            pass
        if len(self._tokens) >= self._limit:
            return None
        token = _Token(self._epoch)
        try:
            self._tokens.add(weakref.ref(token, self._gone))
        except BaseException:
            del token  # or the traceback would hold it
            raise
        return token
