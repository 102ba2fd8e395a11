"""The report of a reload, plugin by plugin."""

from __future__ import annotations

import enum
from collections.abc import Mapping

import attrs

from goplugins.config.diff import PluginDiff
from goplugins.enums import ReloadStrategy
from goplugins.errors import ConfigError, PluginError
from goplugins.runtime.text import counted

__all__ = ["PluginOutcome", "ReloadAction", "ReloadReport", "on_one_line"]

_MOST_PROBLEMS = 10


class ReloadAction(enum.StrEnum):
    """What a reload did with a plugin."""

    KEPT = "kept"
    UPDATED = "updated"
    REPLACED = "replaced"
    ADDED = "added"
    REMOVED = "removed"


@attrs.frozen
class PluginOutcome:
    """One plugin's part of a reload.

    Attributes:
        name: the plugin's name.
        action: what the reload did with it. "updated" is in place: connections, counts and states were kept.
        drained: calls in flight when it was replaced or removed, which have finished since.
        drain_time: seconds until the last of them had finished.
        left_behind: calls still in flight after ``drain_timeout``. Calls that were still waiting to be sent go to the
            successor and are not counted.
        disabled: what an operator has disabled, which a reload does not end: the plugin itself, by its name, and
            members of a group.
    """

    name: str
    action: ReloadAction
    drained: int = 0
    drain_time: float = 0.0
    left_behind: int = 0
    disabled: tuple[str, ...] = ()

    def __setstate__(self, state: Mapping[str, object]) -> None:
        """Also of pickles from before ``disabled``."""
        for name, value in {"disabled": (), **state}.items():
            object.__setattr__(self, name, value)

    def __str__(self) -> str:
        text = f"{self.name}: {self.action}"
        if self.drained:
            text += f", {counted(self.drained, 'call')} drained in {self.drain_time:.3f} s"
        if self.left_behind:
            text += f", {self.left_behind} left behind"
        if self.disabled:
            own = self.disabled == (self.name,)
            text += ", still disabled by an operator" + ("" if own else f": {', '.join(self.disabled)}")
        return text


@attrs.frozen
class ReloadReport:
    """What a reload did, or would do with ``dry_run``. ``print`` it.

    Attributes:
        strategy: how plugins were replaced.
        plugins: the plugins of the new configuration, and the removed ones.
        diff: the changed fields.
        elapsed: duration in seconds.
        dry_run: True if nothing was changed.
    """

    strategy: ReloadStrategy
    plugins: tuple[PluginOutcome, ...]
    diff: PluginDiff
    elapsed: float = 0.0
    dry_run: bool = False

    def names(self, action: ReloadAction | str) -> tuple[str, ...]:
        """Names of the plugins with that ``action``, such as ``"replaced"``."""
        return tuple(outcome.name for outcome in self.plugins if outcome.action == action)

    @property
    def kept(self) -> tuple[str, ...]:
        """Plugins without changes."""
        return self.names(ReloadAction.KEPT)

    @property
    def updated(self) -> tuple[str, ...]:
        """Plugins whose policies were changed in place."""
        return self.names(ReloadAction.UPDATED)

    @property
    def replaced(self) -> tuple[str, ...]:
        """Plugins that were replaced by a new instance."""
        return self.names(ReloadAction.REPLACED)

    @property
    def added(self) -> tuple[str, ...]:
        """Plugins that are new, or were not enabled before."""
        return self.names(ReloadAction.ADDED)

    @property
    def removed(self) -> tuple[str, ...]:
        """Plugins that were removed, or are no longer enabled."""
        return self.names(ReloadAction.REMOVED)

    @property
    def drained(self) -> int:
        """Drained calls of all plugins."""
        return sum(outcome.drained for outcome in self.plugins)

    def __str__(self) -> str:
        how = "dry run" if self.dry_run else f"done in {self.elapsed:.3f} s"
        changed = [str(outcome) for outcome in self.plugins if outcome.action is not ReloadAction.KEPT]
        lines = [f"{self.strategy} reload, {how}: {len(changed)} of {counted(len(self.plugins), 'plugin')}"]
        return "\n".join(lines + [f"  {line}" for line in changed])


def on_one_line(error: PluginError) -> str:
    """The first problems of a failed reload, on one line.

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
