"""HealthChecker: regular checks, checks on request, notifications, checks that hang, forks."""

from __future__ import annotations

import gc
import itertools
import logging
import threading
import weakref
from collections.abc import Callable

import pytest

from goplugins import HealthCheckConfig, HealthChecker, HealthStatus, PluginStatus
from goplugins.errors import InvalidConfigError, PluginClosedError, SaturatedError
from goplugins.health.probe_pool import ProbePool
from goplugins.runtime.scheduler import Scheduler
from goplugins.testing import ManualClock
from tests.unit.health.fakes import (
    CONFIG,
    DEGRADED,
    HEALTHY,
    UNHEALTHY,
    Bench,
    FakePlugin,
    eventually,
    hanging,
    inline,
)


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.mark.parametrize("field", ["interval", "timeout", "failure_limit"])
def test_settings_out_of_range_are_refused(field: str) -> None:
    config = HealthCheckConfig(**{field: 0})
    with pytest.raises(InvalidConfigError, match=field):
        HealthChecker(FakePlugin(), config)


# --- regular checks -------------------------------------------------------------------------------------------------


def test_nothing_runs_before_start(bench: Bench) -> None:
    bench.pass_time(30.0)
    assert bench.plugin.checks == 0
    assert not bench.checker.is_running


def test_start_checks_at_once_and_then_every_interval(bench: Bench) -> None:
    bench.checker.start()
    bench.scheduler.run_due()
    assert bench.plugin.checks == 1
    bench.pass_time(200.0)
    assert 18 <= bench.plugin.checks - 1 <= 22


def test_the_interval_has_a_jitter_of_ten_percent(bench: Bench) -> None:
    bench.checker.start()
    waits = []
    for _ in range(50):
        wait = bench.scheduler.run_due()
        assert wait is not None
        waits.append(wait)
        bench.clock.advance(wait)
    assert 9.0 <= min(waits) < max(waits) <= 11.0
    assert len(set(waits)) > 40


def test_next_check_is_at_most_an_interval_and_its_jitter_away(bench: Bench) -> None:
    assert bench.checker.next_check is None
    bench.checker.start()
    assert bench.checker.next_check == 0  # no check has ended yet
    bench.scheduler.run_due()
    assert bench.checker.next_check == pytest.approx(11)  # an interval, and its jitter
    bench.clock.advance(4)
    assert bench.checker.next_check == pytest.approx(7)
    bench.checker.shorten_interval(5.0)
    assert bench.checker.next_check == pytest.approx(1.5)
    bench.clock.advance(60)
    assert bench.checker.next_check == 0
    bench.checker.stop()
    assert bench.checker.next_check is None


def test_disabled_checks_run_on_request_only() -> None:
    bench = Bench(config=HealthCheckConfig(enabled=False))
    bench.checker.start()
    assert not bench.checker.is_running
    assert bench.scheduler.scheduled == 0
    assert bench.check() is PluginStatus.HEALTHY


def test_stop_ends_checks_and_sets_done(bench: Bench) -> None:
    bench.checker.start()
    assert bench.checker.is_running
    assert not bench.checker.done.is_set()
    bench.scheduler.run_due()
    bench.checker.stop()
    bench.checker.stop()
    assert not bench.checker.is_running
    assert bench.checker.done.is_set()
    bench.pass_time(30.0)
    assert bench.plugin.checks == 1
    assert bench.checker.status.status is PluginStatus.HEALTHY


def test_it_can_be_started_again(bench: Bench) -> None:
    bench.checker.start()
    bench.scheduler.run_due()
    bench.checker.stop()
    ended = bench.checker.done
    bench.checker.start()
    assert not bench.checker.done.is_set()
    assert ended.is_set()
    bench.scheduler.run_due()
    assert bench.plugin.checks == 2


def test_offline_ends_with_the_regular_checks(bench: Bench) -> None:
    bench.checker.start()
    for _ in range(3):
        bench.check(UNHEALTHY)
    bench.checker.stop()
    assert bench.checker.status.status is PluginStatus.UNKNOWN
    assert "last seen offline" in bench.checker.status.message


def test_started_without_a_thread_left_it_checks_once_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    checker = HealthChecker(FakePlugin(), CONFIG, scheduler=Scheduler(idle=0.01), submit=inline)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        checker.start()
        assert checker.status.status is PluginStatus.UNKNOWN
    assert checker.is_running
    assert eventually(lambda: checker.status.status is PluginStatus.HEALTHY)
    checker.stop()


def test_no_second_check_begins_while_one_is_queued(bench: Bench) -> None:
    bench.queue()
    bench.checker.begin()
    assert bench.checker.begin() is bench.checker.current_run
    bench.checker.start()
    bench.scheduler.run_due()
    (job,) = bench.jobs
    job()
    assert bench.plugin.checks == 1


def test_stop_drops_a_queued_check(bench: Bench) -> None:
    bench.queue()
    run = bench.checker.begin()
    bench.checker.stop()
    assert run.done.is_set()
    bench.jobs[0]()
    assert bench.plugin.checks == 0
    bench.submit = inline
    assert bench.check() is PluginStatus.HEALTHY


def test_a_full_pool_changes_nothing_and_is_logged(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    def full(job: object) -> None:
        raise SaturatedError("full")

    bench.check(HEALTHY)
    bench.submit = full
    assert bench.check(UNHEALTHY) is PluginStatus.HEALTHY
    assert "plugin 'auth': health check skipped, no worker thread is free" in caplog.text
    bench.submit = inline
    assert bench.check(UNHEALTHY) is PluginStatus.UNHEALTHY


def test_a_closed_pool_raises(bench: Bench) -> None:
    def closed(job: object) -> None:
        raise PluginClosedError("closed")

    bench.submit = closed
    with pytest.raises(PluginClosedError):
        bench.checker.check()


def test_a_checker_without_references_is_collected_and_checks_no_more() -> None:
    clock = ManualClock(auto_advance=False)
    scheduler, plugin = Scheduler(clock=clock, threaded=False), FakePlugin()
    checker = HealthChecker(plugin, CONFIG, clock=clock, scheduler=scheduler, submit=inline)
    checker.start()
    scheduler.run_due()
    assert plugin.checks == 1
    gone = weakref.ref(checker)
    del checker
    gc.collect()
    assert gone() is None
    clock.advance(60.0)
    assert scheduler.run_due() is None
    assert plugin.checks == 1
    assert scheduler.scheduled == 0


# --- new settings --------------------------------------------------------------------------------------------------


def test_new_settings_take_effect_in_place(bench: Bench) -> None:
    bench.checker.start()
    bench.scheduler.run_due()
    bench.checker.reconfigure(HealthCheckConfig(interval=2.0, timeout=0.5, failure_limit=1))
    bench.pass_time(2.3)
    assert bench.plugin.checks == 2
    assert bench.plugin.timeouts[-1] == 0.5
    assert bench.check(UNHEALTHY) is PluginStatus.OFFLINE


def test_new_settings_stop_and_start_it(bench: Bench) -> None:
    bench.checker.start()
    bench.checker.reconfigure(HealthCheckConfig(enabled=False))
    assert not bench.checker.is_running
    bench.checker.reconfigure(HealthCheckConfig(enabled=True))
    assert bench.checker.is_running


def test_new_settings_out_of_range_change_nothing(bench: Bench) -> None:
    with pytest.raises(InvalidConfigError):
        bench.checker.reconfigure(HealthCheckConfig(timeout=-1.0))
    assert bench.checker.timeout == 2.0


def test_a_shortened_interval_and_back(bench: Bench) -> None:
    bench.checker.start()
    bench.pass_time(0.1)
    assert bench.plugin.checks == 1
    bench.checker.shorten_interval(1.0)
    bench.pass_time(5.5)
    assert bench.plugin.checks in {5, 6, 7}  # the interval is jittered
    checks = bench.plugin.checks
    bench.checker.shorten_interval(None)
    bench.pass_time(8.0)
    assert bench.plugin.checks == checks
    bench.pass_time(4.0)
    assert bench.plugin.checks == checks + 1


def test_a_longer_interval_is_no_shortened_one(bench: Bench) -> None:
    bench.checker.shorten_interval(60.0)
    bench.checker.start()
    bench.pass_time(23.0)
    assert bench.plugin.checks == 3


# --- notifications ---------------------------------------------------------------------------------------------------


def test_only_changes_are_reported(bench: Bench) -> None:
    for answer in (HEALTHY, HEALTHY, DEGRADED, DEGRADED, UNHEALTHY, UNHEALTHY, HEALTHY):
        bench.check(answer)
    assert bench.changes == [
        ("unknown", "healthy"),
        ("healthy", "degraded"),
        ("degraded", "unhealthy"),
        ("unhealthy", "healthy"),
    ]


def test_a_callback_may_call_the_checker() -> None:
    plugin = FakePlugin()
    seen: list[PluginStatus] = []

    def on_change(old: HealthStatus, new: HealthStatus) -> None:
        plugin.answer = DEGRADED
        seen.append(checker.status.status)
        seen.append(checker.check().status)  # a change of its own, reported after this one

    checker = HealthChecker(plugin, CONFIG, on_change=on_change, submit=inline)
    checker.check()
    assert seen[:2] == [PluginStatus.HEALTHY, PluginStatus.DEGRADED]
    assert len(seen) == 4


def test_a_callback_that_raises_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    def on_change(old: HealthStatus, new: HealthStatus) -> None:
        raise ValueError("bad callback")

    seen: list[PluginStatus] = []
    plugin, pool = FakePlugin(HEALTHY), ProbePool(1)
    checker = HealthChecker(plugin, CONFIG, on_change=on_change, submit=inline)
    checker.attach(lambda old, new: seen.append(new.status), pool=pool)
    checker.check()
    plugin.answer = UNHEALTHY
    checker.check()
    assert seen == [PluginStatus.HEALTHY, PluginStatus.UNHEALTHY]
    assert caplog.text.count("ValueError: bad callback") == 2
    pool.close()


def test_changes_are_reported_in_order_and_one_at_a_time() -> None:
    changes: list[tuple[PluginStatus, PluginStatus]] = []
    inside = 0

    def on_change(old: HealthStatus, new: HealthStatus) -> None:
        nonlocal inside
        inside += 1
        assert inside == 1
        changes.append((old.status, new.status))
        inside -= 1

    checker = HealthChecker(FakePlugin(), CONFIG, on_change=on_change, submit=inline)
    answers = [HEALTHY, DEGRADED, UNHEALTHY]

    def report(offset: int) -> None:
        for step in range(300):
            checker.set_status(answers[(step + offset) % 3])

    workers = [threading.Thread(target=report, args=(offset,)) for offset in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert changes[0][0] is PluginStatus.UNKNOWN
    assert all(before[1] is after[0] for before, after in itertools.pairwise(changes))
    assert changes[-1][1] is checker.status.status


def test_a_first_success_is_not_logged(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "goplugins.health")
    bench.check(HEALTHY)
    assert caplog.records == []
    bench.check(UNHEALTHY)
    bench.check(HEALTHY)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "plugin 'auth': unhealthy, was healthy: no database"),
        ("INFO", "plugin 'auth': healthy, was unhealthy: "),
    ]


# --- checks that hang, on real threads ------------------------------------------------------------------------------

QUICK = HealthCheckConfig(enabled=True, interval=0.05, timeout=0.05, failure_limit=3)


def test_check_returns_at_its_timeout_though_the_plugin_hangs() -> None:
    plugin = FakePlugin()
    checker = HealthChecker(plugin, QUICK, name="auth")
    with hanging([plugin]):
        status = checker.check()
        assert status.status is PluginStatus.UNHEALTHY
        assert status.message.startswith("[HEALTH_1602] plugin 'auth': no answer within 0.05 s")
        assert plugin.running == 1
    assert eventually(lambda: checker.current_run is None)


def test_a_check_that_begins_late_has_its_whole_timeout() -> None:
    def late(job: Callable[[], object]) -> None:
        threading.Timer(0.1, job).start()

    plugin = FakePlugin()
    checker = HealthChecker(plugin, HealthCheckConfig(interval=60.0, timeout=0.2), submit=late)
    with hanging([plugin]):
        assert checker.check().status is PluginStatus.UNHEALTHY
    assert eventually(lambda: checker.current_run is None)


def test_no_second_check_begins_while_one_hangs() -> None:
    plugin = FakePlugin()
    checker = HealthChecker(plugin, HealthCheckConfig(interval=60.0, timeout=0.05))
    with hanging([plugin]):
        for _ in range(5):
            checker.check()
        assert plugin.checks == 1
        assert checker.consecutive_failures == 1  # one check, within one interval
    assert eventually(lambda: checker.current_run is None)
    plugin.released = None
    assert checker.check().status is PluginStatus.HEALTHY


def test_a_hanging_check_counts_as_a_failure_each_interval_until_offline() -> None:
    plugin = FakePlugin()
    checker = HealthChecker(plugin, QUICK, scheduler=Scheduler(idle=0.05))
    with hanging([plugin]):
        checker.start()
        assert plugin.hanging.wait(5.0)
        assert eventually(lambda: checker.status.status is PluginStatus.OFFLINE)
        assert plugin.checks == 1
    checker.stop()


def test_a_late_answer_is_dropped_and_the_next_check_counts() -> None:
    plugin = FakePlugin()
    checker = HealthChecker(plugin, HealthCheckConfig(interval=60.0, timeout=0.05))
    with hanging([plugin]):
        checker.check()
    assert eventually(lambda: checker.current_run is None)
    assert checker.status.status is PluginStatus.UNHEALTHY
    plugin.released = None
    assert checker.check().status is PluginStatus.HEALTHY


def test_stop_waits_for_a_check_under_way() -> None:
    plugin = FakePlugin()
    checker = HealthChecker(plugin, HealthCheckConfig(interval=60.0, timeout=5.0), scheduler=Scheduler(idle=0.05))
    release = plugin.hang()
    checker.start()
    assert plugin.hanging.wait(5.0)
    stopper = threading.Thread(target=checker.stop)
    stopper.start()
    stopper.join(0.05)
    assert stopper.is_alive()
    assert not checker.done.is_set()
    release.set()
    stopper.join(5.0)
    assert checker.done.is_set()
    assert checker.status.status is PluginStatus.HEALTHY


def test_stop_waits_no_longer_than_its_timeout_and_drops_a_later_result() -> None:
    plugin = FakePlugin(UNHEALTHY)
    checker = HealthChecker(plugin, HealthCheckConfig(interval=60.0, timeout=5.0), scheduler=Scheduler(idle=0.05))
    with hanging([plugin]):
        checker.start()
        assert plugin.hanging.wait(5.0)
        checker.stop(timeout=0.01)
        assert checker.done.is_set()
    assert eventually(lambda: checker.current_run is None)
    assert checker.status.status is PluginStatus.UNKNOWN


def test_a_callback_may_stop_its_own_checker() -> None:
    plugin = FakePlugin()
    checker = HealthChecker(plugin, QUICK, scheduler=Scheduler(idle=0.05), on_change=lambda old, new: checker.stop())
    checker.start()
    assert checker.done.wait(5.0)
    assert plugin.checks == 1


def test_a_plugin_may_stop_or_call_its_own_checker_within_a_check() -> None:
    class Meddling(FakePlugin):
        def health(self, timeout: float) -> HealthStatus:
            checker.stop()
            checker.check()
            return super().health(timeout)

    plugin = Meddling()
    checker = HealthChecker(plugin, HealthCheckConfig(timeout=20.0), scheduler=Scheduler(idle=0.05))
    checker.start()
    assert plugin.checked.wait(5.0)
    assert checker.done.is_set()
    assert plugin.checks == 1


def test_a_checker_works_in_a_child_forked_during_a_check(bench: Bench) -> None:
    bench.queue()
    bench.checker.begin()
    bench.checker.after_fork_in_child()
    bench.submit = inline
    assert bench.check() is PluginStatus.HEALTHY
    bench.checker.stop()
    assert bench.checker.done.is_set()
    bench.checker.after_fork_in_child()
    assert bench.checker.done.is_set()


def test_reading_the_status_in_a_child_restarts_the_checks() -> None:
    scheduler = Scheduler(idle=0.05)
    checker = HealthChecker(FakePlugin(), QUICK, scheduler=scheduler)
    checker.start()
    scheduler.after_fork_in_child()  # the parent's thread does not exist there
    assert scheduler.needs_thread
    assert checker.status is not None
    assert not scheduler.needs_thread
    checker.stop()
