"""Health checks: regular checks of each plugin, and the overall health of all plugins."""

from __future__ import annotations

from goplugins.health.checker import HealthChecker
from goplugins.health.monitor import HealthMonitor

__all__ = ["HealthChecker", "HealthMonitor"]
