"""Signal handlers that raise within a call (Ctrl-C, a worker's time limit): what the process holds afterwards.

The plugin is served by another process, so that the signals strike nobody but the caller.
"""

from __future__ import annotations

import contextlib
import gc
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from goplugins.errors import PluginError
from goplugins.transports.grpc import GRPCPlugin
from goplugins.transports.grpc.channel import Channels
from goplugins.transports.grpc.fork_support import TRAFFIC, load
from goplugins.transports.grpc.interrupts import _Condition
from tests.integration.grpc.conftest import call
from tests.interrupts import alarms_interrupt

SERVER = """
import sys, time
from tests.integration.grpc.conftest import RawServer, asked, reply
def handle(request, context):
    seconds = float(asked(request))
    while seconds > 0 and context.is_active():
        time.sleep(min(seconds, 0.01))
        seconds -= 0.01
    return reply(request, payload=b"1")
print(RawServer(handle).address, flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    command = [sys.executable, "-c", SERVER]
    root = Path(__file__).resolve().parents[3]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root) as server:
        assert server.stdout is not None
        yield server.stdout.readline().strip()
        server.kill()


@pytest.fixture
def struck() -> Iterator[Callable[[GRPCPlugin, float, float], bool]]:
    """Makes a call, and says whether the signal came within it."""
    with alarms_interrupt() as alarm:
        yield lambda plugin, after, value: alarm(after, lambda: call(plugin, value, timeout=5))


def sockets() -> int:
    gc.collect()
    found = 0
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found += "socket:" in os.readlink(f"/proc/self/fd/{number}")
    return found


def settled(goal: int) -> int:
    """The sockets that are left once there are no more than ``goal``, or two seconds later."""
    end = time.monotonic() + 2
    while (found := sockets()) > goal and time.monotonic() < end:
        time.sleep(0.02)
    return found


@pytest.mark.parametrize("seconds", [0.25, 5.0], ids=["answered meanwhile", "cancelled"])
def test_connection_of_an_interrupted_call_is_closed_with_its_plugin(address, make, struck, seconds):
    """grpc looks for signals five times a second: most calls have been answered by then."""
    make(address).close()
    before = sockets()
    for _ in range(3):
        plugin = make(address)
        assert struck(plugin, 0.1, seconds)
        assert call(plugin, 0) == 1
        plugin.close()
    assert settled(before) <= before
    assert TRAFFIC.calls == 0


def test_other_threads_go_on_whenever_one_is_struck(address, make, struck):
    """Known fault of grpc: a signal in the wrong moment locked the channel, and no other call ever ended."""
    plugin = make(address)
    dice = random.Random(5)
    stop = threading.Event()
    slowest = [0.0]
    failed: list[PluginError] = []

    def work() -> None:
        while not stop.is_set():
            started = time.monotonic()
            try:
                call(plugin, 0, timeout=2.0)
            except PluginError as error:
                failed.append(error)
            slowest[0] = max(slowest[0], time.monotonic() - started)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    strikes = 0
    while strikes < 300:
        strikes += struck(plugin, dice.random() * 2.5e-3 + 1e-6, 0)
    stop.set()
    for thread in threads:
        thread.join(3)
    assert not any(thread.is_alive() for thread in threads)
    assert slowest[0] < 2.0
    assert failed == []
    gc.collect()
    assert TRAFFIC.calls == 0
    assert plugin._places.open == plugin._places.idle


def test_a_passage_that_is_lost_has_left(address, make):
    """As an interrupt may do to a caller between any two of its steps."""
    plugin = make(address)
    passage = plugin._links.enter(_soon())
    assert TRAFFIC.calls == 1
    del passage
    assert TRAFFIC.calls == 0
    passage = plugin._links.enter(_soon())
    plugin._links.leave(passage)
    plugin._links.leave(passage)
    assert TRAFFIC.calls == 0


def test_this_version_of_grpc_has_the_parts_that_are_looked_for(address, make):
    plugin = make(address)
    assert call(plugin, 0) == 1
    link = plugin._links._link
    assert link is not None
    (state,) = (part for part in gc.get_referents(link.channel._channel) if type(part).__name__ == "_ChannelState")
    assert any(type(part) is _Condition for part in gc.get_referents(state))
    assert all(type(method._channel).__name__ == "_Starter" for method in link.methods.values())
    assert link.starts == {}
    assert load()._cython.cygrpc.StatusCode.cancelled == 1


def test_a_closed_channel_is_no_matter(address):
    links = Channels(address, None, (), shared=True)
    links.leave(links.enter(_soon()))
    links.close()
    assert TRAFFIC.calls == 0


def _soon():
    from goplugins.runtime.deadline import Deadline

    return Deadline.after(2.0)
