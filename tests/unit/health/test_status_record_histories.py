"""What checks and calls say together: each row is a history, and the status that it leads to."""

from __future__ import annotations

import pytest

from goplugins import HealthStatus, PluginStatus
from goplugins.errors import PluginConnectionError
from goplugins.health.status_record import HealthRecord
from goplugins.resilience.call_counts import Counts

CHECKS = {
    "ok": HealthStatus(PluginStatus.HEALTHY),
    "reached": HealthStatus(PluginStatus.HEALTHY, "it answers; it has no health endpoint", reported=False),
    "bad": HealthStatus(PluginStatus.UNHEALTHY, "the disk is full"),
    "failed": HealthStatus(PluginStatus.OFFLINE, "timed out", reported=False),
    "none": HealthStatus(PluginStatus.UNKNOWN, "no process runs", reported=False),
}

HISTORIES = {
    # nothing is known before the first check; from then on calls say what checks can't
    "call": "unknown",
    "none": "unknown",
    "none call": "healthy",
    "call none": "healthy",
    "miss none": "unknown",
    "none call miss miss": "healthy",
    "none call miss miss miss": "offline",
    "none call none none": "healthy",
    # a check that fails shows at once; answered calls outweigh it
    "failed": "unhealthy",
    "call failed": "unhealthy",
    "ok call failed": "unhealthy",
    "failed call": "degraded",
    "failed call failed": "degraded",
    "failed call failed call failed call failed call": "degraded",
    "failed call failed failed": "offline",
    "failed call failed failed call": "degraded",
    "failed call failed none": "degraded",
    "failed failed": "unhealthy",
    "failed failed failed": "offline",
    "failed failed failed call": "degraded",
    "failed failed failed call miss": "offline",
    "failed call miss": "unhealthy",
    "failed call ok": "healthy",
    # what the plugin reports outweighs calls
    "bad call": "unhealthy",
    "bad call bad call": "unhealthy",
    "bad bad bad call": "offline",
    "bad call ok": "healthy",
    # calls that do not reach the plugin
    "ok miss miss": "healthy",
    "ok miss miss miss": "offline",
    "ok miss miss miss call": "healthy",
    "ok miss miss call miss": "healthy",
    "ok miss miss miss ok": "healthy",
    "bad miss miss miss call": "unhealthy",
    "failed miss miss miss call": "degraded",
    # a check that proves little does not end it while calls go on failing, and ends it once there are none
    "ok miss miss miss reached": "offline",
    "ok miss miss miss reached reached": "healthy",
    "ok miss miss miss none": "offline",
    "ok miss miss miss none none": "unhealthy",
    "ok miss miss miss none none call": "healthy",
    "failed failed failed none": "unhealthy",
}


def run(history: str, *, checked: bool = True) -> HealthRecord:
    record = HealthRecord(Counts())
    for number, event in enumerate(history.split(), 1):
        if event == "call":
            record.call_succeeded(checked=checked)
        elif event == "miss":
            record.call_failed(PluginConnectionError("refused"), limit=3, checked=checked)
        else:
            record.check_ended(CHECKS[event], limit=3, when=float(number), took=0.1)
    return record


@pytest.mark.parametrize("history", HISTORIES)
def test_history(history: str) -> None:
    record = run(history)
    assert str(record.status.status) == HISTORIES[history]
    assert record.counts.health_checks.total == sum(map(history.split().count, ("ok", "reached", "bad", "failed")))
    # An answered call is waited for wherever it would change the status.
    before = record.status.status
    record.call_succeeded(checked=True)
    assert record.status.status is before or run(history).awaits_call


@pytest.mark.parametrize(
    ("history", "status"),
    [
        ("call", "healthy"),
        ("call miss miss", "healthy"),
        ("call miss miss miss", "unknown"),
        ("call miss miss miss call", "healthy"),
        ("miss miss miss", "unknown"),
        ("ok miss miss miss", "healthy"),  # a check was made by hand: only another one changes its result
    ],
)
def test_without_regular_checks(history: str, status: str) -> None:
    assert str(run(history, checked=False).status.status) == status


def test_the_message_has_both_sides() -> None:
    assert run("failed call").status.message == "calls are answered, but its health check fails: timed out"
