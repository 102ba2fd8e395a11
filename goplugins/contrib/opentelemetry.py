"""OpenTelemetry for a manager: traces, and metrics if wanted. Needs ``goplugins[opentelemetry]``.

>>> from goplugins import Manager
>>> instrument(Manager(), metrics=False)

``observability.tracing_enabled: true`` in the configuration does the same for traces.
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
    """Traces the manager's calls from now on, and exports metrics; call it once for each manager.

    ``observability.performance_metrics: false`` in the manager's configuration leaves out durations.

    Args:
        manager: the manager.
        tracer_provider: creates the spans; the global one when left out.
        sample_rate: share of the traces that begin with a plugin call; traces that began before keep their
            sampling. Leave it at 1 where the SDK samples.
        metrics: whether to export metrics, too.
        meter_provider: creates the instruments; the global one when left out.
    """
    lifecycle = manager._ready()
    lifecycle.observers.trace_with(OpenTelemetryTracing(tracer_provider), sample_rate, lifecycle.reports)
    if metrics:
        sink = OpenTelemetryMetrics(lifecycle.reports, meter_provider=meter_provider)
        lifecycle.observers.add_metrics(sink, changes=False)
