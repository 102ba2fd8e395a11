"""What a serving process waits for."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from goplugins.serve._signals import Bids


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_comes_before_anybody_waits_is_not_lost(number: signal.Signals) -> None:
    with Bids() as bids:
        os.kill(os.getpid(), number)
        assert bids.wait() is False


def test_ends_and_signals_come_in_their_order_and_others_signals_are_theirs() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: seen.append(number))
    try:
        with Bids() as bids:
            os.kill(os.getpid(), signal.SIGUSR1)
            thread = threading.Thread(target=bids.ended)
            thread.start()
            thread.join()
            os.kill(os.getpid(), signal.SIGTERM)
            assert [bids.wait(), bids.wait()] == [True, False]
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == [signal.SIGUSR1]


def test_handlers_are_given_back_and_who_comes_late_harms_nobody() -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with Bids() as bids:
        pass
    bids.ended()
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert signal.set_wakeup_fd(-1) == -1


def test_off_the_main_thread_only_ends_are_told_of() -> None:
    told: list[bool] = []

    def work() -> None:
        with Bids() as bids:
            bids.ended()
            told.append(bids.wait())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10)
    assert told == [True]
