"""HealthMonitor: overall status, statuses by name, parallel checks, number of threads."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from goplugins import HealthCheckConfig, HealthChecker, HealthMonitor, HealthStatus, PluginStatus
from goplugins.errors import PluginClosedError
from goplugins.runtime.scheduler import Scheduler
from goplugins.testing import ManualClock
from tests.processes import in_child, run
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
    """Starts no regular check."""
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
def test_unhealthy_otherwise_naming_the_causes(monitor: HealthMonitor, bad: HealthStatus) -> None:
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


def test_never_healthy_before_a_first_check(monitor: HealthMonitor) -> None:
    plugins = watch(monitor, a=HEALTHY, b=UNKNOWN)
    assert monitor.get_overall_health().status is PluginStatus.UNKNOWN
    monitor.check_all(5.0)
    assert plugins["b"].checks == 1
    status = monitor.get_overall_health()
    assert status.status is PluginStatus.UNKNOWN
    assert status.message == "b is unknown (no free connection)"
    plugins["b"].answer = HEALTHY
    monitor.check_all(5.0)
    assert monitor.get_overall_health().status is PluginStatus.HEALTHY


def test_no_plugin_is_unknown(monitor: HealthMonitor) -> None:
    assert monitor.get_overall_health().status is PluginStatus.UNKNOWN


def test_unhealthy_is_worse_than_unknown(monitor: HealthMonitor) -> None:
    assert overall(monitor, a=UNKNOWN, b=UNHEALTHY).status is PluginStatus.UNHEALTHY


def test_a_plugin_with_disabled_checks_counts_only_once_checked(monitor: HealthMonitor) -> None:
    watch(monitor, OFF, quiet=UNHEALTHY)
    assert monitor.get_overall_health().status is PluginStatus.UNKNOWN
    monitor.update_status("loud", HEALTHY)
    assert monitor.get_overall_health().status is PluginStatus.HEALTHY
    monitor.check_all(5.0)
    assert monitor.get_overall_health().message == "quiet is unhealthy (no database)"


def test_the_time_of_the_oldest_check_and_the_longest_duration(monitor: HealthMonitor) -> None:
    monitor.update_status("a", HealthStatus(PluginStatus.HEALTHY, last_check=100.0, response_time=0.1))
    monitor.update_status("b", HealthStatus(PluginStatus.HEALTHY, last_check=50.0, response_time=0.7))
    status = monitor.get_overall_health()
    assert (status.last_check, status.response_time) == (50.0, 0.7)


def test_the_message_names_ten_plugins_at_most(monitor: HealthMonitor) -> None:
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


def test_a_status_may_be_set(monitor: HealthMonitor) -> None:
    plugins = watch(monitor, a=HEALTHY)
    monitor.update_status("a", OFFLINE)
    monitor.update_status("reload", DEGRADED)
    assert {name: str(status.status) for name, status in monitor.get_all_status().items()} == {
        "a": "offline",
        "reload": "degraded",
    }
    monitor.check_all(5.0)
    assert plugins["a"].checks == 1
    assert monitor.get_all_status()["a"].status is PluginStatus.HEALTHY
    monitor.remove_checker("reload")
    assert monitor.get_status("reload") is None


def test_listeners_get_changes_by_name(monitor: HealthMonitor) -> None:
    received: list[tuple[str, str, str]] = []
    unsubscribe = monitor.subscribe(lambda name, old, new: received.append((name, str(old.status), str(new.status))))
    plugins = watch(monitor, a=HEALTHY)
    monitor.check_all(5.0)
    monitor.check_all(5.0)
    monitor.update_status("reload", DEGRADED)
    plugins["a"].answer = UNHEALTHY
    monitor.check_all(5.0)
    assert received == [("a", "unknown", "healthy"), ("reload", "unknown", "degraded"), ("a", "healthy", "unhealthy")]
    unsubscribe()
    monitor.update_status("reload", HEALTHY)
    monitor.remove_checker("a")
    assert len(received) == 3


def test_a_listener_that_raises_stops_no_other(monitor: HealthMonitor, caplog: pytest.LogCaptureFixture) -> None:
    def bad(name: str, old: HealthStatus, new: HealthStatus) -> None:
        raise ValueError("bad listener")

    received: list[str] = []
    monitor.subscribe(bad)
    monitor.subscribe(lambda name, old, new: received.append(name))
    monitor.update_status("a", HEALTHY)
    assert received == ["a"]
    assert "bad listener" in caplog.text


# --- checks on request -----------------------------------------------------------------------------------------------


def test_all_are_checked_in_parallel(monitor: HealthMonitor) -> None:
    together = threading.Barrier(8)

    class Together(FakePlugin):
        def health(self, timeout: float) -> HealthStatus:
            together.wait(5.0)
            return super().health(timeout)

    for number in range(8):
        monitor.add_checker(f"p{number}", HealthChecker(Together(), HealthCheckConfig(interval=60.0)))
    assert {status.status for status in monitor.check_all(5.0).values()} == {PluginStatus.HEALTHY}


def test_of_a_hanging_check_the_last_known_status_is_returned(monitor: HealthMonitor) -> None:
    plugins = watch(monitor, HealthCheckConfig(interval=60.0, timeout=30.0), a=HEALTHY, b=HEALTHY, c=HEALTHY)
    monitor.check_all(5.0)
    with hanging([plugins["b"]]):
        started = time.monotonic()
        found = monitor.check_all(0.02)
        assert time.monotonic() - started < 2.0
        assert {name: str(status.status) for name, status in found.items()} == dict.fromkeys("abc", "healthy")
        assert plugins["b"].hanging.wait(5.0)
        assert plugins["b"].checks == 2


def test_a_hanging_check_is_overdue_after_its_timeout(monitor: HealthMonitor) -> None:
    plugins = watch(monitor, a=HEALTHY, b=HEALTHY)
    monitor.check_all(5.0)
    with hanging([plugins["b"]]):
        assert eventually(lambda: monitor.check_all(0.02)["b"].status is PluginStatus.UNHEALTHY)
        assert plugins["b"].checks == 2


def test_a_check_that_begins_late_has_its_whole_timeout(monitor: HealthMonitor) -> None:
    def late(job: Callable[[], object]) -> None:
        threading.Timer(0.1, job).start()

    plugin = FakePlugin()
    checker = HealthChecker(plugin, HealthCheckConfig(interval=60.0, timeout=0.2), submit=late)
    monitor.add_checker("a", checker)
    with hanging([plugin]):
        monitor.check_unknown()
        assert monitor.get_all_status()["a"].status is PluginStatus.UNHEALTHY
    assert eventually(lambda: checker.current_run is None)


def test_an_overdue_check_is_not_waited_for(monitor: HealthMonitor) -> None:
    plugins = watch(monitor, a=HEALTHY, b=HEALTHY)
    with hanging([plugins["b"]]):
        assert eventually(lambda: monitor.check_all(0.02)["b"].status is PluginStatus.UNHEALTHY)
        started = time.monotonic()
        monitor.check_all(20.0)
        assert time.monotonic() - started < 5.0


def test_only_unchecked_plugins_and_those_without_regular_checks_are_checked(monitor: HealthMonitor) -> None:
    regular = watch(monitor, a=HEALTHY)
    off = watch(monitor, OFF, b=HEALTHY)
    monitor.check_unknown()
    monitor.check_unknown()
    assert regular["a"].checks == 1
    assert off["b"].checks == 2, "without regular checks an old status says nothing"
    assert monitor.get_overall_health().status is PluginStatus.HEALTHY


def test_no_plugins_to_check(monitor: HealthMonitor) -> None:
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

    def all_checked_twice() -> bool:
        nonlocal most
        most = max(most, len(set(threading.enumerate()) - before))
        return all(plugin.checks >= 2 for plugin in plugins)

    try:
        assert eventually(all_checked_twice, 20.0)
        assert most <= 1 + 8
        assert max(plugin.max_running for plugin in plugins) == 1
        assert monitor.get_overall_health().message == "all 1000 are healthy"
    finally:
        monitor.shutdown()
    assert eventually(lambda: set(threading.enumerate()) <= before)


def test_no_thread_is_left_after_shutdown() -> None:
    scheduler = Scheduler(idle=0.05)
    before = set(threading.enumerate())
    monitor = HealthMonitor(scheduler=scheduler)
    plugins = watch(monitor, a=HEALTHY, b=UNHEALTHY)
    assert all(plugin.checked.wait(5.0) for plugin in plugins.values())
    assert set(threading.enumerate()) - before
    monitor.shutdown()
    monitor.shutdown()
    assert eventually(lambda: set(threading.enumerate()) <= before)
    assert scheduler.scheduled == 0


def test_shutdown_stops_all_and_does_not_wait_for_a_hanging_check() -> None:
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
    assert eventually(lambda: checker.current_run is None)


def test_shutdown_waits_for_a_check_under_way() -> None:
    monitor = HealthMonitor(scheduler=Scheduler(idle=0.05))
    plugin = FakePlugin()
    release = plugin.hang()
    monitor.add_checker("a", HealthChecker(plugin, HealthCheckConfig(interval=60.0, timeout=5.0)))
    assert plugin.hanging.wait(5.0)
    stopper = threading.Thread(target=monitor.shutdown, args=(10.0,))
    stopper.start()
    stopper.join(0.05)
    assert stopper.is_alive()
    release.set()
    stopper.join(5.0)
    assert not stopper.is_alive()
    assert plugin.running == 0


def test_the_last_known_statuses_outlive_the_shutdown(monitor: HealthMonitor) -> None:
    overall(monitor, a=HEALTHY, b=UNHEALTHY)
    monitor.shutdown()
    assert monitor.get_overall_health().message == "b is unhealthy (no database)"


def test_a_monitor_without_references_is_collected_with_its_checkers() -> None:
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
    assert plugins["a"].checks == 1


def test_a_checker_lives_as_long_as_its_monitor(monitor: HealthMonitor, scheduler: Scheduler) -> None:
    plugins = watch(monitor, a=HEALTHY)
    gc.collect()
    scheduler.run_due()
    assert plugins["a"].checked.wait(5.0)


# --- fork ----------------------------------------------------------------------------------------------------------


def fork_beside_a_monitor() -> Any:
    monitor = HealthMonitor()
    plugin = FakePlugin()
    monitor.add_checker("a", HealthChecker(plugin, HealthCheckConfig(interval=0.02, timeout=1.0)))
    assert eventually(lambda: plugin.checks > 2)

    def child() -> Any:
        plugin._lock = threading.Lock()
        status = monitor.get_status("a")
        before = plugin.checks
        return status and status.status, eventually(lambda: plugin.checks > before + 2)

    found = in_child(child)
    monitor.shutdown()
    return found


def test_checks_go_on_in_a_forked_child() -> None:
    assert run(fork_beside_a_monitor) == [PluginStatus.HEALTHY, True]


def test_probe_workers_leave_when_a_monitor_is_closed() -> None:
    before = set(threads("goplugins-probe"))
    monitor = HealthMonitor(scheduler=Scheduler(clock=ManualClock(auto_advance=False), threaded=False))
    overall(monitor, a=HEALTHY)
    assert set(threads("goplugins-probe")) - before
    monitor.shutdown()
    assert eventually(lambda: set(threads("goplugins-probe")) <= before)
