"""The threads of a gRPC server: calls on some, what asks about the plugin on others."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from goplugins.runtime.workers import WorkerPool

__all__ = ["Aside", "Threads"]

_ASIDE = 2
"""Threads beside those of the calls: one health check that hangs does not silence the next one."""


class Aside:
    """A method that is answered beside the calls: health is asked for just when calls keep a server busy."""

    def __init__(self, method: Callable[[bytes, Any], bytes]) -> None:
        self._method = method

    def __call__(self, request: bytes, context: Any) -> bytes:
        return self._method(request, context)


class Threads(Executor):
    """What grpc gives its work to. Never refuses: that would end grpc's own thread.

    grpc's own kind of pool would besides hold the interpreter at its end for as long as the slowest call.

    Args:
        calls: how many calls run at once.
        waiting: how many may wait for that.
        most: how many tasks grpc ever gives at once.
    """

    def __init__(self, calls: int, waiting: int, most: int) -> None:
        self._most = calls + waiting
        self._calls = WorkerPool("goplugins-grpc", calls, max_queued=most)
        self._aside = WorkerPool("goplugins-grpc-aside", _ASIDE, max_queued=most)
        self._lock = threading.Lock()
        self._count = 0

    @property
    def full(self) -> bool:
        """Whether as many calls run and wait as may."""
        return self._count >= self._most

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Runs grpc's task; the method that it is about is among its arguments."""
        if any(type(argument) is Aside for argument in args):
            return self._aside.submit(fn, *args, **kwargs)
        with self._lock:
            self._count += 1
        future = self._calls.submit(fn, *args, **kwargs)
        future.add_done_callback(self._done)
        return future

    def _done(self, _: Future[Any]) -> None:
        with self._lock:
            self._count -= 1

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes no more, and lets the threads go once what they have is done."""
        for pool in (self._calls, self._aside):
            pool.shutdown(wait, cancel_futures=cancel_futures)
