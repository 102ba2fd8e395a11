"""Log lines about failed calls, and JSON lines."""

from __future__ import annotations

import json
import logging

import pytest

from goplugins import (
    Manager,
    PluginConfig,
    PluginConnectionError,
    PluginExecutionError,
    PluginTimeoutError,
)
from goplugins.observability.call_log import CallLog, JSONFormatter
from goplugins.observability.events import CallFinished
from goplugins.testing import ManualClock
from tests.unit.observability.fakes import ECHO, Raiser, fail


def failed(error, plugin="a"):
    return CallFinished(plugin, 0.0, "r-1", 0.25, 2, error=error)


def test_the_same_failure_is_logged_once_in_ten_seconds(caplog):
    clock = ManualClock()
    log = CallLog(clock=clock)
    for _ in range(100):
        log(failed(PluginConnectionError("connection refused")))
    log(failed(PluginTimeoutError("late")))
    log(failed(PluginConnectionError("connection refused"), "b"))
    assert len(caplog.records) == 3
    clock.advance(10.0)
    log(failed(PluginConnectionError("connection refused")))
    line = caplog.records[-1]
    assert line.more == 99
    assert line.getMessage().endswith("99 more since the last line")
    assert (line.plugin, line.request_id, line.code, line.kind) == ("a", "r-1", "PLUGIN_1205", "connection")


def test_errors_caused_by_the_caller_are_logged_at_debug_level(caplog):
    CallLog(clock=ManualClock())(failed(PluginExecutionError("no")))
    assert caplog.records == []
    with caplog.at_level(logging.DEBUG, "goplugins.calls"):
        CallLog(clock=ManualClock())(failed(PluginExecutionError("no")))
    assert len(caplog.records) == 1


def test_logging_of_failed_calls_can_be_switched_off(caplog):
    caplog.set_level(logging.INFO, "goplugins.calls")
    for enabled, lines in ((True, 1), (False, 0)):
        caplog.clear()
        with Manager() as manager:
            manager.load_from_config({"plugins": [ECHO], "observability": {"logging_enabled": enabled}})
            manager.register(Raiser(), PluginConfig(name="moody"))
            fail(manager, PluginTimeoutError)
        assert sum(record.name == "goplugins.calls" for record in caplog.records) == lines


def test_control_characters_and_tracebacks_stay_within_one_json_line():
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
def test_fields_that_json_lacks_are_written_as_text(odd):
    record = logging.makeLogRecord({"name": "x", "levelname": "INFO", "msg": "hi", "odd": odd})
    text = JSONFormatter().format(record)
    assert json.loads(text.encode(), parse_constant=pytest.fail)["message"] == "hi"


def test_structlog_takes_the_fields(caplog):
    structlog = pytest.importorskip("structlog")
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.ExtraAdder()], processor=structlog.processors.JSONRenderer()
    )
    CallLog(clock=ManualClock())(failed(PluginConnectionError("connection refused")))
    line = json.loads(formatter.format(caplog.records[0]))
    assert (line["plugin"], line["kind"]) == ("a", "connection")
