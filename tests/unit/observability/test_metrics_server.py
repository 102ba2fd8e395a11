"""The metrics port of a manager."""

from __future__ import annotations

import gc
import time
import urllib.error
import urllib.request

import pytest

from goplugins import Manager
from tests.timing import until


def fetch(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as reply:
        return reply.read().decode()


def port_of(manager):
    """The open port: after the first call it is opened in the background."""
    observers = manager._lifecycle.observers
    until(lambda: observers.metrics_port)
    return observers.metrics_port


CONFIG = {"plugins": [{"name": "echo", "transport": "python", "endpoint": f"{__name__}:echo"}]}


def echo(request: str) -> str:
    return request


def test_metrics_port_serves_from_the_first_call_to_the_shutdown():
    manager = Manager(str, str)
    manager.load_from_config({**CONFIG, "metrics_port": 0, "observability": {"metrics_prefix": "one"}})
    observers = manager._lifecycle.observers
    assert observers.metrics_port is None
    manager.execute("echo", "hello")
    port = port_of(manager)
    assert 'one_calls_total{manager="",outcome="ok",plugin="echo",source="plugin"} 1.0' in fetch(port)
    manager.shutdown()
    with pytest.raises(urllib.error.URLError):
        fetch(port)


def test_a_reload_opens_and_closes_the_port():
    with Manager(str, str) as manager:
        manager.load_from_config(CONFIG)
        manager.execute("echo", "hello")
        observers = manager._lifecycle.observers
        assert observers.metrics_port is None
        manager.reload_config({**CONFIG, "metrics_port": 0, "observability": {"metrics_prefix": "two"}})
        first = port_of(manager)
        assert "two_calls" in fetch(first)
        manager.reload_config(CONFIG)
        assert observers.metrics_port is None
        with pytest.raises(urllib.error.URLError):
            fetch(first)


def test_a_taken_port_fails_no_call_and_is_opened_later(caplog):
    with Manager(str, str) as first, Manager(str, str) as second:
        first.load_from_config({**CONFIG, "metrics_port": 0, "observability": {"metrics_prefix": "three"}})
        first.execute("echo", "hello")
        port = port_of(first)
        second.load_from_config({**CONFIG, "metrics_port": port, "observability": {"metrics_prefix": "three"}})
        assert second.execute("echo", "hello") == "hello"
        until(lambda: "is taken" in caplog.text)
        assert "PROMETHEUS_MULTIPROC_DIR" in caplog.text
        first.shutdown()
        second._lifecycle.observers.tick()
        assert second._lifecycle.observers.metrics_port == port
        assert "three_calls" in fetch(port)


def test_an_unreferenced_manager_closes_its_port():
    manager = Manager(str, str)
    manager.load_from_config({**CONFIG, "metrics_port": 0, "observability": {"metrics_prefix": "four"}})
    manager.execute("echo", "hello")
    port = port_of(manager)
    del manager
    end = time.monotonic() + 10
    while time.monotonic() < end:
        gc.collect()
        try:
            fetch(port)
        except (urllib.error.URLError, ConnectionError):
            return
        time.sleep(0.1)
    pytest.fail("the port is still open")
