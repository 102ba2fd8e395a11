"""Hedged calls over real transports: lower tail latency, and no leaks."""

from __future__ import annotations

import gc
import os
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from goplugins.config import HedgeConfig
from goplugins.enums import CircuitBreakerState
from tests.integration.hedging.conftest import WIRES, Hedged, Service
from tests.interrupts import alarms_interrupt
from tests.marks import sample
from tests.processes import in_child, run


def latencies(calls: int, make: Callable[[int], Any]) -> list[float]:
    took = []
    for number in range(calls):
        started = time.monotonic()
        assert make(number) == number
        took.append(time.monotonic() - started)
    return sorted(took)


@pytest.mark.parametrize("wire", sample(WIRES, ["http"], pytest.mark.stress))
def test_hedges_hide_one_slow_reply_in_thirty(
    wire: str, serve: Callable[..., Service], make: Callable[..., Hedged]
) -> None:
    service = serve(wire, lambda number: 0.25 if number % 30 == 29 else 0.0)
    hedged = make(wire, service.endpoint, hedge=HedgeConfig())
    plain = latencies(90, lambda number: hedged.attempt(hedged.new_call(number)))
    assert plain[-3] >= 0.25
    for number in range(25):  # samples for the hedge delay
        assert hedged.call(number) == number
    faster = latencies(120, hedged.call)
    assert faster[-2] < 0.2
    assert hedged.won >= 3
    assert hedged.sent <= 30


@pytest.mark.parametrize("wire", WIRES)
def test_timeouts_sent_to_the_server_strictly_decrease(
    wire: str, serve: Callable[..., Service], make: Callable[..., Hedged]
) -> None:
    service = serve(wire, lambda number: 0.25 if number % 2 else 0.0)
    hedged = make(wire, service.endpoint, hedge=HedgeConfig(delay=0.05))
    assert hedged.call(0, timeout=2.0) == 0  # connects, which would delay the first attempt only
    service.timeouts.clear()
    for number in range(3):
        assert hedged.call(number, timeout=2.0) == number
        hedged.settle()
    assert len(service.timeouts) == 6
    for pair in zip(service.timeouts[::2], service.timeouts[1::2], strict=True):
        # The two threads of the server may record them in either order, and the first attempt may be sent late.
        assert max(pair) - 1.0 < min(pair) < max(pair)


def test_both_attempts_carry_one_idempotency_key(serve: Callable[..., Service], make: Callable[..., Hedged]) -> None:
    service = serve("http", lambda number: 0.0 if number % 2 else 0.25)
    hedged = make("http", service.endpoint)
    hedged.call(1)
    hedged.call(2)
    first, again, second, once_more = service.keys
    assert first == again != second == once_more


@pytest.mark.parametrize("wire", sample(WIRES, ["http"], pytest.mark.stress))
def test_a_cancelled_attempt_does_not_count_against_the_plugin(
    wire: str, serve: Callable[..., Service], make: Callable[..., Hedged]
) -> None:
    service = serve(wire, lambda number: 0.0 if number % 2 else 0.5)
    breaker_config = {"failure_threshold": 1, "min_request_threshold": 1}
    hedged = make(wire, service.endpoint, hedge=HedgeConfig(delay=0.05), circuit_breaker=breaker_config)
    for number in range(2):  # connects: with a pending connection either attempt may be sent first
        hedged.attempt(hedged.new_call(number))
    for number in range(10):
        assert hedged.call(number) == number
        hedged.settle()  # so that the next call begins with an even number
    breaker = hedged.breaker
    assert breaker.state is CircuitBreakerState.CLOSED
    assert breaker.stats().failure_count == 0
    # One attempt of each call was slow, and cancelled. On a busy machine the hedge may arrive first, and be that one.
    assert hedged.sent == 10
    assert hedged.won > 0


def test_a_cancelled_probe_releases_its_permit(serve: Callable[..., Service], make: Callable[..., Hedged]) -> None:
    service = serve("http", lambda number: 0.0 if number % 2 else 0.5)
    breaker_config = {"success_threshold": 2, "recovery_timeout": "10ms", "failure_threshold": 1}
    hedged = make("http", service.endpoint, circuit_breaker={**breaker_config, "min_request_threshold": 1})
    breaker = hedged.breaker
    for round_ in range(5):
        permit = breaker.acquire()
        permit.failure()
        time.sleep(0.3)
        assert hedged.call(round_) == round_
        hedged.settle()
        assert hedged.call(round_) == round_
        hedged.settle()
        assert breaker.state is CircuitBreakerState.CLOSED


@pytest.mark.parametrize("wire", sample(WIRES, ["http"], pytest.mark.stress))
def test_a_thousand_hedged_calls_leak_no_threads_and_no_connections(
    wire: str, serve: Callable[..., Service], make: Callable[..., Hedged]
) -> None:
    rng = random.Random(3)
    service = serve(wire, lambda _: rng.choice([0.0, 0.0, 0.03]))
    hedged = make(wire, service.endpoint, hedge=HedgeConfig(delay=0.002), connection={"max_connections": 16})
    hedged.budget.set_ratio(1.0)
    threads = set(threading.enumerate())
    hedged.call("warm up")
    before = len(os.listdir("/proc/self/fd"))

    def work(worker: int) -> None:
        for number in range(250):
            assert hedged.call([worker, number]) == [worker, number]

    with ThreadPoolExecutor(4) as callers:
        for done in [callers.submit(work, worker) for worker in range(4)]:
            done.result()
    hedged.settle()
    assert hedged.sent > 100
    assert hedged.won > 50
    assert hedged.pool.threads <= 16  # two per caller, and losing attempts that are about to end
    assert hedged.breaker.stats().failure_count == 0
    gc.collect()
    # Both ends of at most so many idle connections are in this process.
    assert len(os.listdir("/proc/self/fd")) <= before + 2 * 16
    hedged.close()
    end = time.monotonic() + 5
    while service.open_now() and time.monotonic() < end:
        time.sleep(0.01)
    assert service.open_now() == 0
    assert not [each for each in set(threading.enumerate()) - threads if each.name.startswith("goplugins-hedge")]


@pytest.mark.parametrize("wire", sample(WIRES, ["http"], pytest.mark.stress))
def test_cancels_at_random_moments_affect_no_other_call(
    wire: str, serve: Callable[..., Service], make: Callable[..., Hedged]
) -> None:
    """The server replies at about the hedge delay: attempts are cancelled before, during and after their end."""
    rng = random.Random(5)
    service = serve(wire, lambda _: rng.random() * 0.004)
    hedged = make(wire, service.endpoint, hedge=HedgeConfig(delay=0.001), connection={"max_connections": 8})
    hedged.hedger.budget = type("Unlimited", (), {"withdraw": lambda self: True})()  # type: ignore[assignment]

    def work(worker: int) -> None:
        for number in range(300):
            assert hedged.call([worker, number]) == [worker, number]

    with ThreadPoolExecutor(4) as callers:
        for done in [callers.submit(work, worker) for worker in range(4)]:
            done.result()
    hedged.settle()
    assert hedged.sent > 200
    assert 0 < hedged.won < hedged.sent
    assert hedged.breaker.stats().failure_count == 0


# --- interrupts and forks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wire", sample(WIRES, ["http"], pytest.mark.stress))
def test_an_interrupt_cancels_both_attempts_and_leaks_nothing(
    wire: str, serve: Callable[..., Service], make: Callable[..., Hedged]
) -> None:
    rng = random.Random(9)
    service = serve(wire, lambda _: 30.0)
    hedged = make(wire, service.endpoint, hedge=HedgeConfig(delay=0.004))
    with alarms_interrupt() as interrupt:
        for _ in range(60):
            call = hedged.new_call("x", timeout=20.0)
            after = rng.choice([0.05, rng.random() * 0.01 + 1e-4])
            assert interrupt(after, partial(hedged.hedger, call, hedged.attempt), again=0.25)
            assert call.attempts <= 2
    hedged.settle()  # well before the deadlines
    assert hedged.breaker.stats().failure_count == 0
    service.slowness = lambda _: 0.0
    assert hedged.call("after") == "after"


def fork_with_a_hedger(endpoint: str) -> Any:
    hedged = Hedged("http", endpoint, HedgeConfig(delay=0.05))
    first = hedged.call("parent")
    hedged.settle()
    child = in_child(lambda: [hedged.call("child"), hedged.won, hedged.pool.threads])
    again = hedged.call("parent again")
    hedged.close()
    return first, child, again


def test_a_forked_child_hedges_with_workers_and_connections_of_its_own(serve: Callable[..., Service]) -> None:
    service = serve("http", lambda number: 0.0 if number % 2 else 0.5)
    assert run(fork_with_a_hedger, service.endpoint) == ["parent", ["child", 2, 2], "parent again"]
