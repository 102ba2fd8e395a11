"""OpenTelemetry for a manager: traces, and metrics if wanted. Needs ``goplugins[opentelemetry]``.

>>> from goplugins import Manager
>>> instrument(Manager(), metrics=False)

By configuration, ``observability.tracing_enabled: true`` does the same for traces, of a share of the calls.
"""

from __future__ import annotations

from typing import Any

from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from goplugins.manager.manager import Manager
from goplugins.observability.otel import OpenTelemetryMetrics, OpenTelemetryTracing

__all__ = ["instrument"]


def instrument(
    manager: Manager[Any, Any],
    *,
    tracer_provider: TracerProvider | None = None,
    sample_rate: float = 1.0,
    metrics: bool = True,
    meter_provider: MeterProvider | None = None,
) -> None:
    """Has the manager's calls traced from now on, and counted; call it once for each manager.

    Args:
        manager: whose.
        tracer_provider: whose spans; the global one's when left out.
        sample_rate: share of the traces that begin with a plugin call; those that began before are followed as they
            are. Leave it at 1 where the SDK samples.
        metrics: whether there are metrics, too.
        meter_provider: whose; the global one's when left out.
    """
    lifecycle = manager._ready()
    lifecycle.observers.trace_with(OpenTelemetryTracing(tracer_provider), sample_rate, lifecycle.inventory)
    if metrics:
        sink = OpenTelemetryMetrics(lifecycle.inventory, meter_provider=meter_provider)
        lifecycle.events.attach(sink, attempts="none", changes=False)
