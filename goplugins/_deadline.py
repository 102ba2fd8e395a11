"""Deadlines: one monotonic moment that bounds all that a call does, and the block that sets one for many calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from goplugins._clock import SYSTEM_CLOCK, Clock
from goplugins.errors import InvalidArgumentError

__all__ = ["Deadline", "deadline"]

# A child task or thread that copies the context inherits the moment, not the duration.
_enclosing: ContextVar[float | None] = ContextVar("goplugins_deadline", default=None)


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

    def __init__(self, at: float, clock: Clock = SYSTEM_CLOCK) -> None:
        self.at = at
        self.clock = clock

    @classmethod
    def after(cls, seconds: float, clock: Clock = SYSTEM_CLOCK) -> Deadline:
        """The deadline ``seconds`` from now, or the enclosing :func:`deadline` block's if that is earlier."""
        at = clock.monotonic() + seconds
        enclosing = _enclosing.get()
        return cls(at if enclosing is None or at < enclosing else enclosing, clock)

    def remaining(self) -> float:
        """Seconds left; zero or less once it has passed."""
        return self.at - self.clock.monotonic()

    def __repr__(self) -> str:
        return f"<Deadline in {self.remaining():.3f} s>"


@contextmanager
def deadline(seconds: float, *, clock: Clock = SYSTEM_CLOCK) -> Iterator[Deadline]:
    """Bounds every plugin call made within the block, on this thread and on workers that copy its context.

    Blocks nest and only shorten: an inner block can't outlive an outer one.

    Args:
        seconds: how long the block's calls may take together; more than 0.
        clock: the clock of the managers called within.

    Raises:
        InvalidArgumentError: ``seconds`` is not a positive number.

    >>> with deadline(5.0):
    ...     with deadline(60.0) as inner:
    ...         inner.remaining() <= 5.0
    True
    """
    if not seconds > 0:
        raise InvalidArgumentError(f"deadline: expected a number of seconds greater than 0, got {seconds!r}")
    limit = Deadline.after(seconds, clock)
    token = _enclosing.set(limit.at)
    try:
        yield limit
    finally:
        _enclosing.reset(token)
