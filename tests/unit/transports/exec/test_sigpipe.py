"""Writes to a pipe without a reader, where SIGPIPE has its default action."""

from __future__ import annotations

import os
import signal

import pytest

from goplugins.transports.exec import sigpipe


@pytest.mark.parametrize("blocked", [False, True])
def test_a_write_restores_the_signal_mask_and_leaves_no_signal_pending(blocked):
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
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # discards a pending one
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPIPE})
        signal.signal(signal.SIGPIPE, before)
        os.close(writer)
