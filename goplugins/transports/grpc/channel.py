"""The channel to one plugin: opened at the first call, and replaced when its connection turns out to be dead."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from goplugins.errors import PluginClosedError
from goplugins.runtime.clock import Clock
from goplugins.runtime.deadline import Deadline
from goplugins.runtime.descriptors import require_descriptors
from goplugins.runtime.slots import SlotSet
from goplugins.transports.grpc.fork_support import FORK_GUARD, load
from goplugins.transports.grpc.unary import UNREAD, FutureCalls, SplitCalls

if TYPE_CHECKING:
    import grpc

_CONNECTING, _READY, _TRANSIENT_FAILURE = 1, 2, 3
"""Of ``grpc_connectivity_state``."""


_NEEDED = 8
"""Descriptors that opening a channel and its connection takes at most. Without them gRPC's C code ends the process."""


@attrs.define(eq=False)
class Channel:
    """One gRPC channel: one connection for many calls at a time.

    Attributes:
        raw: the channel of the grpc package.
        epoch: see :class:`ForkGuard`.
        invoke: makes a call.
        active: the calls under way, by the id of their :class:`ActiveCall`. Held weakly: a call that is interrupted at
            any point loses its object, and is counted out by that, so no interrupt keeps a channel open or a fork
            waiting.
        replies: how many calls got a reply; shows whether the connection is alive.
        closing: whether it is closed after its last call.
        expires: when the next call gets a new one.
    """

    raw: grpc.Channel
    epoch: int
    expires: float
    invoke: SplitCalls | FutureCalls
    active: SlotSet = attrs.field(factory=SlotSet)
    replies: int = 0
    closing: bool = False

    def begin_call(self) -> ActiveCall:
        """Counts a call in. Expects the lock."""
        call = ActiveCall(self)
        self.active.hold(call)
        return call

    def is_connected(self) -> bool | None:
        """After a failed call: False if there is no connection, True if there is or was one; None if unknown."""
        state = self._state()
        return None if state is None else state not in (_CONNECTING, _TRANSIENT_FAILURE)

    def check_connectable(self) -> None:
        """Passes if the channel has a connection, or the descriptors to open one.

        Raises:
            OSError: this process has no more descriptors.
        """
        if self._state() != _READY:
            require_descriptors(_NEEDED)

    def _state(self) -> int | None:
        try:
            # Only reads a state; the public way to it starts a thread for each channel.
            return self.raw._channel.check_connectivity_state(False)  # type: ignore[attr-defined,no-any-return]
        except AttributeError:
            return None


class ActiveCall:
    """A call under way on a channel."""

    __slots__ = ("__weakref__", "channel")

    def __init__(self, channel: Channel) -> None:
        self.channel = channel


class Channels:
    """Opens, replaces and closes the channel of one plugin.

    Args:
        target: as grpc names it.
        credentials: makes the channel's credentials; None for plaintext.
        options: of the channel.
        shared: False gives every call a connection of its own.
        max_lifetime: seconds for which a channel gets calls; None for no limit.
        clock: measures.
    """

    def __init__(
        self,
        target: str,
        credentials: Callable[[], Any] | None,
        options: Sequence[tuple[str, Any]],
        *,
        shared: bool,
        max_lifetime: float | None,
        clock: Clock,
    ) -> None:
        self._target = target
        self._credentials = credentials
        self._options = tuple(options)
        self._shared = shared
        self._max_lifetime = math.inf if max_lifetime is None else max_lifetime
        self._now = clock.monotonic
        self._closed = False
        self._current: Channel | None = None

    def begin_call(self, deadline: Deadline) -> ActiveCall:
        """Counts a call in on the current channel, or on a new one. Takes the lock.

        Raises:
            PluginClosedError: after :meth:`close`.
            GRPCTransportError: gRPC can't be used in this process.
            PluginTimeoutError: a fork was under way until the deadline.
        """
        guard = FORK_GUARD
        with guard.lock:
            channel = self._current
            expired = channel is not None and self._now() >= channel.expires
            if channel is not None and not expired and not guard.forking:
                return channel.begin_call()
        if channel is not None and expired:
            self.replace(channel)
        return self._begin_on_new(deadline)

    def _begin_on_new(self, deadline: Deadline) -> ActiveCall:
        while True:
            FORK_GUARD.check(deadline)
            if self._closed:
                raise PluginClosedError("the plugin is closed")
            credentials = self._credentials
            opened = self._open()
            with FORK_GUARD.lock:
                if FORK_GUARD.forking or credentials is not self._credentials:
                    channel = None
                elif self._closed or (self._shared and self._current is not None):
                    channel = self._current
                else:
                    channel = opened
                    if self._shared:
                        self._current = opened
                    else:
                        opened.closing = True
                call = None if channel is None else channel.begin_call()
            if channel is not opened:
                self._close(opened)
            if call is not None:
                return call

    def _open(self) -> Channel:
        require_descriptors(_NEEDED)
        grpc = load()
        opening = FORK_GUARD.begin_opening()
        if self._credentials is None:
            raw = grpc.insecure_channel(self._target, options=self._options)
        else:
            raw = grpc.secure_channel(self._target, self._credentials(), options=self._options)
        UNREAD.sweep()
        invoke: SplitCalls | FutureCalls
        try:
            invoke = SplitCalls(raw)
        except AttributeError:
            invoke = FutureCalls(raw)
        channel = Channel(raw, FORK_GUARD.epoch, self._now() + self._max_lifetime, invoke)
        FORK_GUARD.opened(raw, channel.active, channel)
        del opening
        return channel

    def end_call(self, call: ActiveCall) -> None:
        """Counts a call out, and closes its channel after the last call if it was replaced. Takes the lock."""
        guard, channel = FORK_GUARD, call.channel
        if channel.epoch != guard.epoch:
            return  # in a child that a signal handler forked within the call
        with guard.lock:
            channel.active.release(call)
            unused = channel.closing and not channel.active
        if unused:
            self._close(channel)

    def replace(self, channel: Channel) -> None:
        """Later calls use a new channel; calls under way on this one continue. Takes the lock."""
        with FORK_GUARD.lock:
            if self._current is channel:
                self._current = None
            unused = not channel.closing and not channel.active
            channel.closing = True
        if unused:
            self._close(channel)

    def use_credentials(self, credentials: Callable[[], Any]) -> None:
        """Later calls use a new channel with other credentials; calls under way continue. Takes the lock."""
        with FORK_GUARD.lock:
            self._credentials = credentials
            channel = self._current
        if channel is not None:
            self.replace(channel)

    def close(self) -> None:
        """Refuses new calls; the channel is closed after its last call. Takes the lock."""
        with FORK_GUARD.lock:
            self._closed = True
            channel = self._current
        if channel is not None:
            self.replace(channel)

    def after_fork_in_child(self) -> None:
        """Forgets the parent's channel without closing it."""
        if self._current is not None:
            FORK_GUARD.keep_inherited(self._current)
        self._current = None

    @staticmethod
    def _close(channel: Channel) -> None:
        if isinstance(channel.invoke, FutureCalls):  # grpc would wait for requests that are not read
            FORK_GUARD.close_elsewhere(channel.raw, channel.epoch)
        else:
            FORK_GUARD.close(channel.raw)
