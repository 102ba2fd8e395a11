"""Reloading: strategies, all or nothing, drains, and what each known fault of the Go library would look like."""

from __future__ import annotations

import logging
import threading
import time
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

from .conftest import House, Wire, config

STRATEGIES = list(ReloadStrategy)


def wires(house: House) -> dict[str, Any]:
    return {name: house.guarded(name).plugin for name in house.manager.list_plugins()}


# --- what becomes of whom ----------------------------------------------------------------------------------------


def test_what_did_not_change_is_kept_and_the_rest_changes_at_once(house: House) -> None:
    house.load(a="m:v1", b="m:v1", c="m:v1", d={"retry": {"max_retries": 1}})
    before = wires(house)
    report = house.reload(a="m:v1", b="m:v2", e="m:v1", d={"retry": {"max_retries": 5}})
    assert (report.kept, report.replaced, report.added, report.removed, report.updated) == (
        ("a",), ("b",), ("e",), ("c",), ("d",),
    )  # fmt: skip
    after = wires(house)
    assert after["a"] is before["a"]
    assert after["d"] is before["d"]
    assert after["b"] is not before["b"]
    assert house.ask("b") == ["b", "m:v2"]
    assert (before["b"].closed, before["c"].closed, before["a"].closed) == (1, 1, 0)
    with pytest.raises(PluginNotFoundError):
        house.ask("c")
    assert str(report).splitlines()[1:] == ["  b: replaced", "  e: added", "  d: updated", "  c: removed"]
    assert [update.name for update in report.diff.updated] == ["b", "d"]


def test_recreate_makes_all_of_them_anew(house: House) -> None:
    house.load(a="m:v1", b="m:v1")
    before = wires(house)
    report = house.reload("recreate", a="m:v1", b={"endpoint": "m:v1", "retry": {"max_retries": 9}})
    assert report.replaced == ("a", "b")
    assert all(wire.closed == 1 for wire in before.values())
    assert set(wires(house).values()).isdisjoint(before.values())


def test_rolling_replaces_a_few_at_a_time_and_keeps_the_old_clients_until_the_end(house: House) -> None:
    names = [f"p{index}" for index in range(5)]
    house.load(**dict.fromkeys(names, "m:v1"))
    old = wires(house)
    seen = []
    registry = house.manager._registry

    def note() -> None:
        seen.append([name for name, plugin in registry.plugins.items() if plugin.config.endpoint == "m:v2"])
        assert all(not wire.closed for wire in old.values())

    registry.subscribe(note)
    options = ReloadOptions(strategy="rolling", max_concurrent_reloads=2)
    house.manager.reload_config(config(**dict.fromkeys(names, "m:v2")), options=options)
    assert seen == [names[:2], names[:4], names]
    assert all(wire.closed == 1 for wire in old.values())


def test_reload_before_any_load_is_a_load(house: House) -> None:
    assert house.reload(a="m:offline").added == ("a",)  # nothing runs that could be harmed
    with pytest.raises(ConfigError, match="already"):
        house.load(a="m:v1")
    assert house.reload(a="m:v2").replaced == ("a",)


def test_dry_run_does_nothing(house: House) -> None:
    house.load(a="m:v1", b="m:v1")
    before, made = wires(house), len(house.factory.made)
    report = house.manager.reload_config(config(a="m:v2", c="m:broken"), dry_run=True)
    assert report.dry_run
    assert (report.replaced, report.added, report.removed) == (("a",), ("c",), ("b",))
    assert wires(house) == before
    assert len(house.factory.made) == made
    with pytest.raises(ConfigError):
        house.manager.reload_config({"plugins": [{"name": "x"}]}, dry_run=True)
    assert "last reload" not in house.manager.overall_health().message


def test_a_reloader_keeps_its_options(house: House) -> None:
    house.load(a="m:v1")
    reloader = PluginReloader(house.manager, ReloadOptions(strategy="recreate"))
    assert not reloader.preview(config(a="m:v1"))
    assert reloader.reload(config(a="m:v1")).replaced == ("a",)


@pytest.mark.parametrize("given", [{"strategy": "sideways"}, {"options": {"drain_timeout": 1}}])
def test_options_that_are_none(house: House, given: Any) -> None:
    house.load(a="m:v1")
    with pytest.raises((ConfigError, InvalidArgumentError)):
        house.manager.reload_config(config(a="m:v1"), **given)
    assert "last reload" not in house.manager.overall_health().message


def test_groups_see_the_new_members(house: House) -> None:
    group = {"load_balancers": [{"name": "g", "members": ["a", "b"]}]}
    house.manager.load_from_config(config(group, a="m:v1", b="m:v1"))
    report = house.manager.reload_config(config(group, a="m:v2", b="m:v2"))
    assert report.kept == ("g",)
    assert {tuple(house.ask("g")) for _ in range(20)} == {("a", "m:v2"), ("b", "m:v2")}
    group["load_balancers"][0]["members"] = ["b", "c"]
    assert house.manager.reload_config(config(group, b="m:v2", c="m:v1")).replaced == ("g",)
    assert {tuple(house.ask("g")) for _ in range(20)} == {("b", "m:v2"), ("c", "m:v1")}


def test_policies_of_a_group_change_in_place(house: House) -> None:
    group: Any = {"load_balancers": [{"name": "g", "members": ["a"], "retry": {"max_retries": 1}}]}
    house.manager.load_from_config(config(group, a="m:v1"))
    group["load_balancers"][0]["retry"]["max_retries"] = 4
    report = house.manager.reload_config(config(group, a="m:v1"))
    assert report.updated == ("g",)
    assert [str(change) for change in report.diff.updated[0].changes] == ["retry.max_retries: 1 -> 4"]
    assert house.guarded("g").policies.retry.max_retries == 4


def test_the_log_level_is_that_of_the_configuration(house: House) -> None:
    logger = logging.getLogger("goplugins")
    house.manager.load_from_config(config({"log_level": "debug"}, a="m:v1"))
    assert logger.level == logging.DEBUG
    house.manager.reload_config(config({"log_level": "info"}, a="m:v1"))
    assert logger.level == logging.INFO
    logger.setLevel(logging.ERROR)  # the host's own wish
    house.manager.reload_config(config(a="m:v2"))
    assert logger.level == logging.ERROR


def test_the_host_s_own_logging_is_not_touched(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host's settings stay, above, beside and below: only the level of ``goplugins`` follows the configuration."""
    monkeypatch.setattr(logging.getLogger("goplugins"), "level", logging.NOTSET)

    def state() -> dict[str, Any]:
        known = {"root": logging.root, **logging.root.manager.loggerDict}
        return {
            name: (found.level, list(found.handlers), list(found.filters), found.propagate, found.disabled)
            for name, found in known.items()
            if isinstance(found, logging.Logger) and name != "goplugins"
        }

    house.load(a="m:v1")  # whatever is imported or made by the first load is there
    house.manager.reload_config(config({"log_level": "info"}, a="m:v2"))
    before, disabled = state(), logging.root.manager.disable
    for level in ("debug", "info", "critical", "info"):
        house.manager.reload_config(config({"log_level": level}, a="m:v2"))
    assert state() == before
    assert logging.root.manager.disable == disabled
    handlers = logging.getLogger("goplugins").handlers
    assert [type(handler) for handler in handlers] == [logging.NullHandler]


def test_a_level_for_lines_of_calls_alone_comes_and_goes(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = logging.getLogger("goplugins.calls")
    monkeypatch.setattr(calls, "level", logging.NOTSET)
    house.load(a="m:v1")
    assert calls.level == logging.NOTSET  # what the host says of goplugins holds for them, too
    house.manager.reload_config(config({"observability": {"log_level": "error"}}, a="m:v1"))
    assert calls.level == logging.ERROR
    house.reload(a="m:v1")
    assert calls.level == logging.NOTSET
    calls.setLevel(logging.CRITICAL)  # the host's own wish
    house.manager.reload_config(config({"log_level": "debug"}, a="m:v1"))
    assert calls.level == logging.CRITICAL


# --- all or nothing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("end", ["broken", "offline", "unhealthy", "raises", "hangs"])
def test_a_third_plugin_that_fails_leaves_everything_as_it_was(house: House, strategy: str, end: str) -> None:
    house.load(a="m:v1", b={"retry": {"max_retries": 1}}, c="m:v1", gone="m:v1")
    before = {name: house.guarded(name) for name in house.manager.list_plugins()}
    options = ReloadOptions(strategy=strategy, health_check_timeout=0.2, max_concurrent_reloads=1)
    wanted = config(a="m:v2", b={"endpoint": "m:a", "retry": {"max_retries": 9}}, c=f"m:{end}")
    with pytest.raises(ReloadError, match="'c'") as caught:
        house.manager.reload_config(wanted, options=options)
    assert caught.value.plugin == "c"
    assert list(caught.value.details["plugins"]) == ["c"]
    assert {name: house.guarded(name) for name in house.manager.list_plugins()} == before
    assert house.guarded("b").policies.retry.max_retries == 1
    for name in before:
        assert house.ask(name)
    assert all(not plugin.plugin.closed for plugin in before.values())
    assert all(wire.closed for wire in house.factory.made if wire not in {p.plugin for p in before.values()})


@pytest.mark.parametrize("word", ["unknown", "degraded", "nohealth", "healthy"])
def test_plugins_without_a_verdict_are_no_failure(house: House, word: str) -> None:
    house.load(a="m:v1")
    assert house.reload(a=f"m:{word}").replaced == ("a",)


def test_one_whose_health_is_not_looked_at_may_be_unwell_but_must_be_there(house: House) -> None:
    off = {"health_check": {"enabled": False}}
    house.load(a={"endpoint": "m:v1", **off})
    house.reload(a={"endpoint": "m:unhealthy", **off})
    with pytest.raises(ReloadError, match="reached"):
        house.reload(a={"endpoint": "m:offline", **off})


def test_all_that_fail_are_named(house: House) -> None:
    house.load(a="m:v1", b="m:v1")
    with pytest.raises(ReloadError) as caught:
        house.reload(a="m:offline", b="m:unhealthy")
    assert list(caught.value.details["plugins"]) == ["a", "b"]


def test_a_failed_reload_shows_until_the_next_good_one(house: House, caplog: pytest.LogCaptureFixture) -> None:
    house.load(a="m:v1")
    house.ask("a")
    assert house.manager.overall_health().status is PluginStatus.HEALTHY
    with pytest.raises(ReloadError):
        house.reload(a="m:offline")
    health = house.manager.overall_health()
    assert health.status is PluginStatus.DEGRADED
    assert "last reload" in health.message
    assert "'a'" in health.message
    with pytest.raises(ConfigError):
        house.manager.reload_config({"plugins": [{"name": "x", "transport": "http"}, {"name": "", "transport": "y"}]})
    logged = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert any("plugins[0].endpoint" in line for line in logged)
    assert any("plugins[1].transport" in line for line in logged)
    house.reload(a="m:v1")
    assert house.manager.overall_health().status is PluginStatus.HEALTHY
    assert set(house.manager.health()) == {"a"}


def test_many_problems_stay_on_the_line_of_the_reload(house: House) -> None:
    house.load(a="m:v1")
    house.ask("a")
    wanted = {"plugins": [{"name": f"p{number}", "transport": "http"} for number in range(30)]}
    with pytest.raises(ConfigError):
        house.manager.reload_config(wanted)
    message = house.manager.overall_health().message
    assert message.count("\n") == 0
    assert message.startswith("last reload is degraded (failed: [PLUGIN_1012] configuration: 30 problems: plugins[0].")
    assert "; plugins[1].endpoint: missing [PLUGIN_1003]; " in message
    assert message.endswith("; and 20 more)")


def test_plugins_registered_in_code_are_not_touched(house: House) -> None:
    own = Wire(PluginConfig(name="own", endpoint="m:code"))
    house.load(a="m:v1")
    house.manager.register(own, name="own")
    for strategy in STRATEGIES:
        house.reload(strategy, a=f"m:{strategy}")
    assert house.ask("own") == ["own", "m:code"]
    assert not own.closed
    with pytest.raises(DuplicatePluginNameError, match="registered in code"):
        house.reload(a="m:v1", own="m:v1")
    assert house.ask("own") == ["own", "m:code"]


def test_a_plugin_that_code_unregistered_comes_back(house: House) -> None:
    house.load(a="m:v1", b="m:v1")
    house.manager.unregister("a")
    assert house.reload(a="m:v1", b="m:v1").added == ("a",)


def test_without_rollback_the_groups_that_passed_stay(house: House) -> None:
    house.load(a="m:v1", b="m:v1")
    options = ReloadOptions(strategy="rolling", max_concurrent_reloads=1, rollback_on_failure=False)
    with pytest.raises(ReloadError):
        house.manager.reload_config(config(a="m:v2", b="m:offline"), options=options)
    assert (house.ask("a"), house.ask("b")) == (["a", "m:v2"], ["b", "m:v1"])
    assert [wire.closed for wire in house.factory.made if wire.endpoint == "m:v1"] == [1, 0]
    assert house.reload(a="m:v2", b="m:v2").kept == ("a",)  # it goes by what runs, not by what was written


def test_a_rollback_drains_the_new_ones(house: House) -> None:
    """Calls that a new plugin took before its reload failed end well."""
    house.load(a="m:v1", b="m:v1")
    started = threading.Event()

    class Slow(type(house.factory)):  # type: ignore[misc]
        def create_plugin(self, config: Any) -> Any:
            if config.endpoint == "m:late":
                calls.append(house.in_background(lambda: house.ask("a")))
                assert new.entered.acquire(timeout=10)
                raise RuntimeError("boom")
            return super().create_plugin(config)

    calls: list[Any] = []
    house.factory.__class__ = Slow

    def hold() -> None:
        nonlocal new
        new = house.guarded("a").plugin
        new.hold = started

    new: Any = None
    house.manager._registry.subscribe(hold)
    threading.Timer(0.2, started.set).start()
    options = ReloadOptions(strategy="rolling", max_concurrent_reloads=1)
    with pytest.raises(ReloadError):
        house.manager.reload_config(config(a="m:v2", b="m:late"), options=options)
    thread, results = calls[0]
    thread.join(10)
    assert results == [["a", "m:v2"]]
    assert house.ask("a") == ["a", "m:v1"]


def test_after_shutdown(house: House) -> None:
    house.load(a="m:v1")
    house.manager.shutdown()
    with pytest.raises(ManagerClosedError):
        house.reload(a="m:v2")
    assert all(wire.closed for wire in house.factory.made)


def test_it_has_to_be_done_in_time(house: House) -> None:
    house.load(a="m:v1")
    with pytest.raises(ReloadError, match=r"did not answer|graceful_timeout"):
        house.manager.reload_config(config(a="m:hangs"), options=ReloadOptions(graceful_timeout=0.1))
    assert house.ask("a") == ["a", "m:v1"]


# --- drains ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_known_fault_drain_slept_the_full_timeout(house: House, strategy: str) -> None:
    house.load(a="m:v1")
    with Stopwatch() as stopwatch:
        report = house.reload(strategy, a="m:v2")
    assert stopwatch.seconds < 0.5  # not drain_timeout, 30 s; the figure is measured over a real wire
    assert report.replaced == ("a",)


def test_a_drain_lasts_as_long_as_the_last_call(house: House) -> None:
    house.load(a="m:v1")
    old = house.guarded("a").plugin
    old.hold = threading.Event()
    calls = [house.in_background(lambda: house.ask("a")) for _ in range(3)]
    for _ in calls:
        assert old.entered.acquire(timeout=10)
    threading.Timer(0.3, old.hold.set).start()
    report = house.reload(a="m:v2")
    outcome = report.plugins[0]
    assert (outcome.drained, outcome.left_behind) == (3, 0)
    assert 0.1 < outcome.drain_time < 5
    assert report.drained == 3
    assert "3 calls drained" in str(report)
    for thread, results in calls:
        thread.join(10)
        assert results == [["a", "m:v1"]]
    assert old.closed == 1


def test_drain_timeout_leaves_the_rest_to_themselves(house: House) -> None:
    house.load(a="m:v1")
    old = house.guarded("a").plugin
    old.hold = threading.Event()
    old.on_send = lambda call: "late"
    thread, _ = house.in_background(lambda: house.ask("a"))
    assert old.entered.acquire(timeout=10)
    report = house.manager.reload_config(config(a="m:v2"), options=ReloadOptions(drain_timeout=0.05))
    assert (report.plugins[0].drained, report.plugins[0].left_behind) == (0, 1)
    old.closed = 0  # the fake minds
    old.hold.set()
    thread.join(10)


WAITING = [
    pytest.param({"bulkhead": {"max_concurrent": 1, "max_waiting": 9}}, id="for a place"),
    pytest.param(
        {"rate_limit": {"enabled": True, "requests_per_second": 0.01, "burst_size": 1, "max_wait": 900}},
        id="for a token",
    ),
]


@pytest.mark.parametrize("policy", WAITING)
def test_calls_that_go_to_the_successor_are_neither_left_behind_nor_failed(
    house: House, policy: dict[str, Any]
) -> None:
    house.load(a={"endpoint": "m:v1", **policy})
    old = house.guarded("a").plugin
    old.hold = threading.Event()
    old.on_send = lambda call: "late"
    told: list[Any] = []
    house.manager.subscribe(told.append, CallFinished)
    first, late = house.in_background(lambda: house.ask("a"))
    assert old.entered.acquire(timeout=10)
    others = [house.in_background(lambda: house.ask("a", timeout=1000)) for _ in range(3)]
    guarded = house.guarded("a")
    while guarded.tracker.in_flight < 4:
        time.sleep(0.001)
    time.sleep(0.05)  # they are inside, and now they wait
    report = house.manager.reload_config(config(a="m:v2"), options=ReloadOptions(drain_timeout=0.05))
    assert (report.plugins[0].drained, report.plugins[0].left_behind) == (0, 1)
    assert str(report).splitlines()[1] == "  a: replaced, 1 left behind"
    for thread, results in others:
        thread.join(10)
        assert results == [["a", "m:v2"]]
    assert not late
    old.closed = 0  # the fake minds
    old.hold.set()
    first.join(10)
    assert late == ["late"]
    metrics = house.manager.metrics()
    assert metrics.requests_failure == 0
    assert metrics.requests_success == 3  # and the one that was given up
    house.manager.shutdown(1)  # tells all that there is to tell
    assert [event.error for event in told] == [None] * 4


def test_who_comes_to_the_gate_of_a_replaced_plugin_has_not_failed(house: House) -> None:
    house.load(a="m:v1")
    old, caller = house.guarded("a"), house.manager._dispatcher
    told: list[Any] = []
    house.manager.subscribe(told.append, CallFinished)
    call = caller.start("a", house.manager._types(), 1, None, None, None, None, None)
    house.reload(a="m:v2")
    with pytest.raises(PluginClosedError):
        old.call(call)
    assert caller.run("a", call) == ["a", "m:v2"]
    metrics = house.manager.metrics()
    assert (metrics.requests_success, metrics.requests_failure) == (1, 0)
    house.manager.shutdown(1)
    assert [event.error for event in told] == [None]


def test_who_comes_to_the_gate_of_a_removed_plugin_has_failed(house: House) -> None:
    house.load(a="m:v1", b="m:v1")
    old, caller = house.guarded("a"), house.manager._dispatcher
    told: list[Any] = []
    house.manager.subscribe(told.append, CallFinished)
    call = caller.start("a", house.manager._types(), 1, None, None, None, None, None)
    house.reload(b="m:v1")
    with pytest.raises(PluginClosedError):
        old.call(call)
    house.manager.shutdown(1)
    assert [event.error.code for event in told] == ["PLUGIN_1207"]


def test_a_call_that_waits_for_its_retry_is_not_cut(house: House) -> None:
    retry = {"retry": {"initial_interval": 0.3, "random_jitter": False, "idempotent": True}}
    house.load(a={"endpoint": "m:v1", **retry})
    old = house.guarded("a").plugin
    failed = threading.Event()

    def fail_once(call: Any) -> Any:
        if not failed.is_set():
            failed.set()
            raise PluginUnavailableError("not now", replay=Replay.ALWAYS)
        return "again"

    old.on_send = fail_once
    thread, results = house.in_background(lambda: house.ask("a"))
    assert failed.wait(10)
    house.reload(a={"endpoint": "m:v2", **retry})
    thread.join(10)
    assert results == ["again"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_plugin_that_reloads_itself_does_not_deadlock(house: House, strategy: str) -> None:
    house.load(a="m:v1", b="m:v1")
    old = house.guarded("a").plugin
    reports = []

    def reload_first(call: Any) -> Any:
        reports.append(house.reload(strategy, a="m:v2", b="m:v2"))
        old.on_send = lambda call: "again"
        assert not old.closed  # it is still in use: by this very call
        return "done"

    old.on_send = reload_first
    assert house.ask("a", timeout=10) == "done"
    assert old.closed == 1
    assert reports[0].names("replaced") == ("a", "b")
    assert reports[0].drained == 0
    assert house.ask("a") == ["a", "m:v2"]


def test_a_call_that_is_drained_may_reload_too(house: House) -> None:
    """The first reload waits for a call that makes a second one on its own thread."""
    house.load(a="m:v1")
    old = house.guarded("a").plugin
    old.hold = threading.Event()
    old.on_send = lambda call: house.reload(a="m:v3").replaced[0]
    thread, results = house.in_background(lambda: house.ask("a"))
    assert old.entered.acquire(timeout=10)
    first, reports = house.in_background(lambda: house.reload(a="m:v2"))
    while not old.config or house.guarded("a").plugin is old:
        time.sleep(0.001)
    old.hold.set()
    thread.join(10)
    first.join(10)
    assert results == ["a"]
    assert reports[0].drained == 1
    assert house.ask("a") == ["a", "m:v3"]


def test_nested_calls_of_admitted_calls_find_who_was_removed(house: House) -> None:
    house.load(a="m:v1", b="m:v1")
    old = house.guarded("a").plugin
    old.hold = threading.Event()
    old.on_send = lambda call: house.ask("b")
    thread, results = house.in_background(lambda: house.ask("a"))
    assert old.entered.acquire(timeout=10)
    threading.Timer(0.1, old.hold.set).start()
    house.reload(c="m:v1")
    thread.join(10)
    assert results == [["b", "m:v1"]]


def test_reloads_wait_for_each_other(house: House) -> None:
    house.load(a="m:v0")
    going = []
    most = []
    make = house.factory.create_plugin

    def slow(config: Any) -> Any:
        going.append(1)
        most.append(len(going))
        time.sleep(0.01)
        going.pop()
        return make(config)

    house.factory.create_plugin = slow  # type: ignore[method-assign]
    threads = [house.in_background(lambda n=n: house.reload(a=f"m:v{n}")) for n in range(1, 9)]
    for thread, results in threads:
        thread.join(20)
        assert not isinstance(results[0], Exception), results
    assert max(most) == 1
    assert sum(not wire.closed for wire in house.factory.made) == 1


def test_a_reload_within_a_reload_is_refused_and_does_not_hang(house: House) -> None:
    house.load(a="m:v1")
    make = house.factory.create_plugin

    def nested(config: Any) -> Any:
        house.reload(a="m:v3")
        return make(config)

    house.factory.create_plugin = nested  # type: ignore[method-assign]
    with pytest.raises(ReloadError, match="itself"):
        house.reload(a="m:v2")


def test_another_reload_that_does_not_end(house: House) -> None:
    house.load(a="m:v1")
    entered, leave = threading.Event(), threading.Event()
    make = house.factory.create_plugin

    def stuck(config: Any) -> Any:
        entered.set()
        assert leave.wait(20)
        return make(config)

    house.factory.create_plugin = stuck  # type: ignore[method-assign]
    thread, _ = house.in_background(lambda: house.reload(a="m:v2"))
    assert entered.wait(10)
    with pytest.raises(ReloadError, match="under way"):
        house.manager.reload_config(config(a="m:v3"), options=ReloadOptions(graceful_timeout=0.05))
    leave.set()
    thread.join(10)


# --- counts ------------------------------------------------------------------------------------------------------


def test_counts_go_on_through_reloads(house: House) -> None:
    house.load(a="m:v1", b="m:v1")
    for _ in range(3):
        house.ask("a")
        house.ask("b")
    house.reload("recreate", a="m:v2", b="m:v1")
    house.ask("a")
    metrics = house.manager.metrics()
    assert (metrics.plugins["a"].requests_total, metrics.plugins["b"].requests_total) == (4, 3)
    assert metrics.requests_total == 7
    house.reload(b="m:v1")
    metrics = house.manager.metrics()
    assert "a" not in metrics.plugins
    assert metrics.requests_total == 7


# --- the known faults --------------------------------------------------------------------------------------------


def _breathless(house: House, reload: Any, name: str = "a") -> list[Exception]:
    """What callers meet with who call all the time while ``reload`` runs."""
    errors: list[Exception] = []
    over = threading.Event()

    def call() -> None:
        while not over.is_set():
            try:
                house.ask(name)
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
def test_known_fault_calls_under_load_failed_with_not_found(house: House, strategy: str) -> None:
    house.load(a="m:v0", b="m:v0")

    def reload() -> None:
        for number in range(1, 40):
            house.reload(strategy, a=f"m:v{number}", b=f"m:v{number}")

    assert _breathless(house, reload) == []
    assert sum(not wire.closed for wire in house.factory.made) == 2


def test_known_fault_the_plugin_was_unregistered_before_its_successor_existed(house: House) -> None:
    house.load(a="m:v1")
    make = house.factory.create_plugin
    answers = []

    def look(config: Any) -> Any:
        answers.append(house.ask("a"))
        return make(config)

    house.factory.create_plugin = look  # type: ignore[method-assign]
    house.reload(a="m:v2")
    assert answers == [["a", "m:v1"]]


def test_known_fault_rolling_closed_the_plugin_that_it_had_just_created(house: House) -> None:
    house.load(a="m:v1", b="m:v1")
    house.reload("rolling", a="m:v2", b="m:v2", c="m:v2")
    assert [(wire.name, wire.closed) for wire in house.factory.made if wire.endpoint == "m:v2"] == [
        ("a", 0), ("b", 0), ("c", 0),
    ]  # fmt: skip
    assert house.ask("c") == ["c", "m:v2"]


def test_known_fault_policy_changes_were_logged_and_dropped(house: House) -> None:
    house.load(a={"circuit_breaker": {"enabled": False}})
    house.ask("a")
    report = house.reload(
        a={
            "retry": {"max_retries": 8, "idempotent": True, "budget_ratio": 0.5},
            "rate_limit": {"enabled": True, "burst_size": 2, "requests_per_second": 0.001},
            "circuit_breaker": {"enabled": True, "failure_threshold": 1, "min_request_threshold": 1},
            "connection": {"request_timeout": 7},
            "health_check": {"interval": 99},
        }
    )
    assert report.updated == ("a",)
    plugin = house.guarded("a")
    assert (plugin.policies.retry.max_retries, plugin.idempotent, plugin.request_timeout) == (8, True, 7)
    assert house.manager.metrics().plugins["a"].requests_total == 1
    house.ask("a")
    plugin.plugin.on_send = _fail
    with pytest.raises(PluginUnavailableError):
        house.ask("a", idempotent=False)
    assert plugin.policies.breaker.state == "open"


def _fail(call: Any) -> Any:
    raise PluginUnavailableError("no")


def test_known_fault_enabled_false_was_ignored(house: House) -> None:
    house.load(a="m:v1", b={"enabled": False})
    with pytest.raises(PluginNotEnabledError):
        house.ask("b")
    report = house.reload(a={"endpoint": "m:v1", "enabled": False}, b={"enabled": True})
    assert (report.removed, report.added) == (("a",), ("b",))
    with pytest.raises(PluginNotEnabledError):
        house.ask("a")
    assert house.ask("b")
    house.reload(a="m:v1", b={"enabled": True})
    assert house.ask("a")


def test_known_fault_the_managers_first_configuration_was_unknown_to_the_reloader(house: House) -> None:
    house.load(a="m:v1", b="m:v1")
    made = len(house.factory.made)
    report = house.reload(a="m:v1", b="m:v1")
    assert (report.kept, not report.diff, len(house.factory.made)) == (("a", "b"), True, made)


def test_known_fault_a_failed_recreate_left_no_plugin_at_all(house: House) -> None:
    house.load(a="m:v1", b="m:v1")
    with pytest.raises(ReloadError):
        house.reload("recreate", a="m:v1", b="m:offline")
    assert (house.ask("a"), house.ask("b")) == (["a", "m:v1"], ["b", "m:v1"])


def test_errors_of_calls_are_the_plugins_own(house: House) -> None:
    """What a call meets with on the old plugin is not mistaken for a refusal of its gate."""
    house.load(a="m:v1")

    def refuse(call: Any) -> Any:
        raise PluginExecutionError("no", code="X")

    house.guarded("a").plugin.on_send = refuse
    with pytest.raises(PluginError):
        house.ask("a")


def test_a_breaker_that_is_forced_open_stays_so(house: House) -> None:
    house.load(a="m:v1")
    house.guarded("a").policies.breaker.force_open()
    house.reload(a={"endpoint": "m:v1", "circuit_breaker": {"failure_threshold": 9}})
    assert house.guarded("a").policies.breaker.state == "open"
    assert CircuitBreakerConfig().failure_threshold is None


def test_managers_do_not_share(house: House) -> None:
    house.load(a="m:v1")
    other: Manager[Any, Any] = Manager()
    other.register_factory("fake", house.factory)
    other.reload_config(config(a="m:v2"))
    assert house.ask("a") == ["a", "m:v1"]
    other.shutdown()
