"""What has to be done to get from the plugins that run to those of a new configuration."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from goplugins.config import ManagerConfig, PluginConfig
from goplugins.config.diff import PluginDiff, diff_of, update_of
from goplugins.enums import ReloadStrategy
from goplugins.errors import DuplicatePluginNameError, InvalidConfigError
from goplugins.observability.reload_report import PluginOutcome, ReloadAction
from goplugins.pipeline.plugin import GuardedPlugin

__all__ = ["Plan", "plan_of"]


@attrs.frozen
class Plan:
    """The work of one reload.

    Attributes:
        config: the new configuration, resolved.
        diff: what it changes.
        actions: what becomes of each plugin.
        build: the plugins to build, each with its place in the configuration.
        adapt: those that take over new policies in place.
        remove: those that go.
    """

    config: ManagerConfig
    diff: PluginDiff
    actions: Mapping[str, ReloadAction]
    build: tuple[tuple[int, PluginConfig], ...]
    adapt: tuple[tuple[GuardedPlugin, PluginConfig], ...]
    remove: tuple[GuardedPlugin, ...]

    @property
    def disabled(self) -> frozenset[str]:
        """The plugins that are switched off."""
        return frozenset(config.name for config in self.config.plugins if not config.enabled)

    def outcomes(self) -> tuple[PluginOutcome, ...]:
        """What becomes of each plugin, before anything was drained."""
        return tuple(PluginOutcome(name, action) for name, action in self.actions.items())


def plan_of(
    config: ManagerConfig, before: ManagerConfig | None, running: Mapping[str, GuardedPlugin], strategy: ReloadStrategy
) -> Plan:
    """The way from what runs to a configuration.

    Args:
        config: the new one, resolved.
        before: the one that was loaded last, resolved; None before the first.
        running: the manager's plugins. What they really go by counts, not what was written once.
        strategy: recreate builds all anew.

    Raises:
        DuplicatePluginNameError: the name of a plugin that was registered in code.
    """
    ours = {name: plugin for name, plugin in running.items() if plugin.from_config}
    _check_names(config, running, ours)
    actions: dict[str, ReloadAction] = {}
    build, adapt = [], []
    for index, wanted in enumerate(config.plugins):
        if not wanted.enabled:
            continue
        plugin = ours.get(wanted.name)
        update = None if plugin is None else update_of(plugin.config, wanted)
        if plugin is None:
            actions[wanted.name] = ReloadAction.ADDED
            build.append((index, wanted))
        elif strategy is ReloadStrategy.RECREATE or (update is not None and not update.in_place):
            actions[wanted.name] = ReloadAction.REPLACED
            build.append((index, wanted))
        elif update is not None:
            actions[wanted.name] = ReloadAction.UPDATED
            adapt.append((plugin, wanted))
        else:
            actions[wanted.name] = ReloadAction.KEPT
    gone = [plugin for name, plugin in ours.items() if name not in actions]
    actions |= {plugin.name: ReloadAction.REMOVED for plugin in gone}
    diff = diff_of(_as_it_runs(before, ours), config)
    return Plan(config, diff, actions, tuple(build), tuple(adapt), tuple(gone))


def _check_names(
    config: ManagerConfig, running: Mapping[str, GuardedPlugin], ours: Mapping[str, GuardedPlugin]
) -> None:
    taken = [
        DuplicatePluginNameError(
            f"plugin {plugin.name!r} was registered in code, and a reload does not touch it",
            path=f"plugins[{index}].name",
            fix="choose another name, or unregister it first",
        )
        for index, plugin in enumerate(config.plugins)
        if plugin.enabled and plugin.name in running and plugin.name not in ours
    ]
    if taken:
        raise InvalidConfigError.of(taken)


def _as_it_runs(before: ManagerConfig | None, ours: Mapping[str, GuardedPlugin]) -> ManagerConfig:
    """The last configuration with the plugins that there really are: code may have unregistered some."""
    base = before or ManagerConfig().with_defaults()
    kept = [plugin.config if (plugin := ours.get(config.name)) else config for config in base.plugins]
    known = {config.name for config in base.plugins}
    further = [plugin.config for name, plugin in ours.items() if name not in known]
    there = [config for config in (*kept, *further) if config.name in ours or not config.enabled]
    return attrs.evolve(base, plugins=tuple(there))
