"""One plugin's health: what counts as a failure, when it is OFFLINE, and who is told."""

from __future__ import annotations

import gc
import itertools
import logging
import random
import threading
import weakref
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from goplugins import HealthCheckConfig, HealthChecker, HealthStatus, PluginStatus
from goplugins.errors import (
    ConnectionLostError,
    HTTPTransportError,
    InvalidArgumentError,
    PluginClosedError,
    PluginConnectionError,
    PluginTimeoutError,
    Replay,
    SaturatedError,
)
from goplugins.runtime.scheduler import Scheduler
from goplugins.testing import ManualClock
from tests.unit.health.fakes import (
    DEGRADED,
    HEALTHY,
    OFFLINE,
    UNHEALTHY,
    UNKNOWN,
    FakePlugin,
    eventually,
    hanging,
    inline,
)

CONFIG = HealthCheckConfig(enabled=True, interval=10.0, timeout=2.0, failure_limit=3)


class Bench:
    """A checker whose looks run at once, on a clock that is moved by hand."""

    def __init__(self, plugin: FakePlugin | None = None, config: object = CONFIG) -> None:
        self.plugin = plugin or FakePlugin()
        self.clock = ManualClock(auto_advance=False)
        self.scheduler = Scheduler(clock=self.clock, threaded=False)
        self.changes: list[tuple[str, str]] = []
        self.checker = HealthChecker(
            self.plugin,
            config,
            name="auth",
            clock=self.clock,
            on_change=lambda old, new: self.changes.append((str(old.status), str(new.status))),
            scheduler=self.scheduler,
            submit=inline,
            rng=random.Random(1),
        )

    def look(self, answer: HealthStatus | BaseException | None = None) -> PluginStatus:
        if answer is not None:
            self.plugin.answer = answer
        return self.checker.check().status

    def pass_time(self, seconds: float) -> None:
        """Moves the clock in steps, so that all that comes due is handed over when it is."""
        for _ in range(round(seconds * 10)):
            self.clock.advance(0.1)
            self.scheduler.run_due()


@pytest.fixture
def bench() -> Bench:
    return Bench()


# --- verdicts ------------------------------------------------------------------------------------------------------


def test_unknown_before_the_first_look(bench: Bench) -> None:
    assert bench.checker.status == HealthStatus()
    assert bench.checker.last_check == 0.0
    assert bench.plugin.looks == 0


def test_one_success_suffices_to_be_healthy(bench: Bench) -> None:
    assert bench.look(HEALTHY) is PluginStatus.HEALTHY
    assert bench.changes == [("unknown", "healthy")]


def test_a_look_says_when_it_was_and_how_long_it_took(bench: Bench) -> None:
    class Slow(FakePlugin):
        def health(self, timeout: float) -> HealthStatus:
            bench.clock.advance(0.25)
            return HealthStatus(PluginStatus.HEALTHY, metadata={"version": "7"})

    bench.checker._plugin = Slow()
    bench.clock.advance(3.0)
    status = bench.checker.check()
    assert status.last_check == bench.checker.last_check == bench.clock.time()
    assert status.response_time == pytest.approx(0.25)
    assert status.metadata == {"version": "7"}


def test_the_plugin_is_told_its_timeout(bench: Bench) -> None:
    bench.look()
    assert bench.plugin.timeouts == [2.0]


def test_degraded_is_shown_and_no_failure(bench: Bench) -> None:
    bench.look(UNHEALTHY)
    status = [bench.look(DEGRADED) for _ in range(5)]
    assert set(status) == {PluginStatus.DEGRADED}
    assert bench.checker.consecutive_failures == 0
    assert bench.checker.status.message == "slow disk"


@pytest.mark.parametrize("reported", [UNHEALTHY, OFFLINE])
def test_failures_show_as_unhealthy_up_to_the_limit_and_then_as_offline(bench: Bench, reported: HealthStatus) -> None:
    bench.look(HEALTHY)
    statuses = [bench.look(reported) for _ in range(4)]
    assert [str(status) for status in statuses] == ["unhealthy", "unhealthy", "offline", "offline"]
    assert bench.checker.consecutive_failures == 4
    assert reported.message in bench.checker.status.message
    assert bench.changes == [("unknown", "healthy"), ("healthy", "unhealthy"), ("unhealthy", "offline")]


def test_one_success_ends_any_number_of_failures(bench: Bench) -> None:
    for _ in range(10):
        bench.look(UNHEALTHY)
    assert bench.look(HEALTHY) is PluginStatus.HEALTHY
    assert bench.checker.consecutive_failures == 0
    assert bench.checker.failures_total == 10
    assert bench.look(UNHEALTHY) is PluginStatus.UNHEALTHY


def test_a_limit_of_one_is_offline_at_once() -> None:
    bench = Bench(config=HealthCheckConfig(failure_limit=1))
    assert bench.look(UNHEALTHY) is PluginStatus.OFFLINE


@pytest.mark.parametrize(
    "answer", [UNKNOWN, SaturatedError("no free connection"), PluginClosedError("the plugin was closed")]
)
@pytest.mark.parametrize("before", [HEALTHY, UNHEALTHY])
def test_no_verdict_leaves_everything_as_it_was(
    bench: Bench, before: HealthStatus, answer: HealthStatus | BaseException
) -> None:
    bench.look(before)
    known, failures = bench.checker.status, bench.checker.consecutive_failures
    bench.clock.advance(60.0)
    bench.look(answer)
    assert bench.checker.status is known
    assert bench.checker.consecutive_failures == failures
    assert bench.plugin.looks == 2


def test_no_verdict_at_start_up_stays_unknown(bench: Bench) -> None:
    assert bench.look(UNKNOWN) is PluginStatus.UNKNOWN


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ZeroDivisionError("division by zero"), "HEALTH_1601", "ZeroDivisionError: division by zero"),
        (PluginConnectionError("refused"), "HEALTH_1601", "PluginConnectionError: refused"),
        (TimeoutError("too slow"), "HEALTH_1602", "TimeoutError: too slow"),
        (PluginTimeoutError("no answer"), "HEALTH_1602", "PluginTimeoutError: no answer"),
    ],
)
def test_raising_is_a_failure_with_its_code(bench: Bench, error: Exception, code: str, text: str) -> None:
    assert bench.look(error) is PluginStatus.UNHEALTHY
    message = bench.checker.status.message
    assert message.startswith(f"[{code}] plugin 'auth'")
    assert text in message


def test_what_is_no_health_status_is_a_failure(bench: Bench) -> None:
    bench.plugin.answer = True  # type: ignore[assignment]
    assert bench.checker.check().status is PluginStatus.UNHEALTHY
    assert "returned bool" in bench.checker.status.message


def test_an_answer_after_the_timeout_is_a_failure(bench: Bench) -> None:
    class Late(FakePlugin):
        def health(self, timeout: float) -> HealthStatus:
            bench.clock.advance(2.2)
            return HEALTHY

    bench.checker._plugin = Late()
    assert bench.checker.check().status is PluginStatus.UNHEALTHY
    assert bench.checker.status.message.startswith("[HEALTH_1602]")


def test_an_exception_of_the_host_passes_and_leaves_the_checker_usable(bench: Bench) -> None:
    with pytest.raises(KeyboardInterrupt):
        bench.look(KeyboardInterrupt())
    assert bench.checker.status.status is PluginStatus.UNKNOWN
    assert bench.look(HEALTHY) is PluginStatus.HEALTHY


def test_fields_left_out_have_the_production_defaults() -> None:
    bench = Bench(config=HealthCheckConfig())
    bench.look()
    assert bench.plugin.timeouts == [5.0]
    assert bench.checker.enabled
    statuses = [str(bench.look(UNHEALTHY)) for _ in range(3)]
    assert statuses == ["unhealthy", "unhealthy", "offline"]


@pytest.mark.parametrize("field", ["interval", "timeout", "failure_limit"])
def test_settings_that_can_not_work_are_refused(field: str) -> None:
    config = SimpleNamespace(**{field: 0})
    with pytest.raises(InvalidArgumentError, match=field):
        HealthChecker(FakePlugin(), config)


# --- regular looks -------------------------------------------------------------------------------------------------


def test_nothing_runs_before_start(bench: Bench) -> None:
    bench.pass_time(30.0)
    assert bench.plugin.looks == 0
    assert not bench.checker.is_running


def test_start_looks_at_once_and_then_every_interval(bench: Bench) -> None:
    bench.checker.start()
    bench.scheduler.run_due()
    assert bench.plugin.looks == 1
    bench.pass_time(200.0)
    assert 18 <= bench.plugin.looks - 1 <= 22


def test_the_interval_is_varied_by_a_tenth(bench: Bench) -> None:
    bench.checker.start()
    waits = []
    for _ in range(50):
        wait = bench.scheduler.run_due()
        assert wait is not None
        waits.append(wait)
        bench.clock.advance(wait)
    assert 9.0 <= min(waits) < max(waits) <= 11.0
    assert len(set(waits)) > 40


def test_the_next_look_is_told(bench: Bench) -> None:
    assert bench.checker.next_check is None
    bench.checker.start()
    assert bench.checker.next_check == 0  # it has never looked
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


def test_disabled_checks_do_not_start_and_still_can_be_asked() -> None:
    bench = Bench(config=HealthCheckConfig(enabled=False))
    bench.checker.start()
    assert not bench.checker.is_running
    assert bench.scheduler.scheduled == 0
    assert bench.look() is PluginStatus.HEALTHY


def test_stop_ends_looks_and_sets_done(bench: Bench) -> None:
    bench.checker.start()
    assert bench.checker.is_running
    assert not bench.checker.done.is_set()
    bench.scheduler.run_due()
    bench.checker.stop()
    bench.checker.stop()
    assert not bench.checker.is_running
    assert bench.checker.done.is_set()
    bench.pass_time(30.0)
    assert bench.plugin.looks == 1
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
    assert bench.plugin.looks == 2


def test_offline_does_not_outlive_the_looks_that_could_lift_it(bench: Bench) -> None:
    bench.checker.start()
    for _ in range(3):
        bench.look(UNHEALTHY)
    bench.checker.stop()
    assert bench.checker.status.status is PluginStatus.UNKNOWN
    assert "last seen offline" in bench.checker.status.message


def test_start_without_a_thread_left_is_said_and_can_be_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    checker = HealthChecker(FakePlugin(), CONFIG, scheduler=Scheduler(idle=0.01), submit=inline)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(SaturatedError):
            checker.start()
    assert not checker.is_running
    checker.start()
    assert checker.is_running
    checker.stop()


def test_a_regular_look_joins_none_that_is_under_way() -> None:
    jobs: list[Callable[[], object]] = []
    bench = Bench()
    bench.checker._submit = jobs.append
    bench.checker.begin()
    assert bench.checker.begin() is bench.checker.look
    bench.checker.start()
    bench.scheduler.run_due()
    asked, regular = jobs
    regular()
    assert bench.plugin.looks == 0
    asked()
    assert bench.plugin.looks == 1


def test_a_look_that_is_only_queued_when_it_stops_is_dropped() -> None:
    jobs: list[Callable[[], object]] = []
    bench = Bench()
    bench.checker._submit = jobs.append
    look = bench.checker.begin()
    bench.checker.stop()
    assert look.done.is_set()
    jobs[0]()
    assert bench.plugin.looks == 0
    bench.checker._submit = inline
    assert bench.look() is PluginStatus.HEALTHY


def test_a_full_pool_is_no_verdict(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    def full(job: object) -> None:
        raise SaturatedError("full")

    bench.look(HEALTHY)
    bench.checker._submit = full
    assert bench.look(UNHEALTHY) is PluginStatus.HEALTHY
    assert "no worker is free" in caplog.text
    bench.checker._submit = inline
    assert bench.look(UNHEALTHY) is PluginStatus.UNHEALTHY


def test_a_closed_pool_is_said() -> None:
    def closed(job: object) -> None:
        raise PluginClosedError("closed")

    bench = Bench()
    bench.checker._submit = closed
    with pytest.raises(PluginClosedError):
        bench.checker.check()


def test_a_forgotten_checker_is_collected_and_looks_no_more() -> None:
    clock = ManualClock(auto_advance=False)
    scheduler, plugin = Scheduler(clock=clock, threaded=False), FakePlugin()
    checker = HealthChecker(plugin, CONFIG, clock=clock, scheduler=scheduler, submit=inline)
    checker.start()
    scheduler.run_due()
    assert plugin.looks == 1
    gone = weakref.ref(checker)
    del checker
    gc.collect()
    assert gone() is None
    clock.advance(60.0)
    assert scheduler.run_due() is None
    assert plugin.looks == 1
    assert scheduler.scheduled == 0


# --- new settings --------------------------------------------------------------------------------------------------


def test_new_settings_take_effect_in_place(bench: Bench) -> None:
    bench.checker.start()
    bench.scheduler.run_due()
    bench.checker.reconfigure(HealthCheckConfig(interval=2.0, timeout=0.5, failure_limit=1))
    bench.pass_time(2.3)
    assert bench.plugin.looks == 2
    assert bench.plugin.timeouts[-1] == 0.5
    assert bench.look(UNHEALTHY) is PluginStatus.OFFLINE


def test_new_settings_stop_and_start_it(bench: Bench) -> None:
    bench.checker.start()
    bench.checker.reconfigure(HealthCheckConfig(enabled=False))
    assert not bench.checker.is_running
    bench.checker.reconfigure(HealthCheckConfig(enabled=True))
    assert bench.checker.is_running


def test_new_settings_that_can_not_work_change_nothing(bench: Bench) -> None:
    with pytest.raises(InvalidArgumentError):
        bench.checker.reconfigure(SimpleNamespace(timeout=-1.0))
    assert bench.checker.timeout == 2.0


def test_in_a_hurry_it_looks_more_often_and_goes_back_to_its_interval(bench: Bench) -> None:
    bench.checker.start()
    bench.pass_time(0.1)
    assert bench.plugin.looks == 1
    bench.checker.shorten_interval(1.0)
    bench.pass_time(5.5)
    assert bench.plugin.looks in {5, 6, 7}  # the interval is jittered
    looks = bench.plugin.looks
    bench.checker.shorten_interval(None)
    bench.pass_time(8.0)
    assert bench.plugin.looks == looks
    bench.pass_time(4.0)
    assert bench.plugin.looks == looks + 1


def test_a_hurry_never_slows_it_down(bench: Bench) -> None:
    bench.checker.shorten_interval(60.0)
    bench.checker.start()
    bench.pass_time(23.0)
    assert bench.plugin.looks == 3


# --- who is told ---------------------------------------------------------------------------------------------------


def test_only_changes_are_told(bench: Bench) -> None:
    for answer in (HEALTHY, HEALTHY, DEGRADED, DEGRADED, UNHEALTHY, UNHEALTHY, HEALTHY):
        bench.look(answer)
    assert bench.changes == [
        ("unknown", "healthy"),
        ("healthy", "degraded"),
        ("degraded", "unhealthy"),
        ("unhealthy", "healthy"),
    ]


def test_a_callback_may_ask_the_checker_anything(bench: Bench) -> None:
    seen: list[PluginStatus] = []

    def on_change(old: HealthStatus, new: HealthStatus) -> None:
        bench.plugin.answer = DEGRADED
        seen.append(bench.checker.status.status)
        seen.append(bench.checker.check().status)  # itself a change, told after this one

    checker = bench.checker
    checker._observers = (on_change,)
    checker.check()
    assert seen[:2] == [PluginStatus.HEALTHY, PluginStatus.DEGRADED]
    assert len(seen) == 4


def test_a_callback_that_raises_harms_nobody(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    def on_change(old: HealthStatus, new: HealthStatus) -> None:
        raise ValueError("bad callback")

    told = bench.checker._observers
    bench.checker._observers = (on_change, *told)
    bench.look(HEALTHY)
    bench.look(UNHEALTHY)
    assert len(bench.changes) == 2
    assert caplog.text.count("ValueError: bad callback") == 2


def test_changes_are_told_in_order_and_one_at_a_time() -> None:
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


def test_trouble_is_logged_and_a_good_start_is_not(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "goplugins.health")
    bench.look(HEALTHY)
    assert caplog.records == []
    bench.look(UNHEALTHY)
    bench.look(HEALTHY)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "plugin 'auth': unhealthy, was healthy: no database"),
        ("INFO", "plugin 'auth': healthy, was unhealthy: "),
    ]


# --- evidence from calls -------------------------------------------------------------------------------------------

REFUSED = PluginConnectionError("refused")


def test_calls_that_reach_nobody_make_it_offline_while_looks_run(bench: Bench) -> None:
    bench.checker.start()
    bench.scheduler.run_due()
    for _ in range(2):
        bench.checker.report_failure(REFUSED)
    assert bench.checker.status.status is PluginStatus.HEALTHY
    bench.checker.report_failure(REFUSED)
    assert bench.checker.status.status is PluginStatus.OFFLINE
    assert "refused" in bench.checker.status.message
    assert bench.checker.failures_total == 0


def test_without_regular_looks_calls_set_nothing(bench: Bench) -> None:
    bench.look(HEALTHY)
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
def test_only_what_says_that_nobody_is_there_counts(bench: Bench, error: Exception, counts: bool) -> None:
    bench.checker.start()
    bench.scheduler.run_due()
    for _ in range(5):
        bench.checker.report_failure(error)
    assert (bench.checker.status.status is PluginStatus.OFFLINE) is counts


def test_a_call_that_got_through_starts_the_count_anew(bench: Bench) -> None:
    bench.checker.start()
    bench.scheduler.run_due()
    for _ in range(5):
        bench.checker.report_failure(REFUSED)
        bench.checker.report_failure(REFUSED)
        bench.checker.report_success()
    assert bench.checker.status.status is PluginStatus.HEALTHY


def test_a_good_look_starts_the_count_of_calls_anew(bench: Bench) -> None:
    bench.checker.start()
    bench.scheduler.run_due()
    for _ in range(5):
        bench.checker.report_failure(REFUSED)
        bench.checker.report_failure(REFUSED)
        bench.look(HEALTHY)
    assert bench.changes == [("unknown", "healthy")]


def test_a_call_that_got_through_lifts_what_calls_had_set(bench: Bench) -> None:
    bench.checker.start()
    bench.scheduler.run_due()
    for _ in range(3):
        bench.checker.report_failure(REFUSED)
    bench.checker.report_success()
    assert bench.checker.status.status is PluginStatus.HEALTHY


def test_a_call_that_got_through_does_not_lift_what_looks_found(bench: Bench) -> None:
    bench.checker.start()
    for _ in range(3):
        bench.look(UNHEALTHY)
    bench.checker.report_failure(REFUSED)
    bench.checker.report_success()
    assert bench.checker.status.status is PluginStatus.OFFLINE


def test_a_failed_look_does_not_better_what_calls_had_set(bench: Bench) -> None:
    bench.checker.start()
    bench.scheduler.run_due()
    for _ in range(3):
        bench.checker.report_failure(REFUSED)
    assert bench.look(UNHEALTHY) is PluginStatus.OFFLINE
    bench.checker.report_success()
    assert bench.checker.status.status is PluginStatus.OFFLINE
    assert bench.look(HEALTHY) is PluginStatus.HEALTHY


def test_what_calls_had_set_ends_with_the_looks(bench: Bench) -> None:
    bench.checker.start()
    bench.scheduler.run_due()
    for _ in range(3):
        bench.checker.report_failure(REFUSED)
    bench.checker.stop()
    assert bench.checker.status.status is PluginStatus.HEALTHY


def test_what_somebody_else_found_stands_until_the_next_look(bench: Bench) -> None:
    bench.look(UNHEALTHY)
    bench.checker.set_status(HEALTHY)
    assert bench.checker.status.status is PluginStatus.HEALTHY
    assert bench.checker.consecutive_failures == 0
    assert bench.look(UNHEALTHY) is PluginStatus.UNHEALTHY


# --- looks that hang, on real threads ------------------------------------------------------------------------------

QUICK = HealthCheckConfig(enabled=True, interval=0.05, timeout=0.05, failure_limit=3)


def test_check_returns_at_its_timeout_though_the_plugin_hangs() -> None:
    plugin = FakePlugin()
    checker = HealthChecker(plugin, QUICK, name="auth")
    with hanging([plugin]):
        status = checker.check()
        assert status.status is PluginStatus.UNHEALTHY
        assert status.message.startswith("[HEALTH_1602] plugin 'auth': no answer within 0.05 s")
        assert plugin.running == 1
    assert eventually(lambda: checker.look is None)


def test_a_hung_look_is_not_piled_upon() -> None:
    plugin = FakePlugin()
    checker = HealthChecker(plugin, HealthCheckConfig(interval=60.0, timeout=0.05))
    with hanging([plugin]):
        for _ in range(5):
            checker.check()
        assert plugin.looks == 1
        assert checker.consecutive_failures == 1  # the same look, within the same interval
    assert eventually(lambda: checker.look is None)
    plugin.let_go = None
    assert checker.check().status is PluginStatus.HEALTHY


def test_a_look_that_hangs_on_counts_once_an_interval_until_offline() -> None:
    plugin = FakePlugin()
    checker = HealthChecker(plugin, QUICK, scheduler=Scheduler(idle=0.05))
    with hanging([plugin]):
        checker.start()
        assert plugin.hanging.wait(5.0)
        assert eventually(lambda: checker.status.status is PluginStatus.OFFLINE)
        assert plugin.looks == 1
    checker.stop()


def test_a_late_answer_is_no_verdict_and_the_next_look_is() -> None:
    plugin = FakePlugin()
    checker = HealthChecker(plugin, HealthCheckConfig(interval=60.0, timeout=0.05))
    with hanging([plugin]):
        checker.check()
    assert eventually(lambda: checker.look is None)
    assert checker.status.status is PluginStatus.UNHEALTHY
    plugin.let_go = None
    assert checker.check().status is PluginStatus.HEALTHY


def test_stop_waits_for_a_look_under_way() -> None:
    plugin = FakePlugin()
    checker = HealthChecker(plugin, HealthCheckConfig(interval=60.0, timeout=5.0), scheduler=Scheduler(idle=0.05))
    let_go = plugin.hang()
    checker.start()
    assert plugin.hanging.wait(5.0)
    stopper = threading.Thread(target=checker.stop)
    stopper.start()
    stopper.join(0.05)
    assert stopper.is_alive()
    assert not checker.done.is_set()
    let_go.set()
    stopper.join(5.0)
    assert checker.done.is_set()
    assert checker.status.status is PluginStatus.HEALTHY


def test_stop_waits_no_longer_than_told_and_drops_what_comes_later() -> None:
    plugin = FakePlugin(UNHEALTHY)
    checker = HealthChecker(plugin, HealthCheckConfig(interval=60.0, timeout=5.0), scheduler=Scheduler(idle=0.05))
    with hanging([plugin]):
        checker.start()
        assert plugin.hanging.wait(5.0)
        checker.stop(timeout=0.01)
        assert checker.done.is_set()
    assert eventually(lambda: checker.look is None)
    assert checker.status.status is PluginStatus.UNKNOWN


def test_a_callback_may_stop_its_own_checker() -> None:
    plugin = FakePlugin()
    checker = HealthChecker(plugin, QUICK, scheduler=Scheduler(idle=0.05))
    checker._observers = (lambda old, new: checker.stop(),)
    checker.start()
    assert checker.done.wait(5.0)
    assert plugin.looks == 1


def test_a_plugin_may_stop_or_ask_its_own_checker_within_a_look() -> None:
    class Meddling(FakePlugin):
        def health(self, timeout: float) -> HealthStatus:
            checker.stop()
            checker.check()
            return super().health(timeout)

    plugin = Meddling()
    checker = HealthChecker(plugin, HealthCheckConfig(timeout=20.0), scheduler=Scheduler(idle=0.05))
    checker.start()
    assert plugin.looked.wait(5.0)
    assert checker.done.is_set()
    assert plugin.looks == 1


def test_a_checker_works_in_a_child_that_was_forked_amid_a_look() -> None:
    bench = Bench()
    jobs: list[Callable[[], object]] = []
    bench.checker._submit = jobs.append
    bench.checker.begin()
    bench.checker._lock.acquire()
    bench.checker.after_fork_in_child()
    bench.checker._submit = inline
    assert bench.look() is PluginStatus.HEALTHY
    bench.checker.stop()
    assert bench.checker.done.is_set()
    bench.checker.after_fork_in_child()
    assert bench.checker.done.is_set()


def test_asking_for_the_status_in_a_child_starts_the_looks_again() -> None:
    plugin, scheduler = FakePlugin(), Scheduler(idle=0.05)
    checker = HealthChecker(plugin, QUICK, scheduler=scheduler)
    checker.start()
    assert plugin.looked.wait(5.0)
    (parent,) = [thread for thread in threading.enumerate() if thread is scheduler._thread]
    scheduler.after_fork_in_child()  # as in a child: the thread is forgotten
    assert scheduler.needs_thread
    assert checker.status is not None
    assert scheduler._thread not in (None, parent)
    checker.stop()
