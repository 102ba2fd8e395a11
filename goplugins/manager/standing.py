"""How a plugin is doing, in a word: what dashboard, terminal and readiness agree on."""

from __future__ import annotations

import attrs

from goplugins.enums import CircuitBreakerState, PluginStatus
from goplugins.manager.control import View, is_held_open
from goplugins.models.explanation import Explanation, GroupExplanation
from goplugins.observability.error_kinds import is_failure
from goplugins.observability.history import Minute, Rate

__all__ = ["SEVERITIES", "Standing", "standing"]

SEVERITIES = ("down", "degraded", "unknown", "healthy", "off")
"""From the worst on. "off" is a plugin that its configuration switches off."""

_FAILING = 0.1
_FAILURES = 3
"""Share of failed calls from which a plugin is degraded whatever its health checks say, and how many it takes."""


@attrs.frozen
class Standing:
    """How a plugin is doing.

    Attributes:
        severity: one of :data:`SEVERITIES`.
        word: its state in a word or two.
        why: what the matter is; empty for nothing.
    """

    severity: str
    word: str
    why: str = ""


def standing(view: View, rate: Rate | None = None, minute: Minute | None = None) -> Standing:
    """How a plugin is doing, by what is known of it; calls nobody.

    Args:
        view: what its manager knows.
        rate: of its calls lately, where somebody counts.
        minute: its calls of the last minute, where somebody counts.
    """
    explanation = view.explanation
    if is_held_open(view.plugin):
        return Standing("down", "disabled", "an operator holds its circuit breaker open")
    found = _refusing(explanation) or (
        _of_group(explanation, explanation.group) if explanation.group is not None else _of_plugin(explanation)
    )
    failing = _failing(rate, minute)
    if failing and found.severity in {"healthy", "unknown"}:
        return Standing("degraded", "failing", failing)
    if found.severity == "unknown" and minute is not None and minute.calls > minute.failed:
        return Standing("healthy", "answering", "nobody looks at its health, but calls succeed")
    if found.severity in {"healthy", "unknown"} and not explanation.admits:
        return Standing("degraded", "refusing", explanation.reason)
    return found


def _refusing(explanation: Explanation) -> Standing | None:
    if explanation.breaker is CircuitBreakerState.OPEN:
        # Why it opened says more than that it did, which its state shows.
        known = is_failure(explanation.last_error.partition(" ")[0])
        return Standing("down", "circuit open", explanation.last_error if known else explanation.reason)
    if explanation.breaker is CircuitBreakerState.HALF_OPEN:
        return Standing("degraded", "probing", "a few calls show whether it is well again")
    return None


def _of_group(explanation: Explanation, group: GroupExplanation) -> Standing:
    able, total = sum(member.eligible for member in group.members), len(group.members)
    if not able:
        return Standing("down", "no member", explanation.reason or "none of its members takes calls")
    if group.panic:
        return Standing(
            "degraded", f"{able} of {total} members", "too few members are well: ejection and health don't count"
        )
    out = [member for member in group.members if not member.eligible]
    if out:
        why = ", ".join(f"{each.name} is {each.state}" for each in out[:3])
        return Standing("degraded", f"{able} of {total} members", why)
    return Standing("healthy", "healthy")


_BY_STATUS = {
    PluginStatus.UNKNOWN: "unknown",
    PluginStatus.HEALTHY: "healthy",
    PluginStatus.DEGRADED: "degraded",
    PluginStatus.UNHEALTHY: "down",
    PluginStatus.OFFLINE: "down",
}


def _of_plugin(explanation: Explanation) -> Standing:
    status = explanation.health.status
    why = "" if status is PluginStatus.HEALTHY else explanation.health.message
    if status is PluginStatus.UNKNOWN and not why:
        why = "nobody has looked at its health"
    return Standing(_BY_STATUS[status], str(status), why)


def _failing(rate: Rate | None, minute: Minute | None) -> str:
    """What share of the calls fails now, if that is trouble; else empty."""
    if rate is None or minute is None or not rate.calls or minute.failed < _FAILURES:
        return ""
    share = rate.failed / rate.calls
    # Once it fails it does so until that is over for the minute, too: a word that flickers is no word.
    lasting = share > 0 and minute.failed >= _FAILING * minute.calls
    return f"{share:.0%} of the calls fail" if share >= _FAILING or lasting else ""
