"""Deadlines, interrupts, concurrent calls, and shutdown."""

from __future__ import annotations

import signal
import threading
import time
from typing import Any

import pytest

from goplugins import (
    ManagerClosedError,
    PluginClosedError,
    PluginError,
    PluginTimeoutError,
    SaturatedError,
    deadline,
)
from tests.integration.conformance.conftest import executions, in_threads, join, until
from tests.integration.conformance.plugins import Done, Task
from tests.timing import time_limit

pytestmark = pytest.mark.matrix

# --- deadlines -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.05, 0.4])
def test_a_call_of_a_slow_plugin_ends_at_its_deadline(connect, gate, seconds):
    manager = connect(circuit_breaker={"enabled": False})
    manager.execute("p", Task())

    for stopwatch in time_limit(seconds + 0.1):
        with stopwatch:
            with pytest.raises(PluginTimeoutError) as caught:
                manager.execute("p", Task(until=str(gate)), timeout=seconds)
            assert caught.value.attempts == 1
            assert isinstance(caught.value, TimeoutError)
    assert manager.execute("p", Task(value=1)).value == 1
    assert manager.explain("p").in_flight == 0


def test_all_attempts_share_the_deadline(connect, ledger):
    retry = {"max_retries": 1000, "initial_interval": 0.02, "multiplier": 1.0}
    manager = connect(retry=retry, circuit_breaker={"enabled": False})
    manager.execute("p", Task())

    for stopwatch in time_limit(0.3 + 0.1):
        with stopwatch:
            with pytest.raises(PluginError) as caught:
                manager.execute("p", Task(do="unavailable", ledger=str(ledger)), timeout=0.3, idempotent=True)
            assert caught.value.attempts > 1


def test_an_enclosing_deadline_bounds_the_call(connect, gate):
    manager = connect()
    manager.execute("p", Task())

    for stopwatch in time_limit(0.2 + 0.1):
        with stopwatch, deadline(0.2), pytest.raises(PluginTimeoutError):
            manager.execute("p", Task(until=str(gate)), timeout=10)


def test_a_timeout_at_the_deadline_is_not_retried(connect, ledger, gate):
    manager = connect()
    manager.execute("p", Task())
    with pytest.raises(PluginTimeoutError) as caught:
        manager.execute("p", Task(until=str(gate), ledger=str(ledger)), timeout=0.3, idempotent=True)
    assert caught.value.attempts == 1
    gate.touch()
    assert manager.execute("p", Task(value=1)).value == 1
    assert executions(ledger) == 1


# --- interrupts ----------------------------------------------------------------------------------------------------


def test_an_interrupt_propagates_and_leaks_no_connection(connect, ledger, gate, wire):
    """With a single connection: if the interrupted call kept it, the next call would get none."""
    # A call in this process keeps its worker thread, which can't be interrupted, until it ends.
    connections = 1 if wire.remote else 2
    manager = connect(connection={"max_connections": connections}, circuit_breaker={"enabled": False})
    manager.execute("p", Task())
    main = threading.main_thread().ident
    assert main == threading.get_ident()

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    def wait_and_interrupt() -> None:
        until(lambda: executions(ledger) > 0)
        signal.pthread_kill(main, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        [thread] = in_threads(1, lambda _: wait_and_interrupt())
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            manager.execute("p", Task(until=str(gate), ledger=str(ledger)), timeout=15, idempotent=True)
        assert time.monotonic() - started < 5
        join([thread])
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert manager.explain("p").in_flight == 0
    for number in range(3):
        assert manager.execute("p", Task(value=number)).value == number
    assert executions(ledger) == 1
    counts = manager.metrics()
    assert (counts.active_requests, counts.requests_success) == (0, 4)


# --- concurrent calls ----------------------------------------------------------------------------------------------


def max_concurrent(done: list[Done]) -> int:
    """The largest number of executions that overlapped."""
    changes = sorted([(one.started, 1) for one in done] + [(one.ended, -1) for one in done])
    most = now = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


def test_sixteen_threads_over_four_connections(connect):
    manager = connect(connection={"max_connections": 4, "max_idle_connections": 4})
    answers: list[tuple[Any, Done]] = []
    errors: list[object] = []

    def work(thread: int) -> None:
        for number in range(50):
            value = [thread, number, "x" * (number * 97)]
            try:
                answers.append((value, manager.execute("p", Task(value=value, seconds=0.002), timeout=30)))
            except PluginError as error:
                errors.append(error)

    join(in_threads(16, work), 40)
    assert errors == []
    assert [(sent, done.value) for sent, done in answers if done.value != sent] == []
    assert len(answers) == 800
    assert 2 <= max_concurrent([done for _, done in answers]) <= 4
    counts = manager.metrics()
    assert (counts.requests_success, counts.attempts_total, counts.active_requests) == (800, 800, 0)


def test_a_wait_for_a_connection_ends_in_a_saturated_error(connect, gate, ledger):
    manager = connect(connection={"max_connections": 1}, circuit_breaker={"failure_threshold": 1})
    busy = manager.submit("p", Task(value=1, until=str(gate), ledger=str(ledger)))
    until(lambda: executions(ledger) == 1)

    for stopwatch in time_limit(0.2 + 0.1):
        with stopwatch:
            with pytest.raises(SaturatedError) as caught:
                manager.execute("p", Task(ledger=str(ledger)), timeout=0.2, idempotent=True)
            assert (caught.value.attempts, caught.value.retryable) == (0, True)
    gate.touch()
    assert busy.result(10).value == 1
    assert manager.execute("p", Task(value=2)).value == 2
    assert executions(ledger) == 1


def test_waiting_calls_get_the_connection_when_it_is_free(connect, gate, ledger):
    manager = connect(connection={"max_connections": 1})
    busy = manager.submit("p", Task(value=0, until=str(gate), ledger=str(ledger)))
    until(lambda: executions(ledger) == 1)
    waiting = [manager.submit("p", Task(value=number)) for number in range(1, 9)]
    time.sleep(0.05)
    assert not any(future.done() for future in [busy, *waiting])
    gate.touch()
    assert [future.result(10).value for future in [busy, *waiting]] == list(range(9))


# --- shutdown ------------------------------------------------------------------------------------------------------


def test_shutdown_waits_for_calls_and_rejects_new_ones(connect, gate, ledger):
    manager = connect(connection={"max_connections": 4})
    outcomes: list[Any] = []

    def work(number: int) -> None:
        outcomes.append(manager.execute("p", Task(value=number, until=str(gate), ledger=str(ledger))).value)

    calls = in_threads(4, work)
    until(lambda: executions(ledger) == 4)
    closing = threading.Thread(target=manager.shutdown)
    closing.start()

    def refused() -> bool:
        try:
            manager.execute("p", Task(), timeout=1)
        except ManagerClosedError:
            return True
        except PluginClosedError:
            return False
        raise AssertionError("a call after the shutdown succeeded")

    until(refused)
    time.sleep(0.1)
    assert closing.is_alive()
    assert outcomes == []
    gate.touch()
    join([*calls, closing])
    assert sorted(outcomes) == [0, 1, 2, 3]
    assert executions(ledger) == 4


def test_shutdown_with_a_short_timeout_does_not_wait_for_calls(connect, gate, ledger):
    manager = connect()
    outcomes: list[Any] = []

    def work(_: int) -> None:
        try:
            outcomes.append(manager.execute("p", Task(value=1, until=str(gate), ledger=str(ledger)), timeout=3).value)
        except PluginError as error:
            outcomes.append(error)

    calls = in_threads(1, work)
    until(lambda: executions(ledger) == 1)
    started = time.monotonic()
    manager.shutdown(0.1)
    assert time.monotonic() - started < 1.5
    with pytest.raises(ManagerClosedError):
        manager.execute("p", Task())
    gate.touch()
    join(calls)
    assert outcomes == [1] or isinstance(outcomes[0], PluginError)


def test_unregistering_waits_for_calls(connect, gate, ledger):
    manager = connect()
    busy = manager.submit("p", Task(value=1, until=str(gate), ledger=str(ledger)))
    until(lambda: executions(ledger) == 1)
    [closing] = in_threads(1, lambda _: manager.unregister("p"))
    time.sleep(0.1)
    assert closing.is_alive()
    gate.touch()
    join([closing])
    assert busy.result(0.1).value == 1
