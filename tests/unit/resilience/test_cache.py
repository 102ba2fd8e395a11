"""The answer cache alone: times, bounds, and one request for many identical calls."""

import contextlib
import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from goplugins.config import CacheConfig
from goplugins.errors import PluginTimeoutError, PluginUnavailableError
from goplugins.resilience.cache import Origin, ResponseCache
from goplugins.runtime.clock import SYSTEM_CLOCK
from goplugins.runtime.deadline import Deadline
from goplugins.testing import ManualClock
from tests.processes import in_child, run


def cache_of(clock, ttl=60.0, **fields):
    bounds = {name: fields.pop(name) for name in ("size_of", "max_size") if name in fields}
    return ResponseCache(CacheConfig(ttl=ttl, **fields), clock=clock, **bounds)


def fetch(cache, clock, key="key", answer="answer", timeout=30.0):
    return cache.fetch(key, lambda: answer, Deadline.after(timeout, clock))


# --- keeping -------------------------------------------------------------------------------------------------------


def test_an_answer_is_good_until_its_ttl_has_passed_and_not_a_moment_longer():
    clock = ManualClock()
    cache = cache_of(clock, ttl=10.0)
    assert fetch(cache, clock) == ("answer", Origin.CALL)
    clock.advance(9.999)
    assert fetch(cache, clock, answer="another") == ("answer", Origin.CACHE)
    clock.advance(0.001)
    assert cache.get("key") is None
    assert fetch(cache, clock, answer="another") == ("another", Origin.CALL)


def test_the_ttl_counts_from_when_the_answer_came():
    clock = ManualClock()
    cache = cache_of(clock, ttl=10.0)

    def slow():
        clock.advance(8.0)
        return "answer"

    cache.fetch("key", slow, Deadline.after(30.0, clock))
    clock.advance(9.0)
    assert cache.get("key") == "answer"


def test_an_old_answer_may_stand_in_only_for_the_time_allowed():
    clock = ManualClock()
    cache = cache_of(clock, ttl=10.0, stale_if_error=5.0)
    fetch(cache, clock)
    clock.advance(14.999)
    assert cache.get("key") is None
    assert cache.stale("key") == "answer"
    clock.advance(0.001)
    assert cache.stale("key") is None


def test_without_stale_if_error_no_old_answer_stands_in():
    clock = ManualClock()
    cache = cache_of(clock, ttl=10.0)
    fetch(cache, clock)
    clock.advance(10.0)
    assert cache.stale("key") is None


def test_errors_are_never_kept():
    clock = ManualClock()
    cache = cache_of(clock)

    def fail():
        raise PluginUnavailableError("warming up")

    for _ in range(2):
        with pytest.raises(PluginUnavailableError):
            cache.fetch("key", fail, Deadline.after(1.0, clock))
    assert len(cache) == 0
    assert fetch(cache, clock) == ("answer", Origin.CALL)


def test_of_a_question_that_failed_nothing_is_kept_in_memory():
    class Question:
        pass

    clock = ManualClock()
    cache, question = cache_of(clock), Question()

    def fail():
        raise PluginUnavailableError("down")

    with contextlib.suppress(PluginUnavailableError):
        cache.fetch(question, fail, Deadline.after(1.0, clock))
    gone = weakref.ref(question)
    del question
    gc.collect()
    assert gone() is None


def test_a_failed_request_leaves_the_old_answer_where_it_is():
    clock = ManualClock()
    cache = cache_of(clock, ttl=10.0, stale_if_error=60.0)
    fetch(cache, clock)
    clock.advance(20.0)

    def fail():
        raise PluginUnavailableError("warming up")

    with pytest.raises(PluginUnavailableError):
        cache.fetch("key", fail, Deadline.after(1.0, clock))
    assert cache.stale("key") == "answer"


def test_the_least_recently_used_answer_leaves_first():
    clock = ManualClock()
    cache = cache_of(clock, max_entries=2)
    fetch(cache, clock, "a")
    fetch(cache, clock, "b")
    assert cache.get("a") == "answer"
    fetch(cache, clock, "c")
    assert [cache.get(key) for key in "abc"] == ["answer", None, "answer"]


def test_one_that_stood_in_counts_as_used():
    clock = ManualClock()
    cache = cache_of(clock, ttl=1.0, stale_if_error=60.0, max_entries=2)
    fetch(cache, clock, "a")
    fetch(cache, clock, "b")
    clock.advance(2.0)
    cache.stale("a")
    fetch(cache, clock, "c")
    assert [cache.stale(key) for key in "abc"] == ["answer", None, "answer"]


def test_all_together_take_no_more_than_the_bound():
    clock = ManualClock()
    cache = cache_of(clock, size_of=len, max_size=10)
    fetch(cache, clock, "a", "12345")
    fetch(cache, clock, "b", "12345")
    assert (len(cache), cache.size) == (2, 10)
    fetch(cache, clock, "c", "1")
    assert [cache.get(key) for key in "abc"] == [None, "12345", "1"]
    assert cache.size == 6


def test_an_answer_larger_than_the_bound_is_given_and_not_kept_and_drives_nobody_out():
    clock = ManualClock()
    cache = cache_of(clock, size_of=len, max_size=10)
    fetch(cache, clock, "a", "12345")
    assert fetch(cache, clock, "b", "12345678901") == ("12345678901", Origin.CALL)
    assert cache.get("b") is None
    assert cache.get("a") == "12345"


def test_a_larger_answer_in_place_of_an_older_one_leaves_the_older_one_gone():
    clock = ManualClock()
    cache = cache_of(clock, ttl=1.0, stale_if_error=60.0, size_of=len, max_size=10)
    fetch(cache, clock, "a", "12345")
    clock.advance(2.0)
    fetch(cache, clock, "a", "12345678901")
    assert cache.stale("a") is None, "it is known to be outdated"
    assert cache.size == 0


def test_answers_that_are_good_for_nothing_any_more_go_as_others_come():
    clock = ManualClock()
    cache = cache_of(clock, ttl=1.0)
    for key in range(10):
        fetch(cache, clock, key)
    clock.advance(1.0)
    for key in range(100, 105):
        fetch(cache, clock, key)
    assert len(cache) == 5


def test_the_smallest_bounds_hold_one():
    clock = ManualClock()
    cache = cache_of(clock, max_entries=1, size_of=lambda _: 1, max_size=1)
    for key in range(3):
        fetch(cache, clock, key)
        assert (len(cache), cache.size, cache.get(key)) == (1, 1, "answer")


def test_without_a_measure_answers_have_no_size():
    clock = ManualClock()
    cache = cache_of(clock)
    fetch(cache, clock)
    assert (len(cache), cache.size) == (1, 0)


def test_clear_forgets_all():
    clock = ManualClock()
    cache = cache_of(clock, stale_if_error=60.0, size_of=len)
    fetch(cache, clock)
    cache.clear()
    assert (len(cache), cache.size, cache.get("key"), cache.stale("key")) == (0, 0, None, None)


@pytest.mark.parametrize(
    ("fields", "bounds"),
    [
        ({}, {}),
        ({"ttl": 0.0}, {}),
        ({"ttl": 1.0, "max_entries": 0}, {}),
        ({"ttl": 1.0, "stale_if_error": -1.0}, {}),
        ({"ttl": 1.0}, {"max_size": 0}),
    ],
)
def test_a_cache_that_could_hold_nothing_is_refused(fields, bounds):
    with pytest.raises(ValueError, match=r"ttl|max_entries|stale_if_error|max_size"):
        ResponseCache(CacheConfig(**fields), **bounds)


# --- one request for many ------------------------------------------------------------------------------------------


class Server:
    """Counts requests and holds them until told what to do with each."""

    def __init__(self):
        self.requests = 0
        self.came = threading.Semaphore(0)
        self.verdicts = []
        self.go = threading.Semaphore(0)
        self._lock = threading.Lock()

    def make(self):
        with self._lock:
            self.requests += 1
        self.came.release()
        assert self.go.acquire(timeout=20)
        with self._lock:
            verdict = self.verdicts.pop(0)
        if isinstance(verdict, BaseException):
            raise verdict
        return verdict

    def answer(self, verdict):
        with self._lock:
            self.verdicts.append(verdict)
        self.go.release()

    def wait_for_request(self):
        assert self.came.acquire(timeout=20)


def wait_until(condition):
    for _ in range(20_000):
        if condition():
            return
        threading.Event().wait(0.001)
    raise AssertionError("it did not come about")


@pytest.fixture
def pool():
    with ThreadPoolExecutor(64) as pool:
        yield pool


def calls(pool, cache, server, count, timeout=20.0, key="key"):
    return [pool.submit(cache.fetch, key, server.make, Deadline.after(timeout)) for _ in range(count)]


def test_identical_calls_at_the_same_moment_make_one_request(pool):
    cache, server = cache_of(SYSTEM_CLOCK), Server()
    futures = calls(pool, cache, server, 50)
    server.wait_for_request()
    wait_until(lambda: cache.waiting == 49)
    server.answer("answer")
    origins = [future.result(20) for future in futures]
    assert server.requests == 1
    assert sorted(origin.value for _, origin in origins) == ["call"] + ["coalesced"] * 49
    assert {answer for answer, _ in origins} == {"answer"}


def test_calls_with_other_keys_do_not_wait(pool):
    cache, server = cache_of(SYSTEM_CLOCK), Server()
    futures = calls(pool, cache, server, 1, key="a") + calls(pool, cache, server, 1, key="b")
    server.wait_for_request()
    server.wait_for_request()
    server.answer("x")
    server.answer("y")
    assert {future.result(20)[1] for future in futures} == {Origin.CALL}


@pytest.mark.parametrize("failure", [PluginUnavailableError("no"), KeyboardInterrupt(), SystemExit()], ids=repr)
def test_when_the_leader_fails_one_of_the_others_tries_in_its_place(pool, failure):
    cache, server = cache_of(SYSTEM_CLOCK), Server()
    futures = calls(pool, cache, server, 10)
    server.wait_for_request()
    wait_until(lambda: cache.waiting == 9)
    server.answer(failure)
    server.wait_for_request()
    wait_until(lambda: cache.waiting == 8)
    assert server.requests == 2, "one, not all of them"
    server.answer("answer")
    errors = [future.exception(20) for future in futures]
    assert [error for error in errors if error is not None] == [failure]
    assert server.requests == 2


def test_a_chain_of_failing_leaders_gives_each_its_own_error_and_ends(pool):
    cache, server = cache_of(SYSTEM_CLOCK), Server()
    failures = [PluginUnavailableError(str(number)) for number in range(8)]
    futures = calls(pool, cache, server, 8)
    server.wait_for_request()
    wait_until(lambda: cache.waiting == 7)
    for failure in failures:
        server.answer(failure)
    assert {future.exception(20) for future in futures} == set(failures)
    assert cache.waiting == 0
    server.answer("answer")
    assert cache.fetch("key", server.make, Deadline.after(1.0)) == ("answer", Origin.CALL)


def test_a_follower_waits_at_most_its_own_deadline_and_gets_a_timeout_of_its_own(pool):
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


def test_a_follower_of_little_time_waits_no_longer_than_that(pool):
    clock = ManualClock(auto_advance=False)
    cache, server = cache_of(clock), Server()
    leader = pool.submit(cache.fetch, "key", server.make, Deadline.after(60.0, clock))
    server.wait_for_request()
    short = pool.submit(cache.fetch, "key", server.make, Deadline.after(0.25, clock))
    clock.wait_for_waiters(1)
    clock.advance(0.25)
    with pytest.raises(PluginTimeoutError) as caught:
        short.result(20)
    assert caught.value.message == "timed out waiting for the response to an identical call in flight"
    server.answer("answer")
    assert leader.result(20) == ("answer", Origin.CALL)


def test_a_follower_of_little_time_leads_when_it_is_called_to(pool):
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


def test_a_follower_that_times_out_says_what_those_before_it_met_with(pool):
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


class HoldingClock(ManualClock):
    """Lets nobody out of a wait, although it is over, while ``gate`` is closed."""

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


def test_one_that_is_called_to_lead_after_its_deadline_passes_it_on(pool):
    clock = HoldingClock()
    cache, server = cache_of(clock), Server()
    leader = pool.submit(cache.fetch, "key", server.make, Deadline.after(60.0, clock))
    server.wait_for_request()
    late = pool.submit(cache.fetch, "key", server.make, Deadline.after(1.0, clock))
    clock.wait_for_waiters(1)
    patient = pool.submit(cache.fetch, "key", server.make, Deadline.after(50.0, clock))
    clock.wait_for_waiters(2)
    clock.gate.clear()
    server.answer(PluginUnavailableError("no"))
    assert leader.exception(20) is not None
    clock.advance(1.0)
    clock.gate.set()
    server.wait_for_request()
    server.answer("answer")
    assert isinstance(late.exception(20), PluginTimeoutError)
    assert patient.result(20) == ("answer", Origin.CALL)


def test_a_newcomer_that_is_quicker_than_the_one_called_to_lead_makes_the_request(pool):
    clock = HoldingClock()
    cache, server = cache_of(clock), Server()
    leader = pool.submit(cache.fetch, "key", server.make, Deadline.after(60.0, clock))
    server.wait_for_request()
    called = pool.submit(cache.fetch, "key", server.make, Deadline.after(60.0, clock))
    clock.wait_for_waiters(1)
    clock.gate.clear()
    server.answer(PluginUnavailableError("no"))
    assert leader.exception(20) is not None
    newcomer = pool.submit(cache.fetch, "key", server.make, Deadline.after(60.0, clock))
    server.wait_for_request()
    clock.gate.set()
    clock.wait_for_waiters(1)
    assert clock.waits == 2, "it waits again, and does not spin"
    server.answer("answer")
    assert newcomer.result(20) == ("answer", Origin.CALL)
    assert called.result(20) == ("answer", Origin.COALESCED)
    assert server.requests == 2


def test_an_interrupt_in_a_waiting_follower_harms_nobody(pool):
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


def test_an_interrupt_in_the_one_called_to_lead_calls_the_next(pool):
    clock = ManualClock(auto_advance=False)
    cache, server = cache_of(clock), Server()
    interrupted = threading.Event()
    plain_wait = clock.wait

    def wait(waiter, timeout):
        plain_wait(waiter, timeout)
        if not interrupted.is_set():
            interrupted.set()
            raise KeyboardInterrupt  # just woken, and nobody else was
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


def test_an_interrupt_while_the_answer_is_handed_out_still_reaches_all(pool, monkeypatch):
    cache, server = cache_of(SYSTEM_CLOCK), Server()
    futures = calls(pool, cache, server, 5, timeout=300.0)
    server.wait_for_request()
    wait_until(lambda: cache.waiting == 4)
    module = __import__("goplugins.resilience.cache", fromlist=["_wake"])
    whole, broken = module._wake, []

    def wake(waiters):
        if not broken:
            broken.append(True)
            raise KeyboardInterrupt
        whole(waiters)

    monkeypatch.setattr(module, "_wake", wake)
    server.answer("answer")
    outcomes = [future.exception(20) or future.result() for future in futures]
    assert sum(isinstance(outcome, KeyboardInterrupt) for outcome in outcomes) == 1
    assert outcomes.count(("answer", Origin.COALESCED)) == 4


def test_an_interrupt_in_the_very_act_of_leaving_still_calls_the_next(pool, monkeypatch):
    cache, server = cache_of(SYSTEM_CLOCK), Server()
    futures = calls(pool, cache, server, 3)
    server.wait_for_request()
    wait_until(lambda: cache.waiting == 2)
    whole, broken = ResponseCache._wake_successor, []

    def call_next(self, flight):
        if not broken:
            broken.append(True)
            raise KeyboardInterrupt
        whole(self, flight)

    monkeypatch.setattr(ResponseCache, "_wake_successor", call_next)
    server.answer(PluginUnavailableError("no"))
    server.wait_for_request()
    server.answer("answer")
    outcomes = [future.exception(20) or future.result()[1] for future in futures]
    assert sum(isinstance(outcome, KeyboardInterrupt) for outcome in outcomes) == 1
    assert Origin.CALL in outcomes
    assert Origin.COALESCED in outcomes


def test_a_call_within_its_own_request_does_not_wait_for_itself():
    clock = ManualClock(auto_advance=False)
    cache = cache_of(clock)

    def outer():
        inner = cache.fetch("key", lambda: "inner", Deadline.after(30.0, clock))
        assert inner == ("inner", Origin.CALL)
        return "outer"

    assert cache.fetch("key", outer, Deadline.after(30.0, clock)) == ("outer", Origin.CALL)
    assert cache.get("key") == "outer"


def test_a_leader_that_ignores_its_deadline_does_not_block_the_key_for_good(pool):
    clock = ManualClock(auto_advance=False)
    cache, server = cache_of(clock), Server()
    hung = pool.submit(cache.fetch, "key", server.make, Deadline.after(2.0, clock))
    server.wait_for_request()
    clock.advance(2.0)
    assert fetch(cache, clock, answer="from another") == ("from another", Origin.CALL)
    server.answer("at last")
    assert hung.result(20) == ("at last", Origin.CALL)
    assert cache.get("key") == "from another", "the older request's answer does not replace the newer one's"


def test_those_who_wait_get_the_overdue_leaders_answer_if_it_comes_first(pool):
    clock = ManualClock(auto_advance=False)
    cache, hung_server, server = cache_of(clock), Server(), Server()
    hung = pool.submit(cache.fetch, "key", hung_server.make, Deadline.after(2.0, clock))
    hung_server.wait_for_request()
    waiting = pool.submit(cache.fetch, "key", server.make, Deadline.after(60.0, clock))
    clock.wait_for_waiters(1)
    clock.advance(2.0)
    second = pool.submit(cache.fetch, "key", server.make, Deadline.after(60.0, clock))
    server.wait_for_request()
    hung_server.answer("first")
    assert waiting.result(20) == ("first", Origin.COALESCED)
    server.answer("second")
    assert (hung.result(20)[0], second.result(20)[0]) == ("first", "second")


def test_an_overdue_leader_that_fails_takes_nobody_with_it(pool):
    clock = ManualClock(auto_advance=False)
    cache, hung_server, server = cache_of(clock), Server(), Server()
    hung = pool.submit(cache.fetch, "key", hung_server.make, Deadline.after(2.0, clock))
    hung_server.wait_for_request()
    clock.advance(2.0)
    second = pool.submit(cache.fetch, "key", server.make, Deadline.after(60.0, clock))
    server.wait_for_request()
    hung_server.answer(PluginUnavailableError("no"))
    assert hung.exception(20) is not None
    third = pool.submit(cache.fetch, "key", server.make, Deadline.after(60.0, clock))
    clock.wait_for_waiters(1)
    server.answer("answer")
    assert second.result(20) == ("answer", Origin.CALL)
    assert third.result(20) == ("answer", Origin.COALESCED)
    assert server.requests == 1


def test_an_answer_that_was_asked_for_before_a_clear_is_given_and_not_kept(pool):
    cache, server = cache_of(SYSTEM_CLOCK), Server()
    futures = calls(pool, cache, server, 2)
    server.wait_for_request()
    wait_until(lambda: cache.waiting == 1)
    cache.clear()
    later = calls(pool, cache, server, 1)[0]
    server.wait_for_request()
    server.answer("old")
    wait_until(lambda: all(future.done() for future in futures) or later.done())
    server.answer("new")
    answers = {future.result(20)[0] for future in futures} | {later.result(20)[0]}
    assert answers == {"old", "new"}
    assert cache.get("key") == later.result()[0], "only what was asked for after the clear is kept"


def test_what_can_not_be_shared_is_asked_for_by_each(pool):
    cache, server = cache_of(SYSTEM_CLOCK), Server()
    futures = calls(pool, cache, server, 4)
    server.wait_for_request()
    wait_until(lambda: cache.waiting == 3)
    for _ in range(4):
        server.answer(None)
    assert [future.result(20) for future in futures] == [(None, Origin.CALL)] * 4
    assert server.requests == 4
    assert len(cache) == 0


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


# --- fork ----------------------------------------------------------------------------------------------------------


def fork_during_a_request():
    cache, server = cache_of(SYSTEM_CLOCK, size_of=len), Server()
    cache.fetch("kept", lambda: "kept", Deadline.after(1.0))

    def child():
        answer, origin = cache.fetch("key", lambda: "mine", Deadline.after(5.0))
        return answer, origin.value, cache.get("kept"), cache.size

    with ThreadPoolExecutor(1) as pool:
        leader = calls(pool, cache, server, 1)[0]
        server.wait_for_request()
        with cache._lock:  # as another thread may hold it at the moment of the fork
            found = in_child(child)
        server.answer("answer")
        answer, origin = leader.result(20)
        return found, [answer, origin.value]


def test_a_forked_child_keeps_answers_and_waits_for_no_request_of_the_parents():
    assert run(fork_during_a_request) == [["mine", "call", "kept", 8], ["answer", "call"]]
