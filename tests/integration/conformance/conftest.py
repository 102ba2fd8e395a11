"""Servers on each transport, and managers that call them with all policies enabled."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from goplugins import Manager
from tests.integration.conformance.plugins import Done, Task, lines_of
from tests.integration.conformance.wires import WIRES, Server, Wire, manager_of

REMOTE = [wire for wire in WIRES if wire.remote]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs each test over each wire; tests marked ``remote`` only over those to another process."""
    if "wire" in metafunc.fixturenames:
        wires = REMOTE if getattr(metafunc.function, "remote", False) else WIRES
        others = [pytest.mark.processes] if getattr(metafunc.function, "slow", False) else []
        parameters = [wires[0], *(wire.marked(*others) for wire in wires[1:])]
        metafunc.parametrize("wire", parameters, ids=lambda wire: wire.name, scope="session")


def slow(test: Any) -> Any:
    """Marks tests that take seconds: `make test` runs them over one wire, `make processes` over the others."""
    test.slow = True
    return test


def remote(test: Any) -> Any:
    """Marks tests that need a plugin in another process."""
    test.remote = True
    return test


class Servers:
    """Starts servers, each in a directory of its own, and ends them."""

    def __init__(self) -> None:
        self._started: list[tuple[Server, Path]] = []

    def start(self, wire: Wire, plugin: str = "worker", **auth: Any) -> Server:
        folder = Path(tempfile.mkdtemp(prefix="gp-"))  # short: pytest's tmp_path is too long for a socket
        server = wire.serve(plugin, auth, folder)
        self._started.append((server, folder))
        return server

    def close(self) -> None:
        for server, folder in self._started:
            server.kill()
            shutil.rmtree(folder)


@pytest.fixture(scope="session")
def shared() -> Iterator[Callable[[Wire, str], Server]]:
    """Servers shared by all tests, started when first needed."""
    servers, known = Servers(), {}

    def find(wire: Wire, plugin: str) -> Server:
        key = wire.name, plugin
        if key not in known:
            known[key] = servers.start(wire, plugin)
        return known[key]

    yield find
    servers.close()


@pytest.fixture
def start(wire: Wire) -> Iterator[Callable[..., Server]]:
    """Starts servers for one test, given the name of a plugin and the expected credentials."""
    servers = Servers()
    yield lambda plugin="worker", **auth: servers.start(wire, plugin, **auth)
    servers.close()


@pytest.fixture
def connect(wire: Wire, shared: Callable[[Wire, str], Server]) -> Iterator[Callable[..., Manager[Any, Any]]]:
    """Creates managers of one plugin, ``p``: by default the shared worker.

    Its policies are enabled; the keywords are sections of its configuration.
    """
    managers: list[Manager[Any, Any]] = []

    def build(server: Server | str = "worker", *types: Any, **sections: Any) -> Manager[Any, Any]:
        if isinstance(server, str):
            server = shared(wire, server)
        managers.append(manager_of(configuration(server, **sections), *(types or (Task, Done))))
        return managers[-1]

    yield build
    for manager in managers:
        manager.shutdown(5)


def configuration(server: Server, **sections: Any) -> dict[str, Any]:
    plugin = {
        "name": "p",
        "health_check": {"enabled": False, "kind": "message"},
        "retry": {"initial_interval": 0.01, "max_retries": 3},
        "circuit_breaker": {"enabled": True},
        "rate_limit": {"enabled": True, "requests_per_second": 100_000, "burst_size": 100_000},
        "connection": {"request_timeout": 15},
        **server.config,
    }
    for name, section in sections.items():
        plugin[name] = {**plugin.get(name, {}), **section}
    return {"plugins": [plugin], "log_level": "error"}


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """The file to which the worker appends each execution."""
    return tmp_path / "ledger"


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """A file that the worker can wait for; created at the latest when the test ends."""
    path = tmp_path / "gate"
    yield path
    path.touch()


def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition was not met in time"
        time.sleep(0.005)


def executions(ledger: Path) -> int:
    return len(lines_of(ledger))


def in_threads(count: int, work: Callable[[int], object]) -> list[threading.Thread]:
    """Runs ``work(0)``, ``work(1)``, ... on threads."""
    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    return threads


def join(threads: list[threading.Thread], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    assert not any(thread.is_alive() for thread in threads), "a call hangs"
