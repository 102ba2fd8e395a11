"""The result of a scan: plugins, and files that were left out."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import attrs

from goplugins.config import ManagerConfig, PluginConfig
from goplugins.discovery.manifest import PluginManifest
from goplugins.runtime.text import counted

logger = logging.getLogger("goplugins.discovery")


@attrs.frozen
class DiscoveredPlugin:
    """A plugin that was found.

    Attributes:
        config: its configuration.
        manifest: its identity.
        path: the path of the manifest or program, or the name of the entry point.
        variables: the environment variable of each overridden field, by the field's path.
    """

    config: PluginConfig
    manifest: PluginManifest
    path: str
    variables: Mapping[tuple[str | int, ...], str] = attrs.field(factory=dict)

    def __str__(self) -> str:
        version = f" {self.manifest.version}" if self.manifest.version else ""
        return f"{self.manifest.name}{version} ({self.path})"


@attrs.frozen
class DiscoveryProblem:
    """Something that was left out; other plugins are not affected.

    Attributes:
        path: a directory, manifest, program, entry point or environment variable.
        message: the reason, and what to do.
        plugin: the name of the plugin, if it is known.
        kept: whether the plugin stays as an earlier scan found it.
    """

    path: str
    message: str
    plugin: str = ""
    kept: bool = False

    def __str__(self) -> str:
        return f"{self.path}: {self.message}{'; its plugin stays as it was' if self.kept else ''}"


@attrs.frozen
class DiscoveryReport:
    """The result of a scan.

    Attributes:
        found: the usable plugins by name, sorted.
        problems: what was left out.
        signature: the result of :meth:`Discovery.signature` right before the scan.
    """

    found: Mapping[str, DiscoveredPlugin] = attrs.field(factory=dict)
    problems: tuple[DiscoveryProblem, ...] = ()
    signature: str = ""

    def added_to(self, config: ManagerConfig) -> ManagerConfig:
        """The configuration with the plugins that were found, after its own."""
        return attrs.evolve(config, plugins=(*config.plugins, *(plugin.config for plugin in self.found.values())))

    def log(self) -> None:
        """Logs a warning for each problem, and a line with the plugins that were found."""
        for problem in self.problems:
            logger.warning("%s: %s", "unchanged" if problem.kept else "left out", problem)
        found = ", ".join(map(str, self.found.values())) or "none"
        logger.info("discovered %s: %s", counted(len(self.found), "plugin"), found)

    def __str__(self) -> str:
        lines = [f"+ {plugin}" for plugin in self.found.values()] + [f"! {problem}" for problem in self.problems]
        return "\n".join(lines) or "no plugins found"
