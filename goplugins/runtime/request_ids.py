"""Request ids that never repeat, across threads and processes."""

from __future__ import annotations

import itertools
import os
from contextvars import ContextVar, Token
from types import TracebackType

from goplugins.runtime.fork import register_forkable

__all__ = ["RequestIds", "current_request_id", "serving"]

_served: ContextVar[str | None] = ContextVar("goplugins_request_id", default=None)


def current_request_id() -> str | None:
    """The id of the request that is being served here, if a host has said so."""
    return _served.get()


class serving:  # noqa: N801 - used as a statement: with serving(request_id):
    """Has the ids of all calls made within the block begin with the id of the request that they are made for.

    They don't become that id: a reply is told from another one by its id, and an idempotent call is recognised by it,
    so two calls of one request must not share theirs.

    Args:
        request_id: printable ASCII; None changes nothing.

    >>> make = RequestIds()
    >>> with serving("order-7"):
    ...     make().startswith("order-7.")
    True
    """

    __slots__ = ("_request_id", "_token")

    def __init__(self, request_id: str | None) -> None:
        self._request_id = request_id
        self._token: Token[str | None] | None = None

    def __enter__(self) -> None:
        if self._request_id is not None:
            self._token = _served.set(self._request_id)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._token is not None:
            _served.reset(self._token)


class RequestIds:
    """Makes ids from 96 random bits of this source and process, and a count. One id costs a fraction of a microsecond.

    >>> make = RequestIds()
    >>> make() != make()
    True
    """

    def __init__(self) -> None:
        self.after_fork_in_child()
        register_forkable(self)

    def __call__(self) -> str:
        served = _served.get()
        # next() on a count is one C call, so threads can't draw the same number.
        if served is None:
            return f"{self._prefix}{next(self._numbers)}"  # decimal: hex costs as much again as all the rest
        return f"{served}.{self._prefix}{next(self._numbers)}"

    def after_fork_in_child(self) -> None:
        """New random bits: the child's count starts where the parent's stood."""
        self._prefix = os.urandom(12).hex() + "-"
        self._numbers = itertools.count(1)
