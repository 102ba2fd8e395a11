"""Lists that a service returns page by page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic, Self, TypeVar

from goplugins.errors import BadReplyError, ReplyTypeError
from goplugins.models.results import Page

__all__ = ["Pages"]

T = TypeVar("T")

_NO_ITEMS: Iterator[Any] = iter(())


class Pages(Generic[T]):
    """The items of all pages, in order. Each page is fetched by a call of its own when its first item is needed.

    After an error, the iteration can be continued: the page whose call failed is fetched again. In another process,
    pass :attr:`cursor` to ``pages`` as ``cursor=``.

    Attributes:
        cursor: where the page of the next item begins; empty for the first page, None after the last item.
    """

    def __init__(self, fetch: Callable[[str], Any], cursor: str) -> None:
        self._fetch = fetch
        self._items: Iterator[T] = _NO_ITEMS
        self._next: str | None = cursor
        self._seen = {cursor}
        self.cursor: str | None = cursor

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        """The next item.

        Raises:
            PluginError: the call for the next page failed, or its answer is no page of a list.
        """
        while True:
            for item in self._items:
                return item
            self.cursor = start = self._next
            if start is None:
                raise StopIteration
            self._items, self._next = self._page(start)

    def _page(self, start: str) -> tuple[Iterator[T], str | None]:
        """The items of the page that begins at ``start``, and where the next one begins."""
        found = self._fetch(start)
        items, following = (found.items, found.next) if isinstance(found, Page) else (found, "")
        if items is None:
            items = ()
        if not isinstance(items, list | tuple):
            kind = type(items).__name__
            message = f"a page is a list, got a {kind}: set result in the operation, and bind list[...] as the answer"
            raise ReplyTypeError(message)
        if not following:
            return iter(items), None
        if following in self._seen:
            raise BadReplyError(f"the pages repeat: after {start[:100]!r} comes {following[:100]!r} again")
        self._seen.add(following)
        return iter(items), following

    def __repr__(self) -> str:
        return f"<Pages: next page at {self.cursor!r}>"
