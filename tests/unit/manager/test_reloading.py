"""Reloads: strategies, failures, drains, and the known faults of the Go library."""

from __future__ import annotations

import json
import logging
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from goplugins import (
    CircuitBreakerConfig,
    ConfigError,
    DuplicatePluginNameError,
    InvalidArgumentError,
    Manager,
    ManagerClosedError,
    PluginClosedError,
    PluginConfig,
    PluginError,
    PluginExecutionError,
    PluginNotEnabledError,
    PluginNotFoundError,
    PluginReloader,
    PluginUnavailableError,
    ReloadError,
    ReloadOptions,
    ReloadStrategy,
    Replay,
)
from goplugins.enums import PluginStatus
from goplugins.observability.events import CallFinished
from tests.timing import Stopwatch

from .conftest import FakeClient, Harness, config

STRATEGIES = list(ReloadStrategy)


def clients(harness: Harness) -> dict[str, Any]:
    return {name: harness.guarded(name).plugin for name in harness.manager.list_plugins()}


# --- strategies ----------------------------------------------------------------------------------------------------


def test_only_changed_plugins_are_replaced(harness: Harness) -> None:
    harness.load(a="m:v1", b="m:v1", c="m:v1", d={"retry": {"max_retries": 1}})
    before = clients(harness)
    report = harness.reload(a="m:v1", b="m:v2", e="m:v1", d={"retry": {"max_retries": 5}})
    assert (report.kept, report.replaced, report.added, report.removed, report.updated) == (
        ("a",), ("b",), ("e",), ("c",), ("d",),
    )  # fmt: skip
    after = clients(harness)
    assert after["a"] is before["a"]
    assert after["d"] is before["d"]
    assert after["b"] is not before["b"]
    assert harness.call("b") == ["b", "m:v2"]
    assert (before["b"].closed, before["c"].closed, before["a"].closed) == (1, 1, 0)
    with pytest.raises(PluginNotFoundError):
        harness.call("c")
    assert str(report).splitlines()[1:] == ["  b: replaced", "  e: added", "  d: updated", "  c: removed"]
    assert [update.name for update in report.diff.updated] == ["b", "d"]


def test_recreate_replaces_all_plugins(harness: Harness) -> None:
    harness.load(a="m:v1", b="m:v1")
    before = clients(harness)
    report = harness.reload("recreate", a="m:v1", b={"endpoint": "m:v1", "retry": {"max_retries": 9}})
    assert report.replaced == ("a", "b")
    assert all(wire.closed == 1 for wire in before.values())
    assert set(clients(harness).values()).isdisjoint(before.values())


def test_rolling_replaces_batches_and_closes_old_clients_at_the_end(harness: Harness) -> None:
    names = [f"p{index}" for index in range(5)]
    harness.load(**dict.fromkeys(names, "m:v1"))
    old = clients(harness)
    seen = []
    registry = harness.manager._registry

    def note() -> None:
        seen.append([name for name, plugin in registry.plugins.items() if plugin.config.endpoint == "m:v2"])
        assert all(not wire.closed for wire in old.values())

    registry.subscribe(note)
    options = ReloadOptions(strategy="rolling", max_concurrent_reloads=2)
    harness.manager.reload_config(config(**dict.fromkeys(names, "m:v2")), options=options)
    assert seen == [names[:2], names[:4], names]
    assert all(wire.closed == 1 for wire in old.values())


def test_the_first_reload_loads(harness: Harness) -> None:
    assert harness.reload(a="m:offline").added == ("a",)  # the first load checks no health
    with pytest.raises(ConfigError, match="already"):
        harness.load(a="m:v1")
    assert harness.reload(a="m:v2").replaced == ("a",)


def test_a_dry_run_changes_nothing(harness: Harness) -> None:
    harness.load(a="m:v1", b="m:v1")
    before, made = clients(harness), len(harness.factory.made)
    report = harness.manager.reload_config(config(a="m:v2", c="m:broken"), dry_run=True)
    assert report.dry_run
    assert (report.replaced, report.added, report.removed) == (("a",), ("c",), ("b",))
    assert clients(harness) == before
    assert len(harness.factory.made) == made
    with pytest.raises(ConfigError):
        harness.manager.reload_config({"plugins": [{"name": "x"}]}, dry_run=True)
    assert "last reload" not in harness.manager.overall_health().message


def test_a_reloader_keeps_its_options(harness: Harness) -> None:
    harness.load(a="m:v1")
    reloader = PluginReloader(harness.manager, ReloadOptions(strategy="recreate"))
    assert not reloader.preview(config(a="m:v1"))
    assert reloader.reload(config(a="m:v1")).replaced == ("a",)


@pytest.mark.parametrize("given", [{"strategy": "sideways"}, {"options": {"drain_timeout": 1}}])
def test_invalid_options(harness: Harness, given: Any) -> None:
    harness.load(a="m:v1")
    with pytest.raises((ConfigError, InvalidArgumentError)):
        harness.manager.reload_config(config(a="m:v1"), **given)
    assert "last reload" not in harness.manager.overall_health().message


def test_groups_see_the_new_members(harness: Harness) -> None:
    group = {"load_balancers": [{"name": "g", "members": ["a", "b"]}]}
    harness.manager.load_from_config(config(group, a="m:v1", b="m:v1"))
    report = harness.manager.reload_config(config(group, a="m:v2", b="m:v2"))
    assert report.kept == ("g",)
    assert {tuple(harness.call("g")) for _ in range(20)} == {("a", "m:v2"), ("b", "m:v2")}
    group["load_balancers"][0]["members"] = ["b", "c"]
    assert harness.manager.reload_config(config(group, b="m:v2", c="m:v1")).replaced == ("g",)
    assert {tuple(harness.call("g")) for _ in range(20)} == {("b", "m:v2"), ("c", "m:v1")}


def test_policies_of_a_group_change_in_place(harness: Harness) -> None:
    group: Any = {"load_balancers": [{"name": "g", "members": ["a"], "retry": {"max_retries": 1}}]}
    harness.manager.load_from_config(config(group, a="m:v1"))
    group["load_balancers"][0]["retry"]["max_retries"] = 4
    report = harness.manager.reload_config(config(group, a="m:v1"))
    assert report.updated == ("g",)
    assert [str(change) for change in report.diff.updated[0].changes] == ["retry.max_retries: 1 -> 4"]
    assert harness.guarded("g").pipeline.retry.max_retries == 4


def test_the_log_level_follows_the_configuration(harness: Harness) -> None:
    logger = logging.getLogger("goplugins")
    harness.manager.load_from_config(config({"log_level": "debug"}, a="m:v1"))
    assert logger.level == logging.DEBUG
    harness.manager.reload_config(config({"log_level": "info"}, a="m:v1"))
    assert logger.level == logging.INFO
    logger.setLevel(logging.ERROR)  # set by the application
    harness.manager.reload_config(config(a="m:v2"))
    assert logger.level == logging.ERROR


def test_other_settings_of_logging_stay(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the level of the logger ``goplugins`` follows the configuration."""
    monkeypatch.setattr(logging.getLogger("goplugins"), "level", logging.NOTSET)

    def state() -> dict[str, Any]:
        known = {"root": logging.root, **logging.root.manager.loggerDict}
        return {
            name: (found.level, list(found.handlers), list(found.filters), found.propagate, found.disabled)
            for name, found in known.items()
            if isinstance(found, logging.Logger) and name != "goplugins"
        }

    harness.load(a="m:v1")  # modules and loggers of the first load exist
    harness.manager.reload_config(config({"log_level": "info"}, a="m:v2"))
    before, disabled = state(), logging.root.manager.disable
    for level in ("debug", "info", "critical", "info"):
        harness.manager.reload_config(config({"log_level": level}, a="m:v2"))
    assert state() == before
    assert logging.root.manager.disable == disabled
    handlers = logging.getLogger("goplugins").handlers
    assert [type(handler) for handler in handlers] == [logging.NullHandler]


def test_the_log_level_of_calls(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = logging.getLogger("goplugins.calls")
    monkeypatch.setattr(calls, "level", logging.NOTSET)
    harness.load(a="m:v1")
    assert calls.level == logging.NOTSET  # inherits that of goplugins
    harness.manager.reload_config(config({"observability": {"log_level": "error"}}, a="m:v1"))
    assert calls.level == logging.ERROR
    harness.reload(a="m:v1")
    assert calls.level == logging.NOTSET
    calls.setLevel(logging.CRITICAL)  # set by the application
    harness.manager.reload_config(config({"log_level": "debug"}, a="m:v1"))
    assert calls.level == logging.CRITICAL


# --- all or nothing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("end", ["broken", "offline", "unhealthy", "raises", "hangs"])
def test_a_failed_plugin_undoes_the_reload(harness: Harness, strategy: str, end: str) -> None:
    harness.load(a="m:v1", b={"retry": {"max_retries": 1}}, c="m:v1", gone="m:v1")
    before = {name: harness.guarded(name) for name in harness.manager.list_plugins()}
    options = ReloadOptions(strategy=strategy, health_check_timeout=0.2, max_concurrent_reloads=1)
    wanted = config(a="m:v2", b={"endpoint": "m:a", "retry": {"max_retries": 9}}, c=f"m:{end}")
    with pytest.raises(ReloadError, match="'c'") as caught:
        harness.manager.reload_config(wanted, options=options)
    assert caught.value.plugin == "c"
    assert list(caught.value.details["plugins"]) == ["c"]
    assert {name: harness.guarded(name) for name in harness.manager.list_plugins()} == before
    assert harness.guarded("b").pipeline.retry.max_retries == 1
    for name in before:
        assert harness.call(name)
    assert all(not plugin.plugin.closed for plugin in before.values())
    assert all(wire.closed for wire in harness.factory.made if wire not in {p.plugin for p in before.values()})


@pytest.mark.parametrize("word", ["unknown", "degraded", "nohealth", "healthy"])
def test_plugins_that_may_be_healthy_are_put_into_use(harness: Harness, word: str) -> None:
    harness.load(a="m:v1")
    assert harness.reload(a=f"m:{word}").replaced == ("a",)


def test_a_plugin_without_health_checks_must_be_reachable(harness: Harness) -> None:
    off = {"health_check": {"enabled": False}}
    harness.load(a={"endpoint": "m:v1", **off})
    harness.reload(a={"endpoint": "m:unhealthy", **off})
    with pytest.raises(ReloadError, match="reached"):
        harness.reload(a={"endpoint": "m:offline", **off})


def test_all_failed_plugins_are_named(harness: Harness) -> None:
    harness.load(a="m:v1", b="m:v1")
    with pytest.raises(ReloadError) as caught:
        harness.reload(a="m:offline", b="m:unhealthy")
    assert list(caught.value.details["plugins"]) == ["a", "b"]


def test_a_failed_reload_shows_in_the_health(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    harness.load(a="m:v1")
    harness.call("a")
    assert harness.manager.overall_health().status is PluginStatus.HEALTHY
    with pytest.raises(ReloadError):
        harness.reload(a="m:offline")
    health = harness.manager.overall_health()
    assert health.status is PluginStatus.DEGRADED
    assert "last reload" in health.message
    assert "'a'" in health.message
    with pytest.raises(ConfigError):
        harness.manager.reload_config({"plugins": [{"name": "x", "transport": "http"}, {"name": "", "transport": "y"}]})
    logged = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert any("plugins[0].endpoint" in line for line in logged)
    assert any("plugins[1].transport" in line for line in logged)
    harness.reload(a="m:v1")
    assert harness.manager.overall_health().status is PluginStatus.HEALTHY
    assert set(harness.manager.health()) == {"a"}


def test_many_problems_make_one_line(harness: Harness) -> None:
    harness.load(a="m:v1")
    harness.call("a")
    wanted = {"plugins": [{"name": f"p{number}", "transport": "http"} for number in range(30)]}
    with pytest.raises(ConfigError):
        harness.manager.reload_config(wanted)
    message = harness.manager.overall_health().message
    assert message.count("\n") == 0
    assert message.startswith("last reload is degraded (failed: [PLUGIN_1012] configuration: 30 problems: plugins[0].")
    assert "; plugins[1].endpoint: missing [PLUGIN_1003]; " in message
    assert message.endswith("; and 20 more)")


def test_plugins_registered_in_code_stay(harness: Harness) -> None:
    own = FakeClient(PluginConfig(name="own", endpoint="m:code"))
    harness.load(a="m:v1")
    harness.manager.register(own, name="own")
    for strategy in STRATEGIES:
        harness.reload(strategy, a=f"m:{strategy}")
    assert harness.call("own") == ["own", "m:code"]
    assert not own.closed
    with pytest.raises(DuplicatePluginNameError, match="registered in code"):
        harness.reload(a="m:v1", own="m:v1")
    assert harness.call("own") == ["own", "m:code"]


def test_an_unregistered_plugin_is_added_again(harness: Harness) -> None:
    harness.load(a="m:v1", b="m:v1")
    harness.manager.unregister("a")
    assert harness.reload(a="m:v1", b="m:v1").added == ("a",)


def test_without_rollback_successful_batches_stay(harness: Harness) -> None:
    harness.load(a="m:v1", b="m:v1")
    options = ReloadOptions(strategy="rolling", max_concurrent_reloads=1, rollback_on_failure=False)
    with pytest.raises(ReloadError):
        harness.manager.reload_config(config(a="m:v2", b="m:offline"), options=options)
    assert (harness.call("a"), harness.call("b")) == (["a", "m:v2"], ["b", "m:v1"])
    assert [wire.closed for wire in harness.factory.made if wire.endpoint == "m:v1"] == [1, 0]
    assert harness.reload(a="m:v2", b="m:v2").kept == ("a",)  # compared with the running plugins


def test_a_rollback_drains_new_plugins(harness: Harness) -> None:
    """Calls of a new plugin succeed although its reload fails later."""
    harness.load(a="m:v1", b="m:v1")
    started = threading.Event()

    class Slow(type(harness.factory)):  # type: ignore[misc]
        def create_plugin(self, config: Any) -> Any:
            if config.endpoint == "m:late":
                calls.append(harness.in_background(lambda: harness.call("a")))
                assert new.entered.acquire(timeout=10)
                raise RuntimeError("boom")
            return super().create_plugin(config)

    calls: list[Any] = []
    harness.factory.__class__ = Slow

    def hold() -> None:
        nonlocal new
        new = harness.guarded("a").plugin
        new.hold = started

    new: Any = None
    harness.manager._registry.subscribe(hold)
    threading.Timer(0.2, started.set).start()
    options = ReloadOptions(strategy="rolling", max_concurrent_reloads=1)
    with pytest.raises(ReloadError):
        harness.manager.reload_config(config(a="m:v2", b="m:late"), options=options)
    thread, results = calls[0]
    thread.join(10)
    assert results == [["a", "m:v2"]]
    assert harness.call("a") == ["a", "m:v1"]


def test_after_shutdown(harness: Harness) -> None:
    harness.load(a="m:v1")
    harness.manager.shutdown()
    with pytest.raises(ManagerClosedError):
        harness.reload(a="m:v2")
    assert all(wire.closed for wire in harness.factory.made)


def test_the_graceful_timeout(harness: Harness) -> None:
    harness.load(a="m:v1")
    with pytest.raises(ReloadError, match=r"did not answer|graceful_timeout"):
        harness.manager.reload_config(config(a="m:hangs"), options=ReloadOptions(graceful_timeout=0.1))
    assert harness.call("a") == ["a", "m:v1"]


# --- drains ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_known_fault_drain_slept_the_full_timeout(harness: Harness, strategy: str) -> None:
    harness.load(a="m:v1")
    with Stopwatch() as stopwatch:
        report = harness.reload(strategy, a="m:v2")
    assert stopwatch.seconds < 0.5  # not drain_timeout, 30 s; the figure is measured over a real wire
    assert report.replaced == ("a",)


def test_a_drain_ends_with_the_last_call(harness: Harness) -> None:
    harness.load(a="m:v1")
    old = harness.guarded("a").plugin
    old.hold = threading.Event()
    calls = [harness.in_background(lambda: harness.call("a")) for _ in range(3)]
    for _ in calls:
        assert old.entered.acquire(timeout=10)
    threading.Timer(0.3, old.hold.set).start()
    report = harness.reload(a="m:v2")
    outcome = report.plugins[0]
    assert (outcome.drained, outcome.left_behind) == (3, 0)
    assert 0.1 < outcome.drain_time < 5
    assert report.drained == 3
    assert "3 calls drained" in str(report)
    for thread, results in calls:
        thread.join(10)
        assert results == [["a", "m:v1"]]
    assert old.closed == 1


def test_calls_that_outlast_the_drain_timeout(harness: Harness) -> None:
    harness.load(a="m:v1")
    old = harness.guarded("a").plugin
    old.hold = threading.Event()
    old.on_send = lambda call: "late"
    thread, _ = harness.in_background(lambda: harness.call("a"))
    assert old.entered.acquire(timeout=10)
    report = harness.manager.reload_config(config(a="m:v2"), options=ReloadOptions(drain_timeout=0.05))
    assert (report.plugins[0].drained, report.plugins[0].left_behind) == (0, 1)
    old.closed = 0  # else the fake raises
    old.hold.set()
    thread.join(10)


WAITING = [
    pytest.param({"bulkhead": {"max_concurrent": 1, "max_waiting": 9}}, id="for a slot"),
    pytest.param(
        {"rate_limit": {"enabled": True, "requests_per_second": 0.01, "burst_size": 1, "max_wait": 900}},
        id="for a token",
    ),
]


@pytest.mark.parametrize("policy", WAITING)
def test_waiting_calls_go_to_the_successor(harness: Harness, policy: dict[str, Any]) -> None:
    harness.load(a={"endpoint": "m:v1", **policy})
    old = harness.guarded("a").plugin
    old.hold = threading.Event()
    old.on_send = lambda call: "late"
    events: list[Any] = []
    harness.manager.subscribe(events.append, CallFinished)
    first, late = harness.in_background(lambda: harness.call("a"))
    assert old.entered.acquire(timeout=10)
    others = [harness.in_background(lambda: harness.call("a", timeout=1000)) for _ in range(3)]
    guarded = harness.guarded("a")
    while guarded.tracker.in_flight < 4:
        time.sleep(0.001)
    time.sleep(0.05)  # all are admitted, three wait
    report = harness.manager.reload_config(config(a="m:v2"), options=ReloadOptions(drain_timeout=0.05))
    assert (report.plugins[0].drained, report.plugins[0].left_behind) == (0, 1)
    assert str(report).splitlines()[1] == "  a: replaced, 1 left behind"
    for thread, results in others:
        thread.join(10)
        assert results == [["a", "m:v2"]]
    assert not late
    old.closed = 0  # else the fake raises
    old.hold.set()
    first.join(10)
    assert late == ["late"]
    metrics = harness.manager.metrics()
    assert metrics.requests_failure == 0
    assert metrics.requests_success == 4  # the call that was left behind counts, too, once it has ended
    harness.manager.shutdown(1)  # delivers all events
    assert [event.error for event in events] == [None] * 4


def test_a_call_rejected_by_a_replaced_plugin_is_no_failure(harness: Harness) -> None:
    harness.load(a="m:v1")
    old, dispatcher = harness.guarded("a"), harness.manager._dispatcher
    events: list[Any] = []
    harness.manager.subscribe(events.append, CallFinished)
    call = dispatcher.start("a", harness.manager._types(), 1, None, None, None, None, None)
    harness.reload(a="m:v2")
    with pytest.raises(PluginClosedError):
        old.call(call)
    assert dispatcher.run("a", call) == ["a", "m:v2"]
    metrics = harness.manager.metrics()
    assert (metrics.requests_success, metrics.requests_failure) == (1, 0)
    harness.manager.shutdown(1)
    assert [event.error for event in events] == [None]


def test_a_call_rejected_by_a_removed_plugin_is_a_failure(harness: Harness) -> None:
    harness.load(a="m:v1", b="m:v1")
    old, dispatcher = harness.guarded("a"), harness.manager._dispatcher
    events: list[Any] = []
    harness.manager.subscribe(events.append, CallFinished)
    call = dispatcher.start("a", harness.manager._types(), 1, None, None, None, None, None)
    harness.reload(b="m:v1")
    with pytest.raises(PluginClosedError):
        old.call(call)
    harness.manager.shutdown(1)
    assert [event.error.code for event in events] == ["PLUGIN_1207"]


def test_a_call_waiting_for_its_retry_continues(harness: Harness) -> None:
    retry = {"retry": {"initial_interval": 0.3, "random_jitter": False, "idempotent": True}}
    harness.load(a={"endpoint": "m:v1", **retry})
    old = harness.guarded("a").plugin
    failed = threading.Event()

    def fail_once(call: Any) -> Any:
        if not failed.is_set():
            failed.set()
            raise PluginUnavailableError("not now", replay=Replay.ALWAYS)
        return "again"

    old.on_send = fail_once
    thread, results = harness.in_background(lambda: harness.call("a"))
    assert failed.wait(10)
    harness.reload(a={"endpoint": "m:v2", **retry})
    thread.join(10)
    assert results == ["again"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_plugin_that_reloads_itself_does_not_deadlock(harness: Harness, strategy: str) -> None:
    harness.load(a="m:v1", b="m:v1")
    old = harness.guarded("a").plugin
    reports = []

    def reload_first(call: Any) -> Any:
        reports.append(harness.reload(strategy, a="m:v2", b="m:v2"))
        old.on_send = lambda call: "again"
        assert not old.closed  # still in use by this call
        return "done"

    old.on_send = reload_first
    assert harness.call("a", timeout=10) == "done"
    assert old.closed == 1
    assert reports[0].names("replaced") == ("a", "b")
    assert reports[0].drained == 0
    assert harness.call("a") == ["a", "m:v2"]


def test_a_drained_call_may_reload(harness: Harness) -> None:
    """The first reload waits for a call that makes a second one on its own thread."""
    harness.load(a="m:v1")
    old = harness.guarded("a").plugin
    old.hold = threading.Event()
    old.on_send = lambda call: harness.reload(a="m:v3").replaced[0]
    thread, results = harness.in_background(lambda: harness.call("a"))
    assert old.entered.acquire(timeout=10)
    first, reports = harness.in_background(lambda: harness.reload(a="m:v2"))
    while not old.config or harness.guarded("a").plugin is old:
        time.sleep(0.001)
    old.hold.set()
    thread.join(10)
    first.join(10)
    assert results == ["a"]
    assert reports[0].drained == 1
    assert harness.call("a") == ["a", "m:v3"]


def test_nested_calls_of_admitted_calls_reach_removed_plugins(harness: Harness) -> None:
    harness.load(a="m:v1", b="m:v1")
    old = harness.guarded("a").plugin
    old.hold = threading.Event()
    old.on_send = lambda call: harness.call("b")
    thread, results = harness.in_background(lambda: harness.call("a"))
    assert old.entered.acquire(timeout=10)
    threading.Timer(0.1, old.hold.set).start()
    harness.reload(c="m:v1")
    thread.join(10)
    assert results == [["b", "m:v1"]]


def test_reloads_run_one_at_a_time(harness: Harness) -> None:
    harness.load(a="m:v0")
    going = []
    most = []
    make = harness.factory.create_plugin

    def slow(config: Any) -> Any:
        going.append(1)
        most.append(len(going))
        time.sleep(0.01)
        going.pop()
        return make(config)

    harness.factory.create_plugin = slow  # type: ignore[method-assign]
    threads = [harness.in_background(lambda n=n: harness.reload(a=f"m:v{n}")) for n in range(1, 9)]
    for thread, results in threads:
        thread.join(20)
        assert not isinstance(results[0], Exception), results
    assert max(most) == 1
    assert sum(not wire.closed for wire in harness.factory.made) == 1


def test_a_reload_within_a_reload_is_rejected(harness: Harness) -> None:
    harness.load(a="m:v1")
    make = harness.factory.create_plugin

    def nested(config: Any) -> Any:
        harness.reload(a="m:v3")
        return make(config)

    harness.factory.create_plugin = nested  # type: ignore[method-assign]
    with pytest.raises(ReloadError, match="itself"):
        harness.reload(a="m:v2")


def test_a_reload_that_waits_for_another_one_times_out(harness: Harness) -> None:
    harness.load(a="m:v1")
    entered, leave = threading.Event(), threading.Event()
    make = harness.factory.create_plugin

    def stuck(config: Any) -> Any:
        entered.set()
        assert leave.wait(20)
        return make(config)

    harness.factory.create_plugin = stuck  # type: ignore[method-assign]
    thread, _ = harness.in_background(lambda: harness.reload(a="m:v2"))
    assert entered.wait(10)
    with pytest.raises(ReloadError, match="under way"):
        harness.manager.reload_config(config(a="m:v3"), options=ReloadOptions(graceful_timeout=0.05))
    leave.set()
    thread.join(10)


def hold_creation(harness: Harness, endpoint: str) -> tuple[threading.Event, threading.Event]:
    """Has the factory wait while it makes the plugin of ``endpoint``: an event when it does, and one that ends it."""
    entered, leave = threading.Event(), threading.Event()
    make = harness.factory.create_plugin

    def held(config: Any) -> Any:
        if config.endpoint == endpoint:
            entered.set()
            assert leave.wait(20)
        return make(config)

    harness.factory.create_plugin = held  # type: ignore[method-assign]
    return entered, leave


def open_clients(harness: Harness) -> list[str]:
    return sorted(f"{client.name} {client.endpoint}" for client in harness.factory.made if not client.closed)


def test_a_first_reload_waits_for_a_load_and_changes_what_it_has_loaded(harness: Harness) -> None:
    entered, leave = hold_creation(harness, "m:v1")
    loading, loaded = harness.in_background(lambda: harness.load(a="m:v1", b="m:v0"))
    assert entered.wait(10)
    reloading, reports = harness.in_background(lambda: harness.reload(a="m:v2", b="m:v0", c="m:v0"))
    time.sleep(0.05)
    assert reports == []
    leave.set()
    loading.join(10)
    reloading.join(10)
    assert loaded == [None]
    assert (reports[0].replaced, reports[0].kept, reports[0].added) == (("a",), ("b",), ("c",))
    assert open_clients(harness) == ["a m:v2", "b m:v0", "c m:v0"]
    assert harness.call("a") == ["a", "m:v2"]


def test_a_load_beside_a_first_reload_is_rejected(harness: Harness) -> None:
    entered, leave = hold_creation(harness, "m:v1")
    reloading, reports = harness.in_background(lambda: harness.reload(a="m:v1"))
    assert entered.wait(10)
    loading, loaded = harness.in_background(lambda: harness.load(a="m:v2", b="m:v2"))
    time.sleep(0.05)
    leave.set()
    loading.join(10)
    reloading.join(10)
    assert reports[0].added == ("a",)
    with pytest.raises(ConfigError, match="loaded its configuration already"):
        raise loaded[0]
    assert open_clients(harness) == ["a m:v1"]
    assert set(harness.manager.list_plugins()) == {"a"}


def test_of_two_loads_at_once_one_succeeds(harness: Harness) -> None:
    loads = [harness.in_background(lambda name=f"p{n}": harness.load(**{name: "m:v1"})) for n in range(8)]
    for thread, _ in loads:
        thread.join(10)
    errors = [result for _, (result,) in loads if result is not None]
    assert len(errors) == 7
    assert all(isinstance(error, ConfigError) for error in errors)
    assert len(open_clients(harness)) == len(harness.manager.list_plugins()) == 1


def test_a_load_after_one_that_failed_succeeds(harness: Harness) -> None:
    entered, leave = hold_creation(harness, "m:v1")
    failing, failed = harness.in_background(lambda: harness.load(a="m:v1", b="m:broken"))
    assert entered.wait(10)
    loading, loaded = harness.in_background(lambda: harness.load(c="m:v2"))
    leave.set()
    failing.join(10)
    loading.join(10)
    assert isinstance(failed[0], RuntimeError)
    assert loaded == [None]
    assert open_clients(harness) == ["c m:v2"]


def test_a_watch_beside_a_load_waits_for_it(harness: Harness, tmp_path: Path) -> None:
    path = tmp_path / "plugins.json"
    path.write_text(json.dumps(config(a="m:v2")))
    entered, leave = hold_creation(harness, "m:v1")
    loading, loaded = harness.in_background(lambda: harness.load(a="m:v1"))
    assert entered.wait(10)
    watching, watches = harness.in_background(lambda: harness.manager.watch(path, interval=0.05))
    time.sleep(0.05)
    leave.set()
    loading.join(10)
    watching.join(10)
    assert loaded == [None]
    with watches[0]:
        assert len(harness.factory.made) == 1
        until = time.monotonic() + 10
        while harness.call("a") != ["a", "m:v2"] and time.monotonic() < until:
            time.sleep(0.02)
        assert harness.call("a") == ["a", "m:v2"]


# --- counts ------------------------------------------------------------------------------------------------------


def test_counts_continue_through_reloads(harness: Harness) -> None:
    harness.load(a="m:v1", b="m:v1")
    for _ in range(3):
        harness.call("a")
        harness.call("b")
    harness.reload("recreate", a="m:v2", b="m:v1")
    harness.call("a")
    metrics = harness.manager.metrics()
    assert (metrics.plugins["a"].requests_total, metrics.plugins["b"].requests_total) == (4, 3)
    assert metrics.requests_total == 7
    harness.reload(b="m:v1")
    metrics = harness.manager.metrics()
    assert "a" not in metrics.plugins
    assert metrics.requests_total == 7


# --- the known faults --------------------------------------------------------------------------------------------


def _errors_during(harness: Harness, reload: Any, name: str = "a") -> list[Exception]:
    """The errors of threads that call continuously while ``reload`` runs."""
    errors: list[Exception] = []
    over = threading.Event()

    def call() -> None:
        while not over.is_set():
            try:
                harness.call(name)
            except Exception as exc:
                errors.append(exc)
                return

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        reload()
    finally:
        over.set()
        for thread in threads:
            thread.join(10)
    return errors


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_known_fault_calls_under_load_failed_with_not_found(harness: Harness, strategy: str) -> None:
    harness.load(a="m:v0", b="m:v0")

    def reload() -> None:
        for number in range(1, 40):
            harness.reload(strategy, a=f"m:v{number}", b=f"m:v{number}")

    assert _errors_during(harness, reload) == []
    assert sum(not wire.closed for wire in harness.factory.made) == 2


def test_known_fault_the_plugin_was_unregistered_before_its_successor_existed(harness: Harness) -> None:
    harness.load(a="m:v1")
    make = harness.factory.create_plugin
    answers = []

    def call_first(config: Any) -> Any:
        answers.append(harness.call("a"))
        return make(config)

    harness.factory.create_plugin = call_first  # type: ignore[method-assign]
    harness.reload(a="m:v2")
    assert answers == [["a", "m:v1"]]


def test_known_fault_rolling_closed_the_plugin_that_it_had_just_created(harness: Harness) -> None:
    harness.load(a="m:v1", b="m:v1")
    harness.reload("rolling", a="m:v2", b="m:v2", c="m:v2")
    assert [(wire.name, wire.closed) for wire in harness.factory.made if wire.endpoint == "m:v2"] == [
        ("a", 0), ("b", 0), ("c", 0),
    ]  # fmt: skip
    assert harness.call("c") == ["c", "m:v2"]


def test_known_fault_policy_changes_were_logged_and_dropped(harness: Harness) -> None:
    harness.load(a={"circuit_breaker": {"enabled": False}})
    harness.call("a")
    report = harness.reload(
        a={
            "retry": {"max_retries": 8, "idempotent": True, "budget_ratio": 0.5},
            "rate_limit": {"enabled": True, "burst_size": 2, "requests_per_second": 0.001},
            "circuit_breaker": {"enabled": True, "failure_threshold": 1, "min_request_threshold": 1},
            "connection": {"request_timeout": 7},
            "health_check": {"interval": 99},
        }
    )
    assert report.updated == ("a",)
    plugin = harness.guarded("a")
    assert (plugin.pipeline.retry.max_retries, plugin.pipeline.idempotent, plugin.pipeline.request_timeout) == (
        8,
        True,
        7,
    )
    assert harness.manager.metrics().plugins["a"].requests_total == 1
    harness.call("a")
    plugin.plugin.on_send = _fail
    with pytest.raises(PluginUnavailableError):
        harness.call("a", idempotent=False)
    assert plugin.pipeline.breaker.state == "open"


def _fail(call: Any) -> Any:
    raise PluginUnavailableError("no")


def test_known_fault_enabled_false_was_ignored(harness: Harness) -> None:
    harness.load(a="m:v1", b={"enabled": False})
    with pytest.raises(PluginNotEnabledError):
        harness.call("b")
    report = harness.reload(a={"endpoint": "m:v1", "enabled": False}, b={"enabled": True})
    assert (report.removed, report.added) == (("a",), ("b",))
    with pytest.raises(PluginNotEnabledError):
        harness.call("a")
    assert harness.call("b")
    harness.reload(a="m:v1", b={"enabled": True})
    assert harness.call("a")


def test_known_fault_the_managers_first_configuration_was_unknown_to_the_reloader(harness: Harness) -> None:
    harness.load(a="m:v1", b="m:v1")
    made = len(harness.factory.made)
    report = harness.reload(a="m:v1", b="m:v1")
    assert (report.kept, not report.diff, len(harness.factory.made)) == (("a", "b"), True, made)


def test_known_fault_a_failed_recreate_left_no_plugin_at_all(harness: Harness) -> None:
    harness.load(a="m:v1", b="m:v1")
    with pytest.raises(ReloadError):
        harness.reload("recreate", a="m:v1", b="m:offline")
    assert (harness.call("a"), harness.call("b")) == (["a", "m:v1"], ["b", "m:v1"])


def test_errors_of_a_plugin_pass(harness: Harness) -> None:
    """An error of the old plugin is not mistaken for its rejection of new calls."""
    harness.load(a="m:v1")

    def refuse(call: Any) -> Any:
        raise PluginExecutionError("no", code="X")

    harness.guarded("a").plugin.on_send = refuse
    with pytest.raises(PluginError):
        harness.call("a")


def test_a_breaker_that_is_forced_open_stays_so(harness: Harness) -> None:
    harness.load(a="m:v1")
    harness.guarded("a").pipeline.breaker.force_open()
    harness.reload(a={"endpoint": "m:v1", "circuit_breaker": {"failure_threshold": 9}})
    assert harness.guarded("a").pipeline.breaker.state == "open"
    assert CircuitBreakerConfig().failure_threshold is None


def test_managers_do_not_share(harness: Harness) -> None:
    harness.load(a="m:v1")
    other: Manager[Any, Any] = Manager()
    other.register_factory("fake", harness.factory)
    other.reload_config(config(a="m:v2"))
    assert harness.call("a") == ["a", "m:v1"]
    other.shutdown()
