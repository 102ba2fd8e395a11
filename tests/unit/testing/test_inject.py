"""``inject``: layers of chaos that are added, nest, overlap and are removed without a trace."""

from __future__ import annotations

import logging
import threading

import attrs
import pytest

from goplugins import ChaosConfig, Manager, PluginConfig, serve
from goplugins.errors import (
    ConfigError,
    ConnectionLostError,
    InvalidArgumentError,
    PluginConnectionError,
    PluginError,
    PluginInternalError,
    PluginNotFoundError,
    PluginTimeoutError,
)
from goplugins.testing import ManualClock, inject

NO_RETRY = {"retry": {"max_retries": 0}, "circuit_breaker": {"enabled": False}}


@serve.plugin(name="shout")
def shout(request: str) -> str:
    return request.upper()


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def manager(clock):
    with Manager(str, str, clock=clock) as made:
        for name in ("shout", "other"):
            made.register(shout, PluginConfig.from_mapping({"name": name, **NO_RETRY}), name=name)
        yield made


def wire_of(manager, name="shout"):
    return manager._registry.get(name).sender


def error_of(manager, name="shout", **call):
    with pytest.raises(PluginError) as caught:
        manager.execute(name, "a", **call)
    return type(caught.value)


def test_faults_occur_only_during_the_block(manager):
    before = wire_of(manager)
    with inject(manager, "shout", error=1.0) as chaos:
        assert error_of(manager) is PluginInternalError
        assert manager.execute("other", "a") == "A"
    assert manager.execute("shout", "a") == "A"
    assert wire_of(manager) is before
    assert (chaos.attempts, chaos.counts["error"]) == (1, 1)


def test_counts_of_injected_faults(manager):
    with inject(manager, "shout", error=0.3, refuse=0.2, latency=0.5, delay=1, seed=7) as chaos:
        failures = 0
        for _ in range(50):
            try:
                manager.execute("shout", "a")
            except PluginError:
                failures += 1
    counts = chaos.counts
    assert chaos.attempts == 50
    assert counts["error"] + counts["refuse"] == failures > 0
    assert counts["latency"] > 0
    assert set(counts) == {"latency", "error", "refuse", "reset", "garbage", "hang", "health"}


def test_the_same_seed_repeats_a_run(manager):
    def run():
        with inject(manager, "shout", error=0.5, seed=3):
            outcomes = []
            for _ in range(30):
                try:
                    outcomes.append(manager.execute("shout", "a"))
                except PluginError as error:
                    outcomes.append(type(error))
            return outcomes

    first = run()
    assert first == run()
    assert {"A", PluginInternalError} == set(first)


def test_a_block_ends_with_an_exception_too(manager):
    before = wire_of(manager)
    with pytest.raises(PluginConnectionError), inject(manager, "shout", refuse=1.0):
        manager.execute("shout", "a")
    assert wire_of(manager) is before


def test_the_deadline_holds(manager, clock):
    with inject(manager, "shout", hang=1.0):
        started = clock.monotonic()
        assert error_of(manager, timeout=2.0) is PluginTimeoutError
        assert clock.monotonic() - started == pytest.approx(2.0)


def test_blocks_nest(manager):
    before = wire_of(manager)
    with inject(manager, "shout", refuse=1.0):
        with inject(manager, "shout", error=1.0):
            assert error_of(manager) is PluginInternalError
        assert error_of(manager) is PluginConnectionError
    assert wire_of(manager) is before


def test_blocks_may_end_in_any_order(manager):
    before = wire_of(manager)
    lower = inject(manager, "shout", refuse=1.0)
    middle = inject(manager, "shout", latency=1.0, delay=0.0)
    upper = inject(manager, "shout", latency=1.0, delay=0.0)
    for block in (lower, middle, upper):
        block.__enter__()
    middle.__exit__(None, None, None)
    assert error_of(manager) is PluginConnectionError
    lower.__exit__(None, None, None)
    assert manager.execute("shout", "a") == "A"
    upper.__exit__(None, None, None)
    assert wire_of(manager) is before


def test_a_retry_after_the_end_of_the_block_meets_no_fault():
    class Clock(ManualClock):
        def wait(self, waiter, timeout):
            block.__exit__(None, None, None)  # during the backoff
            return super().wait(waiter, timeout)

    with Manager(str, str, clock=Clock()) as manager:
        manager.register(shout, PluginConfig.from_mapping({"name": "shout", "retry": {"max_retries": 1}}))
        block = inject(manager, "shout", refuse=1.0)
        block.__enter__()
        assert manager.execute("shout", "a") == "A"
        assert block.attempts == 1


def test_several_plugins_at_once(manager):
    with inject(manager, "shout", refuse=1.0) as one, inject(manager, "other", error=1.0) as two:
        assert error_of(manager, "shout") is PluginConnectionError
        assert error_of(manager, "other") is PluginInternalError
    assert (one.counts["refuse"], two.counts["error"]) == (1, 1)


def test_as_a_decorator_each_call_has_a_block_of_its_own(manager):
    @inject(manager, "shout", error=0.5, seed=1)
    def run(times):
        return [error_or_value(manager) for _ in range(times)]

    assert run.__name__ == "run"
    first = run(10)
    assert first == run(10)
    assert set(first) == {"A", PluginInternalError}
    assert manager.execute("shout", "a") == "A"


def error_or_value(manager):
    try:
        return manager.execute("shout", "a")
    except PluginError as error:
        return type(error)


@pytest.fixture
def broken(manager):
    with inject(manager, "shout", reset=1.0) as chaos:
        yield chaos


def test_as_a_fixture(manager, broken):
    assert error_of(manager) is ConnectionLostError
    assert broken.counts["reset"] == 1


def test_it_may_be_created_before_its_plugin_is_registered(clock):
    manager = Manager(str, str, clock=clock)
    block = inject(manager, "shout", error=1.0)
    assert (block.attempts, block.counts) == (0, {})
    with pytest.raises(PluginNotFoundError):
        block.__enter__()
    manager.register(shout)
    with block:
        assert error_of(manager) is PluginInternalError
    manager.shutdown()


def test_a_block_is_entered_once(manager):
    with (
        inject(manager, "shout", error=1.0) as chaos,
        pytest.raises(InvalidArgumentError, match=r"call inject\(\) again"),
        chaos,
    ):
        pass
    assert manager.execute("shout", "a") == "A"


@pytest.mark.parametrize(
    "chaos", [{}, {"error": 1.5}, {"error": 0.6, "hang": 0.6}, {"latency": 0.5}, {"error": 0.5, "status": 200}]
)
def test_invalid_faults_are_rejected_before_the_block(manager, chaos):
    with pytest.raises(ConfigError):
        inject(manager, "shout", **chaos)


def test_begin_and_end_are_in_the_log(manager, caplog):
    with inject(manager, "shout", refuse=0.5, seed=1):
        for _ in range(4):
            error_or_value(manager)
    assert caplog.messages == [
        "plugin 'shout': fault injection begins: refuse 50 %; seed 1",
        "plugin 'shout': fault injection ends: 1 x refuse in 4 attempts",
    ]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    assert {record.name for record in caplog.records} == {"goplugins.chaos"}


def test_a_block_goes_on_over_changes_of_the_configured_chaos(manager):
    plugin = manager._registry.get("shout")
    wire, config = plugin.wire, plugin.config
    with inject(manager, "shout", error=1.0) as outer, inject(manager, "shout", latency=1.0, delay=0.001) as inner:
        for chaos in (ChaosConfig(enabled=True, refuse=1.0), ChaosConfig(enabled=True, refuse=0.5, seed=1), None):
            plugin.reconfigure(attrs.evolve(config, chaos=chaos))
            assert error_of(manager) is PluginInternalError
        plugin.reconfigure(attrs.evolve(config, chaos=ChaosConfig(enabled=True, refuse=1.0)))
    assert (outer.attempts, inner.attempts) == (3, 3)
    assert error_of(manager) is PluginConnectionError  # the configured fault only
    plugin.reconfigure(config)
    assert plugin.sender is wire
    assert manager.execute("shout", "a") == "A"


def test_a_plugin_that_was_replaced_meanwhile_is_named(manager, caplog):
    with inject(manager, "shout", refuse=1.0):
        manager.unregister("shout")
        manager.register(shout)
        assert manager.execute("shout", "a") == "A"
    assert "replaced or removed during the block" in caplog.messages[-1]


def test_calls_of_other_threads_succeed_while_layers_are_added_and_removed():
    """The layers delay by 0 s: every call must succeed, however the chain of layers changes."""
    with Manager(str, str) as manager:
        manager.register(shout, PluginConfig.from_mapping({"name": "shout", **NO_RETRY}))
        before = wire_of(manager)
        stop, answers, errors = threading.Event(), [], []

        def call():
            while not stop.is_set():
                try:
                    answers.append(manager.execute("shout", "a"))
                except Exception as error:
                    errors.append(error)

        def layer():
            for _ in range(150):
                with inject(manager, "shout", latency=1.0, delay=0.0):
                    pass

        callers = [threading.Thread(target=call) for _ in range(3)]
        layers = [threading.Thread(target=layer) for _ in range(3)]
        for thread in callers + layers:
            thread.start()
        for thread in layers:
            thread.join(30)
        stop.set()
        for thread in callers:
            thread.join(10)
        assert not errors
        assert set(answers) == {"A"}
        assert wire_of(manager) is before


def test_hanging_attempts_continue_when_the_block_ends():
    clock = ManualClock(auto_advance=False)
    manager = Manager(str, str, clock=clock)
    manager.register(shout)
    answers = []
    with inject(manager, "shout", hang=1.0):
        thread = threading.Thread(target=lambda: answers.append(manager.execute("shout", "a", timeout=60)))
        thread.start()
        clock.wait_for_waiters(1)
    thread.join(5)
    assert answers == ["A"]
    manager.shutdown()
