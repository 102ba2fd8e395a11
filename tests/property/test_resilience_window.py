"""RollingWindow against a list of all calls, at whole buckets, where the ring is exact."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from goplugins.resilience.rolling_window import RollingWindow

steps = st.lists(
    st.one_of(
        st.tuples(st.just("pass"), st.integers(0, 4) | st.integers(0, 40), st.none()),
        st.tuples(st.just("record"), st.booleans(), st.booleans()),
        st.tuples(st.just("late"), st.booleans(), st.booleans()),
        st.tuples(st.just("clear"), st.none(), st.none()),
    ),
    max_size=60,
)


@given(steps=steps, start=st.sampled_from([0, 7, 1000]), width=st.sampled_from([0.5, 1.0, 4.0]))
def test_counts_calls_that_ended_in_the_last_ten_buckets(steps, start, width):
    window = RollingWindow(10 * width)
    now, ended = start, []
    for what, first, second in steps:
        if what == "pass":
            now += first
        elif what == "clear":
            window = window.emptied()
            ended = []
        else:
            # A call that ended before the newest bucket counts there: threads read the clock before they take the lock.
            at = max(0, now - 1) if what == "late" and ended and ended[-1][0] == now else now
            window.record(at * width, failed=first, slow=second)
            ended.append((now, first, second))
            recent = [entry for entry in ended if now - entry[0] < 10]
            assert window.calls == len(recent)
            assert window.failures == sum(failed for _, failed, _ in recent)
            assert window.slow == sum(slow for _, _, slow in recent)


def test_a_call_in_the_first_bucket_expires():
    window = RollingWindow(10.0)
    window.record(0.5, failed=True, slow=True)
    window.record(9.5, failed=False, slow=False)
    assert (window.calls, window.failures, window.slow) == (2, 1, 1)
    window.record(10.5, failed=False, slow=False)
    assert (window.calls, window.failures, window.slow) == (2, 0, 0)


def test_the_calls_of_one_bucket_expire_together():
    window = RollingWindow(10.0)
    for _ in range(3):
        window.record(0.5, failed=True, slow=True)
    for second in range(1, 10):
        window.record(second + 0.5, failed=False, slow=False)
    window.record(10.5, failed=False, slow=False)
    assert (window.calls, window.failures, window.slow) == (10, 0, 0)
    window.record(100.5, failed=False, slow=False)
    assert (window.calls, window.failures, window.slow) == (1, 0, 0)
