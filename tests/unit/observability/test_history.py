"""The last minutes of all plugins: what is shown of them is true, and takes the same room for ever."""

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
    """Counts as a plugin does."""

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


class Watched:
    """A history that one plugin is sampled into, once a second."""

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
    watched = Watched()
    watched.second(20, failed=5)
    for _ in range(9):
        watched.second(10)
    rate = watched.history.rate("auth")
    assert (rate.calls, rate.failed) == (11.0, 0.5)
    watched.second(10)
    assert watched.history.rate("auth").failed == 0.0


def test_a_sample_that_comes_late_changes_no_rate():
    watched = Watched()
    watched.plugin.call(30)
    watched.clock.advance(3.0)
    watched.sample()
    assert watched.history.rate("auth").calls == 10.0


def test_that_a_plugin_said_no_is_no_failure_of_it():
    watched = Watched()
    watched.second(10, rejected=7, failed=1)
    assert watched.history.rate("auth").failed == 1.0
    assert watched.history.minute("auth").failed == 1


def test_what_happened_while_nobody_counted_is_in_no_rate():
    watched = Watched()
    watched.second(5)
    watched.history.pause()
    watched.plugin.call(100_000)
    watched.clock.advance(600)
    watched.sample()
    watched.second(7)
    assert watched.history.rate("auth").calls == 7.0
    assert watched.history.minute("auth").calls == 7
    seen = [column.calls for column in watched.history.columns("auth") if not math.isnan(column.calls)]
    assert seen == [7.0]


def test_a_plugin_that_took_the_name_of_another_counts_from_its_own_start():
    watched = Watched()
    watched.second(50, failed=50)
    watched.plugin = Plugin()
    watched.second(3)
    watched.second(4)
    rate, minute = watched.history.rate("auth"), watched.history.minute("auth")
    assert rate.failed == 0.0
    assert minute.calls == 4


def test_two_samples_at_the_same_moment_are_one():
    watched = Watched()
    watched.second(5)
    watched.sample()
    assert watched.history.rate("auth").calls == 5.0


def test_an_unknown_name_has_neither_calls_nor_columns():
    history = Watched().history
    assert history.rate("nobody").calls == 0
    assert history.minute("nobody").calls == 0
    assert history.columns("nobody") == ()


# --- the last minute -------------------------------------------------------------------------------------------------


def test_the_last_minute_forgets_what_is_older():
    watched = Watched()
    watched.second(100, failed=10, seconds=2.0)
    for _ in range(40):
        watched.second(1)
    minute = watched.history.minute("auth")
    assert (minute.calls, minute.failed) == (140, 10)
    for _ in range(40):
        watched.second(1)
    minute = watched.history.minute("auth")
    assert 60 <= minute.calls <= 70
    assert minute.failed == 0
    assert minute.latencies.percentile(99) < 0.1


# --- columns ---------------------------------------------------------------------------------------------------------


def test_columns_are_five_seconds_each_and_the_last_is_under_way():
    watched = Watched()  # at 1000 s, where a column begins
    for _ in range(5):
        watched.second(6, failed=1, seconds=0.25)
    watched.second(50)
    *_, before, last = watched.history.columns("auth")
    assert (before.calls, before.failed) == (6.0, 1.0)
    assert abs(before.p95 - 0.25) < 0.01
    assert (last.calls, last.failed) == (50.0, 0.0)
    assert len(watched.history.columns("auth")) == 60


def test_rare_samples_are_spread_over_the_columns_between_them():
    watched = Watched()
    for _ in range(3):
        watched.plugin.call(200, failed=20, seconds=0.25)
        watched.clock.advance(20.0)
        watched.sample()
    *_, third, second, first, under_way = watched.history.columns("auth")
    assert math.isnan(under_way.calls)
    for column in (third, second, first):
        assert abs(column.calls - 10.0) < 0.01
        assert abs(column.failed - 1.0) < 0.01
        assert abs(column.p95 - 0.25) < 0.01


def test_columns_older_than_five_minutes_are_gone():
    watched = Watched()
    watched.second(1000)
    for _ in range(305):
        watched.second(1)
    assert [column.calls for column in watched.history.columns("auth")] == [1.0] * 60


# --- changes and failures --------------------------------------------------------------------------------------------


def test_failures_that_repeat_are_one_with_a_count():
    history = History()
    for _ in range(3):
        history.record(failed(PluginConnectionError("nobody there")))
    history.record(failed(PluginConnectionError("reset")))
    assert [(each.text, each.count) for each in history.failures("auth")] == [("nobody there", 3), ("reset", 1)]


def test_refusals_and_rejections_do_not_hide_the_failure_that_matters():
    history = History()
    history.record(failed(PluginConnectionError("nobody there")))
    history.record(failed(PluginConnectionError("open for another 3.2 s"), attempts=0))
    history.record(failed(PluginExecutionError("no such user")))
    history.record(failed(None))
    assert [each.text for each in history.failures("auth")] == ["nobody there"]


def test_what_the_host_threw_into_a_call_is_not_shown():
    history = History()
    history.record(failed(TimeoutError("card number 4111")))
    assert history.failures("auth") == ()


def test_a_text_without_end_is_cut():
    history = History()
    history.record(failed(PluginConnectionError("x" * 100_000)))
    assert len(history.failures("auth")[0].text) == 400


def test_changes_of_breakers_are_kept_in_their_order():
    history = History()
    history.record(changed(CircuitBreakerState.OPEN))
    history.record(changed(CircuitBreakerState.HALF_OPEN))
    assert [each.new for each in history.changes("auth")] == ["open", "half-open"]


def test_who_is_gone_is_forgotten():
    watched = Watched()
    watched.history.record(changed(CircuitBreakerState.OPEN))
    watched.clock.advance(1)
    watched.history.sample({"other": PluginMetrics()})
    assert watched.history.changes("auth") == ()
    assert watched.history.columns("auth") == ()


# --- room ------------------------------------------------------------------------------------------------------------


@pytest.mark.stress
def test_a_day_of_traffic_takes_no_more_room_than_ten_minutes():
    watched = Watched()

    def seconds(count):
        for number in range(count):
            watched.second(7, failed=1, seconds=0.001 * (1 + number % 50))
            if number % 10 == 0:
                watched.history.record(failed(PluginConnectionError(f"failure {number}")))
                watched.history.record(changed(CircuitBreakerState.OPEN))

    seconds(600)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    seconds(5_000)
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert after - before < 50_000


def test_plugins_that_come_and_go_unwatched_take_bounded_room():
    history = History()
    for number in range(5000):
        history.record(changed(CircuitBreakerState.OPEN, plugin=f"member-{number}"))
    assert history.changes("member-4999")
    assert sum(bool(history.changes(f"member-{number}")) for number in range(5000)) == 2000
