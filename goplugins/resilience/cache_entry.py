"""What a plugin's cache holds, and by what it is found again."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

from goplugins.errors import UnserializableRequestError
from goplugins.resilience.copies import Copies
from goplugins.runtime.call import Call

__all__ = ["CacheKeys", "Kept"]

_CREDENTIALS = frozenset({"authorization", "proxy-authorization", "cookie", "x-api-key"})
"""Headers that make an answer one person's own, unless ``vary_headers`` names them."""

_ALWAYS = frozenset({"idempotency-key"})
"""A caller that says this itself tells one deed from another, however alike the requests are."""


class Kept:
    """What the cache holds: an answer with its circumstances.

    Attributes:
        size: about how many bytes it takes, the request that it is found by included.
    """

    __slots__ = ("copies", "member", "metadata", "size")

    def __init__(self, call: Call, copies: Copies) -> None:
        self.copies = copies
        self.member = call.member
        self.metadata = dict(call.reply_metadata)
        self.size = copies.size + len(call.payload) + sum(len(str(item)) for item in self.metadata.items())

    def give(self, call: Call, source: str) -> Any:
        """The answer to another call."""
        call.source = source
        call.member = self.member
        if self.metadata:
            call.reply_metadata = dict(self.metadata)
        return self.copies.take()

    @classmethod
    def of(cls, call: Call, value: Any) -> Kept | None:
        """The answer to a call that has just been made; None if it can't be copied."""
        copies = Copies.of(value)
        return None if copies is None else cls(call, copies)


class CacheKeys:
    """What tells one question to a plugin from another."""

    def __init__(self, vary_headers: Iterable[str]) -> None:
        self._vary = _ALWAYS.union(name.lower() for name in vary_headers)
        self._private = _CREDENTIALS - self._vary

    def of(self, call: Call) -> Hashable:
        """The key; None for a call with credentials of its own, whose answer is nobody else's.

        Raises:
            UnserializableRequestError: the plugin takes objects as they are, and this one has no JSON to go by.
        """
        varied: Hashable = None
        if call.headers:
            headers = [(name.lower(), value) for name, value in call.headers.items()]
            if not self._private.isdisjoint(name for name, _ in headers):
                return None
            varied = tuple(sorted(item for item in headers if item[0] in self._vary)) or None
        metadata = tuple(sorted(call.metadata.items())) if call.metadata else None
        # The codec: two pairs of types may share a plugin, and their answers are of different types.
        return call.payload or (_written(call),), call.key, call.codec, varied, metadata


def _written(call: Call) -> bytes:
    try:
        return call.codec.encode(call.request)
    except UnserializableRequestError as exc:
        raise UnserializableRequestError(f"{exc.message}; a plugin with a cache needs it as JSON") from exc
