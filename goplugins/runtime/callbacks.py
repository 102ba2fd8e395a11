"""Callbacks of applications, whose errors must not fail the call that runs them."""

from __future__ import annotations

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
