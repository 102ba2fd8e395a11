"""Where the hedge policy's quantile begins and ends."""

from __future__ import annotations

import pytest

from goplugins.config import HedgeConfig
from goplugins.resilience import HedgePolicy
from goplugins.testing import ManualClock


def test_a_policy_that_has_seen_nothing_says_nothing():
    policy = HedgePolicy(HedgeConfig(), clock=ManualClock(-1e9))
    assert policy.delay() is None
    assert HedgePolicy(HedgeConfig(delay=None), clock=ManualClock()).delay() is None
    assert HedgePolicy(HedgeConfig(delay=0.5), clock=ManualClock()).delay() == 0.5


@pytest.mark.parametrize(("percentile", "expected"), [(0.5, 0.51), (0.9, 0.91), (0.999, 1.0), (1.0, 1.0)])
def test_the_quantile_of_a_hundred_answers(percentile, expected):
    policy = HedgePolicy(HedgeConfig(percentile=percentile, min_delay=0.0), clock=ManualClock())
    for number in range(1, 101):
        policy.record(number / 100)
    for _ in range(412 if percentile > 0.99 else 0):  # to speak of so rare a one takes more of them
        policy.record(0.001)
    assert policy.delay() == expected


@pytest.mark.parametrize("lost", [True, False])
def test_what_an_interrupt_left_half_done_is_set_right_by_the_next_answer(lost):
    policy = HedgePolicy(HedgeConfig(percentile=0.9, min_delay=0.0), clock=ManualClock())
    for number in range(1, 101):
        policy.record(number / 100)
    if lost:
        policy._sorted.remove(1.0)
    else:
        policy._sorted.append(7.0)
    policy.record(0.5)
    assert policy._sorted == sorted(took for _, took in policy._recent)
    assert policy.delay() == 0.9
