"""Senders for objects with the :class:`~goplugins.models.plugin.Plugin` methods, such as plugins registered in code."""

from __future__ import annotations

from typing import Any

import attrs

from goplugins.enums import PluginStatus
from goplugins.errors import (
    ConnectionLostError,
    InvalidArgumentError,
    PluginError,
    PluginInternalError,
    PluginTimeoutError,
    belongs_to_host,
    local_failure,
)
from goplugins.models.context import trusted_context
from goplugins.models.plugin import Plugin, PluginInfo
from goplugins.models.reply import Reply
from goplugins.models.results import HealthStatus
from goplugins.runtime.call import Call
from goplugins.runtime.text import from_outside
from goplugins.transports.envelope import MAX_ERROR_TEXT
from goplugins.transports.health_status import without_report
from goplugins.transports.interface import Sender

_MIN_TIMEOUT = 1e-6
"""Seconds: a timeout is never 0."""


def as_sender(plugin: Any) -> Sender:
    """The plugin itself if it is a sender, else an adapter around it.

    Raises:
        InvalidArgumentError: the object lacks a method of the Plugin protocol.
    """
    if isinstance(plugin, Sender):
        return plugin
    missing = [name for name in ("info", "execute", "health", "close") if not callable(getattr(plugin, name, None))]
    if missing:
        raise InvalidArgumentError(f"{type(plugin).__name__} is not a plugin: it lacks {', '.join(missing)}()")
    return PluginAdapter(plugin)


class PluginAdapter(Sender):
    """Runs a plugin object on the caller's thread and translates its exceptions.

    The plugin gets the remaining time in its context and must keep to it: a thread can't be interrupted.
    """

    def __init__(self, plugin: Plugin[Any, Any]) -> None:
        self._plugin = plugin

    def prepare(self, call: Call) -> None:
        """Holds the request to its type; it stays an object."""
        wanted = call.codec.request_class
        if wanted is not None and type(call.request) is not wanted:
            call.request = call.codec.typed.admit_request(call.request)

    def send(self, call: Call) -> Any:
        deadline = call.deadline
        left = deadline.at - deadline.clock.monotonic()
        context = trusted_context(
            call.request_id,
            left if left > _MIN_TIMEOUT else _MIN_TIMEOUT,  # noqa: FURB136 - max() is a call more
            call.headers,
            call.metadata,
            call.idempotent,
            call.key,
            call.priority,
            call.preferences,
            call.operation,
        )
        try:
            answer = self._plugin.execute(call.request, context)
        except PluginError as exc:
            if exc.plugin is None or exc.plugin == self._own_name():
                exc.plugin = None  # it may be registered under another name than that of its info()
                exc.message = _clean(exc.message)
                raise
            # The error of a plugin that this one called. Its replay rule says nothing of what this one did before.
            if isinstance(exc, PluginTimeoutError) and call.deadline.remaining() <= 0:
                raise PluginTimeoutError(f"timed out in a call of {exc.plugin!r}") from exc
            raise PluginInternalError(f"its call of {exc.plugin!r} failed: {exc.message}") from exc
        except TimeoutError as exc:
            raise PluginTimeoutError(f"timed out: {_clean(exc)}") from exc
        except ConnectionError as exc:
            raise ConnectionLostError(f"{type(exc).__name__}: {_clean(exc)}") from exc
        except Exception as exc:
            if belongs_to_host(exc):
                raise
            raise PluginInternalError(f"raised {type(exc).__name__}: {_clean(exc)}") from exc
        if type(answer) is Reply:
            call.reply_metadata = answer.metadata
            answer = answer.value
        wanted = call.codec.answer_class
        return answer if wanted is None or type(answer) is wanted else call.codec.typed.admit_answer(answer)

    def _own_name(self) -> str | None:
        """The name in the plugin's info(); None if that raises, which must not hide the error of the call."""
        try:
            return self._plugin.info().name
        except Exception as exc:
            if belongs_to_host(exc):
                raise
            return None

    def health(self, timeout: float) -> HealthStatus:
        try:
            status = self._plugin.health(timeout)
            return status if status.message.isprintable() else attrs.evolve(status, message=_clean(status.message))
        except NotImplementedError:
            return without_report("health check")
        except Exception as exc:
            if belongs_to_host(exc):
                raise
            found = PluginStatus.UNHEALTHY if local_failure(exc) is None else PluginStatus.UNKNOWN
            return HealthStatus(found, f"its health check raised {type(exc).__name__}: {_clean(exc)}")

    def info(self) -> PluginInfo:
        return self._plugin.info()

    def close(self) -> None:
        self._plugin.close()


def _clean(text: object) -> str:
    """What a plugin says, as one line of bounded length for an error, a health status or a log line."""
    return from_outside(str(text), MAX_ERROR_TEXT)
