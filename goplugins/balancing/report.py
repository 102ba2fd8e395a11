"""What a group tells of itself: counts for dashboards, explanations for people."""

from __future__ import annotations

import math
from typing import Any

import attrs

from goplugins.balancing.member import Member
from goplugins.balancing.member_state import Condition, MemberState
from goplugins.models.explanation import MemberExplanation

__all__ = ["LoadBalancerStats", "explain_member", "member_stats", "standing"]


@attrs.frozen
class LoadBalancerStats:
    """One member's counts since it was added. Durations are seconds.

    Attributes:
        plugin_name: the member.
        weight: its share of the calls, relative to the others'.
        priority: the larger is preferred, where the strategy goes by it.
        enabled: False once an operator or the configuration took it out.
        active_connections: calls under way.
        total_requests: calls that were given to it and have ended, but for those that it refused unsent.
        successful_requests: those that it served; an error of the request's own (a business error, a 4xx) is
            service, too.
        failed_requests: those that it failed. What says nothing of it (429, a caller that went away) is in neither.
        average_latency: mean time of the calls that it answered.
        health_score: 100 for no trouble, 20 less for each failure in a row, 0 while it is out.
        last_used: when it was last given a call, in seconds since the Unix epoch; 0 for never.
    """

    plugin_name: str
    weight: int = 1
    priority: int = 0
    enabled: bool = True
    active_connections: int = 0
    total_requests: int = 0
    successful_requests: int = 0
    failed_requests: int = 0
    average_latency: float = 0.0
    health_score: int = 100
    last_used: float = 0.0

    @property
    def success_rate(self) -> float:
        """Percentage of its calls that succeeded, 0 to 100; 0 before the first."""
        return 100.0 * self.successful_requests / self.total_requests if self.total_requests else 0.0


def member_stats(state: MemberState, now: float, epoch: float) -> LoadBalancerStats:
    """The counts. ``epoch`` is the Unix time at ``now``. Expects the group's lock."""
    out = state.condition not in (Condition.READY, Condition.TRIAL, Condition.PROBING)
    return LoadBalancerStats(
        plugin_name=state.name,
        weight=state.weight,
        priority=state.priority,
        enabled=state.enabled,
        active_connections=state.active,
        total_requests=state.total,
        successful_requests=state.succeeded,
        failed_requests=state.failed,
        average_latency=state.latency_sum / state.timed if state.timed else 0.0,
        health_score=0 if out else max(0, 100 - 20 * state.failures),
        last_used=epoch - (now - state.last_used) if state.last_used > -math.inf else 0.0,
    )


def explain_member(state: MemberState, now: float, slow_start: float) -> MemberExplanation:
    """The member's standing. Expects the group's lock, and that all that was due was looked at."""
    what, reason, next_try = standing(state, now, slow_start)
    if state.condition is _BREAKER_OPEN and not reason and getattr(_watcher(state.member), "is_running", False):
        reason = "a good health check ends it early"
    return MemberExplanation(
        name=state.name,
        eligible=state.ready,
        state=what,
        reason=reason,
        next_try=next_try,
        weight=state.weight,
        priority=state.priority,
        share=state.share(now, slow_start),
        active=state.active,
        latency=state.latency_now(now),
        failures=state.failures,
        last_error=state.last_error,
        last_error_ago=now - state.last_error_at if state.last_error else None,
        endpoint=_endpoint(state.member),
    )


def standing(state: MemberState, now: float, slow_start: float) -> tuple[str, str, float | None]:
    """What state a member is in, why, and in how many seconds it is tried next; None if nobody knows.

    May be asked without the group's lock, by whom a change in between does no harm.
    """
    condition = state.condition
    if condition is _BREAKER_OPEN:  # the first, since a group that is down has to cost little
        left = state.blocked_until - now
        if left == math.inf:
            return _OPEN, "held open by force_open(), until reset()", None
        return _OPEN, "", max(0.0, left)
    what, reason, next_try = _standing(state, condition, now)
    if condition is _READY and (share := state.share(now, slow_start)) < 1.0:
        what, reason = "starting slowly", f"takes {share:.0%} of its turns for now"
    if state.ready and condition is not _READY:
        reason, next_try = f"{reason}; lifted in a panic", 0.0
    return what, reason, next_try if next_try is None or next_try > 0.0 else 0.0


_READY = Condition.READY
_BREAKER_OPEN = Condition.BREAKER_OPEN
_OPEN = str(_BREAKER_OPEN)

_FIXED: dict[Condition, tuple[str, float | None]] = {
    Condition.READY: ("", 0.0),
    Condition.TRIAL: ("the next call shows whether it is well again", 0.0),
    Condition.DISABLED: ("until the configuration or enable_plugin() brings it back", None),
}
"""States whose explanation is always the same."""


def _standing(state: MemberState, condition: Condition, now: float) -> tuple[str, str, float | None]:
    fixed = _FIXED.get(condition)
    if fixed is not None:
        return "draining" if condition is Condition.DISABLED and state.active else str(condition), *fixed
    if condition is Condition.OFFLINE:
        return str(condition), *_seen_offline(state.member)
    if condition is Condition.EJECTED:
        reason = f"time {state.ejections} in a row, after {state.failures} failures in a row"
    elif condition is Condition.PROBING:
        reason = "a call under way shows whether it is well again"
    elif _behind(state.member) is None:
        reason = "there is no plugin of this name now"
    else:
        reason = "its gate lets nobody in"
    return str(condition), reason, state.due - now


# --- what stands behind a member: told as far as it is known ---------------------------------------------------------


def _behind(member: Member) -> Any:
    """The plugin that serves the member's calls; None if there is none now."""
    find = getattr(member, "current", None)
    return member if find is None else find()


def _endpoint(member: Member) -> str:
    endpoint: str = getattr(_behind(member), "endpoint", "")
    return "" if endpoint.rpartition("//")[2].rstrip("/") in member.name else endpoint  # its name says it


def _watcher(member: Member) -> Any:
    """Who looks at its health; a :class:`~goplugins.health.HealthChecker`, where that is known."""
    return getattr(getattr(_behind(member), "attempts", None), "watcher", None)


def _seen_offline(member: Member) -> tuple[str, float | None]:
    """Why a member is OFFLINE, and in how many seconds somebody looks at it again."""
    watcher = _watcher(member)
    message = "" if watcher is None else watcher.status.message
    reason = "until a health check finds it well" + (f": {message}" if message else "")
    return reason, getattr(watcher, "next_check", None)
