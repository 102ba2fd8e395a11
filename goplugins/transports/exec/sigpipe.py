"""Writing to a pipe whose reader may be gone, in a host that would die of SIGPIPE."""

from __future__ import annotations

import importlib
import os
import signal
from typing import Any

__all__ = ["write"]

_PIPE = (signal.SIGPIPE,)

_c: Any = importlib.import_module("_signal")
"""What ``signal`` wraps. Its functions are single C calls: a handler that raises can break into a wrapper, and between
two calls, but not into these."""

_IGNORED = int(signal.SIG_IGN)


def write(descriptor: int, data: bytes | memoryview) -> int:
    """``os.write``, whose only sign of a reader that has gone is BrokenPipeError, whatever SIGPIPE does in this host.

    Command line tools give SIGPIPE its default back, to end quietly behind ``| head``. A plugin's stdin stays a pipe
    all the same: a socket, to which one can write without the signal, can't be opened as /dev/stdin. So the signal is
    kept from this thread for the length of the write, and only in hosts that don't ignore it. Nor does a start happen
    meanwhile on this thread, whose mask a process would inherit.
    """
    if _c.getsignal(signal.SIGPIPE) == _IGNORED:  # as Python starts
        return os.write(descriptor, data)
    if signal.SIGPIPE in _c.pthread_sigmask(signal.SIG_BLOCK, ()):
        return os.write(descriptor, data)
    try:
        # Within the try, since a signal's handler may raise from here, with the mask changed.
        _c.pthread_sigmask(signal.SIG_BLOCK, _PIPE)
        return os.write(descriptor, data)
    finally:
        try:
            _take_pending(_PIPE, 0)  # whatever ended the write: let through now, it would be the host's end
        finally:
            _c.pthread_sigmask(signal.SIG_UNBLOCK, _PIPE)


def _wait_if_pending(signals: tuple[signal.Signals, ...], _: int) -> None:
    if signal.SIGPIPE in _c.sigpending():
        _c.sigwait(signals)


_take_pending: Any = getattr(_c, "sigtimedwait", _wait_if_pending)
