"""A group of real servers that are killed and restarted during calls."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from goplugins import ConnectionLostError, HealthChanged, Manager, PluginError, PluginStatus
from goplugins.errors import CircuitBreakerOpenError, NoAvailablePluginsError
from tests.integration.conformance.conftest import in_threads, join, until
from tests.integration.conformance.plugins import Done, Task, lines_of
from tests.integration.conformance.wires import Listening

THREADS = 16


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Any]:
    started: list[Listening] = []

    def start(count: int) -> list[Listening]:
        for number in range(count):
            folder = tmp_path / str(number)
            folder.mkdir()
            started.append(Listening("http://127.0.0.1:0", "worker", {}, folder, {}))
        return started

    yield start
    for server in started:
        server.kill()


def connect(servers: list[Listening], **sections: Any) -> Manager[Task, Done]:
    manager = Manager(Task, Done)
    plugin = {
        "name": "p",
        "transport": "http",
        "endpoints": [server.config["endpoint"] for server in servers],
        "retry": {"max_retries": 3, "initial_interval": 0.01, "max_interval": 0.1},
        "circuit_breaker": {"recovery_timeout": 0.2},
        "health_check": {"interval": 0.5, "timeout": 1.0},
        "connection": {"request_timeout": 15, "max_connections": THREADS, "max_idle_connections": THREADS},
        **sections,
    }
    manager.load_from_config({"plugins": [plugin], "log_level": "error"})
    return manager


class Traffic:
    def __init__(self, manager: Manager[Task, Done], *, idempotent: bool, ledger: str = "") -> None:
        self.served: Counter[int] = Counter()
        self.failures: list[PluginError] = []
        self._manager, self._idempotent, self._ledger = manager, idempotent, ledger
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = in_threads(THREADS, self._work)

    def _work(self, thread: int) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            task = Task(value=[thread, number], seconds=0.005, ledger=self._ledger)
            try:
                done = self._manager.execute("p", task, idempotent=self._idempotent)
            except PluginError as error:
                with self._lock:
                    self.failures.append(error)
            else:
                assert done.value == [thread, number]
                with self._lock:
                    self.served[done.pid] += 1

    def wait_for(self, calls: int) -> None:
        goal = self.served.total() + calls
        until(lambda: self.served.total() >= goal, 60)

    def stop(self) -> None:
        self._stop.set()
        join(self._threads)


def name_of(server: Listening) -> str:
    """The name of the member for a server."""
    return f"p@{server.config['endpoint'].removeprefix('http://').rstrip('/')}"


def roll(servers: list[Listening], traffic: Traffic) -> dict[str, list[PluginError]]:
    """Kills and restarts each server in turn; returns the failures of each period by member name."""
    failures: dict[str, list[PluginError]] = {}
    traffic.wait_for(200)
    for server in servers:
        before = len(traffic.failures)
        server.kill()
        traffic.wait_for(150)
        failures[name_of(server)] = traffic.failures[before:]
        server.start()
        traffic.wait_for(150)
    until(lambda: len(traffic.served) == 2 * len(servers), 30)  # each process of each server
    traffic.stop()
    return failures


@pytest.mark.processes
def test_a_rolling_kill_fails_no_idempotent_call(servers: Any) -> None:
    group = servers(5)
    with connect(group) as manager:
        traffic = Traffic(manager, idempotent=True)
        roll(group, traffic)
        assert [str(error) for error in traffic.failures] == []
        assert manager.metrics().plugins["p"].active_requests == 0


@pytest.mark.processes
def test_a_rolling_kill_fails_only_calls_in_flight_that_are_not_idempotent(servers: Any, tmp_path: Path) -> None:
    group, ledger = servers(5), tmp_path / "ledger"
    with connect(group) as manager:
        traffic = Traffic(manager, idempotent=False, ledger=str(ledger))
        failures = roll(group, traffic)
        assert sum(len(found) for found in failures.values()) == len(traffic.failures), "failures outside of the kills"
        for victim, found in failures.items():
            # A dying process closes its listener last: each thread may have begun one more call meanwhile.
            assert len(found) <= 2 * THREADS
            assert {type(error) for error in found} <= {ConnectionLostError}
            assert {(error.plugin, error.details["member"]) for error in found} <= {("p", victim)}
            assert all(victim in str(error) and "before" in error.message for error in found), (
                "the error names the member"
            )
        times = Counter(line.split()[0] for line in lines_of(ledger))
        assert [request for request, count in times.items() if count > 1] == []


def test_with_all_servers_down_calls_are_refused_at_once_and_succeed_soon_after_the_first_returns(servers: Any) -> None:
    group = servers(3)
    with connect(group, retry={"max_retries": 0}) as manager:
        assert manager.execute("p", Task(value=1)).value == 1
        for server in group:
            server.kill()
        refusals: list[PluginError] = []

        def refused() -> bool:
            try:
                manager.execute("p", Task(value=1), timeout=2)
            except (CircuitBreakerOpenError, NoAvailablePluginsError) as error:
                refusals.append(error)
            except PluginError:
                refusals.clear()
            return len(refusals) >= 20

        until(refused, 20)
        best = min(_seconds_of(manager) for _ in range(50))
        assert best < 0.001, "the benchmark has 0.1 ms; this machine may be busy"
        error = refusals[-1]
        assert error.retry_after is not None
        assert error.retry_after <= 2.0
        assert len(error.details["members"]) == 3
        assert all(found["last_error"] for found in error.details["members"])
        group[1].start()
        back = time.monotonic()
        until(lambda: _works(manager), 10)
        assert time.monotonic() - back < 1.0  # a health interval, its jitter and a check


def test_traffic_returns_within_one_health_interval_despite_a_long_recovery_timeout(servers: Any) -> None:
    group = servers(3)
    breaker = {"recovery_timeout": 60, "failure_threshold": 2, "min_request_threshold": 1}
    with connect(group, retry={"max_retries": 0}, circuit_breaker=breaker) as manager:
        assert manager.execute("p", Task(value=1)).value == 1
        for server in group:
            server.kill()
        until(lambda: _all_open(manager), 20)
        group[2].start()
        back = time.monotonic()
        until(lambda: _works(manager), 10)
        assert time.monotonic() - back < 1.0  # an interval of 0.5 s, its jitter and a check


def test_health_is_updated_within_one_interval_and_its_changes_are_events(servers: Any) -> None:
    group = servers(2)
    seen: list[HealthChanged] = []
    with connect(group, health_check={"interval": 0.4, "timeout": 1.0, "failure_limit": 1}) as manager:
        killed, running = map(name_of, group)
        manager.subscribe(seen.append, HealthChanged)
        assert {status.status for status in manager.list_plugins().values()} == {PluginStatus.UNKNOWN}
        assert {status.status for status in manager.health().values()} == {PluginStatus.HEALTHY}
        group[0].kill()
        down = time.monotonic()
        until(lambda: manager.health()[killed].status is PluginStatus.OFFLINE, 10)
        assert time.monotonic() - down < 0.9  # an interval, its jitter and a check
        assert manager.health()[running].status is PluginStatus.HEALTHY
        overall = manager.overall_health()
        assert (overall.status, killed in overall.message) == (PluginStatus.DEGRADED, True)
        group[0].start()
        up = time.monotonic()
        until(lambda: manager.health()[killed].status is PluginStatus.HEALTHY, 10)
        assert time.monotonic() - up < 0.9
        until(lambda: manager.overall_health().status is PluginStatus.HEALTHY, 10)
    of_killed = [(change.old, change.new) for change in seen if change.plugin == killed]
    assert of_killed == [
        (PluginStatus.UNKNOWN, PluginStatus.HEALTHY),
        (PluginStatus.HEALTHY, PluginStatus.OFFLINE),
        (PluginStatus.OFFLINE, PluginStatus.HEALTHY),
    ]


def _all_open(manager: Manager[Task, Done]) -> bool:
    try:
        manager.execute("p", Task(value=1), timeout=2)
    except CircuitBreakerOpenError:
        return True
    except PluginError:
        pass
    return False


def _seconds_of(manager: Manager[Task, Done]) -> float:
    started = time.perf_counter()
    with pytest.raises(PluginError):
        manager.execute("p", Task(value=1), timeout=2)
    return time.perf_counter() - started


def _works(manager: Manager[Task, Done]) -> bool:
    try:
        return manager.execute("p", Task(value=2), timeout=5).value == 2
    except PluginError:
        return False
