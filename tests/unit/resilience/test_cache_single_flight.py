"""Single-flight execution of a ResponseCache: identical concurrent calls make one request."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from goplugins.errors import PluginTimeoutError, PluginUnavailableError
from goplugins.resilience.cache import Origin
from goplugins.runtime.clock import SYSTEM_CLOCK
from goplugins.runtime.deadline import Deadline
from goplugins.testing import ManualClock
from tests.unit.resilience.requests import Server, cache_of, fetch, submit, wait_until


@pytest.fixture
def pool():
    with ThreadPoolExecutor(64) as pool:
        yield pool


class HoldingClock(ManualClock):
    """Threads stay in a wait, although it is over, while ``gate`` is not set."""

    def __init__(self):
        super().__init__(auto_advance=False)
        self.gate = threading.Event()
        self.gate.set()
        self.waits = 0

    def wait(self, waiter, timeout):
        self.waits += 1
        woken = super().wait(waiter, timeout)
        assert self.gate.wait(20)
        return woken


# --- one request -----------------------------------------------------------------------------------------------------


def test_identical_concurrent_calls_make_one_request(pool):
    cache, server = cache_of(SYSTEM_CLOCK), Server()
    futures = submit(pool, cache, server, 50)
    server.wait_for_request()
    wait_until(lambda: cache.waiting == 49)
    server.answer("answer")
    origins = [future.result(20) for future in futures]
    assert server.requests == 1
    assert sorted(origin.value for _, origin in origins) == ["call"] + ["coalesced"] * 49
    assert {answer for answer, _ in origins} == {"answer"}


def test_calls_with_other_keys_do_not_wait(pool):
    cache, server = cache_of(SYSTEM_CLOCK), Server()
    futures = submit(pool, cache, server, 1, key="a") + submit(pool, cache, server, 1, key="b")
    server.wait_for_request()
    server.wait_for_request()
    server.answer("x")
    server.answer("y")
    assert {future.result(20)[1] for future in futures} == {Origin.CALL}


def test_a_call_within_its_own_request_makes_its_own():
    clock = ManualClock(auto_advance=False)
    cache = cache_of(clock)

    def outer():
        inner = cache.fetch("key", lambda: "inner", Deadline.after(30.0, clock))
        assert inner == ("inner", Origin.CALL)
        return "outer"

    assert cache.fetch("key", outer, Deadline.after(30.0, clock)) == ("outer", Origin.CALL)
    assert cache.get("key") == "outer"


def test_a_response_that_can_not_be_shared_is_requested_by_each_call(pool):
    cache, server = cache_of(SYSTEM_CLOCK), Server()
    futures = submit(pool, cache, server, 4)
    server.wait_for_request()
    wait_until(lambda: cache.waiting == 3)
    for _ in range(4):
        server.answer(None)
    assert [future.result(20) for future in futures] == [(None, Origin.CALL)] * 4
    assert server.requests == 4
    assert len(cache) == 0


def test_a_response_to_a_request_from_before_a_clear_is_not_cached(pool):
    cache, server = cache_of(SYSTEM_CLOCK), Server()
    futures = submit(pool, cache, server, 2)
    server.wait_for_request()
    wait_until(lambda: cache.waiting == 1)
    cache.clear()
    later = submit(pool, cache, server, 1)[0]
    server.wait_for_request()
    server.answer("old")
    wait_until(lambda: all(future.done() for future in futures) or later.done())
    server.answer("new")
    answers = {future.result(20)[0] for future in futures} | {later.result(20)[0]}
    assert answers == {"old", "new"}
    assert cache.get("key") == later.result()[0], "only the later response is cached"


@pytest.mark.stress
def test_ten_thousand_calls_two_thousand_of_them_at_once_make_one_request():
    cache, server = cache_of(SYSTEM_CLOCK), Server()
    answers = []
    count = 2_000  # at a time; a thread each

    def call():
        answers.append(cache.fetch("key", server.make, Deadline.after(60.0)))

    before = threading.stack_size(256 * 1024)
    try:
        threads = [threading.Thread(target=call, daemon=True) for _ in range(count)]
        for thread in threads:
            thread.start()
    finally:
        threading.stack_size(before)
    server.wait_for_request()
    wait_until(lambda: cache.waiting == count - 1)
    server.answer("answer")
    for thread in threads:
        thread.join(60)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: call(), range(10_000 - count)))
    assert server.requests == 1
    assert len(answers) == 10_000
    assert {answer for answer, _ in answers} == {"answer"}


# --- the leader fails ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [PluginUnavailableError("no"), KeyboardInterrupt(), SystemExit()], ids=repr)
def test_when_the_leader_fails_one_waiting_call_takes_over(pool, failure):
    cache, server = cache_of(SYSTEM_CLOCK), Server()
    futures = submit(pool, cache, server, 10)
    server.wait_for_request()
    wait_until(lambda: cache.waiting == 9)
    server.answer(failure)
    server.wait_for_request()
    wait_until(lambda: cache.waiting == 8)
    assert server.requests == 2, "one call, not all"
    server.answer("answer")
    errors = [future.exception(20) for future in futures]
    assert [error for error in errors if error is not None] == [failure]
    assert server.requests == 2


def test_each_of_many_failing_leaders_gets_its_own_error(pool):
    cache, server = cache_of(SYSTEM_CLOCK), Server()
    failures = [PluginUnavailableError(str(number)) for number in range(8)]
    futures = submit(pool, cache, server, 8)
    server.wait_for_request()
    wait_until(lambda: cache.waiting == 7)
    for failure in failures:
        server.answer(failure)
    assert {future.exception(20) for future in futures} == set(failures)
    assert cache.waiting == 0
    server.answer("answer")
    assert cache.fetch("key", server.make, Deadline.after(1.0)) == ("answer", Origin.CALL)


def test_a_new_call_that_is_faster_than_the_successor_makes_the_request(pool):
    clock = HoldingClock()
    cache, server = cache_of(clock), Server()
    leader = pool.submit(cache.fetch, "key", server.make, Deadline.after(60.0, clock))
    server.wait_for_request()
    successor = pool.submit(cache.fetch, "key", server.make, Deadline.after(60.0, clock))
    clock.wait_for_waiters(1)
    clock.gate.clear()
    server.answer(PluginUnavailableError("no"))
    assert leader.exception(20) is not None
    new_call = pool.submit(cache.fetch, "key", server.make, Deadline.after(60.0, clock))
    server.wait_for_request()
    clock.gate.set()
    clock.wait_for_waiters(1)
    assert clock.waits == 2, "the successor waits again"
    server.answer("answer")
    assert new_call.result(20) == ("answer", Origin.CALL)
    assert successor.result(20) == ("answer", Origin.COALESCED)
    assert server.requests == 2


# --- deadlines -------------------------------------------------------------------------------------------------------


def test_a_waiting_call_waits_until_its_own_deadline(pool):
    clock = ManualClock(auto_advance=False)
    cache, server = cache_of(clock), Server()
    leader = pool.submit(cache.fetch, "key", server.make, Deadline.after(60.0, clock))
    server.wait_for_request()
    short = pool.submit(cache.fetch, "key", server.make, Deadline.after(2.0, clock))
    long = pool.submit(cache.fetch, "key", server.make, Deadline.after(30.0, clock))
    clock.wait_for_waiters(2)
    clock.advance(2.0)
    with pytest.raises(PluginTimeoutError, match="identical call") as caught:
        short.result(20)
    assert caught.value.details == {}
    assert not long.done()
    assert not leader.done()
    server.answer("answer")
    assert leader.result(20) == ("answer", Origin.CALL)
    assert long.result(20) == ("answer", Origin.COALESCED)


def test_a_waiting_call_with_little_time_times_out(pool):
    clock = ManualClock(auto_advance=False)
    cache, server = cache_of(clock), Server()
    leader = pool.submit(cache.fetch, "key", server.make, Deadline.after(60.0, clock))
    server.wait_for_request()
    short = pool.submit(cache.fetch, "key", server.make, Deadline.after(0.25, clock))
    clock.wait_for_waiters(1)
    clock.advance(0.25)
    with pytest.raises(PluginTimeoutError) as caught:
        short.result(20)
    assert caught.value.message == (
        "timed out after waiting 0.25 s, up to the call's deadline, for the response to an identical call in flight"
    )
    server.answer("answer")
    assert leader.result(20) == ("answer", Origin.CALL)


def test_a_waiting_call_with_little_time_may_take_over(pool):
    clock = ManualClock(auto_advance=False)
    cache, server = cache_of(clock), Server()
    leader = pool.submit(cache.fetch, "key", server.make, Deadline.after(60.0, clock))
    server.wait_for_request()
    short = pool.submit(cache.fetch, "key", server.make, Deadline.after(0.25, clock))
    clock.wait_for_waiters(1)
    server.answer(PluginUnavailableError("warming up"))
    server.wait_for_request()
    server.answer("answer")
    assert short.result(20) == ("answer", Origin.CALL)
    assert isinstance(leader.exception(20), PluginUnavailableError)


def test_a_timeout_has_the_last_error_of_the_leaders(pool):
    clock = ManualClock(auto_advance=False)
    cache, server = cache_of(clock), Server()
    first = pool.submit(cache.fetch, "key", server.make, Deadline.after(60.0, clock))
    server.wait_for_request()
    second = pool.submit(cache.fetch, "key", server.make, Deadline.after(60.0, clock))
    clock.wait_for_waiters(1)
    third = pool.submit(cache.fetch, "key", server.make, Deadline.after(5.0, clock))
    clock.wait_for_waiters(2)
    server.answer(PluginUnavailableError("warming up"))
    server.wait_for_request()
    clock.advance(5.0)
    with pytest.raises(PluginTimeoutError) as caught:
        third.result(20)
    assert caught.value.details == {"last_error": "TRANSPORT_1305 warming up"}
    server.answer("answer")
    assert first.exception(20) is not None
    assert second.result(20) == ("answer", Origin.CALL)


def test_a_successor_past_its_deadline_wakes_the_next(pool):
    clock = HoldingClock()
    cache, server = cache_of(clock), Server()
    leader = pool.submit(cache.fetch, "key", server.make, Deadline.after(60.0, clock))
    server.wait_for_request()
    short = pool.submit(cache.fetch, "key", server.make, Deadline.after(1.0, clock))
    clock.wait_for_waiters(1)
    long = pool.submit(cache.fetch, "key", server.make, Deadline.after(50.0, clock))
    clock.wait_for_waiters(2)
    clock.gate.clear()
    server.answer(PluginUnavailableError("no"))
    assert leader.exception(20) is not None
    clock.advance(1.0)
    clock.gate.set()
    server.wait_for_request()
    server.answer("answer")
    assert isinstance(short.exception(20), PluginTimeoutError)
    assert long.result(20) == ("answer", Origin.CALL)


def test_a_leader_past_its_deadline_is_replaced(pool):
    clock = ManualClock(auto_advance=False)
    cache, server = cache_of(clock), Server()
    overdue = pool.submit(cache.fetch, "key", server.make, Deadline.after(2.0, clock))
    server.wait_for_request()
    clock.advance(2.0)
    assert fetch(cache, clock, answer="from another") == ("from another", Origin.CALL)
    server.answer("at last")
    assert overdue.result(20) == ("at last", Origin.CALL)
    assert cache.get("key") == "from another", "the older response does not replace the newer one"


def test_a_late_response_of_a_replaced_leader_is_shared(pool):
    clock = ManualClock(auto_advance=False)
    cache, late_server, server = cache_of(clock), Server(), Server()
    overdue = pool.submit(cache.fetch, "key", late_server.make, Deadline.after(2.0, clock))
    late_server.wait_for_request()
    waiting = pool.submit(cache.fetch, "key", server.make, Deadline.after(60.0, clock))
    clock.wait_for_waiters(1)
    clock.advance(2.0)
    second = pool.submit(cache.fetch, "key", server.make, Deadline.after(60.0, clock))
    server.wait_for_request()
    late_server.answer("first")
    assert waiting.result(20) == ("first", Origin.COALESCED)
    server.answer("second")
    assert (overdue.result(20)[0], second.result(20)[0]) == ("first", "second")


def test_a_replaced_leader_that_fails_affects_no_other_call(pool):
    clock = ManualClock(auto_advance=False)
    cache, late_server, server = cache_of(clock), Server(), Server()
    overdue = pool.submit(cache.fetch, "key", late_server.make, Deadline.after(2.0, clock))
    late_server.wait_for_request()
    clock.advance(2.0)
    second = pool.submit(cache.fetch, "key", server.make, Deadline.after(60.0, clock))
    server.wait_for_request()
    late_server.answer(PluginUnavailableError("no"))
    assert overdue.exception(20) is not None
    third = pool.submit(cache.fetch, "key", server.make, Deadline.after(60.0, clock))
    clock.wait_for_waiters(1)
    server.answer("answer")
    assert second.result(20) == ("answer", Origin.CALL)
    assert third.result(20) == ("answer", Origin.COALESCED)
    assert server.requests == 1


# --- interrupts ------------------------------------------------------------------------------------------------------


def test_an_interrupted_waiting_call_affects_no_other(pool):
    class Interrupting(ManualClock):
        def wait(self, waiter, timeout):
            raise KeyboardInterrupt

    clock = Interrupting()
    cache, server = cache_of(clock), Server()
    leader = pool.submit(cache.fetch, "key", server.make, Deadline.after(60.0, clock))
    server.wait_for_request()
    with pytest.raises(KeyboardInterrupt):
        cache.fetch("key", server.make, Deadline.after(60.0, clock))
    assert cache.waiting == 0
    server.answer("answer")
    assert leader.result(20) == ("answer", Origin.CALL)


def test_an_interrupted_successor_wakes_the_next(pool):
    clock = ManualClock(auto_advance=False)
    cache, server = cache_of(clock), Server()
    interrupted = threading.Event()
    plain_wait = clock.wait

    def wait(waiter, timeout):
        plain_wait(waiter, timeout)
        if not interrupted.is_set():
            interrupted.set()
            raise KeyboardInterrupt  # just woken, and no other call was
        return True

    clock.wait = wait
    leader = pool.submit(cache.fetch, "key", server.make, Deadline.after(60.0, clock))
    server.wait_for_request()
    first = pool.submit(cache.fetch, "key", server.make, Deadline.after(60.0, clock))
    clock.wait_for_waiters(1)
    second = pool.submit(cache.fetch, "key", server.make, Deadline.after(60.0, clock))
    clock.wait_for_waiters(2)
    server.answer(PluginUnavailableError("no"))
    server.wait_for_request()
    server.answer("answer")
    assert isinstance(first.exception(20), KeyboardInterrupt)
    assert second.result(20) == ("answer", Origin.CALL)
    assert leader.exception(20) is not None
