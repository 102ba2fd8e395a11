"""RetryBudget: its bound in every interval, and a model."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from goplugins.resilience import RetryBudget
from goplugins.testing import ManualClock

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("pass"), st.floats(0.0, 15.0)),
        st.tuples(st.just("pass"), st.sampled_from([0.05, 0.1, 1.0, 9.9, 10.0])),
        st.tuples(st.just("call"), st.integers(1, 300)),
        st.tuples(st.just("retry"), st.integers(1, 300)),
    ),
    max_size=25,
)


@given(steps=STEPS, ratio=st.sampled_from([0.0, 0.1, 0.2, 1 / 3, 1.0]), start=st.floats(0.0, 1e6))
def test_withdrawals_in_any_time_stay_under_the_bound(steps, ratio, start):
    clock = ManualClock(start)
    budget = RetryBudget(ratio, clock=clock)
    calls: list[tuple[float, int]] = []
    retries: list[tuple[float, int]] = []
    for what, amount in steps:
        if what == "pass":
            clock.advance(amount)
        elif what == "call":
            for _ in range(amount):
                budget.deposit()
            calls.append((clock.monotonic(), amount))
        else:
            retries.append((clock.monotonic(), sum(budget.withdraw() for _ in range(amount))))
    for first, (begin, _) in enumerate(retries):
        for end, _ in retries[first:]:
            made = sum(count for at, count in retries if begin <= at <= end)
            paid = sum(count for at, count in calls if begin - 10 <= at <= end)
            assert made <= ratio * paid + 10 * (end - begin + 10) + 1e-3


class BudgetModel:
    """One list entry for each deposit. Times are whole tenths of a second, at which the ring is exact."""

    def __init__(self, ratio):
        self.ratio = ratio
        self.now = 0
        self.deposits: list[list[float]] = []  # [tenth, what is left]
        self.reserve = 100.0

    def advance(self, tenths):
        self.now += tenths
        self.reserve = min(100.0, self.reserve + tenths)
        self.deposits = [entry for entry in self.deposits if self.now - entry[0] < 100]

    def withdraw(self):
        if sum(left for _, left in self.deposits) + self.reserve < 1 - 1e-6:
            return False
        missing = 1.0
        for entry in self.deposits:
            taken = min(missing, entry[1])
            entry[1] -= taken
            missing -= taken
        self.reserve -= missing
        return True


@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("pass"), st.integers(0, 120)),
            st.tuples(st.just("call"), st.integers(1, 60)),
            st.tuples(st.just("retry"), st.integers(1, 150)),
        ),
        max_size=30,
    ),
    ratio=st.sampled_from([0.0, 0.2, 0.5, 1.0]),
)
def test_agrees_with_a_model(steps, ratio):
    clock, model = ManualClock(), BudgetModel(ratio)
    budget = RetryBudget(ratio, clock=clock)
    for what, amount in steps:
        if what == "pass":
            model.advance(amount)
            clock.advance(model.now / 10 + 1e-7 - clock.monotonic())  # just after the tenth, in spite of float rounding
        elif what == "call":
            for _ in range(amount):
                budget.deposit()
                model.deposits.append([model.now, ratio])
        else:
            assert sum(budget.withdraw() for _ in range(amount)) == sum(model.withdraw() for _ in range(amount))
