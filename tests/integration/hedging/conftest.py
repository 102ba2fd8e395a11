"""A hedged plugin on each transport, with breaker and retry budget, and a server with delays set by the test."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import pytest

from goplugins.config import HedgeConfig, ManagerConfig, PluginConfig
from goplugins.pipeline.hedging import Hedger, hedge_pool
from goplugins.pipeline.plugin import GuardedPlugin
from goplugins.resilience import HedgePolicy
from goplugins.runtime.call import Call
from goplugins.runtime.deadline import Deadline
from goplugins.transports.grpc import GRPCPlugin
from goplugins.transports.http import HTTPPlugin
from goplugins.transports.json_codec import codec_for
from goplugins.transports.unix import UnixSocketPlugin
from tests.integration.unix import conftest as lines
from tests.servers import Peer, RawServer, ok

WIRES = ("http", "unix", "grpc")

Slowness = Callable[[int], float]


class Service:
    """Answers each request with its data, after ``slowness(number)`` seconds for the request with that number."""

    def __init__(self, wire: str, slowness: Slowness) -> None:
        self.slowness = slowness
        self.timeouts: list[float] = []  # the timeout that each request carried, in seconds and order of arrival
        self.keys: list[str] = []
        self._numbers = itertools.count()
        self._cleanup = contextlib.ExitStack()
        self._closing = threading.Event()
        self.open_now: Callable[[], int] = lambda: 0
        self.drop: Callable[[], None] = lambda: None
        self.endpoint = getattr(self, f"_serve_{wire}")()

    def _delay(self) -> None:
        self._closing.wait(self.slowness(next(self._numbers)))

    def _serve_http(self) -> str:
        def handler(peer: Peer) -> None:
            while (request := peer.read_request()) is not None:
                self.timeouts.append(_seconds(request.json["timeout"]))
                self.keys.append(request.headers.get("idempotency-key", ""))
                self._delay()
                peer.send(ok(request, request.json["data"]))

        server = self._cleanup.enter_context(RawServer(handler))
        self.open_now = lambda: server.open_now
        self.drop = server.drop_connections
        return server.url

    def _serve_unix(self) -> str:
        def handler(peer: Peer) -> None:
            while (request := lines.read_line(peer)) is not None:
                self.timeouts.append(request["timeout_ms"] / 1000)
                self._delay()
                peer.send(lines.ok(request, request["data"]))

        folder = self._cleanup.enter_context(tempfile.TemporaryDirectory(prefix="gp-"))
        server = self._cleanup.enter_context(RawServer(handler, unix=os.path.join(folder, "s")))
        self.open_now = lambda: server.open_now
        return server.unix or ""

    def _serve_grpc(self) -> str:
        from goplugins.transports.grpc.fork_support import load
        from goplugins.transports.grpc.messages import EXECUTE, messages

        grpc = load()

        def handle(raw: bytes, context: Any) -> bytes:
            request = messages().ExecuteRequest.FromString(raw)
            self.timeouts.append(request.timeout_ms / 1000)
            gone = threading.Event()
            context.add_callback(gone.set)
            gone.wait(self.slowness(next(self._numbers)))
            reply = messages().ExecuteResponse(request_id=request.request_id, payload=request.payload)
            return bytes(reply.SerializeToString())

        class Handlers:
            def service(self, details: Any) -> Any:
                return grpc.unary_unary_rpc_method_handler(handle) if details.method == EXECUTE else None

        server = grpc.server(futures.ThreadPoolExecutor(32), handlers=(Handlers(),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        self._cleanup.callback(lambda: server.stop(0).wait(5))
        return f"127.0.0.1:{port}"

    def close(self) -> None:
        self._closing.set()
        self._cleanup.close()


def _seconds(duration: str) -> float:
    from goplugins.config import parse_duration

    return parse_duration(duration)


PLUGINS: dict[str, Any] = {"http": HTTPPlugin, "unix": UnixSocketPlugin, "grpc": GRPCPlugin}


class Hedged:
    """A hedger over the attempts of one guarded plugin."""

    def __init__(self, wire: str, endpoint: str, hedge: HedgeConfig, **sections: Any) -> None:
        config = PluginConfig.from_mapping({"name": "p", "transport": wire, "endpoint": endpoint, **sections})
        config = ManagerConfig().resolve(config)
        self.plugin = PLUGINS[wire](config)
        self.pool = hedge_pool()
        guarded = GuardedPlugin(self.plugin, self.plugin, config, hedge_pool=self.pool, rng=random.Random(1))
        self.attempt = guarded.pipeline.run_as_member
        self.breaker = guarded.pipeline.breaker
        self.budget = guarded.pipeline.budget
        self.hedger = Hedger(HedgePolicy(hedge), self.pool, self.budget)
        self._ids = itertools.count()

    def new_call(self, value: Any, timeout: float = 5.0) -> Call:
        call = Call(value, codec_for(), Deadline.after(timeout), f"id-{next(self._ids)}", idempotent=True)
        self.plugin.prepare(call)
        return call

    def call(self, value: Any, timeout: float = 5.0) -> Any:
        call = self.new_call(value, timeout)
        try:
            return self.hedger(call, self.attempt)
        finally:
            self.budget.deposit()

    @property
    def sent(self) -> int:
        """The number of hedges sent."""
        return self.hedger.counts.metrics().hedges_sent

    @property
    def won(self) -> int:
        """The number of hedges that returned the answer."""
        return self.hedger.counts.metrics().hedges_won

    @property
    def in_use(self) -> int:
        """Connections in use; for gRPC, calls in flight on its connection."""
        pools = {"HTTPPlugin": "_engine.pool", "UnixSocketPlugin": "pool", "GRPCPlugin": "_slots"}
        pool: Any = self.plugin
        for name in pools[type(self.plugin).__name__].split("."):
            pool = getattr(pool, name)
        return int(pool.open - pool.idle)

    def settle(self, seconds: float = 5.0) -> None:
        """Waits until no attempt is in flight."""
        end = time.monotonic() + seconds
        while self.in_use or self.pool._state.slots:
            assert time.monotonic() < end, (
                f"{self.in_use} connections, {len(self.pool._state.slots)} worker slots are still in use"
            )
            time.sleep(0.005)

    def close(self) -> None:
        self.plugin.close()
        self.pool.shutdown(timeout=10)
        assert self.pool.threads == 0


@pytest.fixture
def serve() -> Iterator[Callable[..., Service]]:
    services: list[Service] = []

    def start(wire: str, slowness: Slowness = lambda _: 0.0) -> Service:
        services.append(Service(wire, slowness))
        return services[-1]

    yield start
    for service in services:
        service.close()


@pytest.fixture
def make() -> Iterator[Callable[..., Hedged]]:
    """Creates hedged plugins and closes them after the test."""
    made: list[Hedged] = []

    def build(wire: str, endpoint: str, *, hedge: HedgeConfig | None = None, **sections: Any) -> Hedged:
        made.append(Hedged(wire, endpoint, hedge or HedgeConfig(delay=0.005), **sections))
        return made[-1]

    yield build
    for one in made:
        one.close()
