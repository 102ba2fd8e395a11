"""The load balancer: one name for many instances."""

from __future__ import annotations

import logging
import random
import uuid
import weakref
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, overload

import attrs

from goplugins.balancing.dispatcher import Dispatcher
from goplugins.balancing.group_health import group_health, look_at
from goplugins.balancing.guards import guard_group, guard_member
from goplugins.balancing.member import Selection
from goplugins.balancing.member_state import MemberState
from goplugins.balancing.report import LoadBalancerStats, explain_member, member_stats
from goplugins.config import LoadBalancerConfig
from goplugins.enums import LoadBalancingStrategy
from goplugins.errors import (
    DuplicatePluginNameError,
    InvalidArgumentError,
    PluginClosedError,
    PluginNotFoundError,
    belongs_to_host,
)
from goplugins.models.context import ExecutionContext
from goplugins.models.explanation import GroupExplanation
from goplugins.models.plugin import PluginInfo
from goplugins.models.results import HealthStatus
from goplugins.observability.event_stream import EventStream
from goplugins.pipeline.plugin import GuardedPlugin
from goplugins.runtime.call import Call
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock
from goplugins.runtime.deadline import Deadline
from goplugins.runtime.fork import FORK_MARK, renew_after_fork
from goplugins.transports.adapter import as_sender
from goplugins.transports.interface import Sender
from goplugins.transports.json_codec import codec_for

__all__ = ["LoadBalancer"]

logger = logging.getLogger("goplugins.balancing")

Req = TypeVar("Req")
Resp = TypeVar("Resp")

_PLAIN = ExecutionContext()


class LoadBalancer(Sender, Generic[Req, Resp]):
    """Many instances behind one name. Safe to use from many threads.

    Each call goes to one of the members that may take calls: enabled, not OFFLINE, its circuit breaker closed, and
    not ejected. Failures in a row eject a member for a while, which ends in one call that shows whether it is well
    again; then it starts slowly. Never more than ``max_ejection_percent`` are ejected, and when fewer than
    ``panic_threshold`` percent are well, ejection and health no longer count.

    It is a :class:`~goplugins.models.plugin.Plugin`, to be called by itself or registered with a manager, which then
    calls it by name like any other. Only the outermost of a call's plugins retries: members make single attempts. A
    retry goes to a member not yet tried, if there is one.

    Args:
        config: all settings, or just the name.
        request_type: what :meth:`execute` takes; plain JSON values by default.
        response_type: what it returns.
        strategy: instead of the one of ``config``.
        members: plugins to begin with, as for :meth:`add_plugin`. Weight, priority and ``enabled`` come from the
            member of that name in ``config``, if there is one.
        clock: where the time comes from.
        rng: draws members, and where turns begin.
        events: a manager's, told of ejections and returns.

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
        found = LoadBalancerConfig(name=config) if isinstance(config, str) else config
        self.config = found if strategy is None else attrs.evolve(found, strategy=_strategy(strategy))
        self.name = self.config.name
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, guards nothing
        self._dispatcher = Dispatcher(self.config, clock=clock, rng=self._rng, events=events)
        self._codec = codec_for(request_type, response_type)
        self._guard: GuardedPlugin | None = None
        # A dict, since setdefault is atomic: no lock to renew after a fork.
        self._guards: dict[str, GuardedPlugin] = {}
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
        """Adds a member. It joins a group at work slowly.

        Args:
            plugin: a :class:`~goplugins.models.plugin.Plugin`, which then gets policies of its own and is closed by
                :meth:`remove_plugin`; or a :class:`~goplugins.balancing.Member`, which has them and stays its
                owner's.
            name: by default what ``plugin.info()`` says.
            weight: its share of the calls, relative to the others'; 1 by default.
            priority: the larger is preferred by the strategy "priority"; 0 by default.
            enabled: whether it takes calls from the start; it does by default.

        Raises:
            DuplicatePluginNameError: the name is taken.
            InvalidArgumentError: the object is no plugin, or a weight below 1.
            PluginClosedError: the balancer is closed.
        """
        is_member = hasattr(plugin, "call_as_member")
        if not is_member:
            as_sender(plugin)  # raises for an object that is not a plugin
        found: str = plugin.name if is_member else name or plugin.info().name
        given = next((each for each in self.config.members if each.name == found), None)
        weight = weight if weight is not None else given.weight if given is not None else 1
        if isinstance(weight, bool) or not isinstance(weight, int) or weight < 1:
            raise InvalidArgumentError(f"weight: expected an integer of at least 1, got {weight!r}")
        if priority is None:
            priority = given.priority if given is not None else 0
        if enabled is None:
            enabled = given.enabled if given is not None else True
        member = plugin if is_member else guard_member(plugin, found, clock=self._clock, rng=self._rng)
        dispatcher = self._dispatcher
        with dispatcher.lock:
            if dispatcher.closed:
                raise PluginClosedError(dispatcher.closed, plugin=self.name)
            if found in dispatcher.table.states:
                raise DuplicatePluginNameError(f"group {self.name!r} has a member {found!r} already")
            state = dispatcher.table.add(member, plugin, weight, priority, enabled, dispatcher.now())
            state.owned = not is_member
        state.unsubscribe = member.subscribe(_News(dispatcher, found))

    def remove_plugin(self, name: str, drain_timeout: float = 30.0) -> bool:
        """Takes a member out, waits for its calls under way at most ``drain_timeout`` seconds, and closes it.

        One that was added as a :class:`~goplugins.balancing.Member` is not closed.

        Returns:
            True if no call was left behind.

        Raises:
            PluginNotFoundError: no member of that name.
        """
        dispatcher = self._dispatcher
        with dispatcher.lock:
            self._state(name)
            state = dispatcher.table.remove(name)
        return self._remove(state, drain_timeout)

    def enable_plugin(self, name: str) -> None:
        """Has a member take calls (again), slowly at first.

        Raises:
            PluginNotFoundError: no member of that name.
        """
        with self._dispatcher.lock:
            self._set_enabled(self._state(name), True)

    def disable_plugin(self, name: str, drain_timeout: float = 0.0) -> bool:
        """Gives a member no more calls. Those under way go on, and are waited for at most ``drain_timeout`` seconds.

        A call of the member itself must not wait so: it would wait for its own end.

        Returns:
            True if no call is under way on it.

        Raises:
            PluginNotFoundError: no member of that name.
        """
        with self._dispatcher.lock:
            state = self._state(name)
            self._set_enabled(state, False)
        return self._dispatcher.drain(state, drain_timeout)

    def select_plugin(self, context: ExecutionContext = _PLAIN) -> Selection:
        """The member that a call would go to now, by name and as it was added. Counts nothing in.

        Args:
            context: its ``key``, ``priority`` and ``preferences`` are honoured.

        Raises:
            NoAvailablePluginsError: nobody can take a call, and why.
            CircuitBreakerOpenError: the same, where circuit breakers alone stand in the way.
        """
        state = self._dispatcher.select(context)
        return Selection(state.name, state.plugin)

    # --- calls -------------------------------------------------------------------------------------------------

    def execute(self, request: Req, context: ExecutionContext = _PLAIN, /) -> Resp:
        """Calls a member and returns its answer; where that fails, others, as far as deadline and budget allow.

        Raises:
            PluginError: what went wrong, with attempts and elapsed time.
        """
        if not FORK_MARK[0]:
            renew_after_fork()
        guard = self._guard or self._make_guard()
        call = Call(
            request,
            self._codec,
            Deadline.after(context.timeout or guard.request_timeout, self._clock),
            context.request_id or uuid.uuid4().hex,
            headers=context.headers,
            metadata=context.metadata,
            idempotent=guard.idempotent if context.idempotent is None else context.idempotent,
            max_retries=context.max_retries,
            key=context.key,
            priority=context.priority,
            preferences=context.preferences,
        )
        return guard.call(call)  # type: ignore[no-any-return]

    def send(self, call: Call) -> Any:
        """One attempt on one member; see :class:`goplugins.transports.interface.Sender`."""
        return self._dispatcher.send(call)

    # --- what is known -----------------------------------------------------------------------------------------

    def stats(self) -> dict[str, LoadBalancerStats]:
        """Each member's counts."""
        dispatcher = self._dispatcher
        with dispatcher.lock:
            now, epoch = dispatcher.now(), self._clock.time()
            dispatcher.refresh(now)
            return {name: member_stats(state, now, epoch) for name, state in dispatcher.table.states.items()}

    def explain(self) -> GroupExplanation:
        """Why each member would or would not be given the next call."""
        dispatcher, config = self._dispatcher, self.config
        with dispatcher.lock:
            now = dispatcher.now()
            dispatcher.refresh(now)
            states = dispatcher.table.states.values()
            members = tuple(explain_member(state, now, config.slow_start) for state in states)
            return GroupExplanation(self.name, config.strategy, dispatcher.table.panic, members)

    def info(self) -> PluginInfo:
        """The group's name and members. Asks nobody."""
        with self._dispatcher.lock:
            names = list(self._dispatcher.table.states)
        return PluginInfo(self.name, description=f"{len(names)} members, {self.config.strategy}", capabilities=names)

    def health(self, timeout: float) -> HealthStatus:
        """The group's health by what is known of its members; asks those of which nothing is known; never raises."""
        dispatcher = self._dispatcher
        with dispatcher.lock:
            states = list(dispatcher.table.states.values())
        looks = look_at(states, timeout, self._clock)
        with dispatcher.lock:
            dispatcher.refresh(dispatcher.now())
            return group_health(list(dispatcher.table.states.values()), looks, self._clock.time())

    # --- end ---------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Refuses new calls and closes the members that are its own; harmless when repeated."""
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
        """Expects the lock."""
        state = self._dispatcher.table.states.get(name)
        if state is None:
            names = ", ".join(list(self._dispatcher.table.states)[:20]) or "none"
            raise PluginNotFoundError(f"group {self.name!r} has no such member; it has {names}", plugin=name)
        return state

    def _set_enabled(self, state: MemberState, enabled: bool) -> None:
        """Expects the lock."""
        state.enabled = enabled
        self._dispatcher.table.judge(state, self._dispatcher.now())

    def _remove(self, state: MemberState, timeout: float) -> bool:
        if callable(state.unsubscribe):
            state.unsubscribe()
        if not state.owned:
            return self._dispatcher.drain(state, timeout)
        try:
            return bool(state.member.drain_and_close(timeout))  # type: ignore[attr-defined]
        except Exception as exc:
            if belongs_to_host(exc):
                raise
            logger.exception("%s: member %s could not be closed cleanly", self.name, state.name)
            return False

    def _make_guard(self) -> GuardedPlugin:
        guard = guard_group(self, self.config, clock=self._clock, rng=self._rng)
        self._guard = self._guards.setdefault("", guard)
        return self._guard


class _News:
    """What a member calls when its state changed. Holds nobody alive: a member may outlive its group."""

    def __init__(self, dispatcher: Dispatcher, name: str) -> None:
        self._dispatcher = weakref.ref(dispatcher)
        self._name = name

    def __call__(self) -> None:
        dispatcher = self._dispatcher()
        if dispatcher is not None:
            with dispatcher.lock:
                state = dispatcher.table.states.get(self._name)
                if state is not None:
                    if state.found_closed:  # there is news of it, so it is worth a look
                        state.found_closed = False
                        state.blocked_until = 0.0
                    dispatcher.table.judge(state, dispatcher.now())


def _strategy(value: LoadBalancingStrategy | str) -> LoadBalancingStrategy:
    try:
        return LoadBalancingStrategy(value)
    except ValueError as exc:
        known = ", ".join(LoadBalancingStrategy)
        raise InvalidArgumentError(f"strategy: expected one of {known}, got {value!r}") from exc
