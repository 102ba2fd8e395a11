"""From the configuration's ``observability`` section to consumers of a manager's events."""

from __future__ import annotations

import importlib.util
import logging
import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from goplugins.config import ManagerConfig, ObservabilityConfig
from goplugins.models.explanation import Explanation
from goplugins.models.metrics import ManagerMetrics
from goplugins.observability.audit import AuditLog
from goplugins.observability.call_log import CallLog
from goplugins.observability.common_metrics import CollectorSink
from goplugins.observability.event_stream import EventStream
from goplugins.observability.spans import TracingProvider
from goplugins.observability.tracing import Tracer
from goplugins.runtime.clock import Clock
from goplugins.runtime.scheduler import Schedule, ScheduledTask

if TYPE_CHECKING:
    from goplugins.observability.metrics_server import MetricsServer
    from goplugins.observability.prometheus import PrometheusExporter

__all__ = ["Observers", "problems_of"]

_INTERVAL = 5.0
"""Seconds between two looks at states, where nobody asks for them; and between two tries to get the metrics port."""


class Observed(Protocol):
    """A manager's inside."""

    def metrics(self) -> ManagerMetrics: ...
    def explain(self, name: str, /) -> Explanation: ...
    def labels_of(self, name: str, /) -> Mapping[str, str]: ...
    def describe(self, name: str, /) -> Mapping[str, Any]: ...


class Observers:
    """Who is told what a manager does, as its configuration says.

    Args:
        events: what happens.
        clock: measures.
        rng: decides which calls are traced.

    Attributes:
        tracer: puts spans around calls; None where calls are not traced.
    """

    def __init__(self, events: EventStream, clock: Clock, rng: random.Random) -> None:
        self.tracer: Tracer | None = None
        self._events = events
        self._rng = rng
        self._clock = clock
        self._config: ManagerConfig | None = None
        self._detach: dict[str, Callable[[], None]] = {}
        self._exporters: list[PrometheusExporter] = []
        self._every: Schedule | None = None
        self._server: MetricsServer | None = None
        self._ticket: ScheduledTask | None = None
        self._level = logging.NOTSET
        self._detach["audit"] = events.attach(AuditLog(), calls="none", attempts="failed")

    def apply(self, config: ManagerConfig, source: Observed) -> None:
        """Applies the settings of a configuration, resolved; exporters and spans describe the plugins of ``source``."""
        before, self._config = self._config, config
        new = config.observability
        old = None if before is None else before.observability
        if old is not None and new == old and before is not None and before.metrics_port == config.metrics_port:
            return
        self._log(new, config.log_level)
        self._collect(new)
        self._export(new, config.metrics_port, source)
        self._trace(new, source)

    def _log(self, config: ObservabilityConfig, level: str) -> None:
        self._end("log")
        if config.logging_enabled:
            sink = CallLog(fields=config.structured_logging, clock=self._clock)
            self._detach["log"] = self._events.attach(sink, calls="failed", attempts="none", changes=False)
        calls = logging.getLogger("goplugins.calls")
        if config.log_level not in {None, level}:
            calls.setLevel(str(config.log_level).upper())
            self._level = calls.level
        elif self._level and calls.level == self._level:  # nobody else has set it: what holds for goplugins holds
            calls.setLevel(logging.NOTSET)

    def _collect(self, config: ObservabilityConfig) -> None:
        self._end("collector")
        if config.metrics_enabled and config.metrics_collector is not None:
            sink = CollectorSink(
                config.metrics_collector,
                config.metrics_prefix,
                durations=config.performance_metrics,
                errors=config.error_metrics,
                health=config.health_metrics,
            )
            self._detach["collector"] = self._events.attach(sink, attempts="none")

    def _export(self, config: ObservabilityConfig, port: int | None, source: Observed) -> None:
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
        self._go_on()

    def add(self, exporter: PrometheusExporter) -> Callable[[], None]:
        """Tells an exporter of everything from now on; returns its end."""
        detach = self._events.attach(exporter, attempts="none")
        self._exporters.append(exporter)
        self._go_on()

        def end() -> None:
            detach()
            exporter.close()
            self._exporters.remove(exporter)

        return end

    def _trace(self, config: ObservabilityConfig, source: Observed) -> None:
        self._end("tracing")
        if not config.tracing_enabled:
            return
        provider = config.tracing_provider
        if provider is None:
            from goplugins.observability.otel import OpenTelemetryTracing

            provider = OpenTelemetryTracing()
        self.trace_with(provider, config.tracing_sample_rate, source)

    def trace_with(self, provider: TracingProvider, sample_rate: float, source: Observed) -> None:
        """Traces calls from now on; ``source`` describes their plugins."""
        self._end("tracing")
        tracer = Tracer(provider, sample_rate, source.describe, self._rng)
        detach = self._events.attach(tracer, calls="none", changes=False)
        self.tracer = tracer

        def end() -> None:
            detach()
            self.tracer = None

        self._detach["tracing"] = end

    def start(self, every: Schedule) -> None:
        """Opens the metrics port, if there is to be one. With the first call, not before: the process may yet fork.

        Args:
            every: has a bound method run every so many seconds.
        """
        self._every = every
        self._go_on()

    def _go_on(self) -> None:
        if self._every is None or (self._server is None and not self._exporters):
            return
        if self._server is not None:
            self._server.start()
        if self._ticket is None:
            self._ticket = self._every(self.tick, _INTERVAL, _INTERVAL)

    def tick(self) -> None:
        """What is done every few seconds: the port, if another process had it; states, if nobody asks here."""
        if self._server is not None:
            self._server.start()
        for exporter in self._exporters:
            exporter.tick()

    def close(self) -> None:
        """Tells nobody anything any more."""
        if self._ticket is not None:
            self._ticket.cancel()
        if self._server is not None:
            self._server.close()
        for exporter in self._exporters:
            exporter.tick()  # the last counts
        for name in list(self._detach):
            self._end(name)

    @property
    def metrics_port(self) -> int | None:
        """The port that metrics are served on; None if they aren't."""
        return None if self._server is None else self._server.port

    def _end(self, name: str) -> None:
        detach = self._detach.pop(name, None)
        if detach is not None:
            detach()


def problems_of(config: ManagerConfig) -> Mapping[str, str]:
    """Fields that ask for a package that is not installed, and what to do."""
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
