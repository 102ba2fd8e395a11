"""ResponseCache: lifetime of responses, bounds, configuration, forks. Coalesced calls: test_cache_single_flight.py."""

from __future__ import annotations

import contextlib
import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from goplugins.config import CacheConfig
from goplugins.errors import PluginUnavailableError
from goplugins.resilience.cache import Origin, ResponseCache
from goplugins.runtime.clock import SYSTEM_CLOCK
from goplugins.runtime.deadline import Deadline
from goplugins.testing import ManualClock
from tests.processes import in_child, run
from tests.unit.resilience.requests import Server, cache_of, fetch, submit

# --- lifetime --------------------------------------------------------------------------------------------------------


def test_a_response_is_fresh_until_its_ttl_has_passed():
    clock = ManualClock()
    cache = cache_of(clock, ttl=10.0)
    assert fetch(cache, clock) == ("answer", Origin.CALL)
    clock.advance(9.999)
    assert fetch(cache, clock, answer="another") == ("answer", Origin.CACHE)
    clock.advance(0.001)
    assert cache.get("key") is None
    assert fetch(cache, clock, answer="another") == ("another", Origin.CALL)


def test_the_ttl_begins_when_the_response_arrives():
    clock = ManualClock()
    cache = cache_of(clock, ttl=10.0)

    def slow():
        clock.advance(8.0)
        return "answer"

    cache.fetch("key", slow, Deadline.after(30.0, clock))
    clock.advance(9.0)
    assert cache.get("key") == "answer"


def test_a_stale_response_is_returned_for_stale_if_error_seconds():
    clock = ManualClock()
    cache = cache_of(clock, ttl=10.0, stale_if_error=5.0)
    fetch(cache, clock)
    clock.advance(14.999)
    assert cache.get("key") is None
    assert cache.stale("key") == "answer"
    clock.advance(0.001)
    assert cache.stale("key") is None


def test_without_stale_if_error_there_is_no_stale_response():
    clock = ManualClock()
    cache = cache_of(clock, ttl=10.0)
    fetch(cache, clock)
    clock.advance(10.0)
    assert cache.stale("key") is None


def test_errors_are_not_cached():
    clock = ManualClock()
    cache = cache_of(clock)

    def fail():
        raise PluginUnavailableError("warming up")

    for _ in range(2):
        with pytest.raises(PluginUnavailableError):
            cache.fetch("key", fail, Deadline.after(1.0, clock))
    assert len(cache) == 0
    assert fetch(cache, clock) == ("answer", Origin.CALL)


def test_a_failed_request_leaves_no_entry():
    class Key:
        pass

    clock = ManualClock()
    cache, key = cache_of(clock), Key()

    def fail():
        raise PluginUnavailableError("down")

    with contextlib.suppress(PluginUnavailableError):
        cache.fetch(key, fail, Deadline.after(1.0, clock))
    gone = weakref.ref(key)
    del key
    gc.collect()
    assert gone() is None


def test_a_failed_request_leaves_the_stale_response():
    clock = ManualClock()
    cache = cache_of(clock, ttl=10.0, stale_if_error=60.0)
    fetch(cache, clock)
    clock.advance(20.0)

    def fail():
        raise PluginUnavailableError("warming up")

    with pytest.raises(PluginUnavailableError):
        cache.fetch("key", fail, Deadline.after(1.0, clock))
    assert cache.stale("key") == "answer"


# --- bounds ----------------------------------------------------------------------------------------------------------


def test_the_least_recently_used_response_is_evicted():
    clock = ManualClock()
    cache = cache_of(clock, max_entries=2)
    fetch(cache, clock, "a")
    fetch(cache, clock, "b")
    assert cache.get("a") == "answer"
    fetch(cache, clock, "c")
    assert [cache.get(key) for key in "abc"] == ["answer", None, "answer"]


def test_a_stale_response_that_is_returned_counts_as_used():
    clock = ManualClock()
    cache = cache_of(clock, ttl=1.0, stale_if_error=60.0, max_entries=2)
    fetch(cache, clock, "a")
    fetch(cache, clock, "b")
    clock.advance(2.0)
    cache.stale("a")
    fetch(cache, clock, "c")
    assert [cache.stale(key) for key in "abc"] == ["answer", None, "answer"]


def test_max_size_bounds_all_responses_together():
    clock = ManualClock()
    cache = cache_of(clock, size_of=len, max_size=10)
    fetch(cache, clock, "a", "12345")
    fetch(cache, clock, "b", "12345")
    assert (len(cache), cache.size) == (2, 10)
    fetch(cache, clock, "c", "1")
    assert [cache.get(key) for key in "abc"] == [None, "12345", "1"]
    assert cache.size == 6


def test_a_response_larger_than_max_size_is_not_cached_and_evicts_none():
    clock = ManualClock()
    cache = cache_of(clock, size_of=len, max_size=10)
    fetch(cache, clock, "a", "12345")
    assert fetch(cache, clock, "b", "12345678901") == ("12345678901", Origin.CALL)
    assert cache.get("b") is None
    assert cache.get("a") == "12345"


def test_a_response_too_large_to_be_cached_removes_the_older_one():
    clock = ManualClock()
    cache = cache_of(clock, ttl=1.0, stale_if_error=60.0, size_of=len, max_size=10)
    fetch(cache, clock, "a", "12345")
    clock.advance(2.0)
    fetch(cache, clock, "a", "12345678901")
    assert cache.stale("a") is None, "it is outdated"
    assert cache.size == 0


def test_expired_responses_are_removed_as_others_arrive():
    clock = ManualClock()
    cache = cache_of(clock, ttl=1.0)
    for key in range(10):
        fetch(cache, clock, key)
    clock.advance(1.0)
    for key in range(100, 105):
        fetch(cache, clock, key)
    assert len(cache) == 5


def test_the_smallest_bounds_hold_one():
    clock = ManualClock()
    cache = cache_of(clock, max_entries=1, size_of=lambda _: 1, max_size=1)
    for key in range(3):
        fetch(cache, clock, key)
        assert (len(cache), cache.size, cache.get(key)) == (1, 1, "answer")


def test_without_size_of_responses_have_no_size():
    clock = ManualClock()
    cache = cache_of(clock)
    fetch(cache, clock)
    assert (len(cache), cache.size) == (1, 0)


def test_clear_removes_all():
    clock = ManualClock()
    cache = cache_of(clock, stale_if_error=60.0, size_of=len)
    fetch(cache, clock)
    cache.clear()
    assert (len(cache), cache.size, cache.get("key"), cache.stale("key")) == (0, 0, None, None)


@pytest.mark.parametrize(
    ("fields", "bounds"),
    [
        ({}, {}),
        ({"ttl": 0.0}, {}),
        ({"ttl": 1.0, "max_entries": 0}, {}),
        ({"ttl": 1.0, "stale_if_error": -1.0}, {}),
        ({"ttl": 1.0}, {"max_size": 0}),
    ],
)
def test_a_configuration_out_of_range_is_refused(fields, bounds):
    with pytest.raises(ValueError, match=r"ttl|max_entries|stale_if_error|max_size"):
        ResponseCache(CacheConfig(**fields), **bounds)


def test_another_configuration_applies_to_cached_responses():
    clock = ManualClock()
    cache = cache_of(clock, ttl=10.0)
    for key in "abc":
        fetch(cache, clock, key)
    cache.configure(CacheConfig(ttl=2.0, max_entries=2))
    assert [cache.get(key) for key in "abc"] == [None, "answer", "answer"]
    clock.advance(2.0)
    assert [cache.get(key) for key in "bc"] == [None, None]
    with pytest.raises(ValueError, match="ttl"):
        cache.configure(CacheConfig(max_entries=1))
    assert len(cache) == 2


# --- forks -----------------------------------------------------------------------------------------------------------


def fork_during_a_request():
    cache, server = cache_of(SYSTEM_CLOCK, size_of=len), Server()
    cache.fetch("cached", lambda: "cached", Deadline.after(1.0))

    def child():
        answer, origin = cache.fetch("key", lambda: "mine", Deadline.after(5.0))
        return answer, origin.value, cache.get("cached"), cache.size

    with ThreadPoolExecutor(1) as pool:
        leader = submit(pool, cache, server, 1)[0]
        server.wait_for_request()
        with cache._lock:  # as another thread may at the fork
            found = in_child(child)
        server.answer("answer")
        answer, origin = leader.result(20)
        return found, [answer, origin.value]


def test_a_child_keeps_responses_and_forgets_requests_in_flight():
    assert run(fork_during_a_request) == [["mine", "call", "cached", 10], ["answer", "call"]]
