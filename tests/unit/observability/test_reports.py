"""Reports, collectors, log lines, the audit trail: each says what is true, and no secret."""

from __future__ import annotations

import json
import logging
import random
import threading

import pytest

from goplugins import (
    CircuitBreakerState,
    InvalidArgumentError,
    Manager,
    PluginConfig,
    PluginConnectionError,
    PluginExecutionError,
    PluginTimeoutError,
)
from goplugins.errors import AuthenticationError, CertificateError, ConfigError, PluginError
from goplugins.manager.control import hold_open, reset_breaker
from goplugins.observability.audit import acting_as
from goplugins.observability.call_log import CallLog, JSONFormatter
from goplugins.observability.common_metrics import CommonPluginMetrics
from goplugins.observability.error_kinds import code_of_error, kind_of_code, kind_of_error
from goplugins.observability.events import CallFinished
from goplugins.observability.metrics_collector import EnhancedMetricsCollector, InMemoryCollector, PrometheusBucket
from goplugins.testing import ManualClock


def echo(request: str) -> str:
    return request


ECHO = {"name": "echo", "transport": "python", "endpoint": f"{__name__}:echo"}


class Plugin:
    """Raises what it is asked to."""

    def info(self):
        raise NotImplementedError

    def health(self, timeout):
        raise NotImplementedError

    def close(self):
        pass

    def execute(self, request, context):
        if request is not None:
            raise request("s3cret-free text")
        return


@pytest.fixture
def manager():
    with Manager() as manager:
        manager.register(Plugin(), PluginConfig(name="moody"))
        yield manager


def fail(manager, error, times=1):
    for _ in range(times):
        with pytest.raises(error):
            manager.execute("moody", error)


# --- the report ----------------------------------------------------------------------------------------------------


def test_a_report_has_true_numbers(manager):
    for _ in range(90):
        manager.execute("moody", None)
    fail(manager, PluginTimeoutError, 2)
    fail(manager, AuthenticationError, 3)
    fail(manager, PluginExecutionError, 5)
    report = manager.report()
    one = report.plugins["moody"]
    assert (one.total_requests, one.successful_requests, one.failed_requests) == (100, 90, 10)
    assert one.success_rate_percent == 90.0
    assert (one.timeout_errors, one.connection_errors, one.auth_errors, one.other_errors) == (2, 0, 3, 5)
    assert one.errors == {"timeout": 2, "auth": 3, "rejected": 5}
    assert 0 < one.min_latency <= one.p50_latency <= one.p95_latency <= one.p99_latency <= one.max_latency
    assert report.total.total_requests == 100
    assert report.total.total_errors == 10
    assert 0 <= report.uptime < 60
    assert "moody" in str(report)
    assert "3 auth" in str(report)


def test_a_report_before_the_first_call(manager):
    one = manager.report().plugins["moody"]
    assert (one.total_requests, one.success_rate_percent, one.p99_latency) == (0, 100.0, 0.0)


def test_every_error_code_has_a_kind():
    from goplugins import errors

    classes = [getattr(errors, name) for name in errors.__all__]
    codes = {cls.code for cls in classes if isinstance(cls, type) and issubclass(cls, PluginError)}
    kinds = {kind_of_code(code) for code in codes}
    assert "interrupted" not in kinds
    assert kind_of_code("KeyboardInterrupt") == kind_of_error(KeyboardInterrupt()) == "interrupted"
    assert kind_of_code("MYAPP_7") == "plugin"  # of an application's own class


def test_what_ends_a_process_has_no_code_of_ours():
    assert code_of_error(SystemExit("a text of any kind")) == "SystemExit"
    assert code_of_error(PluginTimeoutError("late")) == PluginTimeoutError.code


# --- collectors ----------------------------------------------------------------------------------------------------


def test_a_collector_of_the_configuration_is_told_of_every_call():
    collector = InMemoryCollector()
    from goplugins import ManagerConfig, ObservabilityConfig
    from goplugins.config import PluginConfig as Config

    config = ManagerConfig(
        plugins=(Config(**ECHO),), observability=ObservabilityConfig(metrics_collector=collector, metrics_prefix="app")
    )
    with Manager(str, str) as manager:
        manager.load_from_config(config)
        for _ in range(7):
            manager.execute("echo", "hello")
    metrics = collector.get_metrics()
    assert metrics["app_requests_total"] == {"outcome=ok,plugin=echo": 7}
    assert metrics["app_request_duration_seconds"]["plugin=echo"]["count"] == 7
    assert collector.get_prometheus_metrics()[0].description


@pytest.mark.parametrize("value", ["prometheus", 3, object()])
def test_what_is_no_collector_is_refused(value):
    from goplugins import ManagerConfig, ObservabilityConfig
    from goplugins.config import PluginConfig as Config

    config = ManagerConfig(plugins=(Config(**ECHO),), observability=ObservabilityConfig(metrics_collector=value))
    with pytest.raises(ConfigError, match=r"observability\.metrics_collector.*collector"):
        Manager(str, str).load_from_config(config)


def test_the_common_metrics():
    collector = InMemoryCollector()
    assert isinstance(collector, EnhancedMetricsCollector)
    common = CommonPluginMetrics(collector, "p")
    common.increment_active_requests("a")
    common.increment_active_requests("a")
    common.decrement_active_requests("a")
    common.record_request("a", 0.02, None)
    common.record_request("a", 0.04, PluginTimeoutError("late"))
    common.set_circuit_breaker_state("a", CircuitBreakerState.OPEN)
    metrics = collector.get_metrics()
    assert metrics["p_active_requests"] == {"plugin=a": 1}
    assert metrics["p_requests_total"] == {"outcome=ok,plugin=a": 1, "outcome=error,plugin=a": 1}
    assert metrics["p_errors_total"] == {"kind=timeout,plugin=a": 1}
    assert metrics["p_circuit_breaker_state"] == {"plugin=a": 2}
    assert metrics["p_request_duration_seconds"]["plugin=a"]["sum"] == pytest.approx(0.06)


def test_buckets_count_what_does_not_exceed_their_bound():
    collector = InMemoryCollector()
    histogram = collector.histogram_with_labels("h", "Text.", (1.0, 2.0), "a")
    for value in (0.5, 1.0, 1.5, 9.0):
        histogram.observe(value, "x")
    (metric,) = collector.get_prometheus_metrics()
    assert metric.buckets == (PrometheusBucket(1.0, 2), PrometheusBucket(2.0, 3), PrometheusBucket(float("inf"), 4))
    assert metric.value == 12.0


def test_a_collector_loses_no_count_among_threads():
    collector = InMemoryCollector()
    counter = collector.counter_with_labels("c", "Text.", "who")
    threads = [threading.Thread(target=lambda: [counter.inc("x") for _ in range(2000)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert collector.get_metrics()["c"] == {"who=x": 16_000}


def test_labels_made_of_user_input_do_not_eat_the_memory(caplog):
    collector = InMemoryCollector()
    for number in range(10_050):
        collector.increment_counter("c", {"user": str(number)})
    assert len(collector.get_metrics()["c"]) == 10_000
    assert collector.dropped == 50
    for number in range(100):
        collector.increment_counter(f"c{number}", {})
    assert list(collector.get_metrics()) == ["c"]
    assert caplog.text.count("series are kept already") == 1


def test_labels_that_look_like_others_are_told_apart():
    collector = InMemoryCollector()
    collector.increment_counter("c", {"a": "1,b=2"})
    collector.increment_counter("c", {"a": "1", "b": "2"})
    assert collector.get_metrics()["c"] == {r"a=1\,b=2": 1, "a=1,b=2": 1}


@pytest.mark.parametrize(
    "misuse",
    [
        lambda c: c.increment_counter("c", {}, -1),
        lambda c: (c.increment_counter("c", {}), c.set_gauge("c", {}, 1)),
        lambda c: (c.counter_with_labels("c", "", "a"), c.counter_with_labels("c", "", "b")),
        lambda c: c.counter_with_labels("c", "", "a").inc(),
        lambda c: c.histogram_with_labels("h", "", (2.0, 1.0)),
        lambda c: (c.increment_counter("c", {"x": "y"}), c.counter_with_labels("c", "", "a")),
    ],
)
def test_misuse_of_a_collector_is_told(misuse):
    with pytest.raises(InvalidArgumentError):
        misuse(InMemoryCollector())


def test_a_custom_metric_keeps_its_last_value():
    collector = InMemoryCollector()
    collector.record_custom_metric("version", {}, "1.2")
    collector.record_custom_metric("version", {}, "1.3")
    assert collector.get_metrics()["version"] == {"": "1.3"}
    assert collector.get_prometheus_metrics() == []


# --- log lines -----------------------------------------------------------------------------------------------------


def failed(error, plugin="a"):
    return CallFinished(plugin, 0.0, "r-1", 0.25, 2, error=error)


def test_the_same_failure_is_told_once_in_ten_seconds(caplog):
    clock = ManualClock()
    log = CallLog(clock=clock)
    for _ in range(100):
        log(failed(PluginConnectionError("nobody there")))
    log(failed(PluginTimeoutError("late")))
    log(failed(PluginConnectionError("nobody there"), "b"))
    assert len(caplog.records) == 3
    clock.advance(10.0)
    log(failed(PluginConnectionError("nobody there")))
    line = caplog.records[-1]
    assert line.more == 99
    assert line.getMessage().endswith("99 more since the last such line")
    assert (line.plugin, line.request_id, line.code, line.kind) == ("a", "r-1", "PLUGIN_1205", "connection")


def test_the_callers_own_mistakes_are_for_who_debugs(caplog):
    CallLog(clock=ManualClock())(failed(PluginExecutionError("no")))
    assert caplog.records == []
    with caplog.at_level(logging.DEBUG, "goplugins.calls"):
        CallLog(clock=ManualClock())(failed(PluginExecutionError("no")))
    assert len(caplog.records) == 1


def test_failed_calls_of_a_loaded_manager_are_logged_and_switched_off(caplog):
    caplog.set_level(logging.INFO, "goplugins.calls")
    for enabled, lines in ((True, 1), (False, 0)):
        caplog.clear()
        with Manager() as manager:
            manager.load_from_config({"plugins": [ECHO], "observability": {"logging_enabled": enabled}})
            manager.register(Plugin(), PluginConfig(name="moody"))
            fail(manager, PluginTimeoutError)
        assert sum(record.name == "goplugins.calls" for record in caplog.records) == lines


def test_memory_of_failures_is_bounded():
    clock, dice = ManualClock(), random.Random(1)
    log = CallLog(clock=clock)
    for _ in range(5000):
        log(failed(PluginConnectionError("gone"), f"p{dice.random()}"))
    assert len(log._told) <= 1000


def test_json_lines_can_be_read_whatever_is_in_them():
    formatter = JSONFormatter()
    try:
        raise ValueError("broken \n line")
    except ValueError as exc:
        info = (type(exc), exc, exc.__traceback__)
    record = logging.LogRecord("goplugins.calls", logging.ERROR, "x.py", 1, "a %s\nb", ("ü",), info)
    record.plugin, record.odd = "search", object()
    text = formatter.format(record)
    assert "\n" not in text
    line = json.loads(text)
    assert (line["message"], line["plugin"], line["level"]) == ("a ü\nb", "search", "error")
    assert "ValueError" in line["exception"]


@pytest.mark.parametrize("odd", [float("nan"), {(1, 2): 3}, "half \ud83d"])
def test_a_json_line_is_json_whatever_its_fields_are(odd):
    record = logging.makeLogRecord({"name": "x", "levelname": "INFO", "msg": "hi", "odd": odd})
    text = JSONFormatter().format(record)
    assert json.loads(text.encode(), parse_constant=pytest.fail)["message"] == "hi"


def test_structlog_takes_the_fields(caplog):
    structlog = pytest.importorskip("structlog")
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.ExtraAdder()], processor=structlog.processors.JSONRenderer()
    )
    CallLog(clock=ManualClock())(failed(PluginConnectionError("nobody there")))
    line = json.loads(formatter.format(caplog.records[0]))
    assert (line["plugin"], line["kind"]) == ("a", "connection")


# --- the audit trail -----------------------------------------------------------------------------------------------


@pytest.fixture
def audit(caplog):
    caplog.set_level(logging.INFO, "goplugins.audit")

    def records():
        return [record for record in caplog.records if record.name == "goplugins.audit"]

    return records


def test_what_matters_to_security_in_order_and_complete(audit):
    with Manager() as manager:
        manager.load_from_config({"plugins": [ECHO]})
        manager.register(Plugin(), PluginConfig(name="moody"))
        fail(manager, AuthenticationError)
        fail(manager, CertificateError)
        hold_open(manager, "moody")
        hold_open(manager, "moody")
        reset_breaker(manager, "moody")
        with acting_as("alice"):
            auth = {"method": "bearer", "token": "hunter2-token"}
            web = {"name": "web", "transport": "http", "endpoint": "http://x", "auth": auth, "enabled": False}
            manager.reload_config({"plugins": [ECHO, web]})
        with pytest.raises(ConfigError):
            manager.reload_config({"plugins": []})
        manager.unregister("moody")
    found = [(record.audit, record.plugin) for record in audit()]
    assert found[:11] == [
        ("plugin_added", "echo"),
        ("plugin_added", "moody"),
        ("authentication_refused", "moody"),
        ("certificate_refused", "moody"),
        ("breaker_forced", "moody"),
        ("breaker_forced", "moody"),  # nothing changed, and yet somebody did it
        ("breaker_reset", "moody"),
        ("configuration_changed", ""),
        ("configuration_refused", ""),
        ("plugin_removed", "moody"),
        ("plugin_removed", "echo"),
    ]
    numbers = [record.sequence for record in audit()]
    assert numbers == list(range(1, len(numbers) + 1))
    changed = audit()[7]
    assert changed.actor == "alice"
    assert "web" in changed.detail
    text = " ".join(record.getMessage() for record in audit())
    assert "hunter2" not in text


def test_at_the_usual_level_no_number_is_missing(caplog):
    with Manager() as manager:
        caplog.set_level(logging.WARNING, "goplugins.audit")
        manager.register(Plugin(), PluginConfig(name="moody"))
        hold_open(manager, "moody")
        reset_breaker(manager, "moody")
    found = [record for record in caplog.records if record.name == "goplugins.audit"]
    assert [(record.audit, record.sequence) for record in found] == [("breaker_forced", 1), ("breaker_reset", 2)]


def test_what_a_plugin_says_is_one_line(audit):
    class Forger(Plugin):
        def execute(self, request, context):
            raise AuthenticationError("no\nbreaker_reset auth by root: all is well")

    with Manager() as manager:
        manager.register(Forger(), PluginConfig(name="forger"))
        with pytest.raises(AuthenticationError):
            manager.execute("forger", None)
    assert not any("\n" in record.getMessage() for record in audit())
    assert any("no\\nbreaker_reset" in record.detail for record in audit())


def test_numbers_and_order_hold_among_threads(audit):
    with Manager() as manager:
        manager.register(Plugin(), PluginConfig(name="moody"))
        threads = [
            threading.Thread(target=fail, args=(manager, AuthenticationError, 50), daemon=True) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    numbers = [record.sequence for record in audit()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert sum(record.audit == "authentication_refused" for record in audit()) == 400
