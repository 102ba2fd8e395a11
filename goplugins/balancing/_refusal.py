"""What a call is told that found no member: why, member by member, and when to come again."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from goplugins.balancing._state import Condition, MemberState
from goplugins.balancing._table import MemberTable
from goplugins.balancing.report import standing
from goplugins.errors import CircuitBreakerOpenError, NoAvailablePluginsError, PluginError

__all__ = ["Lost", "refusal"]

Lost = Mapping[MemberState, PluginError]
"""Members that would not take this call, with their refusals; nothing was sent to them."""

_MOST = 10  # members that an error describes: it has to be quick, and to be read


def refusal(name: str, table: MemberTable, lost: Lost, now: float, slow_start: float) -> PluginError:
    """The error. Expects the group's lock.

    Returns:
        A :class:`~goplugins.errors.CircuitBreakerOpenError` if breakers alone stand in the way, else a
        :class:`~goplugins.errors.NoAvailablePluginsError`. ``retry_after`` is the smallest of all members;
        ``details["members"]`` says for each member (for the first ten) why not, its last error, and when it is tried
        next.
    """
    states = list(table.states.values())
    if not states:
        return NoAvailablePluginsError("the group has no members", plugin=name)
    why = Counter(_why(state, lost) for state in states)
    waits = [wait for state in states if (wait := _wait(state, lost, now)) < math.inf]
    retry_after = max(0.0, min(waits)) if waits else None
    text = ", ".join(f"{count} {reason}" for reason, count in why.most_common())
    text = f"none of {len(states)} members can take the call: {text}"
    if retry_after is not None:
        text += f"; next try in {retry_after:.3f} s"
    asked = why.total() - why[str(Condition.DISABLED)]
    by_breaker = asked and why[str(Condition.BREAKER_OPEN)] == asked
    details: dict[str, Any] = {"members": [_describe(state, lost, now, slow_start) for state in states[:_MOST]]}
    if len(states) > _MOST:
        details["members_left_out"] = len(states) - _MOST
    kind = CircuitBreakerOpenError if by_breaker else NoAvailablePluginsError
    return kind(text, plugin=name, retry_after=retry_after, details=details)


def _why(state: MemberState, lost: Lost) -> str:
    error = lost.get(state)
    if error is None:
        return str(state.condition)
    if isinstance(error, CircuitBreakerOpenError):
        return str(Condition.BREAKER_OPEN)
    return f"refused it ({error.code})"


def _wait(state: MemberState, lost: Lost, now: float) -> float:
    """Seconds until the member may take a call; infinite where nobody knows."""
    error = lost.get(state)
    if error is not None and error.retry_after is not None:
        return error.retry_after
    if state.condition is Condition.BREAKER_OPEN:
        return state.blocked_until - now
    if state.condition in (Condition.EJECTED, Condition.PROBING, Condition.CLOSED):
        return state.due - now
    return math.inf


def _describe(state: MemberState, lost: Lost, now: float, slow_start: float) -> dict[str, Any]:
    error = lost.get(state)
    if error is None:
        what, reason, next_try = standing(state, now, slow_start)
    else:
        what, reason, next_try = "refused the call", error.message, error.retry_after
    return {
        "name": state.name,
        "state": what,
        "reason": reason,
        "next_try": next_try,
        "last_error": state.last_error,
        "last_error_ago": now - state.last_error_at if state.last_error else None,
    }
