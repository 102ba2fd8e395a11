"""Statistics and explanations of a group's members."""

from __future__ import annotations

import math

import attrs

from goplugins.balancing.member import Member
from goplugins.balancing.member_state import Condition, MemberState, share_at
from goplugins.balancing.named_member import NamedMember
from goplugins.models.explanation import GroupExplanation, MemberExplanation  # noqa: F401 - see _moved_modules.py


@attrs.frozen
class LoadBalancerStats:
    """One member's counts since it was added. Durations are seconds.

    Attributes:
        plugin_name: the member.
        weight: its share of the calls, relative to the others'.
        priority: larger numbers are preferred, by the strategy "priority".
        enabled: False if an operator or the configuration has disabled it.
        active_connections: calls in flight.
        total_requests: finished calls that were sent to it.
        successful_requests: those that it served. Errors of the request itself (business errors, 4xx) count as served.
        failed_requests: those that failed. 429 replies and cancelled calls are counted in neither.
        average_latency: mean duration of the calls that it answered.
        health_score: 100, less 20 for each failure in a row; 0 while it takes no calls.
        last_used: when the last call was sent to it, in seconds since the Unix epoch; 0 if none was.
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
        """Percentage of successful calls, 0 to 100; 0 before the first call."""
        return 100.0 * self.successful_requests / self.total_requests if self.total_requests else 0.0


def member_stats(state: MemberState, now: float, epoch: float) -> LoadBalancerStats:
    """The member's counts. ``epoch`` is the Unix time at ``now``. Expects the group's lock."""
    out = state.condition not in (Condition.READY, Condition.PROBE_DUE, Condition.PROBING)
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
    """Explains the member's condition. Expects the group's lock, and that no evaluation is due."""
    what, reason, next_try = describe_condition(state, now, slow_start)
    if state.condition is _BREAKER_OPEN and not reason:
        checker = state.member.checker
        if checker is not None and checker.is_running:
            reason = "a successful health check ends it early"
    return MemberExplanation(
        name=state.name,
        eligible=state.ready,
        state=what,
        reason=reason,
        next_try=next_try,
        weight=state.weight,
        priority=state.priority,
        share=share_at(state.slow_start_until, now, slow_start),
        active=state.active,
        latency=state.latency_now(now),
        failures=state.failures,
        last_error=state.last_error,
        last_error_ago=now - state.last_error_at if state.last_error else None,
        endpoint=_endpoint(state.member),
    )


def describe_condition(state: MemberState, now: float, slow_start: float) -> tuple[str, str, float | None]:
    """The member's state, the reason, and the seconds until it is tried next; None if that is not known.

    May be called without the group's lock if a concurrent change does no harm.
    """
    condition = state.condition
    if condition is _BREAKER_OPEN:  # the first, since calls to a group that is down must stay cheap
        left = state.blocked_until - now
        if left == math.inf:
            return _OPEN, "held open by force_open(), until reset()", None
        return _OPEN, "", max(0.0, left)
    what, reason, next_try = _describe(state, condition, now)
    if condition is _READY and (share := share_at(state.slow_start_until, now, slow_start)) < 1.0:
        what, reason = "starting slowly", f"takes {share:.0%} of its turns for now"
    if state.ready and condition is not _READY:
        reason, next_try = f"{reason}; ignored in a panic", 0.0
    return what, reason, next_try if next_try is None or next_try > 0.0 else 0.0


_READY = Condition.READY
_BREAKER_OPEN = Condition.BREAKER_OPEN
_OPEN = str(_BREAKER_OPEN)

_FIXED: dict[Condition, tuple[str, float | None]] = {
    Condition.READY: ("", 0.0),
    Condition.PROBE_DUE: ("the next call probes it", 0.0),
    Condition.DISABLED: ("until the configuration or enable_plugin() enables it", None),
}
"""Conditions whose explanation never varies."""


def _describe(state: MemberState, condition: Condition, now: float) -> tuple[str, str, float | None]:
    fixed = _FIXED.get(condition)
    if fixed is not None:
        return "draining" if condition is Condition.DISABLED and state.active else str(condition), *fixed
    if condition is Condition.OFFLINE:
        return str(condition), *_describe_offline(state.member)
    if condition is Condition.EJECTED:
        reason = f"ejection {state.ejections} in a row, after {state.failures} failures in a row"
    elif condition is Condition.PROBING:
        reason = "a call in flight probes it"
    elif isinstance(state.member, NamedMember) and state.member.plugin is None:
        reason = "no plugin of this name is registered"
    else:
        reason = "it accepts no calls"
    return str(condition), reason, state.due - now


def _describe_offline(member: Member) -> tuple[str, float | None]:
    """Why the member is offline, and the seconds until its next health check."""
    reason, checker = "until a successful health check", member.checker
    if checker is None:
        return reason, None
    message = checker.status.message
    return f"{reason}; last check: {message}" if message else reason, checker.next_check


def _endpoint(member: Member) -> str:
    """The endpoint; empty if the member's name contains it."""
    endpoint = member.endpoint
    return "" if endpoint.rpartition("//")[2].rstrip("/") in member.name else endpoint
