"""The load balancer: one name for many instances."""

from __future__ import annotations

import logging
import random
import uuid
import weakref
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, get_args, overload

import attrs

from goplugins.balancing.member import Member, Selection
from goplugins.balancing.member_dispatcher import MemberDispatcher
from goplugins.balancing.member_state import MemberState
from goplugins.balancing.report import LoadBalancerStats, check_unknown, explain_member, group_health, member_stats
from goplugins.config import CircuitBreakerConfig, ConnectionConfig, LoadBalancerConfig, ManagerConfig, PluginConfig
from goplugins.config.field_types import surrogate_fault
from goplugins.config.manager_sections import GROUP_POLICIES
from goplugins.config.operations import OperationConfig
from goplugins.enums import LoadBalancingStrategy, PluginStatus, TransportType
from goplugins.errors import (
    DuplicatePluginNameError,
    LoadBalancerError,
    PluginClosedError,
    PluginNotFoundError,
    belongs_to_host,
)
from goplugins.models.context import ExecutionContext
from goplugins.models.explanation import GroupExplanation
from goplugins.models.plugin import PluginInfo
from goplugins.models.results import HealthStatus
from goplugins.observability.event_stream import EventStream
from goplugins.pipeline.hedging import hedge_pool
from goplugins.pipeline.plugin import GuardedPlugin
from goplugins.runtime.call import Call
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock
from goplugins.runtime.deadline import Deadline
from goplugins.runtime.fork import FORK_MARK, renew_after_fork
from goplugins.runtime.text import counted
from goplugins.transports.adapter import as_sender
from goplugins.transports.interface import Sender
from goplugins.transports.json_codec import codec_for

logger = logging.getLogger("goplugins.balancing")

Req = TypeVar("Req")
Resp = TypeVar("Resp")

_PLAIN = ExecutionContext()


class LoadBalancer(Sender, Generic[Req, Resp]):
    """Many instances behind one name. Safe to use from many threads.

    Each call goes to one of the eligible members: enabled, not OFFLINE, not ejected, and with a closed circuit
    breaker. Failures in a row eject a member for a while; then one call probes it, and after a success it takes calls
    again, few at first. At most ``max_ejection_percent`` of the members are ejected, and when fewer than
    ``panic_threshold`` percent are eligible, ejection and health are ignored.

    It is a :class:`~goplugins.models.plugin.Plugin`: it can be called directly, or be registered with a manager and
    called by name. Only the group retries; its members make single attempts. A retry goes to an untried member if
    there is one.

    Args:
        config: all settings, or just the name, or just the strategy, which then is the name, too.
        request_type: what :meth:`execute` takes; plain JSON values by default.
        response_type: what it returns.
        strategy: replaces the one of ``config``.
        members: the first members, as for :meth:`add_plugin`. Weight, priority and ``enabled`` come from the member of
            that name in ``config``, if there is one.
        clock: measures and waits.
        rng: draws members and first turns.
        events: a manager's event stream, which receives ejections and returns.

    >>> from goplugins import PluginInfo, HealthStatus
    >>> class Greeter:
    ...     def __init__(self, name): self.name = name
    ...     def info(self): return PluginInfo(self.name)
    ...     def execute(self, request, context): return f"hello {request}"
    ...     def health(self, timeout): return HealthStatus()
    ...     def close(self): pass
    >>> balancer = LoadBalancer("greeters", members=[Greeter("first"), Greeter("second")])
    >>> [balancer.execute("you") for _ in range(4)][-1]
    'hello you'
    >>> {name: stats.total_requests for name, stats in balancer.stats().items()}
    {'first': 2, 'second': 2}
    >>> balancer.close()
    """

    @overload
    def __init__(
        self: LoadBalancer[Any, Any],
        config: LoadBalancerConfig | str,
        *,
        strategy: LoadBalancingStrategy | str | None = None,
        members: Iterable[Any] = (),
        clock: Clock = SYSTEM_CLOCK,
        rng: random.Random | None = None,
        events: EventStream | None = None,
    ) -> None: ...

    @overload
    def __init__(
        self,
        config: LoadBalancerConfig | str,
        request_type: type[Req],
        response_type: type[Resp],
        *,
        strategy: LoadBalancingStrategy | str | None = None,
        members: Iterable[Any] = (),
        clock: Clock = SYSTEM_CLOCK,
        rng: random.Random | None = None,
        events: EventStream | None = None,
    ) -> None: ...

    def __init__(
        self,
        config: LoadBalancerConfig | str,
        request_type: Any = Any,
        response_type: Any = Any,
        *,
        strategy: LoadBalancingStrategy | str | None = None,
        members: Iterable[Any] = (),
        clock: Clock = SYSTEM_CLOCK,
        rng: random.Random | None = None,
        events: EventStream | None = None,
    ) -> None:
        if isinstance(config, LoadBalancingStrategy):  # a string, too, but no name
            config, strategy = config.value, config if strategy is None else strategy
        found = LoadBalancerConfig(name=config) if isinstance(config, str) else config
        self.config = found if strategy is None else attrs.evolve(found, strategy=_strategy(strategy))
        self.name = _checked(self.config.name)
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, guards nothing
        self._dispatcher = MemberDispatcher(self.config, clock=clock, rng=self._rng, events=events)
        self._types = (request_type, response_type)
        self._codec = codec_for(*self._types)
        self._guard: GuardedPlugin | None = None
        # A dict, since setdefault is atomic: no lock to renew after a fork.
        self._guarded_by_name: dict[str, GuardedPlugin] = {}
        for plugin in members:
            self.add_plugin(plugin)

    # --- members -----------------------------------------------------------------------------------------------

    def add_plugin(
        self,
        plugin: Any,
        *,
        name: str | None = None,
        weight: int | None = None,
        priority: int | None = None,
        enabled: bool | None = None,
    ) -> None:
        """Adds a member. In a group that has served calls it gets few calls at first.

        Args:
            plugin: a :class:`~goplugins.models.plugin.Plugin`, which gets default policies and is closed by
                :meth:`remove_plugin`; or a :class:`~goplugins.balancing.Member`, which has policies and is never closed
                by the group.
            name: by default that of ``plugin.info()``.
            weight: its share of the calls, relative to the others'; 1 by default.
            priority: larger numbers are preferred by the strategy "priority"; 0 by default.
            enabled: whether it takes calls; True by default.

        Raises:
            DuplicatePluginNameError: the name is taken.
            InvalidArgumentError: the object is not a plugin; a :class:`~goplugins.errors.LoadBalancerError` if the
                weight is below 1, or the priority is not an integer.
            PluginClosedError: the balancer is closed.
        """
        is_member = hasattr(plugin, "call_as_member")
        sender = None if is_member else as_sender(plugin)
        found = _checked(plugin.name if is_member else name or plugin.info().name)
        given = next((each for each in self.config.members if each.name == found), None)
        weight = weight if weight is not None else given.weight if given is not None else 1
        if isinstance(weight, bool) or not isinstance(weight, int) or weight < 1:
            raise LoadBalancerError(f"weight: expected an integer of at least 1, got {weight!r}")
        if priority is None:
            priority = given.priority if given is not None else 0
        if isinstance(priority, bool) or not isinstance(priority, int):
            raise LoadBalancerError(f"priority: expected an integer, got {priority!r}")
        if enabled is None:
            enabled = given.enabled if given is not None else True
        owned = None if sender is None else self._guard_with(PluginConfig(name=found), sender, plugin)
        member: Member = plugin if owned is None else owned
        dispatcher = self._dispatcher
        with dispatcher.lock:
            if dispatcher.closed:
                raise PluginClosedError(dispatcher.closed, plugin=self.name)
            if found in dispatcher.table.states:
                raise DuplicatePluginNameError(f"group {self.name!r} has a member {found!r} already")
            state = dispatcher.table.add(member, plugin, weight, priority, enabled, dispatcher.now())
            state.owned = owned
        state.unsubscribe = member.subscribe(_MemberListener(dispatcher, found))

    def remove_plugin(self, name: str, drain_timeout: float = 30.0) -> bool:
        """Removes a member, waits at most ``drain_timeout`` seconds for its calls in flight, and closes it.

        A member that was added as a :class:`~goplugins.balancing.Member` is not closed.

        Returns:
            True if no call is left in flight.

        Raises:
            PluginNotFoundError: there is no member of that name.
        """
        dispatcher = self._dispatcher
        with dispatcher.lock:
            self._state(name)
            state = dispatcher.table.remove(name)
        return self._remove(state, drain_timeout)

    def enable_plugin(self, name: str) -> None:
        """Enables a member: it takes calls (again), few at first.

        Raises:
            PluginNotFoundError: there is no member of that name.
        """
        with self._dispatcher.lock:
            self._set_enabled(self._state(name), True)

    def disable_plugin(self, name: str, drain_timeout: float = 0.0) -> bool:
        """Disables a member: it gets no more calls. Waits at most ``drain_timeout`` seconds for those in flight.

        Don't wait from within a call of the member: the wait would include that call.

        Returns:
            True if no call is in flight on it.

        Raises:
            PluginNotFoundError: there is no member of that name.
        """
        with self._dispatcher.lock:
            state = self._state(name)
            self._set_enabled(state, False)
        return self._dispatcher.drain(state, drain_timeout)

    def select_plugin(self, context: ExecutionContext = _PLAIN) -> Selection:
        """The member that a call would go to now, by name and as it was added. Changes no counts.

        Args:
            context: its ``key``, ``priority`` and ``preferences`` are applied.

        Raises:
            NoAvailablePluginsError: no member can take a call, and why.
            CircuitBreakerOpenError: the circuit breakers of all enabled members are open.
        """
        state = self._dispatcher.select(context)
        return Selection(state.name, state.plugin)

    # --- calls -------------------------------------------------------------------------------------------------

    def execute(self, request: Req, context: ExecutionContext = _PLAIN, /) -> Resp:
        """Calls a member and returns its answer; retries on other members within deadline and retry budget.

        Raises:
            PluginError: the call failed; with attempts and elapsed time.
        """
        if not FORK_MARK[0]:
            renew_after_fork()
        guard = self._guard or self._make_guard()
        call = Call(
            request,
            self._codec,
            Deadline.after(context.timeout or guard.pipeline.request_timeout, self._clock),
            context.request_id or uuid.uuid4().hex,
            headers=context.headers,
            metadata=context.metadata,
            idempotent=guard.pipeline.idempotent if context.idempotent is None else context.idempotent,
            max_retries=context.max_retries,
            key=context.key,
            priority=context.priority,
            preferences=context.preferences,
            operation=context.operation,
        )
        return guard.call(call)  # type: ignore[no-any-return]

    def send(self, call: Call) -> Any:
        """Makes one attempt on one member; see :class:`goplugins.transports.interface.Sender`."""
        return self._dispatcher.send(call)

    # --- state -------------------------------------------------------------------------------------------------

    @property
    def policies(self) -> PluginConfig:
        """What the group's configuration says of its calls as a whole."""
        config = self.config
        own = {name: getattr(config, name) for name in GROUP_POLICIES}
        return PluginConfig(
            name=config.name, connection=ConnectionConfig(request_timeout=config.request_timeout), **own
        )

    @property
    def operations(self) -> Mapping[str, OperationConfig]:
        """Those of all members; of a name that several have, the first member's."""
        return self.operations_with("")

    def operations_with(self, name: str) -> Mapping[str, OperationConfig]:
        """Those of the members up to the first that has the name: a call need not go through all of a large group."""
        found: dict[str, OperationConfig] = {}
        for state in list(self._dispatcher.table.states.values()):
            own = state.member.operations
            if name in own:
                return own
            for each, operation in own.items():
                found.setdefault(each, operation)
        return found

    def stats(self) -> dict[str, LoadBalancerStats]:
        """Statistics of each member, by name."""
        dispatcher = self._dispatcher
        with dispatcher.lock:
            now, epoch = dispatcher.now(), self._clock.time()
            dispatcher.refresh(now)
            return {name: member_stats(state, now, epoch) for name, state in dispatcher.table.states.items()}

    def explain(self) -> GroupExplanation:
        """Explains why each member would or would not get the next call."""
        dispatcher, config = self._dispatcher, self.config
        with dispatcher.lock:
            now = dispatcher.now()
            dispatcher.refresh(now)
            states = dispatcher.table.states.values()
            members = tuple(explain_member(state, now, config.slow_start) for state in states)
            return GroupExplanation(self.name, config.strategy, dispatcher.table.panic, members)

    def info(self) -> PluginInfo:
        """The group's name and members, without contacting them."""
        with self._dispatcher.lock:
            names = list(self._dispatcher.table.states)
        return PluginInfo(
            self.name, description=f"{counted(len(names), 'member')}, {self.config.strategy}", capabilities=names
        )

    def health(self, timeout: float) -> HealthStatus:
        """The group's health from its members'; checks those whose health is unknown. Never raises."""
        dispatcher = self._dispatcher
        with dispatcher.lock:
            states = list(dispatcher.table.states.values())
        return self.group_health(check_unknown(states, timeout, self._clock))

    def group_health(self, checked: Mapping[str, PluginStatus] | None = None) -> HealthStatus:
        """The group's health from what is known of its members.

        Args:
            checked: statuses by name that go before what is known.
        """
        dispatcher = self._dispatcher
        with dispatcher.lock:
            dispatcher.refresh(dispatcher.now())
            return group_health(list(dispatcher.table.states.values()), checked or {}, self._clock.time())

    def operator_settings(self) -> Mapping[str, bool]:
        """See :class:`goplugins.transports.interface.Sender`."""
        with self._dispatcher.lock:
            return {name: state.enabled for name, state in self._dispatcher.table.states.items() if state.by_hand}

    def apply_operator_settings(self, members: Mapping[str, bool]) -> None:
        """See :class:`goplugins.transports.interface.Sender`."""
        with self._dispatcher.lock:
            for name, state in self._dispatcher.table.states.items():
                if name in members:
                    self._set_enabled(state, members[name])

    # --- end ---------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Refuses new calls, and closes members that were added as plain plugins. Can be called repeatedly."""
        dispatcher = self._dispatcher
        with dispatcher.lock:
            dispatcher.closed = f"load balancer {self.name!r} is closed"
            states = [dispatcher.table.remove(name) for name in list(dispatcher.table.states)]
        for state in states:
            self._remove(state, 0.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- inside ------------------------------------------------------------------------------------------------

    def _state(self, name: str) -> MemberState:
        """The member of that name. Expects the lock."""
        state = self._dispatcher.table.states.get(name)
        if state is None:
            names = ", ".join(list(self._dispatcher.table.states)[:20]) or "none"
            raise PluginNotFoundError(f"group {self.name!r} has no such member; it has {names}", plugin=name)
        return state

    def _set_enabled(self, state: MemberState, enabled: bool) -> None:
        state.enabled, state.by_hand = enabled, True
        self._dispatcher.table.evaluate(state, self._dispatcher.now())

    def _remove(self, state: MemberState, timeout: float) -> bool:
        if state.unsubscribe is not None:
            state.unsubscribe()
        if state.owned is None:
            return self._dispatcher.drain(state, timeout)
        try:
            return state.owned.drain_and_close(timeout)
        except Exception as exc:
            if belongs_to_host(exc):
                raise
            logger.exception("%s: closing member %s failed", self.name, state.name)
            return False

    def _make_guard(self) -> GuardedPlugin:
        """The group with its configured policies, for calls without a manager. No breaker: each member has its own.

        Raises:
            LoadBalancerError: made by ``LoadBalancer[A, B](...)`` without the types, which would silently mean Any.
        """
        if self._types == (Any, Any) and get_args(getattr(self, "__orig_class__", None)) not in {(), (Any, Any)}:
            message = "LoadBalancer[A, B](name) can't see its types at run time: write LoadBalancer(name, A, B)"
            raise LoadBalancerError(message, plugin=self.name)
        own = self.policies
        if own.fallback is not None and own.fallback.plugin:
            message = "its fallback is another plugin, which only a manager can call: register the group"
            raise LoadBalancerError(message, plugin=self.name)
        own = attrs.evolve(own, circuit_breaker=CircuitBreakerConfig(enabled=False))
        self._guard = self._guarded_by_name.setdefault("", self._guard_with(own, self, self))
        return self._guard

    def _guard_with(self, config: PluginConfig, sender: Sender, plugin: Any) -> GuardedPlugin:
        """Default policies around a sender, where the configuration has none."""
        resolved = ManagerConfig().resolve(attrs.evolve(config, transport=TransportType.PYTHON))
        pool = hedge_pool() if config.hedge is not None and config.hedge.enabled else None
        clock, rng = self._clock, self._rng
        return GuardedPlugin(sender, plugin, resolved, from_config=False, clock=clock, rng=rng, hedge_pool=pool)


class _MemberListener:
    """Evaluates a member when it notifies the group of a change. Holds the group weakly: members may outlive it."""

    def __init__(self, dispatcher: MemberDispatcher, name: str) -> None:
        self._dispatcher = weakref.ref(dispatcher)
        self._name = name

    def __call__(self) -> None:
        dispatcher = self._dispatcher()
        if dispatcher is not None:
            with dispatcher.lock:
                dispatcher.table.notified(self._name, dispatcher.now())


def _checked(name: str) -> str:
    """The name of a group or member.

    Raises:
        LoadBalancerError: UTF-8 has no encoding for it.
    """
    if fault := surrogate_fault(name):
        raise LoadBalancerError(f"name: {name!r} {fault}")
    return name


def _strategy(value: LoadBalancingStrategy | str) -> LoadBalancingStrategy:
    try:
        return LoadBalancingStrategy(value)
    except ValueError as exc:
        known = ", ".join(LoadBalancingStrategy)
        raise LoadBalancerError(f"strategy: expected one of {known}, got {value!r}") from exc
