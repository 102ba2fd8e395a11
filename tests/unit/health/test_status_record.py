"""Health status: what counts as a failure, when a plugin is OFFLINE, and what calls say about it."""

from __future__ import annotations

import pytest

from goplugins import HealthCheckConfig, HealthStatus, PluginStatus
from goplugins.errors import (
    ConnectionLostError,
    HTTPTransportError,
    PluginClosedError,
    PluginConnectionError,
    PluginTimeoutError,
    Replay,
    SaturatedError,
)
from tests.unit.health.fakes import DEGRADED, HEALTHY, OFFLINE, UNHEALTHY, UNKNOWN, Bench, FakePlugin


@pytest.fixture
def bench() -> Bench:
    return Bench()


# --- results of checks ----------------------------------------------------------------------------------------------


def test_unknown_before_the_first_check(bench: Bench) -> None:
    assert bench.checker.status == HealthStatus()
    assert bench.checker.last_check == 0.0
    assert bench.plugin.checks == 0


def test_one_success_suffices_to_be_healthy(bench: Bench) -> None:
    assert bench.check(HEALTHY) is PluginStatus.HEALTHY
    assert bench.changes == [("unknown", "healthy")]


class SlowPlugin(FakePlugin):
    """Moves the clock during a check."""

    seconds = 0.25
    bench: Bench

    def health(self, timeout: float) -> HealthStatus:
        self.bench.clock.advance(self.seconds)
        return HealthStatus(PluginStatus.HEALTHY, metadata={"version": "7"})


def test_a_status_has_the_time_and_duration_of_its_check() -> None:
    plugin = SlowPlugin()
    bench = plugin.bench = Bench(plugin)
    bench.clock.advance(3.0)
    status = bench.checker.check()
    assert status.last_check == bench.checker.last_check == bench.clock.time()
    assert status.response_time == pytest.approx(0.25)
    assert status.metadata == {"version": "7"}


def test_the_plugin_gets_the_timeout(bench: Bench) -> None:
    bench.check()
    assert bench.plugin.timeouts == [2.0]


def test_degraded_is_shown_and_is_no_failure(bench: Bench) -> None:
    bench.check(UNHEALTHY)
    status = [bench.check(DEGRADED) for _ in range(5)]
    assert set(status) == {PluginStatus.DEGRADED}
    assert bench.checker.consecutive_failures == 0
    assert bench.checker.status.message == "slow disk"


@pytest.mark.parametrize("reported", [UNHEALTHY, OFFLINE])
def test_failures_show_as_unhealthy_up_to_the_limit_and_then_as_offline(bench: Bench, reported: HealthStatus) -> None:
    bench.check(HEALTHY)
    statuses = [bench.check(reported) for _ in range(4)]
    assert [str(status) for status in statuses] == ["unhealthy", "unhealthy", "offline", "offline"]
    assert bench.checker.consecutive_failures == 4
    assert reported.message in bench.checker.status.message
    assert bench.changes == [("unknown", "healthy"), ("healthy", "unhealthy"), ("unhealthy", "offline")]


def test_one_success_ends_any_number_of_failures(bench: Bench) -> None:
    for _ in range(10):
        bench.check(UNHEALTHY)
    assert bench.check(HEALTHY) is PluginStatus.HEALTHY
    assert bench.checker.consecutive_failures == 0
    assert bench.checker.failures_total == 10
    assert bench.check(UNHEALTHY) is PluginStatus.UNHEALTHY


def test_a_limit_of_one_is_offline_at_once() -> None:
    bench = Bench(config=HealthCheckConfig(failure_limit=1))
    assert bench.check(UNHEALTHY) is PluginStatus.OFFLINE


@pytest.mark.parametrize(
    "answer", [UNKNOWN, SaturatedError("no free connection"), PluginClosedError("the plugin was closed")]
)
@pytest.mark.parametrize("before", [HEALTHY, UNHEALTHY])
def test_a_check_without_a_result_changes_nothing(
    bench: Bench, before: HealthStatus, answer: HealthStatus | BaseException
) -> None:
    bench.check(before)
    known, failures = bench.checker.status, bench.checker.consecutive_failures
    bench.clock.advance(60.0)
    bench.check(answer)
    assert bench.checker.status is known
    assert bench.checker.consecutive_failures == failures
    assert bench.plugin.checks == 2


def test_a_first_check_without_a_result_stays_unknown(bench: Bench) -> None:
    assert bench.check(UNKNOWN) is PluginStatus.UNKNOWN


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ZeroDivisionError("division by zero"), "HEALTH_1601", "ZeroDivisionError: division by zero"),
        (PluginConnectionError("refused"), "HEALTH_1601", "PluginConnectionError: refused"),
        (TimeoutError("too slow"), "HEALTH_1602", "TimeoutError: too slow"),
        (PluginTimeoutError("no answer"), "HEALTH_1602", "PluginTimeoutError: no answer"),
    ],
)
def test_a_check_that_raises_is_a_failure_with_its_code(bench: Bench, error: Exception, code: str, text: str) -> None:
    assert bench.check(error) is PluginStatus.UNHEALTHY
    message = bench.checker.status.message
    assert message.startswith(f"[{code}] plugin 'auth'")
    assert text in message


def test_an_answer_of_another_type_is_a_failure(bench: Bench) -> None:
    bench.plugin.answer = True  # type: ignore[assignment]
    assert bench.checker.check().status is PluginStatus.UNHEALTHY
    assert "returned bool" in bench.checker.status.message


def test_an_answer_after_the_timeout_is_a_failure() -> None:
    plugin = SlowPlugin()
    plugin.seconds = 2.2
    bench = plugin.bench = Bench(plugin)
    assert bench.checker.check().status is PluginStatus.UNHEALTHY
    assert bench.checker.status.message.startswith("[HEALTH_1602]")


def test_an_exception_of_the_host_passes_and_leaves_the_checker_usable(bench: Bench) -> None:
    with pytest.raises(KeyboardInterrupt):
        bench.check(KeyboardInterrupt())
    assert bench.checker.status.status is PluginStatus.UNKNOWN
    assert bench.check(HEALTHY) is PluginStatus.HEALTHY


def test_fields_left_out_have_the_production_defaults() -> None:
    bench = Bench(config=HealthCheckConfig())
    bench.check()
    assert bench.plugin.timeouts == [5.0]
    assert bench.checker.enabled
    statuses = [str(bench.check(UNHEALTHY)) for _ in range(3)]
    assert statuses == ["unhealthy", "unhealthy", "offline"]


# --- calls -------------------------------------------------------------------------------------------

REFUSED = PluginConnectionError("refused")


def test_calls_that_do_not_reach_the_plugin_make_it_offline_while_checks_run(bench: Bench) -> None:
    bench.checker.start()
    bench.scheduler.run_due()
    for _ in range(2):
        bench.checker.report_failure(REFUSED)
    assert bench.checker.status.status is PluginStatus.HEALTHY
    bench.checker.report_failure(REFUSED)
    assert bench.checker.status.status is PluginStatus.OFFLINE
    assert "refused" in bench.checker.status.message
    assert bench.checker.failures_total == 0


def test_without_regular_checks_calls_change_nothing(bench: Bench) -> None:
    bench.check(HEALTHY)
    for _ in range(10):
        bench.checker.report_failure(REFUSED)
    assert bench.checker.status.status is PluginStatus.HEALTHY


@pytest.mark.parametrize(
    ("error", "counts"),
    [
        (REFUSED, True),
        (ConnectionLostError("reset"), True),
        (PluginTimeoutError("connect", replay=Replay.ALWAYS), True),
        (ConnectionRefusedError(), True),
        (PluginTimeoutError("slow"), False),
        (HTTPTransportError("500"), False),
        (SaturatedError("full"), False),
        (ValueError("bug"), False),
    ],
)
def test_only_errors_of_an_unreachable_plugin_count(bench: Bench, error: Exception, counts: bool) -> None:
    bench.checker.start()
    bench.scheduler.run_due()
    for _ in range(5):
        bench.checker.report_failure(error)
    assert (bench.checker.status.status is PluginStatus.OFFLINE) is counts


def test_a_successful_call_resets_the_count_of_failed_calls(bench: Bench) -> None:
    bench.checker.start()
    bench.scheduler.run_due()
    for _ in range(5):
        bench.checker.report_failure(REFUSED)
        bench.checker.report_failure(REFUSED)
        bench.checker.report_success()
    assert bench.checker.status.status is PluginStatus.HEALTHY


def test_a_successful_check_resets_the_count_of_failed_calls(bench: Bench) -> None:
    bench.checker.start()
    bench.scheduler.run_due()
    for _ in range(5):
        bench.checker.report_failure(REFUSED)
        bench.checker.report_failure(REFUSED)
        bench.check(HEALTHY)
    assert bench.changes == [("unknown", "healthy")]


def test_a_successful_call_ends_an_offline_set_by_calls(bench: Bench) -> None:
    bench.checker.start()
    bench.scheduler.run_due()
    for _ in range(3):
        bench.checker.report_failure(REFUSED)
    bench.checker.report_success()
    assert bench.checker.status.status is PluginStatus.HEALTHY


def test_a_successful_call_does_not_end_an_offline_set_by_checks(bench: Bench) -> None:
    bench.checker.start()
    for _ in range(3):
        bench.check(UNHEALTHY)
    bench.checker.report_failure(REFUSED)
    bench.checker.report_success()
    assert bench.checker.status.status is PluginStatus.OFFLINE


def test_a_failed_check_does_not_improve_an_offline_set_by_calls(bench: Bench) -> None:
    bench.checker.start()
    bench.scheduler.run_due()
    for _ in range(3):
        bench.checker.report_failure(REFUSED)
    assert bench.check(UNHEALTHY) is PluginStatus.OFFLINE
    bench.checker.report_success()
    assert bench.checker.status.status is PluginStatus.OFFLINE
    assert bench.check(HEALTHY) is PluginStatus.HEALTHY


def test_an_offline_set_by_calls_ends_with_the_regular_checks(bench: Bench) -> None:
    bench.checker.start()
    bench.scheduler.run_due()
    for _ in range(3):
        bench.checker.report_failure(REFUSED)
    bench.checker.stop()
    assert bench.checker.status.status is PluginStatus.HEALTHY


def test_a_status_from_another_source_stands_until_the_next_check(bench: Bench) -> None:
    bench.check(UNHEALTHY)
    bench.checker.set_status(HEALTHY)
    assert bench.checker.status.status is PluginStatus.HEALTHY
    assert bench.checker.consecutive_failures == 0
    assert bench.check(UNHEALTHY) is PluginStatus.UNHEALTHY
