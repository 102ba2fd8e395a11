"""Request ids that never repeat, across threads and processes."""

from __future__ import annotations

import itertools
import os
from contextvars import ContextVar, Token
from types import TracebackType

from goplugins.runtime.fork import register_forkable

_served: ContextVar[str | None] = ContextVar("goplugins_request_id", default=None)


def current_request_id() -> str | None:
    """The id of the request that is being served in this context; None outside :class:`serving`."""
    return _served.get()


class serving:  # noqa: N801 - used as a statement: with serving(request_id):
    """Within the block, the ids of calls begin with the id of the request that they are made for.

    They are not equal to it: replies are matched by their ids, and idempotent calls are recognised by them, so that
    two calls for one request need different ids.

    Args:
        request_id: printable ASCII; with None the block has no effect.

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
    """Makes ids from 96 random bits, drawn once for each object and process, and a count. Takes under a microsecond.

    >>> make = RequestIds()
    >>> make() != make()
    True
    """

    def __init__(self) -> None:
        self.after_fork_in_child()
        register_forkable(self)

    def __call__(self) -> str:
        served = _served.get()
        # next() on a count is one C call: two threads can't get the same number.
        if served is None:
            return f"{self._prefix}{next(self._numbers)}"  # decimal: hex would double the cost
        return f"{served}.{self._prefix}{next(self._numbers)}"

    def after_fork_in_child(self) -> None:
        """Draws new random bits: parent and child go on from the same count."""
        self._prefix = os.urandom(12).hex() + "-"
        self._numbers = itertools.count(1)
