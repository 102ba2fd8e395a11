"""Signals and ends of servers, for which a serving process waits."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from goplugins.serve._server import StopSignals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_the_wait_is_not_lost(number: signal.Signals) -> None:
    with StopSignals() as signals:
        os.kill(os.getpid(), number)
        assert signals.wait() is False


def test_ends_and_signals_keep_their_order_and_other_signals_their_handlers() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: seen.append(number))
    try:
        with StopSignals() as signals:
            os.kill(os.getpid(), signal.SIGUSR1)
            thread = threading.Thread(target=signals.server_ended)
            thread.start()
            thread.join()
            os.kill(os.getpid(), signal.SIGTERM)
            assert [signals.wait(), signals.wait()] == [True, False]
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == [signal.SIGUSR1]


def test_handlers_are_restored_and_a_late_end_has_no_effect() -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with StopSignals() as signals:
        pass
    signals.server_ended()
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert signal.set_wakeup_fd(-1) == -1


def test_on_other_threads_only_ends_are_reported() -> None:
    found: list[bool] = []

    def work() -> None:
        with StopSignals() as signals:
            signals.server_ended()
            found.append(signals.wait())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10)
    assert found == [True]
