"""Modules that were moved or renamed, so that values pickled before the move still load.

A pickle names the module of each class and function. A finder in ``goplugins/__init__.py`` calls :func:`spec_of` for
modules of this package that do not exist; the alias modules that it creates hold nothing but the names listed here.
All of this is removed in the next release, with ``__getattr__`` in ``goplugins/models/__init__.py`` and the alias in
``goplugins/balancing/report.py``.
"""

from __future__ import annotations

import importlib
from functools import partial
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from goplugins._exports import MODULE_OF

_PUBLIC: dict[str, tuple[str, ...]] = {
    "_deadline": ("deadline",),
    "bound": ("BoundPlugin",),
    "config.sections": (
        "AuthConfig",
        "BulkheadConfig",
        "CacheConfig",
        "CircuitBreakerConfig",
        "ConnectionConfig",
        "FallbackConfig",
        "HealthCheckConfig",
        "HedgeConfig",
        "RateLimitConfig",
        "RetryConfig",
    ),
    "config.services": ("DiscoveryConfig", "LoadBalancerConfig", "ObservabilityConfig", "ReloadOptions"),
    "discovery.finding": ("Discovery",),
    "metrics": ("Latencies", "ManagerMetrics", "PluginMetrics"),
    "observability.collector": (
        "CounterMetric",
        "EnhancedMetricsCollector",
        "GaugeMetric",
        "HistogramMetric",
        "InMemoryCollector",
        "MetricsCollector",
        "PrometheusBucket",
        "PrometheusMetric",
    ),
    "observability.common": ("CommonPluginMetrics",),
    "observability.logs": ("JSONFormatter",),
    "observability.stream": ("Subscription",),
    "reload": (),
    "reload.diff": ("PluginDiff", "PluginUpdate"),
    "reload.reloader": ("PluginReloader",),
    "reload.report": ("PluginOutcome", "ReloadAction", "ReloadReport"),
    "resilience.budget": ("RetryBudget",),
    "sources": ("Origins", "load_with_origins"),
    "transports.function": ("FunctionPlugin", "FunctionPluginFactory"),
    "watching": ("Watch",),
}
"""Former modules, each with its names that ``goplugins`` exports."""

_OTHERS = {
    ("_reply", "Reply"): ("goplugins.models.reply", "Reply"),
    ("config.services", "LoadBalancerMember"): ("goplugins.config", "LoadBalancerMember"),
    ("pickling", "_State"): ("goplugins.manager.pickling", "ManagerState"),
    ("pickling", "_bound"): (__name__, "bound_plugin"),
    ("pickling", "_manager"): (__name__, "manager"),
    ("reload.diff", "Change"): ("goplugins.config.diff", "Change"),
}
"""Former module and name of what else pickles, with its place now."""

_PREFIX = "goplugins."


def spec_of(name: str) -> ModuleSpec | None:
    """The spec of a former module's alias; None if there was no module of that name."""
    old = name.removeprefix(_PREFIX)
    if old not in _PUBLIC and all(old != module for module, _ in _OTHERS):
        return None
    return ModuleSpec(name, _AliasLoader(), is_package=any(module.startswith(f"{old}.") for module in _PUBLIC))


class _AliasLoader(Loader):
    def create_module(self, spec: ModuleSpec) -> None:
        """An ordinary module."""

    def exec_module(self, module: ModuleType) -> None:
        """Its names are imported when they are used."""
        module.__doc__ = "An alias for values that were pickled before this module was moved."
        module.__dict__["__getattr__"] = partial(_attribute, module.__name__)


def _attribute(module: str, name: str) -> Any:
    old = module.removeprefix(_PREFIX)
    if name in _PUBLIC.get(old, ()):
        return getattr(importlib.import_module(MODULE_OF[name]), name)
    if (old, name) in _OTHERS:
        new_module, new_name = _OTHERS[old, name]
        return getattr(importlib.import_module(new_module), new_name)
    raise AttributeError(f"module {module!r} has no attribute {name!r}")


def manager(state: Any) -> Any:
    """Unpickles a manager."""
    from goplugins.manager.manager import Manager
    from goplugins.manager.pickling import restore

    return restore(state, Manager)


def bound_plugin(state: Any, name: str, types: tuple[Any, Any]) -> Any:
    """Unpickles a bound plugin."""
    return manager(state).bind(name, *types)
