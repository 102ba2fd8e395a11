"""The health of a group."""

from __future__ import annotations

from goplugins import PluginStatus
from goplugins.balancing import LoadBalancer
from tests.unit.balancing.fakes import (
    Echo,
    Group,
)


def test_members_of_unknown_health_are_checked_within_the_timeout() -> None:
    plugins = [Echo("first"), Echo("second")]
    with LoadBalancer("search", members=plugins) as balancer:
        assert balancer.health(1.0).status is PluginStatus.HEALTHY
        assert all(0 < timeout <= 1.0 for plugin in plugins for timeout in plugin.checks)


def test_the_groups_health_names_members_that_are_out() -> None:
    group = Group(3)
    assert group.balancer.health(1.0).status is PluginStatus.UNKNOWN  # never healthy before the first check
    for member in group.members:
        member.becomes(PluginStatus.HEALTHY)
    assert group.balancer.health(1.0).status is PluginStatus.HEALTHY
    group["b"].becomes(PluginStatus.OFFLINE)
    found = group.balancer.health(1.0)
    assert (found.status, found.message) == (PluginStatus.DEGRADED, "1 of 3 members: b (offline)")
    for member in group.members:
        member.becomes(PluginStatus.OFFLINE)
    assert group.balancer.health(1.0).status is PluginStatus.OFFLINE
