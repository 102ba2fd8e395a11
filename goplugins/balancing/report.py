"""What a group says of its members: statistics, explanations, its health, and why none of them takes a call."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from goplugins.balancing.member import Member
from goplugins.balancing.member_state import Condition, MemberState, share_at
from goplugins.balancing.named_member import NamedMember
from goplugins.enums import PluginStatus
from goplugins.errors import CircuitBreakerOpenError, NoAvailablePluginsError, OperationNotFoundError, PluginError
from goplugins.models.explanation import GroupExplanation, MemberExplanation  # noqa: F401 - see _moved_modules.py
from goplugins.models.results import HealthStatus
from goplugins.runtime.clock import Clock
from goplugins.runtime.text import counted

Refusals = Mapping[MemberState, PluginError]
"""Members that have refused this call before sending it, with their errors."""

_WEAK = (PluginStatus.DEGRADED, PluginStatus.UNHEALTHY)
_MAX_NAMES = 5  # in a group's health
_MAX_MEMBERS = 10  # described in an error, which must be cheap to build
_MAX_ERROR_LENGTH = 200  # characters of the last error in the message, which is logged with each refusal


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
        reason = f"ejection {state.ejections} in a row, after {counted(state.failures, 'failure')} in a row"
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
        return HealthStatus(PluginStatus.DEGRADED, f"{len(names)} of {counted(len(enabled), 'member')}: {text}", now)
    if any(state.timed or status[state] is PluginStatus.HEALTHY for state in enabled):
        return HealthStatus(PluginStatus.HEALTHY, counted(len(enabled), "member"), now)
    return HealthStatus(PluginStatus.UNKNOWN, "no member has been checked or called yet", now)


def no_member_error(
    name: str, states: Sequence[MemberState], refusals: Refusals, now: float, slow_start: float
) -> PluginError:
    """Builds the error. The lock is not needed: calls to a group that is down must stay cheap.

    Returns:
        A :class:`~goplugins.errors.CircuitBreakerOpenError` if all enabled members have open breakers, else a
        :class:`~goplugins.errors.NoAvailablePluginsError`; if all lack the call's operation, an
        :class:`~goplugins.errors.OperationNotFoundError`. ``retry_after`` is the smallest of all members;
        ``details["members"]`` gives, for the first ten members, the reason, the last error, and the time until the
        next try.
    """
    if not states:
        return NoAvailablePluginsError("the group has no members", plugin=name)
    missing = [error for error in refusals.values() if isinstance(error, OperationNotFoundError)]
    if len(missing) == len(states):  # none has the operation, or each needs one
        return OperationNotFoundError(missing[0].message, plugin=name)
    reasons: dict[str, int] = {}
    soonest = math.inf
    members: list[dict[str, Any]] = []
    failed: MemberState | None = None
    for state in states:
        error = refusals.get(state) if refusals else None
        if error is None:
            what, reason, next_try = describe_condition(state, now, slow_start)
            kind = what
        else:
            what, reason, next_try = "refused the call", error.message, error.retry_after
            kind = _OPEN if isinstance(error, CircuitBreakerOpenError) else f"refused it ({error.code})"
        reasons[kind] = reasons.get(kind, 0) + 1
        if next_try is not None and next_try < soonest:
            soonest = next_try
        if state.last_error and (failed is None or state.last_error_at > failed.last_error_at):
            failed = state
        if len(members) < _MAX_MEMBERS:
            members.append(
                {
                    "name": state.name,
                    "state": what,
                    "reason": reason,
                    "next_try": next_try,
                    "last_error": state.last_error,
                    "last_error_ago": now - state.last_error_at if state.last_error else None,
                }
            )
    details: dict[str, Any] = {"members": members}
    if len(states) > _MAX_MEMBERS:
        details["members_left_out"] = len(states) - _MAX_MEMBERS
    enabled = len(states) - reasons.get("disabled", 0) - reasons.get("draining", 0)
    cls = CircuitBreakerOpenError if enabled and reasons.get(_OPEN, 0) == enabled else NoAvailablePluginsError
    retry_after = soonest if soonest < math.inf else None
    text = _refusal_text(reasons, len(states), retry_after, failed, now)
    return cls(text, plugin=name, retry_after=retry_after, details=details)


def _refusal_text(
    reasons: Mapping[str, int], count: int, retry_after: float | None, failed: MemberState | None, now: float
) -> str:
    kinds = ", ".join([f"{number} {kind}" for kind, number in reasons.items()])
    who = "the only member can't" if count == 1 else f"none of {count} members can"
    text = f"{who} take the call: {kinds}"
    if retry_after is not None:
        text += f"; next try in {retry_after:.3f} s"
    if failed is not None:
        error = failed.last_error
        if len(error) > _MAX_ERROR_LENGTH:
            error = f"{error[:_MAX_ERROR_LENGTH]}..."
        text += f"; last error (member {failed.name!r}, {now - failed.last_error_at:.1f} s ago): {error}"
    return text
