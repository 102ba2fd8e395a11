"""Deadline and id that a web request or task sets for its plugin calls."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import TracebackType

import attrs

from goplugins.config.durations import parse_duration
from goplugins.doctor.this_process import server_limit
from goplugins.errors import InvalidArgumentError
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock
from goplugins.runtime.deadline import Deadline, deadline
from goplugins.runtime.request_ids import RequestIds, serving

__all__ = ["GRPC_TIMEOUT", "Block", "Limits", "Scope", "grpc_timeout", "header_timeout", "usable_request_id"]

GRPC_TIMEOUT = "grpc-timeout"
"""The header with a notation of its own."""

_GRPC_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])")
_GRPC_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_SECONDS = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/=+@~-]{1,128}")
_LEAST = 1e-6
"""Seconds; stands for a deadline that has passed: calls are then refused before anything is sent."""

_new_id = RequestIds()


def grpc_timeout(text: str) -> float | None:
    """Seconds of a ``grpc-timeout``; None if it is invalid or 0.

    >>> grpc_timeout("500m"), grpc_timeout("2S"), grpc_timeout("0S"), grpc_timeout("soon")
    (0.5, 2.0, None, None)
    """
    found = _GRPC_TIMEOUT.fullmatch(text.strip(" \t"))
    return None if found is None else int(found[1]) * _GRPC_UNITS[found[2]] or None


def header_timeout(text: str) -> float | None:
    """Seconds of an ``X-Request-Timeout``: plain seconds or a Go duration; None if it is invalid or 0.

    >>> header_timeout("2.5"), header_timeout("1m30s"), header_timeout("0"), header_timeout("-1s")
    (2.5, 90.0, None, None)
    """
    text = text.strip(" \t")
    if _SECONDS.fullmatch(text):
        return float(text) or None
    try:
        seconds = parse_duration(text)
    except InvalidArgumentError:  # ignored
        return None
    return seconds if seconds > 0 else None


def usable_request_id(text: str | None) -> str | None:
    """The id if it is safe in logs and headers; None if it is too long or has other characters.

    >>> usable_request_id("order-7"), usable_request_id("7; Set-Cookie: a=b"), usable_request_id("x" * 200)
    ('order-7', None, None)
    """
    return text if text and _REQUEST_ID.fullmatch(text) else None


class Block:
    """Context manager: calls inside it have a request's deadline and id. Entered once."""

    __slots__ = ("_deadline", "_serving")

    def __init__(self, request_id: str | None, seconds: float | None, clock: Clock) -> None:
        self._serving = serving(request_id)
        self._deadline = None if seconds is None else deadline(max(seconds, _LEAST), clock=clock)

    def __enter__(self) -> None:
        self._serving.__enter__()
        if self._deadline is not None:
            self._deadline.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._deadline is not None:
            self._deadline.__exit__(kind, error, trace)
        self._serving.__exit__(kind, error, trace)


class Scope:
    """One request.

    Args:
        request_id: prefix of its calls' ids; None for no prefix.
        client_timeout: seconds until the last byte of the answer must be sent, by the client's header or the
            server's limit for a worker. None for no limit.
        timeout: seconds until the answer begins, by the application's settings.

    Attributes:
        request_id: see above.
    """

    __slots__ = ("_clock", "_end", "_timeout", "request_id")

    def __init__(
        self, request_id: str | None, client_timeout: float | None, timeout: float | None, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self.request_id = request_id
        self._clock = clock
        self._end = None if client_timeout is None else Deadline.after(client_timeout, clock)
        self._timeout = timeout

    def answering(self) -> Block:
        """The part from the request to its answer."""
        limits = [each for each in (self._timeout, self._client_timeout()) if each is not None]
        return Block(self.request_id, min(limits, default=None), self._clock)

    def streaming(self) -> Block:
        """One step of a streamed answer, which may take longer than ``timeout``."""
        return Block(self.request_id, self._client_timeout(), self._clock)

    def _client_timeout(self) -> float | None:
        return None if self._end is None else self._end.remaining()


@attrs.frozen
class Limits:
    """How requests of an application bound their calls.

    Attributes:
        timeout: seconds for a request until its answer; None for no limit.
        timeout_headers: names of headers by which clients may shorten that.
        request_id_header: the header of a request's id; empty for none.
        clock: the clock of the managers.
    """

    timeout: float | None = None
    timeout_headers: tuple[str, ...] = ("X-Request-Timeout", GRPC_TIMEOUT)
    request_id_header: str = "X-Request-ID"
    clock: Clock = SYSTEM_CLOCK

    def scope(self, header: Callable[[str], str | None]) -> Scope:
        """The scope of a request; ``header`` returns one of its headers by name."""
        timeouts = [server_limit()]
        for name in self.timeout_headers:
            text = header(name)
            if text is not None:
                timeouts.append(grpc_timeout(text) if name.lower() == GRPC_TIMEOUT else header_timeout(text))
        request_id = None
        if self.request_id_header:
            request_id = usable_request_id(header(self.request_id_header)) or _new_id()
        shortest = min((each for each in timeouts if each is not None), default=None)
        return Scope(request_id, shortest, self.timeout, self.clock)
