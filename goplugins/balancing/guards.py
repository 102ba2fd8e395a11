"""Plugins that a group is given as they are, and a group that is called by itself: what puts policies around them."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Protocol, cast

from goplugins.enums import TransportType
from goplugins.errors import InvalidArgumentError
from goplugins.runtime.call import Call
from goplugins.runtime.clock import Clock
from goplugins.transports.interface import Sender

if TYPE_CHECKING:
    from goplugins.balancing.load_balancer import LoadBalancer
    from goplugins.config import LoadBalancerConfig
    from goplugins.pipeline.plugin import GuardedPlugin

__all__ = ["Guard", "guard_group", "guard_member"]


class Guard(Protocol):
    """What makes whole calls of a group: gate, limiter, retries, budget."""

    request_timeout: float
    idempotent: bool

    def call(self, call: Call) -> Any:
        """The whole call."""
        ...


def guard_member(plugin: Any, name: str, *, clock: Clock, rng: random.Random) -> GuardedPlugin:
    """A plugin object as a member, under the production's default policies.

    Raises:
        InvalidArgumentError: the object is no plugin.
    """
    from goplugins.config import ManagerConfig, PluginConfig
    from goplugins.pipeline.plugin import GuardedPlugin

    config = ManagerConfig().resolve(PluginConfig(name=name, transport=TransportType.PYTHON))
    return GuardedPlugin(as_sender(plugin), plugin, config, from_config=False, clock=clock, rng=rng)


def guard_group(
    balancer: LoadBalancer[Any, Any], config: LoadBalancerConfig, *, clock: Clock, rng: random.Random
) -> Guard:
    """What calls the group where no manager does. It has no breaker: its members have theirs."""
    from goplugins.config import CircuitBreakerConfig, ConnectionConfig, ManagerConfig, PluginConfig
    from goplugins.pipeline.plugin import GuardedPlugin

    own = PluginConfig(
        name=config.name,
        transport=TransportType.PYTHON,
        retry=config.retry,
        rate_limit=config.rate_limit,
        connection=ConnectionConfig(request_timeout=config.request_timeout),
        circuit_breaker=CircuitBreakerConfig(enabled=False),
    )
    resolved = ManagerConfig().resolve(own)
    return GuardedPlugin(balancer, balancer, resolved, from_config=False, clock=clock, rng=rng)


def as_sender(plugin: Any) -> Sender:
    """The plugin itself if it is a wire, else an adapter around it.

    Raises:
        InvalidArgumentError: it is neither.
    """
    from goplugins.transports.adapter import PluginAdapter

    if hasattr(plugin, "send") and hasattr(plugin, "prepare"):
        return cast(Sender, plugin)
    missing = [name for name in ("info", "execute", "health", "close") if not callable(getattr(plugin, name, None))]
    if missing:
        raise InvalidArgumentError(f"{type(plugin).__name__} is no plugin: it lacks {', '.join(missing)}()")
    return PluginAdapter(plugin)
