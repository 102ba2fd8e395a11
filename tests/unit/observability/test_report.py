"""The report of a manager: counts, latencies, errors by kind."""

from __future__ import annotations

from goplugins import (
    PluginExecutionError,
    PluginTimeoutError,
)
from goplugins.errors import AuthenticationError
from tests.unit.observability.fakes import fail


def test_a_report_counts_calls_and_errors_by_kind(manager):
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
