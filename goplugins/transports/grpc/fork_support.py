"""The one way to the grpc package, and what a fork needs to know of it.

Forking while another thread is inside a gRPC call leaves the child with a library that hangs, even within ``fork``
itself. So grpc is told to expect forks before it is loaded, a fork waits a moment for calls in flight, and a child
that was forked in the middle of one refuses gRPC calls with a reason.
"""

from __future__ import annotations

import _thread
import contextlib
import importlib
import os
import threading
import weakref
from collections.abc import Sized
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from goplugins.errors import GRPCTransportError, PluginTimeoutError, Replay
from goplugins.runtime.clock import SYSTEM_CLOCK, Waiter
from goplugins.runtime.deadline import Deadline
from goplugins.runtime.fork import register_forkable

if TYPE_CHECKING:
    import grpc

__all__ = ["TRAFFIC", "Traffic", "load"]

FORK_PATIENCE = 1.0
"""Seconds that a fork waits for gRPC calls in flight."""

_LOOK = 0.002
"""Seconds between looks, at a fork. Nobody has to wake anybody, so an interrupted thread can hold up no other one."""


def load() -> Any:
    """The grpc package, loaded at the first call, with its support for forks switched on."""
    # Read when grpc is first imported; an import by the host, before ours, has decided already.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "1")
    import grpc

    return grpc


class Traffic:
    """Counts this process's gRPC calls, and stops them for the moment of a fork.

    Attributes:
        lock: guards the state here and that of every link. One for all: it is held for a few instructions, and a
            call takes it twice.
        forking: the threads that fork, from before it until after it, and whether each has its turn; while there are
            any, new calls wait.
        epoch: how many forks lie between the first process and this one.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self._hooked = False
        self._damage = ""
        self._inherited: list[Any] = []
        self._channels: dict[int, tuple[grpc.Channel, Sized]] = {}
        self._forgotten: SimpleQueue[grpc.Channel] = SimpleQueue()
        self._detached: set[grpc.Channel] = set()
        self._closings: dict[int, weakref.ref[_Closing]] = {}
        self._reset()

    def _reset(self) -> None:
        self.lock = threading.Lock()
        self.forking: list[tuple[int, bool]] = []
        self._turn = threading.RLock()

    # --- calls -------------------------------------------------------------------------------------------------

    @property
    def calls(self) -> int:
        """Calls under way."""
        return sum(len(passages) for _, passages in list(self._channels.values()))

    def check(self, deadline: Deadline) -> None:
        """Waits for a fork that is under way, and refuses calls in a process that can't make them.

        Raises:
            GRPCTransportError: this process was forked in the middle of gRPC calls.
            PluginTimeoutError: the fork took longer than the call may.
        """
        if self._damage:
            raise GRPCTransportError(self._damage, retryable=False, replay=Replay.NEVER)
        while self.forking:
            remaining = deadline.remaining()
            if remaining <= 0:
                raise PluginTimeoutError("the process was forking; nothing was sent", replay=Replay.ALWAYS)
            deadline.clock.wait(Waiter(), min(remaining, _LOOK))

    def opened(self, channel: grpc.Channel, passages: Sized, owner: object) -> None:
        """Notes a channel, and where its calls are counted; with the first one, asks to be told of forks.

        Takes the lock.

        grpc keeps every channel that is not closed, so one whose ``owner`` was forgotten is closed by a thread of its
        own: a finaliser, which may run at any point of any thread, must wait for nothing.
        """
        self._close_forgotten()
        weakref.finalize(owner, self._forget, channel, self.epoch).atexit = False
        with self.lock:
            self._channels[id(channel)] = (channel, passages)
            hook, self._hooked = not self._hooked, True
        if hook:
            register_forkable(self)
            os.register_at_fork(before=self._before_fork, after_in_parent=self._after_in_parent)

    def _forget(self, channel: grpc.Channel, epoch: int) -> None:
        """The finaliser. Takes no lock."""
        if epoch != self.epoch:
            self._inherited.append(channel)
            return
        self._forgotten.put(channel)
        with contextlib.suppress(RuntimeError):  # no thread to be had; then the next one to open closes it
            _thread.start_new_thread(self._close_forgotten, ())

    def _close_forgotten(self) -> None:
        with contextlib.suppress(Empty):
            while True:
                self.close(self._forgotten.get_nowait())  # harmless where it was closed before

    def close(self, channel: grpc.Channel) -> None:
        """Closes a channel. Takes the lock."""
        with self.lock:
            self._channels.pop(id(channel), None)
            closing = _Closing()
            closings, key = self._closings, id(closing)
            # As with passages: lost with this frame, however that ends.
            closings[key] = weakref.ref(closing, lambda _: closings.pop(key, None))
        channel.close()

    # --- forks -------------------------------------------------------------------------------------------------

    def _before_fork(self) -> None:
        # One at a time: of two threads that fork at once, grpc lets neither the parent nor the children go on. A fork
        # that waits for calls takes a second.
        turn = self._turn.acquire(timeout=3 * FORK_PATIENCE)
        # Whoever forks may be a signal's handler, on the very thread that holds the lock.
        locked = self.lock.acquire(timeout=FORK_PATIENCE)
        self.forking.append((threading.get_ident(), turn))
        if locked:
            self.lock.release()
        patience = SYSTEM_CLOCK.monotonic() + FORK_PATIENCE
        while self.calls or self._closings:
            if SYSTEM_CLOCK.monotonic() >= patience:
                self._detached.update(channel for channel, _ in list(self._channels.values()))
                _keep_from_child(self._detached, "fork_unregister_channel")
                break
            SYSTEM_CLOCK.wait(Waiter(), _LOOK)

    def _after_in_parent(self) -> None:
        own = next((fork for fork in reversed(self.forking) if fork[0] == threading.get_ident()), None)
        if own is None:
            return  # this fork began before there was anything to tell of it
        self.forking.remove(own)
        if not self.forking:  # or another thread's child needs them off the list as well
            detached, self._detached = self._detached, set()
            _keep_from_child(detached, "fork_register_channel")
        if own[1]:
            self._turn.release()

    def inherited(self, link: object) -> None:
        """Keeps what belongs to the parent referenced for good: to close or collect it in a child could hang."""
        self._inherited.append(link)

    def after_fork_in_child(self) -> None:
        """Leaves all that there is to the parent, and finds out whether this process can use gRPC."""
        calls = self.calls + len(self._closings)
        if not self.forking:
            self._damage = (
                "this process was forked past Python's own fork, after gRPC was used, so gRPC can't be used in it: "
                "start uWSGI with py-call-uwsgi-fork-hooks or lazy-apps, others so that they fork before calling"
            )
        elif calls:
            self._damage = (
                f"this process was forked while {calls} gRPC call(s) were under way that did not end within "
                f"{FORK_PATIENCE:g} s, so gRPC can't be used in it: fork before calling, or start it with exec"
            )
        self._inherited.extend(channel for channel, _ in self._channels.values())
        self._channels = {}
        self._closings = {}
        self._inherited.append(self._forgotten)
        self._forgotten = SimpleQueue()
        self._detached = set()
        self.epoch += 1
        self._reset()


class _Closing:
    """A channel's being closed, in which grpc holds locks."""

    __slots__ = ("__weakref__",)


def _keep_from_child(channels: set[grpc.Channel], function: str) -> None:
    """Takes channels off, or back on, grpc's own list of what to close in a child, where closing them would hang."""
    if channels:
        with contextlib.suppress(ImportError, AttributeError):  # no part of grpc's public face
            change = getattr(importlib.import_module("grpc._cython.cygrpc"), function)
            for channel in list(channels):
                change(channel)


TRAFFIC = Traffic()
