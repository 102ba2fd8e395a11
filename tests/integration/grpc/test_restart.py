"""A gRPC server that stops and restarts, under a manager with all its policies."""

from __future__ import annotations

import time

import pytest

from goplugins import CircuitBreakerOpenError, Manager, PluginError, serve


@serve.plugin(name="echo")
def echo(request: int) -> int:
    return request


@pytest.mark.processes
def test_calls_succeed_within_a_second_of_a_restart_and_none_hangs():
    running = serve.start(echo, "grpc://127.0.0.1:0")
    config = {
        "name": "echo",
        "transport": "grpc",
        "endpoint": running.url.removeprefix("grpc://"),
        "circuit_breaker": {"recovery_timeout": "500ms", "max_recovery_timeout": "500ms", "success_threshold": 1},
        "health_check": {"enabled": False},
        "retry": {"max_retries": 0},
    }
    with Manager(int, int) as manager:
        manager.load_from_config({"plugins": [config]})
        assert manager.execute("echo", 1) == 1
        running.stop()
        longest, refused = 0.0, 0
        stopped = time.monotonic()
        while time.monotonic() - stopped < 2.0:
            started = time.monotonic()
            try:
                manager.execute("echo", 1, timeout=1.0)
            except CircuitBreakerOpenError:
                refused += 1
            except PluginError:
                pass
            longest = max(longest, time.monotonic() - started)
            time.sleep(0.01)
        assert refused > 10
        assert longest < 1.1
        with serve.start(echo, running.url):
            back = time.monotonic()
            answer = None
            while answer is None and time.monotonic() - back < 5.0:
                try:
                    answer = manager.execute("echo", 7, timeout=1.0)
                except PluginError:
                    time.sleep(0.01)
            assert answer == 7
            assert time.monotonic() - back < 1.0
