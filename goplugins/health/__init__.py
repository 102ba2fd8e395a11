"""Health: looking at plugins again and again, and saying how they are together."""

from __future__ import annotations

from goplugins.health.checker import HealthChecker
from goplugins.health.monitor import HealthMonitor

__all__ = ["HealthChecker", "HealthMonitor"]
