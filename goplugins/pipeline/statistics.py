"""How a plugin is doing: its counts, and why it would or would not take a call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from goplugins.errors import CircuitBreakerOpenError
from goplugins.models.explanation import Explanation
from goplugins.models.metrics import PluginMetrics
from goplugins.models.results import HealthStatus
from goplugins.pipeline.policies import resolved

if TYPE_CHECKING:
    from goplugins.pipeline.plugin import GuardedPlugin

__all__ = ["counted", "explain"]


def explain(plugin: GuardedPlugin, health: HealthStatus) -> Explanation:
    """Why it would or would not take a call now."""
    policies = plugin.policies
    tokens = policies.limiter.tokens if policies.limiter is not None else None
    reason = ""
    try:
        policies.breaker.check()
    except CircuitBreakerOpenError as refusal:
        reason = refusal.message
    if plugin.tracker.closed:
        reason = "it is closed"
    elif not reason and tokens is not None and tokens < 1 and not resolved(plugin.config.rate_limit).max_wait:
        reason = "its rate limiter has no token"
    elif not reason and plugin.bulkhead is not None and plugin.bulkhead.is_full:
        reason = f"its bulkhead is full: {plugin.bulkhead.in_use} calls at once"
    group = plugin.wire.explain()
    if group is not None and not reason and not any(member.eligible for member in group.members):
        reason = "none of its members does" if group.members else group.resolution or "it has no members"
    when, what = plugin.last_error or (None, "")
    return Explanation(
        name=plugin.name,
        admits=not reason,
        reason=reason,
        endpoint=plugin.endpoint,
        breaker=policies.breaker.state,
        health=health,
        tokens=tokens,
        in_flight=plugin.tracker.in_flight,
        last_error=what,
        last_error_ago=None if when is None else plugin.clock.monotonic() - when,
        annotations=plugin.config.annotations or {},
        chaos=plugin.sender.chaos,
        group=group,
    )


def counted(plugin: GuardedPlugin, health_checks: int, health_check_failures: int) -> PluginMetrics:
    """The counts of a plugin so far."""
    counts = plugin.tracker.snapshot()
    sent, won = plugin.hedges_before
    answered = {} if plugin.answers is None else plugin.answers.snapshot().as_metrics()
    return PluginMetrics(
        requests_total=counts.succeeded + counts.failed,
        requests_success=counts.succeeded,
        requests_failure=counts.failed,
        request_duration=counts.duration,
        attempts_total=counts.attempts,
        active_requests=counts.in_flight,
        circuit_breaker_trips=plugin.policies.breaker.trips,
        health_checks=health_checks,
        health_check_failures=health_check_failures,
        refused_rate_limit=plugin.attempts.refused_by_limiter,
        refused_circuit_breaker=plugin.attempts.refused_by_breaker,
        refused_bulkhead=0 if plugin.bulkhead is None else plugin.bulkhead.refused,
        retry_budget_exhausted=plugin.budget_exhausted,
        hedges_sent=sent + (0 if plugin.hedger is None else plugin.hedger.sent),
        hedges_won=won + (0 if plugin.hedger is None else plugin.hedger.won),
        latencies=counts.latencies,
        errors=counts.errors,
        **answered,
    )
