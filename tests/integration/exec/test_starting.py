"""Programs whose start takes longer than the calls, and the check of a pin before each start."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from goplugins.errors import (
    PluginClosedError,
    PluginConnectionError,
    PluginTimeoutError,
    Replay,
    SaturatedError,
)
from goplugins.runtime.deadline import Deadline
from goplugins.transports.exec import ExecPlugin
from goplugins.transports.exec.executable import Executable
from goplugins.transports.exec.supervisor import supervisor_of_process
from tests.integration.exec.conftest import PYTHON, is_alive, until
from tests.integration.unix.conftest import call
from tests.timing import time_limit

PID = {"do": "pid"}


def _call_until_it_answers(plugin: ExecPlugin, value: object, timeout: float, seconds: float = 10.0) -> tuple[int, int]:
    """The response, and how many calls timed out before."""
    end = time.monotonic() + seconds
    for number in range(1000):
        try:
            return call(plugin, value, timeout, request_id=f"call-{number}"), number
        except (PluginTimeoutError, SaturatedError):
            assert time.monotonic() < end
    raise AssertionError


class TestSlowStart:
    @pytest.mark.parametrize("size", [10, 300_000], ids=["small", "larger than a pipe"])
    def test_it_starts_for_calls_with_timeouts_shorter_than_its_start(self, make, tmp_path, size):
        starts = tmp_path / "starts"
        plugin = make("--slow=0.6", f"--starts={starts}")
        answer, gave_up = _call_until_it_answers(plugin, {"do": "pid", "text": "x" * size}, 0.15)
        assert gave_up >= 3
        assert starts.read_text() == f"{answer}\n"  # one start serves all of them
        assert call(plugin, PID) == answer

    def test_a_late_reply_is_not_taken_for_another_calls(self, make):
        """Not even if that call has the same request id."""
        plugin = make("--slow=1")
        with pytest.raises(PluginTimeoutError) as caught:
            call(plugin, "first", 0.4, request_id="same")
        assert caught.value.replay is Replay.IF_IDEMPOTENT  # the request is in the pipe, and may be executed
        with pytest.raises(PluginTimeoutError, match="still starting") as caught:
            call(plugin, "second", 0.1, request_id="same")
        assert caught.value.replay is Replay.ALWAYS
        assert call(plugin, "third", 5, request_id="same") == "third"
        assert call(plugin, "fourth", 5, request_id="same") == "fourth"

    def test_it_starts_between_calls(self, make):
        plugin = make("--slow=0.7")
        with pytest.raises(PluginTimeoutError):
            call(plugin, "x" * 200_000, 0.4)
        (process,) = supervisor_of_process().processes
        until(lambda: process.channel.replies == 1)
        assert call(plugin, PID, 0.5) == process.pid

    def test_a_call_that_times_out_is_no_failed_start(self, make):
        plugin = make("--slow=0.5")
        for _ in range(3):
            with pytest.raises(PluginTimeoutError):
                call(plugin, 1, 0.05)
        plugin._launcher.backoff.check()

    def test_a_process_that_never_answers_is_ended_and_delays_the_next(self, make, caplog):
        plugin = make("--slow=60", connection_timeout=0.8)
        with pytest.raises(PluginTimeoutError):
            call(plugin, 1, 0.4)
        (process,) = supervisor_of_process().processes
        pid = process.pid
        until(lambda: not is_alive(pid), 5)
        until(lambda: "did not start within connection.connection_timeout, 0.8 s" in caplog.text, 5)
        with pytest.raises(PluginConnectionError, match=r"the last: the process did not start within"):
            call(plugin, 1, 0.1)

    def test_a_waiting_call_fails_at_the_start_timeout(self, make):
        plugin = make("--slow=60", connection_timeout=0.8)
        with pytest.raises(PluginTimeoutError):
            call(plugin, 1, 0.4)
        started = time.monotonic()
        with pytest.raises(PluginConnectionError):
            call(plugin, 1, 10)
        assert time.monotonic() - started < 1

    def test_a_process_that_has_read_its_request_is_not_starting(self, make):
        """It is busy, and a call that times out ends it: the next call must not wait for an abandoned one."""
        plugin = make(connection_timeout=30)
        with pytest.raises(PluginTimeoutError):
            call(plugin, {"do": "sleep", "seconds": 60}, 0.6)
        assert call(plugin, 1, 2) == 1

    def test_a_banner_of_a_slow_process_is_no_reply(self, make):
        plugin = make("--slow=0.7", "--banner")
        with pytest.raises(PluginTimeoutError):
            call(plugin, 1, 0.4)
        with pytest.raises(PluginConnectionError):
            call(plugin, 1, 5)

    def test_a_reply_with_another_id_is_not_taken_for_the_late_reply(self, make):
        plugin = make("--slow=0.7", "--stray")
        with pytest.raises(PluginTimeoutError):
            call(plugin, 1, 0.4, request_id="first")
        with pytest.raises(PluginConnectionError, match="request id 'another'") as caught:
            call(plugin, 1, 5, request_id="second")
        assert caught.value.replay is Replay.ALWAYS

    def test_the_exit_of_a_slow_process_is_a_failed_start(self, make):
        plugin = make("--slow=0.7", "--exit")
        with pytest.raises(PluginTimeoutError):
            call(plugin, 1, 0.4)
        with pytest.raises(PluginConnectionError) as caught:
            call(plugin, 1, 5)
        assert caught.value.replay is Replay.ALWAYS
        with pytest.raises(PluginConnectionError, match="the next start is delayed"):
            call(plugin, 1, 5)

    def test_no_more_processes_than_max_connections_are_started(self, make, tmp_path):
        starts = tmp_path / "starts"
        plugin = make("--slow=0.7", f"--starts={starts}", max_connections=3)
        with ThreadPoolExecutor(12) as pool:
            found = list(pool.map(lambda _: _call_until_it_answers(plugin, PID, 0.2)[0], range(12)))
        assert len(starts.read_text().split()) <= 3
        assert len(set(found)) <= 3

    def test_closing_ends_a_starting_process(self, make):
        plugin = make("--slow=60")
        with pytest.raises(PluginTimeoutError):
            call(plugin, 1, 0.4)
        (process,) = supervisor_of_process().processes
        pid = process.pid
        plugin.close()
        until(lambda: not is_alive(pid))
        with pytest.raises(PluginClosedError):
            call(plugin)

    def test_a_start_longer_than_the_call_is_used_by_the_next_call(self, make, monkeypatch):
        """Such as the hashing of a large program."""
        searches, find = [], Executable.find

        def slow_find(self: Executable, env: dict[str, str]) -> str:
            searches.append(time.sleep(0.6))
            return find(self, env)

        monkeypatch.setattr(Executable, "find", slow_find)
        plugin = make()
        for stopwatch in time_limit(0.5):
            with stopwatch, pytest.raises(PluginTimeoutError) as caught:
                call(plugin, 1, 0.1)
        assert caught.value.replay is Replay.ALWAYS
        assert call(plugin, 1, 10) == 1
        assert len(searches) == 1


class TestPin:
    def test_fifo_is_refused_at_once(self, make, tmp_path):
        os.mkfifo(tmp_path / "fifo")
        started = time.monotonic()
        with pytest.raises(PluginConnectionError, match="no regular file") as caught:
            call(make(executable=str(tmp_path / "fifo"), options={"sha256": "0" * 64}), timeout=5)
        assert time.monotonic() - started < 1
        assert caught.value.replay is Replay.NEVER

    def test_device_is_refused(self, make):
        with pytest.raises(PluginConnectionError, match="no regular file"):
            call(make(executable="/dev/zero", options={"sha256": "0" * 64}), timeout=5)

    def test_the_checked_file_is_the_one_that_runs(self, make, tmp_path, monkeypatch):
        """A file that replaces it between check and start is not run."""
        copy, mark = tmp_path / "python", tmp_path / "evil ran"
        shutil.copy(PYTHON, copy)
        evil = tmp_path / "evil"
        evil.write_text(f"#!/bin/sh\ntouch '{mark}'\n")
        evil.chmod(0o755)
        check = Executable._check

        def check_and_lose(self: Executable, descriptor: int, deadline: Deadline) -> None:
            check(self, descriptor, deadline)
            os.replace(evil, copy)

        monkeypatch.setattr(Executable, "_check", check_and_lose)
        digest = hashlib.sha256(Path(PYTHON).read_bytes()).hexdigest()
        assert call(make(executable=str(copy), options={"sha256": digest}), 1, 5) == 1
        assert not mark.exists()
