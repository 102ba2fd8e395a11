"""Interrupts during a fetch, at every possible point: no call waits for a request that has ended."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from goplugins.config import CacheConfig
from goplugins.errors import PluginUnavailableError
from goplugins.resilience.cache import ResponseCache
from goplugins.runtime.clock import SYSTEM_CLOCK
from goplugins.runtime.deadline import Deadline
from tests.interrupts import interrupted_at

OURS = ("goplugins/resilience/cache.py", "goplugins/runtime/clock.py", "goplugins/runtime/deadline.py")
LONG = 300.0  # seconds; a wait of that length fails the test


@pytest.fixture
def pool():
    with ThreadPoolExecutor(8) as pool:
        yield pool


def wait_until(condition):
    for _ in range(10_000):
        if condition():
            return
        threading.Event().wait(0.001)
    raise AssertionError("the condition did not become true")


def at_every_point(scenario, most=300):
    """Runs a scenario with an interrupt at each possible point, checks that the key is free, and counts the points."""
    for number in range(most):
        cache, work, others = scenario()
        happened = interrupted_at(number, work, OURS)
        for other in others:
            assert other.result(10)[0] == "answer", f"interrupt {number}"
        assert cache.waiting == 0, f"interrupt {number}"
        assert not cache._lock.locked(), f"interrupt {number}"
        free = threading.Thread(target=cache.fetch, args=("key", lambda: "answer", Deadline.after(LONG)), daemon=True)
        free.start()
        free.join(10)
        assert not free.is_alive(), f"interrupt {number}: the key is blocked"
        if not happened:
            return number
    raise AssertionError("the scenario does not end")


def new_cache(clock=SYSTEM_CLOCK):
    return ResponseCache(CacheConfig(ttl=60.0), clock=clock, size_of=len, max_size=1000)


def join(others, pool, cache, count):
    """Adds callers that wait for the key's leader."""
    for _ in range(count):
        others.append(pool.submit(cache.fetch, "key", lambda: "answer", Deadline.after(LONG)))
    wait_until(lambda: sum(len(each.waiting) for each in cache._executions.values()) >= count)


def test_a_single_call():
    def scenario():
        cache = new_cache()

        def work():
            for _ in range(2):
                cache.fetch("key", lambda: "answer", Deadline.after(LONG))

        return cache, work, []

    assert at_every_point(scenario) > 20


@pytest.mark.parametrize("fails", [False, True], ids=["answered", "failing"])
def test_the_leader(pool, fails):
    def scenario():
        cache, others = new_cache(), []

        def make():
            join(others, pool, cache, 3)
            if fails:
                raise PluginUnavailableError("no")
            return "answer"

        def work():
            try:
                cache.fetch("key", make, Deadline.after(LONG))
            except PluginUnavailableError:
                assert fails

        return cache, work, others

    assert at_every_point(scenario) > 10


@pytest.mark.parametrize("fails", [False, True], ids=["answered", "takes over"])
def test_a_waiting_call(pool, fails):
    def scenario():
        going, go = threading.Event(), threading.Event()
        others = []

        class StartingClock:
            """The leader's request ends once the other call waits for it."""

            monotonic, time = SYSTEM_CLOCK.monotonic, SYSTEM_CLOCK.time

            def wait(self, waiter, timeout):
                if threading.get_ident() == waiting and not go.is_set():
                    join(others, pool, cache, 3)  # and this call
                    go.set()
                return SYSTEM_CLOCK.wait(waiter, timeout)

        def lead():
            going.set()
            assert go.wait(20)
            if fails:
                raise PluginUnavailableError("no")
            return "answer"

        waiting = threading.get_ident()
        cache = new_cache(StartingClock())
        leader = pool.submit(cache.fetch, "key", lead, Deadline.after(LONG))
        assert going.wait(20)

        def work():
            try:
                answer, _ = cache.fetch("key", lambda: "answer", Deadline.after(LONG))
                assert answer == "answer"
            finally:
                go.set()
                leader.exception(10)

        return cache, work, others

    assert at_every_point(scenario) > 10


def test_interrupted_at():
    reached = []

    def work():
        reached.append("a")
        reached.append("b")

    assert [interrupted_at(number, work, (__file__,)) for number in range(4)] == [True, True, True, False]
    assert not interrupted_at(0, work, ("another.py",))
    assert reached == ["a", "a", "b", "a", "b", "a", "b"]
