"""Applications under real servers: limits are detected, calls end before them, each worker logs a problem once."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.servers import Peer, RawServer, ok

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.hosts

APPLICATION = "tests.integration.contrib.application:application"


class Server:
    """A server of the application on a socket in a folder."""

    def __init__(self, folder: Path, command: list[str], **environ: str) -> None:
        self.socket = str(folder / "web")
        self.log = folder / "log"
        words = [word.replace("SOCKET", self.socket) for word in command]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                words, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **environ}
            )

    def get(self, path: str) -> Any:
        connection = http.client.HTTPConnection("localhost", timeout=20)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(20)
        try:
            connection.sock.connect(self.socket)
            connection.request("GET", path)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def wait(self) -> None:
        end = time.monotonic() + 30
        while True:
            try:
                self.get("/host")
                return
            except (OSError, ValueError):
                assert self.process.poll() is None, self.log.read_text()
                assert time.monotonic() < end, self.log.read_text()
                time.sleep(0.05)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def hanging() -> Iterator[RawServer]:
    def echo_or_hang(peer: Peer) -> None:
        while (request := peer.read_request()) is not None and request.json["data"] == "echo":
            peer.send(ok(request))
        peer.hang()

    with RawServer(echo_or_hang) as server:
        yield server


@contextmanager
def started(folder: Path, url: str, *command: str, **environ: str) -> Iterator[Server]:
    config = {
        "plugins": [{"name": "p", "transport": "http", "endpoint": url, "connection": {"request_timeout": 10}}],
        "default_health_check": {"enabled": False},
    }
    server = Server(folder, list(command), APPLICATION_CONFIG=json.dumps(config), **environ)
    try:
        server.wait()
        yield server
    finally:
        server.stop()


def gunicorn(*options: str) -> list[str]:
    if find_spec("gunicorn") is None:
        pytest.skip("needs gunicorn")
    common = ["--bind", "unix:SOCKET", "--no-control-socket", "--workers", "2"]
    return [sys.executable, "-m", "gunicorn", *common, *options, APPLICATION]


def uwsgi(*options: str) -> list[str]:
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
    program = shutil.which("uwsgi", path=path) or pytest.skip("needs uwsgi")
    common = ["--master", "--die-on-term", "--need-app", "--http-socket", "SOCKET", "--processes", "2"]
    code = ["--virtualenv", sys.prefix, "--chdir", str(ROOT), "--module", APPLICATION]
    plugin = ["--plugin", "python3"] if program.startswith("/usr/bin/") else []
    return [program, *plugin, *common, *code, *options]


@pytest.mark.parametrize(
    ("options", "limit"),
    [
        (("--timeout", "20"), 18.0),
        (("--timeout", "20", "--preload"), 18.0),
        (("--timeout", "20", "--threads", "2"), None),
        (("--timeout", "0"), None),
    ],
)
def test_gunicorn_limit_on_the_command_line(
    tmp_path: Path, hanging: RawServer, options: tuple[str, ...], limit: float | None
) -> None:
    with started(tmp_path, hanging.url, *gunicorn(*options)) as server:
        result = server.get("/host")
    assert (result["name"], result["workers"], result["limit"]) == ("gunicorn", 2, limit)


def test_gunicorn_limit_in_its_configuration_file(tmp_path: Path, hanging: RawServer) -> None:
    path = tmp_path / "gunicorn.conf.py"
    path.write_text("timeout = 10\n")
    with started(tmp_path, hanging.url, *gunicorn("-c", str(path))) as server:
        assert server.get("/host")["limit"] == 9


def test_a_call_ends_before_gunicorn_ends_the_worker(tmp_path: Path, hanging: RawServer) -> None:
    with started(tmp_path, hanging.url, *gunicorn("--timeout", "2", "--workers", "1")) as server:
        before = server.get("/host")["pid"]
        begin = time.monotonic()
        result = server.get("/hang")
        took = time.monotonic() - begin
        assert "error" in result
        assert 1.5 < took < 2.0
        assert server.get("/host")["pid"] == before == result["pid"]
    log = server.log.read_text()
    assert "WORKER TIMEOUT" not in log
    assert "goplugins.doctor" not in log
    assert "timeout-above-worker" not in log  # the limit of the server applies to calls


def threads_by_default() -> bool:
    result = subprocess.run([uwsgi()[0], "--version"], capture_output=True, text=True, check=True).stdout
    return tuple(map(int, result.strip().partition("-")[0].split("."))) >= (2, 0, 27)


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        (("--harakiri", "21"), {"limit": 18.0, "fork_hooks": False}),
        (("--enable-threads", "--lazy-apps"), {"limit": None, "threads": True, "fork_hooks": True}),
        (("--threads", "2", "--py-call-uwsgi-fork-hooks"), {"limit": None, "threads": True, "fork_hooks": True}),
    ],
)
def test_uwsgi_options_are_detected(
    tmp_path: Path, hanging: RawServer, options: tuple[str, ...], facts: dict[str, Any]
) -> None:
    with started(tmp_path, hanging.url, *uwsgi(*options)) as server:
        result = server.get("/host")
    assert (result["name"], result["workers"]) == ("uwsgi", 2)
    assert {name: result[name] for name in facts} == facts


def test_a_call_ends_before_uwsgi_ends_the_worker(tmp_path: Path, hanging: RawServer) -> None:
    with started(tmp_path, hanging.url, *uwsgi("--harakiri", "3", "--enable-threads")) as server:
        for _ in range(3):
            assert "error" in server.get("/hang")
    assert "HARAKIRI" not in server.log.read_text().replace("have enabled harakiri", "")


def test_each_worker_logs_a_problem_once(tmp_path: Path, hanging: RawServer) -> None:
    with started(tmp_path, hanging.url, *uwsgi("--harakiri", "3")) as server:
        pids = {server.get("/hang")["pid"] for _ in range(3)}
    # From 2.0.27 on uWSGI has threads by default.
    assert server.log.read_text().count("[uwsgi-threads]") == (0 if threads_by_default() else len(pids))


def test_a_worker_without_request_limits_logs_that_calls_may_outlast_its_timeout(
    tmp_path: Path, hanging: RawServer
) -> None:
    with started(
        tmp_path, hanging.url, *gunicorn("--timeout", "5", "--workers", "1"), APPLICATION_UNWRAPPED="1"
    ) as server:
        for _ in range(2):
            assert "error" not in server.get("/echo")
    assert server.log.read_text().count("[timeout-above-worker]") == 1
