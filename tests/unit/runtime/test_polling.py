"""``select.poll``, and its replacement where there is none."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator

import pytest

from goplugins.runtime.polling import Poll, create_poll
from tests.timing import time_limit


@pytest.fixture(params=["poll", "select"])
def poll(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Poll:
    if request.param == "select":
        monkeypatch.delattr(select, "poll")  # as eventlet does
    return create_poll()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_nothing_is_ready(poll: Poll, pair: tuple[socket.socket, socket.socket]) -> None:
    poll.register(pair[0], select.POLLIN)
    for stopwatch in time_limit(0.5):
        with stopwatch:
            assert poll.poll(0) == []
            assert poll.poll(20) == []


def test_bytes_and_the_end_are_readable(poll: Poll, pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    poll.register(ours, select.POLLIN)
    theirs.send(b"x")
    assert poll.poll(1000) == [(ours.fileno(), select.POLLIN)]
    ours.recv(1)
    theirs.close()
    ((descriptor, found),) = poll.poll(-1)
    assert descriptor == ours.fileno()
    assert found & select.POLLIN


def test_a_descriptor_that_is_readable_and_writable(poll: Poll, pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.send(b"x")
    poll.register(ours.fileno(), select.POLLIN | select.POLLOUT)
    assert poll.poll(None) == [(ours.fileno(), select.POLLIN | select.POLLOUT)]
    poll.register(ours, select.POLLOUT)
    assert poll.poll(None) == [(ours.fileno(), select.POLLOUT)]
    poll.unregister(ours)
    assert poll.poll(0) == []
