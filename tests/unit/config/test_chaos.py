"""The chaos section: read from files, checked for what would silently do nothing."""

from __future__ import annotations

import json

import pytest

from goplugins.config import ChaosConfig, ManagerConfig, PluginConfig
from goplugins.errors import ConfigError, InvalidConfigError


def plugin(**chaos):
    return PluginConfig.from_mapping(
        {"name": "search", "transport": "http", "endpoint": "http://127.0.0.1:1", "chaos": chaos}
    )


def problems_of(**chaos):
    with pytest.raises(ConfigError) as caught:
        plugin(**chaos).validate()
    return {problem.path: problem.message for problem in caught.value.problems}


def test_chaos_is_off_by_default():
    assert PluginConfig(name="search").chaos is None
    assert ManagerConfig().resolve(PluginConfig(name="search")).chaos is None


def test_delays_are_durations():
    chaos = plugin(enabled=True, latency=0.2, delay=["100ms", 2], error=0.1, status=503, retry_after="1s").chaos
    assert chaos == ChaosConfig(enabled=True, latency=0.2, delay=(0.1, 2.0), error=0.1, status=503, retry_after=1.0)


@pytest.mark.parametrize("delay", [0.5, (0.5, 0.5), [0.5, 0.5]])
def test_one_delay_is_a_pair_of_the_same(delay):
    assert ChaosConfig(delay=delay).delay == (0.5, 0.5)
    assert plugin(delay="500ms").chaos.delay == (0.5, 0.5)


def test_a_section_survives_json():
    config = ManagerConfig(plugins=(plugin(enabled=True, seed=3, latency=1, delay=[0, 1], hang=0.5, health=True),))
    assert ManagerConfig.from_json(config.to_json()) == config
    assert json.loads(config.to_json())["plugins"][0]["chaos"]["delay"] == [0.0, 1.0]


@pytest.mark.parametrize(
    ("chaos", "path"),
    [
        ({"error": 1.1}, "error"),
        ({"error": -0.1}, "error"),
        ({"error": {"probability": 0.1}}, "error"),
        ({"status": 200}, "status"),
        ({"delay": [1, 2, 3]}, "delay"),
        ({"delay": [2, 1]}, "delay"),
        ({"delay": "soon"}, "delay"),
        ({"probability": 0.1}, "probability"),
    ],
)
def test_wrong_values_are_reported(chaos, path):
    with pytest.raises(InvalidConfigError) as caught:
        plugin(enabled=True, **chaos)
    assert [problem.path for problem in caught.value.problems] == [f"chaos.{path}"]


@pytest.mark.parametrize("value", ["1s", True, (1, "2"), [-1, 1]])
def test_a_wrong_delay_set_in_code_is_reported_by_validate(value):
    with pytest.raises(ConfigError) as caught:
        ChaosConfig(enabled=True, latency=1, delay=value).validate()
    assert caught.value.problems[0].path == "delay"


def test_enabled_is_required():
    assert list(problems_of(error=0.1)) == ["chaos.enabled"]
    plugin(error=0.1, enabled=False).validate()


@pytest.mark.parametrize(
    ("chaos", "path", "message"),
    [
        ({}, "chaos", "no fault"),
        ({"seed": 1, "health": True}, "chaos", "no fault"),
        ({"error": 0.5, "hang": 0.6}, "chaos", "error, hang add up to 1.1"),
        ({"latency": 0.5}, "chaos.delay", "is required with latency"),
        ({"error": 0.5, "delay": 1}, "chaos.latency", "is required with delay"),
        ({"hang": 0.5, "status": 503}, "chaos.error", "is required with status"),
        ({"hang": 0.5, "retry_after": 1}, "chaos.error", "is required with retry_after"),
        ({"error": 0.5, "retry_after": 1}, "chaos.status", "must be 429 or 503 with retry_after"),
    ],
)
def test_a_section_without_effect_is_refused(chaos, path, message):
    found = problems_of(enabled=True, **chaos)
    assert message in found[path]


@pytest.mark.parametrize("shares", [(0.7, 0.2, 0.1), (0.6, 0.3, 0.1), (1.0, 0.0, 0.0), (0.0, 0.0, 0.0)])
def test_the_sum_of_shares_may_be_1(shares):
    error, reset, hang = shares
    plugin(enabled=True, error=error, reset=reset, hang=hang, latency=1.0, delay=1).validate()


def test_plugins_registered_in_code_are_checked_too():
    with pytest.raises(ConfigError, match="add up to 2"):
        PluginConfig(name="x", chaos=ChaosConfig(enabled=True, error=1.0, reset=1.0)).validate_policies()


def test_a_variable_can_switch_it(monkeypatch, tmp_path):
    path = tmp_path / "plugins.json"
    entry = {"name": "x", "transport": "http", "endpoint": "http://127.0.0.1:1"}
    entry["chaos"] = {"enabled": "${CHAOS:false}", "error": "${CHAOS_ERROR:0.1}"}
    path.write_text(json.dumps({"plugins": [entry]}))
    assert ManagerConfig.from_file(path).plugins[0].chaos == ChaosConfig(enabled=False, error=0.1)
    monkeypatch.setenv("CHAOS", "1")
    monkeypatch.setenv("CHAOS_ERROR", "0.25")
    assert ManagerConfig.from_file(path).plugins[0].chaos == ChaosConfig(enabled=True, error=0.25)
