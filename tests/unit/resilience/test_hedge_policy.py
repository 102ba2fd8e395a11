"""HedgePolicy: the delay as a quantile of recent latencies."""

from __future__ import annotations

import math
import threading
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from goplugins.config import HedgeConfig
from goplugins.errors import InvalidConfigError
from goplugins.resilience import HedgePolicy
from goplugins.testing import ManualClock


def policy_of(clock: ManualClock | None = None, **fields: Any) -> HedgePolicy:
    return HedgePolicy(HedgeConfig(**{"min_delay": 0.0, **fields}), clock=clock or ManualClock())


def feed(policy: HedgePolicy, *latencies: float) -> None:
    for latency in latencies:
        policy.record(latency)


def test_no_delay_with_too_few_samples() -> None:
    policy = policy_of()
    feed(policy, *[0.1] * 19)
    assert policy.delay() is None
    feed(policy, 0.1)
    assert policy.delay() == 0.1


def test_no_delay_without_samples():
    policy = HedgePolicy(HedgeConfig(), clock=ManualClock(-1e9))
    assert policy.delay() is None
    assert HedgePolicy(HedgeConfig(delay=None), clock=ManualClock()).delay() is None
    assert HedgePolicy(HedgeConfig(delay=0.5), clock=ManualClock()).delay() == 0.5


@pytest.mark.parametrize(("percentile", "enough"), [(0.5, 20), (0.95, 20), (0.99, 100), (0.999, 512), (1.0, 512)])
def test_a_higher_percentile_needs_more_samples(percentile: float, enough: int) -> None:
    policy = policy_of(percentile=percentile)
    feed(policy, *[0.1] * (enough - 1))
    assert policy.delay() is None
    feed(policy, 0.1)
    assert policy.delay() == 0.1


def test_five_percent_of_the_calls_are_late() -> None:
    policy = policy_of()
    latencies = [number / 1000 for number in range(1, 201)]
    feed(policy, *latencies)
    delay = policy.delay()
    assert delay is not None
    assert sum(latency >= delay for latency in latencies) == 10


@pytest.mark.parametrize(("percentile", "expected"), [(0.5, 0.51), (0.9, 0.91), (0.999, 1.0), (1.0, 1.0)])
def test_the_quantile_of_a_hundred_samples(percentile, expected):
    policy = HedgePolicy(HedgeConfig(percentile=percentile, min_delay=0.0), clock=ManualClock())
    for number in range(1, 101):
        policy.record(number / 100)
    for _ in range(412 if percentile > 0.99 else 0):  # a rare quantile needs more samples
        policy.record(0.001)
    assert policy.delay() == expected


def test_the_delay_is_at_least_min_delay() -> None:
    policy = policy_of(min_delay=0.02)
    feed(policy, *[0.001] * 50)
    assert policy.delay() == 0.02
    feed(policy, *[0.5] * 50)
    assert policy.delay() == 0.5


def test_defaults() -> None:
    policy = HedgePolicy(HedgeConfig(), clock=ManualClock())
    feed(policy, *[0.001] * 20)
    assert policy.delay() == 0.01


def test_a_fixed_delay_needs_no_samples() -> None:
    policy = policy_of(delay=0.25)
    assert policy.delay() == 0.25
    feed(policy, *[3.0] * 50)
    assert policy.delay() == 0.25


def test_the_latest_512_samples_count() -> None:
    policy = policy_of()
    feed(policy, *[9.0] * 5000, *[0.1] * 512)
    assert policy.delay() == 0.1


def test_samples_older_than_a_minute_are_dropped() -> None:
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
    assert policy.delay() is None  # after a minute without calls the plugin may have changed
    feed(policy, 0.1)
    assert policy.delay() is None


def test_another_configuration_keeps_the_samples() -> None:
    policy = policy_of()
    feed(policy, *[number / 100 for number in range(1, 101)])
    assert policy.delay() == 0.96
    policy.configure(HedgeConfig(percentile=0.5, min_delay=0.0))
    assert policy.delay() == 0.51
    with pytest.raises(InvalidConfigError, match="percentile"):
        policy.configure(HedgeConfig(percentile=2.0))
    assert policy.delay() == 0.51


def test_a_child_starts_without_samples() -> None:
    policy = policy_of()
    feed(policy, *[0.1] * 20)
    policy.after_fork_in_child()
    assert policy.delay() is None
    feed(policy, *[0.2] * 20)
    assert policy.delay() == 0.2


def test_many_threads_lose_no_sample() -> None:
    policy = policy_of(percentile=0.5)
    threads = [threading.Thread(target=feed, args=(policy, *[0.1, 0.2, 0.3] * 300)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    feed(policy, *[0.4] * 255)
    assert policy.delay() in {0.1, 0.2, 0.3}
    feed(policy, 0.4, 0.4)
    assert policy.delay() == 0.4, "257 of 512 samples"


class PolicyModel:
    """Keeps all samples, and sorts them at each call."""

    def __init__(self, share: float) -> None:
        self.share = share
        self.seen: list[tuple[float, float]] = []

    def delay(self, now: float) -> float | None:
        if not self.seen or now - self.seen[-1][0] > 60.0:
            return None
        last = self.seen[-1][0]  # their age is checked when one is added
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
def test_agrees_with_a_model(steps: list[tuple[str, object]], share: float) -> None:
    clock = ManualClock()
    policy, plain = policy_of(clock, percentile=share), PolicyModel(share)
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
