"""The plan of a reload: what to build, change in place and remove for a new configuration."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from goplugins.config import ManagerConfig, PluginConfig
from goplugins.config.diff import PluginDiff, diff_of, update_of
from goplugins.enums import ReloadStrategy
from goplugins.errors import DuplicatePluginNameError, InvalidConfigError
from goplugins.observability.reload_report import PluginOutcome, ReloadAction
from goplugins.pipeline.operator_settings import OperatorSettings
from goplugins.pipeline.plugin import GuardedPlugin


@attrs.frozen
class ReloadPlan:
    """The steps of one reload.

    Attributes:
        config: the new configuration, resolved.
        diff: what it changes.
        actions: what happens to each plugin.
        build: the plugins to build, each with its index in the configuration.
        adapt: the plugins that take over new policies in place.
        remove: the plugins to remove.
    """

    config: ManagerConfig
    diff: PluginDiff
    actions: Mapping[str, ReloadAction]
    build: tuple[tuple[int, PluginConfig], ...]
    adapt: tuple[tuple[GuardedPlugin, PluginConfig], ...]
    remove: tuple[GuardedPlugin, ...]

    @property
    def disabled(self) -> frozenset[str]:
        """Names of the plugins with ``enabled: false``."""
        return frozenset(config.name for config in self.config.plugins if not config.enabled)

    def outcomes(self, running: Mapping[str, GuardedPlugin]) -> tuple[PluginOutcome, ...]:
        """What happens to each plugin, without the figures of the drain.

        Args:
            running: the manager's plugins, which have what operators have set.
        """
        return tuple(
            PluginOutcome(name, action, disabled=_disabled(running.get(name))) for name, action in self.actions.items()
        )


def make_plan(
    config: ManagerConfig, before: ManagerConfig | None, running: Mapping[str, GuardedPlugin], strategy: ReloadStrategy
) -> ReloadPlan:
    """The steps from the running plugins to a new configuration.

    Args:
        config: the new configuration, resolved.
        before: the last loaded configuration, resolved; None before the first.
        running: the manager's plugins. Their present settings are compared, not those of ``before``.
        strategy: "recreate" builds all plugins anew.

    Raises:
        DuplicatePluginNameError: the name of a plugin that was registered in code.
    """
    configured = {name: plugin for name, plugin in running.items() if plugin.from_config}
    _check_names(config, running, configured)
    actions: dict[str, ReloadAction] = {}
    build, adapt = [], []
    for index, wanted in enumerate(config.plugins):
        if not wanted.enabled:
            continue
        plugin = configured.get(wanted.name)
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
    removed = [plugin for name, plugin in configured.items() if name not in actions]
    actions |= {plugin.name: ReloadAction.REMOVED for plugin in removed}
    diff = diff_of(_running_config(before, configured), config)
    return ReloadPlan(config, diff, actions, tuple(build), tuple(adapt), tuple(removed))


def _disabled(plugin: GuardedPlugin | None) -> tuple[str, ...]:
    return () if plugin is None else OperatorSettings.of(plugin).disabled(plugin.name)


def _check_names(
    config: ManagerConfig, running: Mapping[str, GuardedPlugin], configured: Mapping[str, GuardedPlugin]
) -> None:
    taken = [
        DuplicatePluginNameError(
            f"plugin {plugin.name!r} was registered in code, and a reload does not change it",
            path=f"plugins[{index}].name",
            fix="choose another name, or unregister it first",
        )
        for index, plugin in enumerate(config.plugins)
        if plugin.enabled and plugin.name in running and plugin.name not in configured
    ]
    if taken:
        raise InvalidConfigError.of(taken)


def _running_config(before: ManagerConfig | None, configured: Mapping[str, GuardedPlugin]) -> ManagerConfig:
    """The last configuration with the plugins as they are: code may have unregistered some."""
    base = before or ManagerConfig().with_defaults()
    present = [plugin.config if (plugin := configured.get(config.name)) else config for config in base.plugins]
    known = {config.name for config in base.plugins}
    others = [plugin.config for name, plugin in configured.items() if name not in known]
    plugins = [config for config in (*present, *others) if config.name in configured or not config.enabled]
    return attrs.evolve(base, plugins=tuple(plugins))
