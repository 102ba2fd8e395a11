"""Writes to a pipe whose reader may have exited, in a host process that SIGPIPE would kill."""

from __future__ import annotations

import importlib
import os
import signal
from typing import Any

_PIPE = (signal.SIGPIPE,)

_c: Any = importlib.import_module("_signal")
"""The C module behind ``signal``. A signal handler that raises can interrupt the Python wrappers of ``signal``, and
run between two calls, but never within one of these calls."""

_IGNORED = int(signal.SIG_IGN)


def write(descriptor: int, data: bytes | memoryview) -> int:
    """``os.write`` that reports a closed pipe by BrokenPipeError only, whatever the host does about SIGPIPE.

    Command line tools restore the default action of SIGPIPE, to end silently behind ``| head``. Replacing the pipe by
    a socket, which can be written to without the signal, is no way out: a plugin can't open a socket as /dev/stdin. So
    this thread blocks the signal during the write, in hosts that don't ignore it. No process is started by this
    thread meanwhile, which would inherit the mask.
    """
    if _c.getsignal(signal.SIGPIPE) == _IGNORED:  # Python's default
        return os.write(descriptor, data)
    if signal.SIGPIPE in _c.pthread_sigmask(signal.SIG_BLOCK, ()):
        return os.write(descriptor, data)
    try:
        # Within the try: from here on a signal handler may raise with the mask changed.
        _c.pthread_sigmask(signal.SIG_BLOCK, _PIPE)
        return os.write(descriptor, data)
    finally:
        try:
            _take_pending(_PIPE, 0)  # a pending SIGPIPE would kill the host once it is unblocked
        finally:
            _c.pthread_sigmask(signal.SIG_UNBLOCK, _PIPE)


def _wait_if_pending(signals: tuple[signal.Signals, ...], _: int) -> None:
    if signal.SIGPIPE in _c.sigpending():
        _c.sigwait(signals)


_take_pending: Any = getattr(_c, "sigtimedwait", _wait_if_pending)
