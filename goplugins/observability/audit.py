"""The audit trail: security-relevant events, complete and in order, as log records of ``goplugins.audit``."""

from __future__ import annotations

import contextlib
import contextvars
import getpass
import itertools
import logging
import os
from collections.abc import Iterator
from typing import Any

from goplugins.errors import AuthenticationError, PluginError, TLSError
from goplugins.observability.events import (
    AttemptFinished,
    Event,
    PluginAdded,
    PluginControlled,
    PluginRemoved,
    ReloadFinished,
)
from goplugins.runtime.fork import create_lock
from goplugins.runtime.text import one_line

__all__ = ["AuditLog", "acting_as"]

logger = logging.getLogger("goplugins.audit")

_CONTROLS = {
    "breaker_forced": "the circuit breaker{} was forced open; no calls until it is closed",
    "breaker_closed": "the circuit breaker{} was closed",
    "breaker_reset": "the circuit breaker{} was reset",
    "health_checked": "the health{} was checked",
    "member_disabled": "calls{} were stopped",
    "member_enabled": "calls{} were allowed again",
}

_actor: contextvars.ContextVar[str | None] = contextvars.ContextVar("goplugins_actor", default=None)


@contextlib.contextmanager
def acting_as(actor: str) -> Iterator[None]:
    """Sets the actor that the audit trail records for everything within the block.

    Args:
        actor: the name of a user or service. Outside of such blocks, the user of the process is recorded.

    >>> with acting_as("alice"):
    ...     pass  # manager.reload_config(...)
    """
    token = _actor.set(actor)
    try:
        yield
    finally:
        _actor.reset(token)


class AuditLog:
    """Logs the security-relevant events of a manager. An event sink.

    Each record has the fields (``extra``) ``audit`` (what happened), ``sequence`` (1, 2, 3, ... per manager and
    process), ``actor``, ``plugin`` and ``detail``, and ``operation`` if a call named one. They contain no secrets:
    values of the configuration are masked.
    """

    def __init__(self) -> None:
        self._lock = create_lock(self)
        self._numbers = itertools.count(1)

    def __call__(self, event: Event) -> None:
        """Logs the event if it is security-relevant."""
        for what, level, detail in _entries(event):
            if not logger.isEnabledFor(level):
                continue  # without using a number: gaps stand for lost records
            # Logged under the lock, so that records reach the log in the order of their numbers.
            with self._lock:
                self._write(what, level, event, detail)

    def _write(self, what: str, level: int, event: Event, detail: str) -> None:
        actor, plugin = _actor.get() or _user(), event.plugin
        fields: dict[str, Any] = {
            "audit": what,
            "sequence": next(self._numbers),
            "actor": actor,
            "plugin": plugin,
            "detail": one_line(detail),
        }
        if isinstance(event, AttemptFinished) and event.operation:
            fields["operation"] = event.operation
        logger.log(level, "%s %s by %s: %s", what, plugin or "-", one_line(actor), fields["detail"], extra=fields)


def _entries(event: Event) -> Iterator[tuple[str, int, str]]:
    if isinstance(event, AttemptFinished):
        error = event.error
        operation = f"operation {event.operation!r}, " if event.operation else ""
        detail = f"{error} ({operation}request {event.request_id})"
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
        member = f" of member {event.member}" if event.member else ""
        yield event.action, logging.WARNING, _CONTROLS.get(event.action, "{}").format(member)
    elif isinstance(event, ReloadFinished):
        if event.report is None:
            yield "configuration_refused", logging.WARNING, f"{event.source}: {event.error}"
        else:
            changes = "; ".join(str(event.report.diff).splitlines()) or "nothing differs"
            yield "configuration_changed", logging.INFO, f"{event.source}: {changes}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in containers
        return f"uid {os.getuid()}"
