"""The channel to one plugin: made when it is first needed, and made anew when it has turned out to be dead."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from goplugins.errors import PluginClosedError
from goplugins.runtime.deadline import Deadline
from goplugins.transports.grpc.fork_support import TRAFFIC, load
from goplugins.transports.grpc.interrupts import Starts, harden, watch

if TYPE_CHECKING:
    import grpc

__all__ = ["ActiveCall", "Channel", "Channels"]

_CONNECTING, _FAILED = 1, 3
"""Of ``grpc_connectivity_state``."""


class Channel:
    """One channel, which is one connection for many calls at a time.

    Attributes:
        passages: of the calls under way on it. Held weakly: whoever is interrupted at any moment and loses its passage
            has left by that, so no interrupt can keep a link open or a fork waiting.
        starts: what the threads' calls have started.
        answers: how many calls were answered; tells a connection that lives from one that only seems to.
        retired: whether it is closed once the last call has left.
    """

    __slots__ = ("__weakref__", "answers", "channel", "epoch", "methods", "passages", "retired", "starts")

    def __init__(self, channel: grpc.Channel, epoch: int) -> None:
        self.channel = channel
        self.epoch = epoch
        self.methods: dict[str, Callable[..., Any]] = {}
        self.passages: dict[int, weakref.ref[ActiveCall]] = {}
        self.starts: Starts = {}
        self.answers = 0
        self.retired = False

    def method(self, name: str) -> Any:
        """What calls a method, bytes to bytes: it costs more to make than to keep."""
        found = self.methods.get(name)
        if found is None:
            found = self.channel.unary_unary(name)
            watch(found, self.starts)
            self.methods[name] = found
        return found

    def admit(self) -> ActiveCall:
        """Counts a call in. Expects the lock."""
        passage = ActiveCall(self)
        passages, key = self.passages, id(passage)
        # Runs when the passage is lost, on any thread: a dict's pop is atomic and needs no lock.
        passages[key] = weakref.ref(passage, lambda _: passages.pop(key, None))
        return passage

    def is_connected(self) -> bool | None:
        """After a failed call: False if there is no connection, True if there is or was one; None if unknown."""
        try:
            # A look at a state, no more; the public way to it starts a thread for each channel.
            state = self.channel._channel.check_connectivity_state(False)  # type: ignore[attr-defined]
        except AttributeError:
            return None
        return state not in (_CONNECTING, _FAILED)


class ActiveCall:
    """One call's way over a link."""

    __slots__ = ("__weakref__", "link")

    def __init__(self, link: Channel) -> None:
        self.link = link


class Channels:
    """Hands out the plugin's link.

    Args:
        target: as grpc names it.
        credentials: makes the channel's credentials; None for plaintext.
        options: of the channel.
        shared: False gives every call a connection of its own.
    """

    def __init__(
        self,
        target: str,
        credentials: Callable[[], Any] | None,
        options: Sequence[tuple[str, Any]],
        *,
        shared: bool,
    ) -> None:
        self._target = target
        self._credentials = credentials
        self._options = tuple(options)
        self._shared = shared
        self._closed = False
        self._link: Channel | None = None

    def enter(self, deadline: Deadline) -> ActiveCall:
        """A passage over the link, with this call counted in. Takes the lock.

        Raises:
            PluginClosedError: after :meth:`close`.
            GRPCTransportError: gRPC can't be used in this process.
            PluginTimeoutError: a fork was under way until the deadline.
        """
        traffic = TRAFFIC
        with traffic.lock:
            link = self._link
            if link is not None and not traffic.forking:
                return link.admit()
        return self._connect(deadline)

    def _connect(self, deadline: Deadline) -> ActiveCall:
        while True:
            TRAFFIC.check(deadline)
            if self._closed:
                raise PluginClosedError("the plugin is closed")
            credentials = self._credentials
            made = self._open()
            with TRAFFIC.lock:
                if TRAFFIC.forking or credentials is not self._credentials:
                    link = None
                elif self._closed or (self._shared and self._link is not None):
                    link = self._link
                else:
                    link = made
                    if self._shared:
                        self._link = made
                    else:
                        made.retired = True
                passage = None if link is None else link.admit()
            if link is not made:
                self._close(made)
            if passage is not None:
                return passage

    def _open(self) -> Channel:
        grpc = load()
        if self._credentials is None:
            channel = grpc.insecure_channel(self._target, options=self._options)
        else:
            channel = grpc.secure_channel(self._target, self._credentials(), options=self._options)
        harden(channel)
        link = Channel(channel, TRAFFIC.epoch)
        TRAFFIC.opened(channel, link.passages, link)
        return link

    def leave(self, passage: ActiveCall) -> None:
        """Counts a call out, and closes a retired link with its last one. Takes the lock."""
        traffic, link = TRAFFIC, passage.link
        if link.epoch != traffic.epoch:
            return  # this is a child, forked by a signal handler within the call
        with traffic.lock:
            link.passages.pop(id(passage), None)
            over = link.retired and not link.passages
        if over:
            self._close(link)

    def retire(self, link: Channel) -> None:
        """Has later calls use a new link; those under way on this one go on. Takes the lock."""
        with TRAFFIC.lock:
            if self._link is link:
                self._link = None
            over = not link.retired and not link.passages
            link.retired = True
        if over:
            self._close(link)

    def renew(self, credentials: Callable[[], Any]) -> None:
        """Has later calls use a new link with other credentials; those under way go on. Takes the lock."""
        with TRAFFIC.lock:
            self._credentials = credentials
            link = self._link
        if link is not None:
            self.retire(link)

    def close(self) -> None:
        """Refuses new calls; the link is closed once the last call has left. Takes the lock."""
        with TRAFFIC.lock:
            self._closed = True
            link = self._link
        if link is not None:
            self.retire(link)

    def after_fork_in_child(self) -> None:
        """Leaves the parent's channel alone."""
        if self._link is not None:
            TRAFFIC.inherited(self._link)
        self._link = None

    @staticmethod
    def _close(link: Channel) -> None:
        TRAFFIC.close(link.channel)
