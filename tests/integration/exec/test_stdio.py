"""The plugin's side of exec: a served function that speaks lines over stdin and stdout."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from goplugins.enums import PluginStatus
from goplugins.errors import AuthenticationError, ExecTransportError, PluginExecutionError, PluginInternalError
from tests.integration.unix.conftest import call, line
from tests.integration.unix.test_wire import GO_LINES

_PROGRAM = """
import os, signal, subprocess, sys, threading, time
from typing import Any
from goplugins import serve
from goplugins.serve._stdio import stdio_server

@serve.plugin(name="served", version="1.0")
def served(request: Any) -> Any:
    if request == "print":
        print("hello from the plugin")
        os.write(1, b"and from below\\n")
        subprocess.run(["echo", "and from a child"])
        print("no line break", end="")
    if request == "read":
        return sys.stdin.read()
    if request == "reject":
        raise serve.Rejected("no", code="E1")
    if request == "fail":
        raise SystemExit("hidden")
    if request == "slow":
        sys.stderr.write("slow began\\n")
        sys.stderr.flush()
        time.sleep(0.5)
    return request

server = stdio_server(served, auth=None, max_request_bytes=4 << 20)
signal.signal(signal.SIGTERM, lambda *_: server.stop(float(os.environ.get("GRACE", "5"))))
thread = threading.Thread(target=server.run)
thread.start()
while thread.is_alive():
    thread.join(0.1)
with __import__("contextlib").suppress(BrokenPipeError):
    print("back to normal", flush=True)
"""


@pytest.fixture
def args() -> list[str]:
    return ["-c", _PROGRAM]


@pytest.fixture
def started(args: list[str]) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts the plugin by itself, with pipes."""
    made: list[subprocess.Popen[bytes]] = []

    def start(**env: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **env},
            cwd=str(Path(__file__).parents[3]),
        )
        made.append(process)
        return process

    yield start
    for process in made:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            with contextlib.suppress(BrokenPipeError):
                stream.close()  # type: ignore[union-attr]


def ask(process: subprocess.Popen[bytes], sent: bytes) -> Any:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(sent)
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def execute(data: Any) -> bytes:
    return line({"type": "execute", "request_id": "r", "data": data})


def test_recorded_go_lines_are_answered(started):
    process = started()
    for sent in GO_LINES:
        answer = ask(process, sent)
        assert (answer["success"], answer["request_id"]) == (True, json.loads(sent)["request_id"])


def test_through_the_exec_plugin(make, args, caplog):
    caplog.set_level("INFO", "goplugins.plugin.p")
    plugin = make(executable=sys.executable, args=args, kind="message")
    assert call(plugin, {"a": 1}, 20) == {"a": 1}
    assert call(plugin, "print") == "print"
    assert call(plugin, "read") == ""
    with pytest.raises(PluginExecutionError) as caught:
        call(plugin, "reject")
    assert caught.value.details["metadata"] == {"error_code": "E1"}
    with pytest.raises(PluginInternalError) as hidden:
        call(plugin, "fail")
    assert "hidden" not in str(hidden.value)
    assert plugin.health(2).status is PluginStatus.HEALTHY
    assert plugin.info().version == "1.0"
    assert plugin.pool.open == 1
    plugin.close()


def test_prints_of_the_plugin_go_to_stderr(started):
    process = started()
    assert ask(process, execute("print"))["data"] == "print"
    assert ask(process, execute(1))["data"] == 1
    out, err = process.communicate(timeout=10)
    assert out == b"back to normal\n"
    for text in (b"hello from the plugin", b"and from below", b"and from a child", b"no line break"):
        assert text in err


def test_ends_when_stdin_does(started):
    process = started()
    ask(process, execute(1))
    process.communicate(timeout=10)
    assert process.returncode == 0


def test_line_that_is_too_long_is_refused_to_a_host_that_sends_all_of_it_first(started):
    process = started()
    process.stdin.write(b'{"type":"execute","request_id":"r1","data":"' + b"x" * (5 << 20) + b'"}\n')
    process.stdin.flush()
    reply = json.loads(process.stdout.readline())
    assert (reply["request_id"], reply["error"]) == ("r1", "the request is larger than 4194304 bytes")
    assert process.wait(10) == 0


def test_sigterm_ends_one_that_drops_the_rest_of_a_line(started):
    process = started()
    process.stdin.write(b"x" * ((4 << 20) + 1))
    process.stdin.flush()
    assert "larger than" in json.loads(process.stdout.readline())["error"]
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0


def test_sigterm_finishes_the_call_in_flight(started):
    process = started()
    ask(process, execute(1))
    process.stdin.write(execute("slow"))
    process.stdin.flush()
    assert process.stderr.readline() == b"slow began\n"
    process.send_signal(signal.SIGTERM)
    assert json.loads(process.stdout.readline())["data"] == "slow"
    assert process.wait(5) == 0


def test_sigterm_ends_an_idle_one(started):
    process = started()
    ask(process, execute(1))
    process.send_signal(signal.SIGTERM)
    assert process.wait(5) == 0


def test_host_that_went_away_is_no_failure(started):
    process = started()
    ask(process, execute(1))
    process.stdin.write(execute("slow"))
    process.stdin.flush()
    assert process.stderr.readline() == b"slow began\n"
    process.stdout.close()
    process.stdin.close()
    process.wait(5)
    assert b"in _answer_all" not in process.stderr.read()


def test_unknown_kind_of_failure_is_one_of_exec(make, tmp_path):
    script = tmp_path / "s"
    script.write_text(
        "#!/bin/sh\nread -r line\n"
        'printf \'{"request_id":"req-1","success":false,"error":"it","error_kind":"odd"}\\n\'; read -r line\n'
    )
    script.chmod(0o755)
    with pytest.raises(ExecTransportError, match="it"):
        call(make(executable=str(script), args=[]))


def test_refused_credentials(make, tmp_path):
    script = tmp_path / "s"
    script.write_text(
        "#!/bin/sh\nread -r line\n"
        'printf \'{"request_id":"req-1","success":false,"error_kind":"unauthenticated"}\\n\'; read -r line\n'
    )
    script.chmod(0o755)
    with pytest.raises(AuthenticationError):
        call(make(executable=str(script), args=[]))
