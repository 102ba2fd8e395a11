"""The delay of starts after failed ones."""

from __future__ import annotations

import pytest

from goplugins.errors import PluginConnectionError
from goplugins.testing import ManualClock
from goplugins.transports.exec.launcher import Backoff


def test_doubles_up_to_five_seconds_and_starts_anew_after_success():
    clock = ManualClock()
    backoff = Backoff(clock)
    backoff.check()
    seen = []
    for _ in range(9):
        clock.advance(0.001)
        backoff.failed(clock.monotonic(), "why")
        with pytest.raises(PluginConnectionError, match="the last: why") as caught:
            backoff.check()
        seen.append(round(caught.value.retry_after or 0, 3))
        clock.advance(seen[-1])
        backoff.check()
    assert seen == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    backoff.succeeded()
    clock.advance(0.001)
    backoff.failed(clock.monotonic(), "why")
    with pytest.raises(PluginConnectionError) as caught:
        backoff.check()
    assert caught.value.retry_after == pytest.approx(0.05)


def test_a_wave_of_failures_counts_once():
    clock = ManualClock()
    backoff = Backoff(clock)
    started = clock.monotonic()
    clock.advance(0.01)
    for _ in range(32):
        backoff.failed(started, "why")
    with pytest.raises(PluginConnectionError, match="after 1 failed"):
        backoff.check()
