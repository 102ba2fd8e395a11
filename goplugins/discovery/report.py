"""What a scan found, and what it did not take."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import attrs

from goplugins.config import ManagerConfig, PluginConfig
from goplugins.discovery.manifest import PluginManifest

__all__ = ["DiscoveredPlugin", "DiscoveryProblem", "DiscoveryReport"]

logger = logging.getLogger("goplugins.discovery")


@attrs.frozen
class DiscoveredPlugin:
    """A plugin that was found.

    Attributes:
        config: how it is called.
        manifest: who it is.
        path: where it was found: the manifest's or the program's path, or the name of an entry point.
        variables: which environment variables changed which of its fields: path of the field to variable.
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
    """Something that was left out, and why. It blocks nobody else.

    Attributes:
        path: what: a directory, a manifest, a program, an entry point, or a variable.
        message: why, and what to do about it.
        plugin: the name of the plugin, where it is known.
        kept: whether the plugin stays as it was found before.
    """

    path: str
    message: str
    plugin: str = ""
    kept: bool = False

    def __str__(self) -> str:
        return f"{self.path}: {self.message}{'; its plugin stays as it was' if self.kept else ''}"


@attrs.frozen
class DiscoveryReport:
    """What a scan found.

    Attributes:
        found: the plugins that can be used, by name and in the order of their names.
        problems: what was left out.
        signature: what :meth:`Discovery.signature` said right before.
    """

    found: Mapping[str, DiscoveredPlugin] = attrs.field(factory=dict)
    problems: tuple[DiscoveryProblem, ...] = ()
    signature: str = ""

    def added_to(self, config: ManagerConfig) -> ManagerConfig:
        """The configuration with the plugins that were found, behind its own."""
        return attrs.evolve(config, plugins=(*config.plugins, *(plugin.config for plugin in self.found.values())))

    def log(self) -> None:
        """Writes a warning for each problem, and a line with what was found."""
        for problem in self.problems:
            logger.warning("%s: %s", "not taken over" if problem.kept else "left out", problem)
        logger.info("discovered %d plugins: %s", len(self.found), ", ".join(map(str, self.found.values())) or "none")

    def __str__(self) -> str:
        lines = [f"+ {plugin}" for plugin in self.found.values()] + [f"! {problem}" for problem in self.problems]
        return "\n".join(lines) or "nothing was found"
