"""Prometheus metrics of a manager, for an application that serves metrics already.

>>> from goplugins import Manager
>>> from prometheus_client import CollectorRegistry, generate_latest
>>> registry = CollectorRegistry()
>>> exporter = export(Manager(), registry=registry)
>>> "goplugins_calls_total" in generate_latest(registry).decode()
True

An application without any may set ``metrics_port`` in its configuration instead. Needs ``goplugins[prometheus]``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry

from goplugins.manager.manager import Manager
from goplugins.observability.prometheus import PrometheusExporter, current_trace_id

__all__ = ["export"]


def export(
    manager: Manager[Any, Any],
    *,
    registry: CollectorRegistry = REGISTRY,
    prefix: str = "goplugins",
    name: str = "",
    labels: Sequence[str] = (),
    trace_id: Callable[[], str | None] = current_trace_id,
) -> PrometheusExporter:
    """Registers the manager's metrics in ``registry``; call it once for each manager and process.

    Managers may share a registry: numbers of managers with the same name are added up. What ``performance_metrics``,
    ``error_metrics`` and ``health_metrics`` of the manager's configuration switch off is left out.

    Args:
        manager: the manager.
        registry: the registry; prometheus_client's default when left out.
        prefix: the beginning of the metrics' names.
        name: the label ``manager`` of its series.
        labels: labels of plugins that become labels of metrics, as ``label_<name>``.
        trace_id: returns the trace id for exemplars; by default OpenTelemetry's current one.

    Raises:
        InvalidArgumentError: the metrics are registered already with other ``labels``.
    """
    lifecycle = manager._ready()
    exporter = PrometheusExporter(
        lifecycle.reports, registry=registry, prefix=prefix, name=name, labels=tuple(labels), trace_id=trace_id
    )
    lifecycle.observers.add(exporter)
    return exporter
