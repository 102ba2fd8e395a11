"""Output of an idle process, and the state of its channel."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator

import pytest

from goplugins.errors import ConnectionLostError, Replay
from goplugins.runtime.clock import SYSTEM_CLOCK
from goplugins.runtime.deadline import Deadline
from goplugins.transports.exec.channel import ExecChannel, State


@pytest.fixture
def stdout() -> Iterator[tuple[ExecChannel, int]]:
    """A channel, and the end of stdout that its process would write to."""
    stdin_reader, stdin = os.pipe()
    reader, writer = os.pipe()
    for descriptor in (stdin, reader):
        os.set_blocking(descriptor, False)
    yield ExecChannel(stdin, reader, limit=100, start_timeout=1, clock=SYSTEM_CLOCK), writer
    for descriptor in (stdin_reader, stdin, reader, writer):
        os.close(descriptor)


def test_an_idle_channel_without_output_stays_open(stdout):
    channel, _ = stdout
    assert channel.close_if_readable() == 0
    assert channel.state is State.IDLE


def test_output_closes_an_idle_channel_and_later_requests_are_not_sent(stdout):
    channel, writer = stdout
    os.write(writer, b"noise")
    assert channel.close_if_readable() == select.POLLIN
    with pytest.raises(ConnectionLostError) as caught:
        channel.exchange(b"x\n", Deadline.after(1))
    assert caught.value.replay is Replay.ALWAYS


def test_output_of_a_busy_process_is_left_to_its_caller(stdout):
    channel, writer = stdout
    channel.state = State.BUSY
    os.write(writer, b"reply\n")
    assert channel.close_if_readable() == 0
    assert channel.state is State.BUSY
