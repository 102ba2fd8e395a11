"""Checks of configurations that need the registered plugins."""

from __future__ import annotations

from typing import Any

import pytest

from goplugins import HealthStatus, Manager, PluginInfo, PluginStatus
from goplugins.errors import (
    ConfigError,
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


def served(request: str) -> str:
    return request


HEDGED = {"name": "g", "members": ["web", "local"], "hedge": {"enabled": True}}


WEB = {"name": "web", "transport": "http", "endpoint": "http://127.0.0.1:1"}


@pytest.mark.parametrize(
    "local",
    [
        {"name": "local", "transport": "python", "endpoint": "tests.unit.manager.test_builder:served"},
        {"name": "local", "transport": "exec", "executable": "/bin/true"},
    ],
    ids=["python", "exec"],
)
def test_a_group_with_a_member_that_can_not_cancel_calls_is_not_hedged(local: dict[str, Any]) -> None:
    with Manager() as manager:
        with pytest.raises(ConfigError, match=f"member 'local' over {local['transport']} can't be cancelled") as caught:
            manager.load_from_config({"plugins": [WEB, local], "load_balancers": [HEDGED]})
        assert [problem.path for problem in caught.value.problems] == ["load_balancers[0].hedge.enabled"]
        off = {**HEDGED, "hedge": {"enabled": False}}
        manager.load_from_config({"plugins": [WEB, local], "load_balancers": [off]})


def test_a_group_with_a_registered_object_as_member_is_not_hedged() -> None:
    with Manager() as manager:
        manager.register(Local("local"))
        with pytest.raises(ConfigError, match="member 'local' can't be cancelled") as caught:
            manager.load_from_config({"plugins": [WEB], "load_balancers": [HEDGED]})
        assert [problem.path for problem in caught.value.problems] == ["load_balancers[0].hedge.enabled"]
