"""What a plugin's word for its health means, and what an error says of it: the same on every wire."""

from __future__ import annotations

from goplugins.enums import PluginStatus
from goplugins.errors import (
    PluginClosedError,
    PluginConnectionError,
    PluginError,
    PluginTimeoutError,
    SaturatedError,
)

__all__ = ["failed_look", "status_of_word"]

_WORDS = {
    "degraded": PluginStatus.DEGRADED,
    "warn": PluginStatus.DEGRADED,
    "warning": PluginStatus.DEGRADED,
    "unhealthy": PluginStatus.UNHEALTHY,
    "down": PluginStatus.UNHEALTHY,
    "fail": PluginStatus.UNHEALTHY,
    "error": PluginStatus.UNHEALTHY,
    "offline": PluginStatus.OFFLINE,
    "out_of_service": PluginStatus.OFFLINE,
}


def status_of_word(word: object, otherwise: PluginStatus) -> PluginStatus:
    """The status that a service names when it is not well; ``otherwise`` for any other word, and for none.

    >>> status_of_word("WARN", PluginStatus.HEALTHY), status_of_word(None, PluginStatus.HEALTHY)
    (<PluginStatus.DEGRADED: 'degraded'>, <PluginStatus.HEALTHY: 'healthy'>)
    """
    return _WORDS.get(word.lower(), otherwise) if isinstance(word, str) else otherwise


def failed_look(error: PluginError) -> tuple[PluginStatus, str]:
    """The verdict of a look that ended with an error, and the message that goes with it."""
    if isinstance(error, SaturatedError):
        return PluginStatus.UNKNOWN, "every connection is in use"
    if isinstance(error, PluginClosedError):
        return PluginStatus.UNKNOWN, "the plugin is closed"
    if isinstance(error, PluginConnectionError | PluginTimeoutError):
        return PluginStatus.OFFLINE, str(error)
    return PluginStatus.UNHEALTHY, str(error)
