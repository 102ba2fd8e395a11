"""The in-memory collector."""

from __future__ import annotations

import threading

import pytest

from goplugins import (
    InvalidArgumentError,
)
from goplugins.observability.metrics_collector import InMemoryCollector, PrometheusBucket


def test_buckets_count_values_up_to_their_bounds():
    collector = InMemoryCollector()
    histogram = collector.histogram_with_labels("h", "Text.", (1.0, 2.0), "a")
    for value in (0.5, 1.0, 1.5, 9.0):
        histogram.observe(value, "x")
    (metric,) = collector.get_prometheus_metrics()
    assert metric.buckets == (PrometheusBucket(1.0, 2), PrometheusBucket(2.0, 3), PrometheusBucket(float("inf"), 4))
    assert metric.value == 12.0


def test_concurrent_increments_are_all_counted():
    collector = InMemoryCollector()
    counter = collector.counter_with_labels("c", "Text.", "who")
    threads = [threading.Thread(target=lambda: [counter.inc("x") for _ in range(2000)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert collector.get_metrics()["c"] == {"who=x": 16_000}


def test_the_number_of_series_is_bounded(caplog):
    collector = InMemoryCollector()
    for number in range(10_050):
        collector.increment_counter("c", {"user": str(number)})
    assert len(collector.get_metrics()["c"]) == 10_000
    assert collector.dropped == 50
    for number in range(100):
        collector.increment_counter(f"c{number}", {})
    assert list(collector.get_metrics()) == ["c"]
    assert caplog.text.count("series are kept already") == 1


def test_separators_in_label_values_are_escaped():
    collector = InMemoryCollector()
    collector.increment_counter("c", {"a": "1,b=2"})
    collector.increment_counter("c", {"a": "1", "b": "2"})
    assert collector.get_metrics()["c"] == {r"a=1\,b=2": 1, "a=1,b=2": 1}


@pytest.mark.parametrize(
    "misuse",
    [
        lambda c: c.increment_counter("c", {}, -1),
        lambda c: (c.increment_counter("c", {}), c.set_gauge("c", {}, 1)),
        lambda c: (c.counter_with_labels("c", "", "a"), c.counter_with_labels("c", "", "b")),
        lambda c: c.counter_with_labels("c", "", "a").inc(),
        lambda c: c.histogram_with_labels("h", "", (2.0, 1.0)),
        lambda c: (c.increment_counter("c", {"x": "y"}), c.counter_with_labels("c", "", "a")),
    ],
)
def test_wrong_use_of_a_collector_is_refused(misuse):
    with pytest.raises(InvalidArgumentError):
        misuse(InMemoryCollector())


def test_a_custom_metric_keeps_its_last_value():
    collector = InMemoryCollector()
    collector.record_custom_metric("version", {}, "1.2")
    collector.record_custom_metric("version", {}, "1.3")
    assert collector.get_metrics()["version"] == {"": "1.3"}
    assert collector.get_prometheus_metrics() == []
