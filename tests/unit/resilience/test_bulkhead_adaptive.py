"""The adaptive limit against a model of a plugin: it works on so many calls at once, and queues the rest."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable

import pytest

from goplugins.config import BulkheadConfig
from goplugins.errors import BulkheadFullError
from goplugins.resilience import Bulkhead
from goplugins.resilience.adaptive_limit import AdaptiveLimit
from goplugins.testing import ManualClock

ALONE = 0.05  # seconds that a call takes where nothing queues


class Plugin:
    """Serves ``capacity`` calls at once, first come first; callers call again at once, where the limit lets them.

    Attributes:
        callers: who would like to be inside.
        service: seconds of one call, by the moment.
        timeout: seconds after which a call counts as overload.
        seen: moment and limit after each call.
    """

    def __init__(self, limit: AdaptiveLimit, capacity: int, callers: int, *, timeout: float = math.inf) -> None:
        self.limit, self.capacity, self.callers, self.timeout = limit, capacity, callers, timeout
        self.service: Callable[[], float] = lambda: ALONE
        self.now = 0.0
        self.inside = 0
        self.served = 0
        self.seen: list[tuple[float, int]] = []
        self._queue: deque[float] = deque()
        self._under_way: list[tuple[float, int, float]] = []
        self._numbers = itertools.count()

    def run(self, seconds: float) -> list[int]:
        """The limits in that time."""
        begun, end = len(self.seen), self.now + seconds
        while self.now < end:
            while self.inside < min(self.limit.limit, self.callers):
                self.inside += 1
                self._queue.append(self.now)
            while self._queue and len(self._under_way) < self.capacity:
                since = self._queue.popleft()
                heapq.heappush(self._under_way, (self.now + self.service(), next(self._numbers), since))
            self.now, _, since = heapq.heappop(self._under_way)
            elapsed = self.now - since
            self.limit.observe(self.now, elapsed, elapsed <= self.timeout, self.inside)
            self.inside -= 1
            self.served += 1
            self.seen.append((self.now, self.limit.limit))
        return [limit for _, limit in self.seen[begun:]]


def quantiles(limits: list[int]) -> tuple[int, int, int]:
    """The limit that 2 %, 50 % and 98 % of the calls saw at most."""
    limits = sorted(limits)
    return limits[len(limits) // 50], limits[len(limits) // 2], limits[-len(limits) // 50]


def noisy(seed: int, mean: float = ALONE) -> Callable[[], float]:
    rng = random.Random(seed)
    return lambda: rng.expovariate(1 / mean)


@pytest.mark.parametrize("capacity", [2, 5, 20, 80])
def test_it_settles_a_little_above_what_the_plugin_does_at_once(capacity):
    plugin = Plugin(AdaptiveLimit(1, 300), capacity, callers=250)
    plugin.run(150)
    before = plugin.served
    low, _, high = quantiles(plugin.run(55))
    assert capacity <= low
    assert high <= 1.4 * capacity + 2
    assert plugin.served - before > 0.95 * 55 * capacity / ALONE, "nothing of what it can do lies idle"


@pytest.mark.parametrize("seed", range(4))
def test_it_settles_there_though_calls_take_very_different_times(seed):
    plugin = Plugin(AdaptiveLimit(1, 200), 20, callers=150)
    plugin.service = noisy(seed)
    plugin.run(60)
    before = plugin.served
    low, middle, high = quantiles(plugin.run(240))
    assert low >= 5
    assert 15 <= middle <= 35
    assert high <= 50
    assert plugin.served - before > 0.9 * 240 * 20 / ALONE, "nothing of what it can do lies idle"


def test_it_finds_its_place_in_a_few_windows():
    plugin = Plugin(AdaptiveLimit(1, 100), 20, callers=80)
    plugin.run(5)
    assert 20 <= plugin.limit.limit <= 29
    assert plugin.limit.baseline == pytest.approx(ALONE)


def test_it_does_not_swing():
    plugin = Plugin(AdaptiveLimit(1, 100), 20, callers=80)
    plugin.run(10)
    limits = plugin.run(45)
    assert max(limits) - min(limits) <= 3


def test_once_a_minute_it_looks_whether_less_would_do():
    plugin = Plugin(AdaptiveLimit(1, 100), 20, callers=80)
    plugin.run(10)
    limits = plugin.run(60)
    assert min(limits) == max(limits) // 2
    assert sum(limit < 20 for limit in limits) < 0.01 * len(limits)


@pytest.mark.parametrize("service", [lambda: ALONE, noisy(5)])
def test_it_follows_a_plugin_that_weakens_and_recovers(service):
    plugin = Plugin(AdaptiveLimit(1, 100), 20, callers=80)
    plugin.service = service
    plugin.run(40)
    plugin.capacity = 5
    plugin.run(15)
    _, middle, high = quantiles(plugin.run(40))
    assert 4 <= middle <= 10
    assert high <= 16
    plugin.capacity = 20
    plugin.run(15)
    _, middle, _ = quantiles(plugin.run(40))
    assert 15 <= middle <= 36


def test_a_plugin_that_takes_longer_for_reasons_of_its_own_is_not_throttled_for_long():
    plugin = Plugin(AdaptiveLimit(1, 100), 20, callers=80)
    plugin.run(40)
    plugin.service = lambda: 3 * ALONE
    plugin.run(10)
    low, _, high = quantiles(plugin.run(40))
    assert low >= 20
    assert high <= 29
    plugin.service = lambda: ALONE
    plugin.run(100)
    assert 20 <= plugin.limit.limit <= 29


def test_timeouts_bring_it_down_to_the_lowest_and_answers_up_again():
    plugin = Plugin(AdaptiveLimit(2, 100), 20, callers=80, timeout=1.0)
    plugin.run(30)
    plugin.service = lambda: 2.0
    assert plugin.run(60)[-1] == 2
    plugin.service = lambda: ALONE
    plugin.run(20)
    assert 20 <= plugin.limit.limit <= 29


def test_a_few_failures_among_many_calls_cost_little():
    plugin = Plugin(AdaptiveLimit(1, 100), 1000, callers=100, timeout=0.2)
    numbers = itertools.count(1)
    plugin.service = lambda: ALONE if next(numbers) % 100 else 0.3
    assert quantiles(plugin.run(50))[1] >= 95


def test_it_stays_where_it_is_while_little_is_in_use():
    plugin = Plugin(AdaptiveLimit(1, 100), 200, callers=10)
    plugin.service = noisy(3)
    assert set(plugin.run(100)) == {100}


def test_a_plugin_without_a_limit_of_its_own_gets_all():
    plugin = Plugin(AdaptiveLimit(1, 100), 1000, callers=90)
    plugin.service = noisy(9)
    limits = plugin.run(150)
    assert sum(limit >= 90 for limit in limits) > 0.9 * len(limits)


def test_it_keeps_within_its_bounds():
    for low, high in ((1, 1), (3, 3), (4, 6)):
        plugin = Plugin(AdaptiveLimit(low, high), 5, callers=50, timeout=0.2)
        plugin.service = noisy(low)
        assert {low, *plugin.run(60), high} <= set(range(low, high + 1))


def test_a_single_call_that_hung_does_not_matter():
    plugin = Plugin(AdaptiveLimit(1, 100), 20, callers=80)
    plugin.run(10)
    usual = plugin.limit.limit
    times = iter([30.0])
    plugin.service = lambda: next(times, ALONE)
    assert min(plugin.run(40)) >= usual - 5


def test_ends_that_say_nothing_of_the_load_change_nothing():
    limit = AdaptiveLimit(1, 10)
    for number in range(1000):
        limit.observe(float(number), 100.0, None, 10)
    assert (limit.limit, limit.baseline) == (10, None)


def test_calls_that_began_before_the_limit_changed_are_not_held_against_it():
    limit = AdaptiveLimit(1, 10)
    now = 0.0
    for _ in range(20):
        now += 1.0
        limit.observe(now, 1.0, False, 10)
    lowered = limit.limit
    assert lowered == 5
    for inside in range(10, 5, -1):  # the surplus leaves, all of it timed out
        limit.observe(now, 1.0, False, inside)
    for _ in range(100):
        limit.observe(now, 1.0, False, 5)
    assert limit.limit == lowered


def test_calls_of_no_time_at_all_do_no_harm():
    limit = AdaptiveLimit(1, 10)
    for _ in range(500):
        limit.observe(1.0, 0.0, True, 10)
    assert 1 <= limit.limit <= 10


def test_the_bulkhead_itself_keeps_a_plugin_from_being_flooded():
    """The same model, with the limit where it is used."""
    clock = ManualClock()
    bulkhead = Bulkhead(BulkheadConfig(max_concurrent=60, adaptive=True), clock=clock)
    queue: deque[tuple[float, object]] = deque()
    working: list[tuple[float, int, float, object]] = []
    numbers, most = itertools.count(), 0
    while clock.monotonic() < 60:
        try:
            while True:
                queue.append((clock.monotonic(), bulkhead.acquire()))
        except BulkheadFullError:
            pass
        while queue and len(working) < 10:
            since, place = queue.popleft()
            heapq.heappush(working, (clock.monotonic() + ALONE, next(numbers), since, place))
        if clock.monotonic() > 20:
            most = max(most, bulkhead.in_use)
        due, _, since, place = heapq.heappop(working)
        clock.advance(max(0.0, due - clock.monotonic()))
        bulkhead.release(place, clock.monotonic() - since, True)
    assert 10 <= bulkhead.limit <= 15
    assert most <= 16
