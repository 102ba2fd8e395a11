"""Deadlines: the moment that bounds everything a call does, and the block that sets one for several calls."""

from __future__ import annotations

import threading
import weakref
from contextvars import ContextVar, Token
from types import TracebackType

from goplugins.errors import InvalidArgumentError
from goplugins.runtime.cancellation import Cancellation
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock

__all__ = ["AttemptDeadline", "CancellableDeadline", "Deadline", "deadline"]

_new = object.__new__


class Deadline:
    """A moment on a clock's monotonic scale.

    >>> from goplugins.testing import ManualClock
    >>> clock = ManualClock()
    >>> limit = Deadline.after(2.0, clock)
    >>> clock.advance(0.5)
    >>> limit.remaining()
    1.5
    """

    __slots__ = ("at", "clock")

    # Class attributes, which cost other deadlines nothing: only those of hedged attempts can be cancelled, and only an
    # AttemptDeadline has a timeout.
    cancellation: Cancellation | None = None
    attempt_timeout: float | None = None

    def __init__(self, at: float, clock: Clock = SYSTEM_CLOCK) -> None:
        self.at = at
        self.clock = clock

    @classmethod
    def after(cls, seconds: float, clock: Clock = SYSTEM_CLOCK) -> Deadline:
        """The deadline ``seconds`` from now, or the enclosing :class:`deadline` block's if that is earlier."""
        at = clock.monotonic() + seconds
        enclosing = _enclosing.get()
        if enclosing is not None:
            standing = enclosing.standing()
            if standing is not enclosing:
                _enclosing.set(standing)  # or contexts copied from this one would keep a block that has ended
            if standing is not None and standing.at < at:
                at = standing.at
        made = _new(cls)  # as cls(at, clock), without its call of __init__: a third of the cost
        made.at = at
        made.clock = clock
        return made

    def remaining(self) -> float:
        """Seconds left; zero or less once it has passed."""
        return self.at - self.clock.monotonic()

    @property
    def of_call(self) -> Deadline:
        """The deadline of the whole call, which bounds waits for what this process lacks: a connection, a token."""
        return self

    def restart(self) -> None:
        """Such a wait is over: the time of an :class:`AttemptDeadline` begins again."""

    def __repr__(self) -> str:
        return f"<Deadline in {self.remaining():.3f} s>"


class CancellableDeadline(Deadline):
    """A deadline whose attempt can be cancelled, wherever it waits."""

    __slots__ = ("cancellation",)

    def __init__(self, at: float, clock: Clock, cancellation: Cancellation) -> None:
        super().__init__(at, clock)
        self.cancellation = cancellation


class AttemptDeadline(Deadline):
    """The deadline of one attempt: ``seconds`` from now, or that of what it belongs to if that is earlier.

    Attributes:
        attempt_timeout: the seconds that it follows from; None if the call's deadline is earlier.

    >>> from goplugins.testing import ManualClock
    >>> clock = ManualClock()
    >>> limit = AttemptDeadline(Deadline.after(2.0, clock), 0.5)
    >>> clock.advance(1.75)  # the attempt waits for a connection
    >>> limit.restart()
    >>> limit.remaining(), limit.attempt_timeout
    (0.25, None)
    """

    __slots__ = ("_outer", "_seconds", "attempt_timeout", "cancellation")

    def __init__(self, outer: Deadline, seconds: float) -> None:
        super().__init__(outer.at, outer.clock)
        self._outer = outer
        self._seconds = seconds
        self.cancellation = outer.cancellation
        self.restart()

    @property
    def of_call(self) -> Deadline:
        return self._outer.of_call

    def restart(self) -> None:
        outer = self._outer
        outer.restart()
        at = self.clock.monotonic() + self._seconds
        self.at, self.attempt_timeout = (at, self._seconds) if at < outer.at else (outer.at, outer.attempt_timeout)


class _Enclosing:
    """A block's deadline in the context variable, which copied contexts keep after the block's end.

    On the block's own thread it is valid only while the block object exists. An interrupt (Ctrl-C, a task's time limit)
    can hit after the variable is set and before the ``with`` statement is entered, and a deadline that is never reset
    would end every later call on that thread.
    """

    __slots__ = ("at", "block", "outer", "thread")

    def __init__(self, at: float, block: deadline, outer: _Enclosing | None) -> None:
        self.at = at
        self.block = weakref.ref(block)
        self.outer = outer
        self.thread = threading.get_ident()

    def standing(self) -> _Enclosing | None:
        """This, or the next enclosing one whose block still exists."""
        found: _Enclosing | None = self
        while found is not None and found.thread == threading.get_ident() and found.block() is None:
            found = found.outer
        return found


_enclosing: ContextVar[_Enclosing | None] = ContextVar("goplugins_deadline", default=None)


class deadline:  # noqa: N801 - used as a statement: with deadline(2.0):
    """Bounds every plugin call made within the block, on this thread and on workers that copy its context.

    Blocks nest, and an inner block can only shorten the time of an outer one.

    Args:
        seconds: for all calls of the block together, from its start; more than 0.
        clock: the clock of the managers called within.

    Raises:
        InvalidArgumentError: ``seconds`` is not a positive number.

    >>> with deadline(5.0):
    ...     with deadline(60.0) as inner:
    ...         inner.remaining() <= 5.0
    True
    """

    __slots__ = ("__weakref__", "_clock", "_seconds", "_token")

    def __init__(self, seconds: float, *, clock: Clock = SYSTEM_CLOCK) -> None:
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds > 0:
            raise InvalidArgumentError(f"deadline: expected a number of seconds greater than 0, got {seconds!r}")
        self._seconds = seconds
        self._clock = clock
        self._token: Token[_Enclosing | None] | None = None

    def __enter__(self) -> Deadline:
        if self._token is not None:
            raise InvalidArgumentError("deadline: a block can be entered once; make another one")
        limit = Deadline.after(self._seconds, self._clock)
        outer = _enclosing.get()
        self._token = _enclosing.set(_Enclosing(limit.at, self, None if outer is None else outer.standing()))
        return limit

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._token is not None:
            _enclosing.reset(self._token)
