"""Actions of operators on plugins, each logged."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs

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

LONGEST_DRAIN = 300.0
"""Seconds for which a request may wait for calls in flight; it occupies a thread of the web server meanwhile."""


class RefusalError(InvalidArgumentError):
    """A request that is refused.

    Attributes:
        status: the HTTP status of the reply.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@attrs.frozen
class _Order:
    """The body of a request.

    Attributes:
        plugin: name of the plugin or group.
        member: of the group; empty for the plugin itself.
        drain_timeout: seconds to wait for calls in flight; None for no wait.
    """

    plugin: str
    member: str = ""
    drain_timeout: float | None = None

    @property
    def of_member(self) -> str:
        if not self.member:
            raise RefusalError(400, "member: expected the name of a member")
        return self.member

    def disable(self, control: PluginControl, member: str) -> bool:
        return control.disable(self.drain_timeout or 0.0, member=member)


_ACTIONS: dict[str, tuple[Callable[[PluginControl, _Order], object], str]] = {
    "reset": (
        lambda control, order: control.reset_breaker(member=order.member),
        "the circuit breaker of {on} is closed",
    ),
    "close": (
        lambda control, order: control.close_breaker(member=order.member),
        "the circuit breaker of {on} is closed",
    ),
    "open": (lambda control, order: control.force_open(member=order.member), "the circuit breaker of {on} is open"),
    "disable": (lambda control, order: order.disable(control, order.member), "{on} takes no calls until it is enabled"),
    "enable": (lambda control, order: control.enable(member=order.member), "{on} takes calls"),
    "drain": (lambda control, order: order.disable(control, order.of_member), "{on} gets no more calls"),
    "restore": (lambda control, order: control.enable(member=order.of_member), "{on} gets calls, few at first"),
    "check": (lambda control, order: control.check_health(member=order.member), "{on} is {result}"),
}
_DRAINING = ("disable", "drain")


def perform(manager: Manager[Any, Any], action: str, environ: WSGIEnvironment, actor: str) -> dict[str, Any]:
    """Performs the action of a request; log and audit trail name ``actor``.

    Returns:
        The description as ``message``, and ``drained`` if the request has a ``drain_timeout``.

    Raises:
        RefusalError: the request can't be read, or the action is unknown.
        PluginNotFoundError: no such plugin, group or member.
        InvalidArgumentError: the action does not apply to the plugin.
    """
    if action not in _ACTIONS:
        raise RefusalError(404, f"no such action: {action[:40]!r}")
    function, done = _ACTIONS[action]
    order = _order(environ, drains=action in _DRAINING)
    with acting_as(actor):
        result = function(manager.control(order.plugin), order)
    status = result.status if isinstance(result, HealthStatus) else ""
    on = f"{order.member} of {order.plugin}" if order.member else order.plugin
    done = done.format(on=on, result=status)
    found: dict[str, Any] = {}
    if order.drain_timeout is not None:
        found["drained"] = bool(result)
        in_flight = "no call is in flight" if result else f"calls are still in flight after {order.drain_timeout:g} s"
        done = f"{done}; {in_flight}"
    logger.warning("%s: %s", actor, done)
    return {"message": done, **found}


def _order(environ: WSGIEnvironment, *, drains: bool) -> _Order:
    fields = _fields(environ)
    name, member, seconds = fields.get("plugin"), fields.get("member", ""), fields.get("drain_timeout")
    if not isinstance(name, str) or not isinstance(member, str):
        raise RefusalError(400, "plugin: expected the name of a plugin")
    if seconds is None:
        return _Order(name, member)
    if not drains:
        raise RefusalError(400, f"drain_timeout: only for the actions {' and '.join(_DRAINING)}")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= LONGEST_DRAIN:
        raise RefusalError(400, f"drain_timeout: expected seconds from 0 to {LONGEST_DRAIN:g}")
    return _Order(name, member, float(seconds))


def _fields(environ: WSGIEnvironment) -> dict[str, Any]:
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
