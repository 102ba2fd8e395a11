"""A real prefork worker: time limits, retries, and error classes after JSON serialization."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from goplugins import PluginTimeoutError
from tests.integration.contrib.tasks import make
from tests.servers import Peer, RawServer, http_reply, ok

pytestmark = pytest.mark.hosts

ROOT = Path(__file__).resolve().parents[3]


class Handler:
    """Handler that hangs, replies, or rejects two calls before it replies, depending on the request."""

    def __init__(self) -> None:
        self.rejected = 0

    def __call__(self, peer: Peer) -> None:
        while (request := peer.read_request()) is not None:
            data = request.json["data"]
            if data == "hang":
                peer.hang()
            elif data == "busy" and self.rejected < 2:
                self.rejected += 1
                peer.send(http_reply({"error": "busy"}, "503 Service Unavailable", {"Retry-After": "1"}))
            else:
                peer.send(ok(request))


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("worker")
    for name in ("queue", "control", "results"):
        (folder / name).mkdir()
    with RawServer(Handler()) as server:
        plugin = {"name": "hanging", "transport": "http", "endpoint": server.url, "retry": {"max_retries": 0}}
        config = {"plugins": [plugin], "default_health_check": {"enabled": False}}
        (folder / "plugins.json").write_text(json.dumps(config))
        environ = {**os.environ, "WORKER_FOLDER": str(folder), "PYTHONPATH": str(ROOT)}
        options = ["--pool", "prefork", "--concurrency", "2", "--without-gossip", "--without-mingle"]
        command = [sys.executable, "-m", "celery", "-A", "tests.integration.contrib.tasks", "worker", *options]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environ)
        try:
            yield make(str(folder))
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def test_a_hanging_call_ends_before_the_limit_of_its_task(tasks: Any) -> None:
    with pytest.raises(PluginTimeoutError) as raised:
        tasks.hang.delay().get(timeout=40, interval=0.05)
    error = raised.value
    assert error.plugin == "hanging"
    assert 1.5 < error.elapsed < 2
    assert error.attempts == 1


def test_a_soft_time_limit_interrupts_a_call(tasks: Any) -> None:
    started = time.monotonic()
    assert tasks.sleep.delay().get(timeout=40, interval=0.05) == "cleaned up"
    assert time.monotonic() - started < 8


def test_a_busy_plugin_is_retried_after_its_retry_after(tasks: Any) -> None:
    started = time.monotonic()
    assert tasks.busy.delay().get(timeout=40, interval=0.05) == ["ok", 2]
    assert time.monotonic() - started >= 2
