"""Sets up the consumers of a manager's events by the ``observability`` section of its configuration."""

from __future__ import annotations

import importlib.util
import logging
import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from goplugins.config import ManagerConfig, ObservabilityConfig
from goplugins.observability.audit import AuditLog
from goplugins.observability.call_log import CallLog
from goplugins.observability.event_stream import EventStream
from goplugins.observability.events import Event
from goplugins.runtime.clock import Clock
from goplugins.runtime.scheduler import Schedule, ScheduledTask

if TYPE_CHECKING:
    from goplugins.observability.common_metrics import PluginSource
    from goplugins.observability.metrics_server import MetricsServer
    from goplugins.observability.prometheus import PrometheusExporter
    from goplugins.observability.spans import TracingProvider
    from goplugins.observability.tracing import Tracer

_INTERVAL = 5.0
"""Seconds between two exports of gauges in multi-process mode, and between two attempts to open the metrics port."""


class _LoggerLevel:
    """The level of a logger, which is changed only where a configuration has a level for it.

    Of several managers the configuration that was loaded last decides. A level that the application sets afterwards
    stays until a reload changes the configured one.
    """

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)
        self._applied: int | None = None
        self._found = logging.NOTSET  # what it was before

    def apply(self, configured: str | None) -> None:
        level = None if configured is None else logging.getLevelNamesMapping()[configured.upper()]
        if level == self._applied:
            return
        is_ours = self._applied is not None and self._logger.level == self._applied
        if level is not None:
            self._found = self._found if is_ours else self._logger.level
            self._logger.setLevel(level)
        elif is_ours:
            self._logger.setLevel(self._found)
        self._applied = level


class MetricsSink(Protocol):
    """An event sink that exports metrics."""

    def __call__(self, event: Event, /) -> None:
        """Counts an event."""
        ...

    def configure(self, config: ObservabilityConfig) -> None:
        """Applies ``performance_metrics``, ``error_metrics`` and ``health_metrics``."""
        ...


class Observers:
    """Logs, audit trail, metrics and traces of one manager, as configured.

    Args:
        events: the manager's event stream.
        clock: measures time.
        rng: draws the traced calls.

    Attributes:
        tracer: makes calls within spans; None if calls are not traced.
    """

    def __init__(self, events: EventStream, clock: Clock, rng: random.Random) -> None:
        self.tracer: Tracer | None = None
        self._events = events
        self._rng = rng
        self._clock = clock
        self._config: ManagerConfig | None = None
        self._detach: dict[str, Callable[[], None]] = {}
        self._exporters: list[PrometheusExporter] = []
        self._sinks: list[MetricsSink] = []
        self._every: Schedule | None = None
        self._server: MetricsServer | None = None
        self._task: ScheduledTask | None = None
        self._levels = {name: _LoggerLevel(name) for name in ("goplugins", "goplugins.calls")}
        self._detach["audit"] = events.attach(AuditLog(), calls="none", attempts="failed")

    def apply(self, config: ManagerConfig, source: PluginSource) -> None:
        """Applies a resolved configuration. Metrics and spans describe the plugins of ``source``."""
        before, self._config = self._config, config
        new = config.observability
        old = None if before is None else before.observability
        self._levels["goplugins"].apply(config.log_level)
        self._levels["goplugins.calls"].apply(new.log_level)
        if old is not None and new == old and before is not None and before.metrics_port == config.metrics_port:
            return
        for sink in self._sinks:
            sink.configure(new)
        self._log(new)
        self._collect(new, source)
        self._export(new, config.metrics_port, source)
        self._trace(new, source)

    def _log(self, config: ObservabilityConfig) -> None:
        self._end("log")
        if config.logging_enabled:
            sink = CallLog(fields=config.structured_logging, clock=self._clock)
            self._detach["log"] = self._events.attach(sink, calls="failed", attempts="none", changes=False)

    def _collect(self, config: ObservabilityConfig, source: PluginSource) -> None:
        self._end("collector")
        if config.metrics_enabled and config.metrics_collector is not None:
            from goplugins.observability.common_metrics import CollectorSink

            sink = CollectorSink(
                config.metrics_collector,
                config.metrics_prefix,
                source,
                durations=config.performance_metrics,
                errors=config.error_metrics,
                health=config.health_metrics,
            )
            self._detach["collector"] = self._events.attach(sink, attempts="none")

    def _export(self, config: ObservabilityConfig, port: int | None, source: PluginSource) -> None:
        wanted = config.metrics_enabled and port is not None
        if self._server is not None:
            self._server.close()
            self._server = None
        self._end("prometheus")
        if not wanted or port is None:
            return
        from goplugins.observability.metrics_server import MetricsServer
        from goplugins.observability.prometheus import PrometheusExporter

        exporter = PrometheusExporter(
            source,
            prefix=config.metrics_prefix,
            labels=config.metric_labels,
            durations=config.performance_metrics,
            errors=config.error_metrics,
            health=config.health_metrics,
        )
        self._detach["prometheus"] = self.add(exporter)
        self._server = MetricsServer(port, config.metrics_address)
        self._start()

    def add(self, exporter: PrometheusExporter) -> Callable[[], None]:
        """Passes all events to an exporter from now on; returns a function that ends this."""
        detach = self.add_metrics(exporter)
        self._exporters.append(exporter)
        self._start()

        def end() -> None:
            detach()
            exporter.close()
            self._exporters.remove(exporter)

        return end

    def add_metrics(self, sink: MetricsSink, *, changes: bool = True) -> Callable[[], None]:
        """Passes events to a sink that the fields of the configuration apply to; returns a function that ends this."""
        if self._config is not None:
            sink.configure(self._config.observability)
        self._sinks.append(sink)
        detach = self._events.attach(sink, attempts="none", changes=changes)

        def end() -> None:
            detach()
            self._sinks.remove(sink)

        return end

    def _trace(self, config: ObservabilityConfig, source: PluginSource) -> None:
        self._end("tracing")
        if not config.tracing_enabled:
            return
        provider = config.tracing_provider
        if provider is None:
            from goplugins.observability.otel import OpenTelemetryTracing

            provider = OpenTelemetryTracing()
        self.trace_with(provider, config.tracing_sample_rate, source)

    def trace_with(self, provider: TracingProvider, sample_rate: float, source: PluginSource) -> None:
        """Traces calls from now on, with the attributes that ``source`` has for their plugins."""
        from goplugins.observability.tracing import Tracer

        self._end("tracing")
        tracer = Tracer(provider, sample_rate, source.describe, self._rng)
        detach = self._events.attach(tracer, calls="none", changes=False)
        self.tracer = tracer

        def end() -> None:
            detach()
            self.tracer = None

        self._detach["tracing"] = end

    def start(self, every: Schedule) -> None:
        """Opens the metrics port, if configured. To be called with the first call: the process may fork before.

        Args:
            every: runs methods periodically.
        """
        self._every = every
        self._start()

    def _start(self) -> None:
        if self._every is None or (self._server is None and not self._exporters):
            return
        if self._server is not None:
            self._server.start()
        if self._task is None:
            self._task = self._every(self.tick, _INTERVAL, _INTERVAL)

    def tick(self) -> None:
        """Periodic work: opens the port if another process had it, and exports gauges in multi-process mode."""
        if self._server is not None:
            self._server.start()
        for exporter in self._exporters:
            exporter.tick()

    def close(self) -> None:
        """Stops the exporters and detaches all sinks."""
        if self._task is not None:
            self._task.cancel()
        if self._server is not None:
            self._server.close()
        for exporter in self._exporters:
            exporter.tick()  # exports the last counts
        for name in list(self._detach):
            self._end(name)

    @property
    def metrics_port(self) -> int | None:
        """The port that metrics are served on; None if they are not served."""
        return None if self._server is None else self._server.port

    def _end(self, name: str) -> None:
        detach = self._detach.pop(name, None)
        if detach is not None:
            detach()


def problems_of(config: ManagerConfig) -> Mapping[str, str]:
    """Fields that need a package which is not installed, each with what to do."""
    found: dict[str, str] = {}
    observability = config.observability
    exported = config.metrics_port is not None and observability.metrics_enabled
    if exported and importlib.util.find_spec("prometheus_client") is None:
        found["metrics_port"] = "pip install goplugins[prometheus], or leave it out"
    traced = observability.tracing_enabled and observability.tracing_provider is None
    if traced and importlib.util.find_spec("opentelemetry") is None:
        fix = "pip install goplugins[opentelemetry], give a tracing_provider in code, or leave it out"
        found["observability.tracing_enabled"] = fix
    return found
