"""Log lines about frequent occurrences."""

from __future__ import annotations

from goplugins.runtime import log_throttle
from goplugins.runtime.log_throttle import LogThrottle
from goplugins.testing import ManualClock


def test_the_first_occurrence_is_due_at_once_and_the_next_line_has_the_count() -> None:
    clock = ManualClock()
    throttle = LogThrottle(10.0, clock=clock)
    assert [throttle.count() for _ in range(4)] == [1, None, None, None]
    clock.advance(9.9)
    assert throttle.count() is None
    clock.advance(0.1)
    assert throttle.count() == 5
    clock.advance(60.0)
    assert throttle.count() == 1


def test_kinds_are_counted_apart_and_bounded() -> None:
    throttle = LogThrottle(10.0, clock=ManualClock())
    assert [throttle.count(kind) for kind in ("a", "b", "a")] == [1, 1, None]
    for number in range(5 * log_throttle._MAX_KEYS):
        assert throttle.count(number) == 1
    assert throttle.count("a") == 1, "forgotten, so that memory is bounded"
