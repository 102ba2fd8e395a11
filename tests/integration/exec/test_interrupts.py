"""Signals that hit the host in the middle of a call: handlers that raise, and SIGPIPE."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from goplugins.transports.exec import sigpipe
from goplugins.transports.exec.executable import Executable
from goplugins.transports.exec.start_thread import StartThread
from goplugins.transports.exec.supervisor import supervisor_of_process
from tests.integration.exec.conftest import (
    end_of,
    is_alive,
    keeper_threads,
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
    def test_a_start_that_was_interrupted_is_the_next_calls(self, make, monkeypatch, struck, tmp_path):
        """Nobody knew of the process, before: it lived on, and the next call started another."""
        starts = tmp_path / "starts"
        find = Executable.find
        monkeypatch.setattr(Executable, "find", lambda self, env: time.sleep(0.3) or find(self, env))
        plugin = make(f"--starts={starts}", max_connections=1)
        assert struck(0.1, lambda: call(plugin, PID, 5))
        pid = call(plugin, PID, 5)
        assert starts.read_text() == f"{pid}\n"
        plugin._launcher.backoff.check()

    def test_a_process_whose_call_was_interrupted_is_ended(self, make, struck):
        plugin = make(max_connections=1)
        pid = call(plugin, PID)
        assert struck(0.3, lambda: call(plugin, {"do": "sleep", "seconds": 5}, 10), again=0.25)
        until(lambda: not is_alive(pid), 3)
        assert call(plugin, PID) != pid

    def test_an_interrupt_is_no_failed_start(self, make, struck):
        plugin = make("--slow=5")
        assert struck(0.1, lambda: call(plugin, 1, 10), again=0.25)
        plugin._launcher.backoff.check()

    def test_one_that_was_lost_without_a_word_is_found(self, make):
        """A finaliser may be interrupted, too, and then nobody has left word of it."""
        plugin = make()
        pid = call(plugin, PID)
        (process,) = (process for process in supervisor_of_process()._processes if process.pid == pid)
        process.lost = lambda: None  # type: ignore[method-assign]
        lease = plugin._client.pool.try_acquire(_soon())
        process._handle = None
        process.held_by(_Nobody())  # type: ignore[arg-type]
        until(lambda: not is_alive(pid), 4)
        plugin._client.pool.release(lease, reusable=False)

    @pytest.mark.stress
    def test_a_hail_of_interrupts_leaves_nothing(self):
        code = """
import gc, os, random, signal, threading, time
from tests.integration.exec.conftest import until
from tests.processes import children
from tests.interrupts import alarms_interrupt
chance = random.Random(int(time.time()))
first = ExecPlugin(config(executable="/bin/sh", args=["-c", SHELL]))
call(first, 1, 10)
first.close()
until(lambda: len(children()) == 1)  # the guardian
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


def _soon() -> object:
    from goplugins.runtime.deadline import Deadline

    return Deadline.after(5)


class _Nobody:
    """Is gone as soon as it was made."""


@pytest.mark.processes
class TestThreads:
    def test_processes_are_started_by_a_thread_that_lasts(self, make):
        """A process that asked for its parent's death signal gets it when the thread ends that started it."""
        plugin = make()
        found: list[int] = []
        caller = threading.Thread(
            target=lambda: found.append(call(plugin, {"do": "die with the thread that started me"}))
        )
        caller.start()
        caller.join()
        time.sleep(0.2)
        assert call(plugin, PID) == found[0]

    def test_that_thread_ends_with_its_processes(self, make):
        plugin = make(max_connections=2)
        call(plugin)
        assert sorted(thread.name for thread in keeper_threads()) == ["goplugins-exec", "goplugins-exec-start"]
        plugin.close()
        until(lambda: not keeper_threads())
        assert plugin._launcher._starter._runs is False

    def test_many_first_calls_at_once_make_one_keeper(self):
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

    def test_a_second_thread_for_the_same_starts_ends_at_once(self):
        """As after an interrupt between a thread's start and the line that would have noted it."""
        starter, ran, threads = StartThread(), threading.Event(), []

        def job() -> bool:
            threads.append([thread.name for thread in threading.enumerate()].count("goplugins-exec-start"))
            ran.set()
            return True

        starter.submit(job)
        assert ran.wait(5)
        extra = threading.Thread(target=starter._run)
        extra.start()
        extra.join(1)
        assert not extra.is_alive()
        starter.ended()
        until(lambda: not starter._runs)
        late = threading.Thread(target=starter._run)  # whose job was done by another meanwhile
        late.start()
        late.join(1)
        assert not late.is_alive()

    def test_one_plugins_program_that_can_not_be_reached_holds_up_no_other(self, make, monkeypatch):
        """As on a file system whose server went away."""
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

    def test_forks_in_the_middle_of_starts_inherit_no_pipe(self):
        """One that did would keep a plugin from noticing its host's end, or its host from noticing the plugin's."""
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
    def test_a_host_that_would_die_of_it_outlives_its_plugin(self):
        code = """
import os, signal, time
from goplugins.transports.exec.supervisor import supervisor_of_process
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
plugin = ExecPlugin(config())
pid = call(plugin, {"do": "stop reading"}, 10)
time.sleep(0.1)
print(call(plugin, {"do": "pid"}, 10) != pid, flush=True)  # the write failed, so it was sent to another one
shell = supervisor_of_process().guardian._shell
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
        assert host.returncode == -signal.SIGPIPE  # what it wanted is still there

    def test_plugins_get_the_usual_one_and_nothing_blocked(self, make):
        call(plugin := make())
        (process,) = (p for p in supervisor_of_process()._processes if p.channel.state.value == "idle")
        with open(f"/proc/{process.pid}/status") as file:
            status = dict(line.split(":", 1) for line in file)
        assert int(status["SigBlk"], 16) == 0
        assert not int(status["SigPnd"], 16)
        plugin.close()

    @pytest.mark.parametrize("blocked", [False, True])
    def test_a_write_leaves_the_mask_as_it_was(self, blocked):
        reader, writer = os.pipe()
        os.close(reader)
        before = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_BLOCK if blocked else signal.SIG_UNBLOCK, {signal.SIGPIPE})
        try:
            with pytest.raises(BrokenPipeError):
                sigpipe.write(writer, b"x")
            assert (signal.SIGPIPE in signal.pthread_sigmask(signal.SIG_BLOCK, ())) is blocked
            assert (signal.SIGPIPE in signal.sigpending()) is blocked
        finally:
            signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # takes one that is pending
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPIPE})
            signal.signal(signal.SIGPIPE, before)
            os.close(writer)

    def test_strikes_at_a_broken_pipe_neither_kill_nor_change_the_mask(self):
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
