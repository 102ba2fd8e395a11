"""States of a manager for operators: what the dashboard needs beyond the public methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

import attrs

from goplugins.balancing.load_balancer import LoadBalancer
from goplugins.config import ManagerConfig
from goplugins.config.schema import shown
from goplugins.models.explanation import Explanation
from goplugins.models.metrics import PluginMetrics
from goplugins.observability.event_stream import Sink, Wanted
from goplugins.pipeline.plugin import GuardedPlugin
from goplugins.runtime.clock import Clock
from goplugins.transports.interface import Sender

if TYPE_CHECKING:
    from goplugins.manager.manager import Manager


@attrs.frozen
class PluginState:
    """The state of one plugin at a moment.

    Attributes:
        name: the plugin's name.
        plugin: the plugin.
        explanation: whether it would accept a call, and why.
        counts: its counts since it was added.
        instance: whether it is one of the instances of a plugin with several endpoints.
    """

    name: str
    plugin: GuardedPlugin
    explanation: Explanation
    counts: PluginMetrics
    instance: bool = False


def plugin_states(manager: Manager[Any, Any]) -> list[PluginState]:
    """The states of all plugins and of the members of DNS groups. Calls none of them."""
    lifecycle = manager._ready()
    counts = manager.metrics().plugins
    instances = lifecycle.reports.instances()
    found = []
    for name, plugin in {**lifecycle.maintenance.members, **lifecycle.registry.plugins}.items():
        explanation = plugin.explain(lifecycle.maintenance.status_of(name))
        found.append(PluginState(name, plugin, explanation, counts.get(name) or PluginMetrics(), name in instances))
    return found


def disabled_names(manager: Manager[Any, Any]) -> frozenset[str]:
    """Names of the plugins with ``enabled: false``."""
    return manager._registry.disabled


def is_shut_down(manager: Manager[Any, Any]) -> bool:
    """Whether ``shutdown`` was called."""
    return manager._registry.closed


def clock_of(manager: Manager[Any, Any]) -> Clock:
    """The manager's source of time."""
    return manager._clock


def start_health_checks(manager: Manager[Any, Any]) -> None:
    """Starts the health checks, as the first call would. Does not wait for them."""
    manager._ready().maintenance.start_soon()


def attach_sink(manager: Manager[Any, Any], sink: Sink, *, calls: Wanted, changes: bool) -> Callable[[], None]:
    """Sends events to ``sink``, on the threads on which they happen; returns the function that ends that."""
    return manager._ready().events.attach(sink, calls=calls, attempts="none", changes=changes)


def configuration(manager: Manager[Any, Any], name: str = "") -> Mapping[str, Any]:
    """The running configuration with all defaults, secrets masked; or that of the plugin ``name``.

    Plugins registered in code are included.

    Raises:
        PluginNotFoundError: no plugin of that name.
    """
    if name:
        return shown(manager._ready().reports.find(name).config)
    lifecycle = manager._ready()
    loaded = manager._loader.config
    # Code may have registered or unregistered plugins since the configuration was loaded.
    values = dict(shown(loaded if loaded is not None else ManagerConfig()))
    values["plugins"] = [shown(plugin.config) for plugin in lifecycle.registry.plugins.values()]
    return values


def is_forced_open(plugin: GuardedPlugin) -> bool:
    """Whether its circuit breaker is forced open."""
    return plugin.pipeline.breaker.is_forced_open


def has_configured_members(wire: Sender) -> TypeGuard[LoadBalancer[Any, Any]]:
    """Whether it is a group with configured members, which can be disabled one by one."""
    return isinstance(wire, LoadBalancer)
