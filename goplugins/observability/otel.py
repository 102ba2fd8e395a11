"""Traces and metrics through the OpenTelemetry API. Imported only where OpenTelemetry is in use."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter
from opentelemetry.trace import SpanKind, Status, StatusCode, TracerProvider

from goplugins.config import ObservabilityConfig
from goplugins.enums import SpanStatusCode
from goplugins.observability.common_metrics import STATES, PluginSource, operation_label
from goplugins.observability.error_kinds import kind_of_error
from goplugins.observability.events import CallFinished, Event
from goplugins.observability.spans import Span


class _Span:
    __slots__ = ("span",)

    def __init__(self, span: trace.Span) -> None:
        self.span = span

    def set_attribute(self, key: str, value: Any) -> None:
        self.span.set_attribute(key, value)

    def add_event(self, name: str, attributes: Mapping[str, Any]) -> None:
        self.span.add_event(name, dict(attributes))

    def set_status(self, code: SpanStatusCode, message: str = "") -> None:
        # By OpenTelemetry's conventions the status of a successful span stays unset.
        if code is not SpanStatusCode.OK:
            self.span.set_status(Status(StatusCode.ERROR, message))

    def finish(self) -> None:
        self.span.end()

    @property
    def context(self) -> Any:
        return self.span.get_span_context()


class OpenTelemetryTracing:
    """Creates OpenTelemetry spans; the default tracing provider of :class:`goplugins.ObservabilityConfig`.

    Args:
        tracer_provider: provides the tracer; by default the global one.
    """

    def __init__(self, tracer_provider: TracerProvider | None = None) -> None:
        self._tracer = trace.get_tracer("goplugins", tracer_provider=tracer_provider)

    def start_span(self, name: str, *, kind: str, context: Any = None, attributes: Mapping[str, Any]) -> Span:
        """Starts a span."""
        given: Context | None = context
        return _Span(self._tracer.start_span(name, given, SpanKind[kind.upper()], dict(attributes)))

    def extract_context(self, headers: Mapping[str, str]) -> Any:
        """The context that the configured propagators (W3C by default) read from the headers."""
        return propagate.extract({name.lower(): value for name, value in headers.items()})

    def inject_context(self, span: Span | None) -> Mapping[str, str]:
        """The headers that the configured propagators write."""
        carrier: dict[str, str] = {}
        context = trace.set_span_in_context(span.span) if isinstance(span, _Span) else None
        propagate.inject(carrier, context)
        return carrier

    def activate(self, span: Span) -> AbstractContextManager[Any]:
        """Makes the span the current one for the duration of the context manager."""
        assert isinstance(span, _Span)  # noqa: S101 - start_span() made it
        return trace.use_span(span.span, end_on_exit=False, record_exception=False, set_status_on_exception=False)

    def decided(self) -> bool | None:
        """Whether the current trace is sampled; None without a current trace."""
        context = trace.get_current_span().get_span_context()
        return bool(context.trace_flags.sampled) if context.is_valid else None


class OpenTelemetryMetrics:
    """A manager's metrics through the OpenTelemetry API, as an alternative to Prometheus. An event sink.

    Args:
        source: the manager's plugins; held weakly.
        prefix: the prefix of their names.
        meter_provider: provides the meter; by default the global one.
    """

    def __init__(self, source: PluginSource, *, prefix: str = "goplugins", meter_provider: MeterProvider | None = None):
        meter = get_meter("goplugins", meter_provider=meter_provider)
        self._source = weakref.ref(source)
        self._durations = True
        self._calls = meter.create_counter(f"{prefix}.calls", "{call}", "Finished calls.")
        self._attempts = meter.create_counter(f"{prefix}.attempts", "{attempt}", "Sent attempts.")
        self._duration = meter.create_histogram(f"{prefix}.call.duration", "s", "Duration of calls.")
        meter.create_observable_up_down_counter(
            f"{prefix}.calls.in_flight", [self._in_flight], "{call}", "Calls in flight."
        )
        meter.create_observable_gauge(
            f"{prefix}.breaker.state", [self._breakers], "1", "0 closed, 1 open, 2 half-open."
        )

    def configure(self, config: ObservabilityConfig) -> None:
        """Records durations unless the configuration has switched them off. Health and error codes are not exported."""
        self._durations = config.performance_metrics

    def __call__(self, event: Event) -> None:
        """Records the end of a call."""
        if not isinstance(event, CallFinished) or event.as_member:
            return
        labels = {"plugin": event.plugin}
        if event.operation:
            labels["operation"] = operation_label(self._source(), event)
        self._calls.add(1, {**labels, "outcome": kind_of_error(event.error), "source": event.source})
        if event.attempts:
            self._attempts.add(event.attempts, labels)
            if self._durations:
                self._duration.record(event.elapsed, labels)

    def _in_flight(self, _: CallbackOptions) -> Iterable[Observation]:
        source = self._source()
        if source is not None:
            for name, counts in source.metrics().plugins.items():
                yield Observation(counts.active_requests, {"plugin": name})

    def _breakers(self, _: CallbackOptions) -> Iterable[Observation]:
        source = self._source()
        if source is not None:
            for name in source.metrics().plugins:
                try:
                    yield Observation(STATES[source.explain(name).breaker], {"plugin": name})
                except LookupError:  # removed meanwhile
                    continue
