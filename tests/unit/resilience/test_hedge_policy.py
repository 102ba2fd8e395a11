"""When an attempt counts as late."""

from __future__ import annotations

import math
import threading
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from goplugins.config import HedgeConfig
from goplugins.resilience import HedgePolicy
from goplugins.testing import ManualClock


def policy_of(clock: ManualClock | None = None, **fields: Any) -> HedgePolicy:
    return HedgePolicy(HedgeConfig(**{"min_delay": 0.0, **fields}), clock=clock or ManualClock())


def feed(policy: HedgePolicy, *latencies: float) -> None:
    for latency in latencies:
        policy.record(latency)


def test_it_says_nothing_before_it_knows_enough() -> None:
    policy = policy_of()
    feed(policy, *[0.1] * 19)
    assert policy.delay() is None
    feed(policy, 0.1)
    assert policy.delay() == 0.1


@pytest.mark.parametrize(("percentile", "enough"), [(0.5, 20), (0.95, 20), (0.99, 100), (0.999, 512), (1.0, 512)])
def test_a_higher_percentile_takes_more_answers(percentile: float, enough: int) -> None:
    policy = policy_of(percentile=percentile)
    feed(policy, *[0.1] * (enough - 1))
    assert policy.delay() is None
    feed(policy, 0.1)
    assert policy.delay() == 0.1


def test_a_twentieth_of_the_calls_is_late() -> None:
    policy = policy_of()
    latencies = [number / 1000 for number in range(1, 201)]
    feed(policy, *latencies)
    delay = policy.delay()
    assert delay is not None
    assert sum(latency >= delay for latency in latencies) == 10


def test_never_before_min_delay() -> None:
    policy = policy_of(min_delay=0.02)
    feed(policy, *[0.001] * 50)
    assert policy.delay() == 0.02
    feed(policy, *[0.5] * 50)
    assert policy.delay() == 0.5


def test_the_defaults_are_those_of_the_configuration() -> None:
    policy = HedgePolicy(HedgeConfig(), clock=ManualClock())
    feed(policy, *[0.001] * 20)
    assert policy.delay() == 0.01


def test_a_fixed_delay_needs_no_experience() -> None:
    policy = policy_of(delay=0.25)
    assert policy.delay() == 0.25
    feed(policy, *[3.0] * 50)
    assert policy.delay() == 0.25


def test_the_last_answers_count_and_older_ones_do_not() -> None:
    policy = policy_of()
    feed(policy, *[9.0] * 5000, *[0.1] * 512)
    assert policy.delay() == 0.1


def test_what_is_older_than_a_minute_is_forgotten() -> None:
    clock = ManualClock()
    policy = policy_of(clock)
    feed(policy, *[9.0] * 100)
    clock.advance(40.0)
    feed(policy, *[0.1] * 20)
    assert policy.delay() == 9.0
    clock.advance(30.0)
    feed(policy, 0.1)
    assert policy.delay() == 0.1
    clock.advance(61.0)
    assert policy.delay() is None  # a plugin that nobody called for a minute may have changed
    feed(policy, 0.1)
    assert policy.delay() is None


def test_a_forked_child_starts_without_samples() -> None:
    policy = policy_of()
    feed(policy, *[0.1] * 20)
    policy.after_fork_in_child()
    assert policy.delay() is None
    feed(policy, *[0.2] * 20)
    assert policy.delay() == 0.2


def test_many_threads_at_once_lose_nothing() -> None:
    policy = policy_of(percentile=0.5)
    threads = [threading.Thread(target=feed, args=(policy, *[0.1, 0.2, 0.3] * 300)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(policy._recent) == len(policy._sorted) == 512
    assert sorted(latency for _, latency in policy._recent) == policy._sorted


class PlainPolicy:
    """Looks through all that ever was."""

    def __init__(self, share: float) -> None:
        self.share = share
        self.seen: list[tuple[float, float]] = []

    def delay(self, now: float) -> float | None:
        if not self.seen or now - self.seen[-1][0] > 60.0:
            return None
        last = self.seen[-1][0]  # it looks at their age when it takes one in
        kept = sorted(latency for at, latency in self.seen[-512:] if at >= last - 60.0)
        if len(kept) < max(20, math.ceil(1 / (1 - self.share) - 1e-9)):
            return None
        return kept[min(int(len(kept) * self.share), len(kept) - 1)]


@settings(max_examples=100, deadline=None)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("pass"), st.sampled_from([0.0, 1.0, 20.0, 30.0, 59.0, 60.0, 61.0])),
            st.tuples(st.just("calls"), st.lists(st.floats(0.0, 10.0), min_size=1, max_size=150)),
        ),
        max_size=20,
    ),
    share=st.sampled_from([0.5, 0.9, 0.95, 0.99]),
)
def test_it_agrees_with_a_plain_sum(steps: list[tuple[str, object]], share: float) -> None:
    clock = ManualClock()
    policy, plain = policy_of(clock, percentile=share), PlainPolicy(share)
    for what, value in steps:
        if what == "pass":
            assert isinstance(value, float)
            clock.advance(value)
        else:
            assert isinstance(value, list)
            for latency in value:
                policy.record(latency)
                plain.seen.append((clock.monotonic(), latency))
        assert policy.delay() == plain.delay(clock.monotonic())
