"""Actions of operators on plugins, each logged."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from goplugins.errors import InvalidArgumentError
from goplugins.manager.plugin_control import PluginControl
from goplugins.models.results import HealthStatus
from goplugins.observability.audit import acting_as

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

    from goplugins.manager.manager import Manager

__all__ = ["RefusalError", "perform"]

logger = logging.getLogger("goplugins.dashboard")

_LONGEST = 4096


class RefusalError(InvalidArgumentError):
    """A request that is refused.

    Attributes:
        status: the HTTP status of the reply.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


_ACTIONS: dict[str, tuple[Callable[[PluginControl, str], object], str]] = {
    "reset": (lambda control, member: control.reset_breaker(member=member), "the circuit breaker of {on} is closed"),
    "close": (lambda control, member: control.close_breaker(member=member), "the circuit breaker of {on} is closed"),
    "open": (lambda control, member: control.force_open(member=member), "the circuit breaker of {on} is open"),
    "disable": (lambda control, member: control.disable(member=member), "{on} takes no calls until it is enabled"),
    "enable": (lambda control, member: control.enable(member=member), "{on} takes calls"),
    "drain": (
        lambda control, member: control.disable(member=_named(member)),
        "{on} gets no more calls",
    ),
    "restore": (lambda control, member: control.enable(member=_named(member)), "{on} gets calls, few at first"),
    "check": (lambda control, member: control.check_health(member=member), "{on} is {result}"),
}


def perform(manager: Manager[Any, Any], action: str, environ: WSGIEnvironment, actor: str) -> str:
    """Performs the action of a request and returns its description; log and audit trail name ``actor``.

    Raises:
        RefusalError: the request can't be read, or the action is unknown.
        PluginNotFoundError: no such plugin, group or member.
        InvalidArgumentError: the action does not apply to the plugin.
    """
    if action not in _ACTIONS:
        raise RefusalError(404, f"no such action: {action[:40]!r}")
    function, done = _ACTIONS[action]
    order = _order(environ)
    name, member = order.get("plugin"), order.get("member", "")
    if not isinstance(name, str) or not isinstance(member, str):
        raise RefusalError(400, "plugin: expected the name of a plugin")
    with acting_as(actor):
        result = function(manager.control(name), member)
    status = result.status if isinstance(result, HealthStatus) else ""
    on = f"{member} of {name}" if member else name
    done = done.format(plugin=name, member=member, on=on, result=status)
    logger.warning("%s: %s", actor, done)
    return done


def _named(member: str) -> str:
    if not member:
        raise RefusalError(400, "member: expected the name of a member")
    return member


def _order(environ: WSGIEnvironment) -> dict[str, Any]:
    # An HTML form of another site can't send this type.
    if str(environ.get("CONTENT_TYPE", "")).partition(";")[0].strip().lower() != "application/json":
        raise RefusalError(415, "expected Content-Type: application/json")
    length = str(environ.get("CONTENT_LENGTH", ""))
    if not (length.isascii() and length.isdigit()) or int(length) > _LONGEST:
        raise RefusalError(413, f"expected a body of at most {_LONGEST} bytes with its Content-Length")
    try:
        order = json.loads(environ["wsgi.input"].read(int(length)))
    except (ValueError, RecursionError):
        raise RefusalError(400, "expected JSON") from None
    if not isinstance(order, dict):
        raise RefusalError(400, "expected a JSON object")
    return order
