from __future__ import annotations

import threading

import pytest

from goplugins.config import BulkheadConfig
from goplugins.errors import (
    BulkheadFullError,
    InvalidConfigError,
    PluginClosedError,
    PluginThrottledError,
    PluginTimeoutError,
    Replay,
    SaturatedError,
    Verdict,
)
from goplugins.resilience import Bulkhead
from goplugins.resilience.bulkhead import load_signal
from goplugins.runtime.deadline import Deadline
from goplugins.testing import ManualClock
from tests.processes import in_child, run


def make(most: int = 1, waiting: int = 0, clock: ManualClock | None = None, **more) -> Bulkhead:
    config = BulkheadConfig(max_concurrent=most, max_waiting=waiting, **more)
    return Bulkhead(config, clock=clock or ManualClock(auto_advance=False), name="geo")


def until(condition) -> None:
    for _ in range(5000):
        if condition():
            return
        threading.Event().wait(0.001)
    raise AssertionError("it did not come to pass")


class Caller:
    """A call of another thread: in the queue, inside until it is let go, or refused."""

    def __init__(self, bulkhead: Bulkhead, deadline: float | None = None, closing: threading.Event | None = None):
        self.bulkhead, self.closing = bulkhead, closing
        self.deadline = None if deadline is None else Deadline(bulkhead.clock.monotonic() + deadline, bulkhead.clock)
        self.inside, self.go, self.error = threading.Event(), threading.Event(), None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        try:
            with self.bulkhead.acquire(self.deadline, closing=self.closing):
                self.inside.set()
                self.go.wait(10)
        except Exception as error:
            self.error = error

    def end(self):
        self.go.set()
        self.thread.join(10)
        return self.error


def queued(bulkhead: Bulkhead, count: int, **more) -> list[Caller]:
    """Callers in the queue, in their order."""
    callers = []
    before = bulkhead.waiting
    for number in range(1, count + 1):
        callers.append(Caller(bulkhead, **more))
        until(lambda number=number: bulkhead.waiting == before + number)
    return callers


# --- limits --------------------------------------------------------------------------------------------------------


def test_admits_as_many_as_it_says_and_no_more():
    bulkhead = make(3)
    places = [bulkhead.acquire() for _ in range(3)]
    assert (bulkhead.limit, bulkhead.in_use) == (3, 3)
    with pytest.raises(BulkheadFullError):
        bulkhead.acquire()
    bulkhead.release(places.pop())
    places.append(bulkhead.acquire())
    assert (bulkhead.in_use, bulkhead.refused) == (3, 1)
    for place in places:
        bulkhead.release(place)
    assert bulkhead.in_use == 0


def test_a_refusal_says_how_full_it_is_and_is_nobodys_fault():
    bulkhead = make(2, waiting=1)
    held = [bulkhead.acquire(), bulkhead.acquire()]
    (waiter,) = queued(bulkhead, 1)
    with pytest.raises(SaturatedError, match=r"limit of 2 calls at once is reached, and 1 wait already") as info:
        bulkhead.acquire()
    error = info.value
    assert type(error) is BulkheadFullError
    assert (error.code, error.plugin) == ("PLUGIN_1218", "geo")
    assert error.details == {"limit": 2, "in_use": 2, "waiting": 1}
    assert (error.retryable, error.replay, error.verdict) == (True, Replay.NEVER, Verdict.IGNORED)
    assert bulkhead.is_full
    bulkhead.release(held[0])
    assert waiter.end() is None
    assert not bulkhead.is_full


def test_a_place_is_given_back_once():
    bulkhead = make(1)
    place = bulkhead.acquire()
    bulkhead.release(place)
    other = bulkhead.acquire()
    bulkhead.release(place)
    assert bulkhead.in_use == 1
    bulkhead.release(other)
    assert bulkhead.in_use == 0


def test_a_block_gives_its_place_back_however_it_ends():
    bulkhead = make(1)
    with bulkhead.acquire():
        assert bulkhead.in_use == 1
    for error in (KeyError, KeyboardInterrupt):
        with pytest.raises(error), bulkhead.acquire():
            raise error
    assert bulkhead.in_use == 0


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"max_concurrent": 0},
        {"max_concurrent": 2, "adaptive": True, "min_concurrent": 3},
        {"max_concurrent": 2, "adaptive": True, "min_concurrent": 0},
        {"max_concurrent": 2, "max_waiting": -1},
        {"max_concurrent": 2, "max_wait": -1.0},
        {"max_concurrent": 2, "max_wait": float("nan")},
    ],
)
def test_what_can_not_be_a_limit_is_refused(settings):
    with pytest.raises(InvalidConfigError):
        Bulkhead(BulkheadConfig(**settings))


# --- waiting -------------------------------------------------------------------------------------------------------


def test_waiters_are_served_in_the_order_in_which_they_came():
    bulkhead = make(1, waiting=4)
    held = bulkhead.acquire()
    callers = queued(bulkhead, 4)
    bulkhead.release(held)
    for number, caller in enumerate(callers):
        assert caller.inside.wait(10)
        assert [later.inside.is_set() for later in callers[number + 1 :]] == [False] * (3 - number)
        caller.end()
    assert (bulkhead.in_use, bulkhead.waiting, bulkhead.refused) == (0, 0, 0)


def test_nobody_waits_longer_than_max_wait():
    clock = ManualClock()
    bulkhead = make(1, waiting=1, clock=clock, max_wait=2.0)
    held = bulkhead.acquire()
    with pytest.raises(BulkheadFullError, match="no slot became free in time") as info:
        bulkhead.acquire(Deadline(60.0, clock))
    assert clock.monotonic() == 2.0
    assert info.value.details == {"limit": 1, "in_use": 1, "waiting": 0}
    assert bulkhead.refused == 1
    bulkhead.release(held)


def test_nobody_waits_past_the_deadline():
    clock = ManualClock()
    bulkhead = make(1, waiting=1, clock=clock, max_wait=60.0)
    held = bulkhead.acquire()
    with pytest.raises(BulkheadFullError):
        bulkhead.acquire(Deadline(0.75, clock))
    with pytest.raises(BulkheadFullError):
        bulkhead.acquire(Deadline(0.5, clock))
    assert clock.monotonic() == 0.75
    bulkhead.release(held)
    bulkhead.acquire(Deadline(0.5, clock))


def test_without_max_wait_it_waits_until_the_deadline():
    clock = ManualClock()
    bulkhead = make(1, waiting=1, clock=clock)
    held = bulkhead.acquire()
    with pytest.raises(BulkheadFullError):
        bulkhead.acquire(Deadline(30.0, clock))
    assert clock.monotonic() == 30.0
    bulkhead.release(held)


def test_who_gave_up_waiting_gets_nothing():
    clock = ManualClock(auto_advance=False)
    bulkhead = make(1, waiting=2, clock=clock)
    held = bulkhead.acquire()
    (impatient,) = queued(bulkhead, 1, deadline=1.0)
    (patient,) = queued(bulkhead, 1, deadline=9.0)
    clock.advance(1.0)
    assert isinstance(impatient.end(), BulkheadFullError)
    bulkhead.release(held)
    assert patient.inside.wait(10)
    assert patient.end() is None


def test_a_place_handed_over_in_the_moment_of_giving_up_is_used():
    class Late(ManualClock):
        def wait(self, waiter, timeout):
            self.advance(timeout)
            bulkhead.release(held)
            return False

    clock = Late()
    bulkhead = make(1, waiting=1, clock=clock)
    held = bulkhead.acquire()
    with bulkhead.acquire(Deadline(0.25, clock)):
        assert bulkhead.in_use == 1
    assert bulkhead.in_use == 0


def test_a_newcomer_does_not_overtake():
    bulkhead = make(1, waiting=1)
    held = bulkhead.acquire()
    (waiter,) = queued(bulkhead, 1)
    bulkhead.release(held)
    with pytest.raises(BulkheadFullError):
        bulkhead.acquire(Deadline(0.0, bulkhead.clock))  # the place is the waiter's, awake or not
    assert waiter.inside.wait(10)
    assert waiter.end() is None


# --- closing -------------------------------------------------------------------------------------------------------


def test_close_refuses_newcomers_and_waiters_and_leaves_those_inside_alone():
    bulkhead = make(1, waiting=2)
    held = bulkhead.acquire()
    callers = queued(bulkhead, 2)
    bulkhead.close()
    for caller in callers:
        assert isinstance(caller.end(), PluginClosedError)
    with pytest.raises(PluginClosedError, match="geo"):
        bulkhead.acquire()
    assert bulkhead.in_use == 1
    bulkhead.release(held)
    assert (bulkhead.in_use, bulkhead.limit, bulkhead.refused) == (0, 0, 0)
    with pytest.raises(PluginClosedError):
        bulkhead.acquire()
    bulkhead.close()


def test_the_closing_event_of_a_plugin_that_closes_ends_the_wait():
    bulkhead = make(1, waiting=1)
    closing = threading.Event()
    held = bulkhead.acquire()
    (caller,) = queued(bulkhead, 1, closing=closing)
    closing.set()
    bulkhead.wake()
    assert isinstance(caller.end(), PluginClosedError)
    assert bulkhead.waiting == 0
    bulkhead.release(held)


def test_a_closed_adaptive_bulkhead_stays_closed():
    bulkhead = make(2, adaptive=True)
    place = bulkhead.acquire()
    bulkhead.close()
    bulkhead.release(place, 0.1, True)
    with pytest.raises(PluginClosedError):
        bulkhead.acquire()
    bulkhead.configure(BulkheadConfig(max_concurrent=5))
    with pytest.raises(PluginClosedError):
        bulkhead.acquire()


def test_places_that_were_free_are_closed_too():
    bulkhead = make(2)
    bulkhead.release(bulkhead.acquire())
    bulkhead.close()
    with pytest.raises(PluginClosedError):
        bulkhead.acquire()


# --- another configuration -----------------------------------------------------------------------------------------


def test_a_higher_limit_lets_waiters_in_at_once():
    bulkhead = make(1, waiting=2)
    held = bulkhead.acquire()
    callers = queued(bulkhead, 2)
    bulkhead.configure(BulkheadConfig(max_concurrent=3, max_waiting=2))
    for caller in callers:
        assert caller.inside.wait(10)
        caller.end()
    bulkhead.release(held)
    assert (bulkhead.limit, bulkhead.in_use) == (3, 0)


def test_a_lower_limit_throws_nobody_out_and_holds_from_then_on():
    bulkhead = make(4)
    places = [bulkhead.acquire() for _ in range(4)]
    bulkhead.configure(BulkheadConfig(max_concurrent=2))
    assert bulkhead.in_use == 4
    for _ in range(2):
        bulkhead.release(places.pop())
        with pytest.raises(BulkheadFullError):
            bulkhead.acquire()
    bulkhead.release(places.pop())
    places.append(bulkhead.acquire())
    with pytest.raises(BulkheadFullError):
        bulkhead.acquire()


def test_a_lower_limit_also_holds_for_places_that_were_free():
    bulkhead = make(4)
    for place in [bulkhead.acquire() for _ in range(4)]:
        bulkhead.release(place)
    bulkhead.configure(BulkheadConfig(max_concurrent=1))
    held = bulkhead.acquire()
    with pytest.raises(BulkheadFullError):
        bulkhead.acquire()
    bulkhead.configure(BulkheadConfig(max_concurrent=2))
    bulkhead.release(held)
    assert len([bulkhead.acquire(), bulkhead.acquire()]) == bulkhead.in_use == 2


def test_a_wrong_configuration_changes_nothing():
    bulkhead = make(2)
    with pytest.raises(InvalidConfigError):
        bulkhead.configure(BulkheadConfig(max_concurrent=0))
    assert bulkhead.limit == 2
    bulkhead.acquire()


def test_what_an_adaptive_limit_has_learned_survives_a_change_of_its_bounds():
    clock = ManualClock()
    bulkhead = make(8, clock=clock, adaptive=True)
    for _ in range(40):
        place = bulkhead.acquire()
        clock.advance(1.0)
        bulkhead.release(place, 1.0, False)
    learned = bulkhead.limit
    assert learned < 8
    bulkhead.configure(BulkheadConfig(max_concurrent=20, adaptive=True))
    assert bulkhead.limit == learned
    bulkhead.configure(BulkheadConfig(max_concurrent=20, adaptive=True, min_concurrent=10))
    assert bulkhead.limit == 10
    bulkhead.configure(BulkheadConfig(max_concurrent=20))
    assert bulkhead.limit == 20


# --- what a call says of the load ----------------------------------------------------------------------------------


def test_only_answers_and_overload_say_something_of_the_load():
    assert load_signal(None) is True
    assert load_signal(PluginTimeoutError()) is False
    assert load_signal(PluginThrottledError()) is False
    assert load_signal(KeyboardInterrupt()) is None
    assert load_signal(ValueError()) is None


def test_an_adaptive_bulkhead_follows_overload_down():
    clock = ManualClock()
    bulkhead = make(8, clock=clock, adaptive=True, min_concurrent=2)
    for _ in range(200):
        place = bulkhead.acquire()
        clock.advance(1.0)
        bulkhead.release(place, 1.0, load_signal(PluginTimeoutError()))
    assert bulkhead.limit == 2
    places = [bulkhead.acquire(), bulkhead.acquire()]
    with pytest.raises(BulkheadFullError):
        bulkhead.acquire()
    assert len(places) == 2


# --- forks ---------------------------------------------------------------------------------------------------------


def test_after_a_fork_nobody_is_inside_and_the_parents_places_count_for_nothing():
    bulkhead = make(2, waiting=1)
    places = [bulkhead.acquire(), bulkhead.acquire()]
    (waiter,) = queued(bulkhead, 1, deadline=5.0)
    bulkhead.after_fork_in_child()
    assert (bulkhead.in_use, bulkhead.waiting) == (0, 0)
    own = [bulkhead.acquire(), bulkhead.acquire()]
    bulkhead.release(places[0])
    del places
    with pytest.raises(BulkheadFullError):
        bulkhead.acquire(Deadline(0.0, bulkhead.clock))
    assert bulkhead.in_use == len(own)
    waiter.bulkhead.clock.advance(5.0)
    waiter.end()


def fork_with_a_permit():
    bulkhead = make(1)
    permit = bulkhead.acquire()

    def child():
        bulkhead.release(permit)
        bulkhead.acquire()  # nothing refers to this permit, so it is returned at once
        return bulkhead.in_use

    found = in_child(child)
    before = bulkhead.in_use
    bulkhead.release(permit)
    return found, before, bulkhead.in_use


def test_a_fork_renews_the_bulkhead():
    assert run(fork_with_a_permit) == [0, 1, 0]
