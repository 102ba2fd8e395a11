"""Plugins that are subprocesses: kept, replaced and ended."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import logging
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from goplugins.config import AuthConfig
from goplugins.enums import PluginStatus
from goplugins.errors import (
    BadReplyError,
    ConnectionLostError,
    LocalResourceError,
    MissingExecutableError,
    PluginClosedError,
    PluginConnectionError,
    PluginError,
    PluginExecutionError,
    PluginTimeoutError,
    Replay,
    ReplyMismatchError,
    ReplyTooLargeError,
    SaturatedError,
    TruncatedReplyError,
)
from goplugins.runtime.deadline import Deadline
from goplugins.transports.exec import ExecPlugin, ExecPluginFactory
from tests.integration.exec.conftest import PROGRAM, config, is_alive, until
from tests.integration.unix.conftest import call, new_call
from tests.interrupts import Interrupt
from tests.processes import children, few_descriptors
from tests.timing import time_limit

PID = {"do": "pid"}


class TestCalls:
    def test_no_process_runs_before_the_first_call(self, make):
        before = children()
        make()
        assert children() <= before

    def test_one_process_answers_one_call_after_the_other(self, make):
        plugin = make()
        assert len({call(plugin, PID) for _ in range(5)}) == 1

    @pytest.mark.parametrize("value", [None, 2**64 - 1, "é\u2028\n\x00", {"a": [1, [None]]}], ids=repr)
    def test_values_come_back(self, make, value):
        assert call(make(), value) == value

    def test_three_mebibytes_there_and_back(self, make):
        big = {"text": "x" * (3 << 20)}
        assert call(make(), big, 20.0) == big

    def test_business_error_keeps_the_process(self, make):
        plugin = make()
        pid = call(plugin, PID)
        with pytest.raises(PluginExecutionError):
            call(plugin, {"do": "kill"})  # it finds no signal in the request
        assert call(plugin, PID) == pid

    def test_arguments_directory_and_descriptors(self, make, tmp_path):
        plugin = make("--one", "a b", work_dir=str(tmp_path))
        assert call(plugin, {"do": "argv"}) == ["--one", "a b"]
        assert call(plugin, {"do": "cwd"}) == str(tmp_path)
        assert set(call(plugin, {"do": "fds"})) <= {0, 1, 2, 3}  # the last one lists the directory

    def test_minimal_environment_and_its_own(self, make, monkeypatch):
        monkeypatch.setenv("HOSTS_SECRET", "x")
        monkeypatch.setenv("LC_ALL", "C.UTF-8")
        found = call(make(env=["OWN=a=b"]), {"do": "env"})
        assert found["OWN"] == "a=b"
        assert found["PATH"] == os.environ["PATH"]
        assert found["LC_ALL"] == "C.UTF-8"
        assert "HOSTS_SECRET" not in found

    def test_inherited_environment(self, make, monkeypatch):
        monkeypatch.setenv("HOSTS_OWN", "x")
        assert call(make(options={"inherit_env": True}), {"do": "env"})["HOSTS_OWN"] == "x"

    def test_credentials_are_in_the_line(self, make, tmp_path):
        spy = tmp_path / "spy"
        spy.write_text(f"#!/bin/sh\nread -r line\nprintf '%s' \"$line\" > {tmp_path}/seen\n")
        spy.chmod(0o755)
        plugin = make(executable=str(spy), args=[], auth=AuthConfig(method="bearer", token="s3cret"))
        with pytest.raises(ConnectionLostError):
            call(plugin)
        assert json.loads((tmp_path / "seen").read_text())["headers"] == {"Authorization": "Bearer s3cret"}

    def test_info_and_health_of_a_program_with_neither(self, make):
        plugin = make(kind="message")
        call(plugin)
        assert plugin.info().name == "p"
        assert plugin.health(5).status is PluginStatus.HEALTHY

    def test_pool_is_bounded(self, make):
        plugin = make(max_connections=3)
        with ThreadPoolExecutor(32) as pool:
            pids = set(pool.map(lambda number: call(plugin, PID, 20.0, request_id=str(number)), range(300)))
        assert 1 <= len(pids) <= 3

    def test_all_processes_are_busy(self, make):
        plugin = make(max_connections=1, kind="message")
        call(plugin)
        with ThreadPoolExecutor(1) as pool:
            busy = pool.submit(call, plugin, {"do": "sleep", "seconds": 0.5})
            until(lambda: not plugin.pool.idle)
            assert plugin.health(1).status is PluginStatus.UNKNOWN
            with pytest.raises(SaturatedError):
                call(plugin, timeout=0.1)
            busy.result()

    def test_surplus_processes_are_closed(self, make):
        plugin = make(max_connections=3, max_idle_connections=1)
        with ThreadPoolExecutor(3) as pool:
            list(
                pool.map(lambda number: call(plugin, {"do": "sleep", "seconds": 0.2}, 5, request_id=str(number)), "abc")
            )
        assert plugin.pool.idle == 1
        until(lambda: len(_plugins_among_children()) == 1)

    def test_missing_program_is_an_error_of_the_configuration(self):
        with pytest.raises(MissingExecutableError):
            ExecPluginFactory().validate_config(config(executable=""))


def _plugins_among_children() -> list[int]:
    found = []
    for pid in children():
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                found += [pid] if PROGRAM.encode() in file.read() else []
        except OSError:
            pass
    return found


class TestFaults:
    def test_timeout_kills_the_process(self, make):
        plugin = make()
        pid = call(plugin, PID)
        for stopwatch in time_limit(0.3):
            with stopwatch, pytest.raises(PluginTimeoutError):
                call(plugin, {"do": "sleep", "seconds": 10}, 0.2)
        until(lambda: not is_alive(pid))
        assert call(plugin, PID) != pid

    def test_exit_in_the_middle_of_a_call(self, make):
        plugin = make()
        call(plugin)
        with pytest.raises(ConnectionLostError, match="exit status 7") as caught:
            call(plugin, {"do": "exit", "status": 7})
        assert caught.value.replay is Replay.IF_IDEMPOTENT
        assert call(plugin, 1) == 1

    def test_killed_in_the_middle_of_a_call(self, make):
        plugin = make()
        with pytest.raises(ConnectionLostError, match="SIGKILL"):
            call(plugin, {"do": "kill", "signal": signal.SIGKILL})

    def test_death_while_idle_costs_the_next_call_nothing(self, make, caplog):
        plugin = make()
        pid = call(plugin, PID)
        os.kill(pid, signal.SIGKILL)
        until(lambda: not is_alive(pid))  # reaped without a call
        assert call(plugin, PID) != pid
        assert f"process {pid}: it was killed by SIGKILL" in caplog.text

    def test_the_last_lines_of_stderr_are_in_the_log(self, make, caplog):
        plugin = make("--exit")
        with pytest.raises(ConnectionLostError, match="exit status 3"):
            call(plugin)
        until(lambda: "its last lines on stderr: I can't start" in caplog.text)

    @pytest.mark.parametrize(
        ("text", "error"),
        [
            ("garbage\n", BadReplyError),
            ('{"request_id":"other","success":true}\n', ReplyMismatchError),
            ("x" * 2000, ReplyTooLargeError),
        ],
    )
    def test_bad_reply_kills_the_process(self, make, text, error):
        plugin = make(max_response_bytes=1000)
        pid = call(plugin, PID)
        with pytest.raises(error):
            call(plugin, {"do": "raw", "text": text})
        until(lambda: not is_alive(pid))
        assert call(plugin, PID) != pid

    def test_truncated_reply(self, make):
        plugin = make()
        with pytest.raises(TruncatedReplyError, match="exit status 0"):
            call(plugin, {"do": "half", "text": '{"hal'})

    def test_banner_on_stdout_is_no_reply(self, make):
        with pytest.raises(BadReplyError):
            call(make("--banner"))

    def test_bytes_left_over_after_a_reply(self, make):
        plugin = make()
        pid = call(plugin, PID)
        assert call(plugin, {"do": "late", "text": "debug output"}) == "ok"
        until(lambda: not is_alive(pid))
        assert call(plugin, 1) == 1

    def test_output_of_an_idle_process_is_read_and_ends_it(self, make, tmp_path, caplog):
        """More output than a pipe holds: unread, it would block the process until the next call."""
        mark = tmp_path / "written"
        plugin = make()
        pid = call(plugin, PID)
        assert call(plugin, {"do": "chatter", "bytes": 1 << 20, "mark": str(mark)})
        until(mark.exists)
        until(lambda: not is_alive(pid))
        ended = f"process {pid}: it ended with exit status 0, since: it wrote to stdout outside of a call"
        until(lambda: ended in caplog.text)
        assert call(plugin, PID) != pid

    @pytest.mark.stress
    def test_calls_after_a_pause_find_the_same_process(self, make):
        """The supervisor watches its stdout by then, and must not read its reply."""
        plugin = make()
        pid = call(plugin, PID, 10)
        for _ in range(3):
            time.sleep(1.1)
            assert [call(plugin, PID, 10) for _ in range(200)] == [pid] * 200

    def test_endless_output_does_not_delay_other_calls(self, make):
        plugin = make(max_response_bytes=1 << 20)
        call(plugin)
        started = time.monotonic()
        with pytest.raises(ReplyTooLargeError):
            call(plugin, {"do": "flood"}, 10)
        assert time.monotonic() - started < 2
        assert call(plugin, 1, 10) == 1

    def test_a_hundred_mebibytes_of_stderr_do_not_delay_other_plugins(self, make, caplog):
        caplog.set_level(logging.INFO, "goplugins.plugin.p")
        plugin, other = make(), make()
        call(other)
        with ThreadPoolExecutor(1) as pool:
            noisy = pool.submit(call, plugin, {"do": "stderr", "bytes": 100 << 20, "text": "x" * 99 + "\n"}, 30)
            took = []
            while not noisy.done():
                started = time.monotonic()
                call(other, 1)
                took.append(time.monotonic() - started)
            noisy.result()
        # The machine may delay single calls; stderr that delays other plugins delays many.
        assert sorted(took)[len(took) * 9 // 10] < 0.25
        assert len(caplog.records) < 2000

    def test_lines_of_stderr_are_logged(self, make, caplog):
        caplog.set_level(logging.INFO, "goplugins.plugin.p")
        call(make(), {"do": "say", "text": "one\ntwo \x1b[31m\nthr"})
        until(lambda: len(caplog.messages) >= 2)
        assert caplog.messages[:2] == ["one", "two \\x1b[31m"]
        assert caplog.records[0].name == "goplugins.plugin.p"

    def test_reused_process_that_died_is_replaced_for_a_request_that_did_not_go_out(self, make):
        plugin = make()
        call(plugin)
        made = new_call({"do": "exit", "status": 0}, idempotent=True)
        plugin.prepare(made)
        with pytest.raises(ConnectionLostError):
            plugin.send(made)
        assert made.reconnected  # once; the second process exits as well


class TestStarting:
    @pytest.mark.parametrize("executable", ["/nonexistent/program", "no-such-program-in-path"])
    def test_missing_program(self, make, executable):
        with pytest.raises(PluginConnectionError, match="could not be started") as caught:
            call(make(executable=executable))
        assert executable in str(caught.value)
        assert "install it" in str(caught.value)
        assert (caught.value.replay, caught.value.retryable) == (Replay.NEVER, False)
        assert make(executable=executable).health(1).status is PluginStatus.OFFLINE

    def test_a_file_that_is_no_program(self, make, tmp_path):
        (tmp_path / "text").write_text("no program")
        text = str(tmp_path / "text")
        for sha256 in ("", hashlib.sha256(b"no program").hexdigest()):
            (tmp_path / "text").chmod(0o644)
            _fails_lastingly(make(executable=text, options={"sha256": sha256}), "ermission denied.*may execute")
            (tmp_path / "text").chmod(0o755)
            _fails_lastingly(make(executable=text, options={"sha256": sha256}), "xec format error.*#!/bin/sh")
            _fails_lastingly(make(executable=str(tmp_path), options={"sha256": sha256}), "directory")

    def test_script_without_its_interpreter(self, make, tmp_path):
        script = tmp_path / "script"
        script.write_text("#!/nonexistent/interpreter\n")
        script.chmod(0o755)
        _fails_lastingly(make(executable=str(script), args=[]), "interpreter or loader that it names does not")

    def test_missing_directory(self, make):
        _fails_lastingly(make(work_dir="/nonexistent"), "/nonexistent.*work_dir")

    def test_program_that_appears_later_is_run(self, make, tmp_path):
        script = tmp_path / "later"
        plugin = make(executable=str(script))
        _fails_lastingly(plugin, "no such file|No such file")
        script.symlink_to(os.path.realpath("/proc/self/exe"))
        time.sleep(0.06)
        assert call(plugin, 1) == 1

    def test_a_lack_of_descriptors_is_retryable(self, make):
        plugin = make()
        with few_descriptors(0), pytest.raises(LocalResourceError, match="Too many open files") as caught:
            call(plugin)
        assert caught.value.replay is Replay.ALWAYS

    def test_a_name_without_a_slash_is_searched_in_path(self, make, tmp_path):
        link = tmp_path / "my-python"
        link.symlink_to(os.path.realpath("/proc/self/exe"))
        plugin = make(executable="my-python", env=[f"PATH={tmp_path}"])
        assert call(plugin, 1) == 1

    def test_relative_path_counts_from_the_directory(self, make, tmp_path):
        script = tmp_path / "run"
        script.write_text(f"#!/bin/sh\nexec {os.path.realpath('/proc/self/exe')} -I -S {PROGRAM}\n")
        script.chmod(0o755)
        assert call(make(executable="./run", args=[], work_dir=str(tmp_path)), 1) == 1

    def test_failed_starts_are_delayed_longer_each_time(self, make):
        plugin = make("--exit")
        delays = []
        for _ in range(4):
            with pytest.raises(ConnectionLostError):
                call(plugin)
            with pytest.raises(PluginConnectionError, match="the next start is delayed") as caught:
                call(plugin)
            assert caught.value.replay is Replay.ALWAYS
            delays.append(caught.value.retry_after)
            assert caught.value.retry_after is not None
            time.sleep(caught.value.retry_after)
        for delay, expected in zip(delays, (0.05, 0.1, 0.2, 0.4), strict=True):
            assert expected * 0.5 < delay <= expected

    def test_a_reply_ends_the_delay(self, make):
        plugin = make()
        for _ in range(3):
            call(plugin)
            with pytest.raises(ConnectionLostError):
                call(plugin, {"do": "exit", "status": 1})


class TestEnd:
    def test_close_ends_processes(self, make):
        plugin = make()
        pid = call(plugin, PID)
        plugin.close()
        plugin.close()
        until(lambda: not is_alive(pid))
        with pytest.raises(PluginClosedError):
            call(plugin)

    def test_a_process_that_ignores_stdin_and_sigterm_is_killed(self, make, monkeypatch):
        monkeypatch.setattr(
            "goplugins.transports.exec.supervisor._STEPS", ((0.1, signal.SIGTERM), (0.1, signal.SIGKILL))
        )
        plugin = make("--stubborn")
        pid = call(plugin, PID)
        plugin.close()
        time.sleep(0.05)
        assert is_alive(pid)
        until(lambda: not is_alive(pid))

    def test_whole_group_is_killed(self, make):
        plugin = make()
        pid, child = call(plugin, {"do": "child"})
        with pytest.raises(PluginTimeoutError):
            call(plugin, {"do": "sleep", "seconds": 9}, 0.1)
        until(lambda: not is_alive(pid) and not _runs(child))

    def test_the_rest_of_a_dead_processs_group_is_killed(self, make):
        plugin = make()
        pid, child = call(plugin, {"do": "child"})
        os.kill(pid, signal.SIGKILL)
        until(lambda: not is_alive(pid) and not _runs(child))

    def test_forgotten_plugin_leaves_no_process(self):
        plugin = ExecPlugin(config())
        pid = call(plugin, PID)
        del plugin
        gc.collect()
        until(lambda: not is_alive(pid))

    def test_a_call_interrupted_before_its_cleanup_leaves_no_process(self, make):
        plugin = make(max_connections=1)
        pid = call(plugin, PID)
        lease = plugin.pool.try_acquire(Deadline.after(1))
        del lease  # as by Ctrl-C between the pool's last line and the caller's next
        gc.collect()
        until(lambda: not is_alive(pid))
        assert call(plugin, PID) != pid

    def test_close_during_calls(self, make):
        plugin = make(max_connections=2)
        call(plugin)
        with ThreadPoolExecutor(8) as pool:
            futures = [pool.submit(call, plugin, PID, 5.0, request_id=str(number)) for number in range(40)]
            plugin.close()
        pids = set()
        for future in futures:
            if future.exception() is None:
                pids.add(future.result())
            else:
                assert isinstance(future.exception(), PluginClosedError)
        until(lambda: not any(map(is_alive, pids)))

    def test_close_leaves_a_process_to_the_call_that_is_about_to_take_it(self, make, monkeypatch):
        plugin = make()
        launcher = plugin._launcher
        take = launcher._take

        def closed_at_last(start: Any, deadline: Any) -> Any:
            plugin.close()
            time.sleep(0.1)  # the supervisor has handled its commands by then
            return take(start, deadline)

        monkeypatch.setattr(launcher, "_take", closed_at_last)
        pid = call(plugin, PID, 5.0)
        until(lambda: not is_alive(pid))

    def test_close_ends_the_process_whose_caller_is_interrupted_before_it_takes_it(self, make, monkeypatch):
        plugin = make()
        pids = []

        def interrupted(start: Any, deadline: Any) -> Any:
            pids.append(start.handle.process.pid)
            plugin.close()
            raise Interrupt

        monkeypatch.setattr(plugin._launcher, "_take", interrupted)
        with pytest.raises(Interrupt):
            call(plugin, PID, 5.0)
        until(lambda: not is_alive(pids[0]))


def _fails_lastingly(plugin: ExecPlugin, match: str) -> None:
    """Neither the failure nor the delay after it is retryable."""
    for text in (f"(?s){match}", f"(?s)the next start is delayed.*{match}"):
        with pytest.raises(PluginConnectionError, match=text) as caught:
            call(plugin)
        assert (caught.value.replay, caught.value.retryable) == (Replay.NEVER, False)


def _runs(pid: int) -> bool:
    """Whether the process runs; an orphan's zombie, which only init can reap, doesn't."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _works(plugin: ExecPlugin) -> bool:
    try:
        return bool(call(plugin, 1, 10) == 1)
    except PluginConnectionError:
        return False


@pytest.mark.stress
def test_two_hundred_crashes_under_load_leak_nothing(make):
    plugin = make(max_connections=4, max_response_bytes=1000)
    call(plugin)
    descriptors, crashes, good = len(os.listdir("/proc/self/fd")), [], []
    pids: set[int] = set()

    def work(number: int) -> None:
        while len(crashes) < 200:
            fatal = (len(crashes) + number) % 2
            request = {"do": "exit", "status": 1} if fatal else PID
            try:
                pids.add(call(plugin, request, 20.0, request_id=f"{number}-{len(crashes)}"))
                good.append(1)
            except ConnectionLostError:
                crashes.append(1)
            except PluginConnectionError as error:
                time.sleep(error.retry_after or 0.001)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(crashes) >= 200
    assert good
    until(lambda: _works(plugin))  # the last crash may delay the next start
    plugin.close()
    until(lambda: not _plugins_among_children())
    until(lambda: not any(map(is_alive, pids)))
    until(lambda: len(os.listdir("/proc/self/fd")) <= descriptors)


def test_processes_killed_during_calls_are_replaced(make):
    plugin = make(max_connections=3)
    stop, done, errors = threading.Event(), [], []

    def work(number: int) -> None:
        while not stop.is_set():
            try:
                pid = call(plugin, PID, 5.0, request_id=f"{number}-{len(done)}", idempotent=True)
                done.append(pid)
            except PluginError as error:
                errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for _ in range(10):
        time.sleep(0.05)
        if done:
            with contextlib.suppress(ProcessLookupError):
                os.kill(done[-1], signal.SIGKILL)
    stop.set()
    for thread in threads:
        thread.join()
    assert len(done) > 50
    assert all(isinstance(error, ConnectionError) for error in errors)
    assert call(plugin, 1, 5) == 1


def test_a_credential_that_the_plugin_prints_does_not_reach_the_log(make, caplog):
    caplog.set_level("INFO", logger="goplugins.plugin.p")
    plugin = make(auth=AuthConfig(method="bearer", token="s3cr3t-token"))
    call(plugin, {"do": "say", "text": 'got {"Authorization":"Bearer s3cr3t-token"}\n'})
    until(lambda: caplog.messages)
    assert caplog.messages == ['got {"Authorization":"Bearer ***"}']
