"""The server as a process of its own: the command line, its line on stdout, and signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from goplugins import serve
from goplugins.cli import main
from tests.timing import until

PLUGINS = """
import time
from goplugins import serve

@serve.plugin(name="napper", version="1.0.0")
def nap(request: float) -> str:
    print("napping", flush=True)
    time.sleep(request)
    return "rested"

class group:
    nap = nap

def plain(request):
    return request
"""

ECHO = serve.plugin(name="echo", request=Any, response=Any)(lambda request: request)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "naps.py").write_text(PLUGINS, encoding="utf-8")
    (tmp_path / "broken.py").write_text("\n1 / 0\n", encoding="utf-8")
    (tmp_path / "lacking.py").write_text("import no_such_package\n", encoding="utf-8")
    return tmp_path


class Process:
    def __init__(self, directory: Path, *arguments: str, **environment: str) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "goplugins", "serve", *arguments],
            cwd=directory,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        line = self.line()
        assert line.startswith("listening on http://"), line + self.popen.communicate(timeout=10)[1]
        self.url = line.split()[-1]

    def line(self) -> str:
        assert self.popen.stdout is not None
        return self.popen.stdout.readline()

    def close(self) -> None:
        self.popen.kill()
        self.popen.communicate(timeout=10)


@pytest.fixture
def process(directory: Path) -> Iterator[Process]:
    process = Process(directory, "naps:nap", "--http", ":0")
    yield process
    process.close()


class Call(threading.Thread):
    def __init__(self, url: str, data: Any) -> None:
        super().__init__()
        self.url, self.data = url, data
        self.answer: requests.Response | Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self.answer = requests.post(self.url, json={"data": self.data}, timeout=20)
        except requests.RequestException as exc:
            self.answer = exc


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_process_with_status_0_after_the_call_in_flight(
    process: Process, number: signal.Signals
) -> None:
    assert process.url.startswith("http://127.0.0.1:")
    call = Call(process.url, 0.4)
    assert process.line() == "napping\n"
    process.popen.send_signal(number)
    _, errors = process.popen.communicate(timeout=10)
    call.join(10)
    assert isinstance(call.answer, requests.Response)
    assert call.answer.json()["data"] == "rested"
    assert process.popen.returncode == 0
    assert errors == ""


def test_an_idle_server_ends_at_once(process: Process) -> None:
    with requests.Session() as session:
        assert session.get(process.url + "/health", timeout=10).status_code == 200
        start = time.monotonic()
        process.popen.terminate()
        assert process.popen.wait(10) == 0
        assert time.monotonic() - start < 3.0


def test_an_internal_error_is_written_to_stderr_without_a_logging_setup(process: Process) -> None:
    answer = requests.post(process.url, json={"data": -1.0, "request_id": "r7"}, timeout=10)
    assert (answer.status_code, answer.json()["error"]) == (500, "internal error")
    process.popen.terminate()
    _, errors = process.popen.communicate(timeout=10)
    assert "ERROR goplugins.serve: plugin 'napper', request 'r7' failed" in errors
    assert "ValueError: sleep length must be non-negative" in errors


def is_listening(url: str) -> bool:
    try:
        requests.get(f"{url}/info", timeout=5)
    except requests.ConnectionError:
        return False
    return True


def test_a_second_signal_aborts_the_call(process: Process) -> None:
    call = Call(process.url, 15.0)
    assert process.line() == "napping\n"
    process.popen.send_signal(signal.SIGINT)
    until(lambda: not is_listening(process.url))
    process.popen.send_signal(signal.SIGINT)
    _, errors = process.popen.communicate(timeout=10)
    call.join(10)
    assert isinstance(call.answer, requests.ConnectionError)
    assert process.popen.returncode == 0
    assert "1 call(s) in flight" in errors


def test_credentials_come_from_the_environment(directory: Path) -> None:
    process = Process(
        directory, "naps:group.nap", "--http", ":0", "--path", "/p", "--auth-bearer-env", "NAP_TOKEN", NAP_TOKEN="tok"
    )
    try:
        body, good = {"data": 0.0}, {"Authorization": "Bearer tok"}
        assert process.url.endswith("/p")
        assert requests.post(process.url, json=body, timeout=10).status_code == 401
        assert requests.post(process.url, json=body, headers=good, timeout=10).json()["data"] == "rested"
    finally:
        process.close()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["naps:nap", "--http", "8000x"], "expected HOST:PORT"),
        (["naps:nap", "--http", ":70000"], "expected HOST:PORT"),
        (["naps:nap", "--http", "::1:8000"], "expected HOST:PORT"),
        (["naps", "--http", ":0"], "expected module:name"),
        (["no.such:nap", "--http", ":0"], "there is no module 'no'"),
        (["naps:gone", "--http", ":0"], "has no attribute 'gone'"),
        (["naps:plain", "--http", ":0"], "decorate the function with @serve.plugin"),
        (["broken:nap", "--http", ":0"], "broken:nap can't be imported: ZeroDivisionError: division by zero"),
        (["lacking:nap", "--http", ":0"], "can't be imported: ModuleNotFoundError: No module named 'no_such_package'"),
        (["naps:nap"], "expected an address to listen at: --http, --grpc, --unix or --stdio"),
        (["naps:nap", "--grpc", "9000x"], "--grpc 9000x: expected HOST:PORT"),
        (["naps:nap", "--http", ":0", "--stdio"], "stdio: can't be combined"),
        (["naps:nap", "--http", ":0", "--tls-cert", "c.pem"], "TLS needs --tls-cert, --tls-key and --grpc"),
        (["naps:nap", "--http", "192.0.2.1:0"], "can't listen on http://192.0.2.1:0"),
        (["naps:nap", "--http", ":0", "--auth-api-key-env", "NO_SUCH"], "NO_SUCH is not set"),
        (["naps:nap", "--http", ":0", "--threads", "0"], "threads: expected 1 or more"),
    ],
)
def test_a_wrong_argument_is_one_line_and_exit_code_2(
    directory: Path,
    arguments: list[str],
    text: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(directory)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    assert main(["serve", *arguments]) == 2
    out, errors = capsys.readouterr()
    assert out == ""
    assert errors.startswith("goplugins: ")
    assert errors.count("\n") == 1
    assert text in errors


def test_the_line_of_a_failing_import_is_reported(
    directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(directory)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    main(["serve", "broken:nap", "--http", ":0"])
    assert "broken.py, line 2)" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["unknown"], ["serve"]])
def test_wrong_usage_is_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: goplugins" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    name, version = capsys.readouterr().out.split()
    assert name == "goplugins"
    assert version[0].isdigit()


def test_the_error_for_missing_waitress_names_the_package_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from goplugins.errors import ConfigError

    monkeypatch.delitem(sys.modules, "goplugins.serve._waitress", raising=False)
    monkeypatch.setitem(sys.modules, "waitress", None)
    with pytest.raises(ConfigError, match=r"pip install 'goplugins\[serve\]'"):
        serve.start(ECHO)


def test_run_off_the_main_thread_ends_when_its_server_is_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    started: list[serve.RunningServer] = []
    ready = threading.Event()

    def on_ready(server: serve.RunningServer) -> None:
        started.append(server)
        ready.set()

    thread = threading.Thread(target=serve.run, args=(ECHO, "http://127.0.0.1:0"), kwargs={"ready": on_ready})
    thread.start()
    assert ready.wait(10)
    assert requests.get(started[0].url + "/health", timeout=10).status_code == 200
    started[0].stop()
    thread.join(10)
    assert not thread.is_alive()
    assert capsys.readouterr().out == f"listening on {started[0].url}\n"


def test_run_restores_the_signal_handlers(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM))
    serve.run(ECHO, "http://127.0.0.1:0", quiet=True, ready=lambda server: timer.start())
    timer.join()
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert capsys.readouterr().out == ""


def test_importing_serve_loads_no_server() -> None:
    code = (
        "import sys, goplugins.serve; print([m for m in ('waitress', 'requests', 'grpc', 'yaml') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
