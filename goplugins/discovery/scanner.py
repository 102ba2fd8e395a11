"""Discovery: scans directories and installed packages for plugins."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import attrs

from goplugins.config import DiscoveryConfig, ManagerConfig
from goplugins.config.conversion import check_types
from goplugins.config.environment import plugin_variables
from goplugins.config.manager import FurtherCheck, file_problems, semantic_problems
from goplugins.config.problems import Problem, path_text
from goplugins.discovery.directories import scan_directory, signature_of
from goplugins.discovery.manifest import read_plugin
from goplugins.discovery.report import DiscoveredPlugin, DiscoveryProblem, DiscoveryReport
from goplugins.discovery.requirements import too_old, unmet
from goplugins.enums import TransportType
from goplugins.errors import ConfigError

ENTRY_POINTS = "goplugins.plugins"
"""The entry point group of plugins."""


class Discovery:
    """Scans for plugins in the configured places, whether or not ``enabled`` is set.

    The scan runs, imports and connects to nothing. Names are unique; the order of precedence is: plugins registered in
    code, plugins of the configuration, the directories in their order (in each the manifests, then programs without
    one, by file name), entry points by name. Plugins that can't be used are left out and named in the report.

    Args:
        config: the configuration, whose plugins and defaults count; or only its ``discovery`` section.
        environ: for ``${VAR}`` in manifests, and for variables such as ``GOPLUGINS__PLUGINS__GEO__ENDPOINT``; the
            process's environment when left out.
        registered: names of plugins registered in code; when None, references to unknown plugins are not checked.
        check: checks of factories, as for :func:`goplugins.config.manager.load`.
        before: the plugins in use. One whose file has become invalid stays as it was; it is removed when its file is
            removed or becomes unsafe.

    Raises:
        ConfigError: the section holds values of wrong types.
    """

    def __init__(
        self,
        config: ManagerConfig | DiscoveryConfig,
        *,
        environ: Mapping[str, str] | None = None,
        registered: Collection[str] | None = None,
        check: FurtherCheck | None = None,
        before: DiscoveryReport | None = None,
    ) -> None:
        self._config = config if isinstance(config, ManagerConfig) else ManagerConfig(discovery=config)
        check_types(self._config.discovery, source="discovery")
        self._environ = os.environ if environ is None else environ
        self._registered = registered
        self._check = check
        self._before = {} if before is None else {plugin.path: plugin for plugin in before.found.values()}

    def scan(self) -> DiscoveryReport:
        """Scans once. Invalid files raise nothing: they are in the report."""
        section = self._config.discovery
        signature = self.signature()  # first: files that come during the scan must count as a change
        problems: list[DiscoveryProblem] = []
        found: dict[str, DiscoveredPlugin] = {}
        offered = [
            plugin
            for directory in section.directories
            for plugin in scan_directory(directory, section.patterns, self._environ, problems.append, self._before)
        ]
        if section.entry_points:
            offered += _entry_points(self._environ, problems)
        for plugin in offered:
            reason = self._conflict(plugin, found)
            if reason:
                problems.append(DiscoveryProblem(plugin.path, reason, plugin.manifest.name))
            else:
                found[plugin.manifest.name] = plugin
        found = dict(sorted(found.items()))
        seen = [plugin.manifest.name for plugin in offered]
        self._remove_unusable(found, problems)
        found = dict(sorted(found.items()))
        problems += self._unused_variables(seen)
        return DiscoveryReport(found, tuple(problems), signature)

    def signature(self) -> str:
        """A digest of the files that :meth:`scan` would read; it changes with them.

        Cheap enough for every few seconds. Installed packages are not part of it: those of a running process are fixed.
        """
        return signature_of(self._config.discovery.directories, self._config.discovery.patterns)

    def _conflict(self, plugin: DiscoveredPlugin, found: Mapping[str, DiscoveredPlugin]) -> str:
        name = plugin.manifest.name
        if name in (self._registered or ()):
            return f"{name!r} is registered in code, which has precedence"
        if name in self._configured:
            return f"{name!r} is in the configuration, which has precedence"
        if name in found:
            return f"{name!r} is also in {found[name].path}, which has precedence"
        return ""

    @property
    def _configured(self) -> dict[str, str | None]:
        """The plugins and groups of the configuration, with the versions in their labels."""
        names: dict[str, str | None] = {group.name: None for group in self._config.load_balancers}
        return names | {plugin.name: plugin.labels.get("version") for plugin in self._config.plugins}

    def _remove_unusable(self, found: dict[str, DiscoveredPlugin], problems: list[DiscoveryProblem]) -> None:
        """Removes plugins that can't be used, and repeats that, since others may require them."""
        from goplugins._version import __version__

        off = {plugin.name for plugin in self._config.plugins if plugin.enabled is False}
        others: dict[str, str | None] = dict.fromkeys(self._registered or ()) | self._configured
        others = {name: version for name, version in others.items() if name not in off}
        left_out: dict[str, str] = {}
        while True:
            reasons = {name: [why] for name, plugin in found.items() if (why := too_old(plugin, __version__))}
            reasons = reasons or {name: [why] for name, why in unmet(found, others, left_out).items()}
            invalid = {} if reasons else self._config_problems(found)
            if not reasons and not invalid:
                return
            for name, whys in (reasons or invalid).items():
                plugin = found.pop(name)
                earlier = self._before.get(plugin.path)
                kept = bool(invalid) and earlier is not None and earlier != plugin and earlier.manifest.name == name
                if kept and earlier is not None:
                    found[name] = earlier
                else:
                    left_out[name] = whys[0]
                problems += [DiscoveryProblem(plugin.path, why, name, kept) for why in whys]

    def _config_problems(self, found: Mapping[str, DiscoveredPlugin]) -> dict[str, list[str]]:
        """Problems that the found plugins would cause in the whole configuration."""
        own = len(self._config.plugins)
        plugins = tuple(plugin.config for plugin in found.values())
        whole = attrs.evolve(self._config, plugins=(*self._config.plugins, *plugins))
        resolved = whole.with_defaults()
        wrong: list[Problem] = [*semantic_problems(whole, resolved, self._registered), *file_problems(resolved)]
        reasons: dict[str, list[str]] = {}
        names = list(found)
        for path, error in wrong:
            if len(path) > 1 and path[0] == "plugins" and isinstance(path[1], int) and path[1] >= own:
                reasons.setdefault(names[path[1] - own], []).append(_text(error, path_text(path[2:])))
        if not reasons and self._check is not None and found:
            alone = ManagerConfig(plugins=resolved.plugins[own:])
            for error in self._check(alone, frozenset()):
                index = error.path.removeprefix("plugins[").partition("]")[0]
                if error.path.startswith("plugins[") and index.isdigit():
                    place = error.path.partition("]")[2].lstrip(".")
                    reasons.setdefault(names[int(index)], []).append(_text(error, place))
        return reasons

    def _unused_variables(self, seen: Collection[str]) -> Iterator[DiscoveryProblem]:
        names = [*seen, *(plugin.name for plugin in self._config.plugins)]
        for variable in plugin_variables(self._environ, names):
            yield DiscoveryProblem(variable, "is for a plugin that does not exist (unset it)")


def _text(error: ConfigError, place: str) -> str:
    return f"{f'{place}: ' if place else ''}{error.message}{f' ({error.fix})' if error.fix else ''}"


def _entry_points(environ: Mapping[str, str], problems: list[DiscoveryProblem]) -> list[DiscoveredPlugin]:
    """The plugins of installed packages, without importing them. Names offered by several packages are left out."""
    from importlib.metadata import entry_points

    points = sorted(entry_points(group=ENTRY_POINTS), key=lambda point: (point.name, point.value))
    values = {name: {each.value for each in points if each.name == name} for name in {each.name for each in points}}
    found: dict[str, DiscoveredPlugin] = {}
    for point in points:
        package = point.dist.name if point.dist is not None else ""
        path = f"entry point {point.name} = {point.value}" + (f" of {package}" if package else "")
        if len(values[point.name]) > 1:
            message = f"more than one installed package offers {point.name!r} (uninstall one of them)"
            problems.append(DiscoveryProblem(path, message, point.name))
        elif point.name not in found:
            fields: dict[str, Any] = {
                "name": point.name.replace("${", "$${"),
                "version": point.dist.version if point.dist is not None else "",
                "transport": TransportType.PYTHON.value,
                "endpoint": point.name.replace("${", "$${"),
            }
            try:
                manifest, config, variables = read_plugin(fields, environ, source=path)
            except ConfigError as exc:
                problems += [DiscoveryProblem(path, _text(each, each.path), point.name) for each in exc.problems]
            else:
                found[point.name] = DiscoveredPlugin(config, manifest, path, variables)
    return list(found.values())
