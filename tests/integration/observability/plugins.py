"""A plugin that returns the trace context of its call; as a program it runs with the SDK loaded."""

from __future__ import annotations

import time
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from goplugins import ExecutionContext, serve


@serve.plugin(name="where")
def where(request: dict[str, Any], context: ExecutionContext) -> dict[str, str]:
    """The trace and parent of the span around this very call, and what the caller sent."""
    delay = request.get("delay", 0.0)
    if request.get("once") and seen.setdefault(request["once"], 0) == 0:
        seen[request["once"]] += 1
        raise serve.Unavailable("not yet", retry_after=0.0)
    if delay and seen.setdefault("delay", 0) == 0:
        seen["delay"] += 1
        time.sleep(delay)
    span: Any = trace.get_current_span()
    own = span.get_span_context()
    sent = {name.lower(): value for name, value in context.headers.items()}.get("traceparent", "")
    parent = getattr(span, "parent", None)
    return {
        "trace": format(own.trace_id, "032x"),
        "parent": format(parent.span_id, "016x") if parent else "",
        "sent": sent,
    }


seen: dict[str, int] = {}

if __name__ == "__main__":
    trace.set_tracer_provider(TracerProvider())
    serve.run(where, "stdio:")
