"""Signals that reach the host during a call: handlers that raise, and SIGPIPE."""

from __future__ import annotations

import gc
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from goplugins.runtime.deadline import Deadline
from goplugins.transports.exec.executable import Executable
from goplugins.transports.exec.process_handle import Process
from goplugins.transports.exec.supervisor import supervisor_of_process
from tests.integration.exec.conftest import (
    end_of,
    exec_threads,
    is_alive,
    line_of,
    start_host,
    until,
)
from tests.integration.unix.conftest import call
from tests.interrupts import alarms_interrupt

PID = {"do": "pid"}


@pytest.fixture
def struck() -> Iterator[Callable[..., bool]]:
    with alarms_interrupt() as alarm:
        yield alarm


class TestInterruptedCalls:
    def test_an_interrupted_start_is_used_by_the_next_call(self, make, monkeypatch, struck, tmp_path):
        """The process must not be left running while the next call starts another."""
        starts = tmp_path / "starts"
        find = Executable.find
        monkeypatch.setattr(Executable, "find", lambda self, env: time.sleep(0.3) or find(self, env))
        plugin = make(f"--starts={starts}", max_connections=1)
        assert struck(0.1, lambda: call(plugin, PID, 5))
        pid = call(plugin, PID, 5)
        assert starts.read_text() == f"{pid}\n"
        plugin._launcher.backoff.check()

    def test_a_process_whose_call_is_interrupted_is_ended(self, make, struck):
        plugin = make(max_connections=1)
        pid = call(plugin, PID)
        assert struck(0.3, lambda: call(plugin, {"do": "sleep", "seconds": 5}, 10), again=0.25)
        until(lambda: not is_alive(pid), 3)
        assert call(plugin, PID) != pid

    def test_an_interrupt_is_no_failed_start(self, make, struck):
        plugin = make("--slow=5")
        assert struck(0.1, lambda: call(plugin, 1, 10), again=0.25)
        plugin._launcher.backoff.check()

    def test_a_process_whose_handle_is_lost_ends_even_if_the_finalizer_was_interrupted(self, make, monkeypatch):
        monkeypatch.setattr(Process, "lost", lambda self: None)
        plugin = make()
        pid = call(plugin, PID)
        lease = plugin.pool.try_acquire(Deadline.after(5))
        del lease
        gc.collect()
        until(lambda: not is_alive(pid), 4)

    @pytest.mark.stress
    def test_hundreds_of_interrupts_leak_no_process_descriptor_or_thread(self):
        code = """
import gc, os, random, signal, threading, time
from tests.integration.exec.conftest import until
from tests.processes import children
from tests.interrupts import alarms_interrupt
chance = random.Random(int(time.time()))
first = ExecPlugin(config(executable="/bin/sh", args=["-c", SHELL]))
call(first, 1, 10)
first.close()
until(lambda: len(children()) == 1)  # the orphan guard
before = len(os.listdir("/proc/self/fd"))
def one_call():
    assert call(plugin, "x" * chance.choice([1, 100_000]), 10, request_id=str(number)) == str(number)
strikes = number = 0
with alarms_interrupt() as struck:
    while strikes < 300:
        if number % 4 == 0:
            plugin = ExecPlugin(config(executable="/bin/sh", args=["-c", SHELL], max_connections=2))
        number += 1
        strikes += struck(chance.choice([chance.uniform(1e-5, 4e-4), chance.uniform(1e-5, 8e-3)]), one_call)
        if number % 4 == 0:
            plugin.close()
plugin = ExecPlugin(config(executable="/bin/sh", args=["-c", SHELL], max_connections=2))
assert call(plugin, 1, 10, request_id="last") == "last"
plugin.close()
del plugin
gc.collect()
until(lambda: len(children()) == 1)
until(lambda: len(os.listdir("/proc/self/fd")) <= before)
# Thread.start's own record of a thread that never came to be has no number.
until(lambda: [thread.name for thread in threading.enumerate() if thread.ident] == ["MainThread"])
assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
print("done", flush=True)
"""
        host = start_host(f"SHELL = {_SHELL!r}\n" + code)
        assert line_of(host) == "done"
        assert end_of(host) == ""


_SHELL = r"""
while read -r line; do
  id=${line#*\"request_id\":\"}; id=${id%%\"*}
  printf '{"type":"execute","request_id":"%s","success":true,"data":"%s"}\n' "$id" "$id"
done
"""


@pytest.mark.processes
class TestThreads:
    def test_processes_are_started_by_a_thread_that_outlives_them(self, make):
        """A process with a parent-death signal gets it when the thread that started it ends."""
        plugin = make()
        found: list[int] = []
        caller = threading.Thread(
            target=lambda: found.append(call(plugin, {"do": "die with the thread that started me"}))
        )
        caller.start()
        caller.join()
        time.sleep(0.2)
        assert call(plugin, PID) == found[0]

    def test_the_start_thread_ends_with_its_processes(self, make):
        plugin = make(max_connections=2)
        call(plugin)
        assert sorted(thread.name for thread in exec_threads()) == ["goplugins-exec", "goplugins-exec-start"]
        plugin.close()
        until(lambda: not exec_threads())
        assert not plugin._launcher.start_thread.runs

    def test_many_first_calls_at_once_start_one_supervisor(self):
        code = """
from concurrent.futures import ThreadPoolExecutor
import threading, sys
sys.setswitchinterval(1e-5)
plugins = [ExecPlugin(config()) for _ in range(12)]
with ThreadPoolExecutor(12) as pool:
    assert list(pool.map(lambda plugin: call(plugin, 1, 20), plugins)) == [1] * 12
print([thread.name for thread in threading.enumerate()].count("goplugins-exec"), flush=True)
"""
        host = start_host(code)
        assert line_of(host) == "1"
        end_of(host)

    def test_a_program_on_a_hanging_file_system_delays_no_other_plugin(self, make, monkeypatch):
        released, find = threading.Event(), Executable.find
        monkeypatch.setattr(
            Executable,
            "find",
            lambda self, env: find(self, env) if self._work_dir != "/" or released.wait(10) else "",
        )
        with ThreadPoolExecutor(1) as pool:
            stuck = pool.submit(call, make(work_dir="/"), 1, 10)
            time.sleep(0.05)
            assert call(make(), 1, 2) == 1
            released.set()
            assert stuck.result() == 1

    def test_forks_during_starts_inherit_no_pipe(self):
        """An inherited pipe would hide the host's end from the plugin, or the plugin's end from its host."""
        code = """
import os, threading, time
stop = threading.Event()
def work():
    while not stop.is_set():
        plugin = ExecPlugin(config(executable="/bin/cat", args=[]))
        try:
            call(plugin, 1, 5)
        except Exception:
            pass
        plugin.close()
threads = [threading.Thread(target=work) for _ in range(3)]
[thread.start() for thread in threads]
found = []
for _ in range(40):
    time.sleep(0.01)
    pid = os.fork()
    if not pid:
        left = []
        for name in os.listdir("/proc/self/fd"):
            try:
                left.append(os.readlink(f"/proc/self/fd/{name}"))
            except OSError:
                pass
        left = [one for one in left if "pipe" in one]
        if len(left) > 2:
            print(left, file=sys.stderr, flush=True)
        os._exit(min(200, len(left)))
    found.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
stop.set()
[thread.join() for thread in threads]
print(max(found), flush=True)
"""
        host = start_host("import warnings; warnings.simplefilter('ignore')\n" + code)
        assert line_of(host) == "2"  # stdout and stderr
        end_of(host)


@pytest.mark.processes
class TestSigpipe:
    def test_a_host_with_the_default_action_survives_the_end_of_its_plugin(self):
        code = """
import os, signal, time
from goplugins.transports.exec.supervisor import supervisor_of_process
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
plugin = ExecPlugin(config())
pid = call(plugin, {"do": "stop reading"}, 10)
time.sleep(0.1)
print(call(plugin, {"do": "pid"}, 10) != pid, flush=True)  # the write failed, so the request went to another process
shell = supervisor_of_process().orphan_guard.shell
os.kill(shell.pid, signal.SIGKILL)
shell.wait()
for _ in range(3):
    assert call(ExecPlugin(config()), 1, 10) == 1
print(signal.getsignal(signal.SIGPIPE) is signal.SIG_DFL, signal.pthread_sigmask(signal.SIG_BLOCK, ()), flush=True)
os.kill(os.getpid(), signal.SIGPIPE)
time.sleep(5)
"""
        host = start_host(code)
        assert line_of(host) == "True"
        assert line_of(host) == "True set()"
        end_of(host)
        assert host.returncode == -signal.SIGPIPE  # the host's own choice is unchanged

    def test_plugins_inherit_no_blocked_signal(self, make):
        call(plugin := make())
        (process,) = (p for p in supervisor_of_process().processes if p.channel.state.value == "idle")
        with open(f"/proc/{process.pid}/status") as file:
            status = dict(line.split(":", 1) for line in file)
        assert int(status["SigBlk"], 16) == 0
        assert not int(status["SigPnd"], 16)
        plugin.close()

    def test_interrupts_during_writes_to_a_broken_pipe_neither_kill_nor_change_the_mask(self):
        code = """
import os, random, signal
from goplugins.transports.exec import sigpipe
from tests.interrupts import alarms_interrupt
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
reader, writer = os.pipe()
os.close(reader)
chance = random.Random(1)
def writes():
    while True:
        try:
            sigpipe.write(writer, b"x")
        except BrokenPipeError:
            pass
with alarms_interrupt() as struck:
    for _ in range(2000):
        assert struck(chance.uniform(1e-6, 6e-5), writes)
        assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
print("done", flush=True)
"""
        host = start_host(code)
        assert line_of(host) == "done"
        end_of(host)
