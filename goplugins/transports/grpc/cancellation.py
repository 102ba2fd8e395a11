"""Ends a gRPC call early: cancelled by another thread, or interrupted by a signal handler that raises.

Interrupts are Ctrl-C, a worker's time limit, and any other exception out of a signal handler. grpc's blocking calls do
not tolerate them: at some points an interrupt leaves the channel locked for all other threads, and at any point the
call keeps its connection for good. The workarounds here use parts of grpc that are not public; with a version of grpc
that lacks them nothing is done, and calls work as they do without.

One gap is left: a call interrupted in the few microseconds in which grpc creates it, before it is sent, can't be ended,
and its channel's connection stays open until the process ends.
"""

from __future__ import annotations

import contextlib
import gc
import operator
import threading
import traceback
from typing import Any

from goplugins.runtime.cancellation import AttemptCancelledError, Cancellation
from goplugins.runtime.clock import Waiter

_END_TIMEOUT = 1.0
"""Seconds that a thread waits for the end of its cancelled or interrupted call, which takes far less than 1 ms."""

_WAITING = "grpc._cython.cygrpc._next"
_CANCELLED = 1

StartedCalls = dict[int, list[Any]]
"""The calls that each thread has started; a thread puts an empty list before its call."""


# --- cancelled by another thread -----------------------------------------------------------------------------------


def call_unless_cancelled(
    cancellation: Cancellation, invoke: Any, request: bytes, timeout: float, metadata: Any
) -> tuple[bytes, Any]:
    """The reply and the finished call.

    The thread that cancels only wakes this one, which then ends the call: grpc's own cancel takes a lock of the whole
    channel, and an interrupt of the other thread, where signal handlers may run, could leave it held.

    Raises:
        grpc.RpcError: as a blocking call does.
        AttemptCancelledError: the call was cancelled.
    """
    done_or_cancelled, done = Waiter(), Waiter()

    def on_done(_: object) -> None:
        done.set()
        done_or_cancelled.set()

    rpc = invoke.future(request, timeout, metadata)
    rpc.add_done_callback(on_done)
    try:
        cancellation.guard(done_or_cancelled.set, done_or_cancelled.wait)
    except AttemptCancelledError:
        rpc.cancel()
        done.wait(_END_TIMEOUT)  # or a fork could take the call for one that has ended
        raise
    return rpc.result(), rpc


# --- interrupted by a signal handler -------------------------------------------------------------------------------


class _Condition(threading.Condition):
    """Entered and left in C, so that no signal handler runs between taking the lock and using it."""

    __enter__: Any = property(operator.attrgetter("_lock.__enter__"))
    __exit__: Any = property(operator.attrgetter("_lock.__exit__"))


def protect_locks(channel: Any) -> None:
    """Protects a new channel's own state, which an interrupt could leave locked or without one of its calls."""
    for state in gc.get_referents(getattr(channel, "_channel", None)):
        if type(state).__name__ == "_ChannelState":
            for part in gc.get_referents(state):
                if type(part) is threading.Condition:
                    part.__class__ = _Condition


class _RecordingChannel:
    """Stands for the channel within a method, and records each call that the method starts."""

    __slots__ = ("_channel", "_started")

    def __init__(self, channel: Any, started: StartedCalls) -> None:
        self._channel = channel
        self._started = started

    def segregated_call(self, *arguments: Any) -> Any:
        started = self._started.get(threading.get_ident(), [])
        # Started and recorded in one C call: an interrupt between the two would lose a call under way.
        started.extend(map(self._channel.segregated_call, *zip(arguments, strict=True)))
        return started[-1]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)


def record_calls(method: Any, started: StartedCalls) -> None:
    """Makes a method of a channel record the calls that it starts."""
    if hasattr(method, "_channel"):
        method._channel = _RecordingChannel(method._channel, started)


def end_interrupted(interrupt: BaseException, started: list[Any], active: object) -> None:
    """Ends the call that ``interrupt`` broke out of, so that it holds no connection and no lock.

    Args:
        interrupt: with its traceback.
        started: the calls recorded for this one.
        active: kept alive until the call has ended, so that a fork waits for it.
    """
    frames = [frame for frame, _ in traceback.walk_tb(interrupt.__traceback__)]
    blocking = next((frame for frame in frames if frame.f_code.co_name == "_blocking"), None)
    if started and blocking is not None:
        waiting = any(frame.f_code.co_name == _WAITING for frame in frames)
        # Interrupted while it waited, or before. Any other call has ended, and must not be touched again.
        if waiting or "call" not in blocking.f_locals:
            _end(started[-1], active)
    # A generator in one of grpc's frames may hold one of its locks.
    traceback.clear_frames(interrupt.__traceback__)


def _end(call: Any, active: object) -> None:
    # On a thread of its own: a second interrupt in there would crash the process.
    thread = threading.Thread(target=_drain, args=(call, active), name="goplugins-grpc-interrupted", daemon=True)
    with contextlib.suppress(RuntimeError):  # no thread can be started; the call keeps its connection
        thread.start()
        thread.join(_END_TIMEOUT)


def _drain(call: Any, active: object) -> None:
    """Takes the last event of a call: grpc cancels an interrupted call, but frees it only with that event."""
    with contextlib.suppress(KeyError):  # it was removed from the channel's list before
        call.cancel(_CANCELLED, "interrupted")
        call.next_event()
