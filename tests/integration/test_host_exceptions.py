"""What a signal handler of the application raises during a call passes as it is, whatever its class."""

from __future__ import annotations

import contextlib
import errno
import functools
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from goplugins import Manager, PluginConnectionError, PluginTimeoutError
from tests.integration.test_garbage import listening
from tests.servers import free_port

pytestmark = pytest.mark.matrix


class JobTimeoutError(Exception):
    """As a job queue raises it."""


RAISED: dict[str, Callable[[], Exception]] = {
    "TimeoutError": lambda: TimeoutError("job"),
    "socket.timeout": lambda: socket.timeout("timed out"),  # noqa: UP041
    "OSError": lambda: OSError("job"),
    "EMFILE": lambda: OSError(errno.EMFILE, "job"),
    "ConnectionResetError": lambda: ConnectionResetError(errno.ECONNRESET, "job"),
    "ValueError": lambda: ValueError("job"),
    "KeyError": lambda: KeyError("job"),
    "EOFError": lambda: EOFError("job"),
    "RuntimeError": lambda: RuntimeError("job"),
    "of a job queue": lambda: JobTimeoutError("job"),
}  # fmt: skip

WIRES = ["http", "http with requests", "unix", "exec", "grpc"]
READ_ALL = "import sys\nfor line in sys.stdin: pass"


@contextlib.contextmanager
def alarm(exc: Exception, seconds: float = 0.2, *, kind: str = "function") -> Iterator[None]:
    def handler(*_: Any) -> None:
        raise exc

    class Handler:
        def __call__(self, *_: Any) -> None:
            raise exc

        def method(self, *_: Any) -> None:
            raise exc

    handlers: dict[str, Any] = {
        "function": handler,
        "method": Handler().method,
        "object": Handler(),
        "partial": functools.partial(handler, 1),
    }
    before = signal.signal(signal.SIGALRM, handlers[kind])
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def loaded(**plugin: Any) -> Manager[Any, Any]:
    manager: Manager[Any, Any] = Manager()
    settings = {
        "retry": {"max_retries": 3, "idempotent": True, "initial_interval": "5ms"},
        "fallback": {"value": "fallback"},
        "circuit_breaker": {"failure_threshold": 1, "min_request_threshold": 1},
        "health_check": {"enabled": False},
    }
    manager.load_from_config({"plugins": [{"name": "p", **settings, **plugin}]})
    return manager


def interrupted(manager: Manager[Any, Any], exc: Exception, kind: str = "function", timeout: float = 20.0) -> None:
    started = time.monotonic()
    with alarm(exc, kind=kind), pytest.raises(type(exc)) as caught:
        manager.execute("p", {"a": 1}, timeout=timeout)
    assert caught.value is exc
    assert time.monotonic() - started < 10.0
    metrics = manager.metrics().plugins["p"]
    assert (metrics.circuit_breaker_trips, metrics.fallback_answers, metrics.active_requests) == (0, 0, 0)
    assert metrics.attempts_total <= 1


CASES = [
    *(("http", name) for name in RAISED),
    *((wire, name) for wire in WIRES[1:] for name in ("TimeoutError", "OSError", "ValueError", "of a job queue")),
]


@pytest.mark.parametrize(("wire", "name"), CASES)
def test_during_a_wait_for_a_reply(wire, name, tmp_path):
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(listening(None))
        path = str(tmp_path / "s")
        server = stack.enter_context(contextlib.closing(socket.socket(socket.AF_UNIX)))
        server.bind(path)
        server.listen()
        url = f"http://127.0.0.1:{port}/"
        plugin: dict[str, Any] = {
            "http": {"transport": "http", "endpoint": url},
            "http with requests": {"transport": "http", "endpoint": url, "options": {"engine": "requests"}},
            "unix": {"transport": "unix", "endpoint": path},
            "exec": {"transport": "exec", "executable": sys.executable, "args": ["-c", READ_ALL]},
            "grpc": {"transport": "grpc", "endpoint": f"127.0.0.1:{port}"},
        }[wire]
        interrupted(stack.enter_context(loaded(**plugin)), RAISED[name]())


@pytest.mark.parametrize("kind", ["method", "object", "partial"])
def test_of_any_kind_of_handler(kind):
    with listening(None) as port, loaded(transport="http", endpoint=f"http://127.0.0.1:{port}/") as manager:
        interrupted(manager, TimeoutError("job"), kind)


@pytest.mark.parametrize("name", RAISED)
def test_in_the_code_of_a_plugin_in_this_process(name):
    def slow(request: dict[str, int]) -> str:
        time.sleep(20)
        return ""

    with Manager() as manager:
        manager.register(slow, name="p")
        interrupted(manager, RAISED[name]())


def test_a_call_within_the_handling_of_such_an_exception_has_errors_of_its_own():
    with loaded(transport="http", endpoint=f"http://127.0.0.1:{free_port()}/", fallback=None) as manager:
        try:
            with alarm(TimeoutError("job"), 0.01):
                time.sleep(20)
        except TimeoutError:
            with alarm(TimeoutError("another"), 60), pytest.raises(PluginConnectionError):
                manager.execute("p", {})


def test_a_real_timeout_stays_one():
    with (
        alarm(TimeoutError("job"), 60),
        listening(None) as port,
        loaded(transport="http", endpoint=f"http://127.0.0.1:{port}/", fallback=None) as manager,
        pytest.raises(PluginTimeoutError),
    ):
        manager.execute("p", {}, timeout=0.2)
