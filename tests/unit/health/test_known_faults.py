"""Faults that the Go library's health checks were seen to have."""

from __future__ import annotations

import time

from goplugins import HealthCheckConfig, HealthChecker, HealthMonitor, PluginStatus
from goplugins.runtime.scheduler import Scheduler
from goplugins.testing import ManualClock
from tests.unit.health.fakes import HEALTHY, OFFLINE, UNHEALTHY, FakePlugin, eventually, hanging, inline


def test_known_fault_the_interval_was_fixed_at_30_s() -> None:
    checks = {}
    for interval in (5.0, 30.0, 120.0):
        clock = ManualClock(auto_advance=False)
        scheduler, plugin = Scheduler(clock=clock, threaded=False), FakePlugin()
        checker = HealthChecker(
            plugin, HealthCheckConfig(interval=interval), clock=clock, scheduler=scheduler, submit=inline
        )
        checker.start()
        for _ in range(6000):
            clock.advance(0.1)
            scheduler.run_due()
        checks[interval] = plugin.checks - 1
    assert 600 / 5.5 - 1 <= checks[5.0] <= 600 / 4.5
    assert 600 / 33 - 1 <= checks[30.0] <= 600 / 27
    assert 600 / 132 - 1 <= checks[120.0] <= 600 / 108


def test_known_fault_two_loops_checked_the_same_plugin() -> None:
    clock = ManualClock(auto_advance=False)
    scheduler, plugin = Scheduler(clock=clock, threaded=False), FakePlugin()
    checker = HealthChecker(plugin, HealthCheckConfig(interval=10.0), clock=clock, scheduler=scheduler, submit=inline)
    checker.start()
    checker.start()
    monitor = HealthMonitor(clock=clock, scheduler=scheduler)
    monitor.add_checker("a", checker)  # is running already
    assert scheduler.scheduled == 1
    for _ in range(1000):
        clock.advance(0.1)
        scheduler.run_due()
    assert 9 <= plugin.checks - 1 <= 11
    assert plugin.max_running == 1
    monitor.shutdown()


def test_known_fault_a_dead_server_was_healthy_for_30_s() -> None:
    monitor = HealthMonitor(scheduler=Scheduler(idle=0.05))
    plugin = FakePlugin(OFFLINE)
    started = time.monotonic()
    monitor.add_checker("dead", HealthChecker(plugin, HealthCheckConfig(interval=30.0)))
    before = monitor.get_overall_health().status
    assert before is not PluginStatus.HEALTHY
    assert eventually(lambda: monitor.get_all_status()["dead"].status is PluginStatus.UNHEALTHY)
    assert monitor.get_overall_health().status is PluginStatus.UNHEALTHY
    assert time.monotonic() - started < 5.0
    monitor.shutdown()


def test_known_fault_a_hung_check_stalled_every_other_plugin() -> None:
    monitor = HealthMonitor(scheduler=Scheduler(idle=0.05))
    hung, others = [FakePlugin() for _ in range(7)], [FakePlugin() for _ in range(50)]
    config = HealthCheckConfig(interval=0.05, timeout=0.1, failure_limit=2)
    with hanging(hung):
        for number, plugin in enumerate(hung + others):
            monitor.add_checker(f"p{number}", HealthChecker(plugin, config))
        assert eventually(lambda: sum(plugin.running for plugin in hung) == 7)
        checks = [plugin.checks for plugin in others]
        assert eventually(lambda: all(plugin.checks >= n + 5 for plugin, n in zip(others, checks, strict=True)))
        names = [f"p{number}" for number in range(7)]
        found = monitor.get_all_status
        assert eventually(lambda: all(found()[name].status is PluginStatus.OFFLINE for name in names))
        assert all(plugin.checks == 1 for plugin in hung)
        assert {found()[f"p{number}"].status for number in range(7, 57)} == {PluginStatus.HEALTHY}
    monitor.shutdown()


def test_eight_that_hang_at_once_do_not_stay_healthy() -> None:
    """Every worker hangs then; the overdue checks are counted all the same."""
    scheduler = Scheduler(idle=0.05)
    monitor = HealthMonitor(scheduler=scheduler)
    plugins = [FakePlugin(HEALTHY) for _ in range(8)]
    config = HealthCheckConfig(interval=0.05, timeout=0.05, failure_limit=2)
    for number, plugin in enumerate(plugins):
        monitor.add_checker(f"p{number}", HealthChecker(plugin, config))
    assert eventually(lambda: monitor.get_overall_health().status is PluginStatus.HEALTHY)
    with hanging(plugins):
        found = monitor.get_all_status
        assert eventually(lambda: all(status.status is PluginStatus.OFFLINE for status in found().values()))
    for plugin in plugins:
        plugin.released = None
    assert eventually(lambda: monitor.get_overall_health().status is PluginStatus.HEALTHY)
    monitor.shutdown()


def test_many_suspects_that_hang_until_their_timeout_leave_half_of_the_workers() -> None:
    monitor = HealthMonitor(scheduler=Scheduler(idle=0.05))
    down, up = [FakePlugin(OFFLINE) for _ in range(20)], [FakePlugin() for _ in range(20)]
    config = HealthCheckConfig(interval=0.02, timeout=5.0, failure_limit=1)
    for number, plugin in enumerate(down + up):
        monitor.add_checker(f"p{number}", HealthChecker(plugin, config))
    names = [f"p{number}" for number in range(20)]
    assert eventually(lambda: all(monitor.get_all_status()[name].status is PluginStatus.OFFLINE for name in names))
    with hanging(down):
        assert eventually(lambda: sum(plugin.running for plugin in down) == 8)
        checks = [plugin.checks for plugin in up]
        assert eventually(lambda: all(plugin.checks >= n + 5 for plugin, n in zip(up, checks, strict=True)))
        assert sum(plugin.running for plugin in down) == 8
    monitor.shutdown()


def test_a_plugin_that_hangs_is_unhealthy_one_interval_after_its_timeout() -> None:
    monitor = HealthMonitor(scheduler=Scheduler(idle=0.05))
    plugins = [FakePlugin() for _ in range(7)]
    config = HealthCheckConfig(interval=0.5, timeout=0.1)
    with hanging(plugins):
        for number, plugin in enumerate(plugins):
            monitor.add_checker(f"p{number}", HealthChecker(plugin, config))
        assert eventually(lambda: sum(plugin.running for plugin in plugins) == 7)
        started = time.monotonic()
        found = monitor.get_all_status
        assert eventually(lambda: all(each.status is PluginStatus.UNHEALTHY for each in found().values()))
        assert time.monotonic() - started < 0.1 + 0.5 * 1.1 + 0.3
    monitor.shutdown()


def test_listeners_get_the_changes_of_plugins_that_hang_while_all_workers_of_suspects_hang() -> None:
    monitor = HealthMonitor(scheduler=Scheduler(idle=0.05))
    changes: list[tuple[str, PluginStatus]] = []
    monitor.subscribe(lambda name, _, new: changes.append((name, new.status)))
    plugins = {f"p{number}": FakePlugin(UNHEALTHY) for number in range(9)}
    config = HealthCheckConfig(interval=0.05, timeout=0.05, failure_limit=1000)
    for name, plugin in plugins.items():
        monitor.add_checker(name, HealthChecker(plugin, config))
    assert eventually(lambda: {name for name, _ in changes} == set(plugins))
    late = FakePlugin()
    with hanging([*plugins.values(), late]):
        assert eventually(lambda: sum(plugin.running for plugin in plugins.values()) == 8)
        monitor.add_checker("late", HealthChecker(late, config))
        assert eventually(lambda: ("late", PluginStatus.UNHEALTHY) in changes)
    monitor.shutdown()


def test_a_suspect_that_recovers_is_healthy_again_while_seven_others_hang() -> None:
    monitor = HealthMonitor(scheduler=Scheduler(idle=0.05))
    plugins = [FakePlugin(UNHEALTHY) for _ in range(8)]
    config = HealthCheckConfig(interval=0.05, timeout=0.05)
    for number, plugin in enumerate(plugins):
        monitor.add_checker(f"p{number}", HealthChecker(plugin, config))
    found = monitor.get_all_status
    assert eventually(lambda: all(each.status is PluginStatus.OFFLINE for each in found().values()))
    *stuck, back = plugins
    with hanging(stuck):
        assert eventually(lambda: sum(plugin.running for plugin in stuck) == 7)
        back.answer = HEALTHY
        assert eventually(lambda: found()["p7"].status is PluginStatus.HEALTHY)
    monitor.shutdown()
