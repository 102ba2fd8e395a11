"""A plugin that is killed and restarted while it is called."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from goplugins import ConnectionLostError, Manager, PluginConnectionError, PluginError
from tests.integration.conformance.conftest import in_threads, join, remote, slow, until
from tests.integration.conformance.plugins import Task, lines_of

THREADS = 4


class Traffic:
    """Calls from several threads until stop()."""

    def __init__(self, manager: Manager[Any, Any], ledger: Path, *, idempotent: bool) -> None:
        self.answered = 0
        self.pids: set[int] = set()
        self.failures: list[PluginError] = []
        self.times: list[tuple[float, float]] = []  # start and end of each failed call
        self._manager, self._ledger, self._idempotent = manager, str(ledger), idempotent
        self._stop = threading.Event()
        self._threads = in_threads(THREADS, self._work)

    def _work(self, thread: int) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            started = time.monotonic()
            task = Task(value=[thread, number], ledger=self._ledger, seconds=0.002)
            try:
                done = self._manager.execute("p", task, timeout=20, idempotent=self._idempotent)
                assert done.value == [thread, number]
                self.answered += 1
                self.pids.add(done.pid)
            except PluginError as error:
                self.failures.append(error)
                self.times.append((started, time.monotonic()))

    def wait_for_calls(self, calls: int = 50) -> None:
        """Waits until so many more calls have succeeded."""
        goal = self.answered + calls
        until(lambda: self.answered >= goal, 30)

    def stop(self) -> None:
        self._stop.set()
        join(self._threads)


@pytest.fixture
def traffic(connect: Callable[..., Manager[Any, Any]], ledger: Path) -> Iterator[Callable[..., Traffic]]:
    started: list[Traffic] = []

    def begin(server: Any, *, idempotent: bool) -> Traffic:
        manager = connect(
            server,
            connection={"max_connections": THREADS, "max_idle_connections": THREADS},
            # No policy may fail a call.
            retry={"max_retries": 1000, "initial_interval": 0.02, "max_interval": 0.2, "budget_ratio": 1.0},
            circuit_breaker={"enabled": False},
        )
        started.append(Traffic(manager, ledger, idempotent=idempotent))
        return started[-1]

    yield begin
    for one in started:
        one.stop()


def restart(server: Any, traffic: Traffic) -> list[tuple[float, float]]:
    """Restarts the plugin twice, with calls before, during and after; returns start and end of each kill."""
    deaths = []
    for _ in range(2):
        traffic.wait_for_calls()
        started = time.monotonic()
        server.kill()
        deaths.append((started, time.monotonic()))
        time.sleep(0.1)
        server.start()
    traffic.wait_for_calls()
    traffic.stop()
    return deaths


@slow
@remote
def test_no_idempotent_call_fails_while_the_plugin_is_restarted(start, traffic):
    server = start()
    calls = traffic(server, idempotent=True)
    restart(server, calls)
    assert calls.failures == []
    assert len(calls.pids) >= 3


@slow
@remote
def test_only_calls_in_flight_fail_if_they_are_not_idempotent(start, traffic, ledger):
    server = start()
    calls = traffic(server, idempotent=False)
    deaths = restart(server, calls)
    # A killed process closes its listening socket last: each thread may have begun one more call meanwhile.
    assert len(calls.failures) <= 2 * THREADS * len(deaths)
    for begun, ended in calls.times:
        assert any(begun < dead + 0.1 and ended > dying for dying, dead in deaths)
    assert [repr(error) for error in calls.failures if not isinstance(error, ConnectionLostError)] == []
    assert [error for error in calls.failures if not error.retryable or error.plugin != "p"] == []
    times = Counter(line.split()[0] for line in lines_of(ledger))
    assert [request for request, count in times.items() if count > 1] == []
    assert len(calls.pids) >= 3


@slow
@remote
def test_calls_of_a_killed_plugin_are_rejected_at_once_and_succeed_after_its_restart(start, connect, ledger):
    server = start()
    manager = connect(
        server,
        retry={"max_retries": 0},
        circuit_breaker={"failure_threshold": 2, "recovery_timeout": 0.5, "success_threshold": 1},
    )
    assert manager.execute("p", Task(value=1)).value == 1
    server.kill()
    away: list[PluginError] = []
    for _ in range(20):
        started = time.monotonic()
        with pytest.raises(PluginError) as caught:
            manager.execute("p", Task(ledger=str(ledger)), timeout=5)
        assert time.monotonic() - started < 1, "the call hangs"
        away.append(caught.value)
    assert isinstance(away[0], PluginConnectionError)
    assert {type(error).__name__ for error in away[2:]} == {"CircuitBreakerOpenError"}
    assert manager.explain("p").reason
    server.start()
    back = time.monotonic()

    def works() -> bool:
        try:
            return manager.execute("p", Task(value=2), timeout=5).value == 2
        except PluginError:
            return False

    until(works)
    assert time.monotonic() - back < 2.5, "calls failed for too long after the restart"
    assert lines_of(ledger) == []


@pytest.mark.processes
@remote
def test_after_a_long_outage_calls_succeed_within_a_second(start, connect):
    # The breaker has opened four times in a row and would stay open for 1.6 s, unless a health check closes it.
    server = start()
    manager = connect(
        server,
        retry={"max_retries": 0},
        circuit_breaker={"failure_threshold": 1, "min_request_threshold": 1, "recovery_timeout": 0.2},
        health_check={"enabled": True, "interval": 30, "timeout": 1},
    )
    assert manager.execute("p", Task(value=1)).value == 1
    server.kill()
    gone = time.monotonic()
    while time.monotonic() - gone < 2.0:
        with pytest.raises(PluginError):
            manager.execute("p", Task(value=1), timeout=1)
        time.sleep(0.01)
    assert manager.metrics().plugins["p"].circuit_breaker_trips >= 3
    server.start()
    back = time.monotonic()

    def works() -> bool:
        try:
            return manager.execute("p", Task(value=2), timeout=5).value == 2
        except PluginError:
            return False

    until(works)
    # Includes the start of the program, which takes up to a second.
    assert time.monotonic() - back < (3.0 if server.config["transport"] == "exec" else 1.0)
