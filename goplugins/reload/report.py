"""What a reload did, plugin by plugin."""

from __future__ import annotations

import enum

import attrs

from goplugins.models import ReloadStrategy
from goplugins.reload.diff import PluginDiff

__all__ = ["PluginOutcome", "ReloadAction", "ReloadReport"]


class ReloadAction(enum.StrEnum):
    """What became of a plugin."""

    KEPT = "kept"
    UPDATED = "updated"
    REPLACED = "replaced"
    ADDED = "added"
    REMOVED = "removed"


@attrs.frozen
class PluginOutcome:
    """One plugin's part of a reload.

    Attributes:
        name: the plugin's.
        action: what became of it. "updated" is in place: connections, counts and states stayed.
        drained: calls that were under way on it when it was replaced or removed, and were waited for.
        drain_time: seconds until the last of them was out.
        left_behind: how many were still under way after ``drain_timeout``.
    """

    name: str
    action: ReloadAction
    drained: int = 0
    drain_time: float = 0.0
    left_behind: int = 0

    def __str__(self) -> str:
        text = f"{self.name}: {self.action}"
        if self.drained:
            text += f", {self.drained} calls drained in {self.drain_time:.3f} s"
        if self.left_behind:
            text += f", {self.left_behind} left behind"
        return text


@attrs.frozen
class ReloadReport:
    """What a reload did, or with ``dry_run`` would do. ``print`` it.

    Attributes:
        strategy: how plugins were replaced.
        plugins: every plugin of the configuration, and those that left it.
        diff: the fields that differ.
        elapsed: seconds that it took.
        dry_run: whether nothing was done.
    """

    strategy: ReloadStrategy
    plugins: tuple[PluginOutcome, ...]
    diff: PluginDiff
    elapsed: float = 0.0
    dry_run: bool = False

    def names(self, action: ReloadAction | str) -> tuple[str, ...]:
        """The plugins that met with ``action``, such as ``"replaced"``."""
        return tuple(outcome.name for outcome in self.plugins if outcome.action == action)

    @property
    def kept(self) -> tuple[str, ...]:
        """Plugins that were not touched."""
        return self.names(ReloadAction.KEPT)

    @property
    def updated(self) -> tuple[str, ...]:
        """Plugins that took over new policies in place."""
        return self.names(ReloadAction.UPDATED)

    @property
    def replaced(self) -> tuple[str, ...]:
        """Plugins that another one took the place of."""
        return self.names(ReloadAction.REPLACED)

    @property
    def added(self) -> tuple[str, ...]:
        """Plugins that were not there before, or not enabled."""
        return self.names(ReloadAction.ADDED)

    @property
    def removed(self) -> tuple[str, ...]:
        """Plugins that are not there any more, or not enabled."""
        return self.names(ReloadAction.REMOVED)

    @property
    def drained(self) -> int:
        """Calls that were waited for, on all plugins together."""
        return sum(outcome.drained for outcome in self.plugins)

    def __str__(self) -> str:
        how = "dry run" if self.dry_run else f"done in {self.elapsed:.3f} s"
        changed = [str(outcome) for outcome in self.plugins if outcome.action is not ReloadAction.KEPT]
        lines = [f"{self.strategy} reload, {how}: {len(changed)} of {len(self.plugins)} plugins"]
        return "\n".join(lines + [f"  {line}" for line in changed])
