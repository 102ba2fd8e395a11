"""The bound of the retry budget, with hedged attempts beside retries."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Any

import hypothesis.strategies as st
from hypothesis import given

from goplugins.config import HedgeConfig
from goplugins.pipeline.hedging import Hedger
from goplugins.resilience import HedgePolicy, RetryBudget
from goplugins.runtime.call import Call
from goplugins.runtime.deadline import Deadline
from goplugins.testing import ManualClock
from goplugins.transports.json_codec import codec_for


class TwoAtOnce:
    """A pool for one thread: the first attempt of each call never answers, the second one does at once."""

    def reserve(self, count: int) -> list[object]:
        return [object()] * count

    def submit_to(self, slot: object, fn: Any, done: Any) -> None:
        attempt = fn.__self__
        if attempt.call.max_wait is None:
            attempt.call.attempts = 1  # it was sent
        else:
            fn()
            done()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("pass"), st.floats(0.0, 15.0)),
        st.tuples(st.just("calls"), st.integers(1, 120)),
        st.tuples(st.just("retries"), st.integers(1, 120)),
    ),
    max_size=15,
)


@given(steps=STEPS, ratio=st.sampled_from([0.0, 0.2, 1.0]))
def test_hedges_and_retries_together_stay_under_the_bound(steps: list[tuple[str, Any]], ratio: float) -> None:
    clock = ManualClock()
    budget = RetryBudget(ratio, clock=clock)
    hedger = Hedger(HedgePolicy(HedgeConfig(delay=0.001), clock=clock), TwoAtOnce(), budget, clock)  # type: ignore[arg-type]
    calls: list[float] = []
    extra: list[float] = []

    def answer(call: Call) -> str:
        call.attempts += 1
        extra.append(clock.monotonic())
        return "answer"

    for what, amount in steps:
        if what == "pass":
            clock.advance(amount)
        elif what == "retries":
            extra += [clock.monotonic() for _ in range(amount) if budget.withdraw()]
        else:
            for _ in range(amount):
                calls.append(clock.monotonic())
                call = Call("x", codec_for(), Deadline.after(0.02, clock), "id", idempotent=True)
                try:
                    hedger(call, answer)
                    assert call.attempts == 2
                except TimeoutError:
                    assert call.attempts == 1
                budget.deposit()
    moments = sorted(set(extra))
    for first, begin in enumerate(moments):
        for end in moments[first::7]:  # a seventh of all intervals; all of them would take minutes
            made = bisect_right(extra, end) - bisect_left(extra, begin)
            paid = bisect_right(calls, end) - bisect_left(calls, begin - 10)
            assert made <= ratio * paid + 10 * (end - begin + 10) + 1e-3
    assert hedger.counts.metrics().hedges_sent <= len(extra)
