"""Programs that start slower than their callers wait, and pins that are checked before each start."""

from __future__ import annotations

import hashlib
import os
import select
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from goplugins.errors import (
    ConnectionLostError,
    PluginClosedError,
    PluginConnectionError,
    PluginTimeoutError,
    Replay,
    SaturatedError,
)
from goplugins.runtime.clock import SYSTEM_CLOCK
from goplugins.runtime.deadline import Deadline
from goplugins.testing import ManualClock
from goplugins.transports.exec import ExecPlugin
from goplugins.transports.exec.channel import ExecChannel, State
from goplugins.transports.exec.executable import Executable
from tests.integration.exec.conftest import PYTHON, is_alive, until
from tests.integration.unix.conftest import call

PID = {"do": "pid"}


def _call_until_it_answers(plugin: ExecPlugin, value: object, timeout: float, seconds: float = 10.0) -> tuple[int, int]:
    """What came, and how many calls gave up before."""
    end = time.monotonic() + seconds
    for number in range(1000):
        try:
            return call(plugin, value, timeout, request_id=f"call-{number}"), number
        except (PluginTimeoutError, SaturatedError):
            assert time.monotonic() < end
    raise AssertionError


class TestSlowStart:
    @pytest.mark.parametrize("size", [10, 300_000], ids=["small", "larger than a pipe"])
    def test_it_comes_up_for_callers_who_wait_less_than_its_start(self, make, tmp_path, size):
        starts = tmp_path / "starts"
        plugin = make("--slow=0.6", f"--starts={starts}")
        answer, gave_up = _call_until_it_answers(plugin, {"do": "pid", "text": "x" * size}, 0.15)
        assert gave_up >= 3
        assert starts.read_text() == f"{answer}\n"  # one start, by which all of them were served
        assert call(plugin, PID) == answer

    def test_a_reply_that_comes_too_late_answers_nobody_else(self, make):
        """Not even a call that carries the same request id."""
        plugin = make("--slow=1")
        with pytest.raises(PluginTimeoutError) as caught:
            call(plugin, "first", 0.4, request_id="same")
        assert caught.value.replay is Replay.IF_IDEMPOTENT  # it is in the pipe, and may be acted on
        with pytest.raises(PluginTimeoutError, match="still starting") as caught:
            call(plugin, "second", 0.1, request_id="same")
        assert caught.value.replay is Replay.ALWAYS
        assert call(plugin, "third", 5, request_id="same") == "third"
        assert call(plugin, "fourth", 5, request_id="same") == "fourth"

    def test_it_comes_up_while_nobody_calls(self, make):
        plugin = make("--slow=0.7")
        with pytest.raises(PluginTimeoutError):
            call(plugin, "x" * 200_000, 0.4)
        (held,) = plugin._launcher._held
        until(lambda: held.handle is not None and held.handle.channel.replies == 1)
        assert call(plugin, PID, 0.5) == held.handle.process.pid

    def test_giving_up_is_no_failed_start(self, make):
        plugin = make("--slow=0.5")
        for _ in range(3):
            with pytest.raises(PluginTimeoutError):
                call(plugin, 1, 0.05)
        plugin._launcher.backoff.check()

    def test_one_that_never_comes_up_is_ended_and_holds_back_the_next(self, make, caplog):
        plugin = make("--slow=60", connection_timeout=0.8)
        with pytest.raises(PluginTimeoutError):
            call(plugin, 1, 0.4)
        (held,) = plugin._launcher._held
        pid = held.handle.process.pid
        until(lambda: not is_alive(pid), 5)
        until(lambda: "did not come up within connection.connection_timeout, 0.8 s" in caplog.text, 5)
        with pytest.raises(PluginConnectionError, match=r"the last: the process did not come up within"):
            call(plugin, 1, 0.1)

    def test_a_caller_learns_of_it_while_it_waits(self, make):
        plugin = make("--slow=60", connection_timeout=0.8)
        with pytest.raises(PluginTimeoutError):
            call(plugin, 1, 0.4)
        started = time.monotonic()
        with pytest.raises(PluginConnectionError):
            call(plugin, 1, 10)
        assert time.monotonic() - started < 1

    def test_one_that_has_read_its_request_is_not_starting(self, make):
        """It is at work, and a call that times out ends it: the next call must not wait for what nobody wants."""
        plugin = make(connection_timeout=30)
        with pytest.raises(PluginTimeoutError):
            call(plugin, {"do": "sleep", "seconds": 60}, 0.6)
        assert call(plugin, 1, 2) == 1

    def test_banner_of_a_slow_one_is_no_reply(self, make):
        plugin = make("--slow=0.7", "--banner")
        with pytest.raises(PluginTimeoutError):
            call(plugin, 1, 0.4)
        with pytest.raises(PluginConnectionError):
            call(plugin, 1, 5)

    def test_a_stray_reply_of_a_slow_one_is_not_taken_for_the_late_one(self, make):
        plugin = make("--slow=0.7", "--stray")
        with pytest.raises(PluginTimeoutError):
            call(plugin, 1, 0.4, request_id="first")
        with pytest.raises(PluginConnectionError, match='request id "somebody\'s"') as caught:
            call(plugin, 1, 5, request_id="second")
        assert caught.value.replay is Replay.ALWAYS

    def test_death_of_a_slow_one_is_a_failed_start(self, make):
        plugin = make("--slow=0.7", "--exit")
        with pytest.raises(PluginTimeoutError):
            call(plugin, 1, 0.4)
        with pytest.raises(PluginConnectionError) as caught:
            call(plugin, 1, 5)
        assert caught.value.replay is Replay.ALWAYS
        with pytest.raises(PluginConnectionError, match="not started again so soon"):
            call(plugin, 1, 5)

    def test_there_are_no_more_processes_than_places(self, make, tmp_path):
        starts = tmp_path / "starts"
        plugin = make("--slow=0.7", f"--starts={starts}", max_connections=3)
        with ThreadPoolExecutor(12) as pool:
            found = list(pool.map(lambda _: _call_until_it_answers(plugin, PID, 0.2)[0], range(12)))
        assert len(starts.read_text().split()) <= 3
        assert len(set(found)) <= 3

    def test_closing_ends_one_that_is_starting(self, make):
        plugin = make("--slow=60")
        with pytest.raises(PluginTimeoutError):
            call(plugin, 1, 0.4)
        (held,) = plugin._launcher._held
        pid = held.handle.process.pid
        plugin.close()
        until(lambda: not is_alive(pid))
        with pytest.raises(PluginClosedError):
            call(plugin)

    def test_a_start_that_takes_longer_than_the_call_is_the_next_ones(self, make, monkeypatch):
        """Such as the hashing of a large program."""
        searches, find = [], Executable.find

        def slow_find(self: Executable, env: dict[str, str]) -> str:
            searches.append(time.sleep(0.6))
            return find(self, env)

        monkeypatch.setattr(Executable, "find", slow_find)
        plugin = make()
        started = time.monotonic()
        with pytest.raises(PluginTimeoutError) as caught:
            call(plugin, 1, 0.1)
        assert time.monotonic() - started < 0.5
        assert caught.value.replay is Replay.ALWAYS
        assert call(plugin, 1, 10) == 1
        assert len(searches) == 1


class TestIdleOutput:
    """The keeper's look at a process that woke it, when its caller may have had the reply already."""

    @pytest.fixture
    def ends(self):
        inner, ours = os.pipe()
        stdout, theirs = os.pipe()
        for descriptor in (ours, stdout):
            os.set_blocking(descriptor, False)
        yield ours, stdout, theirs
        for descriptor in (inner, ours, stdout, theirs):
            os.close(descriptor)

    def test_nothing_left_to_read_is_no_fault(self, ends):
        channel = ExecChannel(*ends[:2], limit=100, patience=1, clock=SYSTEM_CLOCK)
        assert channel.retire_if_noisy() == 0
        assert channel.state is State.IDLE

    def test_what_can_be_read_from_an_idle_one_is(self, ends):
        channel = ExecChannel(*ends[:2], limit=100, patience=1, clock=SYSTEM_CLOCK)
        os.write(ends[2], b"noise")
        assert channel.retire_if_noisy() == select.POLLIN
        with pytest.raises(ConnectionLostError) as caught:
            channel.exchange(b"x\n", Deadline.after(1), 100)
        assert caught.value.replay is Replay.ALWAYS

    def test_the_reply_of_a_busy_one_is_its_callers(self, ends):
        channel = ExecChannel(*ends[:2], limit=100, patience=1, clock=SYSTEM_CLOCK)
        channel.state = State.BUSY
        os.write(ends[2], b"reply\n")
        assert channel.retire_if_noisy() == 0
        assert channel.state is State.BUSY


def _clock_at(moment: float) -> ManualClock:
    clock = ManualClock()
    clock.advance(moment - clock.time())
    return clock


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

    def test_hashing_heeds_its_deadline(self, tmp_path):
        large = tmp_path / "large"
        with large.open("wb") as file:
            file.truncate(64 << 30)  # a hole, which costs nothing but the reading
        program = Executable(str(large), None, "0" * 64, SYSTEM_CLOCK)
        started = time.monotonic()
        with (
            pytest.raises(PluginConnectionError, match="connection_timeout"),
            program.checked(str(large), Deadline.after(0.2)),
        ):
            pass
        assert time.monotonic() - started < 5

    @pytest.mark.parametrize("age", [2.0, 3600.0])
    def test_settled_file_is_hashed_once(self, tmp_path, monkeypatch, age):
        """And one that changed a moment ago each time: its next change might not show."""
        file = tmp_path / "file"
        file.write_bytes(b"x")
        clock = _clock_at(file.stat().st_ctime + age)
        program = Executable(str(file), None, hashlib.sha256(b"x").hexdigest(), clock)
        hashed = []
        hash_it = Executable._hash
        monkeypatch.setattr(Executable, "_hash", lambda *args: hashed.append(1) or hash_it(*args))
        for _ in range(3):
            with program.checked(str(file), Deadline.after(5)):
                pass
        assert len(hashed) == (1 if age > 3 else 3)

    @pytest.mark.parametrize("way", ["written", "replaced"])
    def test_a_changed_file_is_hashed_again_whatever_its_size_and_times_say(self, tmp_path, way):
        file = tmp_path / "file"
        file.write_bytes(b"good")
        before = file.stat()
        clock = _clock_at(before.st_ctime + 3600)
        program = Executable(str(file), None, hashlib.sha256(b"good").hexdigest(), clock)
        with program.checked(str(file), Deadline.after(5)):
            pass
        time.sleep(0.02)
        target = file if way == "written" else tmp_path / "other"
        target.write_bytes(b"evil")
        os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))
        os.replace(target, file)
        assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
        with pytest.raises(PluginConnectionError, match="SHA-256"), program.checked(str(file), Deadline.after(5)):
            pass

    def test_what_is_checked_is_what_runs(self, make, tmp_path, monkeypatch):
        """A file put in its place between check and start is not run."""
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
