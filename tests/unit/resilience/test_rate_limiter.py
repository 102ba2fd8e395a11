"""RateLimiter: tokens, reservations, refunds, changes of the rate, cancelled attempts, forks."""

from __future__ import annotations

import threading

import pytest

from goplugins.config import RateLimitConfig
from goplugins.errors import InvalidConfigError, PluginClosedError, RateLimitExceededError
from goplugins.resilience import RateLimiter
from goplugins.runtime.cancellation import AttemptCancelledError, Cancellation
from goplugins.runtime.deadline import CancellableDeadline, Deadline
from goplugins.testing import ManualClock


@pytest.fixture
def clock():
    return ManualClock(start=1024.0)


@pytest.fixture
def stepped():
    return ManualClock(start=1024.0, auto_advance=False)


def config(rate, burst=1, **fields):
    return RateLimitConfig(enabled=True, requests_per_second=rate, burst_size=burst, **fields)


def make(clock, rate=10.0, burst=2, name="auth", **fields):
    return RateLimiter(config(rate, burst, **fields), clock=clock, name=name)


def empty(clock, rate=10.0, **fields):
    """A limiter whose only token is taken."""
    limiter = make(clock, rate, 1, **fields)
    limiter.acquire()
    return limiter


class Caller(threading.Thread):
    """Acquires a token on a thread of its own, which waits when the constructor returns."""

    def __init__(self, limiter, clock, order=None, **arguments):
        super().__init__(daemon=True)
        self.limiter, self.arguments = limiter, {"max_wait": 1e9} | arguments
        self.order = [] if order is None else order
        self.error: BaseException | None = None
        before = clock.waiters
        self.start()
        clock.wait_for_waiters(before + 1)

    def run(self):
        try:
            self.limiter.acquire(**self.arguments)
            self.order.append(self)
        except BaseException as exc:
            self.error = exc

    def result(self):
        self.join(10)
        assert not self.is_alive()
        return self.error


def queue_up(limiter, clock, count, **arguments):
    order: list[Caller] = []
    return [Caller(limiter, clock, order, **arguments) for _ in range(count)], order


def finish(*callers):
    for caller in callers:
        caller.result()


# --- tokens ----------------------------------------------------------------------------------------------------------


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


def test_the_refill_is_fractional_and_does_not_drift(clock):
    limiter = make(clock, rate=3.0, burst=100)
    while limiter.allow():
        pass
    admitted = 0
    for _ in range(100_000):
        clock.advance(0.01)  # 0.03 tokens each time
        admitted += limiter.allow()
    assert admitted + limiter.tokens == pytest.approx(3000.0, abs=1e-3)


def test_a_refusal_has_the_time_of_the_next_token(clock):
    limiter = make(clock, rate=3.0, burst=1)
    limiter.acquire()
    with pytest.raises(RateLimitExceededError, match="plugin 'auth': rate limit") as refusal:
        limiter.acquire()
    assert refusal.value.retry_after == pytest.approx(1 / 3)
    clock.advance(refusal.value.retry_after)
    limiter.acquire()


def test_half_a_token_in_the_bucket_halves_the_wait(clock):
    limiter = make(clock, 4.0, 1)
    limiter.acquire()
    clock.advance(0.125)
    with pytest.raises(RateLimitExceededError) as caught:
        limiter.acquire()
    assert caught.value.retry_after == 0.125


@pytest.mark.parametrize(("name", "plugin"), [("auth", "auth"), ("", None)])
def test_a_refusal_names_limit_and_plugin(clock, name, plugin):
    limiter = empty(clock, 4.0, name=name)
    with pytest.raises(RateLimitExceededError) as caught:
        limiter.acquire()
    assert caught.value.plugin == plugin
    assert caught.value.message == "rate limit of 4 calls per second reached, a token is free in 0.250 s"


def test_disabled_admits_all(clock):
    limiter = RateLimiter(RateLimitConfig(enabled=False, requests_per_second=1.0, burst_size=1), clock=clock)
    assert all(limiter.allow() for _ in range(100))
    for _ in range(100):
        limiter.acquire()
    assert clock.monotonic() == 1024.0


def test_a_limiter_is_enabled_unless_its_configuration_disables_it(clock):
    limiter = RateLimiter(RateLimitConfig(requests_per_second=5, burst_size=1), clock=clock)
    assert [limiter.allow() for _ in range(3)] == [True, False, False]


@pytest.mark.parametrize(
    "fields", [{"rate": 0}, {"rate": -1}, {"burst": 0}, {"time_window": 0.0}, {"rate": float("nan")}]
)
def test_a_configuration_out_of_range_is_refused(clock, fields):
    with pytest.raises(InvalidConfigError):
        make(clock, **fields)


def test_many_threads_get_no_more_tokens_than_there_are(clock):
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


# --- waiting ---------------------------------------------------------------------------------------------------------


def test_max_wait_of_the_configuration(clock):
    with pytest.raises(RateLimitExceededError):
        empty(clock).acquire()
    assert clock.monotonic() == 1024.0
    empty(clock, max_wait=0.5).acquire()
    assert clock.monotonic() == pytest.approx(1024.0 + 0.1)


def test_a_wait_of_exactly_max_wait_is_allowed(clock):
    limiter = make(clock, 4.0, 1)
    limiter.acquire()
    limiter.acquire(max_wait=0.25)
    assert clock.monotonic() == 1024.25
    with pytest.raises(RateLimitExceededError):
        limiter.acquire(max_wait=0.2499)


def test_a_token_due_after_the_deadline_is_refused_at_once(clock):
    limiter = empty(clock)
    before = limiter.tokens
    with pytest.raises(RateLimitExceededError):
        limiter.acquire(Deadline.after(0.05, clock), max_wait=10.0)
    assert clock.monotonic() == 1024.0
    assert limiter.tokens == before
    limiter.acquire(Deadline.after(0.2, clock), max_wait=10.0)


def test_a_token_due_at_the_deadline_is_refused(clock):
    limiter = empty(clock, rate=1.0)
    with pytest.raises(RateLimitExceededError):
        limiter.acquire(Deadline(clock.monotonic() + 1.0, clock), max_wait=10.0)
    limiter.acquire(Deadline(clock.monotonic() + 1.001, clock), max_wait=10.0)


def test_waiting_calls_get_tokens_in_order(stepped):
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
    stepped.advance(1.0)  # the second token is there, and half of the third
    assert not limiter.allow()
    finish(callers[1])
    stepped.advance(0.5)
    assert limiter.allow()


def test_a_used_reservation_is_not_returned_after_a_fork(stepped):
    limiter = make(stepped, 1.0, 1)
    limiter.acquire()
    caller = Caller(limiter, stepped)
    stepped.advance(1.0)
    assert caller.result() is None
    assert limiter.tokens == 0.0
    limiter.after_fork_in_child()
    assert limiter.tokens == 0.0, "only reserved tokens are returned"


# --- interrupted and closed waits ------------------------------------------------------------------------------------


def test_closing_the_plugin_ends_all_waits_and_returns_their_tokens(stepped):
    limiter = empty(stepped, rate=1.0)
    closing = threading.Event()
    callers, _ = queue_up(limiter, stepped, 3, closing=closing)
    closing.set()
    limiter.wake()
    finish(*callers)
    assert all(isinstance(caller.error, PluginClosedError) for caller in callers)
    assert limiter.tokens == 0.0


@pytest.mark.parametrize(("name", "expected"), [("auth", "auth"), ("", None)])
def test_a_wait_ended_by_closing_raises_plugin_closed(stepped, name, expected):
    limiter, closing = make(stepped, 1.0, 1, name=name), threading.Event()
    limiter.acquire()
    caller = Caller(limiter, stepped, closing=closing)
    closing.set()
    limiter.wake()
    error = caller.result()
    assert isinstance(error, PluginClosedError)
    assert error.message == "it was closed while the call waited for the rate limit"
    assert error.plugin == expected


def test_a_call_that_leaves_the_queue_moves_later_calls_up(stepped):
    limiter = empty(stepped, rate=1.0)
    closing = threading.Event()
    order: list[Caller] = []
    first = Caller(limiter, stepped, order)
    closed = Caller(limiter, stepped, order, closing=closing)
    last = Caller(limiter, stepped, order)
    closing.set()
    limiter.wake()
    finish(closed)
    stepped.wait_for_waiters(2)
    stepped.advance(1.0)
    finish(first)
    assert order == [first]
    stepped.advance(1.0)
    finish(last)
    assert limiter.tokens == 0.0


def test_later_calls_move_up_by_one_token_at_any_rate(stepped):
    limiter, closing = make(stepped, 4.0, 1), threading.Event()
    limiter.acquire()
    closed = Caller(limiter, stepped, closing=closing)
    last = Caller(limiter, stepped)
    closing.set()
    limiter.wake()
    assert isinstance(closed.result(), PluginClosedError)
    stepped.wait_for_waiters(1)
    stepped.advance(0.125)
    assert last.is_alive()
    stepped.advance(0.125)
    assert last.result() is None


class InterruptingClock(ManualClock):
    def wait(self, waiter, timeout):
        raise KeyboardInterrupt


def test_an_interrupted_wait_returns_its_token():
    clock = InterruptingClock()
    limiter = empty(clock)
    with pytest.raises(KeyboardInterrupt):
        limiter.acquire(max_wait=10.0)
    assert limiter.tokens == 0.0
    clock.advance(0.1)
    assert limiter.allow()


def test_a_cancelled_attempt_stops_waiting(stepped):
    limiter, cancellation = make(stepped, 1.0, 1), Cancellation()
    limiter.acquire()
    cancelled = Caller(limiter, stepped, deadline=CancellableDeadline(2000.0, stepped, cancellation))
    behind = Caller(limiter, stepped)
    cancellation.cancel()
    assert isinstance(cancelled.result(), AttemptCancelledError)
    stepped.advance(1.0)
    assert behind.result() is None
    assert limiter.tokens == 0.0


def test_an_attempt_that_is_not_cancelled_gets_its_token(stepped):
    limiter = make(stepped, 1.0, 1)
    limiter.acquire()
    caller = Caller(limiter, stepped, deadline=CancellableDeadline(2000.0, stepped, Cancellation()))
    stepped.advance(1.0)
    assert caller.result() is None
    assert limiter.tokens == 0.0


# --- refunds ---------------------------------------------------------------------------------------------------------


def test_refunds_are_capped_by_the_burst(clock):
    limiter = make(clock, burst=2)
    limiter.acquire()
    limiter.refund()
    limiter.refund()
    assert limiter.tokens == 2.0


def test_a_refund_serves_the_first_waiting_call(stepped):
    limiter = empty(stepped, rate=1.0)
    callers, order = queue_up(limiter, stepped, 2)
    limiter.refund()
    finish(callers[0])
    assert order == callers[:1]
    stepped.advance(1.0)
    finish(callers[1])


# --- changes of the rate ---------------------------------------------------------------------------------------------


def test_a_change_of_the_rate_changes_due_times(stepped):
    limiter = empty(stepped, rate=1.0)
    callers, order = queue_up(limiter, stepped, 4)
    stepped.advance(0.5)  # half of the first token
    limiter.set_rate(config(10.0))
    stepped.advance(0.05)
    finish(callers[0])
    stepped.advance(0.3)
    finish(*callers)
    assert order[0] is callers[0]
    assert limiter.tokens == pytest.approx(0.0, abs=1e-6), "none cancellation, none minted"


def test_a_slower_rate_refuses_calls_whose_token_is_now_due_too_late(stepped):
    limiter = empty(stepped, rate=10.0)
    (early,), _ = queue_up(limiter, stepped, 1)
    late = Caller(limiter, stepped, deadline=Deadline.after(1.0, stepped), max_wait=10.0)
    limiter.set_rate(config(1.0))
    finish(late)
    assert isinstance(late.error, RateLimitExceededError)
    assert late.error.retry_after == pytest.approx(2.0)
    stepped.advance(1.0)
    finish(early)
    assert limiter.tokens == pytest.approx(0.0, abs=1e-6)


def test_a_slower_rate_refuses_the_next_call_too(stepped):
    limiter = make(stepped, 4.0, 1)
    limiter.acquire()
    caller = Caller(limiter, stepped, max_wait=0.25)
    limiter.set_rate(config(2.0))
    error = caller.result()
    assert isinstance(error, RateLimitExceededError)
    assert error.retry_after == 0.5
    assert limiter.tokens == 0.0


def test_disabling_the_limit_ends_all_waits(stepped):
    limiter = empty(stepped, rate=0.001)
    callers, _ = queue_up(limiter, stepped, 3)
    limiter.set_rate(RateLimitConfig(enabled=False))
    finish(*callers)
    assert all(caller.error is None for caller in callers)


def test_a_refused_configuration_changes_nothing(clock):
    limiter = make(clock, rate=10.0, burst=2)
    with pytest.raises(InvalidConfigError):
        limiter.set_rate(config(-1.0, 50))
    assert sum(limiter.allow() for _ in range(10)) == 2
    clock.advance(0.1)
    assert limiter.allow()


# --- forks -----------------------------------------------------------------------------------------------------------


def test_a_child_returns_the_reservations_of_its_parent(stepped):
    limiter = empty(stepped, rate=1.0)
    callers, _ = queue_up(limiter, stepped, 3)
    limiter.after_fork_in_child()
    assert limiter.tokens == 0.0
    stepped.advance(10.0)
    finish(*callers)


def test_calls_wait_in_a_child(stepped):
    limiter = make(stepped, 1.0, 1)
    limiter.acquire()
    limiter.after_fork_in_child()
    caller = Caller(limiter, stepped)
    stepped.advance(1.0)
    assert caller.result() is None
