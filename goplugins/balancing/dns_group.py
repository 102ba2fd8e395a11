"""One name for all addresses of a host: a group whose members come and go with what the host's name resolves to."""

from __future__ import annotations

import contextlib
import logging
import random
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import attrs

from goplugins.balancing.dns_refresh import Lookups
from goplugins.balancing.load_balancer import LoadBalancer
from goplugins.config import LoadBalancerConfig, PluginConfig
from goplugins.config.dns_options import DEFAULT_RESOLVE_INTERVAL, host_and_port
from goplugins.config.groups import DnsGroupConfig
from goplugins.enums import PluginStatus
from goplugins.errors import (
    CircuitBreakerOpenError,
    ConnectionLostError,
    NameResolutionError,
    NoAvailablePluginsError,
    PluginClosedError,
    PluginConnectionError,
    PluginError,
    PluginNotFoundError,
    PluginTimeoutError,
    Replay,
)
from goplugins.models.context import ExecutionContext
from goplugins.models.explanation import GroupExplanation
from goplugins.models.plugin import PluginInfo
from goplugins.models.results import HealthStatus
from goplugins.observability.event_stream import EventStream
from goplugins.pipeline.plugin import GuardedPlugin
from goplugins.runtime.call import Call
from goplugins.runtime.clock import Clock
from goplugins.runtime.deadline import Deadline
from goplugins.runtime.fork import register_forkable
from goplugins.runtime.scheduler import ScheduledTask
from goplugins.transports.interface import Sender
from goplugins.transports.resolver import Address, Resolver
from goplugins.transports.single_call import single_call

__all__ = ["MAX_MEMBERS", "DnsGroup", "MemberOwner", "name_at"]

logger = logging.getLogger("goplugins.balancing")

MAX_MEMBERS = 64
"""Addresses of one host that are used at most."""

Build = Callable[[PluginConfig, Address], GuardedPlugin]
"""Makes a member that connects to one address."""


class MemberOwner(Protocol):
    """Who looks after members: health checks, idle connections, counts."""

    def schedule_lookup(self, method: Callable[[], object], interval: float | None, first: float) -> ScheduledTask:
        """See :class:`goplugins.balancing.dns_refresh.Schedule`."""
        ...

    def add_member(self, member: GuardedPlugin) -> None:
        """Looks after a member from now on; or again."""
        ...

    def stop_watching(self, member: GuardedPlugin) -> None:
        """Its health is nobody's concern any more; its calls still count."""
        ...

    def remove_member(self, member: GuardedPlugin) -> None:
        """It is gone; what it has counted stays."""
        ...


class DnsGroup(Sender):
    """A :class:`~goplugins.balancing.LoadBalancer` over the addresses of one host. A sender, for one guarded plugin.

    Each member has a breaker, connections and health of its own, and is called as the host: URL, ``Host``, TLS
    and ``:authority`` are the same for all. New addresses join a group at work slowly. Those that vanish from the
    answer get no more calls, and are closed once their last one is over. Without an answer all stays as it is.

    Args:
        config: of the group, with the members' in ``instance``.
        resolver: finds the addresses.
        build: makes a member.
        owner: counts members, and checks their health.
        clock: measures and waits.
        rng: draws members.
        events: told of ejections and returns.
    """

    def __init__(
        self,
        config: DnsGroupConfig,
        *,
        resolver: Resolver,
        build: Build,
        owner: MemberOwner,
        clock: Clock,
        rng: random.Random,
        events: EventStream | None = None,
    ) -> None:
        if not isinstance(config.balancer, LoadBalancerConfig) or not isinstance(config.instance, PluginConfig):
            raise TypeError("a resolved group needs balancer and instance")
        host, port = host_and_port(config.instance)
        self.name = config.name
        self.watches_credentials = _has_files(config.instance)
        self._instance = config.instance
        self._build = build
        self._owner = owner
        self._clock = clock
        self._rng = rng
        self._balancer: LoadBalancer[Any, Any] = LoadBalancer(config.balancer, clock=clock, rng=rng, events=events)
        # Snapshots, replaced under the lock and read without it.
        self._members: Mapping[str, GuardedPlugin] = {}
        self._leaving: Mapping[str, GuardedPlugin] = {}
        self._closed = False
        self._crowded = False
        self._lock = threading.Lock()
        self._lookups = Lookups(
            config.name,
            host,
            port,
            resolver=resolver,
            found=self._follow,
            schedule=owner.schedule_lookup,
            interval=config.options.get("resolve_interval", DEFAULT_RESOLVE_INTERVAL),
            clock=clock,
        )
        register_forkable(self)

    # --- Sender ------------------------------------------------------------------------------------------------

    def send(self, call: Call) -> Any:
        """One attempt on one member; see :class:`goplugins.transports.interface.Sender`."""
        lookups = self._lookups
        if lookups.asleep:
            lookups.wake(call.deadline)
        lookups.used = True
        if call.tried and len(call.tried) >= len(self._members):
            lookups.await_news(call.deadline)
        try:
            return self._balancer.send(call)
        except PluginError as error:
            if _is_out_of_reach(error):
                lookups.shorten_interval()
            raise

    def health(self, timeout: float) -> HealthStatus:
        """The group's health by what is known of its members; asks those of which nothing is known; never raises."""
        deadline = Deadline(self._clock.monotonic() + timeout, self._clock)
        try:
            if self._lookups.asleep:
                self._lookups.wake(deadline)
        except PluginError as error:
            return HealthStatus(PluginStatus.OFFLINE, error.message, last_check=self._clock.time())
        self._lookups.used = True
        return self._balancer.health(max(0.0, deadline.remaining()))

    def info(self) -> PluginInfo:
        """The group's name and members. Asks nobody."""
        return self._balancer.info()

    def execute(self, request: Any, context: ExecutionContext = ExecutionContext(), /) -> Any:  # noqa: B008 - frozen
        """One attempt with plain JSON values, outside the policies.

        Raises:
            PluginError: what went wrong.
        """
        timeout = self._balancer.config.request_timeout or 30.0
        return single_call(self, request, context, timeout=timeout, idempotent=False, clock=self._clock)

    def close(self) -> None:
        """Closes all members, and follows the host no more; later calls are refused. Harmless when repeated."""
        self._lookups.close()
        with self._lock:
            self._closed = True
            members = [*self._members.values(), *self._leaving.values()]
            self._members = self._leaving = {}
        self._balancer.close()
        for member in members:
            self._discard(member, "its group was closed")

    # --- who looks after it --------------------------------------------------------------------------------------

    def explain(self) -> GroupExplanation | None:
        """Where each member stands; None before the first lookup."""
        lookups = self._lookups
        if not lookups.was_tried:
            return None
        found, leaving = self._balancer.explain(), self._leaving
        gone = "its address is no longer in the answer"
        members = tuple(
            # Their names have their addresses; their endpoint is the host's, the same for all.
            attrs.evolve(each, endpoint="", reason=gone if each.name in leaving else each.reason)
            for each in found.members
        )
        return attrs.evolve(found, members=members, resolution=str(lookups))

    def sweep(self) -> None:
        """Closes idle connections, and members that have left and have no more calls; for a scheduler."""
        for member in self._members.values():
            member.sweep()
        if self._leaving:
            self._lookups.apart(self._drain_and_close)

    def renew_credentials(self) -> None:
        """Has the members look at their certificates and tokens on disk; for a scheduler."""
        for member in (*self._members.values(), *self._leaving.values()):
            member.wire.renew_credentials()

    def reconfigure(self, config: PluginConfig) -> None:
        """Applies other policies to all members, future ones included."""
        if isinstance(config, DnsGroupConfig) and isinstance(config.instance, PluginConfig):
            self._instance = config.instance
        for member in (*self._members.values(), *self._leaving.values()):
            self._adapt(member)

    def _adapt(self, member: GuardedPlugin) -> None:
        wanted = attrs.evolve(self._instance, name=member.name)
        if member.config != wanted:
            member.reconfigure(wanted)

    def after_fork_in_child(self) -> None:
        """A fresh lock. The members stay, with connections of their own; each renews what it has."""
        self._lock = threading.Lock()
        for member in (*self._members.values(), *self._leaving.values()):
            member.after_fork_in_child()

    # --- following: on one thread at a time, see Lookups ---------------------------------------------------------

    def _follow(self, addresses: Iterable[Address]) -> None:
        """Makes the members those of an answer; the new ones come first, so that nobody is ever without.

        Raises:
            NameResolutionError: the answer is empty.
            PluginError: a new member can't be made.
        """
        wanted = self._choose({name_at(self.name, address): address for address in addresses})
        if not wanted:
            raise NameResolutionError(f"the name {self._lookups.host!r} has no address")
        before = self._members
        for name, address in wanted.items():
            if name not in before and not self._return(name):
                self._add(name, address)
        gone = [name for name in before if name not in wanted]
        for name in gone:
            self._dismiss(name)
        new = [name for name in wanted if name not in before]
        if before and (new or gone):
            logger.info("%s: joined: %s; left: %s", self.name, ", ".join(new) or "nobody", ", ".join(gone) or "nobody")
        self._drain_and_close()

    def _choose(self, found: Mapping[str, Address]) -> dict[str, Address]:
        """All, or of too many those that are members, and some others: not in every process the same."""
        names = sorted(found)
        crowded = len(names) > MAX_MEMBERS
        if crowded:
            kept = [name for name in names if name in self._members]
            others = [name for name in names if name not in self._members]
            names = sorted([*kept, *self._rng.sample(others, MAX_MEMBERS - len(kept))])
            if not self._crowded:
                text = "%s: %s has %d addresses, of which %d are used"
                logger.warning(text, self.name, self._lookups.host, len(found), MAX_MEMBERS)
        self._crowded = crowded
        return {name: found[name] for name in names}

    def _return(self, name: str) -> bool:
        """Takes back a member that was about to leave, if there is one of that name."""
        with self._lock:
            member = self._leaving.get(name)
            if member is None or self._closed:
                return False
            self._leaving = {key: value for key, value in self._leaving.items() if key != name}
            self._members = {**self._members, name: member}
        self._owner.add_member(member)
        with contextlib.suppress(PluginNotFoundError):  # the group was closed meanwhile
            self._balancer.enable_plugin(name)
        return True

    def _add(self, name: str, address: Address) -> None:
        member = self._build(attrs.evolve(self._instance, name=name), address)
        self._owner.add_member(member)
        with self._lock:
            closed = self._closed
            if not closed:
                self._members = {**self._members, name: member}
        if closed:
            self._discard(member, "its group was closed")
            return
        self._adapt(member)
        with contextlib.suppress(PluginClosedError):  # whoever has closed the group has closed this one, too
            self._balancer.add_plugin(member)

    def _dismiss(self, name: str) -> None:
        """Gives a member no more calls."""
        with self._lock:
            if name not in self._members:  # the group was closed meanwhile
                return
            member = self._members[name]
            self._members = {key: value for key, value in self._members.items() if key != name}
            self._leaving = {**self._leaving, name: member}
        with contextlib.suppress(PluginNotFoundError):
            self._balancer.disable_plugin(name)
        self._owner.stop_watching(member)

    def _drain_and_close(self) -> None:
        """Closes those that were dismissed and have no more calls."""
        for name, member in self._leaving.items():
            if member.tracker.in_flight:
                continue
            with self._lock:
                mine = self._leaving.get(name) is member
                self._leaving = {key: value for key, value in self._leaving.items() if key != name}
            if mine:
                with contextlib.suppress(PluginNotFoundError):
                    self._balancer.remove_plugin(name, 0.0)
                self._discard(member, "its address is no longer in the answer")

    def _discard(self, member: GuardedPlugin, reason: str) -> None:
        member.reject_calls(reason)
        member.close()
        self._owner.remove_member(member)


def name_at(name: str, address: Address) -> str:
    """What the member at an address is called.

    >>> name_at("search", (socket.AF_INET, ("10.0.0.7", 8443)))
    'search@10.0.0.7:8443'
    >>> name_at("search", (socket.AF_INET6, ("fe80::1", 8443, 0, 2)))
    'search@[fe80::1%2]:8443'
    """
    family, (host, port, *rest) = address
    if family is not socket.AF_INET6:
        return f"{name}@{host}:{port}"
    zone = f"%{rest[1]}" if len(rest) > 1 and rest[1] else ""
    return f"{name}@[{host.partition('%')[0]}{zone}]:{port}"


def _is_out_of_reach(error: PluginError) -> bool:
    """Whether the member asked, or every one, may not be there any more."""
    if isinstance(error, PluginTimeoutError):
        return error.replay is Replay.ALWAYS  # while it connected
    if isinstance(error, NoAvailablePluginsError | CircuitBreakerOpenError):
        return True
    return isinstance(error, PluginConnectionError) and not isinstance(error, ConnectionLostError)


def _has_files(config: PluginConfig) -> bool:
    auth = config.auth
    return auth is not None and bool(auth.cert_file or auth.key_file or auth.ca_file or auth.token_file)
