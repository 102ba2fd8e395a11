"""Callbacks of others, run where a fault of theirs must not become the fault of the call that happened by."""

from __future__ import annotations

import logging
from collections.abc import Callable

from goplugins.errors import belongs_to_host

__all__ = ["run_callback"]

logger = logging.getLogger("goplugins.resilience")


def run_callback(callback: Callable[..., object], *args: object) -> None:
    """Runs ``callback``; what it raises is logged, since the caller of a plugin can't do anything about it."""
    try:
        callback(*args)
    except Exception as exc:
        if belongs_to_host(exc):
            raise
        logger.exception("a callback failed: %r", callback)
