"""Names across a configuration: duplicates, unknown names, cycles of fallbacks."""

from __future__ import annotations

import attrs

from goplugins.config import (
    FallbackConfig,
    LoadBalancerConfig,
    LoadBalancerMember,
    ManagerConfig,
    PluginConfig,
)
from tests.unit.config.helpers import GOOD, codes_of, problems_of


def test_a_cycle_of_fallbacks_is_reported_once() -> None:
    def plugin(name: str, fallback: str) -> PluginConfig:
        return attrs.evolve(GOOD, name=name, fallback=FallbackConfig(plugin=fallback))

    found = problems_of(ManagerConfig(plugins=[plugin("z", "a"), plugin("a", "b"), plugin("b", "c"), plugin("c", "a")]))
    assert [(path, problem.message) for path, problem in found.items()] == [
        ("plugins[1].fallback.plugin", "fallbacks form a cycle: a -> b -> c -> a")
    ]
    assert problems_of(ManagerConfig(plugins=[plugin("a", "b"), plugin("b", "c"), attrs.evolve(GOOD, name="c")])) == {}


def test_groups() -> None:
    groups = [
        LoadBalancerConfig(name="a", members=[LoadBalancerMember(name="b"), LoadBalancerMember(name="b")]),
        LoadBalancerConfig(name="g", members=[LoadBalancerMember(name="g"), LoadBalancerMember()]),
        LoadBalancerConfig(),
    ]
    assert codes_of(ManagerConfig(plugins=[GOOD], load_balancers=groups)) == {
        "load_balancers[0].name": "PLUGIN_1010",
        "load_balancers[0].members[1].name": "PLUGIN_1010",
        "load_balancers[1].members[0].name": "PLUGIN_1012",
        "load_balancers[1].members[1].name": "PLUGIN_1001",
        "load_balancers[2].name": "PLUGIN_1001",
        "load_balancers[2].members": "PLUGIN_1012",
    }


def test_references_are_checked_if_all_names_are_known() -> None:
    config = ManagerConfig(
        plugins=[attrs.evolve(GOOD, name="payments", fallback=FallbackConfig(plugin="paymints"))],
        load_balancers=[LoadBalancerConfig(name="g", members=[LoadBalancerMember(name="coded")])],
    )
    assert problems_of(config) == {}
    assert set(problems_of(config, registered=[])) == {
        "plugins[0].fallback.plugin",
        "load_balancers[0].members[0].name",
    }
    found = problems_of(config, registered=["coded"])
    assert found["plugins[0].fallback.plugin"].fix == "did you mean 'payments'?"
    assert len(found) == 1
