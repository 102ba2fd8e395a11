"""AdaptiveLimit, in simulations of a plugin that works on so many calls at once and queues the rest, and by window."""

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

ALONE = 0.05  # seconds of a call that is not queued


class Plugin:
    """Serves ``capacity`` calls at once, first come first served; callers call again as soon as the limit admits it.

    Attributes:
        callers: the number of concurrent callers.
        service: returns the seconds of the next call.
        timeout: seconds after which a call counts as overload.
        seen: time and limit after each call.
    """

    def __init__(self, limit: AdaptiveLimit, capacity: int, callers: int, *, timeout: float = math.inf) -> None:
        self.limit, self.capacity, self.callers, self.timeout = limit, capacity, callers, timeout
        self.service: Callable[[], float] = lambda: ALONE
        self.now = 0.0
        self.in_use = 0
        self.served = 0
        self.seen: list[tuple[float, int]] = []
        self._queue: deque[float] = deque()
        self._working: list[tuple[float, int, float]] = []
        self._numbers = itertools.count()

    def run(self, seconds: float) -> list[int]:
        """Runs the simulation and returns the limit after each call."""
        first, end = len(self.seen), self.now + seconds
        while self.now < end:
            while self.in_use < min(self.limit.limit, self.callers):
                self.in_use += 1
                self._queue.append(self.now)
            while self._queue and len(self._working) < self.capacity:
                since = self._queue.popleft()
                heapq.heappush(self._working, (self.now + self.service(), next(self._numbers), since))
            self.now, _, since = heapq.heappop(self._working)
            elapsed = self.now - since
            self.limit.observe(self.now, elapsed, elapsed <= self.timeout, self.in_use)
            self.in_use -= 1
            self.served += 1
            self.seen.append((self.now, self.limit.limit))
        return [limit for _, limit in self.seen[first:]]


def quantiles(limits: list[int]) -> tuple[int, int, int]:
    """The 2nd, 50th and 98th percentile."""
    limits = sorted(limits)
    return limits[len(limits) // 50], limits[len(limits) // 2], limits[-len(limits) // 50]


def noisy(seed: int, mean: float = ALONE) -> Callable[[], float]:
    rng = random.Random(seed)
    return lambda: rng.expovariate(1 / mean)


@pytest.mark.parametrize("capacity", [2, 5, 20, 80])
def test_settles_a_little_above_the_capacity(capacity):
    plugin = Plugin(AdaptiveLimit(1, 300), capacity, callers=250)
    plugin.run(150)
    before = plugin.served
    low, _, high = quantiles(plugin.run(55))
    assert capacity <= low
    assert high <= 1.4 * capacity + 2
    assert plugin.served - before > 0.95 * 55 * capacity / ALONE, "the capacity is used"


@pytest.mark.parametrize("seed", range(4))
def test_settles_there_with_latencies_that_vary_widely(seed):
    plugin = Plugin(AdaptiveLimit(1, 200), 20, callers=150)
    plugin.service = noisy(seed)
    plugin.run(60)
    before = plugin.served
    low, middle, high = quantiles(plugin.run(240))
    assert low >= 5
    assert 15 <= middle <= 35
    assert high <= 50
    assert plugin.served - before > 0.9 * 240 * 20 / ALONE, "the capacity is used"


def test_settles_within_a_few_windows():
    plugin = Plugin(AdaptiveLimit(1, 100), 20, callers=80)
    plugin.run(5)
    assert 20 <= plugin.limit.limit <= 29
    assert plugin.limit.baseline == pytest.approx(ALONE)


def test_does_not_oscillate():
    plugin = Plugin(AdaptiveLimit(1, 100), 20, callers=80)
    plugin.run(10)
    limits = plugin.run(45)
    assert max(limits) - min(limits) <= 3


def test_probes_half_of_the_limit_once_a_minute():
    plugin = Plugin(AdaptiveLimit(1, 100), 20, callers=80)
    plugin.run(10)
    limits = plugin.run(60)
    assert min(limits) == max(limits) // 2
    assert sum(limit < 20 for limit in limits) < 0.01 * len(limits)


@pytest.mark.parametrize("service", [lambda: ALONE, noisy(5)])
def test_follows_a_capacity_that_falls_and_recovers(service):
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


def test_a_plugin_that_becomes_slower_by_itself_gets_its_limit_back():
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


def test_timeouts_lower_it_to_the_minimum_and_answers_raise_it_again():
    plugin = Plugin(AdaptiveLimit(2, 100), 20, callers=80, timeout=1.0)
    plugin.run(30)
    plugin.service = lambda: 2.0
    assert plugin.run(60)[-1] == 2
    plugin.service = lambda: ALONE
    plugin.run(20)
    assert 20 <= plugin.limit.limit <= 29


def test_few_failures_among_many_calls_lower_it_little():
    plugin = Plugin(AdaptiveLimit(1, 100), 1000, callers=100, timeout=0.2)
    numbers = itertools.count(1)
    plugin.service = lambda: ALONE if next(numbers) % 100 else 0.3
    assert quantiles(plugin.run(50))[1] >= 95


def test_stays_at_its_value_while_little_of_it_is_in_use():
    plugin = Plugin(AdaptiveLimit(1, 100), 200, callers=10)
    plugin.service = noisy(3)
    assert set(plugin.run(100)) == {100}


def test_a_plugin_that_never_queues_gets_all_calls():
    plugin = Plugin(AdaptiveLimit(1, 100), 1000, callers=90)
    plugin.service = noisy(9)
    limits = plugin.run(150)
    assert sum(limit >= 90 for limit in limits) > 0.9 * len(limits)


def test_stays_within_its_bounds():
    for low, high in ((1, 1), (3, 3), (4, 6)):
        plugin = Plugin(AdaptiveLimit(low, high), 5, callers=50, timeout=0.2)
        plugin.service = noisy(low)
        assert {low, *plugin.run(60), high} <= set(range(low, high + 1))


def test_a_single_hung_call_lowers_it_little():
    plugin = Plugin(AdaptiveLimit(1, 100), 20, callers=80)
    plugin.run(10)
    usual = plugin.limit.limit
    times = iter([30.0])
    plugin.service = lambda: next(times, ALONE)
    assert min(plugin.run(40)) >= usual - 5


def test_ends_without_a_load_signal_are_not_counted():
    limit = AdaptiveLimit(1, 10)
    for number in range(1000):
        limit.observe(float(number), 100.0, None, 10)
    assert (limit.limit, limit.baseline) == (10, None)


def test_calls_from_before_a_change_of_the_limit_are_not_counted():
    limit = AdaptiveLimit(1, 10)
    now = 0.0
    for _ in range(20):
        now += 1.0
        limit.observe(now, 1.0, False, 10)
    lowered = limit.limit
    assert lowered == 5
    for in_use in range(10, 5, -1):  # the surplus calls end, all timed out
        limit.observe(now, 1.0, False, in_use)
    for _ in range(100):
        limit.observe(now, 1.0, False, 5)
    assert limit.limit == lowered


def test_calls_without_duration():
    limit = AdaptiveLimit(1, 10)
    for _ in range(500):
        limit.observe(1.0, 0.0, True, 10)
    assert 1 <= limit.limit <= 10


def test_a_bulkhead_with_an_adaptive_limit_settles_at_the_capacity():
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
            since, permit = queue.popleft()
            heapq.heappush(working, (clock.monotonic() + ALONE, next(numbers), since, permit))
        if clock.monotonic() > 20:
            most = max(most, bulkhead.in_use)
        due, _, since, permit = heapq.heappop(working)
        clock.advance(max(0.0, due - clock.monotonic()))
        bulkhead.release(permit, clock.monotonic() - since, True)
    assert 10 <= bulkhead.limit <= 15
    assert most <= 16


# --- window by window -----------------------------------------------------------------------------------------------


class Windows:
    """Feeds a limit with windows of equal calls: those of one :meth:`calls` begin now, and end together."""

    def __init__(self, low: int = 1, high: int = 100) -> None:
        self.limit = AdaptiveLimit(low, high)
        self.now = 1000.0

    def calls(self, count: int, latency: float, in_use: int, *, ok: bool | None = True) -> Windows:
        self.now += latency if count else 0.0
        for _ in range(count):
            self.limit.observe(self.now, latency, ok, in_use)
        return self

    def window(self, latency: float, in_use: int, *, failed: int = 0) -> Windows:
        """As many calls as make a window, then the end of the calls beyond the new limit."""
        count = max(20, 2 * self.limit.limit)
        self.calls(failed, latency, in_use, ok=False).calls(count - failed, latency, in_use)
        self.limit.observe(self.now, 0.0, None, 1)
        return self


def known(low: int = 1, high: int = 100, latency: float = 0.125) -> Windows:
    """The baseline is known."""
    windows = Windows(low, high).window(latency, 2)
    assert windows.limit.baseline == latency
    return windows


@pytest.mark.parametrize(("high", "needed"), [(1, 20), (10, 20), (11, 22), (40, 80)])
def test_a_window_has_twenty_calls_or_twice_the_limit(high, needed):
    windows = Windows(high=high).calls(needed - 1, 0.125, 1)
    assert windows.limit.baseline is None
    windows.calls(1, 0.125, 1)
    assert (windows.limit.baseline, windows.limit.limit) == (0.125, high)


def test_calls_that_began_before_the_window_are_not_counted():
    windows = known(high=10)
    for _ in range(50):
        windows.limit.observe(windows.now, 0.001, True, 9)
    assert windows.calls(19, 0.25, 9).limit.limit == 10
    assert windows.calls(1, 0.25, 9).limit.limit == 6


def test_a_window_begins_once_the_calls_beyond_the_limit_have_ended():
    windows = known(high=10)
    windows.calls(20, 0.5, 10)
    assert windows.limit.limit == 5
    assert windows.calls(100, 0.125, 7).limit.limit == 5, "six others are in flight, and the limit is five"
    assert windows.calls(100, 0.125, 6).limit.limit == 5, "the first of these begins the window"
    assert windows.calls(19, 0.125, 6).limit.limit == 5
    assert windows.calls(1, 0.125, 6).limit.limit == 7


@pytest.mark.parametrize(
    ("latency", "limit"),
    [(0.125, 100), (0.15625, 100), (0.1875, 83), (0.25, 62), (0.3125, 50), (0.5, 50), (9.0, 50)],
)
def test_above_the_tolerance_the_limit_falls_by_the_gradient(latency, limit):
    assert known().window(latency, 90).limit.limit == limit


@pytest.mark.parametrize(("latency", "limit"), [(0.0625, 70), (0.125, 70), (0.140625, 66), (0.15625, 62)])
def test_below_the_tolerance_the_limit_grows_by_up_to_its_square_root(latency, limit):
    windows = known().window(0.25, 90)
    assert windows.limit.limit == 62  # 62.5, and 7.9 is its root
    assert windows.window(latency, 40).limit.limit == limit


@pytest.mark.parametrize(("in_use", "limit"), [(31, 62), (32, 70)])
def test_the_limit_grows_only_if_half_of_it_was_in_use(in_use, limit):
    assert known().window(0.25, 90).window(0.125, in_use).limit.limit == limit


@pytest.mark.parametrize(("failed", "limit"), [(0, 100), (2, 99), (20, 95), (100, 75), (101, 74), (200, 50)])
def test_overload_errors_lower_the_limit_by_half_of_their_share(failed, limit):
    assert known().window(0.125, 2, failed=failed).limit.limit == limit


def test_with_more_failures_than_answers_the_latency_is_ignored():
    windows = known().window(9.0, 90, failed=120)
    assert (windows.limit.limit, windows.limit.baseline) == (70, 0.125)


def test_bounds_may_change():
    limit = known(low=8, high=10).window(9.0, 9, failed=4).limit
    assert limit.limit == 8
    limit.set_bounds(3, 5)
    assert limit.limit == 5
    limit.set_bounds(6, 20)
    assert limit.limit == 6


@pytest.mark.parametrize(
    ("latency", "in_use", "baseline"),
    [
        (0.15, 50, 0.13),  # a fifth of the way
        (0.1, 50, 0.12),
        (0.15, 51, 0.125),  # more than half in use
        (0.2, 50, 0.125),  # above the tolerance
    ],
)
def test_the_baseline_follows_windows_of_little_load(latency, in_use, baseline):
    assert known().window(latency, in_use).limit.baseline == pytest.approx(baseline)


def test_at_the_minimum_the_baseline_is_the_latency():
    windows = known(low=10, high=10).window(0.25, 9)
    assert (windows.limit.baseline, windows.limit.limit) == (0.25, 10)


@pytest.mark.parametrize(("seconds", "probed"), [(59.0, False), (60.0, True)])
def test_a_baseline_that_no_window_confirmed_for_a_minute_is_probed(seconds, probed):
    windows = known()
    windows.now += seconds - 0.125
    windows.window(0.125, 80)
    assert windows.limit.limit == (50 if probed else 100)
    windows.window(0.125, 50)
    assert windows.limit.limit == 100


def test_a_window_of_little_load_confirms_the_baseline():
    windows = known()
    windows.now += 50.0
    windows.window(0.125, 50)
    windows.now += 50.0
    assert windows.window(0.125, 80).limit.limit == 100


def test_a_probe_halves_the_limit_while_latency_falls_with_it():
    windows = Windows()
    limits = []
    for latency in (1.0, 0.5, 0.25, 0.25):
        windows.window(latency, windows.limit.limit)
        limits.append(windows.limit.limit)
    assert limits == [50, 25, 12, 25], "the last halving did not help, and is undone"
    assert windows.limit.baseline == 0.25


@pytest.mark.parametrize(("latency", "falling"), [(0.39, True), (0.41, False)])
def test_a_latency_that_falls_by_a_fifth_is_a_queue(latency, falling):
    windows = Windows().window(0.5, 80).window(latency, 50)
    assert windows.limit.limit == (25 if falling else 100)


def test_a_plugin_that_became_slower_by_itself_gets_its_limit_back():
    windows = known().window(0.5, 100)
    assert windows.limit.limit == 50
    assert windows.window(0.5, 50).limit.limit == 25, "halved by the gradient, now probed"
    windows.window(0.5, 25)
    assert (windows.limit.limit, windows.limit.baseline) == (100, 0.5)


def test_a_probe_does_not_restore_the_limit_lowered_by_failures():
    windows = known().window(0.125, 50, failed=100)
    assert windows.limit.limit == 75
    windows.now += 60.0
    assert windows.window(0.125, 70).limit.limit == 37
    assert windows.window(0.125, 37).limit.limit == 75


def test_a_window_full_of_failures_ends_a_probe():
    windows = Windows().window(0.5, 80)
    assert windows.limit.limit == 50
    assert windows.window(0.5, 40, failed=100).limit.limit == 50
    assert windows.window(0.5, 20).limit.limit == 50
