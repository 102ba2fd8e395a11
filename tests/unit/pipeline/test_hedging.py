"""Hedged execution: when the second attempt starts, which outcome counts, and what is left behind."""

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


class Attempt:
    """One attempt as it arrives at the sender; the test sets its outcome."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.thread = threading.current_thread()
        self._ended = threading.Event()
        self._outcome: Any = None
        self.cancelled = False

    def end(self, outcome: Any) -> None:
        self._outcome = outcome
        self._ended.set()

    def wait(self) -> Any:
        cancellation = self.call.deadline.cancellation
        try:
            if cancellation is None:
                assert self._ended.wait(10)
            else:
                cancellation.guard(self._ended.set, lambda: self._ended.wait(10))
        except PluginError:
            self.cancelled = True
            raise
        if isinstance(self._outcome, BaseException):
            raise self._outcome
        return self._outcome


class Sender:
    """Makes attempts whose outcomes the test sets."""

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []
        self.at_once: dict[int, Any] = {}  # outcomes of attempts that the test need not end
        self.refused: dict[int, PluginError] = {}  # those that never leave this side
        self._arrived = threading.Condition()

    def __call__(self, call: Call) -> Any:
        with self._arrived:
            number = len(self.attempts)
            attempt = Attempt(call)
            self.attempts.append(attempt)
            if number not in self.refused:
                call.attempts += 1
            self._arrived.notify_all()
        if number in self.refused:
            raise self.refused[number]
        if number in self.at_once:
            attempt.end(self.at_once[number])
        call.reply_metadata = {"attempt": str(number)}
        call.member = f"member-{number}"
        return attempt.wait()

    def attempt(self, number: int) -> Attempt:
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.attempts) > number, 10), f"attempt {number} did not come"
        return self.attempts[number]


class Bench:
    """A hedger with its parts, and calls on threads of their own."""

    def __init__(self, clock: ManualClock, pool: WorkerPool, **hedge: Any) -> None:
        self.clock = clock
        self.pool = pool
        self.sender = Sender()
        self.budget = RetryBudget(clock=clock)
        self.policy = HedgePolicy(HedgeConfig(**(hedge or {"delay": DELAY})), clock=clock)
        self.hedger = Hedger(self.policy, pool, self.budget, clock)
        self.failure: BaseException | None = None
        self.value: Any = None

    def new_call(self, timeout: float = 5.0, **fields: Any) -> Call:
        call = Call("request", codec_for(), Deadline.after(timeout, self.clock), "id-1", idempotent=True, **fields)
        call.payload = b'"request"'
        return call

    def hedges(self) -> tuple[int, int]:
        """How many were sent, and how many won."""
        counts = self.hedger.counts.metrics()
        return counts.hedges_sent, counts.hedges_won

    def start(self, call: Call) -> threading.Thread:
        def run() -> None:
            try:
                self.value = self.hedger(call, self.sender)
            except BaseException as exc:
                self.failure = exc

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def start_late(self, call: Call) -> threading.Thread:
        """A call whose second attempt is under way."""
        thread = self.start(call)
        self.sender.attempt(0)
        self.clock.wait_for_waiters(1)
        self.clock.advance(DELAY)
        self.sender.attempt(1)
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
def make(clock: ManualClock, pool: WorkerPool) -> Callable[..., Bench]:
    return lambda **hedge: Bench(clock, pool, **hedge)


@pytest.fixture
def bench(make: Callable[..., Bench]) -> Bench:
    return make()


def joined(thread: threading.Thread) -> None:
    thread.join(10)
    assert not thread.is_alive()


# --- when there is a hedge, and when not ---------------------------------------------------------------------------


def test_an_answer_before_the_delay_needs_no_hedge(bench: Bench) -> None:
    call = bench.new_call()
    thread = bench.start(call)
    attempt = bench.sender.attempt(0)
    bench.clock.wait_for_waiters(1)
    bench.clock.advance(DELAY / 2)
    attempt.end("answer")
    joined(thread)
    assert bench.value == "answer"
    assert len(bench.sender.attempts) == call.attempts == 1
    assert bench.hedges() == (0, 0)
    assert bench.budget.available == 100.0


def test_a_late_attempt_is_hedged_and_the_first_answer_counts(bench: Bench) -> None:
    call = bench.new_call()
    thread = bench.start_late(call)
    bench.sender.attempt(1).end("second")
    joined(thread)
    assert bench.value == "second"
    assert (call.attempts, call.member, call.reply_metadata) == (2, "member-1", {"attempt": "1"})
    assert bench.hedges() == (1, 1)
    assert bench.budget.available == 99.0
    bench.pool.shutdown(timeout=10)
    assert bench.sender.attempt(0).cancelled


def test_the_first_attempt_may_win_after_all(bench: Bench) -> None:
    call = bench.new_call()
    thread = bench.start_late(call)
    bench.sender.attempt(0).end("first")
    joined(thread)
    assert bench.value == "first"
    assert (call.attempts, call.member, *bench.hedges()) == (2, "member-0", 1, 0)
    bench.pool.shutdown(timeout=10)
    assert bench.sender.attempt(1).cancelled


def test_both_attempts_run_on_workers_and_are_copies_of_the_call(bench: Bench) -> None:
    call = bench.new_call(key="k", priority=3, preferences=("a",), headers={"X-A": "1"}, metadata={"m": "1"})
    thread = bench.start_late(call)
    for number in (0, 1):
        attempt = bench.sender.attempt(number)
        assert attempt.thread.name.startswith("goplugins-hedge")
        assert attempt.call is not call
        for field in ("request", "request_id", "payload", "idempotent", "key", "priority", "preferences", "headers"):
            assert getattr(attempt.call, field) == getattr(call, field), field
        assert attempt.call.deadline.at == call.deadline.at
    assert bench.sender.attempt(0).thread is not bench.sender.attempt(1).thread
    bench.sender.attempt(0).end("answer")
    joined(thread)


def test_the_second_attempt_has_less_time_left(bench: Bench) -> None:
    call = bench.new_call()
    remaining: list[float] = []
    sender = bench.sender

    def recording(attempt: Call) -> Any:
        remaining.append(attempt.deadline.remaining())
        return sender(attempt)

    bench.sender = recording  # type: ignore[assignment]
    thread = bench.start(call)
    sender.attempt(0)
    bench.clock.wait_for_waiters(1)
    bench.clock.advance(DELAY)
    sender.attempt(1).end("answer")
    joined(thread)
    assert remaining == pytest.approx([5.0, 5.0 - DELAY])


def test_calls_run_on_their_own_threads_until_the_usual_latency_is_known(make: Callable[..., Bench]) -> None:
    bench = make(percentile=0.95, min_delay=0.0)
    for _ in range(20):
        call = bench.new_call()
        bench.sender.at_once[len(bench.sender.attempts)] = "answer"
        assert bench.hedger(call, bench.sender) == "answer"
        assert bench.sender.attempts[-1].thread is threading.current_thread()
        assert bench.sender.attempts[-1].call is call
        assert call.attempts == 1
    assert bench.pool.threads == 0
    bench.sender.at_once[20] = "answer"
    assert bench.hedger(bench.new_call(), bench.sender) == "answer"
    assert bench.sender.attempts[-1].thread is not threading.current_thread()


def test_without_two_free_workers_there_is_no_hedge(bench: Bench) -> None:
    held = bench.pool.reserve(bench.pool.max_workers - 1)
    call = bench.new_call()
    bench.sender.at_once[0] = "answer"
    assert bench.hedger(call, bench.sender) == "answer"
    assert bench.sender.attempt(0).thread is threading.current_thread()
    assert len(held) == bench.pool.max_workers - 1


def test_a_call_that_ends_before_a_hedge_could_help_has_none(bench: Bench) -> None:
    bench.sender.at_once[0] = "answer"
    assert bench.hedger(bench.new_call(timeout=DELAY), bench.sender) == "answer"
    assert bench.sender.attempt(0).thread is threading.current_thread()


def test_without_budget_there_is_no_hedge(make: Callable[..., Bench]) -> None:
    bench = make(delay=0.05)
    while bench.budget.withdraw():
        pass
    thread = bench.start(bench.new_call())
    attempt = bench.sender.attempt(0)
    bench.clock.wait_for_waiters(1)
    bench.clock.advance(0.05)  # earns half a withdrawal
    bench.clock.wait_for_waiters(1)
    attempt.end("answer")
    joined(thread)
    assert (bench.value, len(bench.sender.attempts), bench.hedges()[0]) == ("answer", 1, 0)


def test_a_call_that_is_not_idempotent_is_never_hedged(bench: Bench) -> None:
    call = bench.new_call()
    call.idempotent = False
    bench.sender.at_once[0] = "answer"
    assert bench.hedger(call, bench.sender) == "answer"
    assert bench.sender.attempt(0).call is call
    assert bench.sender.attempt(0).thread is threading.current_thread()


def test_an_attempt_that_waits_for_the_limiter_is_not_hedged(bench: Bench) -> None:
    waiting = threading.Event()

    def limited(call: Call) -> str:
        waiting.wait(10)  # no token yet: nothing was sent
        call.attempts += 1
        return "answer"

    call = bench.new_call()
    thread = threading.Thread(target=lambda: setattr(bench, "value", bench.hedger(call, limited)))
    thread.start()
    bench.clock.wait_for_waiters(1)
    bench.clock.advance(DELAY)
    bench.clock.wait_for_waiters(1)
    waiting.set()
    joined(thread)
    assert (bench.value, bench.hedges()[0], bench.budget.available) == ("answer", 0, 100.0)


def test_a_hedge_never_waits_for_a_token_and_has_no_reconnect_of_its_own(bench: Bench) -> None:
    call = bench.new_call(max_wait=60.0)
    thread = bench.start_late(call)
    first, second = bench.sender.attempt(0).call, bench.sender.attempt(1).call
    assert (first.max_wait, second.max_wait) == (60.0, 0.0)
    assert (first.reconnected, second.reconnected) == (False, True)
    bench.sender.attempt(1).end("answer")
    joined(thread)
    assert not call.reconnected


def test_latencies_are_those_of_the_calls_so_that_a_won_hedge_counts_as_late(make: Callable[..., Bench]) -> None:
    """Else the losers' latencies would be missing, and the delay would creep towards nothing."""
    bench = make(percentile=0.95, min_delay=DELAY)
    for _ in range(20):
        bench.policy.record(0.01)
    thread = bench.start_late(bench.new_call())
    bench.clock.advance(0.05)
    bench.sender.attempt(1).end("answer")
    joined(thread)
    assert max(bench.policy._sorted) == pytest.approx(DELAY + 0.05)


def test_failures_do_not_change_the_usual_latency(make: Callable[..., Bench]) -> None:
    bench = make(percentile=0.95)
    for _ in range(40):
        bench.sender.at_once[len(bench.sender.attempts)] = HTTPTransportError("500")
        with pytest.raises(HTTPTransportError):
            bench.hedger(bench.new_call(), bench.sender)
    assert bench.policy.delay() is None


# --- failures ------------------------------------------------------------------------------------------------------


def test_a_failure_before_the_delay_goes_to_the_retry_rules_at_once(bench: Bench) -> None:
    call = bench.new_call()
    bench.sender.at_once[0] = HTTPTransportError("500")
    with pytest.raises(HTTPTransportError):
        bench.hedger(call, bench.sender)
    assert call.attempts == 1
    assert bench.budget.available == 100.0


@pytest.mark.parametrize("failing", [0, 1])
def test_one_failure_waits_for_the_other_attempt(bench: Bench, failing: int) -> None:
    call = bench.new_call()
    thread = bench.start_late(call)
    bench.sender.attempt(failing).end(ConnectionLostError("gone"))
    bench.clock.wait_for_waiters(1)
    assert thread.is_alive()
    bench.sender.attempt(1 - failing).end("answer")
    joined(thread)
    assert bench.value == "answer"
    assert call.attempts == 2


@pytest.mark.parametrize("answering", [0, 1])
def test_a_rejection_by_the_plugin_is_an_answer(bench: Bench, answering: int) -> None:
    thread = bench.start_late(bench.new_call())
    no = PluginExecutionError("you are not allowed")
    bench.sender.attempt(answering).end(no)
    joined(thread)
    assert bench.failure is no
    assert bench.hedges()[1] == answering


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
def test_of_two_failures_the_more_informative_one_is_raised(
    bench: Bench, first: PluginError, second: PluginError, raised: PluginError
) -> None:
    call = bench.new_call()
    thread = bench.start_late(call)
    bench.sender.attempt(1).end(second)
    bench.clock.wait_for_waiters(1)
    bench.sender.attempt(0).end(first)
    joined(thread)
    assert bench.failure is raised
    assert (call.attempts, *bench.hedges()) == (2, 1, 0)


@pytest.mark.parametrize("refusal", [OPEN, LIMIT, FULL])
def test_a_hedge_that_is_refused_on_this_side_is_not_counted(bench: Bench, refusal: PluginError) -> None:
    bench.sender.refused[1] = refusal
    call = bench.new_call()
    thread = bench.start_late(call)
    bench.clock.wait_for_waiters(1)
    bench.sender.attempt(0).end(LOST)
    joined(thread)
    assert bench.failure is LOST
    assert (call.attempts, bench.hedges()[0]) == (1, 0)


def test_an_exception_of_the_host_passes_at_once(bench: Bench) -> None:
    thread = bench.start_late(bench.new_call())
    bench.sender.attempt(1).end(SystemExit(3))
    joined(thread)
    assert isinstance(bench.failure, SystemExit)
    bench.pool.shutdown(timeout=10)
    assert bench.sender.attempt(0).cancelled


def test_attempts_that_outlast_the_deadline_are_not_waited_for(bench: Bench) -> None:
    call = bench.new_call(timeout=1.0)
    thread = bench.start_late(call)
    bench.clock.wait_for_waiters(1)
    bench.clock.advance(1.0 - DELAY + 0.02)
    joined(thread)
    assert type(bench.failure) is PluginTimeoutError
    assert call.attempts == 2
    bench.pool.shutdown(timeout=10)
    assert bench.sender.attempt(0).cancelled
    assert bench.sender.attempt(1).cancelled


def test_attempts_may_report_their_own_timeout_shortly_after_the_deadline(bench: Bench) -> None:
    thread = bench.start_late(bench.new_call(timeout=1.0))
    bench.clock.wait_for_waiters(1)
    bench.clock.advance(1.0 - DELAY)
    late = PluginTimeoutError("no whole reply in time; 17 bytes of it had come")
    bench.sender.attempt(0).end(late)
    bench.sender.attempt(1).end(TIMEOUT)
    joined(thread)
    assert bench.failure is late


def test_a_failure_leaves_no_reference_cycle(bench: Bench) -> None:
    class MarkedError(HTTPTransportError):
        pass

    gc.collect()
    gc.disable()
    try:
        seen: list[weakref.ref[Any]] = []
        for number in range(4):
            error: MarkedError | None = MarkedError("500")
            seen.append(weakref.ref(error))  # type: ignore[arg-type]
            bench.sender.at_once[number] = error
            with pytest.raises(MarkedError):
                bench.hedger(bench.new_call(), bench.sender)
            bench.sender.at_once.clear()
            bench.sender.attempts[number]._outcome = error = None
        bench.pool.shutdown(timeout=10)
        assert [reference() for reference in seen] == [None] * 4
    finally:
        gc.enable()


# --- trouble with the workers --------------------------------------------------------------------------------------


def test_a_pool_that_is_shut_down_does_not_fail_the_call(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: Any) -> None:
        raise PluginClosedError("the pool is shut down")

    monkeypatch.setattr(bench.pool, "submit_to", closed)
    call = bench.new_call()
    bench.sender.at_once[0] = "answer"
    assert bench.hedger(call, bench.sender) == "answer"
    assert bench.sender.attempt(0).thread is threading.current_thread()
    assert call.attempts == 1


def test_a_call_for_which_no_thread_can_be_started_runs_here(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    call = bench.new_call()
    bench.sender.at_once[0] = "answer"
    monkeypatch.setattr(threading.Thread, "start", no_more)
    assert bench.hedger(call, bench.sender) == "answer"
    assert bench.sender.attempt(0).thread is threading.current_thread()
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
    bench = Bench(clock, pool)
    clock.ready = lambda: bench.sender.attempt(number - 1)
    call = bench.new_call()
    if number == 2:
        started = bench.hedger.pool.submit_to
        # The first one is at the wire when the delay is over, or it would not be hedged.
        bench.hedger.pool.submit_to = lambda *how: (started(*how), bench.sender.attempt(0))[0]  # type: ignore[method-assign]
    with pytest.raises(Interrupted):
        bench.hedger(call, bench.sender)
    assert call.attempts == number
    bench.pool.shutdown(timeout=10)
    assert [attempt.cancelled for attempt in bench.sender.attempts] == [True] * number
