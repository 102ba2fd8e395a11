from __future__ import annotations

import threading

import pytest

from goplugins.config.plugin_sections import RateLimitConfig
from goplugins.errors import InvalidConfigError, PluginClosedError, RateLimitExceededError
from goplugins.resilience import RateLimiter
from goplugins.runtime.deadline import Deadline
from goplugins.testing import ManualClock


def make(clock, rate=10.0, burst=2, **fields):
    config = RateLimitConfig(enabled=True, requests_per_second=rate, burst_size=burst, **fields)
    return RateLimiter(config, clock=clock, name="auth")


class Caller(threading.Thread):
    """Acquires on a thread of its own and keeps what came of it."""

    def __init__(self, limiter, order, **arguments):
        super().__init__(daemon=True)
        self.limiter, self.order, self.arguments = limiter, order, arguments
        self.error: BaseException | None = None
        self.start()

    def run(self):
        try:
            self.limiter.acquire(**self.arguments)
            self.order.append(self)
        except BaseException as exc:
            self.error = exc


@pytest.fixture
def clock():
    return ManualClock(start=1e6)


@pytest.fixture
def stepped():
    return ManualClock(start=1e6, auto_advance=False)


def queue_up(limiter, clock, count, **arguments):
    order: list[Caller] = []
    callers = []
    for number in range(count):
        callers.append(Caller(limiter, order, **({"max_wait": 1e9} | arguments)))
        clock.wait_for_waiters(number + 1)
    return callers, order


def finish(*callers):
    for caller in callers:
        caller.join(10)
        assert not caller.is_alive()


def test_burst_then_rate(clock):
    limiter = make(clock, rate=10, burst=20)
    assert sum(limiter.allow() for _ in range(100)) == 20
    clock.advance(1.0)
    assert sum(limiter.allow() for _ in range(100)) == 10
    clock.advance(1000.0)
    assert sum(limiter.allow() for _ in range(100)) == 20, "never more than the burst"


def test_known_fault_time_window_unused(clock):
    limiter = make(clock, rate=10, burst=20, time_window=60.0)
    assert sum(limiter.allow() for _ in range(30)) == 20
    clock.advance(60.0)
    assert sum(limiter.allow() for _ in range(30)) == 10


def test_refill_is_fractional_and_does_not_drift(clock):
    limiter = make(clock, rate=3.0, burst=100)
    while limiter.allow():
        pass
    admitted = 0
    for _ in range(100_000):
        clock.advance(0.01)  # 0.03 tokens each: whole numbers only would never add up
        admitted += limiter.allow()
    assert admitted + limiter.tokens == pytest.approx(3000.0, abs=1e-3)


def test_refusal_says_when_a_token_is_free_and_that_is_true(clock):
    limiter = make(clock, rate=3.0, burst=1)
    limiter.acquire()
    with pytest.raises(RateLimitExceededError, match="plugin 'auth': rate limit") as refusal:
        limiter.acquire()
    assert refusal.value.retry_after == pytest.approx(1 / 3)
    clock.advance(refusal.value.retry_after)
    limiter.acquire()


def test_max_wait_is_0_by_default_and_comes_from_the_config(clock):
    with pytest.raises(RateLimitExceededError):
        empty(clock).acquire()
    assert clock.monotonic() == 1e6
    empty(clock, max_wait=0.5).acquire()
    assert clock.monotonic() == pytest.approx(1e6 + 0.1)


def empty(clock, **fields):
    limiter = make(clock, burst=1, **fields)
    limiter.acquire()
    return limiter


def test_a_token_after_the_deadline_is_refused_at_once(clock):
    limiter = empty(clock)
    before = limiter.tokens
    with pytest.raises(RateLimitExceededError):
        limiter.acquire(Deadline.after(0.05, clock), max_wait=10.0)
    assert clock.monotonic() == 1e6
    assert limiter.tokens == before
    limiter.acquire(Deadline.after(0.2, clock), max_wait=10.0)


def test_a_token_at_the_very_deadline_is_too_late(clock):
    limiter = empty(clock, rate=1.0)
    with pytest.raises(RateLimitExceededError):
        limiter.acquire(Deadline(clock.monotonic() + 1.0, clock), max_wait=10.0)
    limiter.acquire(Deadline(clock.monotonic() + 1.001, clock), max_wait=10.0)


def test_disabled_admits_all(clock):
    limiter = RateLimiter(RateLimitConfig(enabled=False, requests_per_second=1.0, burst_size=1), clock=clock)
    assert all(limiter.allow() for _ in range(100))
    for _ in range(100):
        limiter.acquire()
    assert clock.monotonic() == 1e6


def test_a_limiter_made_by_hand_is_on_though_a_configuration_has_it_off_by_default(clock):
    limiter = RateLimiter(RateLimitConfig(requests_per_second=5, burst_size=1), clock=clock)
    assert [limiter.allow() for _ in range(3)] == [True, False, False]


@pytest.mark.parametrize(
    "fields", [{"rate": 0}, {"rate": -1}, {"burst": 0}, {"time_window": 0.0}, {"rate": float("nan")}]
)
def test_a_bucket_that_could_never_fill_is_refused(clock, fields):
    with pytest.raises(InvalidConfigError):
        make(clock, **fields)


def test_waiters_are_served_in_the_order_in_which_they_came(stepped):
    limiter = empty(stepped, rate=1.0)
    callers, order = queue_up(limiter, stepped, 5)
    for served in range(1, 6):
        stepped.advance(1.0)
        finish(callers[served - 1])
        assert order == callers[:served]


def test_allow_never_overtakes_a_reservation(stepped):
    limiter = empty(stepped, rate=1.0)
    callers, _ = queue_up(limiter, stepped, 2)
    stepped.advance(1.5)
    finish(callers[0])
    assert not limiter.allow()
    stepped.advance(1.0)  # the second one's token is there, and half of the next
    assert not limiter.allow()
    finish(callers[1])
    stepped.advance(0.5)
    assert limiter.allow()


def test_a_closing_plugin_wakes_its_waiters_and_their_tokens_go_back(stepped):
    limiter = empty(stepped, rate=1.0)
    closing = threading.Event()
    callers, _ = queue_up(limiter, stepped, 3, closing=closing)
    closing.set()
    limiter.wake()
    finish(*callers)
    assert all(isinstance(caller.error, PluginClosedError) for caller in callers)
    assert limiter.tokens == 0.0


def test_who_leaves_the_queue_lets_the_others_move_up(stepped):
    limiter = empty(stepped, rate=1.0)
    closing = threading.Event()
    order: list[Caller] = []
    first = Caller(limiter, order, max_wait=100.0)
    stepped.wait_for_waiters(1)
    leaves = Caller(limiter, order, max_wait=100.0, closing=closing)
    stepped.wait_for_waiters(2)
    last = Caller(limiter, order, max_wait=100.0)
    stepped.wait_for_waiters(3)
    closing.set()
    limiter.wake()
    finish(leaves)
    stepped.wait_for_waiters(2)
    stepped.advance(1.0)
    finish(first)
    assert order == [first]
    stepped.advance(1.0)
    finish(last)
    assert limiter.tokens == 0.0


class _Interrupting(ManualClock):
    def wait(self, waiter, timeout):
        raise KeyboardInterrupt


def test_an_interrupted_wait_refunds():
    clock = _Interrupting()
    limiter = empty(clock)
    with pytest.raises(KeyboardInterrupt):
        limiter.acquire(max_wait=10.0)
    assert limiter.tokens == 0.0
    clock.advance(0.1)
    assert limiter.allow()


def test_who_wakes_the_others_meets_no_lock_that_an_interrupt_left():
    """A signal handler that raises within an Event's wait can leave its lock held."""

    class Strangling(ManualClock):
        def wait(self, waiter, timeout):
            lock = getattr(waiter, "_cond", None)
            if lock is not None:
                lock.acquire()
            other = threading.Thread(target=limiter.wake, daemon=True)
            other.start()
            other.join(2)
            hung.append(other.is_alive())
            raise KeyboardInterrupt

    hung: list[bool] = []
    limiter = empty(Strangling())
    with pytest.raises(KeyboardInterrupt):
        limiter.acquire(max_wait=10.0)
    assert hung == [False]


def test_refund_gives_a_token_back_but_no_more_than_the_burst(clock):
    limiter = make(clock, burst=2)
    limiter.acquire()
    limiter.refund()
    limiter.refund()
    assert limiter.tokens == 2.0


def test_a_refund_serves_the_first_waiter(stepped):
    limiter = empty(stepped, rate=1.0)
    callers, order = queue_up(limiter, stepped, 2)
    limiter.refund()
    finish(callers[0])
    assert order == callers[:1]
    stepped.advance(1.0)
    finish(callers[1])


def test_a_change_of_rate_retimes_the_waiters(stepped):
    limiter = empty(stepped, rate=1.0)
    callers, order = queue_up(limiter, stepped, 4)
    stepped.advance(0.5)  # half of the first one's token has come
    limiter.set_rate(RateLimitConfig(enabled=True, requests_per_second=10.0, burst_size=1))
    stepped.advance(0.05)
    finish(callers[0])
    stepped.advance(0.3)
    finish(*callers)
    assert order[0] is callers[0]
    assert limiter.tokens == pytest.approx(0.0, abs=1e-6), "none lost, none minted"


def test_a_slower_rate_refuses_the_waiters_whose_time_it_breaks(stepped):
    limiter = empty(stepped, rate=10.0)
    (early,), _ = queue_up(limiter, stepped, 1)
    order: list[Caller] = []
    late = Caller(limiter, order, deadline=Deadline.after(1.0, stepped), max_wait=10.0)
    stepped.wait_for_waiters(2)
    limiter.set_rate(RateLimitConfig(enabled=True, requests_per_second=1.0, burst_size=1))
    finish(late)
    assert isinstance(late.error, RateLimitExceededError)
    assert late.error.retry_after == pytest.approx(2.0)
    stepped.advance(1.0)
    finish(early)
    assert limiter.tokens == pytest.approx(0.0, abs=1e-6)


def test_switching_the_limit_off_lets_the_waiters_go(stepped):
    limiter = empty(stepped, rate=0.001)
    callers, _ = queue_up(limiter, stepped, 3)
    limiter.set_rate(RateLimitConfig(enabled=False))
    finish(*callers)
    assert all(caller.error is None for caller in callers)


def test_a_refused_change_of_rate_changes_nothing(clock):
    limiter = make(clock, rate=10.0, burst=2)
    with pytest.raises(InvalidConfigError):
        limiter.set_rate(RateLimitConfig(enabled=True, requests_per_second=-1.0, burst_size=50))
    assert sum(limiter.allow() for _ in range(10)) == 2
    clock.advance(0.1)
    assert limiter.allow()


def test_threads_together_get_no_more_than_there_is(clock):
    limiter = make(clock, rate=1.0, burst=1000)
    admitted = []
    start = threading.Barrier(16)

    def take():
        start.wait()
        admitted.append(sum(limiter.allow() for _ in range(500)))

    threads = [threading.Thread(target=take) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(admitted) == 1000


def test_after_a_fork_the_parents_reservations_are_not_the_childs(stepped):
    limiter = empty(stepped, rate=1.0)
    callers, _ = queue_up(limiter, stepped, 3)
    limiter.after_fork_in_child()
    assert limiter.tokens == 0.0
    stepped.advance(10.0)
    finish(*callers)
