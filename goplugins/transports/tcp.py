"""TCP connections to a host with several addresses: a silent one delays the next by 250 ms only (RFC 8305)."""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, zip_longest
from typing import Any

from goplugins.errors import missing_resource
from goplugins.runtime.clock import Clock
from goplugins.runtime.deadline import Deadline
from goplugins.runtime.fork import close_in_children
from goplugins.runtime.polling import create_poll
from goplugins.transports.resolver import Address

_NEXT_AFTER = 0.25
"""Seconds after which the next address is tried while earlier ones have not answered."""

_REMEMBERED = 600.0
"""Seconds for which the outcome of a connection decides the order of addresses."""

_MAX_POLL = 86_400_000.0
"""Milliseconds: poll() takes a C int."""

_NO_WAY = (errno.EAFNOSUPPORT, errno.ENETUNREACH)
"""This machine can't reach addresses of that family."""

_Option = tuple[int, int, int | bytes]


def reachable(addresses: Iterable[Address]) -> list[Address]:
    """The addresses whose family this machine has a way to; all of them if it has none to any."""
    given = list(addresses)
    ways = {family: _has_way(family, address) for family, address in reversed(given)}
    return [each for each in given if ways[each[0]]] or given


def _has_way(family: int, address: Any) -> bool:
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect(address)  # sends nothing: the kernel finds a route, or none
    except OSError as exc:
        return exc.errno not in _NO_WAY
    return True


class AddressOrder:
    """The order in which the addresses of one host are tried, from what earlier connections have found.

    Used by many threads at once: each attribute is replaced whole.

    Args:
        clock: measures for how long an outcome is remembered.
    """

    def __init__(self, clock: Clock) -> None:
        self._now = clock.monotonic
        self._family: tuple[int, float] = (socket.AF_UNSPEC, 0.0)
        self._silent: Mapping[Address, float] = {}

    def sort(self, addresses: Sequence[Address]) -> Sequence[Address]:
        """Families in turn, the one that worked first; addresses that did not answer in time are the last."""
        if len(addresses) < 2:
            return addresses
        now = self._now()
        family, until = self._family
        if now >= until:
            family = addresses[0][0]
        groups = [each for each in addresses if each[0] == family], [each for each in addresses if each[0] != family]
        turns = [each for each in chain.from_iterable(zip_longest(*groups)) if each is not None]
        silent = self._silent
        return sorted(turns, key=lambda address: now < silent.get(address, now))

    def learn(self, worked: Address, silent: Iterable[Address]) -> None:
        """Remembers for ten minutes that ``worked`` has answered while ``silent``, tried before it, had not."""
        now = self._now()
        until = now + _REMEMBERED
        kept = {address: end for address, end in self._silent.items() if now < end and address != worked}
        self._family, self._silent = (worked[0], until), kept | dict.fromkeys(silent, until)


def connect_tcp(
    addresses: Sequence[Address],
    options: Sequence[_Option],
    deadline: Deadline,
    *,
    order: AddressOrder,
    on_socket: Callable[[socket.socket], None] | None = None,
) -> socket.socket:
    """A non-blocking socket that is connected to the first address that accepts.

    Args:
        addresses: of one host, at least one.
        options: for ``setsockopt``.
        deadline: by which one must have accepted.
        order: decides which address is tried first, and learns from the outcome.
        on_socket: gets each socket before it connects.

    Raises:
        TimeoutError: no answer in time.
        OSError: the addresses refuse, or can't be reached.
    """
    race = _Race(options, on_socket)
    try:
        sock, address, silent = race.run(order.sort(addresses), deadline)
    finally:
        race.close()
    if len(addresses) > 1:
        order.learn(address, silent)
    return sock


class _Race:
    """Attempts to connect to several addresses, the next one before the earlier ones have ended."""

    def __init__(self, options: Sequence[_Option], on_socket: Callable[[socket.socket], None] | None) -> None:
        self._options = options
        self._on_socket = on_socket
        self._opening: dict[int, tuple[socket.socket, Address]] = {}
        self._failures: dict[Address, OSError] = {}

    def run(self, addresses: Sequence[Address], deadline: Deadline) -> tuple[socket.socket, Address, list[Address]]:
        """The connected socket, its address, and the addresses that were tried before it and have not answered."""
        now, todo = deadline.clock.monotonic, list(addresses)
        next_at = now()
        while (todo or self._opening) and (remaining := deadline.at - now()) > 0:
            if todo and (now() >= next_at or not self._opening):
                next_at = now() + _NEXT_AFTER
                self._begin(todo.pop(0))
                continue
            for descriptor in self._wait(min(remaining, max(next_at - now(), 0.0)) if todo else remaining):
                sock, address = self._opening[descriptor]
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code == 0:
                    tried = [each for _, each in self._opening.values()]
                    del self._opening[descriptor]
                    return sock, address, tried[: tried.index(address)]
                self._fail(sock, OSError(code, os.strerror(code)))
                next_at = 0.0  # a refusal is no reason to wait
        raise self._failure(addresses)

    def _begin(self, address: Address) -> None:
        try:
            sock = socket.socket(address[0], socket.SOCK_STREAM)
        except OSError as exc:
            self._failures[address] = exc
            return
        self._opening[sock.fileno()] = sock, address
        try:
            code = self._start(sock, address)
        except OSError as exc:
            self._fail(sock, exc)
        else:
            if code not in (0, errno.EINPROGRESS, errno.EINTR):
                self._fail(sock, OSError(code, os.strerror(code)))

    def _start(self, sock: socket.socket, address: Address) -> int:
        close_in_children(sock.fileno())
        sock.setblocking(False)
        for option in self._options:
            sock.setsockopt(*option)
        if self._on_socket is not None:
            self._on_socket(sock)
        return sock.connect_ex(address[1])

    def _fail(self, sock: socket.socket, failure: OSError) -> None:
        _, address = self._opening.pop(sock.fileno())
        sock.close()
        self._failures[address] = failure

    def _wait(self, seconds: float) -> list[int]:
        poll = create_poll()
        for descriptor in self._opening:
            poll.register(descriptor, select.POLLOUT)
        return [descriptor for descriptor, _ in poll.poll(min(seconds * 1e3, _MAX_POLL))]

    def _failure(self, addresses: Sequence[Address]) -> OSError:
        """One error for all addresses, of the kind of the most telling failure."""
        failures = self._failures
        # What this machine lacks says less than the refusal, or the silence, of another address.
        telling = [each for each in failures.values() if each.errno not in _NO_WAY and not missing_resource(each)]
        silent = TimeoutError(errno.ETIMEDOUT, "no answer")
        chosen = telling[0] if telling else next(iter(failures.values()), silent)
        if len(failures) < len(addresses) and not telling:
            chosen = silent
        each = {_text(address): failures.get(address, silent).strerror for address in addresses}
        one = f"{chosen.strerror}"
        text = "; ".join(f"{address}: {reason}" for address, reason in each.items()) if len(each) > 1 else one
        return type(chosen)(chosen.errno, text)

    def close(self) -> None:
        """Closes all sockets but that of the result."""
        for sock, _ in self._opening.values():
            sock.close()
        self._opening.clear()


def _text(address: Address) -> str:
    host, port = address[1][:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
