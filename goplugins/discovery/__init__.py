"""Finding plugins: manifests and programs in directories, entry points of installed packages."""

from __future__ import annotations

from goplugins.discovery.manifest import PluginManifest, PluginRequirements
from goplugins.discovery.report import DiscoveredPlugin, DiscoveryProblem, DiscoveryReport
from goplugins.discovery.scanner import Discovery

__all__ = [
    "DiscoveredPlugin",
    "Discovery",
    "DiscoveryProblem",
    "DiscoveryReport",
    "PluginManifest",
    "PluginRequirements",
]
