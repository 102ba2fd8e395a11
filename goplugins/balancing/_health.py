"""A group's health, put together from its members'."""

from __future__ import annotations

from collections.abc import Sequence

from goplugins._clock import Clock
from goplugins.balancing._state import Condition, MemberState
from goplugins.models import HealthStatus, PluginStatus

__all__ = ["group_health", "look_at"]

_MOST_NAMES = 5


def look_at(states: Sequence[MemberState], timeout: float, clock: Clock) -> None:
    """Asks those members for their health of which nobody knows, where they can be asked; one after the other."""
    deadline = clock.monotonic() + timeout
    unknown = [state for state in states if state.enabled and state.member.status() is PluginStatus.UNKNOWN]
    for place, state in enumerate(unknown):
        ask = getattr(state.member, "health", None)
        left = deadline - clock.monotonic()
        if ask is not None and left > 0:
            ask(left / (len(unknown) - place))


def group_health(states: Sequence[MemberState], now: float) -> HealthStatus:
    """HEALTHY if all members are, OFFLINE if none takes calls; between these DEGRADED, naming who is out.

    UNKNOWN while no member was seen well, by a health check or by a call. Expects the group's lock.

    Args:
        states: the members.
        now: seconds since the Unix epoch.
    """
    asked = [state for state in states if state.enabled]
    out = [state for state in asked if state.condition is not Condition.READY]
    weak = [
        f"{state.name} ({state.member.status()})"
        for state in asked
        if state.member.status() in (PluginStatus.DEGRADED, PluginStatus.UNHEALTHY) and state not in out
    ]
    names = [f"{state.name} ({state.condition})" for state in out] + weak
    text = ", ".join(names[:_MOST_NAMES]) + (f" and {len(names) - _MOST_NAMES} more" if names[_MOST_NAMES:] else "")
    if not asked:
        return HealthStatus(PluginStatus.OFFLINE, "no member is enabled", now)
    if len(out) == len(asked):
        return HealthStatus(PluginStatus.OFFLINE, f"no member takes calls: {text}", now)
    if names:
        return HealthStatus(PluginStatus.DEGRADED, f"{len(names)} of {len(asked)} members: {text}", now)
    if any(state.timed or state.member.status() is PluginStatus.HEALTHY for state in asked):
        return HealthStatus(PluginStatus.HEALTHY, f"{len(asked)} members", now)
    return HealthStatus(PluginStatus.UNKNOWN, "nobody has looked at its members yet", now)
