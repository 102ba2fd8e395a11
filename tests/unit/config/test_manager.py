"""What is wrong with a whole configuration."""

from __future__ import annotations

import attrs
import pytest

from goplugins import errors
from goplugins.config import (
    DiscoveryConfig,
    LoadBalancerConfig,
    LoadBalancerMember,
    ManagerConfig,
    PluginConfig,
)
from tests.unit.config.helpers import GOOD, codes_of


def test_one_problem_is_raised_as_itself_and_several_together() -> None:
    with pytest.raises(errors.MissingEndpointError) as one:
        ManagerConfig(plugins=[PluginConfig(name="a", transport="http")]).validate()
    assert one.value.path == "plugins[0].endpoint"
    with pytest.raises(errors.InvalidConfigError) as several:
        ManagerConfig(plugins=[PluginConfig(name="a", transport="http"), PluginConfig()]).validate()
    assert [problem.path for problem in several.value.problems] == [
        "plugins[0].endpoint",
        "plugins[1].name",
        "plugins[1].transport",
    ]


def test_codes_of_the_go_library() -> None:
    config = ManagerConfig(
        plugins=[
            PluginConfig(transport="unix", endpoint="/run/a"),
            PluginConfig(name="two words", transport="unix", endpoint="/run/a"),
            PluginConfig(name="b", endpoint="http://host"),
            PluginConfig(name="c", transport="http"),
            PluginConfig(name="d", transport="http", endpoint="host"),
            PluginConfig(name="e", transport="grpc", endpoint="host"),
            PluginConfig(name="f", transport="unix"),
            PluginConfig(name="g", transport="exec"),
            attrs.evolve(GOOD, name="b"),
            PluginConfig(name="i", transport="python"),
        ]
    )
    assert codes_of(config) == {
        "plugins[0].name": "PLUGIN_1001",
        "plugins[1].name": "PLUGIN_1001",
        "plugins[2].transport": "PLUGIN_1002",
        "plugins[3].endpoint": "PLUGIN_1003",
        "plugins[4].endpoint": "PLUGIN_1005",
        "plugins[5].endpoint": "PLUGIN_1005",
        "plugins[6].endpoint": "PLUGIN_1006",
        "plugins[7].executable": "PLUGIN_1007",
        "plugins[8].name": "PLUGIN_1010",
        "plugins[9].endpoint": "PLUGIN_1003",
    }
    assert codes_of(ManagerConfig(plugins=[attrs.evolve(GOOD, transport="pigeon")])) == {
        "plugins[0].transport": "PLUGIN_1008"
    }


def test_a_configuration_without_plugins_needs_discovery_or_a_group() -> None:
    assert codes_of(ManagerConfig()) == {"plugins": "PLUGIN_1009"}
    assert codes_of(ManagerConfig(discovery=DiscoveryConfig(enabled=True, directories=["/opt"]))) == {}
    group = LoadBalancerConfig(name="g", members=[LoadBalancerMember(name="registered-in-code")])
    assert codes_of(ManagerConfig(load_balancers=[group])) == {}
    assert codes_of(ManagerConfig(discovery=DiscoveryConfig(enabled=True))) == {"discovery.directories": "PLUGIN_1012"}
