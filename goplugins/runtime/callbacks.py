"""Callbacks of applications, whose errors must not fail the call that runs them."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

from goplugins.errors import belongs_to_host

logger = logging.getLogger("goplugins.resilience")


def run_callback(callback: Callable[..., object], *args: object) -> None:
    """Runs ``callback`` and logs what it raises; exceptions of the host pass."""
    try:
        callback(*args)
    except Exception as exc:
        if belongs_to_host(exc):
            raise
        logger.exception("a callback failed: %r", callback)


class Subscribers:
    """Callbacks that are called, outside all locks, after something has changed."""

    def __init__(self) -> None:
        self._callbacks: list[Callable[[], object]] = []

    def __len__(self) -> int:
        return len(self._callbacks)

    def add(self, callback: Callable[[], object]) -> Callable[[], object]:
        """Adds one; returns a function that removes it, and may be called again."""
        self._callbacks.append(callback)

        def remove() -> None:
            with contextlib.suppress(ValueError):
                self._callbacks.remove(callback)

        return remove

    def notify(self) -> None:
        """Calls each of them, and logs what one raises."""
        for callback in tuple(self._callbacks):
            run_callback(callback)
