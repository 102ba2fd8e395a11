from __future__ import annotations

import threading

import pytest

from goplugins.errors import InvalidArgumentError
from goplugins.resilience import RetryBudget
from goplugins.testing import ManualClock


@pytest.fixture
def clock():
    return ManualClock(start=12345.6)


def without_reserve(clock, ratio=0.2):
    budget = RetryBudget(ratio, clock=clock)
    while budget.withdraw():
        pass
    return budget


def drained(budget):
    count = 0
    while budget.withdraw():
        count += 1
    return count


def test_reserve_of_100_then_10_a_second(clock):
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


def test_a_million_fifths_are_exact(clock):
    budget = without_reserve(clock)
    for _ in range(100_000):
        budget.deposit()
    assert drained(budget) == 20_000


def test_a_deposit_lives_ten_seconds(clock):
    budget = without_reserve(clock, ratio=150.0)
    budget.deposit()
    clock.advance(9.89)
    assert budget.available == pytest.approx(150 + 98.9, abs=0.01)
    clock.advance(0.11)
    assert budget.available == pytest.approx(100.0, abs=0.01), "the reserve alone"


def test_the_oldest_deposits_are_spent_first(clock):
    budget = without_reserve(clock, ratio=1.0)
    for _ in range(50):
        budget.deposit()
    clock.advance(5.0)
    for _ in range(50):
        budget.deposit()
    for _ in range(50):
        assert budget.withdraw()
    clock.advance(5.0)  # the first fifty would be gone by now; they were spent
    assert budget.available == pytest.approx(50 + 100)


def test_a_long_silence_leaves_nothing_behind(clock):
    budget = without_reserve(clock, ratio=1.0)
    for _ in range(500):
        budget.deposit()
        clock.advance(0.013)
    clock.advance(1e6)
    assert budget.available == 100.0
    budget.deposit()
    assert budget.available == 101.0


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


def test_threads_together_withdraw_no_more_than_there_is(clock):
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
