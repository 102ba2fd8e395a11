"""One plugin process with several transports, from the command line, and its graceful stop."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from goplugins import Manager, PluginStatus, serve


@serve.plugin(name="nap", version="1.0.0")
def nap(seconds: float) -> float:
    os.write(1, b"napping\n")  # print() of several threads may mix lines
    time.sleep(seconds)
    return seconds


class Served:
    def __init__(self, directory: Path) -> None:
        self.socket = directory / "nap.sock"
        at = ["--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--unix", str(self.socket)]
        command = [
            sys.executable,
            "-m",
            "goplugins",
            "serve",
            f"{__name__}:nap",
            *at,
        ]
        self.process = subprocess.Popen(command, cwd=Path(__file__).parents[3], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.http, self.grpc, self.unix = (self.process.stdout.readline().split()[-1] for _ in range(3))

    def plugins(self) -> list[dict[str, Any]]:
        quiet = {"health_check": {"enabled": False}}
        return [
            {"name": "http", "transport": "http", "endpoint": self.http, **quiet},
            {"name": "grpc", "transport": "grpc", "endpoint": self.grpc, **quiet},
            {"name": "unix", "transport": "unix", "endpoint": self.unix, **quiet},
        ]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    server = Served(tmp_path)
    yield server
    server.process.kill()
    server.process.wait(10)
    assert server.process.stdout is not None
    server.process.stdout.close()


def test_it_serves_all_of_them_and_finishes_calls_in_flight(served: Served) -> None:
    assert served.unix == str(served.socket)
    assert stat.S_IMODE(os.stat(served.socket).st_mode) == 0o600
    with Manager(float, float) as manager:
        manager.load_from_config({"plugins": served.plugins()})
        for name in ("http", "grpc", "unix"):
            assert manager.execute(name, 0.0) == 0.0
        assert {status.status for status in manager.health().values()} == {PluginStatus.HEALTHY}
        calls = [manager.submit(name, 0.7) for name in ("http", "grpc", "unix")]
        assert [served.process.stdout.readline() for _ in range(6)] == ["napping\n"] * 6
        served.process.send_signal(signal.SIGTERM)
        assert [call.result(5) for call in calls] == [0.7] * 3
    assert served.process.wait(10) == 0
    assert not served.socket.exists()
