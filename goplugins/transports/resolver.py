"""Name resolution within a deadline: a lookup can't be interrupted, so it runs on another thread."""

from __future__ import annotations

import encodings.idna  # noqa: F401 - getaddrinfo() imports it at its first use
import ipaddress
import socket
import threading
from collections.abc import Callable
from typing import Any, Protocol

from goplugins.errors import NameResolutionError, PluginTimeoutError, Replay, missing_resource
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock, Event
from goplugins.runtime.deadline import Deadline
from goplugins.runtime.descriptors import require_descriptors
from goplugins.runtime.fork import register_forkable
from goplugins.runtime.workers import WorkerPool

Address = tuple[socket.AddressFamily, Any]
"""A family and its argument for ``socket.connect``."""

_NEEDED = 16
"""Free descriptors below which a failed lookup is not the name's: other threads may have used them meanwhile."""

Job = Callable[[], None]

_MAX_QUEUED = 1024
"""Lookups that may wait for a thread."""


class Resolver(Protocol):
    """Finds the addresses of a host; several plugins may share one."""

    def resolve(self, host: str, port: int, deadline: Deadline) -> list[Address]:
        """At least one address, in the order of preference.

        Raises:
            NameResolutionError: the name has no address.
            PluginTimeoutError: no answer before the deadline; nothing was sent.
        """
        ...


def literal_address(host: str, port: int) -> Address | None:
    """The address if ``host`` is one, None for a name.

    >>> literal_address("127.0.0.1", 80)
    (<AddressFamily.AF_INET: 2>, ('127.0.0.1', 80))
    >>> literal_address("localhost", 80) is None
    True
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if address.version == 4:
        return socket.AF_INET, (host, port)
    if "%" in host:  # a zone must be resolved to its number, which needs no network
        return socket.AF_INET6, socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)[0][
            4
        ]
    return socket.AF_INET6, (host, port, 0, 0)


class FixedResolver:
    """Resolves every name to one address: that of one instance behind a name.

    Args:
        address: to connect to, whichever host the endpoint, its certificate and its requests name.
    """

    def __init__(self, address: Address) -> None:
        self._found = [address]

    def resolve(self, host: str, port: int, deadline: Deadline) -> list[Address]:
        """The address."""
        return self._found


class _Lookup:
    """One running lookup; all callers that resolve the same name wait for it."""

    __slots__ = ("addresses", "done", "error")

    def __init__(self) -> None:
        self.done = Event()
        self.addresses: list[Address] = []
        self.error: Exception | None = None


def _lack_of_descriptors() -> OSError | None:
    """Why a lookup may have had no descriptor, which the system reports as a name without an address; else None."""
    try:
        require_descriptors(_NEEDED)
    except OSError as exc:
        return exc if missing_resource(exc) else None
    return None


class ThreadedResolver:
    """Resolves names on helper threads and waits for them within the caller's deadline.

    Args:
        submit: runs a function on another thread, such as ``WorkerPool.submit``; by default that of a pool of its own.
        max_threads: of its own pool; further lookups wait in a queue.
        clock: waits.
    """

    def __init__(
        self, submit: Callable[[Job], object] | None = None, *, max_threads: int = 4, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._submit = submit or WorkerPool("goplugins-resolve", max_threads, _MAX_QUEUED, inline=False).submit
        self._clock = clock
        self._reset()
        register_forkable(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._lookups: dict[tuple[str, int], _Lookup] = {}

    def after_fork_in_child(self) -> None:
        """Forgets lookups, which run in the parent only."""
        self._reset()

    def resolve(self, host: str, port: int, deadline: Deadline) -> list[Address]:
        key = (host, port)
        with self._lock:
            lookup = self._lookups.get(key)
            leader = lookup is None
            if lookup is None:
                lookup = self._lookups[key] = _Lookup()
        if leader:
            self._launch(key, lookup)
        if not self._clock.wait(lookup.done, max(deadline.remaining(), 0.0)):
            raise PluginTimeoutError(f"the name {host!r} was not resolved before the deadline", replay=Replay.ALWAYS)
        if lookup.error is not None:
            # Each caller raises an error of its own: one object in several threads would mix their tracebacks.
            cause = lookup.error
            reason = cause.strerror if isinstance(cause, OSError) else str(cause)
            raise NameResolutionError(f"the name {host!r} can't be resolved: {reason}") from cause
        return lookup.addresses

    def _launch(self, key: tuple[str, int], lookup: _Lookup) -> None:
        def job() -> None:
            try:
                found = socket.getaddrinfo(key[0], key[1], type=socket.SOCK_STREAM)
                lookup.addresses = [(family, address) for family, _, _, _, address in found]
            except (OSError, ValueError) as exc:  # ValueError: a label that is empty or too long
                lookup.error = _lack_of_descriptors() or exc
            finally:
                if not lookup.addresses and lookup.error is None:
                    lookup.error = OSError(0, "no address found")
                self._forget(key, lookup)
                lookup.done.set()

        try:
            self._submit(job)
        except BaseException:
            lookup.error = OSError(0, "no helper thread was free")
            self._forget(key, lookup)
            lookup.done.set()
            raise

    def _forget(self, key: tuple[str, int], lookup: _Lookup) -> None:
        with self._lock:
            if self._lookups.get(key) is lookup:
                del self._lookups[key]
