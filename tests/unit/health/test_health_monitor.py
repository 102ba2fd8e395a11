"""All plugins' health together: sums, lists, looks side by side, and threads that stay few."""

from __future__ import annotations

import gc
import os
import threading
import time
import warnings
import weakref

import pytest

from goplugins import HealthCheckConfig, HealthChecker, HealthMonitor, HealthStatus, PluginStatus
from goplugins.errors import PluginClosedError
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
    threads,
)

SLOW = HealthCheckConfig(enabled=True, interval=60.0, timeout=0.05, failure_limit=3)
OFF = HealthCheckConfig(enabled=False, timeout=0.05)


@pytest.fixture
def scheduler() -> Scheduler:
    """Nothing is looked at before it is asked for."""
    return Scheduler(clock=ManualClock(auto_advance=False), threaded=False)


@pytest.fixture
def monitor(scheduler: Scheduler):
    monitor = HealthMonitor(scheduler=scheduler)
    yield monitor
    monitor.shutdown()


def watch(monitor: HealthMonitor, config: HealthCheckConfig = SLOW, **answers: HealthStatus) -> dict[str, FakePlugin]:
    plugins = {name: FakePlugin(answer) for name, answer in answers.items()}
    for name, plugin in plugins.items():
        monitor.add_checker(name, HealthChecker(plugin, config, name=name))
    return plugins


def overall(monitor: HealthMonitor, **answers: HealthStatus) -> HealthStatus:
    watch(monitor, SLOW, **answers)
    monitor.check_all(5.0)
    return monitor.get_overall_health()


# --- one status for all --------------------------------------------------------------------------------------------


def test_healthy_if_all_are(monitor: HealthMonitor) -> None:
    status = overall(monitor, a=HEALTHY, b=HEALTHY)
    assert status.status is PluginStatus.HEALTHY
    assert status.message == "all 2 are healthy"
    assert status.metadata == {}


def test_degraded_if_some_are_and_none_is_worse(monitor: HealthMonitor) -> None:
    status = overall(monitor, a=HEALTHY, b=DEGRADED, c=HEALTHY)
    assert status.status is PluginStatus.DEGRADED
    assert status.message == "b is degraded (slow disk)"
    assert status.metadata == {"b": "degraded"}


@pytest.mark.parametrize("bad", [UNHEALTHY, OFFLINE])
def test_unhealthy_otherwise_naming_the_culprits(monitor: HealthMonitor, bad: HealthStatus) -> None:
    status = overall(monitor, a=HEALTHY, b=DEGRADED, c=bad)
    assert status.status is PluginStatus.UNHEALTHY
    assert status.message == f"c is unhealthy ({bad.message})"
    assert status.metadata == {"b": "degraded", "c": "unhealthy"}


def test_one_that_is_offline_makes_all_unhealthy(monitor: HealthMonitor) -> None:
    watch(monitor, a=HEALTHY, b=OFFLINE)
    for _ in range(3):
        monitor.check_all(5.0)
    status = monitor.get_overall_health()
    assert status.status is PluginStatus.UNHEALTHY
    assert status.message.startswith("b is offline (3 failed checks in a row")


def test_never_healthy_before_a_first_look(monitor: HealthMonitor) -> None:
    plugins = watch(monitor, a=HEALTHY, b=UNKNOWN)
    assert monitor.get_overall_health().status is PluginStatus.UNKNOWN
    monitor.check_all(5.0)
    assert plugins["b"].looks == 1
    status = monitor.get_overall_health()
    assert status.status is PluginStatus.UNKNOWN
    assert status.message == "b is unknown"
    plugins["b"].answer = HEALTHY
    monitor.check_all(5.0)
    assert monitor.get_overall_health().status is PluginStatus.HEALTHY


def test_nothing_to_watch_is_unknown(monitor: HealthMonitor) -> None:
    assert monitor.get_overall_health().status is PluginStatus.UNKNOWN


def test_what_is_known_to_be_bad_beats_what_is_unknown(monitor: HealthMonitor) -> None:
    assert overall(monitor, a=UNKNOWN, b=UNHEALTHY).status is PluginStatus.UNHEALTHY


def test_a_plugin_with_disabled_checks_counts_only_once_looked_at(monitor: HealthMonitor) -> None:
    watch(monitor, OFF, quiet=UNHEALTHY)
    assert monitor.get_overall_health().status is PluginStatus.UNKNOWN
    monitor.update_status("loud", HEALTHY)
    assert monitor.get_overall_health().status is PluginStatus.HEALTHY
    monitor.check_all(5.0)
    assert monitor.get_overall_health().message == "quiet is unhealthy (no database)"


def test_the_oldest_look_and_the_longest(monitor: HealthMonitor) -> None:
    monitor.update_status("a", HealthStatus(PluginStatus.HEALTHY, last_check=100.0, response_time=0.1))
    monitor.update_status("b", HealthStatus(PluginStatus.HEALTHY, last_check=50.0, response_time=0.7))
    status = monitor.get_overall_health()
    assert (status.last_check, status.response_time) == (50.0, 0.7)


def test_a_hundred_culprits_do_not_fill_the_log(monitor: HealthMonitor) -> None:
    for number in range(100):
        monitor.update_status(f"p{number:02}", UNHEALTHY)
    status = monitor.get_overall_health()
    assert status.message.startswith("p00 is unhealthy (no database), p01 is")
    assert status.message.endswith("and 90 more")
    assert len(status.metadata) == 100


# --- names ---------------------------------------------------------------------------------------------------------


def test_a_status_by_name(monitor: HealthMonitor) -> None:
    overall(monitor, a=HEALTHY, b=DEGRADED)
    found = monitor.get_status("b")
    assert found is not None
    assert found.status is PluginStatus.DEGRADED
    assert monitor.get_status("nobody") is None
    assert {name: str(status.status) for name, status in monitor.get_all_status().items()} == {
        "a": "healthy",
        "b": "degraded",
    }


def test_a_removed_checker_is_stopped_and_forgotten(monitor: HealthMonitor) -> None:
    checker = HealthChecker(FakePlugin(), SLOW)
    monitor.add_checker("a", checker)
    assert checker.is_running
    assert checker.name == "a"
    monitor.remove_checker("a")
    monitor.remove_checker("a")
    assert not checker.is_running
    assert checker.done.is_set()
    assert monitor.get_status("a") is None


def test_a_second_checker_of_a_name_takes_the_place_of_the_first(monitor: HealthMonitor) -> None:
    old, new = HealthChecker(FakePlugin(), SLOW), HealthChecker(FakePlugin(DEGRADED), SLOW)
    monitor.add_checker("a", old)
    monitor.add_checker("a", new)
    assert not old.is_running
    assert new.is_running
    monitor.check_all(5.0)
    assert monitor.get_all_status()["a"].status is PluginStatus.DEGRADED


def test_disabled_checks_are_not_started(monitor: HealthMonitor, scheduler: Scheduler) -> None:
    watch(monitor, OFF, a=HEALTHY)
    assert scheduler.scheduled == 0


def test_a_status_may_be_told(monitor: HealthMonitor) -> None:
    plugins = watch(monitor, a=HEALTHY)
    monitor.update_status("a", OFFLINE)
    monitor.update_status("reload", DEGRADED)
    assert {name: str(status.status) for name, status in monitor.get_all_status().items()} == {
        "a": "offline",
        "reload": "degraded",
    }
    monitor.check_all(5.0)
    assert plugins["a"].looks == 1
    assert monitor.get_all_status()["a"].status is PluginStatus.HEALTHY
    monitor.remove_checker("reload")
    assert monitor.get_status("reload") is None


def test_listeners_hear_of_changes_by_name(monitor: HealthMonitor) -> None:
    heard: list[tuple[str, str, str]] = []
    unsubscribe = monitor.subscribe(lambda name, old, new: heard.append((name, str(old.status), str(new.status))))
    plugins = watch(monitor, a=HEALTHY)
    monitor.check_all(5.0)
    monitor.check_all(5.0)
    monitor.update_status("reload", DEGRADED)
    plugins["a"].answer = UNHEALTHY
    monitor.check_all(5.0)
    assert heard == [("a", "unknown", "healthy"), ("reload", "unknown", "degraded"), ("a", "healthy", "unhealthy")]
    unsubscribe()
    monitor.update_status("reload", HEALTHY)
    monitor.remove_checker("a")
    assert len(heard) == 3


def test_a_listener_that_raises_harms_nobody(monitor: HealthMonitor, caplog: pytest.LogCaptureFixture) -> None:
    def bad(name: str, old: HealthStatus, new: HealthStatus) -> None:
        raise ValueError("bad listener")

    heard: list[str] = []
    monitor.subscribe(bad)
    monitor.subscribe(lambda name, old, new: heard.append(name))
    monitor.update_status("a", HEALTHY)
    assert heard == ["a"]
    assert "bad listener" in caplog.text


# --- looking now ---------------------------------------------------------------------------------------------------


def test_all_are_looked_at_side_by_side(monitor: HealthMonitor) -> None:
    together = threading.Barrier(8)

    class Together(FakePlugin):
        def health(self, timeout: float) -> HealthStatus:
            together.wait(5.0)
            return super().health(timeout)

    for number in range(8):
        monitor.add_checker(f"p{number}", HealthChecker(Together(), HealthCheckConfig(interval=60.0)))
    assert {status.status for status in monitor.check_all(5.0).values()} == {PluginStatus.HEALTHY}


def test_those_that_hang_are_reported_as_they_stand(monitor: HealthMonitor) -> None:
    plugins = watch(monitor, a=HEALTHY, b=HEALTHY, c=HEALTHY)
    monitor.check_all(5.0)
    with hanging([plugins["b"]]):
        started = time.monotonic()
        found = monitor.check_all(0.02)
        assert time.monotonic() - started < 2.0
        assert {name: str(status.status) for name, status in found.items()} == dict.fromkeys("abc", "healthy")
        assert plugins["b"].hanging.wait(5.0)
        assert eventually(lambda: monitor.check_all(0.02)["b"].status is PluginStatus.UNHEALTHY)
        assert plugins["b"].looks == 2


def test_what_is_known_to_hang_is_not_waited_for(monitor: HealthMonitor) -> None:
    plugins = watch(monitor, a=HEALTHY, b=HEALTHY)
    with hanging([plugins["b"]]):
        assert eventually(lambda: monitor.check_all(0.02)["b"].status is PluginStatus.UNHEALTHY)
        started = time.monotonic()
        monitor.check_all(20.0)
        assert time.monotonic() - started < 5.0


def test_only_what_nobody_has_looked_at_is_looked_at(monitor: HealthMonitor) -> None:
    regular = watch(monitor, a=HEALTHY)
    off = watch(monitor, OFF, b=HEALTHY)
    monitor.check_unknown()
    monitor.check_unknown()
    assert regular["a"].looks == 1
    assert off["b"].looks == 2, "nobody looks at it regularly, so an old status says nothing"
    assert monitor.get_overall_health().status is PluginStatus.HEALTHY


def test_looking_at_nothing_is_harmless(monitor: HealthMonitor) -> None:
    assert monitor.check_all() == {}
    monitor.check_unknown()


# --- threads -------------------------------------------------------------------------------------------------------


def test_a_thousand_plugins_need_one_scheduler_thread_and_eight_workers() -> None:
    scheduler = Scheduler(idle=0.05)
    monitor = HealthMonitor(scheduler=scheduler)
    before = set(threading.enumerate())
    plugins = [FakePlugin() for _ in range(1000)]
    most = 0
    for number, plugin in enumerate(plugins):
        monitor.add_checker(f"p{number}", HealthChecker(plugin, HealthCheckConfig(interval=0.5, timeout=5.0)))

    def all_twice() -> bool:
        nonlocal most
        most = max(most, len(set(threading.enumerate()) - before))
        return all(plugin.looks >= 2 for plugin in plugins)

    try:
        assert eventually(all_twice, 20.0)
        assert most <= 1 + 8
        assert max(plugin.most_running for plugin in plugins) == 1
        assert monitor.get_overall_health().message == "all 1000 are healthy"
    finally:
        monitor.shutdown()
    assert eventually(lambda: set(threading.enumerate()) <= before)


def test_no_thread_is_left_after_shutdown() -> None:
    scheduler = Scheduler(idle=0.05)
    before = set(threading.enumerate())
    monitor = HealthMonitor(scheduler=scheduler)
    plugins = watch(monitor, a=HEALTHY, b=UNHEALTHY)
    assert all(plugin.looked.wait(5.0) for plugin in plugins.values())
    assert set(threading.enumerate()) - before
    monitor.shutdown()
    monitor.shutdown()
    assert eventually(lambda: set(threading.enumerate()) <= before)
    assert scheduler.scheduled == 0


def test_shutdown_stops_all_and_does_not_wait_for_what_hangs() -> None:
    monitor = HealthMonitor(scheduler=Scheduler(idle=0.05))
    plugin = FakePlugin()
    checker = HealthChecker(plugin, HealthCheckConfig(interval=60.0, timeout=30.0))
    with hanging([plugin]):
        monitor.add_checker("a", checker)
        assert plugin.hanging.wait(5.0)
        started = time.monotonic()
        monitor.shutdown(timeout=0.05)
        assert time.monotonic() - started < 5.0
        assert checker.done.is_set()
        with pytest.raises(PluginClosedError):
            monitor.add_checker("b", HealthChecker(FakePlugin(), SLOW))
    assert eventually(lambda: checker.look is None)


def test_shutdown_lets_a_look_under_way_end() -> None:
    monitor = HealthMonitor(scheduler=Scheduler(idle=0.05))
    plugin = FakePlugin()
    let_go = plugin.hang()
    monitor.add_checker("a", HealthChecker(plugin, HealthCheckConfig(interval=60.0, timeout=5.0)))
    assert plugin.hanging.wait(5.0)
    stopper = threading.Thread(target=monitor.shutdown, args=(10.0,))
    stopper.start()
    stopper.join(0.05)
    assert stopper.is_alive()
    let_go.set()
    stopper.join(5.0)
    assert not stopper.is_alive()
    assert plugin.running == 0


def test_the_statuses_last_seen_outlive_the_shutdown(monitor: HealthMonitor) -> None:
    overall(monitor, a=HEALTHY, b=UNHEALTHY)
    monitor.shutdown()
    assert monitor.get_overall_health().message == "b is unhealthy (no database)"


def test_a_forgotten_monitor_is_collected_with_its_checkers() -> None:
    scheduler = Scheduler(clock=ManualClock(auto_advance=False), threaded=False)
    monitor = HealthMonitor(scheduler=scheduler)
    plugins = watch(monitor, a=HEALTHY, b=HEALTHY)
    monitor.check_all(5.0)
    gone = weakref.ref(monitor)
    del monitor
    gc.collect()
    assert eventually(lambda: gc.collect() >= 0 and gone() is None)
    assert scheduler.run_due() is None
    assert scheduler.scheduled == 0
    assert plugins["a"].looks == 1


def test_an_unheld_checker_lives_as_long_as_its_monitor(monitor: HealthMonitor, scheduler: Scheduler) -> None:
    plugins = watch(monitor, a=HEALTHY)
    gc.collect()
    scheduler.run_due()
    assert plugins["a"].looked.wait(5.0)


# --- fork ----------------------------------------------------------------------------------------------------------


def test_looks_go_on_in_a_forked_child() -> None:
    monitor = HealthMonitor()
    plugin = FakePlugin()
    monitor.add_checker("a", HealthChecker(plugin, HealthCheckConfig(interval=0.02, timeout=1.0)))
    assert eventually(lambda: plugin.looks > 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads is the subject
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            plugin._lock = threading.Lock()
            status = monitor.get_status("a")
            before = plugin.looks
            fine = status is not None and status.status is PluginStatus.HEALTHY
            code = 0 if fine and eventually(lambda: plugin.looks > before + 2) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    monitor.shutdown()


def test_probe_workers_leave_when_a_monitor_is_closed() -> None:
    before = set(threads("goplugins-probe"))
    monitor = HealthMonitor(scheduler=Scheduler(clock=ManualClock(auto_advance=False), threaded=False))
    overall(monitor, a=HEALTHY)
    assert set(threads("goplugins-probe")) - before
    monitor.shutdown()
    assert eventually(lambda: set(threads("goplugins-probe")) <= before)
