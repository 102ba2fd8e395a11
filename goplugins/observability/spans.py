"""Spans: what a tracing provider implements, and the attributes of a call by OpenTelemetry's semantic conventions."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from goplugins.config.endpoints import Endpoint
from goplugins.enums import SpanStatusCode, TransportType
from goplugins.errors import ConfigError

__all__ = ["Span", "TracingProvider", "call_attributes", "peer_attributes"]


class Span(Protocol):
    """A piece of work with a beginning and an end, in a trace."""

    def set_attribute(self, key: str, value: Any) -> None:
        """Sets an attribute of the span."""
        ...

    def add_event(self, name: str, attributes: Mapping[str, Any]) -> None:
        """Adds an event with the current time."""
        ...

    def set_status(self, code: SpanStatusCode, message: str = "") -> None:
        """Sets the outcome."""
        ...

    def finish(self) -> None:
        """Ends the span."""
        ...

    @property
    def context(self) -> Any:
        """The span context, for child spans and for propagation to other processes."""
        ...


class TracingProvider(Protocol):
    """Creates spans, and propagates their context between processes.

    ``activate`` and ``decided``, and ``add_event`` of its spans, may be missing, as in the Go library: spans are then
    not the current ones within calls, and ``tracing_sample_rate`` decides for every call.
    """

    def start_span(self, name: str, *, kind: str, context: Any = None, attributes: Mapping[str, Any]) -> Span:
        """Starts a span of ``kind`` "client" or "server"; its parent is ``context``, by default the current span."""
        ...

    def extract_context(self, headers: Mapping[str, str]) -> Any:
        """The caller's context from request headers; None if there is none."""
        ...

    def inject_context(self, span: Span | None) -> Mapping[str, str]:
        """Headers that propagate a span's context; None stands for the current span."""
        ...

    def activate(self, span: Span) -> AbstractContextManager[Any]:
        """Makes a span the current one for the duration of the context manager."""
        ...

    def decided(self) -> bool | None:
        """Whether the current trace is sampled; None without a current trace: a new one may start here."""
        ...


def span_name(plugin: str, operation: str) -> str:
    """The name of a call's span, ``rpc.service`` and ``rpc.method`` as the conventions of RPC spans join them.

    >>> span_name("github", "get_repo"), span_name("geo", "")
    ('github/get_repo', 'geo/execute')
    """
    return f"{plugin}/{operation or 'execute'}"


def call_attributes(plugin: str, operation: str) -> dict[str, Any]:
    """``rpc.system``, ``rpc.service`` and ``rpc.method``: the same for client and server spans.

    Source: https://opentelemetry.io/docs/specs/semconv/rpc/rpc-spans/.
    """
    return {"rpc.system": "goplugins", "rpc.service": plugin, "rpc.method": operation or "execute"}


def peer_attributes(transport: TransportType, endpoint: str) -> Mapping[str, str | int]:
    """``server.address``, ``server.port`` and ``network.transport``, where the endpoint has them.

    Source: https://opentelemetry.io/docs/specs/semconv/registry/attributes/server/ and .../network/.

    >>> dict(peer_attributes(TransportType.HTTPS, "https://auth.example/v1"))
    {'server.address': 'auth.example', 'network.transport': 'tcp', 'server.port': 443}
    >>> dict(peer_attributes(TransportType.GRPC, "dns:///search.example:50051"))
    {'server.address': 'search.example', 'network.transport': 'tcp', 'server.port': 50051}
    >>> dict(peer_attributes(TransportType.UNIX, "/run/search.sock"))
    {'server.address': '/run/search.sock', 'network.transport': 'unix'}
    """
    if transport is TransportType.EXECUTABLE:
        return {"network.transport": "pipe"}
    try:
        parsed = Endpoint.parse(transport, endpoint)
    except ConfigError:  # an endpoint of a custom factory
        return {}
    if parsed.socket_path:
        return {"server.address": parsed.socket_path, "network.transport": "unix"}
    if not parsed.host:
        return {}
    found: dict[str, str | int] = {"server.address": parsed.host, "network.transport": "tcp"}
    if parsed.effective_port is not None:
        found["server.port"] = parsed.effective_port
    return found
