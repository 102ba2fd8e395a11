"""RetryBudget: reserve, deposits and their expiry, many threads."""

from __future__ import annotations

import threading

import pytest

from goplugins.errors import InvalidArgumentError
from goplugins.resilience import RetryBudget
from goplugins.testing import ManualClock


@pytest.fixture
def clock():
    return ManualClock(start=12345.05)  # in the middle of a tenth of a second


def drained(budget):
    count = 0
    while budget.withdraw():
        count += 1
    return count


def without_reserve(clock, ratio=0.2):
    budget = RetryBudget(ratio, clock=clock)
    while budget.withdraw():
        pass
    return budget


# --- reserve and deposits --------------------------------------------------------------------------------------------


def test_a_reserve_of_100_and_10_a_second(clock):
    budget = RetryBudget(clock=clock)
    assert drained(budget) == 100
    clock.advance(1.0)
    assert drained(budget) == 10
    clock.advance(1000.0)
    assert drained(budget) == 100


def test_five_calls_pay_for_one_retry(clock):
    budget = without_reserve(clock)
    for _ in range(4):
        budget.deposit()
    assert not budget.withdraw()
    budget.deposit()
    assert budget.withdraw()
    assert not budget.withdraw()


def test_a_call_deposits_a_fifth_by_default(clock):
    budget = RetryBudget(clock=clock)
    budget.deposit()
    assert budget.available == pytest.approx(100.2)


def test_sums_of_deposits_are_exact(clock):
    budget = without_reserve(clock)
    for _ in range(100_000):
        budget.deposit()
    assert drained(budget) == 20_000


def test_a_ratio_of_0_leaves_the_reserve(clock):
    budget = RetryBudget(0.0, clock=clock)
    budget.deposit()
    assert drained(budget) == 100


def test_set_ratio_applies_to_later_calls(clock):
    budget = without_reserve(clock)
    budget.deposit()
    budget.set_ratio(0.8)
    budget.deposit()
    assert drained(budget) == 1


@pytest.mark.parametrize("ratio", [-0.1, float("nan")])
def test_a_negative_ratio_is_refused(clock, ratio):
    with pytest.raises(InvalidArgumentError, match="ratio"):
        RetryBudget(ratio, clock=clock)


# --- expiry ----------------------------------------------------------------------------------------------------------


def test_a_deposit_expires_after_ten_seconds(clock):
    budget = without_reserve(clock, ratio=150.0)
    budget.deposit()
    clock.advance(9.89)
    assert budget.available == pytest.approx(150 + 98.9, abs=0.01)
    clock.advance(0.11)
    assert budget.available == pytest.approx(100.0, abs=0.01), "the reserve alone"


def test_deposits_expire_one_after_the_other(clock):
    budget = RetryBudget(1.0, clock=clock)
    for _ in range(3):
        budget.deposit()
        clock.advance(0.1)
    clock.advance(9.7)
    assert budget.available == pytest.approx(102.0)
    clock.advance(0.1)
    assert budget.available == pytest.approx(101.0)
    clock.advance(0.1)
    assert budget.available == pytest.approx(100.0)


def test_the_oldest_deposits_are_spent_first(clock):
    budget = without_reserve(clock, ratio=1.0)
    for _ in range(50):
        budget.deposit()
    clock.advance(5.0)
    for _ in range(50):
        budget.deposit()
    for _ in range(50):
        assert budget.withdraw()
    clock.advance(5.0)  # the first fifty would have expired now, but they were spent
    assert budget.available == pytest.approx(50 + 100)


def test_a_withdrawal_takes_from_several_buckets(clock):
    budget = RetryBudget(0.25, clock=clock)
    drained(budget)
    for _ in range(6):
        budget.deposit()
        clock.advance(0.1)
    reserve = budget.available - 6 * 0.25
    assert budget.withdraw()
    assert budget.available == pytest.approx(reserve + 0.5)
    clock.advance(9.8)  # the fifth deposit has expired, the sixth has not
    assert budget.available == pytest.approx(100.25)
    clock.advance(0.1)
    assert budget.available == 100.0


def test_expired_buckets_are_reused_empty(clock):
    budget = RetryBudget(0.25, clock=clock)
    for _ in range(250):
        budget.deposit()
        clock.advance(0.1)
    assert budget.available == pytest.approx(100 + 0.25 * 99, abs=0.26)


def test_deposits_after_a_pause_expire_like_the_first(clock):
    budget = RetryBudget(1.0, clock=clock)
    clock.advance(15.0)
    for _ in range(6):
        budget.deposit()
        clock.advance(0.1)
    assert budget.available == 106.0


def test_after_a_long_pause_only_the_reserve_is_left(clock):
    budget = without_reserve(clock, ratio=1.0)
    for _ in range(500):
        budget.deposit()
        clock.advance(0.013)
    clock.advance(1e6)
    assert budget.available == 100.0
    budget.deposit()
    assert budget.available == 101.0


def test_the_balance_is_exact_after_many_rounds(clock):
    budget = RetryBudget(0.2, clock=clock)
    for _ in range(400):
        budget.deposit()
        budget.withdraw()
        clock.advance(0.37)
        assert budget.available >= 0
    clock.advance(11.0)
    assert budget.available == 100.0
    for _ in range(7):
        budget.deposit()
    assert budget.available == pytest.approx(101.4, abs=1e-12)


# --- threads ---------------------------------------------------------------------------------------------------------


def test_many_threads_withdraw_no_more_than_there_is(clock):
    budget = RetryBudget(0.5, clock=clock)
    taken = []

    def work():
        for _ in range(1000):
            budget.deposit()
        taken.append(sum(budget.withdraw() for _ in range(1000)))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(taken) + drained(budget) == 100 + 4000
