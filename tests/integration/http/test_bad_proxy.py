"""A proxy on the way that cuts, delays and corrupts replies: each call ends in time, with its answer or an error."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from goplugins import Manager, PluginError
from tests.servers import Peer, RawServer, http_reply

pytestmark = pytest.mark.matrix

CALLS = 160
TIMEOUT = 2.0


class BadProxy:
    """Forwards bytes; of some connections it cuts, delays or corrupts what the service replies."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._random = random.Random(7)
        self.faults = {"cut": 0, "reset": 0, "delay": 0, "drip": 0, "corrupt": 0}
        self.server = RawServer(self._serve)

    def _serve(self, peer: Peer) -> None:
        with socket.create_connection(("127.0.0.1", self._port)) as upstream:
            forward = threading.Thread(target=self._forward, args=(peer.sock, upstream), daemon=True)
            forward.start()
            while data := upstream.recv(1 << 16):
                if not self._reply(peer, data):
                    break
            peer.close()
            forward.join(5)

    @staticmethod
    def _forward(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def _reply(self, peer: Peer, data: bytes) -> bool:
        """Passes a reply on; False to end the connection."""
        fault = self._random.choice(["none", "none", *self.faults])
        place = self._random.randrange(len(data))
        if fault != "none":
            self.faults[fault] += 1
        if fault in {"cut", "reset"}:
            peer.send(data[:place])
            if fault == "reset":
                peer.reset()
            return False
        if fault == "delay":
            time.sleep(self._random.choice([0.01, 0.3]))
        elif fault == "corrupt":
            data = data[:place] + b"\0" + data[place + 1 :]
        elif fault == "drip":
            for start in range(0, len(data), 16):
                peer.send(data[start : start + 16])
            return True
        peer.send(data)
        return True


@pytest.fixture
def service() -> Iterator[RawServer]:
    """Replies with the number in the request, a thousand times."""

    def handler(peer: Peer) -> None:
        while (request := peer.read_request()) is not None:
            body = request.json
            number = body["data"]["n"] if "data" in body else body["n"]
            envelope = {"data": [number] * 1000, "request_id": request.headers["x-request-id"]}
            peer.send(http_reply(envelope))

    with RawServer(handler) as server:
        yield server


@pytest.mark.parametrize("engine", ["fast", "requests"])
@pytest.mark.parametrize("protocol", ["envelope", "rest"])
def test_each_call_ends_in_time_with_its_own_answer_or_an_error(service, protocol, engine):
    proxy = BadProxy(service.port)
    config: dict[str, Any] = {
        "name": "p",
        "transport": "http",
        "endpoint": f"http://127.0.0.1:{proxy.server.port}/",
        "options": {"engine": engine},
        "retry": {"max_retries": 2, "initial_interval": "1ms", "attempt_timeout": "200ms", "budget_ratio": 1.0},
        "circuit_breaker": {"enabled": False},
        "health_check": {"kind": "none"},
    }
    if protocol == "rest":
        config["operations"] = {"op": {"method": "POST", "path": "/op", "result": "/data"}}
    with proxy.server, Manager() as manager, ThreadPoolExecutor(8) as pool:
        manager.load_from_config({"plugins": [config]})
        called = manager.bind("p", dict, list[int], operation="op" if protocol == "rest" else "")

        def one(number: int) -> str:
            started = time.monotonic()
            try:
                answer = called({"n": number}, timeout=TIMEOUT, idempotent=number % 2 == 0)
            except PluginError as error:
                outcome = type(error).__name__
            else:
                assert answer == [number] * 1000
                outcome = "answer"
            assert time.monotonic() - started < TIMEOUT + 1.0
            return outcome

        outcomes = list(pool.map(one, range(CALLS)))
    assert all(proxy.faults.values()), proxy.faults
    assert outcomes.count("answer") >= CALLS // 2
    assert len(set(outcomes)) > 1
    idempotent = outcomes[::2]
    assert idempotent.count("answer") > outcomes[1::2].count("answer")
    for number in range(1, CALLS, 2):  # a call that must not be repeated reached the service once at most
        sent = [request for request in service.requests if b'{"n":%d}' % number in request.raw]
        assert len(sent) <= 1
    assert len(service.requests) > CALLS
