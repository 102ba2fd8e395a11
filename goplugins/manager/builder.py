"""Builds guarded plugins from their configurations."""

from __future__ import annotations

import logging
import random
from collections.abc import Container, Iterator
from typing import Any

from goplugins.config import LoadBalancerConfig, ManagerConfig, PluginConfig
from goplugins.config.groups import DnsGroupConfig, GroupConfig
from goplugins.enums import TransportType
from goplugins.errors import ConfigError, InvalidConfigError
from goplugins.manager.factories import Factories, with_path
from goplugins.manager.maintenance import Maintenance
from goplugins.models.plugin import Plugin
from goplugins.observability.event_stream import EventStream
from goplugins.pipeline.attempts import Forward
from goplugins.pipeline.pipeline import Pipeline
from goplugins.pipeline.plugin import GuardedPlugin
from goplugins.pipeline.registry import Registry
from goplugins.runtime.clock import Clock
from goplugins.runtime.workers import WorkerPool
from goplugins.transports.adapter import as_sender
from goplugins.transports.interface import AddressFactory
from goplugins.transports.resolver import shared_resolver

logger = logging.getLogger("goplugins.manager")


class Builder:
    """Builds plugins and groups. Nothing it builds has opened a connection yet.

    Args:
        registry: finds the members of groups.
        factories: make the plugins.
        maintenance: checks the members that DNS groups find by themselves.
        events: receives the plugins' events.
        forward: makes a call of another plugin, for a fallback.
        clock: measures time, and waits.
        rng: for jitter.
    """

    def __init__(
        self,
        registry: Registry,
        factories: Factories,
        maintenance: Maintenance,
        events: EventStream,
        forward: Forward,
        *,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self._registry = registry
        self._factories = factories
        self._maintenance = maintenance
        self._events = events
        self._forward = forward
        self._clock = clock
        self._rng = rng
        self._hedge_pool: WorkerPool | None = None  # the threads of all hedged calls, once a plugin needs them

    def problems(self, config: ManagerConfig, suspect: Container[int]) -> Iterator[ConfigError]:
        """What this manager can't build of a valid configuration; see :meth:`Factories.problems`."""
        yield from _not_hedged(config, self._registry)
        yield from self._factories.problems(config, suspect)

    def build(self, config: PluginConfig) -> GuardedPlugin:
        """One guarded plugin from a resolved configuration."""
        if isinstance(config, DnsGroupConfig):
            return self._build_dns_group(config)
        if isinstance(config, GroupConfig):
            return self._build_group(config)
        plugin = self._factories.find(config).create_plugin(config)
        return self.guard(plugin, config, from_config=True)

    def _build_group(self, config: GroupConfig) -> GuardedPlugin:
        from goplugins.balancing import LoadBalancer
        from goplugins.balancing.named_member import NamedMember

        if not isinstance(config.balancer, LoadBalancerConfig):
            raise InvalidConfigError("is made of other plugins", path="type", fix="write it under load_balancers")
        balancer: LoadBalancer[Any, Any] = LoadBalancer(
            config.balancer, clock=self._clock, rng=self._rng, events=self._events
        )
        for each in config.balancer.members:
            member = NamedMember(each.name, self._registry, config.name, balancer)
            registered = member.plugin  # in code; the priority of the others is in the configuration
            priority = each.priority or (0 if registered is None else registered.config.priority)
            balancer.add_plugin(member, priority=priority)
        return self.guard(balancer, config, from_config=True)

    def _build_dns_group(self, config: DnsGroupConfig) -> GuardedPlugin:
        """A group that builds its members itself. One member is built and closed first, for its errors."""
        from goplugins.balancing.dns_group import DnsGroup

        instance = config.instance
        assert isinstance(instance, PluginConfig)  # noqa: S101 - set by spread()
        factory = self._factories.find(instance)
        if not isinstance(factory, AddressFactory):
            text = "the plugin's factory can't make a plugin for one address"
            raise InvalidConfigError(text, path="options.resolve", fix="leave it out")
        factory.create_plugin(instance).close()
        group = DnsGroup(
            config,
            resolver=shared_resolver(),
            build=lambda member, address: self.guard(factory.create_at(member, address), member, from_config=True),
            owner=self._maintenance,
            clock=self._clock,
            rng=self._rng,
            events=self._events,
        )
        return self.guard(group, config, from_config=True)

    def guard(self, plugin: Plugin[Any, Any], config: PluginConfig, *, from_config: bool) -> GuardedPlugin:
        """The plugin behind the policies of its configuration."""
        sender = as_sender(plugin)
        if config.chaos is not None:
            from goplugins.transports.chaos import with_chaos

            sender = with_chaos(sender, config, clock=self._clock)
        _warn_if_nothing_is_idempotent(config)
        return GuardedPlugin(
            sender,
            plugin,
            config,
            from_config=from_config,
            clock=self._clock,
            rng=self._rng,
            hedge_pool=self._pool_for(config),
            forward=self._forward,
            events=self._events,
            counts=self._maintenance.counts_of(config.name),
        )

    def _pool_for(self, config: PluginConfig) -> WorkerPool | None:
        """The pool that all hedged calls share; None for a plugin without hedging."""
        if config.hedge is None or not config.hedge.enabled:
            return None
        if self._hedge_pool is None:
            from goplugins.pipeline.hedging import hedge_pool

            self._hedge_pool = hedge_pool()
        return self._hedge_pool

    def close(self) -> None:
        """Ends the threads of hedged calls; waits for none."""
        if self._hedge_pool is not None:
            self._hedge_pool.shutdown(wait=False)

    def build_at(self, index: int, config: PluginConfig) -> GuardedPlugin:
        """As :meth:`build`; the paths of a :class:`ConfigError` begin with ``plugins[index]``."""
        try:
            return self.build(config)
        except ConfigError as error:
            raise with_path(error, f"plugins[{index}]")  # noqa: B904 - the same error

    def adapt(self, plugin: GuardedPlugin, config: PluginConfig, keep: Pipeline | None = None) -> None:
        """Applies the policies of another configuration, resolved, to a running plugin.

        Args:
            plugin: whose policies change.
            config: the new configuration.
            keep: an earlier pipeline to return to, with what its policies remember.
        """
        plugin.reconfigure(config, hedge_pool=self._pool_for(config), keep=keep)
        plugin.wire.reconfigure(config)


def _warn_if_nothing_is_idempotent(config: PluginConfig) -> None:
    """Warns of a cache or hedge that applies only to calls that are marked as idempotent one by one."""
    unused = [name for name, on in (("cache", config.cache), ("hedge", config.hedge and config.hedge.enabled)) if on]
    some = any(operation.idempotent for operation in config.operations.values())
    if unused and not some and config.retry is not None and not config.retry.idempotent:
        text = "plugin %r: %s only for calls made with idempotent=True%s, since retry.idempotent is not set"
        more = " and idempotent operations" if config.transport is None else ""  # a group's members may have some
        logger.warning(text, config.name, " and ".join(unused), more)


def _not_hedged(config: ManagerConfig, registry: Registry) -> Iterator[ConfigError]:
    """Hedged groups with a member registered in code whose calls can't be cancelled."""
    for index, balancer in enumerate(config.load_balancers):
        for member in balancer.members if balancer.hedge is not None and balancer.hedge.enabled else ():
            plugin = registry.plugins.get(member.name)
            local = (TransportType.EXECUTABLE, TransportType.PYTHON)
            if plugin is not None and not plugin.from_config and plugin.config.transport in local:
                text = f"a call of member {member.name!r} can't be cancelled, so the group can't be hedged"
                fix = "leave the section out, or that member"
                yield InvalidConfigError(text, path=f"load_balancers[{index}].hedge.enabled", fix=fix)
