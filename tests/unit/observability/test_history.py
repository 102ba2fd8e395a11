"""The history of the last minutes: right numbers in bounded memory."""

from __future__ import annotations

import math
import tracemalloc

import pytest

from goplugins import (
    BreakerChanged,
    CallFinished,
    CircuitBreakerState,
    PluginConnectionError,
    PluginExecutionError,
    PluginMetrics,
)
from goplugins.models.metrics import Latencies, bucket_of
from goplugins.observability.history import History
from goplugins.testing import ManualClock


class Plugin:
    """The counts of a plugin."""

    def __init__(self):
        self.calls = self.failed = self.rejected = 0
        self.latencies = {}

    def call(self, times=1, *, failed=0, rejected=0, seconds=0.01):
        self.calls += times
        self.failed += failed
        self.rejected += rejected
        self.latencies[bucket_of(seconds)] = self.latencies.get(bucket_of(seconds), 0) + times

    @property
    def metrics(self):
        return PluginMetrics(
            requests_total=self.calls,
            requests_failure=self.failed + self.rejected,
            latencies=Latencies(dict(self.latencies)),
            errors={"PLUGIN_1205": self.failed, "PLUGIN_1203": self.rejected},
        )


class Sampled:
    """A history of one plugin, sampled once a second."""

    def __init__(self):
        self.clock = ManualClock(1000.0)
        self.history = History(clock=self.clock)
        self.plugin = Plugin()
        self.sample()

    def sample(self):
        self.history.sample({"auth": self.plugin.metrics})

    def second(self, *calls, **more):
        self.plugin.call(*calls, **more)
        self.clock.advance(1.0)
        self.sample()


def failed(error, *, plugin="auth", attempts=1):
    return CallFinished(plugin, 5.0, "r-1", 0.1, attempts, error=error)


def changed(new, plugin="auth"):
    return BreakerChanged(plugin, 5.0, CircuitBreakerState.CLOSED, new, 30.0)


# --- rates -----------------------------------------------------------------------------------------------------------


def test_a_rate_is_taken_over_the_last_ten_seconds():
    sampled = Sampled()
    sampled.second(20, failed=5)
    for _ in range(9):
        sampled.second(10)
    rate = sampled.history.rate("auth")
    assert (rate.calls, rate.failed) == (11.0, 0.5)
    sampled.second(10)
    assert sampled.history.rate("auth").failed == 0.0


def test_a_late_sample_does_not_change_the_rate():
    sampled = Sampled()
    sampled.plugin.call(30)
    sampled.clock.advance(3.0)
    sampled.sample()
    assert sampled.history.rate("auth").calls == 10.0


def test_rejections_are_no_failures():
    sampled = Sampled()
    sampled.second(10, rejected=7, failed=1)
    assert sampled.history.rate("auth").failed == 1.0
    assert sampled.history.minute("auth").failed == 1


def test_calls_during_a_pause_are_in_no_rate():
    sampled = Sampled()
    sampled.second(5)
    sampled.history.pause()
    sampled.plugin.call(100_000)
    sampled.clock.advance(600)
    sampled.sample()
    sampled.second(7)
    assert sampled.history.rate("auth").calls == 7.0
    assert sampled.history.minute("auth").calls == 7
    seen = [column.calls for column in sampled.history.columns("auth") if not math.isnan(column.calls)]
    assert seen == [7.0]


def test_a_replaced_plugin_is_counted_from_its_start():
    sampled = Sampled()
    sampled.second(50, failed=50)
    sampled.plugin = Plugin()
    sampled.second(3)
    sampled.second(4)
    rate, minute = sampled.history.rate("auth"), sampled.history.minute("auth")
    assert rate.failed == 0.0
    assert minute.calls == 4


def test_a_second_sample_at_the_same_time_is_ignored():
    sampled = Sampled()
    sampled.second(5)
    sampled.sample()
    assert sampled.history.rate("auth").calls == 5.0


def test_an_unknown_name_has_neither_calls_nor_columns():
    history = Sampled().history
    assert history.rate("unknown").calls == 0
    assert history.minute("unknown").calls == 0
    assert history.columns("unknown") == ()


# --- the last minute -------------------------------------------------------------------------------------------------


def test_the_last_minute_excludes_older_calls():
    sampled = Sampled()
    sampled.second(100, failed=10, seconds=2.0)
    for _ in range(40):
        sampled.second(1)
    minute = sampled.history.minute("auth")
    assert (minute.calls, minute.failed) == (140, 10)
    for _ in range(40):
        sampled.second(1)
    minute = sampled.history.minute("auth")
    assert 60 <= minute.calls <= 70
    assert minute.failed == 0
    assert minute.latencies.percentile(99) < 0.1


# --- columns ---------------------------------------------------------------------------------------------------------


def test_columns_are_five_seconds_each_and_the_last_is_incomplete():
    sampled = Sampled()  # at 1000 s, where a column begins
    for _ in range(5):
        sampled.second(6, failed=1, seconds=0.25)
    sampled.second(50)
    *_, before, last = sampled.history.columns("auth")
    assert (before.calls, before.failed) == (6.0, 1.0)
    assert abs(before.p95 - 0.25) < 0.01
    assert (last.calls, last.failed) == (50.0, 0.0)
    assert len(sampled.history.columns("auth")) == 60


def test_rare_samples_are_spread_over_the_columns_between_them():
    sampled = Sampled()
    for _ in range(3):
        sampled.plugin.call(200, failed=20, seconds=0.25)
        sampled.clock.advance(20.0)
        sampled.sample()
    *_, third, second, first, current = sampled.history.columns("auth")
    assert math.isnan(current.calls)
    for column in (third, second, first):
        assert abs(column.calls - 10.0) < 0.01
        assert abs(column.failed - 1.0) < 0.01
        assert abs(column.p95 - 0.25) < 0.01


def test_columns_older_than_five_minutes_are_dropped():
    sampled = Sampled()
    sampled.second(1000)
    for _ in range(305):
        sampled.second(1)
    assert [column.calls for column in sampled.history.columns("auth")] == [1.0] * 60


# --- changes and failures --------------------------------------------------------------------------------------------


def test_failures_that_repeat_are_one_with_a_count():
    history = History()
    for _ in range(3):
        history.record(failed(PluginConnectionError("connection refused")))
    history.record(failed(PluginConnectionError("reset")))
    assert [(each.text, each.count) for each in history.failures("auth")] == [("connection refused", 3), ("reset", 1)]


def test_refusals_and_rejections_are_not_recorded_as_failures():
    history = History()
    history.record(failed(PluginConnectionError("connection refused")))
    history.record(failed(PluginConnectionError("open for another 3.2 s"), attempts=0))
    history.record(failed(PluginExecutionError("no such user")))
    history.record(failed(None))
    assert [each.text for each in history.failures("auth")] == ["connection refused"]


def test_exceptions_of_the_host_are_not_recorded():
    history = History()
    history.record(failed(TimeoutError("card number 4111")))
    assert history.failures("auth") == ()


def test_a_long_text_is_truncated():
    history = History()
    history.record(failed(PluginConnectionError("x" * 100_000)))
    assert len(history.failures("auth")[0].text) == 400


def test_changes_of_breakers_are_kept_in_order():
    history = History()
    history.record(changed(CircuitBreakerState.OPEN))
    history.record(changed(CircuitBreakerState.HALF_OPEN))
    assert [each.new for each in history.changes("auth")] == ["open", "half-open"]


def test_a_removed_plugin_is_forgotten():
    sampled = Sampled()
    sampled.history.record(changed(CircuitBreakerState.OPEN))
    sampled.clock.advance(1)
    sampled.history.sample({"other": PluginMetrics()})
    assert sampled.history.changes("auth") == ()
    assert sampled.history.columns("auth") == ()


# --- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.stress
def test_memory_does_not_grow_with_traffic():
    sampled = Sampled()

    def seconds(count):
        for number in range(count):
            sampled.second(7, failed=1, seconds=0.001 * (1 + number % 50))
            if number % 10 == 0:
                sampled.history.record(failed(PluginConnectionError(f"failure {number}")))
                sampled.history.record(changed(CircuitBreakerState.OPEN))

    seconds(600)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    seconds(5_000)
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert after - before < 50_000


def test_plugins_without_samples_take_bounded_memory():
    history = History()
    for number in range(5000):
        history.record(changed(CircuitBreakerState.OPEN, plugin=f"member-{number}"))
    assert history.changes("member-4999")
    assert sum(bool(history.changes(f"member-{number}")) for number in range(5000)) == 2000
