"""Values of the public API."""

from __future__ import annotations

import importlib
from typing import Any

_MOVED = {
    "goplugins.enums": (
        "AuthMethod",
        "CircuitBreakerState",
        "LoadBalancingStrategy",
        "PluginStatus",
        "ReloadStrategy",
        "SpanStatusCode",
        "TransportType",
    ),
    "goplugins.models.context": ("ExecutionContext",),
    "goplugins.models.explanation": ("Explanation",),
    "goplugins.models.plugin": ("Plugin", "PluginInfo"),
    "goplugins.models.results": ("CallResult", "CircuitBreakerStats", "HealthStatus"),
}
"""Names that this module defined itself, for values that were pickled then; see ``goplugins/_moved_modules.py``."""


def __getattr__(name: str) -> Any:
    for module, names in _MOVED.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
