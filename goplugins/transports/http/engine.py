"""The seam between the HTTP plugin and its engines: whole replies, and what makes an exchange."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from goplugins.transports.connection_pool import ConnectionPool

if TYPE_CHECKING:
    import ssl

    from goplugins.runtime.call import Call
    from goplugins.runtime.clock import Clock
    from goplugins.runtime.deadline import Deadline

FRAMING_ALLOWANCE = 1 << 20
"""Bytes of head, chunk sizes and trailers that a reply may have beyond 8 times its cap (chunks of one byte)."""


class Headers(Mapping[str, str]):
    """Headers by their names in any case. Decoded only when read, which a successful reply's are not.

    Args:
        raw: by their lower-case names.
    """

    __slots__ = ("_raw",)

    def __init__(self, raw: Mapping[bytes, bytes]) -> None:
        self._raw = raw

    @classmethod
    def of(cls, head: bytes) -> Headers:
        r"""The headers of a well-formed head, each line with its line end.

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
        status: of its status line.
        headers: parsed, or a well-formed head as received.
        body: decompressed.
        framed: whether a Content-Length or chunked encoding announced the end of the body.

    Attributes:
        fields: the JSON object in the body, once it has been parsed.
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
        if isinstance(headers, bytes):
            headers = self._headers = Headers.of(headers)
        return headers


ReadReply = Callable[[HTTPReply, Any, Any], HTTPReply]
"""Parses a reply to an attempt while its connection is still held; see ``read`` of
:meth:`goplugins.transports.reconnect.Exchanges.run`."""


def unread(reply: HTTPReply, *_: object) -> HTTPReply:
    """The reply as it is: a :data:`ReadReply` for health checks, whose body may be anything."""
    return reply


class Writer(Protocol):
    """Writes the requests of one plugin; see :class:`goplugins.transports.http.request.RequestWriter`."""

    @property
    def health_path(self) -> str: ...
    @property
    def health_headers(self) -> Mapping[str, str]: ...
    @property
    def health_message(self) -> bytes: ...
    def check(self, call: Call, /) -> None: ...
    def parts(self, call: Call, /) -> tuple[str, str, dict[str, str], bytes | None]: ...
    def message(self, call: Call, /) -> bytes: ...
    def encode(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None, /) -> bytes: ...


class Engine(Protocol):
    """Makes exchanges with one endpoint: one request, one whole reply, before the deadline."""

    def send(self, call: Call, request: Writer, read: ReadReply) -> HTTPReply:
        """One attempt of a call: waits for a connection, connects, sends and receives within its deadline.

        Raises:
            PluginError: the exchange failed, or ``read`` raised.
        """
        ...

    def get_health(self, request: Writer, deadline: Deadline) -> HTTPReply:
        """GET of the health path. Does not wait for a free connection.

        Raises:
            PluginError: the exchange failed; SaturatedError if no connection is free.
        """
        ...

    def renew(self, context: ssl.SSLContext) -> None:
        """Uses another TLS context from now on, and no older connection for another exchange."""
        ...

    @property
    def pool(self) -> ConnectionPool[Any]:
        """Its connections, and the bound on their number."""
        ...


def pool_for(connection: Any, clock: Clock, **functions: Any) -> ConnectionPool[Any]:
    """A pool with the limits of a resolved ``connection`` section."""
    return ConnectionPool(
        **functions,
        max_connections=connection.max_connections,
        max_idle=connection.max_idle_connections,
        idle_timeout=connection.idle_timeout,
        max_lifetime=connection.max_lifetime,
        clock=clock,
    )
