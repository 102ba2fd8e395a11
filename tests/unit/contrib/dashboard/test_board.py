"""The data of the dashboard: values, no cost without viewers, and forks."""

from __future__ import annotations

import os
import threading

import pytest

from goplugins import (
    CircuitBreakerConfig,
    HealthCheckConfig,
    LoadBalancer,
    Manager,
    OperationConfig,
    PluginConfig,
    PluginStatus,
    RetryConfig,
    serve,
)
from goplugins.contrib import dashboard
from goplugins.contrib.dashboard import _board
from goplugins.runtime.scheduler import Scheduler, get_scheduler
from goplugins.testing import ManualClock, inject
from tests.processes import in_child, run
from tests.unit.contrib.dashboards import FakePlugin, ask, call, press, shown, signed_in

ONCE = PluginConfig(
    retry=RetryConfig(max_retries=0),
    circuit_breaker=CircuitBreakerConfig(failure_threshold=3, min_request_threshold=1),
    health_check=HealthCheckConfig(enabled=False),  # a successful check would close the breaker early
)


@serve.plugin(name="echo")
def echo(request: str) -> str:
    return request


def threads():
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("goplugins-dashboard")}


@pytest.fixture
def clock():
    return ManualClock(1000.0)


@pytest.fixture
def manager(clock):
    with Manager(clock=clock) as manager:
        yield manager


@pytest.fixture
def plugin(manager):
    plugin = FakePlugin()
    manager.register(plugin, ONCE)
    return plugin


@pytest.fixture
def scheduler(monkeypatch, clock):
    """A scheduler without a thread: the tests call sample()."""
    scheduler = Scheduler(clock=clock, threaded=False)
    monkeypatch.setattr(_board, "get_scheduler", lambda: scheduler)
    return scheduler


@pytest.fixture
def page(manager, plugin, scheduler):
    page = dashboard.wsgi(manager, authorize=lambda environ: True)
    page.board.request()
    page.board.sample()
    return page


def seconds(page, clock, manager, count, *, calls=0, name="auth"):
    for _ in range(count):
        call(manager, name, calls)
        clock.advance(1.0)
        page.board.sample()


# --- data ------------------------------------------------------------------------------------------------------------


def test_calls_errors_and_latencies_are_counted(page, clock, manager, plugin):
    seconds(page, clock, manager, 12, calls=10)
    record = shown(page, "auth")
    assert (record["calls"], record["errors"]) == (10.0, 0.0)
    assert record["latency"]["recent"] is True
    assert sum(count for _, count in record["latency"]["bars"]) == record["latency"]["count"]
    assert record["counts"]["calls"] == record["counts"]["answered"] == 120
    message = shown(page)
    assert message["summary"]["calls"] == 10.0
    assert message["summary"]["healthy"] == 1


def test_a_failing_plugin_is_down_with_its_last_error_and_breaker_state(page, clock, manager, plugin):
    seconds(page, clock, manager, 3, calls=5)
    plugin.fail("no route to 10.0.0.7")
    seconds(page, clock, manager, 1, calls=10)
    record = shown(page, "auth")
    assert (record["severity"], record["word"]) == ("down", "circuit open")
    assert "no route to 10.0.0.7" in record["why"]
    assert record["failures"][0]["text"] == "no route to 10.0.0.7"
    assert record["failures"][0]["n"] == 3
    assert [old_and_new[1:] for old_and_new in record["breaker"]["changes"]] == [["closed", "open"]]
    assert record["breaker"]["until"] == pytest.approx(clock.time() + 29.0, abs=1.0)
    assert shown(page)["summary"]["down"] == 1


def test_operations_have_rates_latencies_and_counts(page, clock, manager):
    operations = {"get": OperationConfig(), "put": OperationConfig()}
    manager.register(FakePlugin("rest"), PluginConfig(name="rest", operations=operations))
    page.board.sample()
    for _ in range(12):
        for operation, count in (("put", 1), ("get", 3)):
            for _ in range(count):
                manager.execute("rest", "", operation=operation)
        clock.advance(1.0)
        page.board.sample()
    found = shown(page, "rest")["operations"]
    assert [(each["name"], each["calls"], each["failing"], each["total"], each["raised"]) for each in found] == [
        ("get", 3.0, 0.0, 36, 0),
        ("put", 1.0, 0.0, 12, 0),
    ]
    assert found[0]["latency"]["recent"]
    assert found[0]["minute"] == 36
    assert shown(page, "auth")["operations"] == []


def test_the_busiest_operations_are_shown(page, manager):
    names = [f"op{number:02}" for number in range(60)]
    operations = {name: OperationConfig() for name in names}
    manager.register(FakePlugin("rest"), PluginConfig(name="rest", operations=operations))
    for name in [*names, "op59"]:
        manager.execute("rest", "", operation=name)
    found = [each["name"] for each in shown(page, "rest")["operations"]]
    assert found == ["op59", *names[:49]]


def test_business_errors_leave_a_plugin_healthy(page, clock, manager, plugin):
    plugin.reject()
    seconds(page, clock, manager, 3, calls=10)
    manager.health()  # or its first check may still be under way
    record = shown(page, "auth")
    assert record["severity"] == "healthy"
    assert record["failures"] == []
    assert record["errorCodes"] == {"PLUGIN_1203": 30}


def test_a_plugin_with_some_failing_calls_is_degraded_until_calls_succeed(page, clock, manager, plugin):
    manager.register(FakePlugin("flaky"), PluginConfig(retry=RetryConfig(max_retries=0)))
    with inject(manager, "flaky", refuse=0.3, seed=1):
        seconds(page, clock, manager, 10, calls=10, name="flaky")
    record = shown(page, "flaky")
    assert (record["severity"], record["word"]) == ("degraded", "failing")
    seconds(page, clock, manager, 11, calls=10, name="flaky")
    manager.health()  # or its first check may still be under way
    assert shown(page, "flaky")["severity"] == "healthy"


def test_injected_faults_are_shown(page, clock, manager, plugin):
    with inject(manager, "auth", refuse=0.5):
        assert "refuse" in shown(page, "auth")["chaos"]


def test_health_is_shown(page, manager, plugin):
    monitor = manager._lifecycle.maintenance.monitor
    manager.health()
    for status, severity in [
        ("offline", "down"),
        ("degraded", "degraded"),
        ("unhealthy", "down"),
        ("healthy", "healthy"),
    ]:
        plugin.status = PluginStatus(status)
        monitor.check_all()
        monitor.check_all()
        assert shown(page, "auth")["severity"] == severity


def test_labels_annotations_and_disabled_plugins_are_shown(clock):
    echoes = {"transport": "python", "endpoint": f"{__name__}:echo"}
    with Manager(clock=clock) as manager:
        page = dashboard.wsgi(manager)
        noted = {"labels": {"team": "identity"}, "annotations": {"runbook": "https://wiki.example.com"}}
        plugins = [{"name": "old", "enabled": False, **echoes}, {"name": "new", **noted, **echoes}]
        manager.load_from_config({"plugins": plugins})
        assert shown(page, "old")["severity"] == "off"
        new = shown(page, "new")
        assert (new["labels"], new["annotations"]) == (noted["labels"], noted["annotations"])


def test_kept_events_from_before_the_first_view_are_shown(clock):
    with Manager(clock=clock) as manager:
        page = dashboard.wsgi(manager)
        plugin = FakePlugin()
        manager.register(plugin, ONCE)
        plugin.fail("no route")
        call(manager, times=5)
        clock.advance(60)
        record = shown(page, "auth")
    assert record["failures"] == [
        {"at": round(clock.time() - 60), "code": "PLUGIN_1205", "text": "no route", "id": "", "n": 1}
    ]
    assert record["breaker"]["changes"][0][1:] == ["closed", "open"]
    assert record["counts"]["calls"] == 5


# --- groups ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def members():
    return [FakePlugin(name) for name in ("one", "two", "three")]


@pytest.fixture
def group(manager, members, clock):
    manager.register(LoadBalancer("search", members=members, clock=clock), name="search")


def test_a_group_shows_its_members_and_their_shares(page, clock, manager, group, members):
    seconds(page, clock, manager, 4, calls=9, name="search")
    record = shown(page, "search")
    assert (record["severity"], record["kind"], record["breaker"]) == ("healthy", "group", None)
    assert {each["name"]: each["minute"] for each in record["members"]} == {"one": 12, "two": 12, "three": 12}
    assert record["counts"]["calls"] == 36
    members[0].fail()
    seconds(page, clock, manager, 20, calls=9, name="search")
    record = shown(page, "search")
    assert (record["severity"], record["word"]) == ("degraded", "2 of 3 members")
    assert "one is" in record["why"]


def test_calls_of_members_are_counted_once(page, clock, manager, group):
    seconds(page, clock, manager, 10, calls=3, name="search")
    assert shown(page)["summary"]["calls"] == 3.0


def test_instances_are_listed_only_as_members_of_their_plugin(clock):
    with serve.start(echo) as one, serve.start(echo) as two, Manager() as manager:
        page = dashboard.wsgi(manager)
        endpoints = [one.url, two.url]
        manager.load_from_config({"plugins": [{"name": "echo", "transport": "http", "endpoints": endpoints}]})
        call(manager, "echo", 10)
        message = shown(page)
        assert [each["name"] for each in message["plugins"]] == ["echo"]
        assert len(message["plugins"][0]["members"]) == 2


def test_an_operator_drains_and_restores_a_member(page, clock, manager, group):
    keys, order = signed_in(page), {"plugin": "search", "member": "two"}
    assert press(page, "drain", order, **keys).status == 200
    seconds(page, clock, manager, 2, calls=10, name="search")
    two = next(each for each in shown(page, "search")["members"] if each["name"] == "two")
    assert (two["severity"], two["minute"]) == ("off", 0)
    assert press(page, "restore", order, **keys).status == 200
    seconds(page, clock, manager, 12, calls=10, name="search")
    two = next(each for each in shown(page, "search")["members"] if each["name"] == "two")
    assert two["minute"] > 0
    assert press(page, "drain", {"plugin": "search", "member": "nine"}, **keys).status == 404


def test_a_disabled_breaker_is_still_disabled_after_forced_open(page, manager):
    plugin = FakePlugin("loose")
    off = PluginConfig(retry=RetryConfig(max_retries=0), circuit_breaker=CircuitBreakerConfig(enabled=False))
    manager.register(plugin, off)
    keys = signed_in(page)
    press(page, "disable", {"plugin": "loose"}, **keys)
    assert shown(page, "loose")["breaker"]["state"] == "forced open"
    press(page, "enable", {"plugin": "loose"}, **keys)
    plugin.fail()
    call(manager, "loose", 200)
    assert shown(page, "loose")["breaker"]["state"] == "closed"


# --- without viewers ------------------------------------------------------------------------------------------------


def test_a_dashboard_without_viewers_adds_no_thread_and_no_work_to_a_call(manager, plugin):
    before, scheduled = threads(), get_scheduler().scheduled
    page = dashboard.wsgi(manager)
    events = manager._lifecycle.events
    assert threads() <= before
    assert get_scheduler().scheduled <= scheduled
    assert page.board.history.record not in (*events.calls, *events.failed_calls, *events.attempts)
    assert page.board.snapshot.tag == ""


def test_sampling_stops_a_minute_after_the_last_view(manager, plugin, clock, scheduler):
    page = dashboard.wsgi(manager)
    events = manager._lifecycle.events
    ask(page, "/state")
    ticket = page.board._ticket
    assert ticket is not None
    assert page.board.history.record in events.failed_calls
    clock.advance(57)
    page.board.sample()
    assert ticket.active
    clock.advance(4)
    page.board.sample()
    assert not ticket.active
    assert page.board.history.record not in events.failed_calls
    ask(page, "/state")
    assert page.board._ticket is not None


def test_a_garbage_collected_dashboard_unsubscribes(manager):
    events = manager._lifecycle.events
    before = events.changes
    page = dashboard.wsgi(manager)
    assert len(events.changes) == len(before) + 1
    del page
    assert events.changes == before


def test_a_manager_after_shutdown_is_shown_empty_and_no_longer_sampled(manager, plugin, page):
    ticket = page.board._ticket
    manager.shutdown()
    assert shown(page)["plugins"] == []
    assert not ticket.active
    assert ask(page, "/state").status == 200
    assert ask(page).status == 200


def test_slow_sampling_is_done_less_often(page, clock, scheduler, monkeypatch):
    plugin_states = _board.plugin_states

    def slowly(manager):
        clock.advance(0.5)
        return plugin_states(manager)

    monkeypatch.setattr(_board, "plugin_states", slowly)
    for _ in range(6):
        began = clock.monotonic()
        page.board.sample()
        clock.advance(max(0.0, scheduler.run_due()))
    assert 4.0 <= clock.monotonic() - began <= 6.0


# --- processes -------------------------------------------------------------------------------------------------------


def fork_with_a_dashboard():
    manager = Manager()
    manager.register(FakePlugin(), ONCE)
    page = dashboard.wsgi(manager, authorize=lambda environ: True)
    tag = ask(page, "/state").headers["etag"]

    def child():
        call(manager, times=3)
        return ask(page, "/state", HTTP_IF_NONE_MATCH=tag).json["pid"] == os.getpid()

    return in_child(child)


def test_a_forked_child_shows_its_own_process_id():
    assert run(fork_with_a_dashboard) is True
