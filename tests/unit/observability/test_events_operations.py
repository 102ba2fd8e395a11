"""The operation of a call, in everything that shows calls: names from callers never become labels."""

from __future__ import annotations

import copy
import json
import logging
import pickle

import pytest
from prometheus_client import CollectorRegistry

from goplugins import (
    AttemptFinished,
    CallFinished,
    InMemoryCollector,
    JSONFormatter,
    Manager,
    ManagerConfig,
    ObservabilityConfig,
    OperationConfig,
    PluginConfig,
)
from goplugins.contrib.prometheus import export
from goplugins.errors import AuthenticationError, PluginError, PluginTimeoutError
from goplugins.observability.common_metrics import CommonPluginMetrics
from goplugins.observability.otel import OpenTelemetryMetrics
from tests.unit.observability.fakes import ECHO, Raiser

OPERATIONS = {"find": OperationConfig(), "save": OperationConfig()}


@pytest.fixture
def shop():
    """A manager with "shop", which has two operations, "bare", which has none configured, and "plain"."""
    with Manager() as manager:
        manager.register(Raiser(), PluginConfig(name="shop", operations=OPERATIONS))
        manager.register(Raiser(), PluginConfig(name="bare"))
        manager.register(Raiser(), PluginConfig(name="plain"))
        yield manager


def make_calls(manager):
    """One answered and one failed call of each kind."""
    for plugin, operation in (("shop", "find"), ("shop", "find"), ("bare", "x-1"), ("bare", "x-2"), ("plain", None)):
        manager.execute(plugin, None, operation=operation)
        with pytest.raises(PluginTimeoutError):
            manager.execute(plugin, PluginTimeoutError, operation=operation)


def test_counts_are_kept_by_configured_operation(shop):
    make_calls(shop)
    plugins = shop.metrics().plugins
    find = plugins["shop"].operations["find"]
    assert (find.requests_total, find.requests_success, find.requests_failure) == (4, 2, 2)
    assert find.errors == {"PLUGIN_1204": 2}
    assert len(find.latencies) == 4
    assert 0 < find.request_duration <= plugins["shop"].request_duration
    assert set(plugins["shop"].operations) == {"find"}
    assert {name: each.requests_total for name, each in plugins["bare"].operations.items()} == {"other": 4}
    assert plugins["plain"].operations == shop.metrics().operations == {}


def test_events_have_the_operation(shop):
    seen = []
    with shop.subscribe(seen.append, CallFinished, AttemptFinished):
        make_calls(shop)
    assert [(type(event).__name__, event.plugin, event.operation) for event in seen[-6:]] == [
        (kind, plugin, operation)
        for plugin, operation in (("bare", "x-2"), ("plain", ""))
        for kind in ("AttemptFinished", "CallFinished", "AttemptFinished", "CallFinished")
    ][-6:]


def series(registry, name):
    return {
        tuple(f"{key}={text}" for key, text in sample.labels.items() if key not in {"manager", "source"}): sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == name
    }


def test_series_of_plugins_without_operations_have_no_further_label(shop):
    registry = CollectorRegistry()
    export(shop, registry=registry)
    make_calls(shop)
    assert series(registry, "goplugins_calls_total") == {
        ("plugin=shop", "operation=find", "outcome=ok"): 2,
        ("plugin=shop", "operation=find", "outcome=timeout"): 2,
        ("plugin=bare", "operation=other", "outcome=ok"): 2,
        ("plugin=bare", "operation=other", "outcome=timeout"): 2,
        ("plugin=plain", "outcome=ok"): 1,
        ("plugin=plain", "outcome=timeout"): 1,
    }
    for name in ("goplugins_attempts_total", "goplugins_call_duration_seconds_count"):
        found = {labels: count for labels, count in series(registry, name).items() if count}
        assert found == {
            ("plugin=shop", "operation=find"): 4,
            ("plugin=bare", "operation=other"): 4,
            ("plugin=plain",): 2,
        }
    assert ("plugin=plain", "code=PLUGIN_1204") in series(registry, "goplugins_call_errors_total")
    assert registry.get_sample_value(
        "goplugins_call_errors_total", {"manager": "", "plugin": "plain", "code": "PLUGIN_1204"}
    )


def test_a_removed_plugin_takes_the_series_of_its_operations_along(shop):
    registry = CollectorRegistry()
    export(shop, registry=registry)
    make_calls(shop)
    list(registry.collect())
    shop.unregister("shop")
    for _ in range(3):
        list(registry.collect())
    assert not [labels for labels in series(registry, "goplugins_calls_total") if "plugin=shop" in labels]


def test_a_collector_gets_operations_in_metrics_of_their_own():
    collector = InMemoryCollector()
    config = ManagerConfig(
        plugins=(PluginConfig(**ECHO),), observability=ObservabilityConfig(metrics_collector=collector)
    )
    with Manager() as manager:
        manager.load_from_config(config)
        manager.register(Raiser(), PluginConfig(name="shop", operations=OPERATIONS))
        manager.register(Raiser(), PluginConfig(name="bare"))
        manager.execute("shop", None, operation="find")
        manager.execute("bare", None, operation="any")
        manager.execute("bare", None)
    found = collector.get_metrics()
    assert found["goplugins_requests_total"] == {"outcome=ok,plugin=shop": 1, "outcome=ok,plugin=bare": 2}
    assert found["goplugins_operation_requests_total"] == {
        "operation=find,outcome=ok,plugin=shop": 1,
        "operation=other,outcome=ok,plugin=bare": 1,
    }
    assert found["goplugins_operation_request_duration_seconds"]["operation=find,plugin=shop"]["count"] == 1


def test_the_common_metrics_of_an_operation():
    collector = InMemoryCollector()
    common = CommonPluginMetrics(collector)
    common.record_request("shop", 0.1, None, "find")
    common.record_request("shop", 0.1, PluginError("no"))
    assert collector.get_metrics()["goplugins_requests_total"] == {
        "outcome=ok,plugin=shop": 1,
        "outcome=error,plugin=shop": 1,
    }
    assert collector.get_metrics()["goplugins_operation_requests_total"] == {"operation=find,outcome=ok,plugin=shop": 1}


def test_open_telemetry_has_the_attribute_only_where_a_call_names_an_operation(shop):
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    reader = InMemoryMetricReader()
    sink = OpenTelemetryMetrics(shop._lifecycle.reports, meter_provider=MeterProvider([reader]))
    shop._lifecycle.observers.add_metrics(sink)
    make_calls(shop)
    metrics = {
        metric.name: metric.data.data_points
        for resource in reader.get_metrics_data().resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    found = {(point.attributes["plugin"], point.attributes.get("operation")) for point in metrics["goplugins.calls"]}
    assert found == {("shop", "find"), ("bare", "other"), ("plain", None)}


def test_log_lines_name_the_operation(shop, caplog):
    shop.load_from_config({"plugins": [ECHO], "observability": {"logging_enabled": True}})
    make_calls(shop)
    texts = [record.getMessage() for record in caplog.records if record.name == "goplugins.calls"]
    assert "call of 'shop', operation 'find', failed: [PLUGIN_1204]" in texts[0]
    assert "call of 'plain' failed: [PLUGIN_1204]" in texts[-1]
    lines = [
        json.loads(JSONFormatter().format(record)) for record in caplog.records if record.name == "goplugins.calls"
    ]
    assert [line.get("operation") for line in lines] == ["find", "x-1", "x-2", None]


def test_the_audit_trail_names_the_operation(shop, caplog):
    caplog.set_level(logging.INFO, "goplugins.audit")
    for operation in ("find", None):
        with pytest.raises(AuthenticationError):
            shop.execute("shop", AuthenticationError, operation=operation)
    found = [record for record in caplog.records if getattr(record, "audit", "") == "authentication_refused"]
    assert [vars(record).get("operation") for record in found] == ["find", None]
    assert "(operation 'find', request " in found[0].detail
    assert "operation" not in found[1].detail


def test_errors_name_the_operation_and_keep_it(shop):
    with pytest.raises(PluginTimeoutError) as caught:
        shop.execute("shop", PluginTimeoutError, operation="save")
    error = caught.value
    assert str(error).startswith("[PLUGIN_1204] plugin 'shop', operation 'save': ")
    as_json = json.loads(json.dumps(error.args))
    for kept in (pickle.loads(pickle.dumps(error)), copy.copy(error), type(error)(*as_json)):
        assert (kept.operation, str(kept)) == ("save", str(error))
    with pytest.raises(PluginTimeoutError) as caught:
        shop.execute("plain", PluginTimeoutError)
    assert caught.value.operation is None


def test_an_error_from_before_operations_has_none():
    error = PluginError("no", plugin="shop")
    function, (kind, message, attributes, cause) = error.__reduce__()
    attributes.pop("operation", None)
    assert function(kind, message, attributes, cause).operation is None
    state = {name: value for name, value in error.args[1].items() if name != "operation"}
    assert PluginError("no", state).operation is None


def test_the_report_has_a_row_for_each_operation(shop):
    make_calls(shop)
    report = shop.report()
    find = report.plugins["shop"].operations["find"]
    assert (find.total_requests, find.failed_requests, find.success_rate_percent) == (4, 2, 50.0)
    assert find.timeout_errors == 2
    assert 0 < find.p50_latency <= find.p95_latency
    assert [line.split()[:3] for line in str(report).splitlines()[2:]] == [
        ["bare", "4", "50.0"],
        ["other", "4", "50.0"],
        ["plain", "2", "50.0"],
        ["shop", "4", "50.0"],
        ["find", "4", "50.0"],
    ]


def test_explanations_name_the_operations():
    operations = {"get": {"path": "/items/{id}"}, "put": {"method": "PUT", "path": "/items/{id}"}}
    plugin = {"name": "shop", "transport": "http", "endpoint": "http://127.0.0.1:9", "operations": operations}
    many = {f"get{number:02}": {"path": f"/{number}"} for number in range(12)}
    with Manager() as manager:
        manager.load_from_config({"plugins": [ECHO, plugin, {**plugin, "name": "many", "operations": many}]})
        assert manager.explain("shop").operations == {"get": "GET /items/{id}", "put": "PUT /items/{id}"}
        assert "  operations: get, put\n" in f"{manager.explain('shop')}\n"
        assert "get09 and 2 more" in str(manager.explain("many"))
        assert "operations" not in str(manager.explain("echo"))
