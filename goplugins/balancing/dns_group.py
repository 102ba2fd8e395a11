"""A group whose members are the addresses of one host: they follow what the host's name resolves to."""

from __future__ import annotations

import contextlib
import logging
import random
import socket
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import attrs

from goplugins.balancing.dns_refresh import DnsRefresh
from goplugins.balancing.load_balancer import LoadBalancer
from goplugins.config import LoadBalancerConfig, PluginConfig
from goplugins.config.credentials import files_of
from goplugins.config.endpoints import Endpoint
from goplugins.config.groups import DnsGroupConfig
from goplugins.config.transport_options import DEFAULT_RESOLVE_INTERVAL
from goplugins.enums import PluginStatus, TransportType
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
from goplugins.runtime.fork import create_lock, register_forkable
from goplugins.runtime.scheduler import ScheduledTask
from goplugins.transports.interface import Sender
from goplugins.transports.resolver import Address, Resolver
from goplugins.transports.single_call import single_call
from goplugins.transports.tcp import reachable

logger = logging.getLogger("goplugins.balancing")

MAX_MEMBERS = 64
"""Addresses of one host that are used at most."""

Build = Callable[[PluginConfig, Address], GuardedPlugin]
"""Builds a member that connects to one address."""

_NOT_RESOLVED = "its address is no longer in the answer"
_GROUP_CLOSED = "its group was closed"


class MemberOwner(Protocol):
    """Health checks and counts of members: a manager's maintenance, which is a floor above this one."""

    def schedule_lookup(self, method: Callable[[], object], interval: float | None, first: float) -> ScheduledTask:
        """Runs a bound method that may block; see :data:`goplugins.runtime.scheduler.Schedule`."""
        ...

    def add_member(self, member: GuardedPlugin) -> None:
        """Counts the member, and checks its health; also for a member whose checks were stopped."""
        ...

    def stop_watching(self, member: GuardedPlugin) -> None:
        """Ends the member's health checks; its calls still count."""
        ...

    def remove_member(self, member: GuardedPlugin) -> None:
        """Forgets a member that was closed; its counts stay in the total."""
        ...


class DnsGroup(Sender):
    """A :class:`~goplugins.balancing.LoadBalancer` over the addresses of one host; the sender of a guarded plugin.

    Each member has its own breaker, connections and health, and is called under the host's name: URL, ``Host``, TLS
    and ``:authority`` are the same for all. New addresses join a group at work slowly. Members whose addresses are no
    longer resolved get no more calls, and are closed after their last one. If a lookup fails, the members stay.

    Args:
        config: the group's configuration, with its members' in ``instance``.
        resolver: finds the addresses.
        build: builds a member.
        owner: counts members, and checks their health.
        clock: measures and waits.
        rng: draws members.
        events: receives ejections and returns.
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
            raise TypeError("a DNS group needs balancer and instance")
        endpoint = Endpoint.parse(config.instance.transport or TransportType.HTTP, config.instance.endpoint)
        if endpoint.host_to_look_up is None:
            raise ValueError("the endpoint has no host and port to look up")
        host, port = endpoint.host_to_look_up
        self.name = config.name
        self.watches_credentials = bool(files_of(config.instance.auth))
        self._instance = config.instance
        self._build = build
        self._owner = owner
        self._clock = clock
        self._rng = rng
        self._balancer: LoadBalancer[Any, Any] = LoadBalancer(config.balancer, clock=clock, rng=rng, events=events)
        # Snapshots, replaced under the lock and read without it.
        self._members: Mapping[str, GuardedPlugin] = {}
        self._draining: Mapping[str, GuardedPlugin] = {}
        self._held: frozenset[str] = frozenset()  # members that are gone, and were forced open
        self._closed = False
        self._has_too_many = False
        self._lock = create_lock(self)
        self._dns = DnsRefresh(
            config.name,
            host,
            port,
            resolver=resolver,
            on_addresses=self._apply,
            schedule=owner.schedule_lookup,
            interval=config.options.get("resolve_interval", DEFAULT_RESOLVE_INTERVAL),
            clock=clock,
        )
        register_forkable(self)

    # --- Sender ------------------------------------------------------------------------------------------------

    def send(self, call: Call) -> Any:
        """Makes one attempt on one member; see :class:`goplugins.transports.interface.Sender`."""
        dns = self._dns
        if dns.idle:
            dns.resume(call.deadline)
        dns.used = True
        if call.tried and len(call.tried) >= len(self._members):
            dns.await_early(call.deadline)
        try:
            return self._balancer.send(call)
        except PluginError as error:
            if _suggests_stale_addresses(error):
                dns.refresh_early()
            raise

    def health(self, timeout: float) -> HealthStatus:
        """The group's health from its members'; checks those whose health is unknown. Never raises."""
        deadline = Deadline(self._clock.monotonic() + timeout, self._clock)
        try:
            if self._dns.idle:
                self._dns.resume(deadline)
        except PluginError as error:
            return HealthStatus(PluginStatus.OFFLINE, error.message, last_check=self._clock.time())
        self._dns.used = True
        return self._balancer.health(max(0.0, deadline.remaining()))

    def group_health(self) -> HealthStatus | None:
        """The group's health from what is known of its members; None while it has none."""
        return self._balancer.group_health() if self._balancer.explain().members else None

    def info(self) -> PluginInfo:
        """The group's name and members, without contacting them."""
        return self._balancer.info()

    def execute(self, request: Any, context: ExecutionContext = ExecutionContext(), /) -> Any:  # noqa: B008 - frozen
        """Makes one attempt with plain JSON values, outside the policies.

        Raises:
            PluginError: the attempt failed.
        """
        timeout = self._balancer.config.request_timeout or 30.0
        return single_call(self, request, context, timeout=timeout, idempotent=False, clock=self._clock)

    def close(self) -> None:
        """Closes all members and ends the lookups; later calls are refused. Can be called repeatedly."""
        self._dns.close()
        with self._lock:
            self._closed = True
            members = [*self._members.values(), *self._draining.values()]
            self._members = self._draining = {}
        self._balancer.close()
        for member in members:
            self._close_member(member, _GROUP_CLOSED)

    # --- maintenance -------------------------------------------------------------------------------------------

    def explain(self) -> GroupExplanation | None:
        """State of each member; None before the first lookup."""
        if not self._dns.has_run:
            return None
        found, draining = self._balancer.explain(), self._draining
        members = tuple(
            # Without endpoints: that of the host is the same for all, and names contain the addresses.
            attrs.evolve(each, endpoint="", reason=_NOT_RESOLVED if each.name in draining else each.reason)
            for each in found.members
        )
        return attrs.evolve(found, members=members, resolution=str(self._dns))

    def sweep(self) -> None:
        """Closes idle connections, and drained members."""
        for member in self._members.values():
            member.sweep()
        if self._draining:
            self._dns.run_exclusively(self._close_drained)

    def renew_credentials(self) -> None:
        """Has each member load certificates and tokens whose files have changed."""
        for member in (*self._members.values(), *self._draining.values()):
            member.wire.renew_credentials()

    def reconfigure(self, config: PluginConfig) -> None:
        """Applies other policies to all members, future ones included."""
        if isinstance(config, DnsGroupConfig) and isinstance(config.instance, PluginConfig):
            self._instance = config.instance
        for member in (*self._members.values(), *self._draining.values()):
            self._reconfigure(member)

    def _reconfigure(self, member: GuardedPlugin) -> None:
        wanted = attrs.evolve(self._instance, name=member.name)
        if member.config != wanted:
            member.reconfigure(wanted)

    def after_fork_in_child(self) -> None:
        """Keeps the members; each renews its connections and locks."""
        for member in (*self._members.values(), *self._draining.values()):
            member.after_fork_in_child()

    def operator_settings(self) -> Mapping[str, bool]:
        """The members whose breakers are forced open, also where their addresses are gone for now."""
        members = {**self._draining, **self._members}
        held = {name for name, member in members.items() if member.pipeline.breaker.is_forced_open}
        return dict.fromkeys(sorted(held | self._held), False)

    def apply_operator_settings(self, members: Mapping[str, bool]) -> None:
        """Forces the breakers of disabled members open, now and when their addresses are found."""
        held = {name for name, enabled in members.items() if not enabled}
        with self._lock:
            present = self._members
            self._held = frozenset(held.difference(present))
        for name, member in present.items():
            member.pipeline.breaker.hold_open(name in held)
            member.notify_changed()

    # --- changes of members: on one thread at a time, see DnsRefresh -----------------------------------------------

    def _apply(self, addresses: Iterable[Address]) -> None:
        """Makes ``addresses`` the members; adds the new ones first, so that the group is never without members.

        Raises:
            NameResolutionError: there are no addresses.
            PluginError: a new member can't be built.
        """
        wanted = self._limit({name_at(self.name, address): address for address in reachable(addresses)})
        if not wanted:
            raise NameResolutionError(f"the name {self._dns.host!r} has no address")
        before = self._members
        added = [name for name in wanted if name not in before]
        removed = [name for name in before if name not in wanted]
        for name in added:
            if not self._restore(name):
                self._add(name, wanted[name])
        for name in removed:
            self._begin_draining(name)
        if before and (added or removed):
            text = "%s: members added: %s; removed: %s"
            logger.info(text, self.name, ", ".join(added) or "none", ", ".join(removed) or "none")
        self._close_drained()

    def _limit(self, found: Mapping[str, Address]) -> dict[str, Address]:
        """At most 64 addresses: present members first, then random ones, different in each process."""
        names = sorted(found)
        too_many = len(names) > MAX_MEMBERS
        if too_many:
            kept = [name for name in names if name in self._members]
            others = [name for name in names if name not in self._members]
            names = sorted([*kept, *self._rng.sample(others, MAX_MEMBERS - len(kept))])
            if not self._has_too_many:
                text = "%s: %s has %d addresses; only %d of them are used"
                logger.warning(text, self.name, self._dns.host, len(found), MAX_MEMBERS)
        self._has_too_many = too_many
        return {name: found[name] for name in names}

    def _restore(self, name: str) -> bool:
        """Enables a member again that is still draining; False if there is none of that name."""
        with self._lock:
            member = self._draining.get(name)
            if member is None or self._closed:
                return False
            self._draining = {key: value for key, value in self._draining.items() if key != name}
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
                if name in self._held:
                    member.pipeline.breaker.hold_open(True)
                    self._held -= {name}
        if closed:
            self._close_member(member, _GROUP_CLOSED)
            return
        self._reconfigure(member)
        with contextlib.suppress(PluginClosedError):  # the group was closed meanwhile, and this member with it
            self._balancer.add_plugin(member)

    def _begin_draining(self, name: str) -> None:
        with self._lock:
            if name not in self._members:  # the group was closed meanwhile
                return
            member = self._members[name]
            self._members = {key: value for key, value in self._members.items() if key != name}
            self._draining = {**self._draining, name: member}
        with contextlib.suppress(PluginNotFoundError):
            self._balancer.disable_plugin(name)
        self._owner.stop_watching(member)

    def _close_drained(self) -> None:
        """Closes the draining members that have no more calls in flight."""
        for name, member in self._draining.items():
            if member.tracker.in_flight:
                continue
            with self._lock:
                mine = self._draining.get(name) is member
                if member.pipeline.breaker.is_forced_open:  # it stays so, should its address come back
                    self._held |= {name}
                self._draining = {key: value for key, value in self._draining.items() if key != name}
            if mine:
                with contextlib.suppress(PluginNotFoundError):
                    self._balancer.remove_plugin(name, 0.0)
                self._close_member(member, _NOT_RESOLVED)

    def _close_member(self, member: GuardedPlugin, reason: str) -> None:
        member.reject_calls(reason)
        member.close()
        self._owner.remove_member(member)


def name_at(name: str, address: Address) -> str:
    """The name of the member at an address.

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


def _suggests_stale_addresses(error: PluginError) -> bool:
    """Whether a member, or all of them, could not be reached."""
    if isinstance(error, PluginTimeoutError):
        return error.replay is Replay.ALWAYS  # timed out while connecting
    if isinstance(error, NoAvailablePluginsError | CircuitBreakerOpenError):
        return True
    return isinstance(error, PluginConnectionError) and not isinstance(error, ConnectionLostError)
