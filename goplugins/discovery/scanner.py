"""The scan: what the directories and the installed packages offer, and which of it can be used."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import attrs

from goplugins.config import DiscoveryConfig, ManagerConfig
from goplugins.config.conversion import check_types
from goplugins.config.environment import plugin_variables
from goplugins.config.loading import FurtherCheck
from goplugins.config.manager import file_problems, semantic_problems
from goplugins.config.problems import Problem, path_text
from goplugins.discovery.directories import scan_directory, signature_of
from goplugins.discovery.manifest import read_plugin
from goplugins.discovery.report import DiscoveredPlugin, DiscoveryProblem, DiscoveryReport
from goplugins.discovery.requirements import too_old, unmet
from goplugins.enums import TransportType
from goplugins.errors import ConfigError

__all__ = ["ENTRY_POINTS", "Discovery", "discovered"]

ENTRY_POINTS = "goplugins.plugins"
"""The group under which installed packages offer their plugins."""


def discovered(
    config: ManagerConfig,
    *,
    environ: Mapping[str, str] | None = None,
    registered: Collection[str] = (),
    check: FurtherCheck | None = None,
    told: Callable[[Discovery, DiscoveryReport], object] | None = None,
    before: DiscoveryReport | None = None,
) -> ManagerConfig:
    """The configuration with the plugins that its ``discovery`` section finds, behind its own; logs what was left out.

    Args:
        config: as it was written; nothing happens unless its ``discovery.enabled`` is set.
        environ: as for :class:`Discovery`.
        registered: names of plugins registered in code.
        check: as for :class:`Discovery`.
        told: is told what was found, and who looked; nothing is told where discovery is off.
        before: as for :class:`Discovery`.
    """
    if not config.discovery.enabled:
        return config
    discovery = Discovery(config, environ=environ, registered=registered, check=check, before=before)
    report = discovery.scan()
    report.log()
    if told is not None:
        told(discovery, report)
    return report.added_to(config)


class Discovery:
    """Looks for plugins where the configuration says, whether or not it says ``enabled``.

    Nothing that is found is run, imported or connected to by the look. Of one name there is one plugin: those
    registered in code and those of the configuration come first, then the directories in their order, in each the
    manifests and then the plain programs by file name, then entry points by name. What can't be used is left out, is
    named in the report, and blocks nobody.

    Args:
        config: where to look, and with which defaults and beside which plugins; a bare section will do.
        environ: for ``${VAR}`` in manifests, and for variables such as ``GOPLUGINS__PLUGINS__GEO__ENDPOINT``; the
            process's environment when left out.
        registered: names of plugins registered in code; when None, names that only code can know are not looked up.
        check: as for :func:`goplugins.config.loading.load_resolved`: what factories have against a plugin.
        before: what runs since an earlier scan. A plugin of it stays as it was while its file is there but can't be
            read or used: a slip in a manifest takes nobody out who is at work. It goes when the file goes, and when
            others could have written there.

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
        """Looks once. Takes as long as reading the files does; raises nothing for what is wrong with them."""
        section = self._config.discovery
        signature = self.signature()  # first: what comes in while we read must count as new
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
        self._sift(found, problems)
        found = dict(sorted(found.items()))
        problems += self._unused_variables(seen)
        return DiscoveryReport(found, tuple(problems), signature)

    def signature(self) -> str:
        """Stands for what :meth:`scan` would read in the directories: another text once something changed there.

        Cheap enough to be asked for every few seconds. Installed packages don't count: those of a running process
        stay as they are.
        """
        return signature_of(self._config.discovery.directories, self._config.discovery.patterns)

    def _conflict(self, plugin: DiscoveredPlugin, found: Mapping[str, DiscoveredPlugin]) -> str:
        name = plugin.manifest.name
        if name in (self._registered or ()):
            return f"{name!r} is registered in code, which comes first"
        if name in self._configured:
            return f"{name!r} is in the configuration, which comes first"
        if name in found:
            return f"{name!r} was found before: {found[name].path} comes first"
        return ""

    @property
    def _configured(self) -> dict[str, str | None]:
        """The plugins and groups of the configuration, with the versions that their labels tell."""
        names: dict[str, str | None] = {group.name: None for group in self._config.load_balancers}
        return names | {plugin.name: plugin.labels.get("version") for plugin in self._config.plugins}

    def _sift(self, found: dict[str, DiscoveredPlugin], problems: list[DiscoveryProblem]) -> None:
        """Takes out what can't be used, until what is left can: one that goes may be what another one needs."""
        from goplugins._version import __version__

        off = {plugin.name for plugin in self._config.plugins if plugin.enabled is False}
        others: dict[str, str | None] = dict.fromkeys(self._registered or ()) | self._configured
        others = {name: version for name, version in others.items() if name not in off}
        gone: dict[str, str] = {}
        while True:
            reasons = {name: [why] for name, plugin in found.items() if (why := too_old(plugin, __version__))}
            reasons = reasons or {name: [why] for name, why in unmet(found, others, gone).items()}
            unfit = {} if reasons else self._unfit(found)
            if not reasons and not unfit:
                return
            for name, whys in (reasons or unfit).items():
                plugin = found.pop(name)
                earlier = self._before.get(plugin.path)
                kept = bool(unfit) and earlier is not None and earlier != plugin and earlier.manifest.name == name
                if kept and earlier is not None:
                    found[name] = earlier
                else:
                    gone[name] = whys[0]
                problems += [DiscoveryProblem(plugin.path, why, name, kept) for why in whys]

    def _unfit(self, found: Mapping[str, DiscoveredPlugin]) -> dict[str, list[str]]:
        """What would be wrong with the whole configuration because of a plugin that was found."""
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
            yield DiscoveryProblem(variable, "sets something of a plugin that there is not (unset it)")


def _text(error: ConfigError, place: str) -> str:
    return f"{f'{place}: ' if place else ''}{error.message}{f' ({error.fix})' if error.fix else ''}"


def _entry_points(environ: Mapping[str, str], problems: list[DiscoveryProblem]) -> list[DiscoveredPlugin]:
    """The plugins of installed packages; none is imported. One that two packages offer is nobody's."""
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
