"""What the ring of buckets holds after it has gone round, to the millionth."""

from __future__ import annotations

import pytest

from goplugins.resilience import RetryBudget
from goplugins.testing import ManualClock


@pytest.fixture
def clock():
    return ManualClock(start=12345.05)  # in the middle of a tenth of a second


def spend_the_reserve(budget):
    while budget.withdraw():
        pass


def test_deposits_of_neighbouring_moments_expire_one_after_the_other(clock):
    budget = RetryBudget(1.0, clock=clock)
    for _ in range(3):
        budget.deposit()
        clock.advance(0.1)
    clock.advance(9.7)
    assert [budget.available] == [pytest.approx(102.0)]
    clock.advance(0.1)
    assert budget.available == pytest.approx(101.0)
    clock.advance(0.1)
    assert budget.available == pytest.approx(100.0)


def test_a_deposit_takes_the_lock_only_when_a_tenth_of_a_second_is_over(clock):
    budget = RetryBudget(1.0, clock=clock)
    for _ in range(3):
        budget.deposit()  # the first in this tenth
        clock.advance(0.01)
        with budget._lock:
            budget.deposit()  # or it would hang here
        clock.advance(0.09)
    assert budget.available == pytest.approx(106.0)


def test_what_is_left_is_exact_after_many_rounds(clock):
    budget = RetryBudget(0.2, clock=clock)
    for _ in range(400):
        budget.deposit()
        budget.withdraw()
        clock.advance(0.37)
        assert all(bucket >= 0 for bucket in budget._buckets)
    clock.advance(11.0)
    assert budget.available == 100.0
    for _ in range(7):
        budget.deposit()
    assert budget.available == pytest.approx(101.4, abs=1e-12)


def test_a_withdrawal_gathers_its_one_from_several_moments(clock):
    budget = RetryBudget(0.25, clock=clock)
    spend_the_reserve(budget)
    for _ in range(6):
        budget.deposit()
        clock.advance(0.1)
    reserve = budget.available - 6 * 0.25
    assert budget.withdraw()
    assert sum(budget._buckets) == 500_000
    assert budget.available == pytest.approx(reserve + 0.5)
    clock.advance(9.8)  # the fifth deposit is a lifetime old, the sixth is not
    assert budget.available == pytest.approx(100.25)
    clock.advance(0.1)
    assert budget.available == 100.0


def test_buckets_that_expired_are_empty_when_their_turn_comes_again(clock):
    budget = RetryBudget(0.25, clock=clock)
    for _ in range(250):
        budget.deposit()
        clock.advance(0.1)
    assert budget.available == pytest.approx(100 + 0.25 * 99, abs=0.26)


def test_deposits_of_a_long_life_live_as_long_as_the_first_ones(clock):
    budget = RetryBudget(1.0, clock=clock)
    clock.advance(15.0)
    for _ in range(6):
        budget.deposit()
        clock.advance(0.1)
    assert budget.available == 106.0


def test_a_call_earns_a_fifth_of_a_retry_unless_told_otherwise(clock):
    budget = RetryBudget(clock=clock)
    budget.deposit()
    assert budget.available == pytest.approx(100.2)
