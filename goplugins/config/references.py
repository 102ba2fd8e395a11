"""Names across a configuration: each must be unique, and what refers to a name must find it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import attrs

from goplugins.config.field_types import near_name
from goplugins.config.manager_sections import LoadBalancerConfig
from goplugins.config.plugin import PluginConfig
from goplugins.config.policy_validation import NOT_HEDGED
from goplugins.config.problems import Path, Problems
from goplugins.errors import DuplicatePluginNameError, InvalidConfigError


@attrs.frozen
class Names:
    """The plugins and groups of a configuration, with their paths."""

    plugins: Sequence[PluginConfig]
    load_balancers: Sequence[LoadBalancerConfig]

    def check(self, registered: Collection[str] | None, problems: Problems) -> None:
        """Adds duplicate names, references to names that do not exist, and fallbacks that form a cycle.

        Args:
            registered: names of plugins registered in code; None if not all names are known yet, so that references
                are not looked up.
            problems: of the whole configuration.
        """
        self._check_duplicates(problems)
        self._check_hedged_members(problems)
        if registered is not None:
            self._check_references(registered, problems)
        self._check_fallback_cycles(problems)

    def _items(self) -> Iterator[tuple[Path, PluginConfig | LoadBalancerConfig]]:
        for index, plugin in enumerate(self.plugins):
            yield ("plugins", index), plugin
        for index, balancer in enumerate(self.load_balancers):
            yield ("load_balancers", index), balancer

    def _check_duplicates(self, problems: Problems) -> None:
        seen: dict[str, Path] = {}
        for path, item in self._items():
            if item.name and item.name in seen:
                kind, index = seen[item.name]
                message = f"{item.name!r} is also the name of {kind}[{index}]"
                problems.add(DuplicatePluginNameError, message, "rename one of them", *path, "name")
            seen.setdefault(item.name, path)

    def _check_hedged_members(self, problems: Problems) -> None:
        """A hedged group may send a call to any of its members: the call must be cancellable on all of them."""
        transports = {plugin.name: plugin.transport for plugin in self.plugins}
        for index, balancer in enumerate(self.load_balancers):
            if balancer.hedge is None or not balancer.hedge.enabled:
                continue
            for member in balancer.members:
                transport = transports.get(member.name)
                if transport in NOT_HEDGED:
                    message = f"a call of member {member.name!r} over {transport} can't be cancelled"
                    fix = "leave the section out, or that member"
                    where = problems.below("load_balancers", index, "hedge", "enabled")
                    where.add(InvalidConfigError, f"{message}, so the group can't be hedged", fix)
                    break

    def _check_references(self, registered: Collection[str], problems: Problems) -> None:
        known = {plugin.name for plugin in self.plugins}.union(registered)
        groups = {balancer.name for balancer in self.load_balancers}

        def look_up(name: str, names: Collection[str], *path: str | int) -> None:
            if name and name not in names:
                near = near_name(name, names)
                fix = f"did you mean {near!r}?" if near else "name a plugin of this configuration, or register it first"
                problems.add(InvalidConfigError, f"there is no plugin {name!r}", fix, *path)

        for path, item in self._items():
            if item.fallback is not None:
                look_up(item.fallback.plugin, known | groups, *path, "fallback", "plugin")
            if isinstance(item, LoadBalancerConfig):
                for index, member in enumerate(item.members):
                    look_up(member.name, known, *path, "members", index, "name")

    def _check_fallback_cycles(self, problems: Problems) -> None:
        following: Mapping[str, str] = {item.name: item.fallback.plugin for _, item in self._items() if item.fallback}
        paths = {item.name: path for path, item in self._items()}
        done: set[str] = set()
        for start in following:
            visited: list[str] = []
            name = start
            while name in following and name not in done and name not in visited:
                visited.append(name)
                name = following[name]
            cycle = visited[visited.index(name) :] if name in visited else []
            if len(cycle) > 1:  # a fallback on the plugin itself is reported with the section
                message = f"fallbacks form a cycle: {' -> '.join([*cycle, name])}"
                problems.add(InvalidConfigError, message, "change one of them", *paths[name], "fallback", "plugin")
            done.update(visited)
