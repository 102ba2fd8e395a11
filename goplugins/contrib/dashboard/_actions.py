"""What an operator may do to a plugin, and the log line that tells of it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from goplugins.errors import InvalidArgumentError
from goplugins.manager.control import give_calls, give_no_calls, hold_open, reset_breaker
from goplugins.observability.audit import acting_as

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

    from goplugins.manager.manager import Manager

__all__ = ["RefusalError", "perform"]

logger = logging.getLogger("goplugins.dashboard")

_LONGEST = 4096


class RefusalError(InvalidArgumentError):
    """A request that is not done as asked.

    Attributes:
        status: the answer's.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def _reset(manager: Manager[Any, Any], name: str, _member: str) -> str:
    reset_breaker(manager, name)
    return f"the circuit breaker of {name} is closed"


def _disable(manager: Manager[Any, Any], name: str, _member: str) -> str:
    hold_open(manager, name)
    return f"{name} takes no calls until it is enabled"


def _enable(manager: Manager[Any, Any], name: str, _member: str) -> str:
    reset_breaker(manager, name)
    return f"{name} takes calls"


def _drain(manager: Manager[Any, Any], name: str, member: str) -> str:
    give_no_calls(manager, name, member)
    return f"{member} gets no more calls of {name}"


def _restore(manager: Manager[Any, Any], name: str, member: str) -> str:
    give_calls(manager, name, member)
    return f"{member} gets calls of {name}, few at first"


_ACTIONS: dict[str, Callable[[Manager[Any, Any], str, str], str]] = {
    "reset": _reset,
    "disable": _disable,
    "enable": _enable,
    "drain": _drain,
    "restore": _restore,
}


def perform(manager: Manager[Any, Any], action: str, environ: WSGIEnvironment, actor: str) -> str:
    """Does what the request asks for, and tells what was done; log and audit trail name ``actor``.

    Raises:
        RefusalError: the request can't be read, or there is no such action.
        PluginNotFoundError: no such plugin, group or member.
        InvalidArgumentError: the plugin has nothing that could be treated so.
    """
    function = _ACTIONS.get(action)
    if function is None:
        raise RefusalError(404, "there is no such action")
    wish = _wish(environ)
    name, member = wish.get("plugin"), wish.get("member", "")
    if not isinstance(name, str) or not isinstance(member, str):
        raise RefusalError(400, "expected a plugin's name")
    with acting_as(actor):
        told = function(manager, name, member)
    logger.warning("%s: %s", actor, told)
    return told


def _wish(environ: WSGIEnvironment) -> dict[str, Any]:
    # No form of another site can send this type.
    if str(environ.get("CONTENT_TYPE", "")).partition(";")[0].strip().lower() != "application/json":
        raise RefusalError(415, "expected application/json")
    length = str(environ.get("CONTENT_LENGTH", ""))
    if not (length.isascii() and length.isdigit()) or int(length) > _LONGEST:
        raise RefusalError(413, "expected a short body with its length")
    try:
        wish = json.loads(environ["wsgi.input"].read(int(length)))
    except (ValueError, RecursionError):
        raise RefusalError(400, "expected JSON") from None
    if not isinstance(wish, dict):
        raise RefusalError(400, "expected an object")
    return wish
