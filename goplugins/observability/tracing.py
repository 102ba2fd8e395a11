"""Traces: a span per call with an event per attempt, and its context in the headers of the call."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from goplugins.enums import SpanStatusCode
from goplugins.errors import PluginError, belongs_to_host
from goplugins.observability.error_kinds import code_of_error, kind_of_error
from goplugins.observability.events import AttemptFinished, Event
from goplugins.observability.spans import Span, TracingProvider, call_attributes, span_name
from goplugins.runtime.call import Call
from goplugins.runtime.text import one_line

logger = logging.getLogger("goplugins.tracing")

Make = Callable[[str, Call], Any]
"""Makes a call of the plugin with that name."""

Describe = Callable[[str, str], Mapping[str, Any]]
"""Returns the span attributes of a call, by the names of the plugin and its operation."""


class _OpenSpan:
    """The span of a call in flight."""

    __slots__ = ("events", "plugin", "request_id", "span")

    def __init__(self, span: Span, plugin: str, request_id: str) -> None:
        self.span = span
        self.plugin = plugin
        self.request_id = request_id
        self.events = 0


_current: contextvars.ContextVar[_OpenSpan | None] = contextvars.ContextVar("goplugins_span", default=None)


class Tracer:
    """Makes calls within spans, and adds an event for each attempt; an event sink for attempts.

    A call within a trace is recorded if the trace is. Outside of traces, a ``sample_rate`` of the calls starts one.
    Exceptions of the provider are logged, and the call goes on without a span.

    Args:
        provider: creates the spans.
        sample_rate: fraction of calls outside of traces that start a trace, 0 to 1.
        describe: returns the attributes of a call.
        rng: draws the sampled calls.
    """

    def __init__(self, provider: TracingProvider, sample_rate: float, describe: Describe, rng: random.Random) -> None:
        self._provider = provider
        self._rate = sample_rate
        self._describe = describe
        self._rng = rng

    def trace(self, make: Make, name: str, call: Call) -> Any:
        """Makes the call within a span."""
        opened = self._begin(name, call)
        if opened is None:
            return make(name, call)
        token = _current.set(opened)
        deactivate = _activate(self._provider, opened.span, name)
        try:
            value = make(name, call)
        except BaseException as exc:
            self._end(opened, call, exc)
            raise
        else:
            self._end(opened, call, None)
            return value
        finally:
            deactivate()
            _current.reset(token)

    def _begin(self, name: str, call: Call) -> _OpenSpan | None:
        provider = self._provider
        span = None
        try:
            decided = provider.decided() if hasattr(provider, "decided") else None
            wanted = self._rng.random() < self._rate if decided is None else decided
            if wanted:
                attributes = {"goplugins.request_id": call.request_id, **self._describe(name, call.operation)}
                span = provider.start_span(span_name(name, call.operation), kind="client", attributes=attributes)
            # Also for a trace that is not recorded, so that the next service does not record it either.
            carried = provider.inject_context(span)
        except Exception as exc:
            if belongs_to_host(exc):
                raise
            logger.exception("starting a span for a call of %r failed", name)
            if span is not None:
                _run_safely(span.finish, name)
            return None
        if carried:
            names = {header.lower() for header in carried}
            own = {header: value for header, value in call.headers.items() if header.lower() not in names}
            call.headers = {**own, **carried}
        return None if span is None else _OpenSpan(span, name, call.request_id)

    def _end(self, opened: _OpenSpan, call: Call, error: BaseException | None) -> None:
        span = opened.span

        def end() -> None:
            span.set_attribute("goplugins.attempts", call.attempts)
            span.set_attribute("goplugins.source", call.source)
            if call.member:
                span.set_attribute("goplugins.member", call.member)
            for _ in range(call.attempts - opened.events):  # a hedged attempt that was not awaited
                _add_event(span, {"goplugins.outcome": "abandoned"})
            if error is None:
                span.set_status(SpanStatusCode.OK)
            else:
                span.set_attribute("error.type", code_of_error(error))
                kind = kind_of_error(error)
                # One line: exporters refuse a whole batch for a lone surrogate in one text.
                text = one_line(error.message) if isinstance(error, PluginError) else type(error).__name__
                span.set_status(SpanStatusCode.TIMEOUT if kind == "timeout" else SpanStatusCode.ERROR, text)
            span.finish()

        _run_safely(end, opened.plugin)

    def __call__(self, event: Event) -> None:
        """Records the end of an attempt, on a thread within the call's context."""
        opened = _current.get()
        if opened is None or not isinstance(event, AttemptFinished):
            return
        if event.plugin != opened.plugin or event.request_id != opened.request_id:
            return  # a member's part: the group's attempt has an event of its own
        opened.events += 1
        attributes: dict[str, Any] = {
            "goplugins.attempt": event.attempt,
            "goplugins.elapsed": event.elapsed,
            "goplugins.outcome": kind_of_error(event.error),
        }
        if event.member:
            attributes["goplugins.member"] = event.member
        if event.error is not None:
            attributes["error.type"] = code_of_error(event.error)
        _add_event(opened.span, attributes)


@contextlib.contextmanager
def serving_span(plugin: str, request_id: str, headers: Mapping[str, str], operation: str = "") -> Iterator[None]:
    """A span around the work of a served plugin, in its caller's trace.

    Only if the OpenTelemetry SDK is loaded: applications without traces must not pay for it.
    """
    provider = _provider_of_process()
    if provider is None:
        yield
        return
    attributes = {**call_attributes(plugin, operation), "goplugins.request_id": request_id}
    try:
        context = provider.extract_context(headers)
        name = span_name(plugin, operation)
        span = provider.start_span(name, kind="server", context=context, attributes=attributes)
    except Exception as exc:
        if belongs_to_host(exc):
            raise
        logger.exception("starting a span for a served call of %r failed", plugin)
        yield
        return
    deactivate = _activate(provider, span, plugin)
    try:
        yield
    except BaseException as exc:
        name = type(exc).__name__
        _run_safely(lambda: span.set_attribute("error.type", name), plugin)
        _run_safely(lambda: span.set_status(SpanStatusCode.ERROR, name), plugin)
        raise
    else:
        _run_safely(lambda: span.set_status(SpanStatusCode.OK), plugin)
    finally:
        deactivate()
        _run_safely(span.finish, plugin)


def _add_event(span: Span, attributes: Mapping[str, Any]) -> None:
    if hasattr(span, "add_event"):
        span.add_event("attempt", attributes)


def _activate(provider: TracingProvider, span: Span, plugin: str) -> Callable[[], None]:
    """Makes the span the current one; returns a function that ends this. Failures of the provider are logged."""
    if not hasattr(provider, "activate"):
        return lambda: None
    stack = contextlib.ExitStack()
    _run_safely(lambda: stack.enter_context(provider.activate(span)), plugin)
    return lambda: _run_safely(stack.close, plugin)


def _run_safely(work: Callable[[], object], plugin: str) -> None:
    try:
        work()
    except Exception as exc:
        if belongs_to_host(exc):
            raise
        logger.exception("the tracing provider failed in a call of %r", plugin)


def _provider_of_process() -> TracingProvider | None:
    if "opentelemetry.sdk.trace" not in sys.modules:
        return None
    from goplugins.observability.otel import OpenTelemetryTracing

    return OpenTelemetryTracing()
