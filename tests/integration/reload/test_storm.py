"""Reloads while many threads call over all transports: no call fails, and no connection or process is left."""

from __future__ import annotations

import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from goplugins import Manager, ReloadOptions, serve
from goplugins.pipeline.plugin import GuardedPlugin
from tests.processes import children
from tests.servers import Peer, RawServer, ok

PROGRAM = str(Path(__file__).with_name("program.py"))
THREADS = 16


@serve.plugin(name="echo")
def echo(request: Any) -> Any:
    return request


@pytest.fixture(scope="module")
def endpoints() -> Iterator[dict[str, list[str]]]:
    """Two servers for each transport with servers."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="gp-"))
        urls = {
            "http": ["http://127.0.0.1:0"] * 2,
            "grpc": ["grpc://127.0.0.1:0"] * 2,
            "unix": [f"unix://{folder}/{number}.sock" for number in range(2)],
        }
        yield {
            transport: [stack.enter_context(serve.start(echo, url, threads=24)).endpoint for url in both]
            for transport, both in urls.items()
        }


class Scene:
    """Random configurations: one plugin for each of four transports, which stay, and others that come and go."""

    def __init__(self, endpoints: dict[str, list[str]], seed: int) -> None:
        self.endpoints = endpoints
        self.rng = random.Random(seed)
        self.at: dict[str, str] = {}  # the plugins' present endpoints

    def policies(self) -> dict[str, Any]:
        rng = self.rng
        found: dict[str, Any] = {
            "retry": {"max_retries": rng.randrange(4)},
            "circuit_breaker": {"failure_threshold": rng.randrange(1, 9), "enabled": rng.random() < 0.8},
            "health_check": {"interval": rng.choice([5, 30]), "enabled": rng.random() < 0.8},
        }
        if rng.random() < 0.5:
            found["bulkhead"] = {"max_concurrent": rng.choice([20, 50])}
        if rng.random() < 0.5:
            found["rate_limit"] = {"enabled": True, "requests_per_second": 1e6, "burst_size": 10**6}
        if rng.random() < 0.3:
            found["cache"] = {"ttl": 1}
        if rng.random() < 0.3:
            found["fallback"] = {"value": "never"}
        return found

    def plugin(self, name: str, transport: str) -> dict[str, Any]:
        rng = self.rng
        plugin = {"name": name, "transport": transport, **self.policies()}
        if transport == "exec":
            # Starting a process is slow: this plugin changes less often.
            env = [f"ROUND={rng.randrange(20) // 19}"]
            return {
                **plugin,
                "executable": sys.executable,
                "args": ["-S", "-E", PROGRAM],
                "env": env,
                "connection": {"max_connections": 2},
            }
        if name not in self.at or rng.random() < 0.25:
            self.at[name] = rng.choice(self.endpoints[transport])
        return {**plugin, "endpoint": self.at[name], "connection": {"max_connections": 8}}

    def config(self) -> dict[str, Any]:
        plugins = [self.plugin(transport, transport) for transport in ("http", "grpc", "unix", "exec")]
        for number in range(3):
            if self.rng.random() < 0.5:
                further = self.plugin(f"extra{number}", ["http", "grpc", "unix"][number])
                plugins.append({**further, "enabled": self.rng.random() < 0.8})
        self.rng.shuffle(plugins)
        return {"plugins": plugins, "load_balancers": [{"name": "group", "members": ["http", "unix"]}]}

    def options(self) -> ReloadOptions:
        strategies = ["graceful"] * 12 + ["rolling"] * 6 + ["recreate"]
        return ReloadOptions(
            strategy=self.rng.choice(strategies),
            max_concurrent_reloads=self.rng.choice([1, 3]),
            health_check_timeout=20.0,
        )


class Callers:
    """Threads that call the plugins that stay continuously."""

    def __init__(self, manager: Manager[Any, Any]) -> None:
        self.errors: list[str] = []
        self.calls: Counter[str] = Counter()
        self.over = threading.Event()
        self._manager = manager
        names = ["http", "grpc", "unix", "exec", "http", "grpc", "unix", "group"]
        self._threads = [threading.Thread(target=self._run, args=(names[n % 8],)) for n in range(THREADS)]

    def _run(self, name: str) -> None:
        number = 0
        while not self.over.is_set():
            number += 1
            try:
                answer = self._manager.execute(name, [name, number], timeout=20)
                assert answer == [name, number], answer
                self.calls[name] += 1
            except Exception as exc:
                self.errors.append(f"{name}: {exc!r}: {exc}")
                return
            self.over.wait(0.015)

    def __enter__(self) -> Callers:  # noqa: PYI034
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self._threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in self._threads)


def pool_of(plugin: GuardedPlugin) -> Any:
    wire: Any = plugin.wire
    return getattr(getattr(wire, "_engine", wire), "pool", None)


def connected(ports: Mapping[str, set[str]]) -> Counter[str]:
    """How many connections this process has open to the servers of each wire, whose ports are hexadecimal."""
    links = []
    for entry in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            links.append(os.readlink(f"/proc/self/fd/{entry}"))
    inodes = {link.removeprefix("socket:[").rstrip("]") for link in links if link.startswith("socket:[")}
    remote: Counter[str] = Counter()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "01" and fields[9] in inodes:  # established, and of this process
            remote[fields[2][-4:]] += 1
    return Counter({wire: sum(remote[port] for port in both) for wire, both in ports.items()})


def wires_open(plugins: set[GuardedPlugin], transport: str) -> int:
    """The number of connections or processes in the pools of a transport's plugins."""
    found = 0
    for plugin in plugins:
        if plugin.config.transport == transport and plugin.config.type != "group":
            pool = pool_of(plugin)
            found += 1 if pool is None else pool.open  # gRPC: one channel, one connection
    return found


def eventually(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def storm(endpoints: dict[str, list[str]], reloads: int, seed: int, seconds: float) -> None:
    scene = Scene(endpoints, seed)
    manager: Manager[Any, Any] = Manager()
    manager.load_from_config(scene.config())
    registry = manager._registry
    ever: set[GuardedPlugin] = set(registry.plugins.values())
    registry.subscribe(lambda: ever.update(registry.plugins.values()))
    before = children(PROGRAM)
    ports = {wire: {f"{int(url.rpartition(':')[2]):04X}" for url in endpoints[wire]} for wire in ("http", "grpc")}
    done: Counter[str] = Counter()
    end = time.monotonic() + seconds
    with manager:
        with Callers(manager) as callers:
            for _ in range(reloads):
                report = manager.reload_config(scene.config(), options=scene.options())
                done.update(str(outcome.action) for outcome in report.plugins)
                assert not any(outcome.left_behind for outcome in report.plugins)
                present = set(registry.plugins.values())
                held = partial(wires_open, present)
                gone = [pool for plugin in ever - present if (pool := pool_of(plugin)) is not None]
                # No call is in flight any more, but perhaps a health check of the old plugin.
                eventually(lambda gone=gone: not any(pool.open for pool in gone), 20)
                eventually(lambda held=held: all(n <= held(wire) for wire, n in connected(ports).items()), 20)
                # Processes end asynchronously.
                eventually(lambda held=held: len(children(PROGRAM) - before) <= held("exec"), 20)
                ever &= present
                assert callers.errors == []
                if time.monotonic() > end:
                    break
        assert callers.errors == []
        assert min(callers.calls.values()) > 0
        assert len(callers.calls) == 5
        assert min(done[action] for action in ("kept", "updated", "replaced", "added", "removed")) > 0
        metrics = manager.metrics()
        assert metrics.requests_failure == 0
        for name in ("http", "grpc", "unix", "exec"):
            assert metrics.plugins[name].requests_success >= callers.calls[name]  # calls of the group included
        assert metrics.active_requests == 0
    eventually(lambda: children(PROGRAM) <= before, 10)


@pytest.mark.stress
@pytest.mark.timeout(150)
def test_200_reloads_under_16_threads_over_all_transports(endpoints: dict[str, list[str]]) -> None:
    storm(endpoints, 200, seed=6, seconds=100)


@pytest.mark.stress
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(5))
def test_a_long_storm(endpoints: dict[str, list[str]], seed: int) -> None:
    storm(endpoints, 1000, seed, seconds=600)


# --- how long a reload takes ---------------------------------------------------------------------------------------


@pytest.fixture
def slow_server() -> Iterator[RawServer]:
    """Answers a call after the number of milliseconds in its request."""

    def answer(peer: Peer) -> None:
        while (request := peer.read_request()) is not None:
            if request.method == "POST":
                time.sleep(request.json["data"] / 1000)
            peer.send(ok(request))

    with RawServer(answer) as server:
        yield server


@pytest.mark.parametrize("transport", ["http", "grpc", "unix"])
def test_an_idle_plugin_is_replaced_within_50_milliseconds(endpoints: dict[str, list[str]], transport: str) -> None:
    def config(number: int) -> dict[str, Any]:
        return {"plugins": [{"name": "p", "transport": transport, "endpoint": endpoints[transport][number % 2]}]}

    with Manager() as manager:
        manager.load_from_config(config(0))
        manager.execute("p", 0)
        took = []
        for number in range(1, 8):
            started = time.monotonic()
            report = manager.reload_config(config(number))
            took.append(time.monotonic() - started)
            assert report.replaced == ("p",)
            manager.execute("p", 0)
        assert sorted(took)[len(took) // 2] < 0.05


def test_an_idle_program_is_replaced_within_its_start_time() -> None:
    """Calls reach the new process once it has started; the reload takes 50 milliseconds more."""

    def config(number: int) -> dict[str, Any]:
        program = {"executable": sys.executable, "args": ["-S", "-E", PROGRAM], "env": [f"ROUND={number}"]}
        return {"plugins": [{"name": "p", "transport": "exec", **program}]}

    def seconds(act: Callable[[], Any]) -> float:
        started = time.monotonic()
        act()
        return time.monotonic() - started

    with Manager() as manager:
        manager.load_from_config(config(0))
        manager.execute("p", 0)
        over = []
        for number in range(1, 8):
            with Manager() as other:
                other.load_from_config(config(number))
                start = seconds(lambda other=other: other.execute("p", 0))
            over.append(seconds(lambda number=number: manager.reload_config(config(number))) - start)
            manager.execute("p", 0)
        assert min(over) < 0.05


def of(server: RawServer, number: int) -> dict[str, Any]:
    return {"plugins": [{"name": "p", "transport": "http", "endpoint": f"{server.url}/{number}"}]}


def test_a_reload_waits_for_a_call_in_flight_and_no_longer(slow_server: RawServer) -> None:
    with Manager() as manager:
        manager.load_from_config(of(slow_server, 0))
        manager.execute("p", 0)
        over = []
        for number in range(1, 4):
            call = manager.submit("p", 500)
            while manager.metrics().active_requests == 0:
                time.sleep(0.0005)
            started = time.monotonic()
            report = manager.reload_config(of(slow_server, number))
            over.append(time.monotonic() - started - 0.5)
            assert call.result() == "ok"
            assert report.drained == 1
        assert min(over) < 0.05
