"""Default policies around members that are added as plain plugins, and around a group that is called directly."""

from __future__ import annotations

import random
from typing import Any

from goplugins.config import CircuitBreakerConfig, ConnectionConfig, LoadBalancerConfig, ManagerConfig, PluginConfig
from goplugins.enums import TransportType
from goplugins.pipeline.plugin import GuardedPlugin
from goplugins.runtime.clock import Clock
from goplugins.transports.adapter import as_sender


def guard_member(plugin: Any, name: str, *, clock: Clock, rng: random.Random) -> GuardedPlugin:
    """A plugin object as a member, with the default policies.

    Raises:
        InvalidArgumentError: the object is not a plugin.
    """
    config = ManagerConfig().resolve(PluginConfig(name=name, transport=TransportType.PYTHON))
    return GuardedPlugin(as_sender(plugin), plugin, config, from_config=False, clock=clock, rng=rng)


def guard_group(group: Any, config: LoadBalancerConfig, *, clock: Clock, rng: random.Random) -> GuardedPlugin:
    """A group with its configured policies, for calls without a manager. No breaker: each member has its own.

    Args:
        group: the :class:`~goplugins.balancing.LoadBalancer`.
        config: its configuration.
        clock: measures and waits.
        rng: draws the jitter of retries.
    """
    own = PluginConfig(
        name=config.name,
        transport=TransportType.PYTHON,
        retry=config.retry,
        rate_limit=config.rate_limit,
        connection=ConnectionConfig(request_timeout=config.request_timeout),
        circuit_breaker=CircuitBreakerConfig(enabled=False),
    )
    resolved = ManagerConfig().resolve(own)
    return GuardedPlugin(group, group, resolved, from_config=False, clock=clock, rng=rng)
