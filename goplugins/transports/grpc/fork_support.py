"""Loads the grpc package, and coordinates its calls with forks.

A fork while another thread is inside a gRPC call leaves the child with a library that hangs, even within ``fork``
itself. So grpc's own fork support is switched on before grpc is loaded, a fork waits a moment for calls in flight, and
a child that was forked during a call refuses gRPC calls with a reason.
"""

from __future__ import annotations

import _thread
import contextlib
import functools
import importlib
import os
import threading
import weakref
from collections.abc import Iterator, Sized
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from goplugins.errors import GRPCTransportError, PluginTimeoutError, Replay
from goplugins.runtime.cancellation import Cancellation
from goplugins.runtime.clock import SYSTEM_CLOCK, Waiter
from goplugins.runtime.deadline import CancellableDeadline, Deadline
from goplugins.runtime.fork import register_forkable
from goplugins.runtime.slots import SlotSet

if TYPE_CHECKING:
    import grpc

FORK_TIMEOUT = 1.0
"""Seconds that a fork waits for gRPC calls in flight."""

_POLL_INTERVAL = 0.002
"""Seconds between checks during a fork. Polled, not notified: an interrupted thread can then delay no other thread."""


@functools.cache
def load() -> Any:
    """The grpc package, loaded when the first plugin is built, with its fork support switched on."""
    # grpc reads the variable at its first import. If the host has imported grpc before, it is too late.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "1")
    import grpc

    with contextlib.suppress(ImportError):  # which grpc itself imports with its first channel; not public
        importlib.import_module("grpc._channel")
    return grpc


class ForkGuard:
    """Counts this process's gRPC calls, and delays new ones during a fork.

    Attributes:
        lock: guards the state here and in every channel. One lock for all: it is held for a few instructions, and a
            call takes it twice.
        forking: the threads that are forking, each with whether it holds the fork lock. New calls wait meanwhile.
        epoch: the number of forks between the first process and this one.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self._registered = False
        self._refusal = ""
        self._inherited: list[Any] = []
        self._channels: dict[int, tuple[grpc.Channel, Sized]] = {}
        self._forgotten: SimpleQueue[grpc.Channel] = SimpleQueue()
        self._unregistered: set[grpc.Channel] = set()
        self._openings = SlotSet()
        self._closings = SlotSet()
        self._checks: dict[int, Cancellation] = {}
        self._reset()
        register_forkable(self)
        os.register_at_fork(before=self._before_early_fork, after_in_parent=self._after_in_parent)

    def _reset(self) -> None:
        self.lock = threading.Lock()
        self.forking: list[tuple[int, bool]] = []
        self._fork_lock = threading.RLock()

    # --- calls -------------------------------------------------------------------------------------------------

    @property
    def calls(self) -> int:
        """The number of calls under way."""
        return sum(len(active) for _, active in list(self._channels.values()))

    def check(self, deadline: Deadline) -> None:
        """Waits for the end of a fork, and refuses calls in a process that can't make them.

        Raises:
            GRPCTransportError: this process was forked during gRPC calls.
            PluginTimeoutError: the fork took longer than the call may.
        """
        if self._refusal:
            raise _not_sent(self._refusal)
        while self.forking:
            remaining = deadline.remaining()
            if remaining <= 0:
                raise PluginTimeoutError("the process was forking; nothing was sent", replay=Replay.ALWAYS)
            deadline.clock.wait(Waiter(), min(remaining, _POLL_INTERVAL))

    def begin_opening(self) -> object:
        """Announces a channel that is about to be created; keep the result referenced until :meth:`opened`."""
        opening = _ChangingChannel()
        self._openings.hold(opening)
        return opening

    def opened(self, channel: grpc.Channel, active: Sized, owner: object) -> None:
        """Records a channel and the collection of its active calls; the first one registers the fork hooks.

        Takes the lock.

        grpc keeps every channel that is not closed. A channel whose ``owner`` was garbage collected is closed on
        another thread: a finalizer, which may run at any point of any thread, must not wait.
        """
        self._close_forgotten()
        weakref.finalize(owner, self.close_elsewhere, channel, self.epoch).atexit = False
        with self.lock:
            self._channels[id(channel)] = (channel, active)
            register, self._registered = not self._registered, True
        if register:
            # Only now: hooks run in reverse order, this one before that which grpc registers with its first channel.
            os.register_at_fork(before=self._before_fork)

    def close_elsewhere(self, channel: grpc.Channel, epoch: int) -> None:
        """Closes a channel on another thread. Also a finalizer: takes no lock."""
        if epoch != self.epoch:
            self._inherited.append(channel)
            return
        self._forgotten.put(channel)
        with contextlib.suppress(RuntimeError):  # no thread can be started; the next opened() closes it
            _thread.start_new_thread(self._close_forgotten, ())

    def _close_forgotten(self) -> None:
        with contextlib.suppress(Empty):
            while True:
                self.close(self._forgotten.get_nowait())  # no effect if it was closed before

    def close(self, channel: grpc.Channel) -> None:
        """Closes a channel. Takes the lock."""
        with self.lock:
            self._channels.pop(id(channel), None)
            closing = _ChangingChannel()  # until this frame ends, in any way
            self._closings.hold(closing)
        channel.close()

    @contextlib.contextmanager
    def cancelled_by_forks(self, deadline: Deadline) -> Iterator[Deadline]:
        """The deadline of a health check: a fork does not wait for it, but cancels it. The next check repeats it."""
        cancellation = Cancellation()
        self._checks[id(cancellation)] = cancellation
        try:
            yield CancellableDeadline(deadline.at, deadline.clock, cancellation)
        finally:
            self._checks.pop(id(cancellation), None)

    # --- forks -------------------------------------------------------------------------------------------------

    def _before_fork(self) -> None:
        # One at a time: if two threads fork at once, grpc blocks the parent and both children without end. A fork that
        # waits for calls takes a second.
        turn = self._fork_lock.acquire(timeout=3 * FORK_TIMEOUT)
        # With a timeout: a signal handler may fork on the very thread that holds the lock.
        locked = self.lock.acquire(timeout=FORK_TIMEOUT)
        self.forking.append((threading.get_ident(), turn))
        if locked:
            self.lock.release()
        until = SYSTEM_CLOCK.monotonic() + FORK_TIMEOUT
        while self.calls or self._openings or self._closings:
            for check in list(self._checks.values()):
                check.cancel()
            if SYSTEM_CLOCK.monotonic() >= until:
                self._unregistered.update(channel for channel, _ in list(self._channels.values()))
                _change_registration(self._unregistered, "fork_unregister_channel")
                break
            SYSTEM_CLOCK.wait(Waiter(), _POLL_INTERVAL)

    def _before_early_fork(self) -> None:
        """Before a fork that began while another thread created the first channel, without the hook above."""
        if (self._openings or self._channels) and self._own_fork() is None:
            self._before_fork()

    def _own_fork(self) -> tuple[int, bool] | None:
        return next((fork for fork in reversed(self.forking) if fork[0] == threading.get_ident()), None)

    def _after_in_parent(self) -> None:
        own = self._own_fork()
        if own is None:
            return  # gRPC was not used before this fork
        self.forking.remove(own)
        if not self.forking:  # while another thread forks, its child needs them unregistered as well
            channels, self._unregistered = self._unregistered, set()
            _change_registration(channels, "fork_register_channel")
        if own[1]:
            self._fork_lock.release()

    def keep_inherited(self, part: object) -> None:
        """Keeps a part of the parent's referenced for good: closing or collecting it in a child could hang."""
        self._inherited.append(part)

    def after_fork_in_child(self) -> None:
        """Keeps all channels as inherited ones, and finds out whether this process can use gRPC."""
        calls = self.calls + len(self._openings) + len(self._closings)
        if self._registered and not self.forking:
            self._refusal = (
                "this process was forked without Python's fork hooks, after gRPC was used, so gRPC can't be used in "
                "it: start uWSGI with py-call-uwsgi-fork-hooks or lazy-apps, other servers so that they fork before "
                "the first call"
            )
        elif calls:
            self._refusal = (
                f"this process was forked while {calls} gRPC call(s) were under way that did not end within "
                f"{FORK_TIMEOUT:g} s, so gRPC can't be used in it: fork before calling, or start it with exec"
            )
        self._inherited.extend(channel for channel, _ in self._channels.values())
        self._channels = {}
        self._openings = SlotSet()
        self._closings = SlotSet()
        self._checks = {}
        self._inherited.append(self._forgotten)
        self._forgotten = SimpleQueue()
        self._unregistered = set()
        self.epoch += 1
        self._reset()


class _ChangingChannel:
    """A channel that is being opened or closed, during which grpc holds locks."""

    __slots__ = ("__weakref__",)


def _change_registration(channels: set[grpc.Channel], function: str) -> None:
    """Removes channels from, or adds them to, the list of those that grpc closes in a child, which could hang."""
    if channels:
        with contextlib.suppress(ImportError, AttributeError):  # not part of grpc's public API
            change = getattr(importlib.import_module("grpc._cython.cygrpc"), function)
            for channel in list(channels):
                change(channel)


def _not_sent(reason: str) -> GRPCTransportError:
    error = GRPCTransportError(reason, retryable=False, replay=Replay.NEVER)
    error.elsewhere = True
    return error


FORK_GUARD = ForkGuard()
