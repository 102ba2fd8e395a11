"""What pages and commands for operators need of a manager beyond its public methods: all of it is here."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

import attrs

from goplugins.balancing.load_balancer import LoadBalancer
from goplugins.config import ManagerConfig
from goplugins.config.schema import shown
from goplugins.errors import InvalidArgumentError, PluginClosedError, SaturatedError
from goplugins.models.explanation import Explanation
from goplugins.models.metrics import PluginMetrics
from goplugins.observability.event_stream import Sink, Wanted, hand_out
from goplugins.observability.events import PluginControlled
from goplugins.pipeline.plugin import GuardedPlugin
from goplugins.runtime.clock import Clock
from goplugins.transports.interface import Sender

if TYPE_CHECKING:
    from goplugins.manager.manager import Manager

__all__ = [
    "View",
    "attach",
    "clock_of",
    "configuration",
    "find",
    "give_calls",
    "give_no_calls",
    "hold_open",
    "is_held_open",
    "is_shut_down",
    "reset_breaker",
    "start_looks",
    "switched_off",
    "views",
]

logger = logging.getLogger("goplugins.dashboard")


@attrs.frozen
class View:
    """One plugin as it stands at a moment.

    Attributes:
        name: it is called by.
        plugin: itself.
        explanation: why it would or would not take a call.
        counts: since it was added.
        instance: it is one of several behind another plugin's name, which stands for it.
    """

    name: str
    plugin: GuardedPlugin
    explanation: Explanation
    counts: PluginMetrics
    instance: bool = False


def views(manager: Manager[Any, Any]) -> list[View]:
    """All plugins, and the members that groups have found by themselves. Asks none of them."""
    lifecycle = manager._ready()
    counts = manager.metrics().plugins
    instances = lifecycle.inventory.instances()
    found = []
    for name, plugin in {**lifecycle.maintenance.members, **lifecycle.registry.plugins}.items():
        explanation = plugin.explain(lifecycle.maintenance.status_of(name))
        found.append(View(name, plugin, explanation, counts.get(name) or PluginMetrics(), name in instances))
    return found


def switched_off(manager: Manager[Any, Any]) -> frozenset[str]:
    """Names that are configured with ``enabled: false``."""
    return manager._registry.disabled


def is_shut_down(manager: Manager[Any, Any]) -> bool:
    """Whether ``shutdown`` was called."""
    return manager._registry.closed


def clock_of(manager: Manager[Any, Any]) -> Clock:
    """What the manager measures time with."""
    return manager._clock


def start_looks(manager: Manager[Any, Any]) -> None:
    """Has health looked at from now on, as the first call would. Waits for nothing."""
    try:
        manager._ready().maintenance.start()
    except (PluginClosedError, SaturatedError) as exc:
        logger.warning("health is not looked at: %s", exc)


def attach(manager: Manager[Any, Any], sink: Sink, *, calls: Wanted, changes: bool) -> Callable[[], None]:
    """Hands events to ``sink``, on the threads on which they happen; returns its end."""
    return manager._ready().events.attach(sink, calls=calls, attempts="none", changes=changes)


def configuration(manager: Manager[Any, Any], name: str = "") -> Mapping[str, Any]:
    """The running configuration with all defaults filled in, secrets masked; of one plugin, if it is named.

    Plugins that were registered in code are part of it.

    Raises:
        PluginNotFoundError: no plugin of that name.
    """
    if name:
        return shown(find(manager, name).config)
    lifecycle = manager._ready()
    loaded = manager._loader.config
    # What is read from a file differs from what runs only in what code has added since.
    values = dict(shown(loaded if loaded is not None else ManagerConfig()))
    values["plugins"] = [shown(plugin.config) for plugin in lifecycle.registry.plugins.values()]
    return values


# --- what an operator may do ---------------------------------------------------------------------------------------


def find(manager: Manager[Any, Any], name: str) -> GuardedPlugin:
    """The plugin, or the member of a group, of that name.

    Raises:
        PluginNotFoundError: there is none.
    """
    return manager._ready().inventory.find(name)


def is_held_open(plugin: GuardedPlugin) -> bool:
    """Whether its circuit breaker is forced open."""
    return plugin.retry_after() == math.inf


def reset_breaker(manager: Manager[Any, Any], name: str) -> None:
    """Closes the plugin's circuit breaker, forced open or not.

    Raises:
        PluginNotFoundError: no plugin of that name.
    """
    plugin = find(manager, name)
    breaker = plugin.policies.breaker
    breaker.reset()
    _tell(manager, name, "breaker_reset")
    section = plugin.config.circuit_breaker
    if section is not None and section.enabled is False:
        breaker.disable()  # one that was forced open has forgotten that it is switched off
    plugin.notify_changed()


def hold_open(manager: Manager[Any, Any], name: str) -> None:
    """Refuses all calls of the plugin, until :func:`reset_breaker`.

    Raises:
        PluginNotFoundError: no plugin of that name.
    """
    plugin = find(manager, name)
    plugin.policies.breaker.force_open()
    _tell(manager, name, "breaker_forced")
    plugin.notify_changed()


def give_no_calls(manager: Manager[Any, Any], group: str, member: str) -> None:
    """Gives a member of a group no more calls; those under way go on.

    Raises:
        PluginNotFoundError: no group, or no member, of that name.
        InvalidArgumentError: the group finds its members by itself.
    """
    _balancer(manager, group).disable_plugin(member)
    _tell(manager, group, "member_disabled", member)


def give_calls(manager: Manager[Any, Any], group: str, member: str) -> None:
    """Ends :func:`give_no_calls`. Raises the same."""
    _balancer(manager, group).enable_plugin(member)
    _tell(manager, group, "member_enabled", member)


def _tell(manager: Manager[Any, Any], plugin: str, action: str, member: str = "") -> None:
    events = manager._ready().events
    if events.changes:
        hand_out(events.changes, PluginControlled(plugin, manager._clock.time(), action, member))


def _balancer(manager: Manager[Any, Any], group: str) -> LoadBalancer[Any, Any]:
    wire = find(manager, group).wire
    if not has_movable_members(wire):
        raise InvalidArgumentError(f"{group!r} has no members that could be drained one by one")
    return wire


def has_movable_members(wire: Sender) -> TypeGuard[LoadBalancer[Any, Any]]:
    """Whether members can be drained one by one: not where a group follows what a lookup says."""
    return isinstance(wire, LoadBalancer)
