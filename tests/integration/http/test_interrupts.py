"""An exception out of a signal handler (Ctrl-C, a worker's time limit), at any line, costs one connection at most."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import socket
import time

import pytest

from goplugins.errors import PluginError
from goplugins.runtime.call import Call
from goplugins.runtime.deadline import Deadline
from goplugins.transports import connection_pool, reconnect, tcp
from goplugins.transports.http import (
    connection,
    connector,
    httptools_engine,
    parser,
    plugin as http_plugin,
    request as http_request,
)
from goplugins.transports.json_codec import codec_for
from tests.integration.http.conftest import call
from tests.interrupts import alarms_interrupt, interrupted_at
from tests.servers import Peer, free_port, http_reply, ok
from tests.timing import until

OURS = tuple(
    module.__file__
    for module in (connection, connection_pool, reconnect, httptools_engine, parser, http_plugin, http_request)
)

OPENING = tuple(module.__file__ for module in (connector, tcp))


@pytest.fixture
def engine():
    return "fast"


def chunked_and_closed_at_times(peer: Peer) -> None:
    """Serves replies of both kinds, and closes after every fifth."""
    for number in range(5):
        if (request := peer.read_request()) is None:
            return
        body = b'{"data": "ok", "request_id": "%b"}' % request.headers["x-request-id"].encode()
        if number % 2:
            peer.send(http_reply(body))
        else:
            peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(body), body))
            peer.send(b"0\r\n\r\n")


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def in_chunks(request) -> bytes:
    body = b'{"data": "ok", "request_id": "%b"}' % request.headers["x-request-id"].encode()
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


@pytest.mark.parametrize(("reply", "points"), [(ok, 35), (in_chunks, 50)], ids=["fast path", "full parser"])
def test_interrupt_at_every_line_of_a_call_on_a_reused_connection(serve, make, reply, points):
    server = serve(lambda peer: [peer.send(reply(request)) for request in iter(peer.read_request, None)] and None)
    plugin = make(server.url, max_connections=1)
    call(plugin)
    number = 0
    while True:
        made = Call(None, codec_for(), Deadline.after(2), "req-1", idempotent=True)
        plugin.prepare(made)
        if not interrupted_at(number, lambda made=made: plugin.send(made), OURS):
            break
        del made
        assert plugin._engine.pool.open <= 1, number
        assert plugin._engine.pool.open == plugin._engine.pool.idle, number
        assert call(plugin, idempotent=True) == "ok", number
        number += 1
    assert number > points


class TwoAddresses:
    """One that refuses, and the server's."""

    def __init__(self, port: int) -> None:
        self.found = [(socket.AF_INET, ("127.0.0.1", each)) for each in (free_port(), port)]

    def resolve(self, host, port, deadline):
        return self.found


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
def test_interrupt_at_every_line_of_opening_a_connection(serve, make):
    server = serve()
    plugin = make("http://two.example/x", resolver=TwoAddresses(server.port), max_connections=1, keep_alive=False)
    number = 0
    before = descriptors()
    while True:
        made = Call(None, codec_for(), Deadline.after(2), "req-1")
        plugin.prepare(made)
        if not interrupted_at(number, lambda made=made: plugin.send(made), OPENING):
            break
        del made
        assert plugin._engine.pool.open == 0, number
        number += 1
    assert number > 60
    assert call(plugin) == "ok"
    until(lambda: descriptors() <= before + 1, what="no socket is left open")


@pytest.mark.stress
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
def test_thousands_of_interrupts_leak_neither_connections_nor_slots(serve, make):
    server = serve(chunked_and_closed_at_times)
    plugin = make(server.url, max_connections=2)
    assert call(plugin) == "ok"
    open_before = descriptors()
    dice, strikes, answers = random.Random(3), 0, 0
    gc.disable()  # an interrupt within a finaliser would be swallowed by Python

    def ask() -> None:
        nonlocal answers
        with contextlib.suppress(PluginError):
            call(plugin, idempotent=True)
            answers += 1

    try:
        end = time.monotonic() + 30
        with alarms_interrupt() as struck:
            while strikes < 2000 and time.monotonic() < end:
                strikes += struck(dice.uniform(0.00002, 0.0008), ask)
    finally:
        gc.enable()
    assert strikes > 500
    assert answers
    pool = plugin._engine.pool
    assert pool.open == pool.idle <= 2
    assert [call(plugin, idempotent=True) for _ in range(3)] == ["ok"] * 3
    plugin.close()
    assert pool.open == 0
    end = time.monotonic() + 5
    while descriptors() > open_before and time.monotonic() < end:
        time.sleep(0.01)  # the server's side of them, on its own threads
    assert descriptors() <= open_before
