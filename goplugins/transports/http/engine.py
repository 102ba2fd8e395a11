"""What makes exchanges over HTTP: the seam that two engines stand behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import ssl

    from goplugins.runtime.call import Call
    from goplugins.runtime.deadline import Deadline
    from goplugins.transports.connection_pool import ConnectionPool
    from goplugins.transports.http.request import RequestWriter

__all__ = ["FRAMING_ALLOWANCE", "Check", "Engine", "HTTPReply", "Headers"]

FRAMING_ALLOWANCE = 1 << 20
"""Bytes of head, chunk sizes and trailers that a reply may have beyond 8 times its cap (chunks of one byte)."""


class Headers(Mapping[str, str]):
    """Headers by their names in any case, decoded when asked for: a good reply's are not.

    Args:
        raw: by their lower-case names.
    """

    __slots__ = ("_raw",)

    def __init__(self, raw: Mapping[bytes, bytes]) -> None:
        self._raw = raw

    @classmethod
    def of(cls, head: bytes) -> Headers:
        r"""Those of a well-formed head, each line with its end.

        >>> dict(Headers.of(b"HTTP/1.1 200 OK\r\nA: 1\r\nB:\r\na: 2\r\n"))
        {'a': '1, 2', 'b': ''}
        """
        raw: dict[bytes, bytes] = {}
        for line in head.split(b"\r\n")[1:-1]:
            name, _, value = line.partition(b":")
            name, value = name.lower(), value.strip(b" \t")
            raw[name] = b"%b, %b" % (raw[name], value) if name in raw else value
        return cls(raw)

    def __getitem__(self, name: str) -> str:
        return self._raw[name.lower().encode("latin-1")].decode("latin-1")

    def __iter__(self) -> Iterator[str]:
        return (name.decode("latin-1") for name in self._raw)

    def __len__(self) -> int:
        return len(self._raw)


class HTTPReply:
    """A whole reply.

    Args:
        status: as in its first line.
        headers: or its head, well formed, as it came.
        body: decompressed.
        framed: whether the body's end was announced.

    Attributes:
        fields: the JSON object that the body holds, once somebody has read it.
    """

    __slots__ = ("_headers", "body", "fields", "framed", "status")

    def __init__(self, status: int, headers: Mapping[str, str] | bytes, body: bytes, framed: bool) -> None:
        self.status = status
        self._headers = headers
        self.body = body
        self.framed = framed
        self.fields: dict[str, Any] = {}

    @property
    def headers(self) -> Mapping[str, str]:
        """By their names in any case."""
        headers = self._headers
        return Headers.of(headers) if isinstance(headers, bytes) else headers


Check = Callable[["Call", HTTPReply], bool]
"""Looks at a reply before its connection is given back, and says whether that may be used again; what it raises closes
the connection."""


class Engine(Protocol):
    """Makes exchanges with one endpoint: one request out, one whole reply in, before the deadline."""

    def send(self, call: Call, request: RequestWriter, check: Check) -> HTTPReply:
        """One attempt of a call: waits for a connection, connects, sends and reads within its deadline.

        A request that may be sent twice, or was not sent at all, goes out once more on a new connection if the one
        that it was given proves dead; ``call.reconnected`` notes it.

        Raises:
            PluginError: one of the wire's errors.
        """
        ...

    def look(self, request: RequestWriter, deadline: Deadline) -> HTTPReply:
        """Asks for the plugin's health. Does not wait for a free connection.

        Raises:
            PluginError: one of the wire's errors; SaturatedError if no connection is free.
        """
        ...

    def close(self) -> None:
        """Closes idle connections now, those in use when their exchange is over."""
        ...

    def sweep(self) -> None:
        """Closes connections that were idle for too long."""
        ...

    def renew(self, context: ssl.SSLContext) -> None:
        """Uses another TLS context from now on, and no older connection for another exchange."""
        ...

    def after_fork_in_child(self) -> None:
        """Forgets the parent's connections."""
        ...

    @property
    def pool(self) -> ConnectionPool[Any]:
        """What bounds its connections."""
        ...
