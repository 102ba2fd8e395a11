"""A process in which everything goes wrong at once, for ``test_scarcity.py``: runs in an interpreter of its own."""

from __future__ import annotations

import collections
import contextlib
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from goplugins import LocalResourceError, Manager, PluginError, PluginStatus, SaturatedError
from tests.integration.processes.host import PROGRAM
from tests.processes import few_descriptors

CALLERS = 32
TIMEOUT = 1.0
HANGING = tuple(f"hanging-{number}" for number in range(4))

_real_getaddrinfo = socket.getaddrinfo
_names_hang = threading.Event()
_names_answer = threading.Event()


def _resolve(host: str, *arguments: Any, **options: Any) -> Any:
    """The system's resolution, save for names that hang as long as the test wants."""
    if host.endswith(".hanging.test"):
        if _names_hang.is_set():
            _names_answer.wait(30.0)
        return _real_getaddrinfo("127.0.0.1", *arguments, **options)
    return _real_getaddrinfo(host, *arguments, **options)


def _settings(where: dict[str, str], stopped: dict[str, str]) -> dict[str, Any]:
    """Healthy plugins over every transport, and those of the server that is stopped, of names that hang."""
    http = {"transport": "http", "endpoint": where["http"]}
    unix = {"transport": "unix", "endpoint": where["unix"].removeprefix("unix://")}
    idempotent = {"idempotent": True, "initial_interval": 0.01}
    patient = {"circuit_breaker": {"enabled": False}}  # each call waits until its deadline
    port = where["http"].rpartition(":")[2]
    plugins = [
        {"name": "http", **http},
        {"name": "requests", **http, "options": {"engine": "requests"}},
        {"name": "https", "transport": "https", "endpoint": where["https"], "auth": {"ca_file": where["ca"]}},
        {"name": "grpc", "transport": "grpc", "endpoint": where["grpc"].removeprefix("grpc://")},
        {"name": "unix", **unix},
        {"name": "exec", "transport": "exec", "executable": "python3", "args": ["-I", "-S", PROGRAM]},
        {"name": "python", "transport": "python", "endpoint": "tests.integration.processes.plugins:echo"},
        {"name": "first", **http},
        {"name": "second", **unix},
        {"name": "cached", **http, "retry": idempotent, "cache": {"ttl": 0.001}},
        {"name": "hedged", **http, "retry": idempotent, "hedge": {"enabled": True, "delay": 0.2}},
        {
            "name": "isolated",
            "transport": "python",
            "endpoint": "tests.integration.processes.plugins:echo",
            "options": {"isolate": True},
        },
        {"name": "new-connections", **http, "connection": {"keep_alive": False}},
        {
            "name": "named",
            "transport": "http",
            "endpoint": f"http://localhost:{port}",
            "connection": {"keep_alive": False},
        },
        *(
            {"name": name, "transport": "http", "endpoint": f"http://{name}.hanging.test:{port}", "connection": {}}
            for name in HANGING
        ),
        {"name": "stopped-http", "transport": "http", "endpoint": stopped["http"]},
        {"name": "stopped-unix", "transport": "unix", "endpoint": stopped["unix"].removeprefix("unix://"), **patient},
        {"name": "stopped-grpc", "transport": "grpc", "endpoint": stopped["grpc"].removeprefix("grpc://"), **patient},
    ]
    for plugin in plugins:
        if plugin["transport"] != "python":
            kept = {"max_connections": 64, "max_idle_connections": 64}
            plugin["connection"] = {**kept, **plugin.get("connection", {})}
    return {
        "default_health_check": {"enabled": True, "interval": 0.3, "timeout": 0.5},
        "default_connection": {"request_timeout": TIMEOUT},
        "default_retry": {"max_retries": 1, "initial_interval": 0.01},
        "plugins": plugins,
        "load_balancers": [{"name": "group", "members": ["first", "second"]}],
        "log_level": "critical",
    }


KEPT = ("http", "requests", "https", "grpc", "unix", "exec", "python", "group", "cached", "hedged")
"""Healthy plugins whose connections are open already, and whose calls need no thread."""

SCARCE = ("isolated", "new-connections", "named")
"""Healthy plugins whose calls need a thread or a descriptor each."""


class Caller:
    """Calls plugins in random order until it is stopped, and records what went wrong."""

    def __init__(self, manager: Manager[Any, Any], names: tuple[str, ...], number: int, stop: threading.Event) -> None:
        self._manager = manager
        self._names = names
        self._rng = random.Random(number)
        self._stop = stop
        self.lost: list[str] = []
        self.outcomes: collections.Counter[str] = collections.Counter()
        self.latest = 0.0
        self.latest_call = ""

    def run(self) -> None:
        while not self._stop.is_set():
            name = self._rng.choice(self._names)
            timeout = TIMEOUT if name in KEPT or name in SCARCE else self._rng.choice((0.2, TIMEOUT))
            submitted = self._rng.random() < 0.1
            started = time.monotonic()
            error: BaseException | None = None
            try:
                if submitted:
                    self._manager.submit(name, 1, timeout=timeout).result(30.0)
                else:
                    self._manager.execute(name, 1, timeout=timeout)
            except BaseException as exc:
                error = exc
            self._record(name, submitted, error, time.monotonic() - started - timeout)

    def _record(self, name: str, submitted: bool, error: BaseException | None, late: float) -> None:
        self.outcomes[f"{name}: {'ok' if error is None else type(error).__name__}"] += 1
        if late > self.latest:
            self.latest, self.latest_call = late, name
        if error is None or (name not in KEPT and name not in SCARCE and isinstance(error, PluginError)):
            return
        lacked = isinstance(error, LocalResourceError) or (isinstance(error, SaturatedError) and name == "isolated")
        if not (lacked and (submitted or name in SCARCE)):
            self.lost.append(f"{name}: {type(error).__name__}: {error}")


class Metronome:
    """Sleeps again and again: the longest delay is the machine's, and that of 32 threads in one interpreter."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self.longest = 0.0

    def run(self) -> None:
        while not self._stop.is_set():
            started = time.monotonic()
            time.sleep(0.01)
            self.longest = max(self.longest, time.monotonic() - started - 0.01)


@contextlib.contextmanager
def _threads_refused(stop: threading.Event) -> Iterator[None]:
    """The system refuses about half of all starts of threads: their stacks are larger than the address space."""
    rng = random.Random(1)

    def run() -> None:
        while not stop.is_set():
            threading.stack_size(rng.choice((0, 1 << 47)))
            time.sleep(rng.random() * 0.02)
        threading.stack_size(0)

    with _running(run):
        yield


@contextlib.contextmanager
def _hanging_names(_: threading.Event) -> Iterator[None]:
    _names_answer.clear()
    _names_hang.set()
    try:
        yield
    finally:
        _names_hang.clear()
        _names_answer.set()


def _stopped_peer(pid: int) -> Callable[[threading.Event], contextlib.AbstractContextManager[None]]:
    @contextlib.contextmanager
    def stopped(_: threading.Event) -> Iterator[None]:
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    return stopped


@contextlib.contextmanager
def _running(function: Callable[[], object]) -> Iterator[None]:
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    yield
    thread.join(10.0)


def _warm(manager: Manager[Any, Any], names: tuple[str, ...]) -> None:
    """Opens a connection for each caller: all of them call at the same time, slowly."""
    for name in names:
        ready = threading.Barrier(CALLERS)

        def call(name: str = name, ready: threading.Barrier = ready) -> None:
            ready.wait(10)
            manager.execute(name, {"seconds": 0.05 if name not in ("exec", "hedged") else 0}, timeout=20)

        threads = [threading.Thread(target=call) for _ in range(CALLERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def scenario(
    faults: list[str], where: dict[str, str], stopped: dict[str, str], pid: int, seconds: float
) -> dict[str, Any]:
    """What happened to the calls of 32 threads while the faults lasted, and to those after them."""
    socket.getaddrinfo = _resolve
    manager: Manager[Any, Any] = Manager()
    manager.load_from_config(_settings(where, stopped))
    # Without descriptors gRPC's C code ends the process if it comes to open a connection: see docs/known-problems.md.
    dead = ("stopped-http", "stopped-unix", *(() if "descriptors" in faults else ("stopped-grpc",)))
    names = (*KEPT, *SCARCE, *(HANGING if "names" in faults else ()), *(dead if "peer" in faults else ()))
    _warm(manager, (*KEPT, "first", "second"))
    known = {
        "threads": _threads_refused,
        "descriptors": lambda _: few_descriptors(0, room=10),
        "names": _hanging_names,
        "peer": _stopped_peer(pid),
    }
    stop = threading.Event()
    callers = [Caller(manager, names, number, stop) for number in range(CALLERS)]
    metronome = Metronome(stop)
    threads = [threading.Thread(target=each.run, daemon=True) for each in (metronome, *callers)]
    for thread in threads:
        thread.start()
    with contextlib.ExitStack() as ends:
        for fault in faults:
            ends.enter_context(known[fault](stop))
        time.sleep(seconds)
        stop.set()
        for thread in threads:
            thread.join(10.0)
        hung = sum(thread.is_alive() for thread in threads)
    ended = time.monotonic()
    failing = _wait_until_well(manager, names, ended + 10.0)
    late = max(callers, key=lambda each: each.latest)
    found = {
        "lost": [text for each in callers for text in each.lost][:20],
        "late": late.latest,
        "latest": late.latest_call,
        "busy": metronome.longest,
        "hung": hung,
        "outcomes": sum((each.outcomes for each in callers), collections.Counter()),
        "recovery": time.monotonic() - ended,
        "failing": failing,
    }
    manager.shutdown(1.0)
    return found


def _wait_until_well(manager: Manager[Any, Any], names: tuple[str, ...], end: float) -> dict[str, str]:
    """Calls each plugin until all have answered and are healthy; those that are not by ``end``."""
    failing = dict.fromkeys(names, "not called yet")
    while failing and time.monotonic() < end:
        failing = {name: why for name in failing if (why := _fault(manager, name))}
        time.sleep(0.01)
    return failing


def _fault(manager: Manager[Any, Any], name: str) -> str:
    """Why a plugin is not well; empty if it is."""
    try:
        manager.execute(name, 1, timeout=TIMEOUT)
    except PluginError as error:
        return str(error)
    found = manager.list_plugins()[name]
    return "" if found.status in (PluginStatus.HEALTHY, PluginStatus.UNKNOWN) else f"{found.status}: {found.message}"
