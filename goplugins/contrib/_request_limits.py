"""What a host's request says of the calls that are made for it: how long they may take, and under which id."""

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
"""The header whose notation differs from all others'."""

_GRPC_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])")
_GRPC_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_SECONDS = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/=+@~-]{1,128}")
_LEAST = 1e-6
"""Seconds. What stands for a deadline that has passed: calls are refused before anything is sent."""

_new_id = RequestIds()


def grpc_timeout(text: str) -> float | None:
    """Seconds of a ``grpc-timeout``; None if it is none, or nothing.

    >>> grpc_timeout("500m"), grpc_timeout("2S"), grpc_timeout("0S"), grpc_timeout("soon")
    (0.5, 2.0, None, None)
    """
    found = _GRPC_TIMEOUT.fullmatch(text.strip(" \t"))
    return None if found is None else int(found[1]) * _GRPC_UNITS[found[2]] or None


def header_timeout(text: str) -> float | None:
    """Seconds of an ``X-Request-Timeout``: plain seconds or a Go duration; None if it is neither, or nothing.

    >>> header_timeout("2.5"), header_timeout("1m30s"), header_timeout("0"), header_timeout("-1s")
    (2.5, 90.0, None, None)
    """
    text = text.strip(" \t")
    if _SECONDS.fullmatch(text):
        return float(text) or None
    try:
        seconds = parse_duration(text)
    except InvalidArgumentError:  # whoever sends nonsense has no wish that could be met
        return None
    return seconds if seconds > 0 else None


def usable_request_id(text: str | None) -> str | None:
    """An id that may stand in logs and headers; None for one that is too long, or has characters that don't belong.

    >>> usable_request_id("order-7"), usable_request_id("7; Set-Cookie: a=b"), usable_request_id("x" * 200)
    ('order-7', None, None)
    """
    return text if text and _REQUEST_ID.fullmatch(text) else None


class Block:
    """Within it, calls go by a request's deadline and id. Entered once."""

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
        request_id: what its calls' ids begin with; None leaves them alone.
        patience: seconds for which somebody waits for its answer, the last byte included: the caller, or the server
            that would end the worker. None for as long as it takes.
        timeout: seconds that the host gives it until it answers.

    Attributes:
        request_id: see above.
    """

    __slots__ = ("_clock", "_end", "_timeout", "request_id")

    def __init__(
        self, request_id: str | None, patience: float | None, timeout: float | None, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self.request_id = request_id
        self._clock = clock
        self._end = None if patience is None else Deadline.after(patience, clock)
        self._timeout = timeout

    def answering(self) -> Block:
        """From the request to its answer."""
        limits = [each for each in (self._timeout, self._patience()) if each is not None]
        return Block(self.request_id, min(limits, default=None), self._clock)

    def streaming(self) -> Block:
        """A step of an answer that is made while it is sent. That may rightly take longer than an answer."""
        return Block(self.request_id, self._patience(), self._clock)

    def _patience(self) -> float | None:
        return None if self._end is None else self._end.remaining()


@attrs.frozen
class Limits:
    """By which rules a host's requests bound their calls.

    Attributes:
        timeout: seconds for a request, until it answers; None sets no limit of our own.
        timeout_headers: names of headers by which callers may shorten that.
        request_id_header: the header that brings a request's id, and takes it back; empty for none.
        clock: the managers'.
    """

    timeout: float | None = None
    timeout_headers: tuple[str, ...] = ("X-Request-Timeout", GRPC_TIMEOUT)
    request_id_header: str = "X-Request-ID"
    clock: Clock = SYSTEM_CLOCK

    def scope(self, header: Callable[[str], str | None]) -> Scope:
        """A request's; ``header`` looks one of its headers up by name."""
        patience = [server_limit()]
        for name in self.timeout_headers:
            text = header(name)
            if text is not None:
                patience.append(grpc_timeout(text) if name.lower() == GRPC_TIMEOUT else header_timeout(text))
        request_id = None
        if self.request_id_header:
            request_id = usable_request_id(header(self.request_id_header)) or _new_id()
        shortest = min((each for each in patience if each is not None), default=None)
        return Scope(request_id, shortest, self.timeout, self.clock)
