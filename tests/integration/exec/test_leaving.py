"""Programs and servers that leave: after a reply, with noise, or by a crash that a helper of theirs hides."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from goplugins.errors import ConnectionLostError, PluginConnectionError, Replay
from tests.integration.exec.conftest import until
from tests.integration.unix.conftest import call, make as unix_make, ok, path, raw, read_line
from tests.processes import children
from tests.servers import Peer

pytestmark = pytest.mark.matrix

__all__ = ["path", "raw", "unix_make"]  # fixtures

_BEGIN = """
import json, os, signal, subprocess, sys, time
LEDGER = sys.argv[1]
def requests():
    while line := sys.stdin.readline():
        request = json.loads(line)
        with open(LEDGER, "a") as ledger:
            ledger.write(f"{request['data']}\\n")
        yield request
def answer(request, extra=""):
    text = json.dumps({"request_id": request["request_id"], "success": True, "data": request["data"]})
    sys.stdout.write(text + "\\n" + extra)
    sys.stdout.flush()
"""

LEAVING = {
    "after one reply": "answer(next(requests()))",
    "after three replies": "for _, request in zip(range(3), requests()): answer(request)",
    "slowly": "answer(next(requests())); time.sleep(0.05)",
    "with its output closed first": "answer(next(requests())); os.close(1); time.sleep(0.5)",
    "with its input closed first": "answer(next(requests())); os.close(0); time.sleep(0.05)",
    "with a failure": "answer(next(requests())); sys.exit(3)",
}


@pytest.fixture
def program(make: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """Makes plugins of a program; it writes the data of each request that it has read to ``tmp_path / "ledger"``."""

    def build(body: str, **connection: Any) -> Any:
        script = tmp_path / "program.py"
        script.write_text(_BEGIN + textwrap.dedent(body))
        args = ["-I", "-S", str(script), str(tmp_path / "ledger")]
        return make(executable=sys.executable, args=args, **connection)

    return build


@pytest.mark.parametrize("how", LEAVING)
def test_no_call_is_lost_or_made_twice(program, tmp_path, how):
    plugin = program(LEAVING[how])
    assert [call(plugin, number, 20) for number in range(8)] == list(range(8))
    assert (tmp_path / "ledger").read_text().split() == [str(number) for number in range(8)]


def test_no_call_of_many_threads_is_lost_or_made_twice(program, tmp_path):
    plugin = program(LEAVING["after three replies"], max_connections=3)
    with ThreadPoolExecutor(6) as pool:
        calls = [pool.submit(call, plugin, number, 30, request_id=str(number)) for number in range(30)]
        assert [each.result() for each in calls] == list(range(30))
    assert sorted(map(int, (tmp_path / "ledger").read_text().split())) == list(range(30))


def test_a_request_that_was_read_is_not_sent_again(program, tmp_path):
    plugin = program(
        """
        for number, request in enumerate(requests()):
            if number:
                os._exit(0)
            answer(request)
        """
    )
    assert call(plugin, 0, 20) == 0
    with pytest.raises(ConnectionLostError) as caught:
        call(plugin, 1, 20)
    assert caught.value.replay is not Replay.ALWAYS
    assert (tmp_path / "ledger").read_text().split() == ["0", "1"]


# --- servers behind Unix sockets -------------------------------------------------------------------------------------


def _answer(peer: Peer, seen: list[Any]) -> bool:
    request = read_line(peer)
    if request is None:
        return False
    seen.append(request["data"])
    peer.send(ok(request, request["data"]))
    return True


def _close(peer: Peer) -> None: ...


def _close_slowly(peer: Peer) -> None:
    time.sleep(0.02)


def _close_output_first(peer: Peer) -> None:
    peer.sock.shutdown(socket.SHUT_WR)
    time.sleep(0.1)


@pytest.mark.parametrize("leave", [_close, _close_slowly, _close_output_first])
def test_a_server_that_leaves_after_each_reply_loses_no_call(raw, unix_make, leave):
    seen: list[Any] = []

    def serve(peer: Peer) -> None:
        if _answer(peer, seen):
            leave(peer)

    raw(serve)
    plugin = unix_make()
    assert [call(plugin, number, 10) for number in range(20)] == list(range(20))
    assert seen == list(range(20))


def test_a_request_that_a_server_has_read_is_not_sent_again(raw, unix_make):
    seen: list[Any] = []

    def serve(peer: Peer) -> None:
        _answer(peer, seen)
        request = read_line(peer)
        if request is not None:
            seen.append(request["data"])

    raw(serve)
    plugin = unix_make()
    assert call(plugin, 0) == 0
    with pytest.raises(ConnectionLostError):
        call(plugin, 1)
    assert seen == [0, 1]


def test_half_a_request_is_no_request(raw, unix_make):
    """The server closes while most of a large line is still to be sent: it can't have acted on it."""
    answered: list[int] = []

    def serve(peer: Peer) -> None:
        request = read_line(peer)
        assert request is not None
        answered.append(len(request["data"]))
        peer.send(ok(request, 1))
        peer.sock.recv(1000)

    raw(serve)
    plugin = unix_make()
    assert call(plugin, "x") == 1
    assert call(plugin, "x" * 3_000_000, 10) == 1
    assert answered == [1, 3_000_000]


# --- noise -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", ["\\n", "debug: done\\n", "half a line"])
def test_noise_behind_a_reply_ends_the_process_in_order(program, tmp_path, caplog, noise):
    caplog.set_level(logging.DEBUG, "goplugins.exec")
    plugin = program(
        f"""
        for request in requests():
            answer(request, {noise!r}.replace("\\\\n", "\\n"))
        open(LEDGER, "a").write("closed")
        """
    )
    assert call(plugin, 1, 20) == 1
    until(lambda: "it ended" in caplog.text)
    assert "it ended with exit status 0, since: it wrote to stdout outside of a call" in caplog.text
    assert (tmp_path / "ledger").read_text().split() == ["1", "closed"]


def test_processes_that_take_long_to_exit_do_not_pile_up(program, tmp_path, caplog):
    plugin = program(
        """
        for request in requests():
            answer(request, "noise")
        time.sleep(60)
        """,
        max_connections=1,
    )
    assert [call(plugin, number, 20) for number in range(12)] == list(range(12))
    assert len(children(str(tmp_path))) <= 8 + 2
    until(lambda: "killed by SIGKILL, since: it wrote to stdout outside of a call" in caplog.text)


def test_each_kill_has_a_reason(program, caplog):
    plugin = program("for request in requests(): time.sleep(60)")
    with pytest.raises(Exception, match="timed out"):
        call(plugin, 1, 0.5)
    until(lambda: "SIGKILL" in caplog.text)
    assert "killed by SIGKILL, since: timed out" in caplog.text


# --- helpers ---------------------------------------------------------------------------------------------------------

_HELPER = "subprocess.Popen(['sleep', '30'], start_new_session=True, stderr=subprocess.DEVNULL)"


@pytest.fixture
def helpers(tmp_path):
    """Ends the helpers that the programs of a test have started."""
    yield
    if (tmp_path / "helpers").exists():
        for pid in (tmp_path / "helpers").read_text().split():
            subprocess.run(["kill", pid], check=False, capture_output=True)


@pytest.mark.parametrize("size", [1, 3_000_000])
def test_a_crash_is_seen_though_a_helper_holds_the_pipes(program, helpers, size):
    plugin = program(
        f"""
        helper = {_HELPER}
        open(os.path.join(os.path.dirname(LEDGER), "helpers"), "a").write(f"{{helper.pid}} ")
        sys.stdin.buffer.raw.read(1000)
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    started = time.monotonic()
    with pytest.raises(PluginConnectionError, match="killed by SIGKILL"):
        call(plugin, "x" * size, 30)
    assert time.monotonic() - started < 15


def test_a_process_that_died_idle_is_replaced_though_a_helper_holds_its_pipes(program, helpers, tmp_path):
    plugin = program(
        f"""
        for request in requests():
            helper = {_HELPER}
            open(os.path.join(os.path.dirname(LEDGER), "helpers"), "a").write(f"{{helper.pid}} ")
            answer(request)
            os._exit(1)
        """
    )
    assert [call(plugin, number, 20) for number in range(4)] == list(range(4))
    assert (tmp_path / "ledger").read_text().split() == ["0", "1", "2", "3"]
