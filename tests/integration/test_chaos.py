"""Injected faults compared with real ones over real wires: same class, same retries, same effect on the breaker."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from goplugins import Manager
from goplugins.enums import PluginStatus
from goplugins.errors import PluginConnectionError, PluginError
from goplugins.testing import inject
from tests.integration.grpc.conftest import RawServer as GRPCServer, aborting, reply as grpc_reply
from tests.integration.unix.conftest import line, ok as unix_ok, read_line
from tests.servers import Peer, RawServer, free_port, http_reply, ok as http_ok, read_http2_request
from tests.timing import time_limit

pytestmark = pytest.mark.matrix

FAULTS: dict[str, dict[str, Any]] = {
    "error": {"error": 1.0},
    "unavailable": {"error": 1.0, "status": 503},
    "unavailable, says when": {"error": 1.0, "status": 503, "retry_after": 0.05},
    "refuse": {"refuse": 1.0},
    "reset": {"reset": 1.0},
    "garbage": {"garbage": 1.0},
    "hang": {"hang": 1.0},
}


# --- servers that really do it ---------------------------------------------------------------------------------------


def http_handler(fault: str) -> Callable[[Peer], None]:
    replies = {
        "error": http_reply(b"", "500 Internal Server Error"),
        "unavailable": http_reply(b"", "503 Service Unavailable"),
        "unavailable, says when": http_reply(b"", "503 Service Unavailable", {"Retry-After": "1"}),
        "garbage": http_reply(b"<html>"),
    }

    def handler(peer: Peer) -> None:
        while (request := peer.read_request()) is not None:
            if fault in {"reset", "hang"}:
                getattr(peer, fault)()
                return
            peer.send(replies.get(fault) or http_ok(request))

    return handler


@contextlib.contextmanager
def http(fault: str) -> Iterator[tuple[dict[str, Any], Callable[[], int]]]:
    if fault == "refuse":
        yield {"transport": "http", "endpoint": f"http://127.0.0.1:{free_port()}"}, lambda: 0
        return
    with RawServer(http_handler(fault)) as server:
        yield {"transport": "http", "endpoint": server.url}, lambda: len(server.requests)


def unix_handler(fault: str) -> Callable[[Peer], None]:
    failures: dict[str, dict[str, Any]] = {
        "error": {"error_kind": "internal"},
        "unavailable": {"error_kind": "unavailable"},
        "unavailable, says when": {"error_kind": "unavailable", "headers": {"Retry-After": "0.05"}},
    }

    def handler(peer: Peer) -> None:
        while (request := read_line(peer)) is not None:
            if fault in {"reset", "hang"}:
                getattr(peer, "close" if fault == "reset" else fault)()
                return
            failure = {"type": "execute", "request_id": request["request_id"], "success": False, "error": "no"}
            if fault in failures:
                peer.send(line({**failure, **failures[fault]}))
            else:
                peer.send(b"nonsense\n" if fault == "garbage" else unix_ok(request))

    return handler


@contextlib.contextmanager
def unix(fault: str) -> Iterator[tuple[dict[str, Any], Callable[[], int]]]:
    with tempfile.TemporaryDirectory(prefix="gp-") as folder:
        config = {"transport": "unix", "endpoint": os.path.join(folder, "s")}
        if fault == "refuse":
            yield config, lambda: 0
            return
        with RawServer(unix_handler(fault), unix=config["endpoint"]) as server:
            yield config, lambda: len(server.requests)


def grpc_handler(fault: str) -> Callable[[bytes, Any], bytes]:
    def slow(request: bytes, context: Any) -> bytes:
        while context.is_active():
            time.sleep(0.005)
        return b""

    return {
        "error": lambda request, _: grpc_reply(request, error="no", error_kind="internal"),
        "unavailable": aborting("UNAVAILABLE"),
        "unavailable, says when": aborting("UNAVAILABLE", trailing=(("grpc-retry-pushback-ms", "50"),)),
        "garbage": lambda request, _: grpc_reply(request, payload=b"nonsense"),
        "hang": slow,
    }.get(fault, lambda request, _: grpc_reply(request, payload=b'"ok"'))


@contextlib.contextmanager
def grpc(fault: str) -> Iterator[tuple[dict[str, Any], Callable[[], int]]]:
    def leaves(peer: Peer) -> None:
        read_http2_request(peer)
        peer.reset()

    if fault == "refuse":
        yield {"transport": "grpc", "endpoint": f"127.0.0.1:{free_port()}"}, lambda: 0
    elif fault == "reset":
        with RawServer(leaves) as server:
            yield {"transport": "grpc", "endpoint": f"127.0.0.1:{server.port}"}, lambda: server.connections
    else:
        answering = GRPCServer(grpc_handler(fault))
        try:
            yield {"transport": "grpc", "endpoint": answering.address}, lambda: len(answering.calls)
        finally:
            answering.close()


WIRES = {"http": http, "unix": unix, "grpc": grpc}


@contextlib.contextmanager
def calling(config: dict[str, Any], **sections: Any) -> Iterator[Manager[Any, Any]]:
    plugin = {"name": "p", "health_check": {"enabled": False}, **config, **sections}
    with Manager() as manager:
        manager.load_from_config({"plugins": [plugin], "log_level": "error"})
        yield manager


def failed_call(manager: Manager[Any, Any], **call: Any) -> PluginError:
    with pytest.raises(PluginError) as caught:
        manager.execute("p", "hello", **call)
    return caught.value


# --- the same, real and injected -------------------------------------------------------------------------------------


def seen(error: PluginError) -> dict[str, Any]:
    """What policies and callers decide by; the name of a gRPC status is not imitated."""
    facts = {name: getattr(error, name) for name in ("code", "retryable", "replay", "verdict", "attempts", "plugin")}
    says_when = error.retry_after is not None
    details = {name: value for name, value in error.details.items() if name not in {"chaos", "metadata", "headers"}}
    if isinstance(details.get("status"), str):
        del details["status"]
    return {"class": type(error), "says when": says_when, "details": details, **facts}


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("idempotent", [False, True])
def test_policies_treat_an_injected_fault_as_a_real_one(wire, fault, idempotent):
    retry = {"max_retries": 1, "initial_interval": 0.001}
    breaker = {"failure_threshold": 50}
    call = {"timeout": 0.5, "idempotent": idempotent}
    with WIRES[wire](fault) as (config, _), calling(config, retry=retry, circuit_breaker=breaker) as manager:
        real = failed_call(manager, **call)
    with WIRES[wire]("none") as (config, requests), calling(config, retry=retry, circuit_breaker=breaker) as manager:
        with inject(manager, "p", **FAULTS[fault]) as chaos:
            injected = failed_call(manager, **call)
        sent = requests()
        assert manager.execute("p", "hello") == "ok"
    assert seen(injected) == seen(real)
    assert (injected.details["chaos"], real.details.get("chaos")) == (True, None)
    assert "(injected)" in str(injected)
    assert chaos.attempts == injected.attempts
    assert sent == (injected.attempts if fault in {"reset", "garbage", "hang"} else 0)


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("fault", ["error", "refuse", "reset", "garbage", "hang"])
def test_the_breaker_opens_as_for_a_real_fault(wire, fault):
    breaker = {"failure_threshold": 1, "min_request_threshold": 1}
    states = []
    for server, injection in ((fault, {}), ("none", FAULTS[fault])):
        with (
            WIRES[wire](server) as (config, _),
            calling(config, retry={"max_retries": 0}, circuit_breaker=breaker) as manager,
            inject(manager, "p", **injection) if injection else contextlib.nullcontext(),
        ):
            failed_call(manager, timeout=0.2 if fault == "hang" else 3.0)
            states.append(manager.explain("p").breaker)
    assert [str(state) for state in states] == ["open", "open"]


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("chaos", [{"hang": 1.0}, {"latency": 1.0, "delay": 30.0}])
def test_the_deadline_holds(wire, chaos):
    with WIRES[wire]("none") as (config, _), calling(config) as manager:
        manager.execute("p", "hello")
        with inject(manager, "p", **chaos):
            for stopwatch in time_limit(0.3, at_least=0.19):
                with stopwatch:
                    assert isinstance(failed_call(manager, timeout=0.2), TimeoutError)


@pytest.mark.parametrize("wire", WIRES)
def test_after_the_block_no_fault_is_injected(wire):
    with WIRES[wire]("none") as (config, requests), calling(config, retry={"max_retries": 0}) as manager:
        before = manager._registry.get("p").sender
        with inject(manager, "p", refuse=0.3, reset=0.3, latency=0.5, delay=0.001, seed=5) as chaos:
            outcomes = []
            for _ in range(20):
                try:
                    outcomes.append(manager.execute("p", "hello", timeout=5))
                except PluginConnectionError as error:
                    outcomes.append(error.code)
                manager._registry.get("p").pipeline.breaker.reset()
        counts = chaos.counts
        assert manager._registry.get("p").sender is before
        assert manager.execute("p", "hello") == "ok"
        assert requests() == 20 - counts["refuse"] + 1
        assert outcomes.count("ok") == 20 - counts["refuse"] - counts["reset"]
        assert min(counts[fault] for fault in ("refuse", "reset", "latency")) > 0


def test_health_checks_may_fail_too():
    with (
        http("none") as (config, _),
        calling(config) as manager,
        inject(manager, "p", refuse=1.0, health=True) as chaos,
    ):
        found = manager.health()["p"]
        assert found.status is PluginStatus.UNHEALTHY
        assert "connection refused (injected)" in found.message
        assert (chaos.counts["health"], chaos.counts["refuse"], chaos.attempts) == (1, 0, 0)


@pytest.mark.parametrize("wire", WIRES)
def test_a_configuration_with_chaos_injects_and_logs(wire, caplog):
    chaos = {"enabled": True, "refuse": 1.0, "seed": 3}
    with WIRES[wire]("none") as (config, requests), calling(config, chaos=chaos, retry={"max_retries": 0}) as manager:
        error = failed_call(manager)
        assert (type(error), error.details["chaos"]) == (PluginConnectionError, True)
        assert requests() == 0
        assert "chaos is on, faults are injected: refuse 1" in str(manager.explain("p"))
        # get_plugin() is without injected faults.
        assert manager.get_plugin("p").execute("hello") == "ok"
    assert "its configuration has chaos on" in caplog.text


def test_a_probe_of_the_breaker_keeps_the_mark_of_an_injected_fault():
    breaker = {"failure_threshold": 1, "min_request_threshold": 1, "recovery_timeout": 0.05}
    config_of = {"retry": {"max_retries": 0}, "circuit_breaker": breaker, "chaos": {"enabled": True, "hang": 1.0}}
    with http("none") as (config, _), calling(config, **config_of) as manager:
        assert failed_call(manager, timeout=0.15).details["chaos"] is True
        time.sleep(0.06)
        probe = failed_call(manager, timeout=0.15)
        assert (type(probe).__name__, probe.details["chaos"]) == ("CircuitBreakerTimeoutError", True)
