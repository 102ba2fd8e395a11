"""The audit trail: what matters to security, complete and in order, as log records of ``goplugins.audit``."""

from __future__ import annotations

import contextlib
import contextvars
import getpass
import itertools
import logging
import os
import threading
from collections.abc import Iterator
from typing import Any

from goplugins.errors import AuthenticationError, PluginError, TLSError
from goplugins.observability.call_log import one_line
from goplugins.observability.events import (
    AttemptFinished,
    Event,
    PluginAdded,
    PluginControlled,
    PluginRemoved,
    ReloadFinished,
)
from goplugins.runtime.fork import register_forkable

__all__ = ["AuditLog", "acting_as"]

logger = logging.getLogger("goplugins.audit")

_CONTROLS = {
    "breaker_forced": "takes no calls until its breaker is reset",
    "breaker_reset": "its breaker is closed",
    "member_disabled": "{} gets no more calls",
    "member_enabled": "{} gets calls again",
}

_actor: contextvars.ContextVar[str | None] = contextvars.ContextVar("goplugins_actor", default=None)


@contextlib.contextmanager
def acting_as(actor: str) -> Iterator[None]:
    """Says who does what happens within: the name that the audit trail gives.

    Args:
        actor: a user's name, a service's; without it, the user of the process is named.

    >>> with acting_as("alice"):
    ...     pass  # manager.reload_config(...)
    """
    token = _actor.set(actor)
    try:
        yield
    finally:
        _actor.reset(token)


class AuditLog:
    """Takes a manager's events and logs those that matter to security.

    Each record has the fields (``extra``) ``audit`` (what happened), ``sequence`` (1, 2, 3, ... of this manager, in
    this process), ``actor``, ``plugin`` and ``detail``. No secret is among them: what a configuration held is told
    masked.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        register_forkable(self)

    def __call__(self, event: Event) -> None:
        """Takes an event."""
        for what, level, detail in _findings(event):
            if not logger.isEnabledFor(level):
                continue  # without a number: a gap would say that a record was lost
            # Under the lock, or two records could reach the log in another order than their numbers'.
            with self._lock:
                self._write(what, level, event.plugin, detail)

    def _write(self, what: str, level: int, plugin: str, detail: str) -> None:
        actor = _actor.get() or _user()
        fields: dict[str, Any] = {
            "audit": what,
            "sequence": next(self._numbers),
            "actor": actor,
            "plugin": plugin,
            "detail": one_line(detail),
        }
        logger.log(level, "%s %s by %s: %s", what, plugin or "-", one_line(actor), fields["detail"], extra=fields)

    def after_fork_in_child(self) -> None:
        """A fresh lock; the child's numbers go on from the parent's."""
        self._lock = threading.Lock()


def _findings(event: Event) -> Iterator[tuple[str, int, str]]:
    if isinstance(event, AttemptFinished):
        error = event.error
        detail = f"{error} (request {event.request_id})"
        if isinstance(error, AuthenticationError):
            yield "authentication_refused", logging.WARNING, detail
        elif isinstance(error, TLSError):
            yield "certificate_refused", logging.WARNING, detail
        elif isinstance(error, PluginError) and "sha256" in error.details:
            yield "checksum_mismatch", logging.WARNING, detail
    elif isinstance(event, PluginAdded):
        by = "configuration" if event.from_config else "code"
        yield "plugin_added", logging.INFO, f"{event.endpoint or 'in this process'}, by {by}"
    elif isinstance(event, PluginRemoved):
        yield "plugin_removed", logging.INFO, "drained and closed"
    elif isinstance(event, PluginControlled):
        yield event.action, logging.WARNING, _CONTROLS.get(event.action, "{}").format(event.member)
    elif isinstance(event, ReloadFinished):
        if event.report is None:
            yield "configuration_refused", logging.WARNING, f"{event.source}: {event.error}"
        else:
            changes = "; ".join(str(event.report.diff).splitlines()) or "nothing differs"
            yield "configuration_changed", logging.INFO, f"{event.source}: {changes}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return f"uid {os.getuid()}"
