"""One trace from the view to the plugin, over every transport, with its attempts and abandoned hedges."""

from __future__ import annotations

import contextlib
import stat
import sys
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from goplugins import Manager, PluginConnectionError, PluginError, serve
from goplugins.contrib.opentelemetry import instrument
from goplugins.observability.otel import OpenTelemetryTracing

from . import plugins

ROOT = str(Path(__file__).resolve().parents[3])
WIRES = ("http", "grpc", "unix", "exec", "python")


@pytest.fixture
def exporter(monkeypatch):
    plugins.seen.clear()
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    return exporter


@pytest.fixture
def served(request, tmp_path):
    """The configuration of the plugin on a transport."""
    wire = request.param
    if wire == "python":
        yield {"transport": "python", "endpoint": "tests.integration.observability.plugins:where"}
    elif wire == "exec":
        program = tmp_path / "plugin"
        program.write_text(f"#!/bin/sh\nexec {sys.executable} -m tests.integration.observability.plugins\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        yield {"transport": "exec", "executable": str(program), "work_dir": ROOT}
    else:
        urls = {"http": "http://127.0.0.1:0", "grpc": "grpc://127.0.0.1:0", "unix": f"unix://{tmp_path}/socket"}
        with serve.start(plugins.where, urls[wire]) as server:
            endpoint = server.url.removeprefix("grpc://").removeprefix("unix://")
            yield {"transport": wire, "endpoint": endpoint}


def manager_of(config, **more):
    manager = Manager()
    plugin = {"name": "where", "retry": {"initial_interval": 0.001}, "connection": {"request_timeout": 20}, **config}
    manager.load_from_config({"plugins": [plugin], **more})
    return manager


def by_kind(exporter, kind):
    return [span for span in exporter.get_finished_spans() if span.kind.name == kind]


@pytest.mark.parametrize("served", WIRES, indirect=True)
def test_one_trace_from_the_view_to_the_plugin(served, exporter, request):
    with manager_of(served) as manager:
        instrument(manager, metrics=False)
        with trace.get_tracer("view").start_as_current_span("GET /") as view:
            answer = manager.execute("where", {})
    (client,) = by_kind(exporter, "CLIENT")
    assert client.parent.span_id == view.get_span_context().span_id
    assert client.name == "where/execute"
    assert client.attributes["rpc.service"] == "where"
    wire = {"unix": "unix", "exec": "pipe"}.get(client.attributes["goplugins.transport"], "tcp")
    assert client.attributes.get("network.transport", wire) == wire
    assert ("server.port" in client.attributes) == (client.attributes.get("network.transport") == "tcp")
    assert client.attributes["goplugins.attempts"] == 1
    ids = format(client.context.trace_id, "032x"), format(client.context.span_id, "016x")
    assert (answer["trace"], answer["parent"]) == ids, "the server's span is the client span's child"
    assert answer["sent"].split("-")[1:3] == list(ids)
    (event,) = client.events
    assert (event.name, event.attributes["goplugins.outcome"]) == ("attempt", "ok")
    if request.node.callspec.params["served"] != "exec":  # its spans are in another process
        (server,) = by_kind(exporter, "SERVER")
        assert server.context.trace_id == client.context.trace_id
        assert server.parent.span_id == client.context.span_id


@pytest.mark.parametrize("served", ["http"], indirect=True)
def test_each_attempt_is_an_event_of_the_span(served, exporter):
    with manager_of(served) as manager:
        instrument(manager, metrics=False)
        manager.execute("where", {"once": "x"}, idempotent=True)
    (client,) = by_kind(exporter, "CLIENT")
    outcomes = [event.attributes["goplugins.outcome"] for event in client.events]
    assert outcomes == ["plugin", "ok"]
    assert client.attributes["goplugins.attempts"] == 2
    assert len(by_kind(exporter, "SERVER")) == 2
    assert client.status.status_code.name == "UNSET"


@pytest.mark.parametrize("served", ["http", "unix", "grpc"], indirect=True)
def test_an_abandoned_hedge_is_in_the_trace(served, exporter):
    hedge = {"hedge": {"enabled": True, "delay": 0.02}, "retry": {"idempotent": True}}
    with manager_of({**served, **hedge}) as manager:
        instrument(manager, metrics=False)
        manager.execute("where", {"delay": 0.5})
    (client,) = by_kind(exporter, "CLIENT")
    outcomes = sorted(event.attributes["goplugins.outcome"] for event in client.events)
    assert len(outcomes) == client.attributes["goplugins.attempts"] == 2
    assert "ok" in outcomes
    assert outcomes != ["ok", "ok"]


def test_a_failed_call_is_a_failed_span(exporter):
    config = {"transport": "http", "endpoint": "http://127.0.0.1:9", "retry": {"max_retries": 0}}
    with manager_of(config) as manager:
        instrument(manager, metrics=False)
        with pytest.raises(PluginConnectionError):
            manager.execute("where", {})
    (client,) = by_kind(exporter, "CLIENT")
    assert client.status.status_code.name == "ERROR"
    assert client.attributes["error.type"] == "PLUGIN_1205"
    assert [event.attributes["goplugins.outcome"] for event in client.events] == ["connection"]


def test_interceptors_are_within_the_span_of_the_call(exporter):
    def refuse(call, proceed):
        trace.get_current_span().set_attribute("tenant", "acme")
        assert "traceparent" in call.headers
        raise PluginError("no tenant")

    with Manager(interceptors=[refuse]) as manager:
        manager.load_from_config(
            {"plugins": [{"name": "where", "transport": "http", "endpoint": "http://127.0.0.1:9"}]}
        )
        instrument(manager, metrics=False)
        with pytest.raises(PluginError, match="no tenant"):
            manager.execute("where", {})
    (client,) = by_kind(exporter, "CLIENT")
    assert client.attributes["tenant"] == "acme"
    assert (client.attributes["error.type"], client.attributes["goplugins.attempts"]) == ("PLUGIN_1200", 0)
    assert client.events == ()


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        ("get", {"rpc.method": "get", "url.template": "/items/{id}", "http.request.method": "GET"}),
        ("put", {"rpc.method": "put", "url.template": "/items/{id}", "http.request.method": "PUT"}),
    ],
)
def test_a_span_has_the_operation_with_its_method_and_path(exporter, operation, expected):
    operations = {"get": {"path": "/items/{id}"}, "put": {"method": "PUT", "path": "/items/{id}"}}
    config = {"transport": "http", "endpoint": "http://127.0.0.1:9", "retry": {"max_retries": 0}}
    with manager_of({**config, "operations": operations}) as manager:
        instrument(manager, metrics=False)
        with pytest.raises(PluginConnectionError):
            manager.execute("where", {"id": 1}, operation=operation)
    (client,) = by_kind(exporter, "CLIENT")
    assert client.name == f"where/{operation}"
    assert expected.items() <= client.attributes.items()


@pytest.mark.parametrize("wire", ["http", "grpc", "unix", "python"])
def test_a_span_of_our_own_wires_has_the_operation_only(exporter, wire, tmp_path):
    shop = serve.Plugin("shop")

    @shop.operation
    def find(request: str) -> str:
        return request

    urls = {"http": "http://127.0.0.1:0", "grpc": "grpc://127.0.0.1:0", "unix": f"unix://{tmp_path}/socket"}
    with contextlib.ExitStack() as stack:
        manager = stack.enter_context(Manager())
        if wire == "python":
            manager.register(shop)
        else:
            url = stack.enter_context(serve.start(shop, urls[wire])).url
            endpoint = url.removeprefix("grpc://").removeprefix("unix://")
            manager.load_from_config({"plugins": [{"name": "shop", "transport": wire, "endpoint": endpoint}]})
        instrument(manager, metrics=False)
        manager.execute("shop", "x", operation="find")
    for kind in ("CLIENT",) if wire == "python" else ("CLIENT", "SERVER"):
        (span,) = by_kind(exporter, kind)
        assert (span.name, span.attributes["rpc.method"]) == ("shop/find", "find")
        assert not {"url.template", "http.request.method"} & set(span.attributes)


@pytest.mark.parametrize("served", ["python"], indirect=True)
@pytest.mark.parametrize("way", ["submit", "map"])
def test_the_trace_is_propagated_to_workers(served, exporter, way):
    with manager_of(served) as manager:
        instrument(manager, metrics=False)
        with trace.get_tracer("view").start_as_current_span("job") as job:
            if way == "submit":
                manager.submit("where", {}).result()
            else:
                list(manager.map("where", [{}, {}, {}]))
    clients = by_kind(exporter, "CLIENT")
    assert len(clients) == (1 if way == "submit" else 3)
    assert {client.parent.span_id for client in clients} == {job.get_span_context().span_id}


@pytest.mark.parametrize("served", ["python"], indirect=True)
def test_configured_tracing_samples_new_traces_and_follows_existing_ones(served, exporter):
    observability = {"tracing_enabled": True, "tracing_sample_rate": 0.25}
    with manager_of(served, observability=observability) as manager:
        manager._lifecycle.observers._rng.seed(7)
        for _ in range(400):
            manager.execute("where", {})
        begun = len(by_kind(exporter, "CLIENT"))
        assert 60 <= begun <= 140
        with trace.get_tracer("view").start_as_current_span("view"):
            for _ in range(20):
                manager.execute("where", {})
        assert len(by_kind(exporter, "CLIENT")) == begun + 20
        manager.reload_config({"plugins": [{"name": "where", **served}]})
        manager.execute("where", {})
        assert len(by_kind(exporter, "CLIENT")) == begun + 20, "disabled"


@pytest.mark.parametrize("served", ["http"], indirect=True)
def test_the_sampling_decision_is_propagated(served, exporter):
    with manager_of(served) as manager:
        instrument(manager, metrics=False)
        context = trace.SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=trace.TraceFlags(0))
        with trace.use_span(trace.NonRecordingSpan(context)):
            answer = manager.execute("where", {})
    assert by_kind(exporter, "CLIENT") == []
    assert answer["sent"] == f"00-{0xABC:032x}-{0xDEF:016x}-00"


class Broken:
    """A provider that always raises."""

    def __getattr__(self, name):
        def fail(*args, **kwargs):
            raise RuntimeError(f"no {name}")

        return fail


@pytest.mark.parametrize("served", ["python"], indirect=True)
def test_a_provider_that_raises_fails_no_call(served, caplog):
    with manager_of(served) as manager:
        manager._lifecycle.observers.trace_with(Broken(), 1.0, manager._lifecycle.reports)
        assert manager.execute("where", {})["sent"] == ""
    assert "starting a span for a call" in caplog.text


class PartlyBroken(OpenTelemetryTracing):
    """A provider that fails after it has created a span."""

    def __init__(self, failing):
        super().__init__()
        setattr(self, failing, Broken().fails)


@pytest.mark.parametrize("failing", ["activate", "inject_context"])
@pytest.mark.parametrize("served", ["python"], indirect=True)
def test_a_provider_that_fails_later_fails_no_call_and_leaves_no_span_open(served, exporter, failing, caplog):
    with manager_of(served) as manager:
        manager._lifecycle.observers.trace_with(PartlyBroken(failing), 1.0, manager._lifecycle.reports)
        assert "sent" in manager.execute("where", {})
    assert len(by_kind(exporter, "CLIENT")) == 1
    assert "no fails" in caplog.text


def test_metrics_through_the_api():
    reader = InMemoryMetricReader()
    with manager_of({"transport": "python", "endpoint": "tests.integration.observability.plugins:where"}) as manager:
        instrument(manager, meter_provider=MeterProvider([reader]))
        for _ in range(5):
            manager.execute("where", {})
        with pytest.raises(PluginError):
            manager.execute("where", 3)
        found = {}
        for resource in reader.get_metrics_data().resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    for point in metric.data.data_points:
                        value = getattr(point, "count", None) or getattr(point, "value", 0)
                        found[metric.name, point.attributes.get("outcome", "")] = value
    assert found["goplugins.calls", "ok"] == 5
    assert found["goplugins.calls", "rejected"] == 1
    assert found["goplugins.call.duration", ""] == 6
    assert found["goplugins.calls.in_flight", ""] == 0
    assert found["goplugins.breaker.state", ""] == 0


def test_metrics_through_the_api_without_durations():
    reader = InMemoryMetricReader()
    served = {"transport": "python", "endpoint": "tests.integration.observability.plugins:where"}
    with manager_of(served, observability={"performance_metrics": False}) as manager:
        instrument(manager, meter_provider=MeterProvider([reader]))

        def found():
            manager.execute("where", {})
            metrics = (
                scope.metrics for each in reader.get_metrics_data().resource_metrics for scope in each.scope_metrics
            )
            return {metric.name: metric.data.data_points for names in metrics for metric in names}

        names = found()
        assert "goplugins.calls" in names
        assert not names.get("goplugins.call.duration")
        manager.reload_config({"plugins": [{"name": "where", **served}]})
        assert found()["goplugins.call.duration"][0].count == 1
