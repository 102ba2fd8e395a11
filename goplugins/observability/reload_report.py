"""What a reload did, plugin by plugin."""

from __future__ import annotations

import enum

import attrs

from goplugins.config.diff import PluginDiff
from goplugins.enums import ReloadStrategy
from goplugins.errors import ConfigError, PluginError

__all__ = ["PluginOutcome", "ReloadAction", "ReloadReport", "on_one_line"]

_MOST_PROBLEMS = 10


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
        left_behind: how many were still under way after ``drain_timeout``. A call that had yet to be sent, since it
            waited for a place or a token, goes to the successor and is not among them.
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


def on_one_line(error: PluginError) -> str:
    """Why a reload failed, as part of a line: the first few problems, one behind the other.

    >>> from goplugins.errors import InvalidConfigError
    >>> on_one_line(InvalidConfigError.of([InvalidConfigError("wrong", path=path) for path in ("a", "b")], "x.yaml"))
    '[PLUGIN_1012] x.yaml: 2 problems: a: wrong [PLUGIN_1012]; b: wrong [PLUGIN_1012]'
    """
    problems = error.problems if isinstance(error, ConfigError) else (error,)
    if len(problems) == 1:
        return " ".join(str(error).split())
    texts = [f"{problem.path}: {problem.message} [{problem.code}]" for problem in problems[:_MOST_PROBLEMS]]
    if len(problems) > len(texts):
        texts.append(f"and {len(problems) - len(texts)} more")
    return " ".join(f"[{error.code}] {error.message}: {'; '.join(texts)}".split())
