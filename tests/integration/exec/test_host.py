"""Pinned programs, limits, forks, and the end of the host process."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

from goplugins.errors import ConnectionLostError, PluginConnectionError, PluginExecutionError, Replay
from goplugins.transports.exec import supervisor
from tests.integration.exec.conftest import (
    PROGRAM,
    PYTHON,
    end_of,
    is_alive,
    line_of,
    start_host,
    until,
)
from tests.integration.unix.conftest import call
from tests.processes import children

PID = {"do": "pid"}


def _sha256(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


class TestPin:
    def test_the_pinned_program_runs(self, make):
        assert call(make(options={"sha256": _sha256(PYTHON).upper()}), 1) == 1

    def test_another_program_does_not_run(self, make, tmp_path):
        mark = tmp_path / "ran"
        script = tmp_path / "script"
        script.write_text(f"#!/bin/sh\ntouch {mark}\n")
        script.chmod(0o755)
        with pytest.raises(PluginConnectionError, match="SHA-256") as caught:
            call(make(executable=str(script), options={"sha256": "0" * 64}))
        assert caught.value.replay is Replay.NEVER
        assert not mark.exists()

    def test_script_runs_by_its_interpreter(self, make, tmp_path):
        script = tmp_path / "script"
        script.write_text(f'#!/bin/sh\nexec {PYTHON} -I -S {PROGRAM} "$@"\n')
        script.chmod(0o755)
        plugin = make(executable=str(script), args=["x"], options={"sha256": _sha256(str(script))})
        assert call(plugin, {"do": "argv"}) == ["x"]

    def test_the_program_is_checked_before_every_start(self, make, tmp_path):
        copy = tmp_path / "python"
        shutil.copy(PYTHON, copy)
        plugin = make(executable=str(copy), options={"sha256": _sha256(str(copy))})
        call(plugin, 1)
        with pytest.raises(ConnectionLostError):
            call(plugin, {"do": "exit", "status": 1})
        replaced = tmp_path / "new"
        replaced.write_text("#!/bin/sh\n")
        replaced.chmod(0o755)
        os.replace(replaced, copy)
        with pytest.raises(PluginConnectionError, match="SHA-256"):
            call(plugin, 1)


class TestLimits:
    def test_open_files(self, make):
        plugin = make(options={"max_open_files": 16})
        assert call(plugin, {"do": "open", "count": 5}) == "opened"
        with pytest.raises(PluginExecutionError, match="Too many open files"):
            call(plugin, {"do": "open", "count": 50})

    def test_memory(self, make):
        plugin = make(options={"max_memory": 300 << 20})
        assert call(plugin, {"do": "allocate", "bytes": 1 << 20}) == 1 << 20
        with pytest.raises(PluginExecutionError):
            call(plugin, {"do": "allocate", "bytes": 400 << 20})

    def test_processor_time(self, make):
        plugin = make(options={"max_cpu_seconds": 1})
        with pytest.raises(ConnectionLostError, match=r"SIGXCPU|SIGKILL"):
            call(plugin, {"do": "spin"}, 20)


@pytest.mark.processes
class TestFork:
    def test_a_child_starts_its_own_process_and_leaves_the_parents_running(self, make):
        plugin = make()
        pid = call(plugin, PID)
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            try:
                own = call(plugin, PID, 5.0)
                alive = is_alive(pid)
                plugin.close()
                until(lambda: not is_alive(own))
                os.write(writer, f"{own != pid} {alive} {is_alive(pid)}".encode())
            except BaseException as exc:
                os.write(writer, repr(exc).encode())
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        os.close(writer)
        assert os.read(reader, 1000) == b"True True True"
        os.close(reader)
        assert call(plugin, PID) == pid

    def test_two_threads_that_fork_at_the_same_time_leave_the_lock_free(self, monkeypatch):
        monkeypatch.setattr(supervisor, "_LOCK_TIMEOUT", 0.05)
        watched = supervisor.Supervisor()
        watched._before_fork()

        def another_forks() -> None:  # without the lock, which it must not release
            watched._before_fork()
            watched._after_fork_in_parent()

        thread = threading.Thread(target=another_forks)
        thread.start()
        thread.join()
        assert watched._start_lock.locked()
        watched._after_fork_in_parent()
        assert not watched._start_lock.locked()

    @pytest.mark.processes
    def test_a_forked_child_does_not_hide_the_parents_end_from_plugins(self, tmp_path):
        code = """
import os, sys, time
plugin = ExecPlugin(config())
print(call(plugin, {"do": "pid"}), flush=True)
if not os.fork():
    os.close(1)
    time.sleep(4)
    os._exit(0)
os.kill(os.getpid(), 9)
"""
        host = start_host(code)
        pid = int(line_of(host))
        host.wait(5)
        until(lambda: not _runs(pid), 2.0)
        end_of(host)


class TestEndOfTheHost:
    @pytest.mark.parametrize("flag", [pytest.param("--stubborn", marks=pytest.mark.processes), "--meek"])
    def test_kill_9_of_the_host_leaves_no_plugin_process(self, flag):
        """Neither one that ignores the end of stdin and SIGTERM, nor its own child processes."""
        code = f"""
plugin = ExecPlugin(config({flag!r}, max_connections=3))
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(3) as pool:
    found = list(pool.map(lambda n: call(plugin, {{"do": "child"}}, 10, request_id=n), "abc"))
print(*sum(found, []), flush=True)
import time; time.sleep(60)
"""
        host = start_host(code)
        pids = [int(pid) for pid in line_of(host).split()]
        assert all(map(_runs, pids))
        host.kill()
        killed = time.monotonic()
        host.wait(5)
        until(lambda: not any(map(_runs, pids)), 2.0 - (time.monotonic() - killed))
        end_of(host)

    @pytest.mark.processes
    def test_signals_to_the_hosts_group_do_not_reach_the_orphan_guard(self):
        code = """
import os, signal, time
os.setpgid(0, 0)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
plugin = ExecPlugin(config("--stubborn"))
print(call(plugin, {"do": "pid"}), flush=True)
os.killpg(0, signal.SIGTERM)
print("still here", flush=True)
time.sleep(60)
"""
        host = start_host(code)
        pid = int(line_of(host))
        assert line_of(host) == "still here"
        host.kill()
        host.wait(5)
        until(lambda: not _runs(pid), 2.0)
        end_of(host)

    @pytest.mark.processes
    def test_an_exiting_interpreter_ends_its_plugins_within_a_second(self):
        code = """
plugin = ExecPlugin(config("--stubborn"))
print(call(plugin, {"do": "pid"}), flush=True)
import time; print(time.monotonic(), flush=True)
"""
        host = start_host(code)
        pid, at = int(line_of(host)), float(line_of(host))
        assert host.wait(10) == 0
        assert time.monotonic() - at < 1.5
        assert not _runs(pid)
        assert end_of(host) == ""

    @pytest.mark.processes
    def test_works_beside_grpc_in_one_process(self):
        code = """
import grpc
from concurrent import futures
class Echo(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(lambda request, context: request)
server = grpc.server(futures.ThreadPoolExecutor(4))
server.add_generic_rpc_handlers((Echo(),))
port = server.add_insecure_port("127.0.0.1:0")
server.start()
channel = grpc.insecure_channel(f"127.0.0.1:{port}")
ask = channel.unary_unary("/a.B/C")
import threading
stop = threading.Event()
def busy():
    while not stop.is_set():
        assert ask(b"x", timeout=5) == b"x"
threads = [threading.Thread(target=busy) for _ in range(3)]
[thread.start() for thread in threads]
for _ in range(10):
    plugin = ExecPlugin(config())
    assert call(plugin, 1, 10) == 1
    plugin.close()
stop.set()
[thread.join() for thread in threads]
channel.close()
server.stop(None).wait()
print("done", flush=True)
"""
        host = start_host(code)
        assert line_of(host) == "done"
        assert host.wait(10) == 0
        assert "fork" not in end_of(host).lower()


def _runs(pid: int) -> bool:
    """Whether the process runs; an orphan's zombie, which only init can reap, doesn't."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_an_orphan_guard_that_was_killed_is_replaced(make):
    from goplugins.transports.exec.supervisor import supervisor_of_process

    plugin = make()
    call(plugin)
    guard = supervisor_of_process().orphan_guard
    first = guard.shell
    assert first is not None
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    with pytest.raises(ConnectionLostError):
        call(plugin, {"do": "exit", "status": 0})
    call(plugin)
    assert guard.shell is not None
    assert guard.shell.pid != first.pid
    assert guard.shell.pid in children()
