"""Cache entries, their keys, and values that are copied for each caller."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Hashable, Iterable
from functools import partial
from typing import Any

from goplugins.errors import UnserializableRequestError, belongs_to_host
from goplugins.runtime.call import Call

_CREDENTIALS = frozenset({"authorization", "cookie", "proxy-authorization", "x-api-key"})
"""Headers whose calls are not cached, unless ``vary_headers`` names them: the response is one user's."""

_ALWAYS = frozenset({"idempotency-key"})
"""Always part of the key: a caller that sets it distinguishes calls whose requests are equal."""

_IMMUTABLE = frozenset({type(None), bool, int, float, str, bytes})


class CopyableValue:
    """A value of which each caller gets a copy.

    Immutable values are shared. All others are pickled once and unpickled for each caller: that is three to nine
    times as fast as ``copy.deepcopy``, and one and a half to four times as fast as decoding the reply again. A value
    that can't be pickled, such as an object of a class within a function, is copied by ``deepcopy``.

    Attributes:
        copy: returns a value equal to the given one, and shared with no other caller.
        size: its size in bytes; 0 where that is unknown.

    >>> value = CopyableValue.of({"roles": ["admin"]})
    >>> value.copy()["roles"].append("mine")
    >>> value.copy()
    {'roles': ['admin']}
    >>> CopyableValue.of(letter for letter in "abc") is None
    True
    """

    __slots__ = ("copy", "size")

    def __init__(self, copy: Callable[[], Any], size: int) -> None:
        self.copy = copy
        self.size = size

    @classmethod
    def of(cls, value: Any) -> CopyableValue | None:
        """None for a value that can't be copied at all, such as a generator or an open file."""
        if type(value) in _IMMUTABLE:
            return cls(lambda: value, len(value) if isinstance(value, str | bytes) else 0)
        try:
            data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
            pickle.loads(data)  # noqa: S301 - our own; some classes fail only here
            return cls(partial(pickle.loads, data), len(data))
        except Exception as exc:  # a class's own code may raise anything
            if belongs_to_host(exc):
                raise
        try:
            return cls(partial(copy.deepcopy, copy.deepcopy(value)), 0)
        except Exception as exc:
            if belongs_to_host(exc):
                raise
            return None


class CacheEntry:
    """A cached response with its metadata.

    Attributes:
        size: approximate size in bytes, the request in its key included.
    """

    __slots__ = ("member", "metadata", "size", "value")

    def __init__(self, call: Call, value: CopyableValue) -> None:
        self.value = value
        self.member = call.member
        self.metadata = dict(call.reply_metadata)
        self.size = value.size + len(call.payload) + sum(len(str(item)) for item in self.metadata.items())

    def respond(self, call: Call, source: str) -> Any:
        """The response to another call; sets that call's ``source``, ``member`` and ``reply_metadata``."""
        call.source = source
        call.member = self.member
        if self.metadata:
            call.reply_metadata = dict(self.metadata)
        return self.value.copy()

    @classmethod
    def of(cls, call: Call, value: Any) -> CacheEntry | None:
        """An entry for the response ``value`` of ``call``; None if it can't be copied."""
        copyable = CopyableValue.of(value)
        return None if copyable is None else cls(call, copyable)


class CacheKeys:
    """Computes the cache keys of a plugin's calls."""

    def __init__(self, vary_headers: Iterable[str]) -> None:
        self._vary = _ALWAYS.union(name.lower() for name in vary_headers)
        self._private = _CREDENTIALS - self._vary

    def of(self, call: Call) -> Hashable:
        """The key; None for a call with credentials of its own, whose response must not be shared.

        Raises:
            UnserializableRequestError: the plugin takes objects as they are, and this one can't be written as JSON.
        """
        varied: Hashable = None
        if call.headers:
            headers = [(name.lower(), value) for name, value in call.headers.items()]
            if not self._private.isdisjoint(name for name, _ in headers):
                return None
            varied = tuple(sorted(item for item in headers if item[0] in self._vary)) or None
        metadata = tuple(sorted(call.metadata.items())) if call.metadata else None
        # The codec is part of the key: two type pairs may share a plugin, and their responses differ in type.
        # A prepared request has its path, which the payload lacks; one of a group is prepared by the member.
        sent = call.prepared or call.payload or (_encoded(call),)
        return sent, call.key, call.codec, varied, metadata, call.operation, call.page


def _encoded(call: Call) -> bytes:
    try:
        return call.codec.encode(call.request)
    except UnserializableRequestError as exc:
        raise UnserializableRequestError(f"{exc.message}; a plugin with a cache needs it as JSON") from exc
