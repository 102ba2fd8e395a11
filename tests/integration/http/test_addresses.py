"""Names with several addresses, of which some are silent, refuse or can't be reached from this machine."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading

import pytest

from goplugins import Manager
from goplugins.errors import PluginConnectionError, PluginTimeoutError, Replay, missing_resource
from goplugins.runtime.call import Call
from goplugins.runtime.cancellation import AttemptCancelledError, Cancellation
from goplugins.runtime.clock import SYSTEM_CLOCK
from goplugins.runtime.deadline import CancellableDeadline
from goplugins.transports.json_codec import codec_for
from tests.integration.http.conftest import call
from tests.servers import free_port, silent_address
from tests.timing import time_limit, until

pytestmark = pytest.mark.matrix


class Answers:
    """A resolver with the given addresses for every name."""

    def __init__(self, *addresses) -> None:
        self.addresses = list(addresses)

    def resolve(self, host, port, deadline):
        return list(self.addresses)


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


def address(port: int, host: str = "127.0.0.1"):
    return socket.AF_INET, (host, port)


@pytest.fixture
def silent():
    with contextlib.ExitStack() as stack:
        yield lambda host="127.0.0.1": stack.enter_context(silent_address(host))


@pytest.fixture
def no_ipv6(monkeypatch):
    """A kernel that was started with ipv6.disable=1."""

    class WithoutIPv6(socket.socket):
        def __init__(self, family=-1, *args, **keywords):
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
            super().__init__(family, *args, **keywords)

    monkeypatch.setattr(socket, "socket", WithoutIPv6)


@pytest.mark.parametrize(
    "others",
    [
        pytest.param(["::1"], marks=needs_ipv6),
        ["127.0.0.1"],
        pytest.param(["::1", "127.0.0.1", "::1"], marks=needs_ipv6),
    ],
    ids=["the other family", "the same family", "most of them"],
)
def test_silent_addresses_cost_a_quarter_of_a_second_each_and_once(serve, make, silent, others):
    server = serve()
    resolver = Answers(*map(silent, others), address(server.port))
    plugin = make("http://several.example/x", resolver=resolver, keep_alive=False)
    for stopwatch in time_limit(0.25 * len(others) + 0.7):
        with stopwatch:
            assert call(plugin, timeout=5) == "ok"
    for stopwatch in time_limit(0.2):
        with stopwatch:
            assert call(plugin, timeout=5) == "ok"


@needs_ipv6
@pytest.mark.parametrize("family", ["refused", "not supported"])
@pytest.mark.parametrize("first", [True, False])
def test_an_address_that_fails_at_once_costs_nothing(serve, make, request, family, first):
    server = serve()
    if family == "not supported":
        request.getfixturevalue("no_ipv6")
    failing = (socket.AF_INET6, ("::1", free_port(), 0, 0))
    found = [failing, address(server.port)] if first else [address(server.port), failing]
    plugin = make("http://several.example/x", resolver=Answers(*found), keep_alive=False)
    for stopwatch in time_limit(0.2):
        with stopwatch:
            assert [call(plugin), call(plugin)] == ["ok", "ok"]


@needs_ipv6
@pytest.mark.parametrize("resolve", [False, True])
def test_a_family_that_the_kernel_lacks_has_no_member_in_a_group(serve, no_ipv6, monkeypatch, resolve):
    """``options.resolve`` makes a member of each address: half of the calls would fail."""
    server = serve()
    found = [(socket.AF_INET6, ("::1", server.port, 0, 0)), (socket.AF_INET, ("127.0.0.1", server.port))]
    monkeypatch.setattr(
        "socket.getaddrinfo", lambda *_, **__: [(family, socket.SOCK_STREAM, 6, "", where) for family, where in found]
    )
    plugin = {
        "name": "p",
        "transport": "http",
        "endpoint": f"http://dual.example:{server.port}/",
        "options": {"resolve": resolve},
        "retry": {"max_retries": 0},
        "health_check": {"enabled": False},
    }
    with Manager() as manager:
        manager.load_from_config({"plugins": [plugin]})
        assert [manager.execute("p", None) for _ in range(6)] == ["ok"] * 6


def test_what_worked_is_forgotten_once_it_works_no_longer(serve, make, silent):
    """The order is a preference: every address is tried as long as there is time."""
    first, second = serve(), serve()
    resolver = Answers(silent(), address(first.port))
    plugin = make("http://several.example/x", resolver=resolver, keep_alive=False)
    assert call(plugin, timeout=5) == "ok"
    first.close()
    resolver.addresses[0] = address(second.port)
    assert call(plugin, timeout=5) == "ok"
    assert len(second.requests) == 1


def test_only_the_connection_that_is_used_stays_open(serve, make, silent):
    server = serve()
    plugin = make("http://several.example/x", resolver=Answers(silent(), silent(), address(server.port)))
    before = len(os.listdir("/proc/self/fd"))
    assert call(plugin, timeout=5) == "ok"
    until(lambda: len(os.listdir("/proc/self/fd")) <= before + 2, what="only both ends of one connection are open")


def test_all_refuse(make):
    ports = [free_port(), free_port()]
    plugin = make("http://several.example/x", resolver=Answers(*map(address, ports)))
    with pytest.raises(PluginConnectionError) as caught:
        call(plugin)
    assert caught.value.replay is Replay.ALWAYS
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)
    for port in ports:
        assert f"127.0.0.1:{port}: Connection refused" in caught.value.message


@needs_ipv6
def test_the_refusal_of_an_address_says_more_than_a_family_that_this_machine_lacks(make, no_ipv6):
    ipv6 = socket.AF_INET6, ("::1", 1, 0, 0)
    plugin = make("http://several.example/x", resolver=Answers(ipv6, address(free_port())))
    with pytest.raises(PluginConnectionError) as caught:
        call(plugin)
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)
    assert "[::1]:1: Address family not supported" in caught.value.message


@pytest.mark.parametrize("other", ["refuses", "is silent"])
def test_the_answer_of_an_address_says_more_than_a_lack_of_this_process(make, silent, monkeypatch, other):
    port = free_port()
    quiet = silent()
    real = socket.socket

    def limited(*args):
        if args[:1] == (socket.AF_INET6,):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(*args)

    found = [(socket.AF_INET6, ("::1", 1, 0, 0)), address(port) if other == "refuses" else quiet]
    plugin = make("http://several.example/x", resolver=Answers(*found))
    monkeypatch.setattr(socket, "socket", limited)
    with pytest.raises(PluginConnectionError if other == "refuses" else PluginTimeoutError) as caught:
        call(plugin, timeout=0.4)
    assert not missing_resource(caught.value)


@pytest.mark.parametrize(("connection_timeout", "whose"), [(5.0, "the call's deadline"), (0.2, "connection_timeout")])
def test_none_answers(make, silent, connection_timeout, whose):
    resolver = Answers(silent(), silent())
    plugin = make("http://several.example/x", resolver=resolver, connection_timeout=connection_timeout)
    for stopwatch in time_limit(0.6, at_least=0.2):
        with stopwatch, pytest.raises(PluginTimeoutError) as caught:
            call(plugin, timeout=0.4)
    assert caught.value.replay is Replay.ALWAYS
    assert whose in caught.value.message
    assert "no answer" in caught.value.message


def test_a_cancelled_attempt_waits_for_no_address(make, silent):
    plugin = make("http://several.example/x", resolver=Answers(silent(), silent()))
    cancellation = Cancellation()
    made = Call(None, codec_for(), CancellableDeadline(SYSTEM_CLOCK.monotonic() + 30, SYSTEM_CLOCK, cancellation), "r")
    plugin.prepare(made)
    timer = threading.Timer(0.4, cancellation.cancel)
    timer.start()
    with pytest.raises(AttemptCancelledError):
        plugin.send(made)
    timer.join()
    assert SYSTEM_CLOCK.monotonic() < made.deadline.at - 20
    assert plugin._engine.pool.open == 0
