"""Tokens: one request at a time, renewed ahead of their end, refused ones replaced with a pause."""

from __future__ import annotations

import gc
import os
import random
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from goplugins.config import AuthConfig
from goplugins.errors import BadReplyError, PluginConnectionError, PluginError, PluginTimeoutError, TokenRefusedError
from goplugins.runtime.clock import SYSTEM_CLOCK
from goplugins.runtime.deadline import AttemptDeadline, Deadline
from goplugins.testing import ManualClock
from goplugins.transports.authorizer import Authorizer
from goplugins.transports.token_source import REQUEST_TIMEOUT, Grant, TokenSource
from tests.interrupts import interrupted_at

URL = "https://login.example.com/token"


class Endpoint:
    """Gives the tokens t1, t2, ...; or raises ``error``; or waits for ``gate``."""

    def __init__(self, lifetime: float | None = 100.0) -> None:
        self.lifetime = lifetime
        self.requests = 0
        self.error: Exception | None = None
        self.gate: threading.Event | None = None
        self.limits: list[float] = []
        self.asked = threading.Event()

    def fetch(self, deadline: Deadline) -> Grant:
        self.requests += 1
        self.limits.append(deadline.remaining())
        number = self.requests
        self.asked.set()
        if self.gate is not None:
            assert self.gate.wait(10)
        if self.error is not None:
            raise self.error
        return Grant(f"t{number}", self.lifetime)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1000.0, auto_advance=False)


@pytest.fixture
def endpoint() -> Endpoint:
    return Endpoint()


@pytest.fixture
def source(endpoint: Endpoint, clock: ManualClock) -> TokenSource:
    return TokenSource(endpoint.fetch, URL, clock, random.Random(1))


def settled(source: TokenSource) -> None:
    """Waits for the request in progress."""
    assert source._request is not None
    assert source._request.done.wait(10)


def test_one_request_for_all_threads(source, endpoint, clock):
    endpoint.gate = threading.Event()
    with ThreadPoolExecutor(16) as pool:
        found = [pool.submit(source.token, Deadline.after(5, clock)) for _ in range(16)]
        clock.wait_for_waiters(16)
        endpoint.gate.set()
        assert {each.result().value for each in found} == {"t1"}
    assert endpoint.requests == 1
    assert endpoint.limits == [REQUEST_TIMEOUT]
    assert "t1" not in repr(found[0].result())


def test_a_wait_ends_at_the_deadline_of_each_call(source, endpoint, clock):
    endpoint.gate = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        short = pool.submit(source.token, Deadline.after(1, clock))
        long = pool.submit(source.token, Deadline.after(5, clock))
        clock.wait_for_waiters(2)
        clock.advance(1.0)
        with pytest.raises(PluginTimeoutError, match=r"waiting for a token from .*/token, after 1 s \(the call's dead"):
            short.result(10)
        endpoint.gate.set()
        assert long.result(10).value == "t1"


def test_the_wait_does_not_count_as_time_of_the_attempt(source, endpoint, clock):
    endpoint.gate = threading.Event()
    limit = AttemptDeadline(Deadline.after(5, clock), 0.5)
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(source.token, limit)
        clock.wait_for_waiters(1)
        clock.advance(2.0)
        endpoint.gate.set()
        assert found.result(10).value == "t1"
    assert limit.remaining() == 0.5


def test_a_token_is_renewed_ahead_of_its_end_while_calls_use_it(source, endpoint, clock):
    limit = Deadline.after(1000, clock)
    first = source.token(limit)
    assert 1000 + 85 <= first.renew_at <= 1000 + 90  # a tenth of its life before its end, and up to half of it more
    clock.advance(first.renew_at - clock.monotonic() - 0.01)
    assert source.token(limit) is first
    endpoint.gate = threading.Event()
    clock.advance(0.02)
    assert [source.token(limit) for _ in range(5)] == [first] * 5
    assert source._request is not None
    endpoint.gate.set()
    settled(source)
    assert source.token(limit).value == "t2"
    assert endpoint.requests == 2


def test_a_long_token_is_renewed_a_minute_before_its_end(source, endpoint, clock):
    endpoint.lifetime = 3600.0
    assert 1000 + 3510 <= source.token(Deadline.after(5, clock)).renew_at <= 1000 + 3540


def test_a_thread_that_found_the_old_token_a_moment_ago_requests_no_further_one(source, endpoint, clock):
    first = source.token(Deadline.after(500, clock))
    clock.advance(95)
    assert source.token(Deadline.after(500, clock)) is first
    settled(source)
    source._renew_ahead(first, clock.monotonic())
    clock.advance(5)
    assert source._wait(source._begin(first, clock.monotonic()), Deadline.after(5, clock)).value == "t2"
    assert endpoint.requests == 2


def test_a_renewal_that_fails_leaves_the_token_in_use_and_is_repeated_after_a_pause(source, endpoint, clock, caplog):
    limit = Deadline.after(1000, clock)
    first = source.token(limit)
    clock.advance(92)
    endpoint.error = PluginConnectionError("no connection")
    assert source.token(limit) is first
    settled(source)
    assert [source.token(limit) for _ in range(5)] == [first] * 5
    assert endpoint.requests == 2
    assert "can't be renewed yet, the current one is valid for 8 s: no connection" in caplog.text
    clock.advance(2.01)
    endpoint.error = None
    assert source.token(limit) is first
    settled(source)
    assert source.token(limit).value == "t3"


def test_calls_wait_for_a_token_in_the_place_of_one_that_has_ended(source, endpoint, clock):
    source.token(Deadline.after(5, clock))
    clock.advance(100)
    assert source.token(Deadline.after(5, clock)).value == "t2"
    endpoint.error = PluginConnectionError("no connection")
    clock.advance(100)
    for _ in range(3):
        with pytest.raises(PluginConnectionError):
            source.token(Deadline.after(5, clock))
    assert endpoint.requests == 5  # each call tries


def test_a_token_without_an_end_is_used_until_it_is_refused(source, endpoint, clock):
    endpoint.lifetime = None
    token = source.token(Deadline.after(5, clock))
    clock.advance(1e6)
    assert source.token(Deadline.after(5, clock)) is token
    assert source.refuse(token, lambda: True)
    assert source.token(Deadline.after(5, clock)).value == "t2"


def test_a_refused_client_is_not_asked_for_with_each_call(source, endpoint, clock):
    endpoint.error = TokenRefusedError("invalid_client", details={"oauth2_error": "invalid_client"})
    errors: list[PluginError] = []
    for _ in range(5):
        with pytest.raises(TokenRefusedError) as caught:
            source.token(Deadline.after(5, clock))
        errors.append(caught.value)
    assert endpoint.requests == 1
    assert len(set(map(id, errors))) == len({id(error.details) for error in errors}) == 5
    clock.advance(1.0)
    endpoint.error = None
    assert source.token(Deadline.after(5, clock)).value == "t2"


def test_any_other_exception_is_an_error_of_the_endpoint(source, endpoint, clock):
    endpoint.error = ValueError("broken")
    with pytest.raises(BadReplyError, match=r"no token from https://login\.example\.com/token: ValueError"):
        source.token(Deadline.after(5, clock))


# --- refused tokens ----------------------------------------------------------------------------------------------


@pytest.fixture
def authorizer(source: TokenSource, clock: ManualClock) -> Authorizer[str]:
    return Authorizer(lambda: source, AuthConfig(), lambda auth: f"writer with {auth.token}", clock)


def test_only_the_current_token_is_replaced(authorizer, endpoint, clock):
    limit = Deadline.after(500, clock)
    first = authorizer.authorized(limit)
    assert authorizer.authorized(limit) is first
    assert first.writer == "writer with t1"
    found = [authorizer.renewed(first, limit) for _ in range(5)]
    assert {each.writer for each in found} == {"writer with t2"}
    assert endpoint.requests == 2


def test_a_plugin_that_refuses_every_token_gets_new_ones_ever_more_rarely(authorizer, endpoint, clock):
    limit = Deadline.after(5000, clock)
    requested = []
    endpoint.lifetime = None
    for _ in range(200):
        used = authorizer.authorized(limit)
        authorizer.renewed(used, limit)
        requested.append(endpoint.requests)
        clock.advance(1.0)
    assert requested[0] == 2  # the first refusal is followed by another token at once
    assert endpoint.requests <= 2 + 6 + 4  # after 1, 2, 4, ... 60 seconds
    authorizer.accepted()
    assert authorizer.renewed(authorizer.authorized(limit), limit) is not None


def test_threads_that_are_refused_at_once_share_one_new_token(authorizer, endpoint, clock):
    limit = Deadline.after(500, clock)
    first = authorizer.authorized(limit)
    endpoint.gate = threading.Event()
    with ThreadPoolExecutor(16) as pool:
        found = [pool.submit(authorizer.renewed, first, limit) for _ in range(16)]
        clock.wait_for_waiters(16)
        endpoint.gate.set()
        assert {each.result(10).token.value for each in found} == {"t2"}
    assert endpoint.requests == 2


# --- processes -----------------------------------------------------------------------------------------------------


def in_child(work: Callable[[], bool]) -> bool:
    """Whether ``work`` returns True in a forked child."""
    pid = os.fork()
    if not pid:
        try:
            os._exit(0 if work() else 1)
        except BaseException:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_forked_child_uses_the_token_and_renews_it_by_itself_at_its_own_time(source, endpoint, clock):
    limit = Deadline.after(500, clock)
    first = source.token(limit)

    def child() -> bool:
        known = source.token(limit)
        own_time = known.renew_at != first.renew_at and 1085 <= known.renew_at <= 1090
        clock.advance(100)
        return known.value == first.value and own_time and source.token(limit).value == "t2"

    assert in_child(child)
    assert endpoint.requests == 1


def test_a_child_that_is_forked_during_a_request_makes_its_own(endpoint):
    source = TokenSource(endpoint.fetch, URL, SYSTEM_CLOCK)
    endpoint.gate = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(source.token, Deadline.after(20))
        assert endpoint.asked.wait(10)

        def child() -> bool:
            endpoint.gate = None
            return source.token(Deadline.after(5)).value == "t2"

        assert in_child(child)
        with source._lock:  # nor is a child hung that is forked while the lock is held
            assert in_child(child)
        endpoint.gate.set()
        assert found.result(10).value == "t1"


def test_a_source_that_is_not_used_is_collected(endpoint, clock):
    source = TokenSource(endpoint.fetch, URL, clock)
    source.token(Deadline.after(5, clock))
    gone = weakref.ref(source)
    del source
    gc.collect()
    assert gone() is None


# --- interrupts ----------------------------------------------------------------------------------------------------

OURS = ("token_source.py", "authorizer.py", "runtime/workers.py", "runtime/clock.py")


@pytest.mark.parametrize("refused", [False, True], ids=["first token", "in the place of a refused one"])
def test_an_interrupt_at_any_point_leaves_a_source_that_others_can_use(refused):
    number = 0
    while True:
        endpoint = Endpoint()
        source = TokenSource(endpoint.fetch, URL, SYSTEM_CLOCK)
        authorizer = Authorizer(lambda source=source: source, AuthConfig(), lambda auth: auth.token, SYSTEM_CLOCK)
        limit = Deadline.after(10)
        used = authorizer.authorized(limit) if refused else None

        def work(authorizer=authorizer, used=used, limit=limit) -> None:
            if used is None:
                authorizer.authorized(limit)
            else:
                authorizer.renewed(used, limit)
            authorizer.accepted()

        if not interrupted_at(number, work, OURS):
            break
        assert not source._lock.locked(), number
        if used is not None:
            assert authorizer.renewed(used, limit) is not None, number
        # A request of the interrupted call may end at any later moment, and give another token than the present one.
        given = authorizer.authorized(Deadline.after(10)).writer
        assert given in {f"t{each}" for each in range(1, endpoint.requests + 1)}, number
        assert endpoint.requests <= 3, number
        number += 1
    assert number > 30
