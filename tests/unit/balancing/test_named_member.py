"""Plugins of a manager as members, by name."""

from __future__ import annotations

from typing import Any

from goplugins import HealthStatus, Manager, PluginInfo, PluginStatus
from goplugins.errors import (
    PluginConnectionError,
)


class Local:
    """A plugin in this process."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.fails = False

    def info(self) -> PluginInfo:
        return PluginInfo(self.name)

    def execute(self, request: Any, context: Any, /) -> str:
        if self.fails:
            raise PluginConnectionError("connection refused")
        return self.name

    def health(self, timeout: float) -> HealthStatus:
        return HealthStatus(PluginStatus.HEALTHY)

    def close(self) -> None:
        pass


def test_explain_shows_that_a_members_plugin_was_unregistered() -> None:
    with Manager() as manager:
        for name in ("one", "two"):
            manager.register(Local(name))
        manager.load_from_config({"load_balancers": [{"name": "g", "members": ["one", "two"]}]})
        manager.unregister("one")
        assert "one: closed (no plugin of this name is registered), next try in " in str(manager.explain("g"))
