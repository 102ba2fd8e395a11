"""Latencies in buckets: what they tell is within 1 part in 32 of the truth, whatever comes."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, strategies as st

from goplugins.models.metrics import Latencies, PluginMetrics, bounds_of, bucket_of


@given(st.floats(1e-9, 1e9))
def test_a_latency_lies_within_the_bounds_of_its_bucket(seconds):
    low, high = bounds_of(bucket_of(seconds))
    assert low <= seconds < high
    assert high / low <= 1.0 + 1.0 / 16.0


@given(st.floats(1e-9, 1e9), st.floats(1e-9, 1e9))
def test_longer_latencies_never_lie_in_smaller_buckets(one, other):
    assert bucket_of(min(one, other)) <= bucket_of(max(one, other))


@pytest.mark.parametrize("seconds", [0.0, -1.0, 1e-12])
def test_a_latency_of_zero_has_a_bucket(seconds):
    assert bucket_of(seconds) == bucket_of(1e-9)


def test_percentiles_are_those_of_the_latencies_themselves():
    dice = random.Random(5)
    seen = sorted(dice.lognormvariate(-5.0, 1.5) for _ in range(20_000))
    counts = {}
    for seconds in seen:
        counts[bucket_of(seconds)] = counts.get(bucket_of(seconds), 0) + 1
    spread = Latencies(counts)
    for percent in (1, 50, 95, 99, 99.9, 100):
        true = seen[max(0, round(len(seen) * percent / 100) - 1)]
        assert spread.percentile(percent) == pytest.approx(true, rel=1 / 30)
    assert len(spread) == 20_000
    assert len(counts) < 300


def test_percentiles_without_latencies_are_0():
    assert Latencies().percentile(99) == 0.0
    assert repr(Latencies()) == "<Latencies: 0>"


def test_total_and_since():
    before = Latencies({3: 5, 4: 1})
    after = Latencies({3: 7, 4: 1, 9: 2})
    assert after.since(before) == Latencies({3: 2, 9: 2})
    assert Latencies.total([before, after]) == Latencies({3: 12, 4: 2, 9: 2})
    total = PluginMetrics.total([PluginMetrics(latencies=before), PluginMetrics(latencies=after)])
    assert total.latencies == Latencies({3: 12, 4: 2, 9: 2})
