"""Tools for testing code that uses goplugins. Nothing here is imported by the library itself."""

from __future__ import annotations

from goplugins.testing._clock import ManualClock
from goplugins.testing._inject import Injection, inject

__all__ = ["Injection", "ManualClock", "inject"]
