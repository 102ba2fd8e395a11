"""What a call is told that found no member: why, member by member, and when to come again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from goplugins.balancing.member_state import MemberState
from goplugins.balancing.report import standing
from goplugins.errors import CircuitBreakerOpenError, NoAvailablePluginsError, PluginError

__all__ = ["Lost", "refusal"]

Lost = Mapping[MemberState, PluginError]
"""Members that would not take this call, with their refusals; nothing was sent to them."""

_MOST = 10  # members that an error describes: it has to be quick, and to be read

_OPEN = "circuit breaker open"
_LONGEST = 200  # of a last error's text, in a message that is logged with every refusal


def refusal(name: str, states: Sequence[MemberState], lost: Lost, now: float, slow_start: float) -> PluginError:
    """The error. May be made without the group's lock: it tells of a moment, and a dead group must stay cheap.

    Returns:
        A :class:`~goplugins.errors.CircuitBreakerOpenError` if breakers alone stand in the way, else a
        :class:`~goplugins.errors.NoAvailablePluginsError`. ``retry_after`` is the smallest of all members;
        ``details["members"]`` says for each member (for the first ten) why not, its last error, and when it is tried
        next.
    """
    if not states:
        return NoAvailablePluginsError("the group has no members", plugin=name)
    why: dict[str, int] = {}
    soonest = math.inf
    members: list[dict[str, Any]] = []
    failed: MemberState | None = None
    for state in states:
        error = lost.get(state) if lost else None
        if error is None:
            what, reason, next_try = standing(state, now, slow_start)
            kind = what
        else:
            what, reason, next_try = "refused the call", error.message, error.retry_after
            kind = _OPEN if isinstance(error, CircuitBreakerOpenError) else f"refused it ({error.code})"
        why[kind] = why.get(kind, 0) + 1
        if next_try is not None and next_try < soonest:
            soonest = next_try
        if state.last_error and (failed is None or state.last_error_at > failed.last_error_at):
            failed = state
        if len(members) < _MOST:
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
    if len(states) > _MOST:
        details["members_left_out"] = len(states) - _MOST
    asked = len(states) - why.get("disabled", 0) - why.get("draining", 0)
    cls = CircuitBreakerOpenError if asked and why.get(_OPEN, 0) == asked else NoAvailablePluginsError
    retry_after = soonest if soonest < math.inf else None
    return cls(_text(why, len(states), retry_after, failed, now), plugin=name, retry_after=retry_after, details=details)


def _text(why: Mapping[str, int], count: int, retry_after: float | None, failed: MemberState | None, now: float) -> str:
    kinds = ", ".join([f"{number} {kind}" for kind, number in why.items()])
    text = f"none of {count} members can take the call: {kinds}"
    if retry_after is not None:
        text += f"; next try in {retry_after:.3f} s"
    if failed is not None:
        error = failed.last_error if len(failed.last_error) <= _LONGEST else f"{failed.last_error[:_LONGEST]}..."
        text += f"; the last error, of {failed.name!r} {now - failed.last_error_at:.1f} s ago: {error}"
    return text
