"""Name resolution within a deadline: a lookup can't be interrupted, so it runs on another thread."""

from __future__ import annotations

import contextvars
import encodings.idna  # noqa: F401 - getaddrinfo() imports it at its first use
import ipaddress
import socket
from typing import Any, Protocol

from goplugins.errors import LocalResourceError, NameResolutionError, PluginTimeoutError, Replay, missing_resource
from goplugins.runtime.clock import Event
from goplugins.runtime.deadline import Deadline
from goplugins.runtime.descriptors import require_descriptors
from goplugins.runtime.fork import create_lock, register_forkable
from goplugins.runtime.workers import WorkerPool

Address = tuple[socket.AddressFamily, Any]
"""A family and its argument for ``socket.connect``."""

_NEEDED = 16
"""Free descriptors below which a failed lookup is not the name's: other threads may have used them meanwhile."""

_THREADS = 64
"""Lookups at a time, besides those that take long."""

_PATIENCE = 0.25
"""Seconds after which a lookup takes long. With name servers that answer it takes milliseconds."""

_MAX_QUEUED = 16_384
"""Lookups that may wait for a thread: one for each name at most."""


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
    """One lookup; all callers that resolve the same name wait for it."""

    __slots__ = ("addresses", "done", "error", "host", "port", "started")

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self.done = Event()
        self.started = False
        self.addresses: list[Address] = []
        self.error: Exception | None = None

    def run(self) -> None:
        """Makes the lookup; on a helper thread."""
        self.started = True
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
            self.addresses = [(family, address) for family, _, _, _, address in found]
            if not found:
                self.error = OSError(0, "no address found")
        except Exception as exc:  # noqa: BLE001 - each caller raises it, such as ValueError: a label that is too long
            self.error = (_lack_of_descriptors() or exc).with_traceback(None)  # which refers to this frame


def _lack_of_descriptors() -> OSError | None:
    """Why a lookup may have had no descriptor, which the system reports as a name without an address; else None."""
    try:
        require_descriptors(_NEEDED)
    except OSError as exc:
        return exc if missing_resource(exc) else None
    return None


class ThreadedResolver:
    """Resolves names on helper threads and waits for them within the caller's deadline.

    A name is looked up once at a time, so that one which hangs holds one thread, however many calls need it. A lookup
    that takes long makes room for others: see ``patience`` of :class:`WorkerPool`.

    Args:
        max_threads: lookups at a time, besides those that take long.
    """

    def __init__(self, max_threads: int = _THREADS) -> None:
        self._pool = WorkerPool("goplugins-resolve", max_threads, _MAX_QUEUED, inline=False, patience=_PATIENCE)
        self._lock = create_lock(self)
        self._lookups: dict[tuple[str, int], _Lookup] = {}  # the last one of each name
        register_forkable(self)

    def after_fork_in_child(self) -> None:
        """Forgets lookups, which run in the parent only."""
        self._lookups = {}

    def resolve(self, host: str, port: int, deadline: Deadline) -> list[Address]:
        """See :meth:`Resolver.resolve`.

        Raises:
            LocalResourceError: the system has no thread left, or none was free before the deadline.
        """
        with self._lock:
            lookup = self._lookups.get((host, port))
            if lookup is None or lookup.done.is_set():
                lookup = _Lookup(host, port)
                # In an empty context: a lookup that hangs must not keep that of a request. It is stored once it is
                # queued: an interrupt before leaves no lookup that will never run.
                contextvars.Context().run(self._pool.submit_to, None, lookup.run, lookup.done.set)
                self._lookups[host, port] = lookup
        if not deadline.clock.wait(lookup.done, max(deadline.remaining(), 0.0)):
            if not lookup.started:
                raise LocalResourceError(f"no thread was free before the deadline to resolve the name {host!r}")
            raise PluginTimeoutError(f"the name {host!r} was not resolved before the deadline", replay=Replay.ALWAYS)
        cause = lookup.error
        if cause is not None:
            # Each caller raises an error of its own: one object in several threads would mix their tracebacks.
            reason = cause.strerror if isinstance(cause, OSError) else str(cause)
            raise NameResolutionError(f"the name {host!r} can't be resolved: {reason}") from cause
        if not lookup.addresses:
            text = f"no free thread to resolve the name {host!r}: raise the limit of threads (ulimit -u, pids.max)"
            raise LocalResourceError(text)
        return lookup.addresses


_of_process: dict[str, ThreadedResolver] = {}


def shared_resolver() -> ThreadedResolver:
    """The process's resolver, created at first use."""
    found = _of_process.get("resolver")
    return found if found is not None else _of_process.setdefault("resolver", ThreadedResolver())
