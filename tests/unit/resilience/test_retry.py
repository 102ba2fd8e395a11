"""RetryPolicy: backoff, which errors are retried, deadline, budget, closing; the import of tenacity."""

from __future__ import annotations

import contextlib
import gc
import random
import threading
import traceback
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from goplugins.config import RetryConfig
from goplugins.errors import (
    AuthenticationError,
    BadReplyError,
    CircuitBreakerOpenError,
    ConnectionLostError,
    HTTPTransportError,
    PluginClosedError,
    PluginConnectionError,
    PluginExecutionError,
    PluginRequestError,
    PluginThrottledError,
    PluginTimeoutError,
    PluginUnavailableError,
    RateLimitExceededError,
    Replay,
    SaturatedError,
)
from goplugins.resilience import RetryBudget, RetryPolicy
from goplugins.runtime.deadline import Deadline
from goplugins.testing import ManualClock


@pytest.fixture
def clock():
    return ManualClock(start=1000.0)


def make(**fields):
    defaults = {
        "max_retries": 3,
        "initial_interval": 0.1,
        "max_interval": 5.0,
        "multiplier": 2.0,
        "random_jitter": False,
    }
    return RetryPolicy(RetryConfig(**(defaults | fields)), rng=random.Random(3))


class Attempts:
    """Attempts with the given outcomes: exceptions are raised, other values returned."""

    def __init__(self, clock, *outcomes):
        self.clock = clock
        self.outcomes = list(outcomes)
        self.at: list[float] = []

    def __call__(self):
        self.at.append(round(self.clock.monotonic() - 1000.0, 6))
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


def refused(number=0):
    return PluginConnectionError(f"refused {number}")


# --- backoff ---------------------------------------------------------------------------------------------------------


def test_backoff_is_exponential_up_to_max_interval():
    policy = make(initial_interval=0.1, multiplier=3.0, max_interval=2.0)
    assert [policy.delay(n) for n in range(1, 6)] == pytest.approx([0.1, 0.3, 0.9, 2.0, 2.0])
    assert policy.delay(100_000) == 2.0


def test_the_jitter_is_10_percent():
    delays = [make(random_jitter=True, initial_interval=1.0).delay(1)] + [
        delay for policy in [make(random_jitter=True, initial_interval=1.0)] for delay in map(policy.delay, [1] * 1000)
    ]
    assert 0.9 <= min(delays) < 0.91
    assert 1.09 < max(delays) <= 1.1


def test_each_policy_has_its_own_jitter():
    delays = {RetryPolicy(RetryConfig(initial_interval=1.0)).delay(1) for _ in range(20)}
    assert len(delays) > 1
    assert all(0.9 <= delay <= 1.1 for delay in delays)


def test_an_empty_configuration_has_the_production_defaults():
    policy = RetryPolicy(RetryConfig(), rng=random.Random(1))
    assert policy.max_retries == 3
    assert 0.09 <= policy.delay(1) <= 0.11
    assert 4.5 <= policy.delay(50) <= 5.5


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "plain", "idempotent"),
    [
        (PluginThrottledError("429"), True, True),
        (PluginConnectionError("refused"), True, True),
        (PluginUnavailableError("503 with Retry-After", replay=Replay.ALWAYS, retry_after=1.0), True, True),
        (PluginUnavailableError("503"), False, True),
        (PluginTimeoutError("late"), False, True),
        (ConnectionLostError("reset"), False, True),
        (HTTPTransportError("502"), False, True),
        (PluginRequestError("404"), False, False),
        (AuthenticationError("401"), False, False),
        (BadReplyError("broken"), False, False),
        (PluginExecutionError("business"), False, False),
        (CircuitBreakerOpenError("open"), False, False),
        (SaturatedError("pool"), False, False),
        (PluginThrottledError("pushback: stop", replay=Replay.NEVER), False, False),
    ],
    ids=str,
)
def test_which_errors_are_retried(error, plain, idempotent, clock):
    policy = make()
    assert policy.may_replay(error, False) is plain
    assert policy.may_replay(error, True) is idempotent
    for flag, replayed in ((False, plain), (True, idempotent)):
        attempt = Attempts(clock, "value")
        with contextlib.suppress(type(error)):
            policy.run(error, attempt, idempotent=flag, clock=clock)
        assert len(attempt.at) == replayed


def test_a_call_is_not_idempotent_by_default():
    error = PluginUnavailableError("503")
    with pytest.raises(PluginUnavailableError):
        make().run(error, lambda: pytest.fail("an attempt was made"), clock=ManualClock())


def test_known_fault_a_refused_connection_or_a_503_was_never_retried(clock):
    attempt = Attempts(clock, PluginUnavailableError("503", replay=Replay.ALWAYS, retry_after=0.5), "value")
    assert make().run(refused(), attempt, clock=clock) == "value"
    assert attempt.at == [0.1, 0.6]


def test_an_error_that_may_not_be_retried_ends_the_retries(clock):
    rejected = PluginExecutionError("no such user")
    attempt = Attempts(clock, rejected, "never reached")
    with pytest.raises(PluginExecutionError) as caught:
        make().run(refused(), attempt, clock=clock)
    assert caught.value is rejected
    assert len(attempt.at) == 1


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(3), ZeroDivisionError("a bug")], ids=repr)
def test_other_exceptions_are_not_retried(clock, stop):
    attempt = Attempts(clock, stop, "never reached")
    with pytest.raises(type(stop)) as caught:
        make().run(refused(), attempt, clock=clock)
    assert caught.value is stop
    assert len(attempt.at) == 1


@pytest.mark.parametrize(
    "refusal",
    [
        CircuitBreakerOpenError("open"),
        RateLimitExceededError("limit"),
        SaturatedError("full"),
        PluginClosedError("replaced"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_retry_that_is_refused_locally_raises_the_last_error_of_the_plugin(clock, refusal):
    last = refused(1)
    attempt = Attempts(clock, last, refusal, "never reached")
    with pytest.raises(PluginConnectionError) as caught:
        make().run(refused(0), attempt, clock=clock)
    assert caught.value is last
    assert caught.value.details == {"replay_refused": refusal.code}
    assert len(attempt.at) == 2


# --- attempts --------------------------------------------------------------------------------------------------------


def test_retries_with_backoff_until_one_succeeds(clock):
    attempt = Attempts(clock, refused(1), refused(2), {"answer": 42})
    assert make().run(refused(0), attempt, clock=clock) == {"answer": 42}
    assert attempt.at == [0.1, 0.3, 0.7]


def test_none_is_a_value(clock):
    assert make().run(refused(), Attempts(clock, None), clock=clock) is None


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_attempts_equal_the_configured_retries(clock, retries):
    errors = [refused(n) for n in range(retries + 1)]
    attempt = Attempts(clock, *errors[1:], "never reached")
    with pytest.raises(PluginConnectionError) as caught:
        make().run(errors[0], attempt, max_retries=retries, clock=clock)
    assert caught.value is errors[-1]
    assert len(attempt.at) == retries
    assert caught.value.details == {}


def test_one_policy_serves_many_calls_at_once():
    policy = make(initial_interval=0.01)

    def call(number):
        clock = ManualClock(1000.0)
        attempt = Attempts(clock, refused(), refused(), number)
        return policy.run(refused(), attempt, clock=clock), attempt.at

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(call, range(200)))
    assert results == [(number, [0.01, 0.03, 0.07]) for number in range(200)]


def test_the_traceback_has_no_frames_of_tenacity(clock):
    with pytest.raises(PluginConnectionError) as caught:
        make().run(refused(0), Attempts(clock, refused(1), refused(2), refused(3)), clock=clock)
    text = "".join(traceback.format_exception(caught.value))
    assert "raise outcome" in text
    assert "tenacity/" not in text
    assert "RetryError" not in text


@pytest.mark.parametrize("last", [PluginExecutionError, PluginConnectionError, SaturatedError])
def test_a_failed_call_leaves_no_work_for_the_garbage_collector(clock, last):
    def fail():
        raise last("no")

    gc.collect()
    gc.disable()
    try:
        try:
            try:
                fail()
            except last as exc:
                make().run(exc, fail, clock=clock)
        except last as exc:
            remains = weakref.ref(exc)
        assert remains() is None
    finally:
        gc.enable()


# --- deadline --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "retries"), [(0.106, 1), (0.1049, 0), (0.05, 0)])
def test_a_backoff_that_would_reach_the_deadline_is_not_begun(clock, seconds, retries):
    error = refused()
    attempt = Attempts(clock, "value")
    deadline = Deadline(1000.0 + seconds, clock)
    if retries:
        assert make().run(error, attempt, deadline=deadline, clock=clock) == "value"
    else:
        with pytest.raises(PluginConnectionError) as caught:
            make().run(error, attempt, deadline=deadline, clock=clock)
        assert caught.value is error
        assert caught.value.details == {"retry_stopped": "deadline"}
        assert clock.monotonic() == 1000.0, "without a wait"
    assert len(attempt.at) == retries


@pytest.mark.parametrize(("remaining", "retries"), [([0.131], 1), ([0.13], 0), ([9.0, 0.0], 0)])
def test_no_attempt_in_the_last_five_milliseconds(remaining, retries):
    class Scripted:
        """A deadline with scripted remaining times."""

        def remaining(self):
            return remaining.pop(0) if len(remaining) > 1 else remaining[0]

    clock, error = ManualClock(1000.0), refused()
    attempt = Attempts(clock, "value")
    with contextlib.suppress(PluginConnectionError):
        make(initial_interval=0.125).run(error, attempt, deadline=Scripted(), clock=clock)
    assert len(attempt.at) == retries
    assert error.details == ({} if retries else {"retry_stopped": "deadline"})


def test_retry_after_is_the_shortest_wait(clock):
    attempt = Attempts(clock, PluginThrottledError("429", retry_after=0.01), "value")
    make().run(PluginThrottledError("429", retry_after=2.0), attempt, clock=clock)
    assert attempt.at == [2.0, 2.2]


def test_a_retry_after_beyond_the_deadline_fails_at_once(clock):
    attempt = Attempts(clock)
    with pytest.raises(PluginThrottledError) as caught:
        make().run(
            PluginThrottledError("429", retry_after=60.0), attempt, deadline=Deadline(1030.0, clock), clock=clock
        )
    assert caught.value.retry_after == 60.0
    assert clock.monotonic() == 1000.0
    assert attempt.at == []


class SlowClock(ManualClock):
    def wait(self, waiter, timeout):
        return super().wait(waiter, timeout + 10.0)


def test_a_wait_that_ends_after_the_deadline_raises_the_last_error():
    clock = SlowClock(1000.0)
    attempt = Attempts(clock)
    with pytest.raises(PluginConnectionError) as caught:
        make().run(refused(), attempt, deadline=Deadline(1001.0, clock), clock=clock)
    assert caught.value.details == {"retry_stopped": "deadline"}
    assert attempt.at == []


def test_closing_the_plugin_ends_a_wait():
    clock = ManualClock(1000.0, auto_advance=False)
    closing, error = threading.Event(), refused()
    attempt = Attempts(clock)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(make(initial_interval=5.0).run, error, attempt, clock=clock, closing=closing)
        clock.wait_for_waiters(1)
        closing.set()
        assert future.exception(10) is error
    assert error.details == {"retry_stopped": "closed"}
    assert attempt.at == []


# --- budget ----------------------------------------------------------------------------------------------------------


def test_each_retry_is_paid_and_an_empty_budget_raises_the_last_error(clock):
    budget = RetryBudget(0.0, clock=clock)
    for _ in range(98):
        budget.withdraw()
    exhausted = []
    errors = [refused(n) for n in range(4)]
    attempt = Attempts(clock, *errors[1:])
    with pytest.raises(PluginConnectionError) as caught:
        make(initial_interval=0.0).run(
            errors[0], attempt, budget=budget, clock=clock, on_budget_exhausted=lambda: exhausted.append(1)
        )
    assert len(attempt.at) == 2
    assert caught.value is errors[2]
    assert caught.value.details == {"retry_stopped": "budget"}
    assert exhausted == [1]


def test_an_exhausted_budget_fails_without_waiting(clock):
    budget = RetryBudget(0.0, clock=clock)
    while budget.withdraw():
        pass
    with pytest.raises(PluginConnectionError):
        make(initial_interval=3.0).run(refused(), Attempts(clock), budget=budget, clock=clock)
    assert clock.monotonic() == 1000.0


def test_a_budget_that_is_used_up_during_the_wait_stops_the_retry(clock):
    class ContestedBudget(RetryBudget):
        available = 1.0

        def withdraw(self):
            return False

    attempt, exhausted = Attempts(clock), []
    with pytest.raises(PluginConnectionError) as caught:
        make().run(
            refused(),
            attempt,
            budget=ContestedBudget(clock=clock),
            clock=clock,
            on_budget_exhausted=lambda: exhausted.append(1),
        )
    assert caught.value.details == {"retry_stopped": "budget"}
    assert (attempt.at, exhausted) == ([], [1])


def test_a_budget_of_exactly_one_pays_for_a_retry():
    class OneLeft:
        available = 1.0

        def withdraw(self):
            return True

    assert make().run(PluginConnectionError("no"), lambda: "ok", budget=OneLeft(), clock=ManualClock()) == "ok"
