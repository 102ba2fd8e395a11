import concurrent.futures
import contextvars

import pytest

from goplugins import deadline
from goplugins.errors import InvalidArgumentError
from goplugins.runtime.deadline import Deadline
from goplugins.testing import ManualClock


def test_nested_blocks_only_shorten_the_deadline():
    clock = ManualClock()
    with deadline(5.0, clock=clock):
        assert Deadline.after(60.0, clock).remaining() == 5.0
        with deadline(60.0, clock=clock) as inner:
            assert inner.remaining() == 5.0
        with deadline(1.0, clock=clock):
            assert Deadline.after(60.0, clock).remaining() == 1.0
        assert Deadline.after(60.0, clock).remaining() == 5.0
    assert Deadline.after(60.0, clock).remaining() == 60.0


def on_a_thread(function):
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result(5)


def test_a_copied_context_inherits_the_end_and_not_the_duration():
    clock = ManualClock()
    with deadline(5.0, clock=clock):
        context = contextvars.copy_context()
    clock.advance(4.0)
    assert on_a_thread(lambda: context.run(lambda: Deadline.after(60.0, clock).remaining())) == 1.0


def test_a_block_that_was_lost_by_an_interrupt_bounds_nothing():
    clock = ManualClock()
    with deadline(9.0, clock=clock):
        lost = deadline(5.0, clock=clock)
        lost.__enter__()
        assert Deadline.after(60.0, clock).remaining() == 5.0
        del lost
        for _ in range(2):
            assert Deadline.after(60.0, clock).remaining() == 9.0


def test_a_block_that_was_lost_by_an_interrupt_is_not_copied_to_workers():
    clock = ManualClock()

    def in_a_context_of_its_own():
        lost = deadline(5.0, clock=clock)
        lost.__enter__()
        del lost
        assert Deadline.after(60.0, clock).remaining() == 60.0
        copied = contextvars.copy_context()
        assert on_a_thread(lambda: copied.run(lambda: Deadline.after(60.0, clock).remaining())) == 60.0

    contextvars.copy_context().run(in_a_context_of_its_own)


def test_a_block_is_entered_once():
    block = deadline(1.0)
    with block, pytest.raises(InvalidArgumentError) as caught:
        block.__enter__()
    assert caught.value.message == "deadline: a block can be entered once; make another one"


def test_a_block_is_over_at_its_end_although_it_is_still_referenced():
    clock = ManualClock()
    kept = deadline(1.0, clock=clock)
    with kept:
        pass
    assert Deadline.after(60.0, clock).remaining() == 60.0


def test_the_block_ends_with_an_error_inside():
    clock = ManualClock()
    with pytest.raises(RuntimeError), deadline(1.0, clock=clock):
        raise RuntimeError
    assert Deadline.after(60.0, clock).remaining() == 60.0


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), True, "2", None])
def test_a_time_that_is_not_positive_is_refused(seconds):
    with pytest.raises(InvalidArgumentError, match="greater than 0"), deadline(seconds):
        pass
