"""The error of a call that no member can take: why, member by member, and when to try again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from goplugins.balancing.member_state import MemberState
from goplugins.balancing.report import describe_condition
from goplugins.errors import CircuitBreakerOpenError, NoAvailablePluginsError, PluginError

Refusals = Mapping[MemberState, PluginError]
"""Members that have refused this call before sending it, with their errors."""

_MAX_MEMBERS = 10  # described in an error, which must be cheap to build
_MAX_ERROR_LENGTH = 200  # characters of the last error in the message, which is logged with each refusal

_OPEN = "circuit breaker open"


def no_member_error(
    name: str, states: Sequence[MemberState], refusals: Refusals, now: float, slow_start: float
) -> PluginError:
    """Builds the error. The lock is not needed: calls to a group that is down must stay cheap.

    Returns:
        A :class:`~goplugins.errors.CircuitBreakerOpenError` if all enabled members have open breakers, else a
        :class:`~goplugins.errors.NoAvailablePluginsError`. ``retry_after`` is the smallest of all members;
        ``details["members"]`` gives, for the first ten members, the reason, the last error, and the time until the
        next try.
    """
    if not states:
        return NoAvailablePluginsError("the group has no members", plugin=name)
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
    text = _text(reasons, len(states), retry_after, failed, now)
    return cls(text, plugin=name, retry_after=retry_after, details=details)


def _text(
    reasons: Mapping[str, int], count: int, retry_after: float | None, failed: MemberState | None, now: float
) -> str:
    kinds = ", ".join([f"{number} {kind}" for kind, number in reasons.items()])
    text = f"none of {count} members can take the call: {kinds}"
    if retry_after is not None:
        text += f"; next try in {retry_after:.3f} s"
    if failed is not None:
        error = failed.last_error
        if len(error) > _MAX_ERROR_LENGTH:
            error = f"{error[:_MAX_ERROR_LENGTH]}..."
        text += f"; last error (member {failed.name!r}, {now - failed.last_error_at:.1f} s ago): {error}"
    return text
