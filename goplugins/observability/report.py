"""The report of a manager: calls, latencies and errors of each plugin."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from goplugins.models.metrics import ManagerMetrics, PluginMetrics, bounds_of
from goplugins.models.new_fields import with_new_fields
from goplugins.observability.error_kinds import kind_of_code
from goplugins.runtime.text import counted

__all__ = ["GlobalMetrics", "ObservabilityReport", "PluginMetricsReport"]

_COLUMNS = ("plugin", "calls", "ok %", "p50 ms", "p95 ms", "p99 ms", "errors")


@attrs.frozen
class GlobalMetrics:
    """Sums over all plugins, removed ones included. Members' parts in calls of their groups are counted as well.

    Attributes:
        total_requests: finished calls.
        total_errors: failed calls.
        active_requests: calls in flight.
    """

    total_requests: int = 0
    total_errors: int = 0
    active_requests: int = 0


@with_new_fields
@attrs.frozen
class PluginMetricsReport:
    """Statistics of one plugin. Latencies are seconds, of the calls that were sent, with a precision of 1/32.

    Attributes:
        total_requests: finished calls.
        successful_requests: answered calls.
        failed_requests: failed calls.
        active_requests: calls in flight.
        success_rate_percent: percentage of answered calls; 100 before the first call.
        min_latency: the shortest call.
        max_latency: the longest call.
        avg_latency: the mean of all finished calls, refused ones included.
        p50_latency: the median.
        p95_latency: the 95th percentile.
        p99_latency: the 99th percentile.
        timeout_errors: calls that timed out.
        connection_errors: calls that could not connect or lost their connection, TLS errors included.
        auth_errors: calls whose credentials were refused.
        other_errors: all other failed calls.
        errors: failed calls by kind; see :func:`goplugins.observability.error_kinds.kind_of_error`.
        circuit_breaker_trips: how often the breaker has opened.
        health_check_total: health checks.
        health_check_failed: failed health checks.
        operations: the statistics of each operation that was called; breaker and health checks are the plugin's.
    """

    total_requests: int = 0
    successful_requests: int = 0
    failed_requests: int = 0
    active_requests: int = 0
    success_rate_percent: float = 100.0
    min_latency: float = 0.0
    max_latency: float = 0.0
    avg_latency: float = 0.0
    p50_latency: float = 0.0
    p95_latency: float = 0.0
    p99_latency: float = 0.0
    timeout_errors: int = 0
    connection_errors: int = 0
    auth_errors: int = 0
    other_errors: int = 0
    errors: Mapping[str, int] = attrs.field(factory=dict)
    circuit_breaker_trips: int = 0
    health_check_total: int = 0
    health_check_failed: int = 0
    operations: Mapping[str, PluginMetricsReport] = attrs.field(factory=dict)

    @classmethod
    def of(cls, counts: PluginMetrics) -> PluginMetricsReport:
        """The report for a plugin's counts."""
        operations = {
            name: cls.of(PluginMetrics(**attrs.asdict(each, recurse=False))) for name, each in counts.operations.items()
        }
        kinds: dict[str, int] = {}
        for code, count in counts.errors.items():
            kind = kind_of_code(code)
            kinds[kind] = kinds.get(kind, 0) + count
        spread = counts.latencies
        sent = len(spread)
        timeouts, refused = kinds.get("timeout", 0), kinds.get("auth", 0)
        lost = kinds.get("connection", 0) + kinds.get("tls", 0)
        total = counts.requests_total
        return cls(
            total_requests=total,
            successful_requests=counts.requests_success,
            failed_requests=counts.requests_failure,
            active_requests=counts.active_requests,
            success_rate_percent=100.0 * counts.requests_success / total if total else 100.0,
            min_latency=bounds_of(min(spread.counts))[0] if sent else 0.0,
            max_latency=bounds_of(max(spread.counts))[1] if sent else 0.0,
            avg_latency=counts.request_duration / total if total else 0.0,
            p50_latency=spread.percentile(50),
            p95_latency=spread.percentile(95),
            p99_latency=spread.percentile(99),
            timeout_errors=timeouts,
            connection_errors=lost,
            auth_errors=refused,
            other_errors=counts.requests_failure - timeouts - lost - refused,
            errors=kinds,
            circuit_breaker_trips=counts.circuit_breaker_trips,
            health_check_total=counts.health_checks,
            health_check_failed=counts.health_check_failures,
            operations=operations,
        )


@attrs.frozen
class ObservabilityReport:
    """The statistics of a manager's plugins at one time; ``print`` it.

    Attributes:
        generated_at: when, in seconds since the Unix epoch.
        uptime: seconds since the manager was created.
        total: sums over all plugins.
        plugins: the present plugins by name.
    """

    generated_at: float
    uptime: float
    total: GlobalMetrics
    plugins: Mapping[str, PluginMetricsReport]

    @classmethod
    def of(cls, metrics: ManagerMetrics, *, at: float, uptime: float) -> ObservabilityReport:
        """The report for a manager's counts."""
        total = GlobalMetrics(metrics.requests_total, metrics.requests_failure, metrics.active_requests)
        plugins = {name: PluginMetricsReport.of(counts) for name, counts in metrics.plugins.items()}
        return cls(at, uptime, total, plugins)

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [_COLUMNS]
        for name, each in sorted(self.plugins.items()):
            rows.append(_row(name, each))
            rows += [_row(f"  {operation}", part) for operation, part in sorted(each.operations.items())]
        widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
        lines = (
            "  ".join([row[0].ljust(widths[0]), *(row[i].rjust(widths[i]) for i in range(1, 6)), row[6]]).rstrip()
            for row in rows
        )
        total = self.total
        head = f"{counted(total.total_requests, 'call')} in {self.uptime:.0f} s, {total.total_errors} failed"
        return "\n".join([f"{head}, {total.active_requests} in flight", *lines])


def _row(name: str, report: PluginMetricsReport) -> tuple[str, ...]:
    latencies = (report.p50_latency, report.p95_latency, report.p99_latency)
    errors = ", ".join(f"{count} {kind}" for kind, count in sorted(report.errors.items()))
    calls, share = str(report.total_requests), f"{report.success_rate_percent:.1f}"
    return (name, calls, share, *(f"{seconds * 1000:.2f}" for seconds in latencies), errors)
