"""The seam between policies and wires: what a transport implements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from goplugins.config.plugin import PluginConfig
from goplugins.models.plugin import Plugin, PluginInfo
from goplugins.models.results import HealthStatus
from goplugins.runtime.call import Call

__all__ = ["PluginFactory", "Sender"]


class Sender(Protocol):
    """One wire to one plugin: bytes out, bytes in, the library's errors translated at its edge.

    A sender makes single attempts and knows no policy. It is used by many threads at once.
    """

    def prepare(self, call: Call) -> None:
        """Turns the request into what the wire carries, once for all attempts; refuses what can't be sent."""
        ...

    def send(self, call: Call) -> Any:
        """One attempt: the typed response, or a :class:`~goplugins.errors.PluginError`, before the deadline."""
        ...

    def health(self, timeout: float) -> HealthStatus:
        """Looks at the plugin's health, outside every policy; UNKNOWN if no connection is free; never raises."""
        ...

    def info(self) -> PluginInfo:
        """Who the plugin is, as far as is known."""
        ...

    def close(self) -> None:
        """Lets go of everything; harmless when repeated."""
        ...


class PluginFactory(Protocol):
    """Makes plugins of one kind from configuration."""

    def create_plugin(self, config: PluginConfig) -> Plugin[Any, Any]:
        """A plugin that has not connected to anything yet."""
        ...

    def supported_transports(self) -> Sequence[str]:
        """Values of :class:`~goplugins.enums.TransportType`."""
        ...

    def validate_config(self, config: PluginConfig) -> None:
        """Raises a :class:`~goplugins.errors.ConfigError` for what the factory can't build."""
        ...
