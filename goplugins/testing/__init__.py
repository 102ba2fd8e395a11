"""Tools for tests of code that uses goplugins. The library itself imports nothing of this package."""

from __future__ import annotations

from goplugins.testing._clock import ManualClock
from goplugins.testing._inject import Injection, inject

__all__ = ["Injection", "ManualClock", "inject"]
