"""The middle hop: order of the policies, who retries, what counts against a plugin, and the end."""

import threading

import pytest

from goplugins.enums import CircuitBreakerState
from goplugins.errors import (
    AuthenticationError,
    BadReplyError,
    CircuitBreakerOpenError,
    CircuitBreakerTimeoutError,
    ConnectionLostError,
    HTTPTransportError,
    PluginClosedError,
    PluginConnectionError,
    PluginExecutionError,
    PluginInternalError,
    PluginRequestError,
    PluginThrottledError,
    PluginTimeoutError,
    PluginUnavailableError,
    RateLimitExceededError,
    Replay,
    SaturatedError,
    UnserializableRequestError,
)
from goplugins.runtime.cancellation import AttemptCancelledError, Cancellation
from goplugins.runtime.deadline import CancellableDeadline
from goplugins.testing import ManualClock

from .fakes import FakeSender, Latch, guarded, make_call


def test_a_successful_call_is_one_attempt():
    clock = ManualClock()
    sender = FakeSender("answer")
    plugin = guarded(sender, clock)
    call = make_call(clock)
    assert plugin.call(call) == "answer"
    assert call.attempts == 1
    assert call.payload == b'"request"'
    counts = plugin.metrics()
    assert (counts.requests_total, counts.requests_success, counts.attempts_total) == (1, 1, 1)


@pytest.mark.parametrize(
    ("error", "idempotent", "attempts"),
    [
        (PluginConnectionError("refused"), False, 4),
        (PluginThrottledError("429"), False, 4),
        (PluginUnavailableError("503", replay=Replay.ALWAYS), False, 4),
        (PluginUnavailableError("503"), False, 1),
        (PluginUnavailableError("503"), True, 4),
        (ConnectionLostError("reset"), False, 1),
        (ConnectionLostError("reset"), True, 4),
        (HTTPTransportError("500"), False, 1),
        (HTTPTransportError("500"), True, 4),
        (PluginRequestError("404"), True, 1),
        (AuthenticationError("401"), True, 1),
        (BadReplyError("garbage"), True, 1),
        (PluginExecutionError("business"), True, 1),
        (SaturatedError("pool"), True, 0),
    ],
    ids=lambda value: f"{type(value).__name__}-{value}" if isinstance(value, Exception) else str(value),
)
def test_known_fault_a_refused_connection_or_503_was_never_retried(error, idempotent, attempts):
    clock = ManualClock()
    sender = FakeSender(*[error] * 9)
    plugin = guarded(sender, clock, circuit_breaker={"failure_threshold": 99})
    with pytest.raises(type(error)) as caught:
        plugin.call(make_call(clock, idempotent=idempotent))
    assert caught.value is error
    assert caught.value.attempts == attempts
    assert len(sender.sent) == max(attempts, 1)


def test_known_fault_the_error_said_four_attempts_when_there_was_one():
    clock = ManualClock()
    with pytest.raises(PluginRequestError) as caught:
        guarded(FakeSender(PluginRequestError("400")), clock).call(make_call(clock))
    assert caught.value.attempts == 1
    assert "attempts" not in str(caught.value)
    assert caught.value.plugin == "fake"


def test_retries_wait_longer_each_time_and_have_less_time_left():
    clock = ManualClock()
    sender = FakeSender(*[PluginConnectionError("refused")] * 3)
    assert guarded(sender, clock).call(make_call(clock, timeout=10.0)) == "ok"
    assert sender.remaining == pytest.approx([10.0, 9.9, 9.7, 9.3])


def test_a_retry_whose_wait_would_reach_the_deadline_is_not_made():
    clock = ManualClock()
    sender = FakeSender(*[PluginConnectionError("refused")] * 9)
    with pytest.raises(PluginConnectionError) as caught:
        guarded(sender, clock).call(make_call(clock, timeout=0.2))
    assert caught.value.attempts == 2
    assert clock.monotonic() == pytest.approx(0.1)


def test_max_retries_of_the_call_beats_the_configuration():
    clock = ManualClock()
    for wanted in (0, 1, 5):
        sender = FakeSender(*[PluginConnectionError("refused")] * 9)
        plugin = guarded(sender, clock, circuit_breaker={"failure_threshold": 99})
        with pytest.raises(PluginConnectionError):
            plugin.call(make_call(clock, max_retries=wanted))
        assert len(sender.sent) == wanted + 1


def test_an_expired_deadline_makes_no_attempt_and_counts_against_no_plugin():
    clock = ManualClock()
    sender = FakeSender()
    plugin = guarded(sender, clock, circuit_breaker={"failure_threshold": 1, "min_request_threshold": 1})
    call = make_call(clock, timeout=1.0)
    clock.advance(2.0)
    with pytest.raises(PluginTimeoutError) as caught:
        plugin.call(call)
    assert caught.value.attempts == 0
    assert sender.sent == []
    assert plugin.pipeline.breaker.state is CircuitBreakerState.CLOSED


def test_the_breaker_opens_on_failures_and_a_local_refusal_is_cheap_and_counted():
    clock = ManualClock()
    sender = FakeSender(*[HTTPTransportError("500")] * 3)
    plugin = guarded(sender, clock, circuit_breaker={"failure_threshold": 3, "recovery_timeout": "10s"})
    for _ in range(3):
        with pytest.raises(HTTPTransportError):
            plugin.call(make_call(clock))
    with pytest.raises(CircuitBreakerOpenError) as caught:
        plugin.call(make_call(clock))
    assert caught.value.attempts == 0
    assert caught.value.retry_after == pytest.approx(10.0)
    assert len(sender.sent) == 3
    counts = plugin.metrics()
    assert (counts.circuit_breaker_trips, counts.refused_circuit_breaker) == (1, 1)
    clock.advance(10.0)
    assert plugin.call(make_call(clock)) == "ok"


@pytest.mark.parametrize(
    "error",
    [
        PluginThrottledError("429"), PluginRequestError("404"), AuthenticationError("401"), SaturatedError("pool"),
        PluginExecutionError("business"), KeyboardInterrupt(), SystemExit(),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_known_fault_five_cancellations_by_callers_opened_the_breaker(error):
    clock = ManualClock()
    plugin = guarded(
        FakeSender(*[error] * 20),
        clock,
        retry={"max_retries": 0},
        circuit_breaker={"failure_threshold": 1, "min_request_threshold": 1},
    )
    for _ in range(20):
        with pytest.raises(type(error)):
            plugin.call(make_call(clock))
    assert plugin.pipeline.breaker.state is CircuitBreakerState.CLOSED


@pytest.mark.parametrize(("took", "state"), [(0.05, "closed"), (0.15, "open")])
def test_a_timeout_counts_only_if_the_plugin_had_time(took, state):
    clock = ManualClock()

    def late(call):
        clock.advance(took)
        raise PluginTimeoutError("late")

    plugin = guarded(FakeSender(late), clock, circuit_breaker={"failure_threshold": 1, "min_request_threshold": 1})
    with pytest.raises(PluginTimeoutError):
        plugin.call(make_call(clock))
    assert plugin.pipeline.breaker.state == state


def test_a_timeout_of_twice_the_usual_latency_counts_though_it_was_short():
    clock = ManualClock()

    def quick(call):
        clock.advance(0.01)
        return "ok"

    def late(call):
        clock.advance(0.03)
        raise PluginTimeoutError("late")

    sender = FakeSender(*[quick] * 50, late)
    plugin = guarded(sender, clock, circuit_breaker={"failure_threshold": 1, "min_request_threshold": 1})
    for _ in range(50):
        plugin.call(make_call(clock))
    with pytest.raises(PluginTimeoutError):
        plugin.call(make_call(clock))
    assert plugin.pipeline.breaker.state is CircuitBreakerState.OPEN


def test_the_timeout_of_a_probe_is_an_error_of_its_own():
    clock = ManualClock()

    def late(call):
        clock.advance(1.0)
        raise PluginTimeoutError("late")

    sender = FakeSender(HTTPTransportError("500"), late)
    plugin = guarded(sender, clock, circuit_breaker={"failure_threshold": 1, "min_request_threshold": 1})
    with pytest.raises(HTTPTransportError):
        plugin.call(make_call(clock))
    clock.advance(30.0)
    with pytest.raises(CircuitBreakerTimeoutError):
        plugin.call(make_call(clock))
    assert plugin.pipeline.breaker.state is CircuitBreakerState.OPEN


def test_a_retry_that_is_refused_locally_raises_the_last_real_error():
    clock = ManualClock()
    plugin = guarded(
        FakeSender(*[PluginConnectionError("refused")] * 9),
        clock,
        circuit_breaker={"failure_threshold": 2, "min_request_threshold": 1},
    )
    with pytest.raises(PluginConnectionError) as caught:
        plugin.call(make_call(clock))
    assert caught.value.attempts == 2
    assert caught.value.details["replay_refused"] == "CIRCUIT_1401"


def test_known_fault_the_rate_limit_held_for_http_only():
    clock = ManualClock()
    plugin = guarded(FakeSender(), clock, rate_limit={"enabled": True, "requests_per_second": 10, "burst_size": 2})
    assert [plugin.call(make_call(clock)) for _ in range(2)] == ["ok", "ok"]
    with pytest.raises(RateLimitExceededError) as caught:
        plugin.call(make_call(clock))
    assert caught.value.retry_after == pytest.approx(0.1)
    assert caught.value.attempts == 0
    assert plugin.metrics().refused_rate_limit == 1
    assert plugin.call(make_call(clock, max_wait=5.0)) == "ok"
    assert clock.monotonic() == pytest.approx(0.1)


def test_a_lost_permit_returns_its_token():
    clock = ManualClock()
    sender = FakeSender(HTTPTransportError("500"))
    plugin = guarded(
        sender,
        clock,
        circuit_breaker={"failure_threshold": 1, "min_request_threshold": 1},
        rate_limit={"enabled": True, "requests_per_second": 0.001, "burst_size": 5},
    )
    with pytest.raises(HTTPTransportError):
        plugin.call(make_call(clock))
    breaker = plugin.pipeline.breaker
    breaker.refusal = lambda: None  # lost between the peek and the permit
    with pytest.raises(CircuitBreakerOpenError):
        plugin.call(make_call(clock))
    assert plugin.pipeline.limiter.tokens == pytest.approx(4.0)


def test_the_budget_ends_a_storm_of_retries():
    clock = ManualClock()
    sender = FakeSender(*[PluginConnectionError("refused")] * 10_000)
    plugin = guarded(sender, clock, circuit_breaker={"enabled": False}, retry={"initial_interval": 1e-6})
    for _ in range(1000):
        with pytest.raises(PluginConnectionError):
            plugin.call(make_call(clock))
    assert len(sender.sent) - 1000 <= 0.2 * 1000 + 110
    assert plugin.metrics().retry_budget_exhausted > 600


def test_a_request_that_can_not_be_sent_costs_no_token_and_no_attempt():
    clock = ManualClock()
    plugin = guarded(FakeSender(), clock, rate_limit={"enabled": True, "burst_size": 3})
    call = make_call(clock)
    call.request = object()
    with pytest.raises(UnserializableRequestError) as caught:
        plugin.call(call)
    assert caught.value.attempts == 0
    assert plugin.pipeline.limiter.tokens == 3


def test_an_unexpected_error_is_an_internal_plugin_error_and_a_hosts_exception_passes():
    clock = ManualClock()
    with pytest.raises(PluginInternalError, match="unexpected ZeroDivisionError in goplugins"):
        guarded(FakeSender(ZeroDivisionError("x")), clock).call(make_call(clock))
    limit = type("SoftTimeLimitExceeded", (Exception,), {"__module__": "billiard.exceptions"})
    plugin = guarded(FakeSender(limit()), clock)
    with pytest.raises(limit):
        plugin.call(make_call(clock))
    assert plugin.tracker.in_flight == 0


def test_drain_and_close_waits_for_calls_in_flight_rejects_new_ones_and_closes_once():
    latch = Latch()
    clock = ManualClock(auto_advance=False)
    sender = FakeSender(latch)
    plugin = guarded(sender, clock)
    answers = []
    caller = threading.Thread(target=lambda: answers.append(plugin.call(make_call(clock))))
    caller.start()
    latch.entered.acquire()
    retiring = threading.Thread(target=lambda: answers.append(plugin.drain_and_close(30.0)))
    retiring.start()
    clock.wait_for_waiters(1)
    assert sender.closed == 0
    with pytest.raises(PluginClosedError, match="it was removed"):
        plugin.call(make_call(clock))
    latch.gate.set()
    caller.join(5)
    retiring.join(5)
    assert answers == ["ok", True]
    assert sender.closed == 1


def test_a_drain_ends_at_its_timeout():
    latch = Latch()
    clock = ManualClock()
    sender = FakeSender(latch)
    plugin = guarded(sender, clock)
    caller = threading.Thread(target=lambda: plugin.call(make_call(clock)))
    caller.start()
    latch.entered.acquire()
    assert plugin.drain_and_close(30.0) is False
    assert sender.closed == 1
    latch.gate.set()
    caller.join(5)


def test_a_call_that_closes_its_own_plugin_is_not_waited_for():
    clock = ManualClock()
    sender = FakeSender(lambda call: plugin.drain_and_close(30.0))
    plugin = guarded(sender, clock)
    assert plugin.call(make_call(clock)) is True
    assert clock.monotonic() == 0.0
    assert sender.closed == 1


def test_closing_wakes_a_waiting_retry():
    clock = ManualClock(auto_advance=False)
    plugin = guarded(FakeSender(*[PluginConnectionError("refused")] * 9), clock)
    caught = []

    def run():
        try:
            plugin.call(make_call(clock))
        except PluginConnectionError as error:
            caught.append(error)

    caller = threading.Thread(target=run)
    caller.start()
    clock.wait_for_waiters(1)
    threading.Thread(target=lambda: plugin.drain_and_close(30.0), daemon=True).start()
    caller.join(5)
    assert caught[0].attempts == 1
    assert caught[0].details["retry_stopped"] == "closed"


def test_the_explanation():
    clock = ManualClock()
    sender = FakeSender(HTTPTransportError("answered 500"))
    plugin = guarded(sender, clock, circuit_breaker={"failure_threshold": 1, "min_request_threshold": 1})
    assert plugin.explain(sender.status).admits
    with pytest.raises(HTTPTransportError):
        plugin.call(make_call(clock))
    clock.advance(2.0)
    explanation = plugin.explain(sender.status)
    assert not explanation.admits
    assert explanation.reason == "circuit breaker is open, next call admitted in 28.000 s"
    assert explanation.last_error == "TRANSPORT_1301 answered 500"
    assert explanation.last_error_ago == pytest.approx(2.0)


def test_a_successful_health_check_ends_the_open_time():
    clock = ManualClock()
    sender = FakeSender(HTTPTransportError("500"))
    plugin = guarded(sender, clock, circuit_breaker={"failure_threshold": 1, "min_request_threshold": 1})
    with pytest.raises(HTTPTransportError):
        plugin.call(make_call(clock))
    plugin.health(1.0)
    assert plugin.call(make_call(clock)) == "ok"


@pytest.mark.parametrize("waits_for", ["a place", "a token"])
def test_a_cancelled_attempt_at_a_member_releases_slot_and_token(waits_for):
    clock, lost, sender, caught = ManualClock(auto_advance=False), Cancellation(), FakeSender(), []
    limit = {"enabled": True, "requests_per_second": 1.0, "burst_size": 1, "max_wait": 60.0}
    narrow = {"bulkhead": {"max_concurrent": 1, "max_waiting": 5}} if waits_for == "a place" else {"rate_limit": limit}
    plugin = guarded(sender, clock, **narrow)
    held = plugin.pipeline.bulkhead.acquire() if plugin.pipeline.bulkhead else plugin.call(make_call(clock))
    call = make_call(clock).copy_for_attempt(CancellableDeadline(clock.monotonic() + 30.0, clock, lost))
    call.payload = b'"request"'

    def lose():
        with pytest.raises(AttemptCancelledError) as error:
            plugin.call_as_member(call)
        caught.append(error.value)

    loser = threading.Thread(target=lose)
    loser.start()
    clock.wait_for_waiters(1)
    sent = len(sender.sent)
    lost.cancel()
    loser.join(10)
    assert caught
    assert (plugin.tracker.in_flight, len(sender.sent)) == (0, sent)
    if plugin.pipeline.bulkhead:
        assert (plugin.pipeline.bulkhead.waiting, plugin.pipeline.bulkhead.in_use) == (0, 1)
        plugin.pipeline.bulkhead.release(held)
        assert plugin.pipeline.bulkhead.in_use == 0
    else:
        assert not plugin.pipeline.limiter._waiters
        assert plugin.pipeline.limiter.tokens == 0.0
        clock.advance(1.0)
    assert plugin.call(make_call(clock)) == "ok"
