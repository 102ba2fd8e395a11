"""Plugins that a group is given as they are, and a group that is called by itself: what puts policies around them."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, cast

from goplugins._call import Call, Sender
from goplugins._clock import Clock
from goplugins.errors import InvalidArgumentError
from goplugins.models import HealthStatus, PluginStatus, TransportType

if TYPE_CHECKING:
    from goplugins.balancing.load_balancer import LoadBalancer
    from goplugins.config import LoadBalancerConfig
    from goplugins.plugin import GuardedPlugin

__all__ = ["Guard", "GuardedMember", "guard_group", "guard_member"]


class Guard(Protocol):
    """What makes whole calls of a group: gate, limiter, retries, budget."""

    request_timeout: float
    idempotent: bool

    def call(self, call: Call) -> Any:
        """The whole call."""
        ...

    def retire(self, timeout: float) -> bool:
        """Refuses new calls, waits for those in flight, closes."""
        ...


def guard_member(plugin: Any, name: str, *, clock: Clock, rng: random.Random) -> GuardedMember:
    """A plugin object as a member, under the production's default policies.

    Raises:
        InvalidArgumentError: the object is no plugin.
    """
    from goplugins.config import ManagerConfig, PluginConfig
    from goplugins.plugin import GuardedPlugin

    config = ManagerConfig().resolve(PluginConfig(name=name, transport=TransportType.PYTHON))
    guarded = GuardedPlugin(_as_sender(plugin), plugin, config, from_config=False, clock=clock, rng=rng)
    return GuardedMember(guarded)


def guard_group(
    balancer: LoadBalancer[Any, Any], config: LoadBalancerConfig, *, clock: Clock, rng: random.Random
) -> Guard:
    """What calls the group where no manager does. It has no breaker: its members have theirs."""
    from goplugins.config import CircuitBreakerConfig, ConnectionConfig, ManagerConfig, PluginConfig
    from goplugins.plugin import GuardedPlugin

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


def _as_sender(plugin: Any) -> Sender:
    from goplugins.transports.adapter import PluginAdapter

    if hasattr(plugin, "send") and hasattr(plugin, "prepare"):
        return cast(Sender, plugin)
    missing = [name for name in ("info", "execute", "health", "close") if not callable(getattr(plugin, name, None))]
    if missing:
        raise InvalidArgumentError(f"{type(plugin).__name__} is no plugin: it lacks {', '.join(missing)}()")
    return PluginAdapter(plugin)


class GuardedMember:
    """A guarded plugin as a member of a group: single attempts, each a call of its own at the plugin's gate."""

    def __init__(self, guarded: GuardedPlugin) -> None:
        self.name = guarded.name
        self._guarded = guarded
        self._status = PluginStatus.UNKNOWN
        self._callbacks: dict[int, Callable[[], object]] = {}

    def offer(self, call: Call) -> Any:
        """See :class:`goplugins.balancing.Member`."""
        own = Call(
            call.request,
            call.codec,
            call.deadline,
            call.request_id,
            headers=call.headers,
            metadata=call.metadata,
            idempotent=call.idempotent,
            max_retries=0,
            key=call.key,
            priority=call.priority,
            preferences=call.preferences,
            max_wait=call.max_wait,
        )
        own.nested = call.nested
        value = self._guarded.call(own)
        call.reply_metadata = own.reply_metadata
        return value

    def retry_after(self) -> float:
        """See :class:`goplugins.balancing.Member`."""
        return self._guarded.policies.breaker.retry_after()

    def admits(self) -> bool:
        """See :class:`goplugins.balancing.Member`."""
        return not self._guarded.gate.closed and self.retry_after() <= 0

    def status(self) -> PluginStatus:
        """See :class:`goplugins.balancing.Member`."""
        return self._status

    def subscribe(self, callback: Callable[[], object], /) -> Callable[[], object]:
        """See :class:`goplugins.balancing.Member`."""
        self._callbacks[id(callback)] = callback
        return lambda: self._callbacks.pop(id(callback), None)

    def health(self, timeout: float) -> HealthStatus:
        """Looks at the plugin's health, and remembers the finding as its status."""
        found = self._guarded.health(timeout)
        self._status = found.status
        for callback in list(self._callbacks.values()):
            callback()
        return found

    def retire(self, timeout: float) -> bool:
        """Refuses new calls, waits for those in flight at most ``timeout`` seconds, closes the plugin."""
        return self._guarded.retire(timeout)
