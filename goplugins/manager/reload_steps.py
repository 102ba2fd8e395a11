"""A reload under way: builds, checks and swaps plugins, and undoes all of it if a step fails."""

from __future__ import annotations

from collections.abc import Sequence

from goplugins.config import PluginConfig, ReloadOptions
from goplugins.enums import ReloadStrategy
from goplugins.errors import PluginError, ReloadError, belongs_to_host
from goplugins.manager.lifecycle import Lifecycle
from goplugins.manager.reload_check import check_all
from goplugins.manager.reload_plan import ReloadPlan
from goplugins.pipeline.operator_settings import Handover
from goplugins.pipeline.pipeline import Pipeline
from goplugins.pipeline.plugin import GuardedPlugin
from goplugins.runtime.clock import Clock


class ReloadRun:
    """Carries out a plan, all or nothing.

    Args:
        lifecycle: the manager's plugins.
        plan: the steps.
        options: strategy and timeouts.
        clock: measures time.
        end: when the run has to be done, on the clock's monotonic scale.

    Attributes:
        leaving: plugins to drain and close afterwards: the replaced and removed ones; after a failure, new ones.
    """

    def __init__(
        self, lifecycle: Lifecycle, plan: ReloadPlan, options: ReloadOptions, clock: Clock, end: float
    ) -> None:
        self.leaving: list[GuardedPlugin] = []
        self._registry = lifecycle.registry
        self._builder = lifecycle.builder
        self._maintenance = lifecycle.maintenance
        self._plan = plan
        self._options = options
        self._clock = clock
        self._end = end
        self._disabled = lifecycle.registry.disabled
        self._new: list[GuardedPlugin] = []  # in the registry already
        self._old: list[GuardedPlugin] = []  # replaced or removed
        self._adapted: list[tuple[GuardedPlugin, Pipeline]] = []  # with their former pipelines

    def execute(self) -> None:
        """Runs all steps.

        Raises:
            ReloadError: a plugin could not be built or reached, or time is up.
            ManagerClosedError: the manager was shut down meanwhile.
        """
        try:
            *first, last = self._batches()
            for batch in first:
                self._replace(batch)
            self._replace(last, final=True)
        except BaseException:
            self._roll_back()
            raise
        self.leaving = self._old

    def _batches(self) -> list[Sequence[tuple[int, PluginConfig]]]:
        """At least one; with the last one, policies are changed in place and plugins removed."""
        build = self._plan.build
        rolling = self._options.strategy is ReloadStrategy.ROLLING
        size = self._options.max_concurrent_reloads if rolling else max(len(build), 1)
        return [build[start : start + size] for start in range(0, len(build), size)] or [()]

    def _replace(self, batch: Sequence[tuple[int, PluginConfig]], *, final: bool = False) -> None:
        plan = self._plan
        built: list[GuardedPlugin] = []
        try:
            for index, config in batch:
                built.append(self._build(index, config))
            seen = check_all(built, min(self._options.health_check_timeout, self._time_left()))
            self._time_left()
            running = self._registry.plugins
            handover = Handover([(running[each.name], each) for each in built if each.name in running])
            if final:
                self._adapt()
                old = self._registry.replace(built, plan.remove, plan.disabled)
            else:
                old = self._registry.replace(built)
        except BaseException:
            for plugin in built:
                plugin.drain_and_close(0.0, "its reload failed")
            raise
        handover.complete()
        self._new += built
        self._old += old
        for plugin in built:
            self._maintenance.watch(plugin, seen.get(plugin.name))

    def _time_left(self) -> float:
        left = self._end - self._clock.monotonic()
        if left <= 0:
            raise ReloadError(f"not done within graceful_timeout, {self._options.graceful_timeout:g} s")
        return left

    def _build(self, index: int, config: PluginConfig) -> GuardedPlugin:
        try:
            return self._builder.build_at(index, config)
        except Exception as exc:
            if belongs_to_host(exc):
                raise
            why = str(exc) if isinstance(exc, PluginError) else f"{type(exc).__name__}: {exc}"
            text = f"can't be built: {why}"
            raise ReloadError(text, plugin=config.name, details={"plugins": {config.name: text}}) from exc

    def _adapt(self) -> None:
        for plugin, config in self._plan.adapt:
            self._adapted.append((plugin, plugin.pipeline))
            self._builder.adapt(plugin, config)

    def _roll_back(self) -> None:
        for plugin, pipeline in reversed(self._adapted):
            self._builder.adapt(plugin, pipeline.config, keep=pipeline)
        if not self._options.rollback_on_failure:
            self.leaving = self._old  # the batches that succeeded stay
            return
        new = {plugin.name: plugin for plugin in self._new}
        handover = Handover([(new[each.name], each) for each in self._old if each.name in new])
        restored, self.leaving = self._registry.restore(self._old, self._new, self._disabled)
        handover.complete()
        for plugin in restored:
            self._maintenance.watch(plugin)
