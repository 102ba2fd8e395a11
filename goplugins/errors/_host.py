"""Exceptions of the host application that arrive in the middle of a call: they are no failure of a plugin."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import functools
import signal
import sys
import threading
from collections.abc import Iterator
from types import CodeType, TracebackType
from typing import Any

_PACKAGES = frozenset({"billiard", "celery", "dramatiq", "eventlet", "gevent", "huey", "rq"})
"""Packages that raise exceptions in running code, also by means that leave no trace."""

_SIGNALS = tuple(signal.valid_signals())

_MAX_DEPTH = 8
"""Causes of causes that are followed."""


def belongs_to_host(exc: BaseException) -> bool:
    """True for an exception that the host application raises in running code, such as a Celery task's time limit.

    That is any exception of a signal handler, whatever its class: a TimeoutError of SIGALRM is not the plugin's. One
    that another thread sends is recognised by its package. Such an exception passes every layer unwrapped and is never
    retried.
    """
    return _belongs_to_host(exc, _handlers())


def host_exception(exc: BaseException) -> BaseException | None:
    """The exception of the host that led to ``exc``, also within a group; None if there is none."""
    if threading.current_thread() is not threading.main_thread():  # no other thread runs signal handlers
        return None
    handlers = _handlers()
    found = (each for each in _chain(exc, _MAX_DEPTH) if _belongs_to_host(each, handlers))
    return next((each for each in found if each is exc or not _is_handled_outside(each)), None)


def _is_handled_outside(exc: BaseException) -> bool:
    """Whether a caller is in its ``except`` block: an exception of the host from before the call is no cause."""
    trace, frame = exc.__traceback__, sys._getframe()
    while trace is not None and frame is not None:
        if frame is trace.tb_frame:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


def _chain(exc: BaseException | None, depth: int) -> Iterator[BaseException]:
    if exc is None or not depth:
        return
    yield exc
    for part in getattr(exc, "exceptions", ()):
        yield from _chain(part, depth - 1)
    yield from _chain(exc.__cause__, depth - 1)
    if exc.__context__ is not exc.__cause__:
        yield from _chain(exc.__context__, depth - 1)


def _belongs_to_host(exc: BaseException, handlers: frozenset[CodeType]) -> bool:
    if not isinstance(exc, Exception) or type(exc).__module__.partition(".")[0] in _PACKAGES:
        return True
    if not handlers or threading.current_thread() is not threading.main_thread():
        return False
    trace: TracebackType | None = exc.__traceback__
    while trace is not None:  # is a frame of it a signal handler's?
        if trace.tb_frame.f_code in handlers:
            return True
        trace = trace.tb_next
    return False


def _handlers() -> frozenset[CodeType]:
    """The code of all signal handlers that are installed now."""
    # The module of C: signal.getsignal() converts each number to an enumeration, 64 times for each failed call.
    found = map(_code_of, {*map(_signal.getsignal, _SIGNALS)})
    return frozenset(code for code in found if code is not None and code is not _INTERRUPT)


def _code_of(handler: Any) -> CodeType | None:
    if handler is None or isinstance(handler, int):
        return None
    while isinstance(handler, functools.partial):
        handler = handler.func
    handler = getattr(handler, "__func__", handler)
    if not hasattr(handler, "__code__") and callable(handler):  # an object with such a method
        handler = type(handler).__call__
    code = getattr(handler, "__code__", None)
    return code if isinstance(code, CodeType) else None


_INTERRUPT = _code_of(signal.default_int_handler)
