"""From configuration to guarded plugins: factories, checks, and building all or nothing."""

from __future__ import annotations

import importlib
import logging
import random
from collections.abc import Callable, Container, Iterable, Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import attrs

from goplugins.config import LoadBalancerConfig, ManagerConfig, PluginConfig
from goplugins.config.groups import DnsGroupConfig, GroupConfig
from goplugins.enums import TransportType
from goplugins.errors import ConfigError, InvalidArgumentError, InvalidConfigError, UnsupportedTransportError
from goplugins.models.plugin import Plugin
from goplugins.observability.event_stream import EventStream
from goplugins.observability.setup import problems_of
from goplugins.pipeline.plugin import Forward, GuardedPlugin
from goplugins.pipeline.registry import Registry
from goplugins.runtime.clock import Clock
from goplugins.runtime.fork import register_forkable
from goplugins.runtime.workers import WorkerPool
from goplugins.transports.adapter import as_sender
from goplugins.transports.interface import AddressFactory, PluginFactory
from goplugins.transports.resolver import Resolver, ThreadedResolver

if TYPE_CHECKING:
    from goplugins.balancing.dns_group import MemberOwner

__all__ = ["Builder"]

logger = logging.getLogger("goplugins.manager")

_BUILT_IN = {
    "exec": ("goplugins.transports.exec", "ExecPluginFactory"),
    "grpc": ("goplugins.transports.grpc", "GRPCPluginFactory"),
    "http": ("goplugins.transports.http", "HTTPPluginFactory"),
    "python": ("goplugins.serve.in_process", "FunctionPluginFactory"),
    "unix": ("goplugins.transports.unix", "UnixSocketPluginFactory"),
}
"""Where the built-in factories live: the wires import heavy libraries, so only those in use are loaded."""


class Builder:
    """Builds plugins by kind. Nothing it builds has connected to anything yet.

    Attributes:
        forward: what a fallback calls another plugin by; set before the first plugin is built.
        registry: where the members of groups are found; set before the first group is built.
        house: who looks after the members that groups find by themselves; set before the first such group is built.
        resolver: finds the addresses of their hosts.
        hedges: the threads of hedged calls, once a plugin needs them.
        events: where the plugins tell what happens.
    """

    def __init__(self, *, clock: Clock, rng: random.Random, resolve: Callable[..., Future[Any]]) -> None:
        self._clock = clock
        self._rng = rng
        self._resolve = resolve
        self._factories: dict[str, PluginFactory] = {}
        self.registered: set[str] = set()
        self.forward: Forward | None = None
        self.registry: Registry | None = None
        self.house: MemberOwner | None = None
        self.resolver: Resolver | None = None
        self.hedges: WorkerPool | None = None
        self.events = EventStream()

    def register_factory(self, kind: str, factory: PluginFactory) -> None:
        """Uses ``factory`` for plugins whose ``type`` is ``kind``, in place of a built-in one if it has that name.

        Raises:
            InvalidArgumentError: no name, or an object without the factory's methods.
        """
        if not kind or not isinstance(kind, str):
            raise InvalidArgumentError(f"kind: expected a name, got {kind!r}")
        for method in ("create_plugin", "supported_transports", "validate_config"):
            if not callable(getattr(factory, method, None)):
                raise InvalidArgumentError(f"{type(factory).__name__} is no plugin factory: it lacks {method}()")
        self._factories[kind] = factory
        self.registered.add(kind)

    def factory(self, config: PluginConfig, path: str = "") -> PluginFactory:
        """The factory for a resolved configuration.

        Raises:
            UnsupportedTransportError: there is none, or it does not serve the transport.
        """
        kind = config.type or ""
        found = self._factories.get(kind)
        if found is None and kind in _BUILT_IN:
            module, name = _BUILT_IN[kind]
            found = getattr(importlib.import_module(module), name)(clock=self._clock, resolve=self._resolve)
            self._factories[kind] = found
        if found is None:
            known = ", ".join(sorted({*_BUILT_IN, *self._factories}))
            raise UnsupportedTransportError(
                f"no factory for plugins of type {kind!r}",
                path=f"{path}.type",
                fix=f"use one of {known}, or register_factory({kind!r}, ...)",
            )
        transports = list(found.supported_transports())
        if config.transport not in transports:
            raise UnsupportedTransportError(
                f"the factory of type {kind!r} does not serve transport {str(config.transport)!r}",
                path=f"{path}.transport",
                fix=f"use one of {', '.join(transports)}",
            )
        return found

    def problems(self, config: ManagerConfig, suspect: Container[int]) -> Iterator[ConfigError]:
        """What a configuration that is right in itself asks of this version, and of the factories, in vain.

        Args:
            config: resolved.
            suspect: indexes of plugins that have problems of their own: not worth a factory's look.
        """
        yield from _uninstalled(config)
        if self.registry is not None:
            yield from _not_hedged(config, self.registry)
        for index, plugin in enumerate(config.plugins):
            if plugin.enabled and index not in suspect:
                path = f"plugins[{index}]"
                try:
                    factory = self.factory(plugin, path)
                    for endpoint in plugin.endpoints or (plugin.endpoint,):
                        factory.validate_config(attrs.evolve(plugin, endpoint=endpoint, endpoints=()))
                except ConfigError as error:
                    yield from _placed(error, path).problems

    def build(self, config: PluginConfig) -> GuardedPlugin:
        """One guarded plugin from a resolved configuration."""
        if isinstance(config, DnsGroupConfig):
            return self._build_resolved(config)
        if isinstance(config, GroupConfig):
            return self._build_group(config)
        plugin = self.factory(config).create_plugin(config)
        return self.guard(plugin, config, from_config=True)

    def _build_group(self, config: GroupConfig) -> GuardedPlugin:
        from goplugins.balancing import LoadBalancer
        from goplugins.balancing.named_member import NamedMember

        if self.registry is None or not isinstance(config.balancer, LoadBalancerConfig):
            raise InvalidConfigError("is made of other plugins", path="type", fix="write it under load_balancers")
        balancer: LoadBalancer[Any, Any] = LoadBalancer(
            config.balancer, clock=self._clock, rng=self._rng, events=self.events
        )
        for member in config.balancer.members:
            balancer.add_plugin(NamedMember(member.name, self.registry, balancer))
        return self.guard(balancer, config, from_config=True)

    def _build_resolved(self, config: DnsGroupConfig) -> GuardedPlugin:
        """A group that makes its members by itself. What is wrong with all of them is told now."""
        from goplugins.balancing.dns_group import DnsGroup

        instance = config.instance
        assert isinstance(instance, PluginConfig)  # noqa: S101 - spread() has set it
        factory = self.factory(instance)
        if not isinstance(factory, AddressFactory) or self.house is None:
            text = "the plugin's factory can't make a plugin for one address"
            raise InvalidConfigError(text, path="options.resolve", fix="leave it out")
        factory.create_plugin(instance).close()
        group = DnsGroup(
            config,
            resolver=self.resolver or self._own_resolver(),
            build=lambda member, address: self.guard(factory.create_at(member, address), member, from_config=True),
            house=self.house,
            clock=self._clock,
            rng=self._rng,
            events=self.events,
        )
        return self.guard(group, config, from_config=True)

    def _own_resolver(self) -> Resolver:
        self.resolver = resolver = ThreadedResolver(self._resolve, clock=self._clock)
        register_forkable(resolver)
        return resolver

    def guard(self, plugin: Plugin[Any, Any], config: PluginConfig, *, from_config: bool) -> GuardedPlugin:
        """Puts policies around a plugin."""
        sender = as_sender(plugin)
        if config.chaos is not None:
            from goplugins.transports.chaos import with_chaos

            sender = with_chaos(sender, config, clock=self._clock)
        _warn_of_nothing_idempotent(config)
        return GuardedPlugin(
            sender,
            plugin,
            config,
            from_config=from_config,
            clock=self._clock,
            rng=self._rng,
            hedge_pool=self._hedge_pool(config),
            forward=self.forward,
            events=self.events,
        )

    def _hedge_pool(self, config: PluginConfig) -> WorkerPool | None:
        """The one pool behind all hedged calls, made for the first plugin that hedges."""
        if config.hedge is None or not config.hedge.enabled:
            return None
        if self.hedges is None:
            from goplugins.pipeline.hedging import hedge_pool

            self.hedges = hedge_pool()
        return self.hedges

    def build_at(self, index: int, config: PluginConfig) -> GuardedPlugin:
        """One guarded plugin of a configuration; what is wrong with it is told with its place there."""
        try:
            return self.build(config)
        except ConfigError as error:
            raise _placed(error, f"plugins[{index}]")  # noqa: B904 - the same error, with its place

    def adapt(self, plugin: GuardedPlugin, config: PluginConfig) -> None:
        """Has a plugin go by the policies of another resolved configuration."""
        plugin.reconfigure(config, hedge_pool=self._hedge_pool(config))
        plugin.wire.reconfigure(config)

    def build_all(self, configs: Iterable[PluginConfig]) -> list[GuardedPlugin]:
        """The enabled ones, all or none: what was built before one fails is closed again."""
        built: list[GuardedPlugin] = []
        try:
            for index, config in enumerate(configs):
                if not config.enabled:
                    continue
                built.append(self.build_at(index, config))
        except BaseException:
            for plugin in built:
                plugin.drain_and_close(0.0, "another plugin of its configuration could not be built")
            raise
        return built


def _placed(error: ConfigError, path: str) -> ConfigError:
    """The error, its problems' paths beginning with the plugin's."""
    for problem in error.problems:
        if not problem.path.startswith(path):
            problem.path = f"{path}.{problem.path}" if problem.path else path
    return error


def _warn_of_nothing_idempotent(config: PluginConfig) -> None:
    """A cache or hedge that no call may use unless it says so itself looks like one that does not work."""
    asked = [name for name, on in (("cache", config.cache), ("hedge", config.hedge and config.hedge.enabled)) if on]
    if asked and config.retry is not None and not config.retry.idempotent:
        text = "plugin %r: %s only for calls made with idempotent=True, since retry.idempotent is not set"
        logger.warning(text, config.name, " and ".join(asked))


def _not_hedged(config: ManagerConfig, registry: Registry) -> Iterator[ConfigError]:
    """Hedged groups with a member that code has registered, whose calls can't be taken back."""
    for index, balancer in enumerate(config.load_balancers):
        for member in balancer.members if balancer.hedge is not None and balancer.hedge.enabled else ():
            plugin = registry.plugins.get(member.name)
            local = (TransportType.EXECUTABLE, TransportType.PYTHON)
            if plugin is not None and not plugin.from_config and plugin.config.transport in local:
                text = f"a call of member {member.name!r} can't be taken back, so the group can't be hedged"
                fix = "leave the section out, or that member"
                yield InvalidConfigError(text, path=f"load_balancers[{index}].hedge.enabled", fix=fix)


def _uninstalled(config: ManagerConfig) -> Iterable[ConfigError]:
    """Settings that need a package which is not there: refused, since a silent no-op is worse."""
    for path, fix in problems_of(config).items():
        yield InvalidConfigError("needs a package that is not installed", path=path, fix=fix)
