"""Signal handlers that raise within a call (Ctrl-C, a worker's time limit): no connection and no lock is kept.

The plugin is served by another process, so that signals interrupt only the caller.
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

from goplugins.config import PluginConfig
from goplugins.errors import PluginError
from goplugins.runtime.clock import SYSTEM_CLOCK
from goplugins.runtime.deadline import Deadline
from goplugins.transports.grpc import GRPCPlugin
from goplugins.transports.grpc.channel import Channels
from goplugins.transports.grpc.fork_support import FORK_GUARD, load
from goplugins.transports.grpc.unary import SplitCalls
from tests.integration.grpc.conftest import call
from tests.interrupts import alarms_interrupt

SERVER = """
import sys, time
from tests.integration.grpc.conftest import RawServer, payload, reply
def handle(request, context):
    seconds = float(payload(request))
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
def interrupted() -> Iterator[Callable[[GRPCPlugin, float, float], bool]]:
    """Makes a call, and returns whether the signal came within it."""
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
    """The number of sockets once there are no more than ``goal``, or after two seconds."""
    end = time.monotonic() + 2
    while (found := sockets()) > goal and time.monotonic() < end:
        time.sleep(0.02)
    return found


@pytest.mark.parametrize("seconds", [0.25, 5.0], ids=["completed", "cancelled"])
def test_connection_of_an_interrupted_call_is_closed_with_its_plugin(address, make, interrupted, seconds):
    """grpc handles signals five times a second: most calls have got their reply by then."""
    make(address).close()
    before = sockets()
    for _ in range(3):
        plugin = make(address)
        assert interrupted(plugin, 0.1, seconds)
        assert call(plugin, 0) == 1
        plugin.close()
    assert settled(before) <= before
    assert FORK_GUARD.calls == 0


def test_the_connection_of_a_forgotten_plugin_is_closed(address, make):
    make(address).close()
    before = sockets()
    forgotten = GRPCPlugin(PluginConfig(name="p", transport="grpc", endpoint=address))
    assert call(forgotten, 0) == 1
    assert sockets() > before
    del forgotten
    assert settled(before) <= before


def test_calls_of_other_threads_continue_whenever_one_is_interrupted(address, make, interrupted):
    """Known fault of grpc: an interrupt at some points locked the channel, and no other call ever ended."""
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
    interrupts = 0
    while interrupts < 300:
        interrupts += interrupted(plugin, dice.random() * 2.5e-3 + 1e-6, 0)
    stop.set()
    for thread in threads:
        thread.join(3)
    assert not any(thread.is_alive() for thread in threads)
    assert slowest[0] < 2.0
    assert failed == []
    gc.collect()
    assert FORK_GUARD.calls == 0
    assert plugin._slots.open == plugin._slots.idle


def test_a_call_whose_object_is_lost_is_counted_out(address, make):
    """As an interrupt may do to a caller between any two of its steps."""
    channels = Channels(address, None, (), shared=True, max_lifetime=None, clock=SYSTEM_CLOCK)
    active = channels.begin_call(Deadline.after(2.0))
    assert FORK_GUARD.calls == 1
    del active
    assert FORK_GUARD.calls == 0
    active = channels.begin_call(Deadline.after(2.0))
    channels.end_call(active)
    channels.end_call(active)
    assert FORK_GUARD.calls == 0
    channels.close()


def test_this_version_of_grpc_has_the_private_parts_that_are_used(address):
    channels = Channels(address, None, (), shared=True, max_lifetime=None, clock=SYSTEM_CLOCK)
    active = channels.begin_call(Deadline.after(2.0))
    channel = active.channel
    (state,) = (part for part in gc.get_referents(channel.raw._channel) if type(part).__name__ == "_ChannelState")
    assert "_Condition" in {type(part).__name__ for part in gc.get_referents(state)}
    assert type(channel.invoke) is SplitCalls
    cygrpc = load()._cython.cygrpc
    assert cygrpc.StatusCode.cancelled == 1
    assert cygrpc.PropagationConstants.GRPC_PROPAGATE_DEFAULTS == 0xFFFF
    channels.end_call(active)
    channels.close()
