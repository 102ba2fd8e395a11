"""What a manager says of its plugins' health, and when."""

from __future__ import annotations

from typing import Any

from goplugins import HealthCheckConfig, Manager, PluginConfig, PluginInfo, PluginStatus

from .fakes import FakePlugin, eventually, hanging

CHECKS = PluginConfig(health_check=HealthCheckConfig(enabled=True, interval=0.1, timeout=0.1, failure_limit=100))


class Watched(FakePlugin):
    def info(self) -> PluginInfo:
        return PluginInfo("p")

    def execute(self, request: Any, context: Any, /) -> Any:
        return request

    def close(self) -> None:
        pass


def test_nobody_is_healthy_before_a_first_look() -> None:
    quick, stuck = Watched(), Watched()
    with hanging([stuck]), Manager() as manager:
        manager.register(quick, CHECKS, name="quick")
        manager.register(stuck, CHECKS, name="stuck")
        assert [status.status for status in manager.list_plugins().values()] == [PluginStatus.UNKNOWN] * 2
        assert manager.execute("stuck", 1) == 1  # a call that gets through is no look
        assert manager.list_plugins()["stuck"].status is PluginStatus.UNKNOWN
        # Asking looks; one that has not answered is not well.
        health = manager.health()
        assert health["quick"].status is PluginStatus.HEALTHY
        assert health["stuck"].status is PluginStatus.UNHEALTHY
        assert manager.overall_health().status is PluginStatus.UNHEALTHY
        assert "stuck" in manager.overall_health().message
        assert "quick" not in manager.overall_health().message
        assert stuck.let_go is not None
        stuck.let_go.set()
        assert eventually(lambda: manager.health()["stuck"].status is PluginStatus.HEALTHY)
        assert manager.overall_health().status is PluginStatus.HEALTHY
