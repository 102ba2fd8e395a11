"""What this process or machine lacks for a call: the one list of failures that say nothing of a plugin."""

from __future__ import annotations

import errno
import os
import socket

from goplugins.errors._base import PluginError, Replay
from goplugins.errors._calls import LocalResourceError

_LACKING = {
    errno.EMFILE: "no free file descriptor in this process: raise its limit (ulimit -n)",
    errno.ENFILE: "no free file descriptor on this machine",
    errno.ENOMEM: "no free memory on this machine",
    errno.ENOBUFS: "no free network buffers on this machine",
    errno.EADDRNOTAVAIL: "no free local address or port on this machine",
}
"""What is missing, by the error number of a system call."""

_NO_THREAD = "can't start new thread"
"""CPython's text for a thread that the system refuses; its class is that of many other errors."""

_MAX_CAUSES = 8
"""Causes of causes that are followed."""


def missing_resource(exc: BaseException | None) -> str:
    """What this process or machine lacked, if that led to ``exc`` or to its cause; else empty.

    >>> missing_resource(OSError(errno.ENFILE, "Too many open files in system"))
    'no free file descriptor on this machine'
    >>> missing_resource(ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"))
    ''
    """
    found = ""
    for _ in range(_MAX_CAUSES):
        if exc is None or found:
            break
        found = _missing(exc)
        exc = exc.__cause__
    return found


def _missing(exc: BaseException) -> str:
    if isinstance(exc, MemoryError):
        return _LACKING[errno.ENOMEM]
    if isinstance(exc, RuntimeError):
        return "no free thread: the system refuses to start one" if str(exc) == _NO_THREAD else ""
    if isinstance(exc, socket.gaierror):  # its numbers are of another kind
        return _LACKING[errno.ENOMEM] if exc.errno == socket.EAI_MEMORY else ""
    if isinstance(exc, OSError):
        return _LACKING.get(exc.errno or 0, "")
    if isinstance(exc, ImportError):  # a library that the dynamic linker could not open: there is a text only
        return missing_by_text(str(exc))
    return ""


def missing_by_text(text: str) -> str:
    """The same for the text of a library of this process that passes on the system's message, not its number."""
    return next((found for code, found in _LACKING.items() if os.strerror(code) in text), "")


def local_failure(exc: BaseException, *, unsent: bool = False) -> LocalResourceError | None:
    """The error for an exception that has one of these causes; None for any other.

    Args:
        exc: what an attempt raised. Whether a :class:`PluginError` may be repeated was decided where it was raised,
            and stays so.
        unsent: whether it is certain that nothing was sent.
    """
    if isinstance(exc, LocalResourceError):
        return exc
    if isinstance(exc, PluginError):
        unsent = unsent or exc.unsent or exc.replay is Replay.ALWAYS
        reason = missing_resource(exc.__cause__)
        text, endpoint, details = exc.message, exc.endpoint, exc.details
    else:
        reason = missing_resource(exc)
        text, endpoint, details = f"{type(exc).__name__}: {exc}", None, {}
    if not reason:
        return None
    error = LocalResourceError(f"{reason} ({text})", endpoint=endpoint, details=details)
    if not unsent:
        error.unsent, error.replay = False, Replay.IF_IDEMPOTENT
    error.__cause__ = exc.__cause__ if isinstance(exc, PluginError) else exc
    return error
