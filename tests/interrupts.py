"""Interrupts (Ctrl-C, a worker's time limit) at every point where one can come, one after another."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["Interrupt", "interrupted_at"]


class Interrupt(BaseException):
    """What breaks in."""


def interrupted_at(number: int, work: Callable[[], object], within: tuple[str, ...] = ("",)) -> bool:
    """Runs ``work`` on this thread with an interrupt at its ``number``-th chance; False if it has fewer.

    Only code in files whose names end with one of ``within`` is interrupted: the test's own need not stand it.
    CPython looks for signals when it enters a Python function and when a C function has returned.
    """
    left = number

    def profile(frame: Any, event: str, argument: Any) -> None:
        nonlocal left
        if event in {"call", "c_return"} and frame.f_code.co_filename.endswith(within):
            left -= 1
            if left < 0:
                sys.setprofile(None)
                raise Interrupt

    before = sys.getprofile()
    gc.disable()  # or it may hit in a finaliser, where Python swallows it
    sys.setprofile(profile)
    try:
        work()
    except Interrupt:
        return True
    finally:
        sys.setprofile(before)
        gc.enable()
    return left < 0
