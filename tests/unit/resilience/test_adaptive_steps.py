"""The adaptive limit window by window, against the formula of its docstring, to the last digit."""

from __future__ import annotations

import math

import pytest

from goplugins.resilience.adaptive_limit import AdaptiveLimit


class Fed:
    """A limit that is told of calls: those of one :meth:`calls` begin now, and end together."""

    def __init__(self, low: int = 1, high: int = 10) -> None:
        self.limit = AdaptiveLimit(low, high)
        self.now = 1000.0

    def calls(self, count: int, latency: float, in_use: int, *, ok: bool | None = True) -> Fed:
        self.now += latency if count else 0.0
        for _ in range(count):
            self.limit.observe(self.now, latency, ok, in_use)
        return self

    def window(self, latency: float, in_use: int, *, failed: int = 0) -> Fed:
        """As many calls as make a window."""
        count = max(20, 2 * self.limit.limit)
        return self.calls(failed, latency, in_use, ok=False).calls(count - failed, latency, in_use)

    def drained(self) -> Fed:
        """Those that were inside beyond the limit have left."""
        self.limit.observe(self.now, 0.0, None, 1)
        return self

    @property
    def value(self) -> float:
        return self.limit._value


def settled(low: int = 1, high: int = 10, latency: float = 0.125) -> Fed:
    """The usual latency is known."""
    fed = Fed(low, high).window(latency, 2)
    assert fed.limit.baseline == latency
    return fed


# --- windows ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("high", "needed"), [(1, 20), (10, 20), (11, 22), (40, 80)])
def test_a_window_has_twenty_calls_or_twice_the_limit(high, needed):
    fed = Fed(high=high).calls(needed - 1, 0.125, 1)
    assert fed.limit.baseline is None
    fed.calls(1, 0.125, 1)
    assert fed.limit.baseline == 0.125
    assert fed.limit.limit == high


def test_the_next_window_begins_empty():
    fed = settled().calls(19, 0.25, 9)
    assert fed.limit.limit == 10
    assert fed.calls(1, 0.25, 9).limit.limit == 6


def test_calls_that_began_before_the_window_do_not_count_in_it():
    fed = settled()
    for _ in range(50):
        fed.limit.observe(fed.now, 0.001, True, 9)  # it ends now, and began before
    assert fed.calls(19, 0.25, 9).limit.limit == 10
    assert fed.calls(1, 0.25, 9).limit.limit == 6


def test_a_call_that_began_with_the_window_counts():
    fed = settled()
    began = fed.now
    for _ in range(20):
        fed.now += 0.25
        fed.limit.observe(fed.now, fed.now - began, True, 9)
    assert fed.limit.limit < 10


def test_ends_that_say_nothing_are_not_counted():
    fed = settled().calls(100, 9.0, 9, ok=None)
    assert (fed.limit.limit, fed.limit.baseline) == (10, 0.125)
    assert fed.calls(19, 0.25, 9).limit.limit == 10


def test_what_is_inside_beyond_the_limit_leaves_before_the_next_window_begins():
    fed = settled().window(0.5, 10)
    assert fed.limit.limit == 5
    assert fed.calls(100, 0.125, 7).limit.limit == 5, "six others are inside, and the limit is five"
    assert fed.calls(100, 0.125, 6).limit.limit == 5, "the first of these begins the window, the others were before it"
    assert fed.calls(19, 0.125, 6).limit.limit == 5
    assert fed.calls(1, 0.125, 6).limit.limit == 7


# --- the gradient, the growth, and failures ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("latency", "value"),
    [
        (0.125, 10.0),  # it is at its bound
        (0.15625, 10.0),  # exactly a quarter more
        (0.1875, 10 * 1.25 / 1.5),
        (0.25, 6.25),
        (0.3125, 5.0),
        (0.5, 5.0),  # never less than half of it
        (9.0, 5.0),
    ],
)
def test_where_calls_take_more_than_a_quarter_longer_the_limit_falls_in_proportion(latency, value):
    fed = settled().window(latency, 9)
    assert fed.value == pytest.approx(value)
    assert fed.limit.limit == int(value)


@pytest.mark.parametrize(("latency", "more"), [(0.0625, 1.0), (0.125, 1.0), (0.140625, 0.5), (0.15625, 0.0)])
def test_where_they_do_not_it_grows_by_a_square_root_or_part_of_it(latency, more):
    fed = settled(high=100).window(0.25, 90)
    assert fed.value == 62.5
    fed.drained().window(latency, 40)
    assert fed.value == pytest.approx(62.5 + math.sqrt(62.5) * more)


@pytest.mark.parametrize(("in_use", "value"), [(31, 62.5), (32, 62.5 + math.sqrt(62.5))])
def test_it_grows_only_where_half_of_it_was_in_use(in_use, value):
    fed = settled(high=100).window(0.25, 90).drained().window(0.125, in_use)
    assert fed.value == pytest.approx(value)


@pytest.mark.parametrize(("failed", "value"), [(0, 10.0), (1, 9.75), (5, 8.75), (10, 7.5)])
def test_failures_cost_half_of_their_share(failed, value):
    assert settled().window(0.125, 2, failed=failed).value == pytest.approx(value)


@pytest.mark.parametrize("failed", [11, 19, 20])
def test_with_more_failures_than_answers_latency_says_nothing(failed):
    fed = settled().window(9.0, 9, failed=failed)
    assert fed.value == pytest.approx(10 * (1 - failed / 40))
    assert fed.limit.baseline == 0.125


def test_latency_and_failures_together():
    fed = settled()
    fed.calls(5, 0.25, 9, ok=False).calls(15, 0.25, 9)
    assert fed.value == pytest.approx(6.25 * (1 - 0.25 / 2)), "and only answers have a latency"


def test_it_keeps_within_its_bounds():
    fed = settled(low=8).window(9.0, 9, failed=4)
    assert (fed.limit.limit, fed.value) == (8, 8.0)
    fed.limit.set_bounds(3, 5)
    assert fed.limit.limit == 5
    fed.limit.set_bounds(6, 20)
    assert fed.limit.limit == 6


def test_one_call_that_hung_counts_as_four():
    fed = settled().calls(1, 30.0, 9).calls(19, 0.125, 9)
    assert fed.value == 10.0, "(4 + 19) / 20 is no more than a quarter longer"
    fed = settled().calls(2, 20.0, 9).calls(18, 0.125, 9)
    assert fed.value == pytest.approx(10 * 1.25 / 1.3)


# --- the baseline -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("latency", "in_use", "baseline"),
    [
        (0.15, 5, 0.13),  # a fifth of the way
        (0.1, 5, 0.12),
        (0.15, 6, 0.125),  # more than half in use
        (0.2, 5, 0.125),  # more than a quarter longer
    ],
)
def test_the_baseline_follows_windows_of_little_load(latency, in_use, baseline):
    assert settled().window(latency, in_use).limit.baseline == pytest.approx(baseline)


def test_at_the_lowest_limit_the_baseline_follows_whatever_comes():
    fed = settled(low=10).window(0.25, 9)
    assert fed.limit.baseline == pytest.approx(0.125 + 0.025)
    assert fed.limit.limit == 10


def test_a_first_window_under_load_is_tried_with_half():
    fed = Fed().window(0.5, 8)
    assert (fed.limit.baseline, fed.value) == (0.5, 4.0)


def test_answers_of_no_time_at_all_are_counted():
    fed = Fed().window(0.0, 2)
    assert fed.limit.baseline == 1e-9


@pytest.mark.parametrize(("seconds", "tried"), [(59.0, False), (60.0, True)])
def test_a_baseline_that_nothing_confirmed_for_a_minute_is_measured_anew(seconds, tried):
    fed = settled()
    fed.now += seconds - 0.125
    fed.window(0.125, 8)
    assert fed.value == (4.0 if tried else 10.0)


def test_a_window_of_little_load_confirms_it():
    fed = settled()
    fed.now += 50.0
    fed.window(0.125, 5)
    fed.now += 50.0
    assert fed.window(0.125, 8).value == 10.0


# --- whose latency it is ----------------------------------------------------------------------------------------------


def test_latency_that_stays_when_half_is_tried_is_the_plugins_own():
    fed = Fed().window(0.5, 8).drained().window(0.5, 4)
    assert (fed.value, fed.limit.baseline) == (10.0, 0.5)


def test_latency_that_comes_down_with_it_was_a_queue_and_less_is_tried_until_it_stays():
    fed = Fed().window(1.0, 8).drained()
    assert fed.value == 4.0
    fed.window(0.5, 4).drained()
    assert (fed.value, fed.limit.baseline) == (2.0, 0.5)
    fed.window(0.25, 2).drained()
    assert (fed.value, fed.limit.baseline) == (1.0, 0.25)
    fed.window(0.25, 1).drained()
    assert (fed.value, fed.limit.baseline) == (2.0, 0.25), "back to where it did not come down any more"


@pytest.mark.parametrize(("latency", "own"), [(0.6, False), (0.61, True)])
def test_half_way_between_lies_the_verdict(latency, own):
    """Eight were inside, and four are: three quarters of the latency."""
    fed = Fed().window(0.8, 8).drained().window(latency, 4)
    assert fed.value == (10.0 if own else 2.0)


def test_a_plugin_that_became_slower_by_itself_is_not_throttled_for_ever():
    fed = settled()
    fed.window(0.5, 10).drained()
    assert fed.value == 5.0
    fed.window(0.5, 5).drained()  # measured from here: this window was the first without the old calls
    assert fed.value == 2.5
    fed.window(0.5, 2).drained()
    assert (fed.value, fed.limit.baseline) == (10.0, 0.5)


def test_a_window_full_of_failures_ends_a_trial_where_it_began():
    fed = Fed().window(0.5, 8).drained()
    assert fed.value == 4.0
    fed.window(0.5, 4, failed=20)
    assert fed.value == 5.0
    fed.drained().window(0.5, 2)
    assert fed.value == 5.0, "no verdict is left to be given"
