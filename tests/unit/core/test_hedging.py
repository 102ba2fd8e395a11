"""Two attempts and one answer: who starts when, who wins, what is left behind."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from goplugins.config import HedgeConfig
from goplugins.errors import (
    CircuitBreakerOpenError,
    ConnectionLostError,
    HTTPTransportError,
    PluginClosedError,
    PluginError,
    PluginExecutionError,
    PluginTimeoutError,
    PluginUnavailableError,
    RateLimitExceededError,
    SaturatedError,
)
from goplugins.pipeline.hedging import Hedger, hedge_pool
from goplugins.resilience import HedgePolicy, RetryBudget
from goplugins.runtime.call import Call
from goplugins.runtime.deadline import Deadline
from goplugins.runtime.workers import WorkerPool
from goplugins.testing import ManualClock
from goplugins.transports.json_codec import codec_for

DELAY = 0.1


class Leg:
    """One attempt as it arrives at the wire; the test says how it ends."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.thread = threading.current_thread()
        self._told = threading.Event()
        self._outcome: Any = None
        self.cancelled = False

    def end(self, outcome: Any) -> None:
        self._outcome = outcome
        self._told.set()

    def wait(self) -> Any:
        cancellation = self.call.deadline.cancellation
        try:
            if cancellation is None:
                assert self._told.wait(10)
            else:
                cancellation.guard(self._told.set, lambda: self._told.wait(10))
        except PluginError:
            self.cancelled = True
            raise
        if isinstance(self._outcome, BaseException):
            raise self._outcome
        return self._outcome


class Wire:
    """Makes attempts, and lets the test take hold of each."""

    def __init__(self) -> None:
        self.legs: list[Leg] = []
        self.at_once: dict[int, Any] = {}  # outcomes of attempts that the test need not end
        self.refused: dict[int, PluginError] = {}  # those that never leave this side
        self._arrived = threading.Condition()

    def __call__(self, call: Call) -> Any:
        with self._arrived:
            number = len(self.legs)
            leg = Leg(call)
            self.legs.append(leg)
            if number not in self.refused:
                call.attempts += 1
            self._arrived.notify_all()
        if number in self.refused:
            raise self.refused[number]
        if number in self.at_once:
            leg.end(self.at_once[number])
        call.reply_metadata = {"leg": str(number)}
        call.member = f"member-{number}"
        return leg.wait()

    def leg(self, number: int) -> Leg:
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.legs) > number, 10), f"attempt {number} did not come"
        return self.legs[number]


class House:
    """A hedger with all that it needs, and calls on threads of their own."""

    def __init__(self, clock: ManualClock, pool: WorkerPool, **hedge: Any) -> None:
        self.clock = clock
        self.pool = pool
        self.wire = Wire()
        self.budget = RetryBudget(clock=clock)
        self.policy = HedgePolicy(HedgeConfig(**(hedge or {"delay": DELAY})), clock=clock)
        self.hedger = Hedger(self.policy, pool, self.budget, clock)
        self.failure: BaseException | None = None
        self.value: Any = None

    def new_call(self, timeout: float = 5.0, **fields: Any) -> Call:
        call = Call("request", codec_for(), Deadline.after(timeout, self.clock), "id-1", idempotent=True, **fields)
        call.payload = b'"request"'
        return call

    def start(self, call: Call) -> threading.Thread:
        def run() -> None:
            try:
                self.value = self.hedger(call, self.wire)
            except BaseException as exc:
                self.failure = exc

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def start_late(self, call: Call) -> threading.Thread:
        """A call whose second attempt is under way."""
        thread = self.start(call)
        self.wire.leg(0)
        self.clock.wait_for_waiters(1)
        self.clock.advance(DELAY)
        self.wire.leg(1)
        return thread


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(auto_advance=False)


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    made = hedge_pool()
    yield made
    made.shutdown(timeout=10)
    assert made.threads == 0, "an attempt did not end"


@pytest.fixture
def make(clock: ManualClock, pool: WorkerPool) -> Callable[..., House]:
    return lambda **hedge: House(clock, pool, **hedge)


@pytest.fixture
def house(make: Callable[..., House]) -> House:
    return make()


def joined(thread: threading.Thread) -> None:
    thread.join(10)
    assert not thread.is_alive()


# --- when there is a hedge, and when not ---------------------------------------------------------------------------


def test_an_answer_before_the_delay_needs_no_hedge(house: House) -> None:
    call = house.new_call()
    thread = house.start(call)
    leg = house.wire.leg(0)
    house.clock.wait_for_waiters(1)
    house.clock.advance(DELAY / 2)
    leg.end("answer")
    joined(thread)
    assert house.value == "answer"
    assert len(house.wire.legs) == call.attempts == 1
    assert (house.hedger.sent, house.hedger.won) == (0, 0)
    assert house.budget.available == 100.0


def test_a_late_attempt_gets_company_and_the_first_answer_counts(house: House) -> None:
    call = house.new_call()
    thread = house.start_late(call)
    house.wire.leg(1).end("second")
    joined(thread)
    assert house.value == "second"
    assert (call.attempts, call.member, call.reply_metadata) == (2, "member-1", {"leg": "1"})
    assert (house.hedger.sent, house.hedger.won) == (1, 1)
    assert house.budget.available == 99.0
    house.pool.shutdown(timeout=10)
    assert house.wire.leg(0).cancelled


def test_the_first_attempt_may_win_after_all(house: House) -> None:
    call = house.new_call()
    thread = house.start_late(call)
    house.wire.leg(0).end("first")
    joined(thread)
    assert house.value == "first"
    assert (call.attempts, call.member, house.hedger.sent, house.hedger.won) == (2, "member-0", 1, 0)
    house.pool.shutdown(timeout=10)
    assert house.wire.leg(1).cancelled


def test_both_attempts_run_on_workers_and_are_copies_of_the_call(house: House) -> None:
    call = house.new_call(key="k", priority=3, preferences=("a",), headers={"X-A": "1"}, metadata={"m": "1"})
    thread = house.start_late(call)
    for number in (0, 1):
        leg = house.wire.leg(number)
        assert leg.thread.name.startswith("goplugins-hedge")
        assert leg.call is not call
        for field in ("request", "request_id", "payload", "idempotent", "key", "priority", "preferences", "headers"):
            assert getattr(leg.call, field) == getattr(call, field), field
        assert leg.call.deadline.at == call.deadline.at
    assert house.wire.leg(0).thread is not house.wire.leg(1).thread
    house.wire.leg(0).end("answer")
    joined(thread)


def test_the_server_is_told_less_time_the_second_time(house: House) -> None:
    call = house.new_call()
    told: list[float] = []
    attempt = house.wire.__call__

    def noting(leg: Call) -> Any:
        told.append(leg.deadline.remaining())
        return attempt(leg)

    house.wire = noting  # type: ignore[assignment]
    wire = attempt.__self__  # type: ignore[attr-defined]
    thread = house.start(call)
    wire.leg(0)
    house.clock.wait_for_waiters(1)
    house.clock.advance(DELAY)
    wire.leg(1).end("answer")
    joined(thread)
    assert told == pytest.approx([5.0, 5.0 - DELAY])


def test_while_little_is_known_calls_run_on_their_own_threads(make: Callable[..., House]) -> None:
    house = make(percentile=0.95, min_delay=0.0)
    for _ in range(20):
        call = house.new_call()
        house.wire.at_once[len(house.wire.legs)] = "answer"
        assert house.hedger(call, house.wire) == "answer"
        assert house.wire.legs[-1].thread is threading.current_thread()
        assert house.wire.legs[-1].call is call
        assert call.attempts == 1
    assert house.pool.threads == 0
    house.wire.at_once[20] = "answer"
    assert house.hedger(house.new_call(), house.wire) == "answer"
    assert house.wire.legs[-1].thread is not threading.current_thread()


def test_without_two_free_workers_there_is_no_hedge(house: House) -> None:
    held = house.pool.reserve(house.pool.max_workers - 1)
    call = house.new_call()
    house.wire.at_once[0] = "answer"
    assert house.hedger(call, house.wire) == "answer"
    assert house.wire.leg(0).thread is threading.current_thread()
    assert len(held) == house.pool.max_workers - 1


def test_a_call_that_ends_before_a_hedge_could_help_has_none(house: House) -> None:
    house.wire.at_once[0] = "answer"
    assert house.hedger(house.new_call(timeout=DELAY), house.wire) == "answer"
    assert house.wire.leg(0).thread is threading.current_thread()


def test_without_budget_there_is_no_hedge(make: Callable[..., House]) -> None:
    house = make(delay=0.05)
    while house.budget.withdraw():
        pass
    thread = house.start(house.new_call())
    leg = house.wire.leg(0)
    house.clock.wait_for_waiters(1)
    house.clock.advance(0.05)  # earns half a withdrawal
    house.clock.wait_for_waiters(1)
    leg.end("answer")
    joined(thread)
    assert (house.value, len(house.wire.legs), house.hedger.sent) == ("answer", 1, 0)


def test_a_call_that_is_not_idempotent_is_never_hedged(house: House) -> None:
    call = house.new_call()
    call.idempotent = False
    house.wire.at_once[0] = "answer"
    assert house.hedger(call, house.wire) == "answer"
    assert house.wire.leg(0).call is call
    assert house.wire.leg(0).thread is threading.current_thread()


def test_an_attempt_that_waits_for_the_limiter_is_not_hedged(house: House) -> None:
    waiting = threading.Event()

    def limited(call: Call) -> str:
        waiting.wait(10)  # no token yet: nothing was sent
        call.attempts += 1
        return "answer"

    call = house.new_call()
    thread = threading.Thread(target=lambda: setattr(house, "value", house.hedger(call, limited)))
    thread.start()
    house.clock.wait_for_waiters(1)
    house.clock.advance(DELAY)
    house.clock.wait_for_waiters(1)
    waiting.set()
    joined(thread)
    assert (house.value, house.hedger.sent, house.budget.available) == ("answer", 0, 100.0)


def test_a_hedge_never_waits_for_a_token_and_has_no_reconnect_of_its_own(house: House) -> None:
    call = house.new_call(max_wait=60.0)
    thread = house.start_late(call)
    first, second = house.wire.leg(0).call, house.wire.leg(1).call
    assert (first.max_wait, second.max_wait) == (60.0, 0.0)
    assert (first.reconnected, second.reconnected) == (False, True)
    house.wire.leg(1).end("answer")
    joined(thread)
    assert not call.reconnected


def test_latencies_are_those_of_the_calls_so_that_a_won_hedge_counts_as_late(make: Callable[..., House]) -> None:
    """Else the losers' latencies would be missing, and the delay would creep towards nothing."""
    house = make(percentile=0.95, min_delay=DELAY)
    for _ in range(20):
        house.policy.record(0.01)
    thread = house.start_late(house.new_call())
    house.clock.advance(0.05)
    house.wire.leg(1).end("answer")
    joined(thread)
    assert max(house.policy._sorted) == pytest.approx(DELAY + 0.05)


def test_failures_say_nothing_of_the_usual_latency(make: Callable[..., House]) -> None:
    house = make(percentile=0.95)
    for _ in range(40):
        house.wire.at_once[len(house.wire.legs)] = HTTPTransportError("500")
        with pytest.raises(HTTPTransportError):
            house.hedger(house.new_call(), house.wire)
    assert house.policy.delay() is None


# --- failures ------------------------------------------------------------------------------------------------------


def test_a_failure_before_the_delay_goes_to_the_retry_rules_at_once(house: House) -> None:
    call = house.new_call()
    house.wire.at_once[0] = HTTPTransportError("500")
    with pytest.raises(HTTPTransportError):
        house.hedger(call, house.wire)
    assert call.attempts == 1
    assert house.budget.available == 100.0


@pytest.mark.parametrize("failing", [0, 1])
def test_one_failure_waits_for_the_other_attempt(house: House, failing: int) -> None:
    call = house.new_call()
    thread = house.start_late(call)
    house.wire.leg(failing).end(ConnectionLostError("gone"))
    house.clock.wait_for_waiters(1)
    assert thread.is_alive()
    house.wire.leg(1 - failing).end("answer")
    joined(thread)
    assert house.value == "answer"
    assert call.attempts == 2


@pytest.mark.parametrize("answering", [0, 1])
def test_a_no_of_the_plugin_is_an_answer(house: House, answering: int) -> None:
    thread = house.start_late(house.new_call())
    no = PluginExecutionError("you are not allowed")
    house.wire.leg(answering).end(no)
    joined(thread)
    assert house.failure is no
    assert house.hedger.won == answering


LOST, TIMEOUT = ConnectionLostError("lost"), PluginTimeoutError("late")
BROKEN, BUSY = HTTPTransportError("500"), PluginUnavailableError("busy", retry_after=3.0)
OPEN, LIMIT, FULL = CircuitBreakerOpenError("open"), RateLimitExceededError("limit"), SaturatedError("full")


@pytest.mark.parametrize(
    ("first", "second", "raised"),
    [
        (BROKEN, LOST, BROKEN),
        (LOST, BROKEN, BROKEN),
        (TIMEOUT, BROKEN, BROKEN),
        (LOST, TIMEOUT, LOST),
        (TIMEOUT, LOST, TIMEOUT),
        (BROKEN, BUSY, BUSY),
        (BUSY, BROKEN, BUSY),
    ],
)
def test_of_two_failures_the_one_that_says_more_is_raised(
    house: House, first: PluginError, second: PluginError, raised: PluginError
) -> None:
    call = house.new_call()
    thread = house.start_late(call)
    house.wire.leg(1).end(second)
    house.clock.wait_for_waiters(1)
    house.wire.leg(0).end(first)
    joined(thread)
    assert house.failure is raised
    assert (call.attempts, house.hedger.sent, house.hedger.won) == (2, 1, 0)


@pytest.mark.parametrize("refusal", [OPEN, LIMIT, FULL])
def test_a_hedge_that_is_refused_on_this_side_is_none(house: House, refusal: PluginError) -> None:
    house.wire.refused[1] = refusal
    call = house.new_call()
    thread = house.start_late(call)
    house.clock.wait_for_waiters(1)
    house.wire.leg(0).end(LOST)
    joined(thread)
    assert house.failure is LOST
    assert (call.attempts, house.hedger.sent) == (1, 0)


def test_what_belongs_to_the_host_passes_at_once(house: House) -> None:
    thread = house.start_late(house.new_call())
    house.wire.leg(1).end(SystemExit(3))
    joined(thread)
    assert isinstance(house.failure, SystemExit)
    house.pool.shutdown(timeout=10)
    assert house.wire.leg(0).cancelled


def test_attempts_that_outlast_the_deadline_are_not_waited_for(house: House) -> None:
    call = house.new_call(timeout=1.0)
    thread = house.start_late(call)
    house.clock.wait_for_waiters(1)
    house.clock.advance(1.0 - DELAY + 0.02)
    joined(thread)
    assert type(house.failure) is PluginTimeoutError
    assert call.attempts == 2
    house.pool.shutdown(timeout=10)
    assert house.wire.leg(0).cancelled
    assert house.wire.leg(1).cancelled


def test_attempts_may_say_in_their_own_words_that_the_time_is_over(house: House) -> None:
    thread = house.start_late(house.new_call(timeout=1.0))
    house.clock.wait_for_waiters(1)
    house.clock.advance(1.0 - DELAY)
    late = PluginTimeoutError("no whole reply in time; 17 bytes of it had come")
    house.wire.leg(0).end(late)
    house.wire.leg(1).end(TIMEOUT)
    joined(thread)
    assert house.failure is late


def test_no_collector_is_needed_after_a_failure(house: House) -> None:
    class MarkedError(HTTPTransportError):
        pass

    gc.collect()
    gc.disable()
    try:
        seen: list[weakref.ref[Any]] = []
        for number in range(4):
            error: MarkedError | None = MarkedError("500")
            seen.append(weakref.ref(error))  # type: ignore[arg-type]
            house.wire.at_once[number] = error
            with pytest.raises(MarkedError):
                house.hedger(house.new_call(), house.wire)
            house.wire.at_once.clear()
            house.wire.legs[number]._outcome = error = None
        house.pool.shutdown(timeout=10)
        assert [reference() for reference in seen] == [None] * 4
    finally:
        gc.enable()


# --- trouble with the workers --------------------------------------------------------------------------------------


def test_a_pool_that_closes_in_between_does_not_hurt_the_call(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: Any) -> None:
        raise PluginClosedError("the pool is shut down")

    monkeypatch.setattr(house.pool, "submit_to", closed)
    call = house.new_call()
    house.wire.at_once[0] = "answer"
    assert house.hedger(call, house.wire) == "answer"
    assert house.wire.leg(0).thread is threading.current_thread()
    assert call.attempts == 1


def test_a_call_for_which_no_thread_can_be_started_runs_here(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    call = house.new_call()
    house.wire.at_once[0] = "answer"
    monkeypatch.setattr(threading.Thread, "start", no_more)
    assert house.hedger(call, house.wire) == "answer"
    assert house.wire.leg(0).thread is threading.current_thread()
    assert call.attempts == 1


# --- interrupts and forks ------------------------------------------------------------------------------------------


class Interrupted(BaseException):
    pass


class InterruptingClock(ManualClock):
    """Raises out of its ``number``-th wait, as a signal handler would."""

    def __init__(self, number: int) -> None:
        super().__init__(auto_advance=False)
        self.left = number
        self.ready: Callable[[], object] = lambda: None

    def wait(self, waiter: Any, timeout: float | None) -> bool:
        self.left -= 1
        if not self.left:
            self.ready()
            raise Interrupted
        if self.left > 0:
            self.advance(timeout or 0.0)
            return False
        return super().wait(waiter, timeout)


@pytest.mark.parametrize("number", [1, 2])
def test_an_interrupt_of_the_caller_cancels_every_attempt(pool: WorkerPool, number: int) -> None:
    clock = InterruptingClock(number)
    house = House(clock, pool)
    clock.ready = lambda: house.wire.leg(number - 1)
    call = house.new_call()
    if number == 2:
        started = house.hedger.pool.submit_to
        # The first one is at the wire when the delay is over, or it would not be hedged.
        house.hedger.pool.submit_to = lambda *how: (started(*how), house.wire.leg(0))[0]  # type: ignore[method-assign]
    with pytest.raises(Interrupted):
        house.hedger(call, house.wire)
    assert call.attempts == number
    house.pool.shutdown(timeout=10)
    assert [leg.cancelled for leg in house.wire.legs] == [True] * number


def test_a_forked_child_counts_with_a_lock_of_its_own(house: House) -> None:
    house.hedger._lock.acquire()
    house.hedger.after_fork_in_child()
    house.hedger.count(won=True)
    assert (house.hedger.sent, house.hedger.won) == (1, 1)
