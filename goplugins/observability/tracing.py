"""Traces: a span for a call, an event in it for each attempt, and its context on every wire."""

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
from goplugins.observability.spans import Span, TracingProvider, call_attributes
from goplugins.runtime.call import Call

__all__ = ["Tracer", "serving_span"]

logger = logging.getLogger("goplugins.tracing")

Make = Callable[[str, Call], Any]
"""Makes a call of a plugin by its name."""

Describe = Callable[[str], Mapping[str, Any]]
"""The attributes of a plugin by its name."""


class _Open:
    """A call's span while the call is under way."""

    __slots__ = ("plugin", "request_id", "seen", "span")

    def __init__(self, span: Span, plugin: str, request_id: str) -> None:
        self.span = span
        self.plugin = plugin
        self.request_id = request_id
        self.seen = 0


_current: contextvars.ContextVar[_Open | None] = contextvars.ContextVar("goplugins_span", default=None)


class Tracer:
    """Puts a span around calls, and tells it of their attempts; a sink of attempts.

    A trace that has begun already is followed: recorded if its caller's is. Of the others ``sample_rate`` are begun.
    What a provider raises is logged, and the call goes on without a span.

    Args:
        provider: makes the spans.
        sample_rate: share of the traces that begin here, 0 to 1.
        describe: attributes of a plugin.
        rng: decides which.
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
        leave = _activate(self._provider, opened.span, name)
        try:
            value = make(name, call)
        except BaseException as exc:
            self._end(opened, call, exc)
            raise
        else:
            self._end(opened, call, None)
            return value
        finally:
            leave()
            _current.reset(token)

    def _begin(self, name: str, call: Call) -> _Open | None:
        provider = self._provider
        span = None
        try:
            decided = provider.decided()
            wanted = self._rng.random() < self._rate if decided is None else decided
            if wanted:
                attributes = {"goplugins.request_id": call.request_id, **self._describe(name)}
                span = provider.start_span(f"{name}/execute", kind="client", attributes=attributes)
            # Also of a trace that is not recorded: the next one must know that.
            carried = provider.inject_context(span)
        except Exception as exc:
            if belongs_to_host(exc):
                raise
            logger.exception("no span for a call of %r", name)
            if span is not None:
                _harmless(span.finish, name)
            return None
        if carried:
            names = {header.lower() for header in carried}
            own = {header: value for header, value in call.headers.items() if header.lower() not in names}
            call.headers = {**own, **carried}
        return None if span is None else _Open(span, name, call.request_id)

    def _end(self, opened: _Open, call: Call, error: BaseException | None) -> None:
        span = opened.span
        try:
            span.set_attribute("goplugins.attempts", call.attempts)
            span.set_attribute("goplugins.source", call.source)
            if call.member:
                span.set_attribute("goplugins.member", call.member)
            for _ in range(call.attempts - opened.seen):  # the loser of two hedged attempts is not waited for
                span.add_event("attempt", {"goplugins.outcome": "abandoned"})
            if error is None:
                span.set_status(SpanStatusCode.OK)
            else:
                span.set_attribute("error.type", code_of_error(error))
                kind = kind_of_error(error)
                text = error.message if isinstance(error, PluginError) else type(error).__name__
                span.set_status(SpanStatusCode.TIMEOUT if kind == "timeout" else SpanStatusCode.ERROR, text)
            span.finish()
        except Exception as exc:
            if belongs_to_host(exc):
                raise
            logger.exception("a span of %r could not be ended", opened.plugin)

    def __call__(self, event: Event) -> None:
        """Takes the end of an attempt; on a thread within the call's context."""
        opened = _current.get()
        if opened is None or not isinstance(event, AttemptFinished):
            return
        if event.plugin != opened.plugin or event.request_id != opened.request_id:
            return  # a member's part, which its group's attempt tells of
        opened.seen += 1
        attributes: dict[str, Any] = {
            "goplugins.attempt": event.attempt,
            "goplugins.elapsed": event.elapsed,
            "goplugins.outcome": kind_of_error(event.error),
        }
        if event.member:
            attributes["goplugins.member"] = event.member
        if event.error is not None:
            attributes["error.type"] = code_of_error(event.error)
        opened.span.add_event("attempt", attributes)


@contextlib.contextmanager
def serving_span(plugin: str, request_id: str, headers: Mapping[str, str]) -> Iterator[None]:
    """A span around the work of a served plugin, in its caller's trace.

    Only where the OpenTelemetry SDK is in use: an application that wants traces has loaded it.
    """
    provider = _provider_of_process()
    if provider is None:
        yield
        return
    attributes = {**call_attributes(plugin), "goplugins.request_id": request_id}
    try:
        context = provider.extract_context(headers)
        span = provider.start_span(f"{plugin}/execute", kind="server", context=context, attributes=attributes)
    except Exception as exc:
        if belongs_to_host(exc):
            raise
        logger.exception("no span for a call that %r serves", plugin)
        yield
        return
    leave = _activate(provider, span, plugin)
    try:
        yield
    except BaseException as exc:
        name = type(exc).__name__
        _harmless(lambda: span.set_attribute("error.type", name), plugin)
        _harmless(lambda: span.set_status(SpanStatusCode.ERROR, name), plugin)
        raise
    else:
        _harmless(lambda: span.set_status(SpanStatusCode.OK), plugin)
    finally:
        leave()
        _harmless(span.finish, plugin)


def _activate(provider: TracingProvider, span: Span, plugin: str) -> Callable[[], None]:
    """Makes the span the current one; returns what ends that. The call goes on if the provider can't."""
    stack = contextlib.ExitStack()
    _harmless(lambda: stack.enter_context(provider.activate(span)), plugin)
    return lambda: _harmless(stack.close, plugin)


def _harmless(work: Callable[[], object], plugin: str) -> None:
    try:
        work()
    except Exception as exc:
        if belongs_to_host(exc):
            raise
        logger.exception("a provider of spans failed in a call of %r", plugin)


def _provider_of_process() -> TracingProvider | None:
    if "opentelemetry.sdk.trace" not in sys.modules:
        return None
    from goplugins.observability.otel import OpenTelemetryTracing

    return OpenTelemetryTracing()
