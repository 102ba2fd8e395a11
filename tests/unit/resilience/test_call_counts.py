"""The counts of one plugin's name."""

from __future__ import annotations

import threading

import attrs

from goplugins.models.metrics import Latencies, PluginMetrics, bucket_of
from goplugins.resilience.call_counts import Counts
from goplugins.resilience.in_flight import InFlightTracker


def test_every_count_of_the_metrics_can_be_counted() -> None:
    counts = Counts()
    derived = {"requests_total", "requests_success", "requests_failure", "attempts_total", "active_requests"}
    names = {field.name for field in attrs.fields(PluginMetrics) if field.type == "int"} - derived
    for name in names:
        for _ in range(2):
            getattr(counts, name).add()
    found = counts.metrics()
    assert {name: getattr(found, name) for name in names} == dict.fromkeys(names, 2)


def test_two_trackers_add_to_the_same_counts() -> None:
    counts = Counts()
    first, second = InFlightTracker(counts), InFlightTracker(counts)
    for tracker in (first, second):
        tracker.enter()
    first.leave(True, 0.5, 2)
    second.leave(False, 0.5, 1, None, "CODE")
    found = counts.metrics(active_requests=3)
    assert (found.requests_total, found.requests_success, found.requests_failure) == (2, 1, 1)
    assert (found.attempts_total, found.request_duration, found.active_requests) == (3, 1.0, 3)
    assert (found.latencies, found.errors) == (Latencies({bucket_of(0.5): 2}), {"CODE": 1})


def test_take_starts_again_at_0() -> None:
    counts = Counts()
    tracker = InFlightTracker(counts)
    tracker.enter()
    tracker.leave(True, 0.5, 1)
    counts.hedges_sent.add()
    taken = counts.take()
    assert (taken.requests_success, taken.hedges_sent) == (1, 1)
    assert counts.metrics() == PluginMetrics()


def test_threads_that_count_first_at_the_same_time_share_a_counter() -> None:
    for _ in range(50):
        counts = Counts()
        barrier = threading.Barrier(4)

        def add() -> None:
            barrier.wait()  # noqa: B023
            counts.cache_hits.add()  # noqa: B023

        threads = [threading.Thread(target=add) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert counts.metrics().cache_hits == 4
