"""Records of plugins for the page: plain values, ready for JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from goplugins.enums import CircuitBreakerState
from goplugins.manager.control import PluginState, has_configured_members, is_forced_open
from goplugins.manager.standing import Standing, standing
from goplugins.models.explanation import MemberExplanation
from goplugins.models.metrics import Latencies, PluginMetrics, bounds_of
from goplugins.observability.error_kinds import is_failure
from goplugins.observability.events import BreakerChanged
from goplugins.observability.history import Column, History, Minute

__all__ = ["member_key", "number", "off_record", "operation_key", "record", "shown_operations", "summary"]

_BARS_PER_OCTAVE = 4
_BUCKETS_PER_BAR = 16 // _BARS_PER_OCTAVE
_MOST_BARS = 40
_MOST_OPERATIONS = 50


def number(value: float | None, digits: int = 4) -> float | None:
    """The value with so many significant digits; None for values that JSON lacks.

    >>> number(0.0123456), number(float("inf"))
    (0.01235, None)
    """
    if not value:
        return 0.0 if value is not None else None
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None


def member_key(group: str, member: str) -> str:
    """The key of a group's member in the history. Names of plugins have no spaces."""
    return f"{group} {member}"


def operation_key(plugin: str, operation: str) -> str:
    """The key of an operation in the history."""
    return f"{plugin}\t{operation}"


def shown_operations(view: PluginState) -> Sequence[str]:
    """The operations of a plugin that were called, those with the most calls first, 50 at most."""
    counts = view.counts.operations
    return sorted(counts, key=lambda name: (-counts[name].requests_total, name))[:_MOST_OPERATIONS]


def record(view: PluginState, history: History, now: float) -> dict[str, Any]:
    """The record of a plugin. Times are seconds since the Unix epoch, durations seconds.

    Args:
        view: the plugin's state.
        history: the last minutes.
        now: the current time.
    """
    plugin, explanation, counts = view.plugin, view.explanation, view.counts
    rate, minute = history.rate(view.name), history.minute(view.name)
    columns = history.columns(view.name)
    judged = standing(view, rate, minute)
    group = explanation.group
    return {
        "name": view.name,
        "kind": "plugin" if group is None else "group",
        "endpoint": explanation.endpoint,
        "transport": str(plugin.config.transport or ""),
        **_state_of(judged),
        "admits": explanation.admits,
        "breaker": None if group is not None and not is_forced_open(plugin) else _breaker(view, history, now),
        "calls": number(rate.calls),
        "errors": number(rate.failed),
        "failing": number(rate.failed / rate.calls if rate.calls else 0.0),
        "latency": _latency(minute, counts.latencies),
        "spark": _spark(columns),
        "limiter": _limiter(view),
        "bulkhead": _bulkhead(view),
        "inFlight": explanation.in_flight,
        "health": {
            "status": str(explanation.health.status),
            "message": explanation.health.message,
            "at": number(explanation.health.last_check, 12) or None,
            "took": number(explanation.health.response_time),
        },
        "counts": _counts(view),
        "errorCodes": dict(counts.errors),
        "failures": [
            {"at": number(each.at, 12), "code": each.code, "text": each.text, "id": each.request_id, "n": each.count}
            for each in reversed(history.failures(view.name))
        ]
        or _last_error(view, now),
        "annotations": dict(explanation.annotations),
        "labels": dict(plugin.config.labels or {}),
        "chaos": explanation.chaos,
        "strategy": None if group is None else str(group.strategy),
        "resolution": None if group is None else group.resolution,
        "members": None if group is None else [_member(view.name, each, history) for each in group.members],
        "operations": [_operation(view, name, history) for name in shown_operations(view)],
        "movable": group is not None and has_configured_members(plugin.wire),
    }


def off_record(name: str) -> dict[str, Any]:
    """The record of a plugin that is disabled in the configuration."""
    return {"name": name, "kind": "off", **_state_of(Standing("off", "switched off", "enabled: false"))}


def _state_of(judged: Standing) -> dict[str, str]:
    return {"severity": judged.severity, "word": judged.word, "why": judged.why}


def _breaker(view: PluginState, history: History, now: float) -> dict[str, Any]:
    breaker, held = view.explanation.breaker, is_forced_open(view.plugin)
    left = view.plugin.retry_after()
    section = view.plugin.config.circuit_breaker
    return {
        "state": "forced open" if held else str(breaker),
        "enabled": section is None or section.enabled is not False,
        "until": number(now + left, 11) if breaker is CircuitBreakerState.OPEN and not held else None,
        "trips": view.counts.circuit_breaker_trips,
        "changes": [_change(change) for change in history.changes(view.name)],
    }


def _change(change: BreakerChanged) -> list[Any]:
    """Time, old state, new state."""
    state = "forced open" if change.retry_after == math.inf else str(change.new)
    return [number(change.at, 13), str(change.old), state]


def _latency(minute: Minute, ever: Latencies) -> dict[str, Any]:
    """Latencies of the last minute; of all time if there were no calls in it."""
    recent = bool(minute.latencies.counts)
    found = minute.latencies if recent else ever
    return {
        "recent": recent,
        "count": len(found),
        **{f"p{each}": number(found.percentile(each)) if found.counts else None for each in (50, 95, 99)},
        "bars": _bars(found),
    }


def _bars(latencies: Latencies) -> list[list[float | None]]:
    """A histogram with four bars per octave: lower bound in seconds, and count."""
    bars: dict[int, int] = {}
    for bucket, count in latencies.counts.items():
        bars[bucket // _BUCKETS_PER_BAR] = bars.get(bucket // _BUCKETS_PER_BAR, 0) + count
    if not bars:
        return []
    first, last = min(bars), max(bars)
    first = max(first, last - _MOST_BARS + 1)
    return [[number(bounds_of(bar * _BUCKETS_PER_BAR)[0]), bars.get(bar, 0)] for bar in range(first, last + 2)]


def _spark(columns: Sequence[Column]) -> dict[str, list[float | None]]:
    return {
        "calls": [number(column.calls, 3) for column in columns],
        "errors": [number(column.failed, 3) for column in columns],
        "p95": [number(column.p95, 3) for column in columns],
    }


def _limiter(view: PluginState) -> dict[str, Any] | None:
    section = view.plugin.config.rate_limit
    if view.explanation.tokens is None or section is None:
        return None
    return {
        "tokens": round(view.explanation.tokens, 1),
        "burst": section.burst_size,
        "rate": section.requests_per_second,
        "window": section.time_window,
    }


def _bulkhead(view: PluginState) -> dict[str, Any] | None:
    bulkhead = view.plugin.pipeline.bulkhead
    if bulkhead is None or view.plugin.config.bulkhead is None:
        return None
    return {"used": bulkhead.in_use, "limit": bulkhead.limit, "waiting": bulkhead.waiting}


_COUNTED = {field.metadata["label"]: field.name for field in attrs.fields(PluginMetrics) if field.metadata.get("label")}
_ALWAYS = 4


def _counts(view: PluginState) -> dict[str, int]:
    """The first four always, the others if they are not 0."""
    found = {label: getattr(view.counts, name) for label, name in _COUNTED.items()}
    return {label: count for place, (label, count) in enumerate(found.items()) if count or place < _ALWAYS}


def _last_error(view: PluginState, now: float) -> list[dict[str, Any]]:
    """The last error that the plugin kept, from before the history began."""
    explanation = view.explanation
    if explanation.last_error_ago is None:
        return []
    code, _, text = explanation.last_error.partition(" ")
    if not is_failure(code):
        return []
    return [{"at": round(now - explanation.last_error_ago), "code": code, "text": text, "id": "", "n": 1}]


def _member(group: str, member: MemberExplanation, history: History) -> dict[str, Any]:
    rate, minute = history.rate(member_key(group, member.name)), history.minute(member_key(group, member.name))
    return {
        "name": member.name,
        "endpoint": member.endpoint,
        "severity": "healthy" if member.eligible else "off" if member.state in {"disabled", "draining"} else "down",
        "state": member.state,
        "reason": member.reason,
        "nextTry": number(member.next_try, 2) if not member.eligible else None,
        "weight": member.weight,
        "share": number(member.share, 2),
        "minute": minute.calls,
        "failed": minute.failed,
        "calls": number(rate.calls),
        "active": member.active,
        "latency": number(member.latency) if member.eligible else None,
        "lastError": member.last_error,
    }


def _operation(view: PluginState, name: str, history: History) -> dict[str, Any]:
    counts, key = view.counts.operations[name], operation_key(view.name, name)
    rate, minute = history.rate(key), history.minute(key)
    latency = _latency(minute, counts.latencies)
    return {
        "name": name,
        "target": view.explanation.operations.get(name, ""),
        "calls": number(rate.calls),
        "failing": number(minute.failed / minute.calls if minute.calls else 0.0),
        "minute": minute.calls,
        "latency": {part: latency[part] for part in ("recent", "p50", "p95", "p99")},
        "total": counts.requests_total,
        "raised": counts.requests_failure,
    }


def summary(views: Iterable[PluginState], records: Mapping[str, Mapping[str, Any]], history: History) -> dict[str, Any]:
    """All plugins together. Calls of a group's members count as the group's."""
    views = list(views)
    members = {
        member.name for view in views if view.explanation.group is not None for member in view.explanation.group.members
    }
    outer = [view.name for view in views if view.name not in members and not view.instance]
    rates, minutes = [history.rate(name) for name in outer], [history.minute(name) for name in outer]
    latencies = Latencies.total(minute.latencies for minute in minutes)
    severities = [each["severity"] for each in records.values()]
    return {
        **{severity: severities.count(severity) for severity in ("healthy", "degraded", "down", "unknown", "off")},
        "calls": number(sum(rate.calls for rate in rates)),
        "errors": number(sum(rate.failed for rate in rates)),
        "p95": number(latencies.percentile(95)) if latencies.counts else None,
        "inFlight": sum(view.explanation.in_flight for view in views if view.name in outer),
    }
