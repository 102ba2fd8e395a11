"""Picklable values of the public API, created by public names only.

Run with the package before the move, this file wrote ``pickles-before-move.json``, whose values must still load:

    PYTHONPATH=<old tree> python tests/data/pickled_values.py <new tree>/tests/data/pickles-before-move.json
"""

from __future__ import annotations

import base64
import enum
import inspect
import json
import os
import pickle
import sys
import zlib
from typing import Any

import attrs

import goplugins as g
from goplugins import errors, serve

PLUGIN = {"name": "square", "transport": "python", "endpoint": "pickled_values:square"}
CONFIG = {
    "log_level": "debug",
    "default_retry": {"max_retries": 2},
    "plugins": [
        PLUGIN,
        {
            "name": "geo",
            "transport": "http",
            "endpoint": "http://geo.test:8080/",
            "auth": {"method": "bearer", "token": "${TOKEN}"},
            "retry": {"max_retries": 3},
            "rate_limit": {"enabled": True, "requests_per_second": 5},
            "circuit_breaker": {"failure_threshold": 7},
            "health_check": {"interval": 9},
            "connection": {"request_timeout": 4},
            "bulkhead": {"max_concurrent": 8},
            "cache": {"ttl": 60},
            "fallback": {"value": None},
            "chaos": {"enabled": True, "latency": 0.5},
            "options": {"proxy": "http://proxy:3128"},
            "labels": {"team": "maps"},
        },
    ],
    "load_balancers": [{"name": "both", "strategy": "least-connections", "members": ["square", "geo"]}],
    "discovery": {"enabled": False, "directories": ["/opt/plugins"]},
    "observability": {"metrics_prefix": "shop"},
}


def square(number: int) -> int:
    """The plugin of the pickled managers."""
    return number * number


def values() -> dict[str, Any]:
    """At least one value of each picklable public class except errors and managers."""
    config = g.ManagerConfig.from_mapping(CONFIG)
    plugin = config.plugins[1]
    health = g.HealthStatus(g.PluginStatus.DEGRADED, "slow", 1.5, 0.2, {"zone": "a"})
    metrics = g.PluginMetrics(requests_total=3, requests_success=2, errors={"timeout": 1})
    member = g.MemberExplanation(
        "a", True, "ready", "takes calls", 0.0, 1, 0, 1.0, 2, 0.01, 0, "PLUGIN_1201 late", 3.0, "http://a.test"
    )
    group = g.GroupExplanation("both", "least-connections", False, (member,))
    # The writer filled in the level of calls; it is a setting of its own now.
    filled = attrs.evolve(config, observability=attrs.evolve(config.observability, log_level="debug"))
    other = attrs.evolve(config.observability, log_level="info")
    diff = g.PluginDiff.between(attrs.evolve(filled, log_level="info", plugins=(), observability=other), filled)
    update = g.PluginDiff.between(
        g.ManagerConfig.from_mapping({"plugins": [PLUGIN]}),
        g.ManagerConfig.from_mapping({"plugins": [{**PLUGIN, "retry": {"max_retries": 9}}]}),
    )
    outcomes = (g.PluginOutcome("geo", g.ReloadAction.REPLACED, 2, 0.5, 1),)
    report = g.ReloadReport(g.ReloadStrategy.ROLLING, outcomes, diff, 1.5, dry_run=True)
    manifest = g.PluginManifest(name="geo", version="1.2", capabilities=("maps",))
    found = g.DiscoveredPlugin(plugin, manifest, "/opt/plugins/geo.yaml", {("endpoint",): "GEO"})
    made: dict[str, Any] = {
        "AttemptFinished": g.AttemptFinished("geo", 1.0, "id", 2, 0.1, None, "a"),
        "BreakerChanged": g.BreakerChanged("geo", 1.0, g.CircuitBreakerState.CLOSED, g.CircuitBreakerState.OPEN, 5.0),
        "CallFinished": g.CallFinished("geo", 1.0, "id", 0.1, 2, "cache", "a", None, True),
        "CallResult": g.CallResult([1, 2], source="stale", attempts=2, elapsed=0.5, member="a", metadata={"rows": "3"}),
        "CircuitBreakerStats": g.CircuitBreakerStats(g.CircuitBreakerState.HALF_OPEN, 1, 2, 3, 4.0),
        "DiscoveredPlugin": found,
        "DiscoveryReport": g.DiscoveryReport({"geo": found}, (), "signature"),
        "ExecutionContext": g.ExecutionContext(timeout=2.0, headers={"A": "b"}, idempotent=True, key="k", priority=3),
        "Explanation": g.Explanation(
            "geo", False, "open", "http://geo.test", g.CircuitBreakerState.OPEN, health, 3.0, 1, group=group
        ),
        "File": g.File(b"a,b", "table.csv", "text/csv"),
        "GlobalMetrics": g.GlobalMetrics(3, 1, 0),
        "GroupExplanation": group,
        "HealthChanged": g.HealthChanged("geo", 1.0, g.PluginStatus.HEALTHY, g.PluginStatus.OFFLINE, "gone"),
        "HealthStatus": health,
        "Latencies": g.Latencies(),
        "LoadBalancerStats": g.LoadBalancerStats("geo", 2, 1, False, 1, 5, 4, 1, 0.2, 80, 3.0),
        "ManagerMetrics": g.ManagerMetrics(requests_total=3, plugins={"geo": metrics}),
        "MemberEjected": g.MemberEjected("both", 1.0, "geo", 30.0, 2, "failures"),
        "MemberExplanation": member,
        "MemberReturned": g.MemberReturned("both", 1.0, "geo"),
        "ObservabilityReport": g.ObservabilityReport(
            1.0, 2.0, g.GlobalMetrics(3, 1, 0), {"geo": g.PluginMetricsReport(total_requests=3)}
        ),
        "OperationInfo": g.OperationInfo("finds maps", True, False, {"type": "string"}, {"type": "null"}),
        "OperationMetrics": g.OperationMetrics(3, 2, 1, 0.5),
        "OutgoingRequest": g.OutgoingRequest(
            plugin="geo", operation="find", method="POST", url="http://geo.test", headers={"A": "b"}, body=b"{}"
        ),
        "PluginAdded": g.PluginAdded("geo", 1.0, "http://geo.test", True),
        "PluginControlled": g.PluginControlled("both", 1.0, "member_disabled", "geo"),
        "PluginDiff": diff,
        "PluginInfo": g.PluginInfo("geo", "1.2", "maps", "me", ("search",), {"a": "b"}),
        "PluginManifest": manifest,
        "PluginMetrics": metrics,
        "PluginMetricsReport": g.PluginMetricsReport(total_requests=3, errors={"PLUGIN_1201": 1}),
        "PluginOutcome": outcomes[0],
        "PluginRemoved": g.PluginRemoved("geo", 1.0),
        "PluginUpdate": update.updated[0],
        "PrometheusBucket": g.PrometheusBucket(0.5, 3),
        "PrometheusMetric": g.PrometheusMetric("calls", "counter", "all", 3.0, {"a": "b"}, (g.PrometheusBucket(1, 2),)),
        "ReloadFinished": g.ReloadFinished(1.0, "plugins.yaml", 0.5, report),
        "ReloadReport": report,
        "Reply": serve.Reply(3, metadata={"rows": 3}),
        "ManagerConfig": config,
        "ManagerConfig with defaults": filled.with_defaults(),
        "PluginConfig": plugin,
        "LoadBalancerConfig": config.load_balancers[0],
    }
    for name in g.__all__:
        kind = getattr(g, name)
        if name.endswith(("Config", "Options")) and name not in made:
            made[name] = kind()
        elif isinstance(kind, enum.EnumType):
            made[name] = list(kind)
    return made


def errors_of_all_classes() -> dict[str, Exception]:
    """An error of each class, with attributes and a cause."""
    made: dict[str, Exception] = {}
    for name in errors.__all__:
        kind = getattr(errors, name)
        if inspect.isclass(kind) and issubclass(kind, errors.PluginError):
            made[name] = error = kind("it failed", plugin="geo", attempts=2, elapsed=0.5, details={"status": 503})
            error.__cause__ = OSError(111, "refused")
        elif inspect.isclass(kind) and issubclass(kind, Exception):
            made[name] = kind("OSError: refused")
    problem = errors.MissingEndpointError("missing", path="plugins[0].endpoint", fix="write one")
    made["several problems"] = errors.InvalidConfigError("2 problems", problems=[problem, problem])
    return made


def names() -> list[tuple[str, str, str]]:
    """Public name, module and qualified name of all classes and functions, which are pickled by reference."""
    found = [(name, getattr(g, name)) for name in g.__all__]
    return [(name, thing.__module__, thing.__qualname__) for name, thing in found if hasattr(thing, "__qualname__")]


def manager_of(source: Any) -> Any:
    """A manager that has loaded ``source``, with types and sizes of its own."""
    manager: Any = g.Manager(int, int, max_workers=3, max_queued=5)
    manager.load_from_config(source)
    return manager


def packed(data: bytes) -> str:
    """The data compressed and encoded as text."""
    return base64.b64encode(zlib.compress(data, 9)).decode()


def unpacked(text: str) -> bytes:
    """The opposite of :func:`packed`."""
    return zlib.decompress(base64.b64decode(text))


def _write(path: str) -> None:
    os.environ["TOKEN"] = "secret"
    manager = manager_of({"plugins": [PLUGIN]})
    configured = manager_of(g.ManagerConfig.from_mapping({"plugins": [PLUGIN]}))
    everything = {
        "values": values(),
        "errors": errors_of_all_classes(),
        "manager": manager,
        "manager of a ManagerConfig": configured,
        "manager that has loaded nothing": g.Manager(),
        "bound plugin": manager.bind("square"),
        "bound method": manager.execute,
    }
    pickled = {
        name: {str(protocol): packed(pickle.dumps(value, protocol)) for protocol in (2, 5)}
        for name, value in everything.items()
    }
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"names": names(), "pickles": pickled}, file, indent=0)
        file.write("\n")


if __name__ == "__main__":
    _write(sys.argv[1])
