"""What an interrupt would leave behind in grpc: Ctrl-C, a worker's time limit, all whose signal handler raises.

grpc's blocking calls are not made for that. Struck in the wrong place they leave a channel locked for all other
threads, and wherever they are struck they keep their connection for good. What is done about it here uses parts of
grpc that are not public; where a version of grpc lacks them, nothing is done, and calls work as they do without.

One gap is left: struck in the few microseconds in which grpc makes a call, before it is sent, the call is lost to
everybody, and its channel's connection stays until the process ends.
"""

from __future__ import annotations

import contextlib
import gc
import operator
import threading
import traceback
from typing import Any

__all__ = ["Starts", "end_call", "harden", "watch"]

_PATIENCE = 1.0
"""Seconds that an interrupted thread waits for the end of its call, which takes far less than a millisecond."""

_WAITING = "grpc._cython.cygrpc._next"
_CANCELLED = 1

Starts = dict[int, list[Any]]
"""The calls that each thread has started. A thread puts an empty list before its call."""


class _Condition(threading.Condition):
    """One that is entered and left without a line of Python, so that no signal handler runs between lock and use."""

    __enter__: Any = property(operator.attrgetter("_lock.__enter__"))
    __exit__: Any = property(operator.attrgetter("_lock.__exit__"))


def harden(channel: Any) -> None:
    """Keeps interrupts out of a new channel's own bookkeeping, where they would lock it or lose a call."""
    for state in gc.get_referents(getattr(channel, "_channel", None)):
        if type(state).__name__ == "_ChannelState":
            for part in gc.get_referents(state):
                if type(part) is threading.Condition:
                    part.__class__ = _Condition


class _Starter:
    """What a method keeps for its channel: notes each call that it starts."""

    __slots__ = ("_channel", "_starts")

    def __init__(self, channel: Any, starts: Starts) -> None:
        self._channel = channel
        self._starts = starts

    def segregated_call(self, *arguments: Any) -> Any:
        started = self._starts.get(threading.get_ident(), [])
        # Started and noted in one step, or an interrupt between the two would lose a call that is under way.
        started.extend(map(self._channel.segregated_call, *zip(arguments, strict=True)))
        return started[-1]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)


def watch(method: Any, starts: Starts) -> None:
    """Has a method of a channel note the calls that it starts."""
    if hasattr(method, "_channel"):
        method._channel = _Starter(method._channel, starts)


def end_call(interrupt: BaseException, started: list[Any], keep: object) -> None:
    """Ends the call that ``interrupt`` broke out of, so that it holds no connection and no lock.

    Args:
        interrupt: with the traceback that it came through.
        started: the calls that were noted for it.
        keep: kept until the call has ended.
    """
    frames = [frame for frame, _ in traceback.walk_tb(interrupt.__traceback__)]
    blocking = next((frame for frame in frames if frame.f_code.co_name == "_blocking"), None)
    if started and blocking is not None:
        waiting = any(frame.f_code.co_name == _WAITING for frame in frames)
        # Struck while it waited, or before it could. Any other call has ended, and must not be touched again.
        if waiting or "call" not in blocking.f_locals:
            _end(started[-1], keep)
    # A generator in one of grpc's frames may hold a lock of its.
    traceback.clear_frames(interrupt.__traceback__)


def _end(call: Any, keep: object) -> None:
    # On a thread of its own: a second interrupt in there would crash the process.
    thread = threading.Thread(target=_drain, args=(call, keep), name="goplugins-grpc-interrupted", daemon=True)
    with contextlib.suppress(RuntimeError):  # no thread to be had; then the call keeps its connection
        thread.start()
        thread.join(_PATIENCE)


def _drain(call: Any, keep: object) -> None:
    """Takes the last event of a call: grpc cancels one that is interrupted, but frees it only with that."""
    with contextlib.suppress(KeyError):  # it had been taken off the channel's list already
        call.cancel(_CANCELLED, "interrupted")
        call.next_event()
