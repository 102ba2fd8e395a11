"""The plugins of one manager, from their first call to their last: added, registered, drained and closed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs

from goplugins.config import ManagerConfig, PluginConfig
from goplugins.config.field_types import NO_SURROGATE, surrogate_fault
from goplugins.config.schema import as_mapping
from goplugins.enums import TransportType
from goplugins.errors import InvalidPluginNameError
from goplugins.manager.builder import Builder
from goplugins.manager.dispatch import CallDispatcher
from goplugins.manager.factories import Factories
from goplugins.manager.interceptors import Interceptors
from goplugins.manager.maintenance import Maintenance
from goplugins.manager.plugin_reports import PluginReports
from goplugins.models.plugin import Plugin
from goplugins.observability.event_stream import EventStream, publish
from goplugins.observability.events import PluginAdded, PluginRemoved
from goplugins.observability.setup import Observers
from goplugins.pipeline.plugin import GuardedPlugin
from goplugins.pipeline.registry import Registry
from goplugins.runtime.clock import Clock
from goplugins.runtime.fork import register_forkable
from goplugins.runtime.workers import WorkerPool
from goplugins.transports.interface import Sender

Registrable = Plugin[Any, Any] | Callable[..., Any]
"""What ``register`` takes: an object with the methods of a plugin, or a function."""

_SUCCESSOR_TIME = 0.05
"""Seconds that waiting calls of a closed plugin have to go to its successor."""


class Lifecycle:
    """Everything around the plugins of one manager; adds and removes plugins.

    Args:
        load: loads the configuration of an unpickled manager, if that is still to be done.
        pool: the threads of submitted calls.
        clock: measures time, and waits.
        rng: for jitter.
        interceptors: functions of the application around each call.
    """

    def __init__(
        self,
        load: Callable[[], object],
        pool: WorkerPool,
        *,
        clock: Clock,
        rng: random.Random,
        interceptors: Interceptors | None = None,
    ) -> None:
        self._clock = clock
        self._rng = rng
        self.registry = Registry(load)
        self.events = EventStream()
        self.observers = Observers(self.events, clock, rng)
        self.maintenance = Maintenance(self.registry, self.events, self.observers, clock)
        self.reports = PluginReports(self.registry, self.maintenance, clock)
        self.dispatcher = CallDispatcher(self.registry, self.observers, pool, clock, interceptors)
        self.factories = Factories(clock=clock)
        self.builder = Builder(
            self.registry,
            self.factories,
            self.maintenance,
            self.events,
            self.dispatcher.forward,
            clock=clock,
            rng=rng,
        )
        register_forkable(self)

    def build_and_add(self, config: ManagerConfig) -> list[GuardedPlugin]:
        """Builds and adds all plugins of a first configuration, resolved, or none; then :meth:`watch` them.

        Their health is not checked before: no running plugin depends on it.
        """
        built: list[GuardedPlugin] = []
        try:
            for index, each in enumerate(config.plugins):
                if each.enabled:
                    built.append(self.builder.build_at(index, each))
            self.registry.add(built, (plugin.name for plugin in config.plugins if not plugin.enabled))
        except BaseException:
            for plugin in built:
                plugin.drain_and_close(0.0, "another plugin of its configuration could not be built")
            raise
        return built

    def watch(self, plugins: Iterable[GuardedPlugin]) -> None:
        """Checks the health of added plugins from now on, and announces them."""
        for plugin in plugins:
            self.maintenance.watch(plugin)
            if self.events.changes:
                event = PluginAdded(plugin.name, self._clock.time(), plugin.endpoint, plugin.from_config)
                publish(self.events.changes, event)

    def register(
        self,
        plugin: Registrable,
        config: PluginConfig | None,
        name: str | None,
        defaults: ManagerConfig,
    ) -> None:
        """See :meth:`goplugins.Manager.register`; the plugin inherits the policies of ``defaults``."""
        made = _plugin_of(plugin)
        found = name or (config.name if config is not None else "") or made.info().name
        if config is not None:
            config.validate_policies(found, defaults=defaults)
        elif fault := surrogate_fault(found):
            raise InvalidPluginNameError(f"{found!r} {fault}", path="name", fix=NO_SURROGATE)
        base = config if config is not None else PluginConfig(name=found)
        brought = made.policies if isinstance(made, Sender) else None
        if brought is not None:
            base = attrs.evolve(base, **{**as_mapping(brought), **as_mapping(base)})
        base = attrs.evolve(base, name=found, transport=base.transport or TransportType.PYTHON)
        guarded = self.builder.guard(made, defaults.resolve(base), from_config=False)
        self.registry.add([guarded])
        self.watch([guarded])

    def unregister(self, name: str, drain_timeout: float) -> None:
        """See :meth:`goplugins.Manager.unregister`."""
        plugin = self.registry.remove(name)
        plugin.reject_calls("it was unregistered")
        plugin.drain(drain_timeout)
        self._close(plugin)

    def drain_and_close(self, plugins: Sequence[GuardedPlugin], end: float) -> dict[str, dict[str, Any]]:
        """Drains plugins that a reload has replaced or removed, and closes them.

        Args:
            plugins: no longer in the registry.
            end: how long to wait for their calls, on the clock's monotonic scale.

        Returns:
            By name, the fields of :class:`~goplugins.PluginOutcome` for those that had calls in flight.
        """
        started = self._clock.monotonic()
        for plugin in plugins:
            plugin.superseded = plugin.name in self.registry.plugins
        in_flight = {plugin: plugin.stop_accepting() for plugin in plugins}
        drained: dict[str, dict[str, Any]] = {}
        late: dict[GuardedPlugin, int] = {}
        try:
            # All are drained before any is closed: an admitted call may still call another of them.
            for plugin, count in in_flight.items():
                done = plugin.drain(max(0.0, end - self._clock.monotonic()))
                late[plugin] = 0 if done else plugin.tracker.in_flight
                if count:
                    drained[plugin.name] = {
                        "drained": max(0, count - late[plugin]),
                        "drain_time": self._clock.monotonic() - started,
                        "left_behind": late[plugin],
                    }
        finally:
            for plugin in plugins:
                plugin.reject_calls("it was replaced")
            for plugin in plugins:
                if late.get(plugin):
                    # Calls that waited for a slot or a token go to the successor now, and are not left behind.
                    plugin.tracker.drain(_SUCCESSOR_TIME, self._clock)
                    drained.get(plugin.name, {})["left_behind"] = max(0, late[plugin] - plugin.tracker.transferred)
                self._close(plugin)
        return drained

    def _close(self, plugin: GuardedPlugin) -> None:
        """Closes a plugin that was removed and drained, once."""
        if self.maintenance.remove(plugin):
            plugin.close()
            if self.events.changes:
                publish(self.events.changes, PluginRemoved(plugin.name, self._clock.time()))

    def close(self, timeout: float) -> None:
        """Rejects new calls, waits at most ``timeout`` seconds for those in flight, then closes every plugin."""
        end = self._clock.monotonic() + timeout
        plugins = self.registry.close()
        for plugin in plugins:
            plugin.reject_calls("the manager was shut down")
        self.maintenance.shutdown(min(1.0, timeout))
        # All are drained before any is closed: an admitted call may still call another of them.
        for plugin in plugins:
            plugin.drain(max(0.0, end - self._clock.monotonic()))
        for plugin in plugins:
            self._close(plugin)
        self.observers.close()
        self.builder.close()

    def after_fork_in_child(self) -> None:
        """Renews the plugins, and the random numbers: retries of sibling processes must not fall together."""
        self._rng.seed()
        self.registry.after_fork_in_child()


def _plugin_of(given: Any) -> Plugin[Any, Any]:
    """The object itself, or the served plugin of a function."""
    if isinstance(given, type) or hasattr(given, "execute") or not callable(given):
        return given  # type: ignore[no-any-return]  # its methods are checked later
    from goplugins.serve._served_function import plain_function

    return plain_function(given)
