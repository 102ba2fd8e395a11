"""The condition of a plugin in a word: one rule for dashboard, terminal and readiness probe."""

from __future__ import annotations

import attrs

from goplugins.enums import CircuitBreakerState, PluginStatus
from goplugins.manager.control import PluginState, is_forced_open
from goplugins.models.explanation import Explanation, GroupExplanation
from goplugins.models.results import HealthStatus
from goplugins.observability.error_kinds import is_failure
from goplugins.observability.history import Minute, Rate
from goplugins.runtime.text import counted

SEVERITIES = ("down", "degraded", "unknown", "healthy", "off")
"""The worst first. "off" is a plugin with ``enabled: false``."""

_DOWN = (PluginStatus.UNHEALTHY, PluginStatus.OFFLINE)

_FAILING = 0.1
_FAILURES = 3
"""Share and number of failed calls from which a plugin is degraded although its health checks succeed."""


@attrs.frozen
class Standing:
    """The condition of a plugin.

    Attributes:
        severity: one of :data:`SEVERITIES`.
        word: the condition in a word or two.
        why: the problem; empty if there is none.
    """

    severity: str
    word: str
    why: str = ""


def standing(state: PluginState, rate: Rate | None = None, minute: Minute | None = None) -> Standing:
    """The condition of a plugin by its health, circuit breaker, members and recent calls; does not call it.

    Args:
        state: the plugin's state.
        rate: of its recent calls, if they are counted.
        minute: its calls of the last minute, if they are counted.
    """
    explanation = state.explanation
    if is_forced_open(state.plugin):
        return Standing("down", "disabled", "an operator has forced its circuit breaker open")
    found = _of_breaker(explanation) or (
        _of_group(explanation, explanation.group) if explanation.group is not None else _of_plugin(explanation)
    )
    failing = _failing(rate, minute)
    if failing and found.severity in {"healthy", "unknown"}:
        return Standing("degraded", "failing", failing)
    if found.severity in {"healthy", "unknown"} and not explanation.admits:
        return Standing("degraded", "refusing", explanation.reason)
    return found


def _of_breaker(explanation: Explanation) -> Standing | None:
    if explanation.breaker is CircuitBreakerState.CLOSED:
        return None
    if explanation.health.status not in _DOWN:
        return Standing("degraded", "probing", "a few calls are let through to see whether it has recovered")
    if explanation.breaker is CircuitBreakerState.OPEN:
        # The last error is of more use than "circuit breaker is open", which the word says already.
        known = is_failure(explanation.last_error.partition(" ")[0])
        return Standing("down", "circuit open", explanation.last_error if known else explanation.reason)
    return None


_BY_STATUS = {
    PluginStatus.UNKNOWN: "unknown",
    PluginStatus.HEALTHY: "healthy",
    PluginStatus.DEGRADED: "degraded",
    PluginStatus.UNHEALTHY: "down",
    PluginStatus.OFFLINE: "down",
}


def _of_group(explanation: Explanation, group: GroupExplanation) -> Standing:
    """The severity follows from the group's health; the word and the reason from its members."""
    found = _of_plugin(explanation)
    eligible, total = sum(member.eligible for member in group.members), len(group.members)
    out = [f"{each.name} is {each.state}" for each in group.members if not each.eligible]
    if not eligible:
        why = explanation.reason or "none of its members accepts calls"
        return attrs.evolve(found, word="no member", why=why)
    if group.panic:
        why = "too few members are healthy: calls go to all of them, whatever their health (panic mode)"
        return attrs.evolve(found, word=f"{eligible} of {counted(total, 'member')}", why=why)
    return (
        attrs.evolve(found, word=f"{eligible} of {counted(total, 'member')}", why=", ".join(out[:3])) if out else found
    )


def _of_plugin(explanation: Explanation) -> Standing:
    status = explanation.health.status
    why = "" if status is PluginStatus.HEALTHY else explanation.health.message
    if explanation.health == HealthStatus():
        why = "its health was not checked yet"
    return Standing(_BY_STATUS[status], str(status), why)


def _failing(rate: Rate | None, minute: Minute | None) -> str:
    """The share of failed calls, if it is too large; else empty."""
    if rate is None or minute is None or not rate.calls or minute.failed < _FAILURES:
        return ""
    share = rate.failed / rate.calls
    # A plugin stays "failing" until the share of the last minute is small as well, so that the word does not flicker.
    lasting = share > 0 and minute.failed >= _FAILING * minute.calls
    return f"{share:.0%} of the calls fail" if share >= _FAILING or lasting else ""
