"""What comes and goes: loading, registering and retiring plugins, and the end of it all."""

from __future__ import annotations

import logging
import os
import random
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

import attrs

from goplugins._clock import Clock
from goplugins.building import Builder
from goplugins.config import ManagerConfig, PluginConfig
from goplugins.errors import ConfigError, ManagerClosedError
from goplugins.loading import load_resolved
from goplugins.models import ManagerMetrics, Plugin, PluginMetrics, TransportType
from goplugins.plugin import GuardedPlugin
from goplugins.processes import register_forkable
from goplugins.registry import Registry
from goplugins.upkeep import Upkeep

__all__ = ["ConfigSource", "Lifecycle"]

logger = logging.getLogger("goplugins.manager")

ConfigSource = ManagerConfig | Mapping[str, Any] | str | os.PathLike[str]


class Lifecycle:
    """The plugins of one manager, from their configuration to their last call.

    Args:
        clock: measures and waits.
        rng: where jitter comes from.
        resolve: has a function run on a thread where a name's resolution can hang without harm.

    Attributes:
        registry: who answers to which name.
        builder: makes plugins of configuration.
        upkeep: looks after them.
    """

    def __init__(self, clock: Clock, rng: random.Random, resolve: Callable[..., Future[Any]]) -> None:
        self._clock = clock
        self.registry = Registry()
        self.upkeep = Upkeep(self.registry, clock)
        self.builder = Builder(clock=clock, rng=rng, resolve=resolve)
        self._defaults = ManagerConfig()
        self._removed = PluginMetrics()
        self._lock = threading.RLock()
        self._loaded = False
        register_forkable(self)

    def load(self, config: ConfigSource) -> None:
        """See :meth:`goplugins.Manager.load_from_config`."""
        source = str(config) if isinstance(config, str | os.PathLike) else "configuration"
        with self._lock:
            if self.registry.closed:
                raise ManagerClosedError("the manager was shut down")
            if self._loaded:
                raise ConfigError("this manager has loaded its configuration already", fix="make another manager")
            self._loaded = True
        built: list[GuardedPlugin] = []
        try:
            resolved = load_resolved(config, further=self.builder.problems)
            built = self.builder.build_all(resolved.plugins)
            self.registry.add(built, (plugin.name for plugin in resolved.plugins if not plugin.enabled))
        except BaseException:
            for plugin in built:
                plugin.retire(0.0)
            self._loaded = False
            raise
        self._defaults = resolved
        for plugin in built:
            self.upkeep.watch(plugin)
        _set_log_level(resolved.log_level)
        logger.info("loaded %d plugins from %s", len(built), source)

    def register(self, plugin: Plugin[Any, Any], config: PluginConfig | None, name: str | None) -> None:
        """See :meth:`goplugins.Manager.register`."""
        found = name or (config.name if config is not None else "") or plugin.info().name
        if config is not None:
            config.validate_policies(found, defaults=self._defaults)
        base = config if config is not None else PluginConfig(name=found)
        base = attrs.evolve(base, name=found, transport=base.transport or TransportType.PYTHON)
        guarded = self.builder.guard(plugin, self._defaults.resolve(base), from_config=False)
        self.registry.add([guarded])
        self.upkeep.watch(guarded)

    def unregister(self, name: str, drain_timeout: float) -> None:
        """See :meth:`goplugins.Manager.unregister`."""
        plugin = self.registry.remove(name)
        plugin.refuse("it was unregistered")
        plugin.drain(drain_timeout)
        self._part_with(plugin)

    def _part_with(self, plugin: GuardedPlugin) -> None:
        """Closes a plugin that was removed and drained, once; its counts stay in the total."""
        with self._lock:
            if not self.registry.forget(plugin):
                return
            counts = attrs.evolve(self.upkeep.forget(plugin), active_requests=0)
            self._removed = PluginMetrics.total([self._removed, counts])
        plugin.close()

    def metrics(self) -> ManagerMetrics:
        """See :meth:`goplugins.Manager.metrics`."""
        with self._lock:
            plugins = {name: self.upkeep.metrics_of(plugin) for name, plugin in self.registry.plugins.items()}
            all_of_them = [self.upkeep.metrics_of(plugin) for plugin in self.registry.all]
            total = PluginMetrics.total([self._removed, *all_of_them])
        return ManagerMetrics(**attrs.asdict(total, recurse=False), plugins=plugins)

    def retire_all(self, timeout: float) -> None:
        """Refuses new calls, waits for those in flight at most ``timeout`` seconds, then closes every plugin."""
        end = self._clock.monotonic() + timeout
        plugins = self.registry.close()
        for plugin in plugins:
            plugin.refuse("the manager was shut down")
        self.upkeep.shutdown(min(1.0, timeout))
        # All are drained before any is closed: a call that was admitted may still need another plugin.
        for plugin in plugins:
            plugin.drain(max(0.0, end - self._clock.monotonic()))
        for plugin in plugins:
            self._part_with(plugin)

    def after_fork_in_child(self) -> None:
        """Fresh locks in a child process; plugins renew their own."""
        self._lock = threading.RLock()
        self.registry.after_fork_in_child()


def _set_log_level(level: str) -> None:
    """What the configuration says; its default only where the host has not set a level of its own."""
    root = logging.getLogger("goplugins")
    if level != ManagerConfig().log_level or root.level == logging.NOTSET:
        root.setLevel(level.upper())
