"""What a serving process waits for: to be told to stop, or that a server of its own has ended."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from types import TracebackType
from typing import Any, Self

__all__ = ["Bids"]

_ENDED = 0
_STOP = (signal.SIGTERM, signal.SIGINT)


class Bids:
    """SIGTERM, SIGINT and the ends of servers, in the order in which they come.

    They come as bytes through a pipe, which the interpreter's own handler of signals writes to. A thread that is just
    about to wait for a queue or a lock does not notice a signal: it would wait on, and the signal be lost.

    Off the main thread, which alone may ask for signals, only ends are told of.
    """

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._lock = threading.Lock()
        self._is_open = True
        self._before: dict[signal.Signals, Any] = {}
        self._descriptor_before = -1

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._descriptor_before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
            self._before = {number: signal.signal(number, _nothing) for number in _STOP}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before:
            for number, handler in self._before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(self._descriptor_before)
        with self._lock:
            self._is_open = False
            os.close(self._writer)
        os.close(self._reader)

    def ended(self) -> None:
        """A server has ended; from any thread."""
        with self._lock, contextlib.suppress(BlockingIOError):
            if self._is_open:
                os.write(self._writer, bytes([_ENDED]))

    def wait(self) -> bool:
        """Waits for the next one: True if a server has ended, False if the process is told to stop."""
        while True:
            (number,) = os.read(self._reader, 1)
            if number == _ENDED:
                return True
            if number in _STOP:  # others have handlers of the application's own
                return False


def _nothing(*_: object) -> None:
    """A handler: without one, a signal would not be written anywhere."""
