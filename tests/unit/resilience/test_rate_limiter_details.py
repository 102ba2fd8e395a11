"""Edges of the rate limiter: exact moments, words, and what is left behind."""

from __future__ import annotations

import threading

import pytest

from goplugins.config import RateLimitConfig
from goplugins.errors import PluginClosedError, RateLimitExceededError
from goplugins.resilience import RateLimiter
from goplugins.runtime.cancellation import AttemptCancelledError, Cancellation
from goplugins.runtime.deadline import CancellableDeadline
from goplugins.testing import ManualClock


def config(rate, burst=1, **fields):
    return RateLimitConfig(enabled=True, requests_per_second=rate, burst_size=burst, **fields)


@pytest.fixture
def clock():
    return ManualClock(start=1024.0)


@pytest.fixture
def stepped():
    return ManualClock(start=1024.0, auto_advance=False)


class Caller(threading.Thread):
    def __init__(self, limiter, clock, **arguments):
        super().__init__(daemon=True)
        self.limiter, self.arguments = limiter, {"max_wait": 1e9} | arguments
        self.error = None
        before = clock.waiters
        self.start()
        clock.wait_for_waiters(before + 1)

    def run(self):
        try:
            self.limiter.acquire(**self.arguments)
        except BaseException as exc:
            self.error = exc

    def outcome(self):
        self.join(10)
        assert not self.is_alive()
        return self.error


def test_a_wait_of_exactly_the_longest_is_not_too_long(clock):
    limiter = RateLimiter(config(4.0), clock=clock)
    limiter.acquire()
    limiter.acquire(max_wait=0.25)
    assert clock.monotonic() == 1024.25
    with pytest.raises(RateLimitExceededError):
        limiter.acquire(max_wait=0.2499)


def test_a_refusal_names_the_plugin_if_there_is_a_name(clock):
    for name, expected in (("auth", "auth"), ("", None)):
        limiter = RateLimiter(config(4.0), clock=clock, name=name)
        limiter.acquire()
        with pytest.raises(RateLimitExceededError) as caught:
            limiter.acquire()
        assert caught.value.plugin == expected
        assert caught.value.message == "rate limit of 4 calls per second reached, a token is free in 0.250 s"
    limiter = RateLimiter(config(4.0), clock=clock)
    limiter.acquire()
    with pytest.raises(RateLimitExceededError) as caught:
        limiter.acquire()
    assert caught.value.plugin is None


def test_half_a_token_in_the_bucket_halves_the_wait(clock):
    limiter = RateLimiter(config(4.0), clock=clock)
    limiter.acquire()
    clock.advance(0.125)
    with pytest.raises(RateLimitExceededError) as caught:
        limiter.acquire()
    assert caught.value.retry_after == 0.125


@pytest.mark.parametrize(("name", "expected"), [("auth", "auth"), ("", None)])
def test_who_is_woken_by_a_close_learns_why(stepped, name, expected):
    limiter, closing = RateLimiter(config(1.0), clock=stepped, name=name), threading.Event()
    limiter.acquire()
    caller = Caller(limiter, stepped, closing=closing)
    closing.set()
    limiter.wake()
    error = caller.outcome()
    assert isinstance(error, PluginClosedError)
    assert error.message == "it was closed while the call waited for the rate limit"
    assert error.plugin == expected


def test_who_leaves_moves_those_behind_up_by_one_token_at_any_rate(stepped):
    limiter, closing = RateLimiter(config(4.0), clock=stepped), threading.Event()
    limiter.acquire()
    leaves = Caller(limiter, stepped, closing=closing)
    last = Caller(limiter, stepped)
    closing.set()
    limiter.wake()
    assert isinstance(leaves.outcome(), PluginClosedError)
    stepped.wait_for_waiters(1)
    stepped.advance(0.125)
    assert last.is_alive()
    stepped.advance(0.125)
    assert last.outcome() is None


def test_a_slower_rate_refuses_even_who_was_about_to_go(stepped):
    limiter = RateLimiter(config(4.0), clock=stepped)
    limiter.acquire()
    caller = Caller(limiter, stepped, max_wait=0.25)
    limiter.set_rate(config(2.0))
    error = caller.outcome()
    assert isinstance(error, RateLimitExceededError)
    assert error.retry_after == 0.5
    assert limiter.tokens == 0.0


def test_who_was_served_leaves_no_reservation(stepped):
    limiter = RateLimiter(config(1.0), clock=stepped)
    limiter.acquire()
    caller = Caller(limiter, stepped)
    stepped.advance(1.0)
    assert caller.outcome() is None
    assert limiter.tokens == 0.0
    limiter.after_fork_in_child()
    assert limiter.tokens == 0.0, "a fork gives back only what is reserved"


def test_a_childs_limiter_has_waiters_of_its_own(stepped):
    limiter = RateLimiter(config(1.0), clock=stepped)
    limiter.acquire()
    limiter.after_fork_in_child()
    caller = Caller(limiter, stepped)
    stepped.advance(1.0)
    assert caller.outcome() is None


def test_an_attempt_that_has_lost_waits_for_no_token(stepped):
    limiter, lost = RateLimiter(config(1.0), clock=stepped), Cancellation()
    limiter.acquire()
    loser = Caller(limiter, stepped, deadline=CancellableDeadline(2000.0, stepped, lost))
    behind = Caller(limiter, stepped)
    lost.cancel()
    assert isinstance(loser.outcome(), AttemptCancelledError)
    stepped.advance(1.0)
    assert behind.outcome() is None
    assert limiter.tokens == 0.0


def test_an_attempt_that_may_be_cancelled_and_is_not_gets_its_token(stepped):
    limiter = RateLimiter(config(1.0), clock=stepped)
    limiter.acquire()
    caller = Caller(limiter, stepped, deadline=CancellableDeadline(2000.0, stepped, Cancellation()))
    stepped.advance(1.0)
    assert caller.outcome() is None
    assert limiter.tokens == 0.0
