"""Health of a manager's plugins."""

from __future__ import annotations

import time
from typing import Any

import pytest

from goplugins import HealthCheckConfig, Manager, PluginConfig, PluginInfo, PluginStatus
from tests.unit.health.fakes import FakePlugin, eventually, hanging

CHECKS = PluginConfig(health_check=HealthCheckConfig(enabled=True, interval=0.1, timeout=0.1, failure_limit=100))


class CheckedPlugin(FakePlugin):
    def info(self) -> PluginInfo:
        return PluginInfo("p")

    def execute(self, request: Any, context: Any, /) -> Any:
        return request

    def close(self) -> None:
        pass


def test_no_plugin_is_healthy_before_its_first_check() -> None:
    quick, stuck = CheckedPlugin(), CheckedPlugin()
    with hanging([stuck]), Manager() as manager:
        manager.register(quick, CHECKS, name="quick")
        manager.register(stuck, CHECKS, name="stuck")
        assert [status.status for status in manager.list_plugins().values()] == [PluginStatus.UNKNOWN] * 2
        assert manager.execute("stuck", 1) == 1  # a successful call is no check
        assert manager.list_plugins()["stuck"].status is PluginStatus.UNKNOWN
        # health() checks; a plugin whose check hangs is not healthy.
        health = manager.health()
        assert health["quick"].status is PluginStatus.HEALTHY
        assert health["stuck"].status is PluginStatus.UNHEALTHY
        assert manager.overall_health().status is PluginStatus.UNHEALTHY
        assert "stuck" in manager.overall_health().message
        assert "quick" not in manager.overall_health().message
        assert stuck.released is not None
        stuck.released.set()
        assert eventually(lambda: manager.health()["stuck"].status is PluginStatus.HEALTHY)
        assert manager.overall_health().status is PluginStatus.HEALTHY


def test_health_and_log_agree_on_a_plugin_that_hangs(caplog: pytest.LogCaptureFixture) -> None:
    """Once a check was overdue, no answer is UNKNOWN again."""
    stuck = CheckedPlugin()
    with hanging([stuck]), Manager() as manager:
        manager.register(stuck, CHECKS, name="stuck")
        found = []
        end = time.monotonic() + 0.6
        while time.monotonic() < end:
            logged = "plugin 'stuck': unhealthy" in caplog.text
            for status in (manager.list_plugins()["stuck"], manager.explain("stuck").health, manager.health()["stuck"]):
                found.append((logged, status.status))
        assert (True, PluginStatus.UNKNOWN) not in found
        assert (True, PluginStatus.UNHEALTHY) in found
        assert stuck.checks == 1
