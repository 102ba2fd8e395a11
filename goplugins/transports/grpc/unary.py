"""One unary call over a channel of grpc, which ends at its deadline whatever the peer does.

A call of grpc's own ends when all of its parts have ended. A request that the peer does not read stays a part of it for
as long as the connection lives, which may be without end. Here sending and receiving are two batches: the status is
received at the deadline, and what remains of sending is freed once it has ended, without a thread that waits for it.

The calls use parts of grpc that are not public; with a version of grpc that lacks them, :class:`FutureCalls` are used.

Interrupts are Ctrl-C, a worker's time limit, and any other exception out of a signal handler. grpc does not tolerate
them: at some points an interrupt leaves the channel locked for all other threads, and at any point the call keeps its
connection for good. One gap is left: a call interrupted in the few microseconds in which grpc creates it, before it is
sent, can't be ended, and its channel's connection stays open until the process ends.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import operator
import threading
import traceback
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from goplugins.runtime.cancellation import AttemptCancelledError, Cancellation
from goplugins.runtime.clock import SYSTEM_CLOCK, Waiter, wall_time
from goplugins.runtime.fork import register_forkable
from goplugins.transports.grpc.fork_support import load

if TYPE_CHECKING:
    import grpc

_END_TIMEOUT = 1.0
"""Seconds that a thread waits for the end of its interrupted call, which takes far less than 1 ms."""

_FORGOTTEN_AFTER = 600.0
"""Seconds after which an unread request is forgotten: an interrupt may have lost its last event."""

_CHECKS, _CHECK_INTERVAL = 5, 0.001
"""How often, and after how many seconds each, a sent request is checked that ended after its reply."""

_LATE = 0.02
"""Seconds after the deadline at which :class:`FutureCalls` give a call up."""

_WAITING = "grpc._cython.cygrpc._next"
_CANCELLED = 1
_INHERIT_NOTHING = 0xFFFF
"""GRPC_PROPAGATE_DEFAULTS. It has an effect only for a call within another call."""

_next_event = operator.methodcaller("next_event")

Started = list[Any]
"""A started call of grpc, and its events so far."""


class Outcome(NamedTuple):
    """The end of a call.

    Attributes:
        status: name of the status, such as "OK".
        text: of the status.
        reply: the message; None if there was none.
        trailing: the trailing metadata.
        unread: whether a part of the request is still to be sent.
    """

    status: str
    text: str
    reply: bytes | None
    trailing: Sequence[tuple[str, str | bytes]]
    unread: bool


@functools.cache
def _names() -> Mapping[int, str]:
    return {code.value[0]: code.name for code in load().StatusCode}


# --- calls in two batches ------------------------------------------------------------------------------------------


class SplitCalls:
    """Makes the calls of one channel.

    Raises:
        AttributeError: this version of grpc lacks a part that is used.
    """

    def __init__(self, raw: grpc.Channel) -> None:
        cygrpc = load()._cython.cygrpc
        self._start = raw._channel.segregated_call  # type: ignore[attr-defined]
        self._send_metadata = cygrpc.SendInitialMetadataOperation
        self._send_message = cygrpc.SendMessageOperation
        self._end_of_request = cygrpc.SendCloseFromClientOperation(0)
        self._receive_metadata = cygrpc.ReceiveInitialMetadataOperation
        self._receive_message = cygrpc.ReceiveMessageOperation
        self._receive_status = cygrpc.ReceiveStatusOnClientOperation
        self._names = _names()
        _protect_locks(raw)

    def __call__(
        self,
        started: Started,
        method: str,
        request: bytes,
        timeout: float,
        metadata: Any,
        cancellation: Cancellation | None,
    ) -> Outcome:
        """Makes one call, which is recorded in ``started``: see :func:`end`.

        Raises:
            AttemptCancelledError: the call was cancelled.
        """
        message, status = self._receive_message(0), self._receive_status(0)
        sending = (self._send_metadata(metadata, 0), self._send_message(request, 0), self._end_of_request)
        parts = ((sending, "sent"), ((self._receive_metadata(0), message, status), "received"))
        until = wall_time() + timeout
        arguments = (_INHERIT_NOTHING, method.encode(), None, until, metadata, None, parts, None, None)
        # Started and recorded in one C call: an interrupt between the two would lose a call under way.
        started.extend(map(self._start, *zip(arguments, strict=True)))
        if cancellation is None:
            _receive(started)
        else:
            cancel = functools.partial(started[0].cancel, _CANCELLED, "cancelled")
            cancellation.guard(cancel, functools.partial(_receive, started))
        unread = len(started) < 3 and not _ends_soon(started)
        if unread:
            UNREAD.add(started)
        code = status.code()
        return Outcome(
            self._names.get(code, "UNKNOWN"), status.details(), message.message(), status.trailing_metadata(), unread
        )


def _receive(started: Started) -> None:
    """Waits for the status."""
    call = started[:1]
    while True:
        started.extend(map(_next_event, call))
        if started[-1].tag == "received":
            return


def _has_ended(started: Started) -> bool:
    """Whether both batches have ended; never waits."""
    call = started[0]
    if not call.operate((), None):
        return True
    # An empty batch ends at once, and events come in their order: those before it are there already.
    while (event := call.next_event()).tag is not None:
        started.append(event)
    return len(started) == 3


def _ends_soon(started: Started) -> bool:
    """As :func:`_has_ended`; waits a few milliseconds for a request that was just sent or just given up."""
    for _ in range(_CHECKS):
        if _has_ended(started):
            return True
        SYSTEM_CLOCK.wait(Waiter(), _CHECK_INTERVAL)
    return False


class _UnreadRequests:
    """Calls that have ended for their callers, of which grpc has not sent the whole request."""

    def __init__(self) -> None:
        self._calls: deque[tuple[float, Started]] = deque()
        self._inherited: list[object] = []
        register_forkable(self)

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, started: Started) -> None:
        """Frees what has ended, and records one more call."""
        self.sweep()
        self._calls.append((SYSTEM_CLOCK.monotonic() + _FORGOTTEN_AFTER, started))

    def keeps(self, started: Started) -> bool:
        """Whether this call is recorded."""
        return any(each is started for _, each in list(self._calls))

    def sweep(self) -> None:
        """Frees the calls that have ended meanwhile; never waits."""
        for _ in range(len(self._calls)):
            with contextlib.suppress(IndexError):  # another thread sweeps as well
                until, started = self._calls.popleft()
                if not _has_ended(started) and SYSTEM_CLOCK.monotonic() < until:
                    self._calls.append((until, started))

    def after_fork_in_child(self) -> None:
        """Keeps the parent's calls untouched for good."""
        self._inherited.append(self._calls)
        self._calls = deque()


UNREAD = _UnreadRequests()


# --- interrupted by a signal handler -------------------------------------------------------------------------------


class _Condition(threading.Condition):
    """Entered and left in C, so that no signal handler runs between taking the lock and using it."""

    __enter__: Any = property(operator.attrgetter("_lock.__enter__"))
    __exit__: Any = property(operator.attrgetter("_lock.__exit__"))


def _protect_locks(raw: Any) -> None:
    """Protects a new channel's own state, which an interrupt could leave locked or without one of its calls."""
    for state in gc.get_referents(raw._channel):
        if type(state).__name__ == "_ChannelState":
            for part in gc.get_referents(state):
                if type(part) is threading.Condition:
                    part.__class__ = _Condition


def end(interrupt: BaseException, started: Started, active: object) -> None:
    """Ends the call that ``interrupt`` broke out of, or that was cancelled, so that it holds no connection and no lock.

    Args:
        interrupt: with its traceback.
        started: the recorded call.
        active: kept alive until the call has ended, so that a fork waits for it.
    """
    if isinstance(interrupt, AttemptCancelledError):
        if started:
            _end(started, False, active)
        return
    if started:
        waited = any(frame.f_code.co_name == _WAITING for frame, _ in traceback.walk_tb(interrupt.__traceback__))
        # On a thread of its own: a second interrupt in there would crash the process.
        thread = threading.Thread(target=_end, args=(started, waited, active), name="goplugins-grpc-end", daemon=True)
        with contextlib.suppress(RuntimeError):  # no thread can be started; the call keeps its connection
            thread.start()
            thread.join(_END_TIMEOUT)
    # A generator in one of grpc's frames may hold one of its locks.
    traceback.clear_frames(interrupt.__traceback__)


def _end(started: Started, waited: bool, active: object) -> None:
    call = started[0]
    if not waited:
        call.cancel(_CANCELLED, "interrupted")
        if not _ends_soon(started):
            UNREAD.add(started)
        return
    # grpc has cancelled a call whose wait is interrupted, but frees it only with its last event.
    for _ in range(3 - len(started)):
        with contextlib.suppress(KeyError):  # it was removed from the channel's list before
            call.next_event()


# --- with public parts of grpc only --------------------------------------------------------------------------------


class FutureCalls:
    """As :class:`SplitCalls`, in twice the time: another thread waits for the events of the channel."""

    def __init__(self, raw: grpc.Channel) -> None:
        self._raw = raw
        self._methods: dict[str, Any] = {}

    def __call__(
        self,
        started: Started,
        method: str,
        request: bytes,
        timeout: float,
        metadata: Any,
        cancellation: Cancellation | None,
    ) -> Outcome:
        """Makes one call.

        Raises:
            AttemptCancelledError: the call was cancelled.
        """
        invoke: Any = self._methods.get(method)
        if invoke is None:
            invoke = self._methods[method] = self._raw.unary_unary(method).future
        rpc: Any = invoke(request, timeout, metadata)
        ended = Waiter()
        rpc.add_done_callback(lambda _: ended.set())
        wait = functools.partial(ended.wait, timeout + _LATE)
        try:
            if cancellation is None:
                wait()
            else:
                cancellation.guard(ended.set, wait)
        except BaseException:
            rpc.cancel()
            raise
        if not rpc.done():
            rpc.cancel()
            return Outcome("DEADLINE_EXCEEDED", "Deadline Exceeded", None, (), True)
        reply = rpc.result() if rpc.code() is load().StatusCode.OK else None
        return Outcome(rpc.code().name, rpc.details() or "", reply, rpc.trailing_metadata() or (), False)
