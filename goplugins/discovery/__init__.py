"""Finding plugins: manifests and programs in directories, entry points of installed packages."""

from __future__ import annotations

from goplugins.discovery.directory_watch import DirectoryWatch
from goplugins.discovery.manifest import PluginManifest, PluginRequirements
from goplugins.discovery.report import DiscoveredPlugin, DiscoveryProblem, DiscoveryReport
from goplugins.discovery.scanner import Discovery

__all__ = [
    "DirectoryWatch",
    "DiscoveredPlugin",
    "Discovery",
    "DiscoveryProblem",
    "DiscoveryReport",
    "PluginManifest",
    "PluginRequirements",
]
