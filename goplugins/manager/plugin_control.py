"""Actions of operators on one plugin or group of a running manager, each recorded in the audit trail."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from goplugins.errors import InvalidArgumentError, PluginNotFoundError
from goplugins.health import HealthChecker
from goplugins.manager.lifecycle import Lifecycle
from goplugins.models.results import HealthStatus
from goplugins.observability.event_stream import publish
from goplugins.observability.events import PluginControlled
from goplugins.pipeline.plugin import GuardedPlugin
from goplugins.runtime.clock import Clock

if TYPE_CHECKING:
    from goplugins.balancing.load_balancer import LoadBalancer

__all__ = ["PluginControl"]


class PluginControl:
    """Actions on one plugin or group, of this process only. Made by :meth:`goplugins.Manager.control`.

    With ``member``, an action is on one member of the group: its breaker and its health are those of the member,
    :meth:`disable` and :meth:`enable` take it out of the group and back. What an action sets lasts until another action
    ends it, also beyond reloads that change or replace the plugin; one that removes it, or writes ``enabled: false``,
    ends it, too. Each action is an event (:class:`~goplugins.PluginControlled`) and a
    record of the audit trail, whose actor :func:`goplugins.acting_as` sets.

    Args:
        lifecycle: the manager's plugins.
        clock: measures time.
        name: of a plugin or group.

    Raises:
        PluginNotFoundError: there is no plugin, or no member, of that name; raised by each action.

    >>> from goplugins import Manager, serve
    >>> @serve.plugin(name="shout")
    ... def shout(request: str) -> str:
    ...     return request.upper()
    >>> manager = Manager(str, str)
    >>> manager.register(shout)
    >>> manager.control("shout").disable(drain_timeout=5.0)  # False if calls were still in flight then
    True
    >>> manager.explain("shout").admits
    False
    >>> manager.control("shout").enable()
    >>> manager.execute("shout", "hello")
    'HELLO'
    >>> manager.shutdown()
    """

    def __init__(self, lifecycle: Lifecycle, clock: Clock, name: str) -> None:
        self.name = name
        self._lifecycle = lifecycle
        self._clock = clock
        self._find("")

    def force_open(self, *, member: str = "") -> None:
        """Forces the circuit breaker open: calls are rejected, or answered by the fallback, until it is closed.

        Raises:
            InvalidArgumentError: the breaker is configured to reject no call (``metrics_only``).
        """
        self._announce("breaker_forced", member, self._act_on(member, _force_open))

    def close_breaker(self, *, member: str = "") -> None:
        """Closes the circuit breaker, forced open or not; it may open again. What it has counted stays."""
        self._close_breaker(member, "breaker_closed", reset=False)

    def reset_breaker(self, *, member: str = "") -> None:
        """Closes the circuit breaker, as :meth:`close_breaker`, and forgets what it has counted."""
        self._close_breaker(member, "breaker_reset", reset=True)

    def _close_breaker(self, member: str, action: str, *, reset: bool) -> None:
        self._announce(action, member, self._act_on(member, partial(_close_breaker, reset=reset)))

    def disable(self, drain_timeout: float = 0.0, *, member: str = "") -> bool:
        """Lets no more calls through: as :meth:`force_open`; a member gets none of the group's, but others of its own.

        Args:
            drain_timeout: seconds to wait at most for calls in flight.
            member: of a configured group; the members of a group that follows DNS are forced open.

        Returns:
            True if no call of another thread is in flight any more.
        """
        balancer = self._set_enabled(member, False)
        if balancer is not None:
            self._announce("member_disabled", member)
            return balancer.disable_plugin(member, drain_timeout)
        self.force_open(member=member)
        return self._find(member).tracker.drain(drain_timeout, self._clock)

    def enable(self, *, member: str = "") -> None:
        """Ends :meth:`disable`: a member takes calls again, few at first."""
        if self._set_enabled(member, True) is None:
            self.reset_breaker(member=member)
        else:
            self._announce("member_enabled", member)

    def check_health(self, *, member: str = "") -> HealthStatus:
        """Checks the health now, also where checks are off, and returns the result; waits for it at most its timeout.

        Raises:
            PluginClosedError: the manager was shut down.
        """
        plugin = self._find(member)
        self._announce("health_checked", member)
        checker = plugin.checker
        return checker.check() if isinstance(checker, HealthChecker) else plugin.wire.health(5.0)

    def _find(self, member: str) -> GuardedPlugin:
        """The plugin or, if it is a group, its member."""
        find = self._lifecycle.reports.find
        plugin = find(self.name)
        if not member:
            return plugin
        group = plugin.wire.explain()
        if group is None or all(each.name != member for each in group.members):
            raise PluginNotFoundError(f"{self.name!r} has no member {member!r}")
        return find(member)

    def _act_on(self, member: str, act: Callable[[GuardedPlugin], object]) -> GuardedPlugin:
        """Acts on the plugin, and on its successor if a reload has replaced it meanwhile."""
        done: GuardedPlugin | None = None
        while done is not (plugin := self._find(member)):
            act(plugin)
            done = plugin
        return plugin

    def _set_enabled(self, member: str, enabled: bool) -> LoadBalancer[Any, Any] | None:
        """The same for a member of a group with configured members; None, doing nothing, for anything else."""
        done: LoadBalancer[Any, Any] | None = None
        while done is not (balancer := self._balancer(member)) and balancer is not None:
            if enabled:
                balancer.enable_plugin(member)
            else:
                balancer.disable_plugin(member)
            done = balancer
        return balancer

    def _balancer(self, member: str) -> LoadBalancer[Any, Any] | None:
        """The group, if it has configured members and the action is on one of them."""
        if not member:
            return None
        from goplugins.balancing.load_balancer import LoadBalancer

        wire = self._lifecycle.reports.find(self.name).wire
        return wire if isinstance(wire, LoadBalancer) else None

    def _announce(self, action: str, member: str, changed: GuardedPlugin | None = None) -> None:
        if changed is not None:
            changed.notify_changed()
        changes = self._lifecycle.events.changes
        if changes:
            publish(changes, PluginControlled(self.name, self._clock.time(), action, member))

    def __repr__(self) -> str:
        return f"<PluginControl of {self.name!r}>"


def _force_open(plugin: GuardedPlugin) -> None:
    section = plugin.config.circuit_breaker
    if section is not None and section.metrics_only:
        raise InvalidArgumentError(
            f"{plugin.name!r} has a circuit breaker that rejects no call: set circuit_breaker.metrics_only to false"
        )
    plugin.pipeline.breaker.force_open()


def _close_breaker(plugin: GuardedPlugin, *, reset: bool) -> None:
    breaker, section = plugin.pipeline.breaker, plugin.config.circuit_breaker
    if reset:
        breaker.reset()
    elif section is None or section.enabled is not False:
        breaker.close()
    if section is not None and section.enabled is False:
        breaker.disable()  # forcing it open has switched it on
