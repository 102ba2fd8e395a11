"""A group's health, from the health of its members."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from goplugins.balancing.member_state import Condition, MemberState
from goplugins.enums import PluginStatus
from goplugins.models.results import HealthStatus
from goplugins.runtime.clock import Clock

_MAX_NAMES = 5
_WEAK = (PluginStatus.DEGRADED, PluginStatus.UNHEALTHY)


def check_unknown(states: Sequence[MemberState], timeout: float, clock: Clock) -> dict[str, PluginStatus]:
    """Checks the enabled members whose health is unknown, one after the other, within ``timeout`` seconds.

    Returns:
        The results by name.
    """
    deadline = clock.monotonic() + timeout
    found = {}
    unknown = [state for state in states if state.enabled and state.member.status() is PluginStatus.UNKNOWN]
    for index, state in enumerate(unknown):
        left = deadline - clock.monotonic()
        if left > 0:
            found[state.name] = state.member.health(left / (len(unknown) - index)).status
    return found


def group_health(states: Sequence[MemberState], checked: Mapping[str, PluginStatus], now: float) -> HealthStatus:
    """HEALTHY if all members are, OFFLINE if none takes calls, else DEGRADED with the names of those that are out.

    UNKNOWN until a health check or a call has found a member healthy. Expects the group's lock.

    Args:
        states: the members.
        checked: results of :func:`check_unknown`.
        now: seconds since the Unix epoch.
    """
    enabled = [state for state in states if state.enabled]
    status = {state: checked.get(state.name) or state.member.status() for state in enabled}
    out = {
        state: str(state.condition if state.condition is not Condition.READY else status[state])
        for state in enabled
        if state.condition is not Condition.READY or status[state] is PluginStatus.OFFLINE
    }
    weak = [state for state in enabled if status[state] in _WEAK and state not in out]
    names = [f"{state.name} ({why})" for state, why in out.items()]
    names += [f"{state.name} ({status[state]})" for state in weak]
    text = ", ".join(names[:_MAX_NAMES]) + (f" and {len(names) - _MAX_NAMES} more" if names[_MAX_NAMES:] else "")
    if not enabled:
        return HealthStatus(PluginStatus.OFFLINE, "no member is enabled", now)
    if len(out) == len(enabled):
        return HealthStatus(PluginStatus.OFFLINE, f"no member takes calls: {text}", now)
    if names:
        return HealthStatus(PluginStatus.DEGRADED, f"{len(names)} of {len(enabled)} members: {text}", now)
    if any(state.timed or status[state] is PluginStatus.HEALTHY for state in enabled):
        return HealthStatus(PluginStatus.HEALTHY, f"{len(enabled)} members", now)
    return HealthStatus(PluginStatus.UNKNOWN, "no member has been checked or called yet", now)
