"""Finding plugins: manifests and programs in directories, entry points of installed packages."""

from __future__ import annotations

from goplugins.discovery.finding import Discovery, discovered
from goplugins.discovery.following import FollowedDirectories
from goplugins.discovery.manifest import PluginManifest, PluginRequirements
from goplugins.discovery.report import DiscoveredPlugin, DiscoveryProblem, DiscoveryReport

__all__ = [
    "DiscoveredPlugin",
    "Discovery",
    "DiscoveryProblem",
    "DiscoveryReport",
    "FollowedDirectories",
    "PluginManifest",
    "PluginRequirements",
    "discovered",
]
