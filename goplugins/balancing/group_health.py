"""A group's health, put together from its members'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from goplugins.balancing.member_state import Condition, MemberState
from goplugins.enums import PluginStatus
from goplugins.models.results import HealthStatus
from goplugins.runtime.clock import Clock

__all__ = ["group_health", "look_at"]

_MOST_NAMES = 5
_WEAK = (PluginStatus.DEGRADED, PluginStatus.UNHEALTHY)


def look_at(states: Sequence[MemberState], timeout: float, clock: Clock) -> dict[str, PluginStatus]:
    """Asks those members for their health of which nobody knows, where they can be asked; one after the other.

    Returns:
        What was found, by name.
    """
    deadline = clock.monotonic() + timeout
    found = {}
    unknown = [state for state in states if state.enabled and state.member.status() is PluginStatus.UNKNOWN]
    for place, state in enumerate(unknown):
        ask = getattr(state.member, "health", None)
        left = deadline - clock.monotonic()
        if ask is not None and left > 0:
            found[state.name] = ask(left / (len(unknown) - place)).status
    return found


def group_health(states: Sequence[MemberState], looks: Mapping[str, PluginStatus], now: float) -> HealthStatus:
    """HEALTHY if all members are, OFFLINE if none takes calls; between these DEGRADED, naming who is out.

    UNKNOWN while no member was seen well, by a health check or by a call. Expects the group's lock.

    Args:
        states: the members.
        looks: what was found by looking just now.
        now: seconds since the Unix epoch.
    """
    asked = [state for state in states if state.enabled]
    seen = {state: looks.get(state.name) or state.member.status() for state in asked}
    out = {
        state: str(state.condition if state.condition is not Condition.READY else seen[state])
        for state in asked
        if state.condition is not Condition.READY or seen[state] is PluginStatus.OFFLINE
    }
    weak = [state for state in asked if seen[state] in _WEAK and state not in out]
    names = [f"{state.name} ({why})" for state, why in out.items()]
    names += [f"{state.name} ({seen[state]})" for state in weak]
    text = ", ".join(names[:_MOST_NAMES]) + (f" and {len(names) - _MOST_NAMES} more" if names[_MOST_NAMES:] else "")
    if not asked:
        return HealthStatus(PluginStatus.OFFLINE, "no member is enabled", now)
    if len(out) == len(asked):
        return HealthStatus(PluginStatus.OFFLINE, f"no member takes calls: {text}", now)
    if names:
        return HealthStatus(PluginStatus.DEGRADED, f"{len(names)} of {len(asked)} members: {text}", now)
    if any(state.timed or seen[state] is PluginStatus.HEALTHY for state in asked):
        return HealthStatus(PluginStatus.HEALTHY, f"{len(asked)} members", now)
    return HealthStatus(PluginStatus.UNKNOWN, "nobody has looked at its members yet", now)
