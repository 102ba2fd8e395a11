"""One reload under way: build, check, swap, and all of it undone if one step fails."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Protocol

from goplugins.config import PluginConfig, ReloadOptions
from goplugins.enums import ReloadStrategy
from goplugins.errors import PluginError, ReloadError, belongs_to_host
from goplugins.manager.reload_check import check_all
from goplugins.manager.reload_plan import Plan
from goplugins.models.results import HealthStatus
from goplugins.pipeline.plugin import GuardedPlugin
from goplugins.pipeline.registry import Registry
from goplugins.runtime.clock import Clock

__all__ = ["House", "Turn", "Work"]


class House(Protocol):
    """Where the plugins live."""

    registry: Registry

    def build(self, index: int, config: PluginConfig) -> GuardedPlugin:
        """A plugin of the configuration; ``index`` is its place in there."""
        ...

    def adapt(self, plugin: GuardedPlugin, config: PluginConfig) -> None:
        """Has a plugin go by new policies."""
        ...

    def watch(self, plugin: GuardedPlugin, seen: HealthStatus | None) -> None:
        """Has a plugin's health looked at from now on, in the place of its predecessor's; ``seen`` is its state."""
        ...


class Turn:
    """Lets one reload at a time pass. Not a lock around a decision: whoever has the turn builds, asks and waits."""

    def __init__(self) -> None:
        self.after_fork_in_child()

    def after_fork_in_child(self) -> None:
        """Nobody has the turn: who had it has it in the parent."""
        self._lock = threading.Lock()
        self._owner: int | None = None

    @contextlib.contextmanager
    def take(self, timeout: float) -> Iterator[None]:
        """Waits for the turn at most ``timeout`` seconds.

        Raises:
            ReloadError: it did not come, or this very thread has it.
        """
        lock, thread = self._lock, threading.get_ident()
        if self._owner == thread:
            raise ReloadError("a plugin that is being loaded can't load or reload the configuration itself")
        if not lock.acquire(timeout=max(0.0, min(timeout, threading.TIMEOUT_MAX))):
            raise ReloadError(f"another reload is under way, and did not end within {timeout:g} s")
        try:
            self._owner = thread
            yield
        finally:
            self._owner = None
            lock.release()


class Work:
    """Carries out a plan, all or nothing.

    Args:
        house: where it is done.
        plan: what is to be done.
        options: how.
        clock: measures.
        end: when it has to be done, on the clock's monotonic scale.

    Attributes:
        leaving: whom nobody calls any more, to be drained and closed: the old ones, or after a failure new ones.
    """

    def __init__(self, house: House, plan: Plan, options: ReloadOptions, clock: Clock, end: float) -> None:
        self.leaving: list[GuardedPlugin] = []
        self._house = house
        self._plan = plan
        self._options = options
        self._now = clock.monotonic
        self._end = end
        self._fresh: list[GuardedPlugin] = []  # at work already
        self._old: list[GuardedPlugin] = []  # whose place they took
        self._disabled = house.registry.disabled
        self._adapted: list[tuple[GuardedPlugin, PluginConfig]] = []  # with what they went by before

    def run(self) -> None:
        """Does it.

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
        """At least one, the last of which also adapts and removes."""
        build = self._plan.build
        rolling = self._options.strategy is ReloadStrategy.ROLLING
        size = self._options.max_concurrent_reloads if rolling else max(len(build), 1)
        return [build[start : start + size] for start in range(0, len(build), size)] or [()]

    def _replace(self, batch: Sequence[tuple[int, PluginConfig]], *, final: bool = False) -> None:
        plan, registry = self._plan, self._house.registry
        made: list[GuardedPlugin] = []
        try:
            for index, config in batch:
                made.append(self._build(index, config))
            seen = check_all(made, min(self._options.health_check_timeout, self._time_left()))
            self._time_left()
            if final:
                self._adapt()
                old = registry.replace(made, plan.remove, plan.disabled)
            else:
                old = registry.replace(made)
        except BaseException:
            for plugin in made:
                plugin.drain_and_close(0.0, "the reload that it was made for failed")
            raise
        self._fresh += made
        self._old += old
        for plugin in made:
            self._house.watch(plugin, seen.get(plugin.name))

    def _time_left(self) -> float:
        left = self._end - self._now()
        if left <= 0:
            raise ReloadError(f"it was not done within graceful_timeout, {self._options.graceful_timeout:g} s")
        return left

    def _build(self, index: int, config: PluginConfig) -> GuardedPlugin:
        try:
            return self._house.build(index, config)
        except Exception as exc:
            if belongs_to_host(exc):
                raise
            why = str(exc) if isinstance(exc, PluginError) else f"{type(exc).__name__}: {exc}"
            text = f"can't be made: {why}"
            raise ReloadError(text, plugin=config.name, details={"plugins": {config.name: text}}) from exc

    def _adapt(self) -> None:
        for plugin, config in self._plan.adapt:
            self._adapted.append((plugin, plugin.config))
            self._house.adapt(plugin, config)

    def _roll_back(self) -> None:
        for plugin, config in reversed(self._adapted):
            self._house.adapt(plugin, config)
        if not self._options.rollback_on_failure:
            self.leaving = self._old  # of the groups that had passed
            return
        restored, self.leaving = self._house.registry.restore(self._old, self._fresh, self._disabled)
        for plugin in restored:
            self._house.watch(plugin, None)
