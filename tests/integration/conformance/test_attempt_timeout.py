"""``retry.attempt_timeout``: the time of each attempt within the call's deadline, over every transport."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from goplugins import CircuitBreakerState, PluginTimeoutError
from tests.integration.conformance.conftest import executions, slow
from tests.integration.conformance.plugins import Task, lines_of
from tests.timing import time_limit

pytestmark = pytest.mark.matrix


def test_an_idempotent_call_is_made_again_once_an_attempt_has_had_its_time(connect, gate, ledger, wire):
    seconds = 3.0 if wire.name == "exec" else 0.4  # the second attempt of exec starts another process
    manager = connect(retry={"attempt_timeout": seconds, "max_retries": 3})
    manager.execute("p", Task())
    hang = Task(do="hang", value=str(gate), ledger=str(ledger), times=1)

    result = manager.execute_result("p", hang, timeout=15, idempotent=True)

    assert (result.value.value, result.attempts, executions(ledger)) == (str(gate), 2, 2)
    timeouts = [float(line.split()[2]) for line in lines_of(ledger)]
    assert all(0 < each <= seconds for each in timeouts), "the plugin gets the time of its attempt"
    assert manager.explain("p").in_flight == 0


def test_a_call_that_is_not_idempotent_fails_at_the_end_of_the_attempt(connect, gate, wire):
    seconds = 2.0 if wire.name == "exec" else 0.2  # the first attempt of exec starts a process
    manager = connect(retry={"attempt_timeout": seconds})
    manager.execute("p", Task())

    for stopwatch in time_limit(seconds + 0.1, at_least=seconds - 0.01):
        with stopwatch, pytest.raises(PluginTimeoutError) as caught:
            manager.execute("p", Task(do="hang", value=str(gate)), timeout=15)
    error = caught.value
    assert (error.attempts, error.details["attempt_timeout"]) == (1, seconds)
    assert f"retry.attempt_timeout is {seconds:g} s" in str(error)


def test_the_deadline_of_the_call_ends_a_longer_attempt(connect, gate):
    manager = connect(retry={"attempt_timeout": 10})
    manager.execute("p", Task())
    with pytest.raises(PluginTimeoutError) as caught:
        manager.execute("p", Task(do="hang", value=str(gate)), timeout=0.2, idempotent=True)
    assert caught.value.attempts == 1
    assert "attempt_timeout" not in str(caught.value)


def test_the_breaker_counts_attempts_that_had_their_time_however_short(connect, gate):
    breaker = {"failure_threshold": 3, "min_request_threshold": 1}
    manager = connect(retry={"attempt_timeout": 0.04, "max_retries": 2}, circuit_breaker=breaker)
    with pytest.raises(PluginTimeoutError):
        manager.execute("p", Task(do="hang", value=str(gate)), timeout=15, idempotent=True)
    assert manager.explain("p").breaker is CircuitBreakerState.OPEN


@slow
def test_waiting_for_a_connection_is_no_time_of_the_attempt(connect):
    manager = connect(retry={"attempt_timeout": 1.2, "max_retries": 0}, connection={"max_connections": 1})
    manager.execute("p", Task())
    started = time.monotonic()
    with ThreadPoolExecutor(4) as threads:
        calls = [threads.submit(manager.execute, "p", Task(seconds=0.5, value=n), timeout=15) for n in range(4)]
        assert [call.result().value for call in calls] == [0, 1, 2, 3]
    assert time.monotonic() - started > 1.9  # the last one waited longer than an attempt may take
