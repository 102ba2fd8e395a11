"""Forks of a process that has made gRPC calls, each in a process of its own: a fork leaves traces."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from importlib.metadata import version

import pytest

_GRPC = tuple(int(part) for part in version("grpcio").split(".")[:2])

_SETUP = """
import os, signal, subprocess, sys, threading, time
from goplugins.config import PluginConfig
from goplugins.errors import PluginError
from goplugins.transports.grpc import GRPCPlugin
from goplugins.transports.grpc.fork_support import FORK_GUARD
from tests.integration.grpc.conftest import call
from tests.servers import free_port

SERVER = '''
import sys, time
from tests.integration.grpc.conftest import RawServer, reply
def handle(request, context):
    if b"long" in request:
        time.sleep(2)
    if b"short" in request:
        time.sleep(0.4)
    return reply(request, payload=b"1")
print(RawServer(handle).port, flush=True)
sys.stdin.read()
'''
assert "grpc" not in sys.modules or os.environ.get("GRPC_ENABLE_FORK_SUPPORT") == "1"
server = subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
plugin = GRPCPlugin(PluginConfig(name="p", transport="grpc", endpoint=f"127.0.0.1:{int(server.stdout.readline())}"))
dead = GRPCPlugin(PluginConfig(name="q", transport="grpc", endpoint=f"127.0.0.1:{free_port()}"))

def outcome(target=plugin, *arguments, **keywords):
    try:
        return call(target, *arguments, **keywords)
    except PluginError as error:
        return f"{type(error).__name__}: {error.message}"

def fork(function):
    # The result in the child, or how it ended; killed if it hangs.
    read, write = os.pipe()
    sys.stdout.flush()  # or the child would print the buffered text again
    # On another thread, sys.exit would end that thread alone.
    leave = sys.exit if threading.current_thread() is threading.main_thread() else os._exit
    pid = os.fork()
    if pid == 0:
        os.write(write, repr(function()).encode())
        sys.stdout.flush()
        leave(7)
    os.close(write)
    end = time.monotonic() + 10
    while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0) and time.monotonic() < end:
        time.sleep(0.02)
    if ended == (0, 0):
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        return "HUNG"
    return os.read(read, 65536).decode() or f"ended with {os.waitstatus_to_exitcode(ended[1])}"

def wait_for_calls(count):
    end = time.monotonic() + 10
    while FORK_GUARD.calls < count:
        assert time.monotonic() < end
        time.sleep(0.005)

def finish():
    server.kill()
    server.communicate()
    plugin.close()
    dead.close()
"""


def run(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _SETUP + textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.processes
def test_parent_and_child_make_their_own_calls():
    out = run("""
    assert outcome() == 1
    assert "no connection" in outcome(dead)
    for _ in range(3):
        print(fork(lambda: (outcome(), outcome(), fork(outcome))))
    print(outcome())
    finish()
    """)
    assert out.split("\n") == ["(1, 1, '1')"] * 3 + ["1", ""]


def test_fork_before_the_first_call():
    out = run("""
    print(fork(outcome))
    print(outcome())
    finish()
    """)
    assert out == "1\n1\n"


@pytest.mark.processes
def test_fork_waits_for_a_call_in_flight():
    out = run("""
    outcome()
    done = []
    thread = threading.Thread(target=lambda: done.append(outcome(plugin, "short")))
    thread.start()
    wait_for_calls(1)
    print(fork(outcome))
    thread.join()
    print(done, outcome())
    finish()
    """)
    assert out == "1\n[1] 1\n"


@pytest.mark.processes
def test_threads_may_fork_at_the_same_time():
    out = run("""
    outcome()
    over = threading.Event()
    def keep_calling():
        while not over.is_set():
            found.append(outcome())
    def keep_forking():
        for _ in range(15):
            found.append(fork(outcome))
    found = []
    caller = threading.Thread(target=keep_calling)
    threads = [threading.Thread(target=keep_forking) for _ in range(3)]
    for thread in [caller, *threads]:
        thread.start()
    for thread in threads:
        thread.join()
    over.set()
    caller.join()
    print(sorted(set(map(str, found))), sum(one == "1" for one in found))
    finish()
    """)
    assert out == "['1'] 45\n"


@pytest.mark.processes
@pytest.mark.parametrize("calls", ["1", "3"])
def test_a_child_forked_during_a_long_call_refuses_calls_with_a_reason(calls):
    out = run(f"""
    outcome()
    done = []
    threads = [threading.Thread(target=lambda: done.append(outcome(plugin, "long", timeout=5))) for _ in range({calls})]
    for thread in threads:
        thread.start()
    wait_for_calls({calls})
    started = time.monotonic()
    print(fork(lambda: (round(time.monotonic() - started), outcome(), plugin.health(1).status.value)))
    for thread in threads:
        thread.join()
    print(done, outcome())
    finish()
    """)
    first, second, _ = out.split("\n")
    assert second == f"{[1] * int(calls)} 1"
    if _GRPC < (1, 82):
        assert first == "ended with 64"  # grpc ends the child itself: without a reason, but it does not hang
        return
    assert first.startswith('(1, "GRPCTransportError: this process was forked while')
    assert "fork before calling" in first


@pytest.mark.processes
def test_calls_of_other_threads_continue_during_many_forks():
    out = run("""
    outcome()
    stop = threading.Event()
    wrong, made = [], []
    def work():
        while not stop.is_set():
            found = outcome(timeout=3)
            (made if found == 1 else wrong).append(found)
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    said = {fork(outcome) for _ in range(5)}
    stop.set()
    for thread in threads:
        thread.join()
    print(said, wrong, len(made) > 50)
    finish()
    """)
    assert out == "{'1'} [] True\n"
