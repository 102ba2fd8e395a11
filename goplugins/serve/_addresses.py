"""Binds TCP sockets; the errors of addresses that can't be listened at, the same for all transports."""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping

from goplugins.errors import ConfigError

_FIXES: Mapping[int | None, str] = {
    errno.EADDRINUSE: "stop the program that listens there, or use another port; 0 takes a free one",
    errno.EADDRNOTAVAIL: "use an address of this machine; 0.0.0.0 stands for all of them",
    errno.EACCES: "use a port above 1023",
}
_UNKNOWN_HOST = "use a host name that this machine can resolve, or an IP address"
_ALWAYS_ERRORS = frozenset({errno.EADDRINUSE, errno.EACCES})
"""Errors even if another address of the host is free; an address that the machine does not have is none."""


def cant_listen(where: str, exc: OSError, fix: str | None = None) -> ConfigError:
    """The error for an address that can't be bound; ``fix`` for addresses without host and port."""
    if fix is None:
        fix = _UNKNOWN_HOST if isinstance(exc, socket.gaierror) else _FIXES.get(exc.errno, "")
    return ConfigError(f"can't listen on {where}: {exc.strerror or exc}", fix=fix)


def bind(host: str, port: int, where: str) -> socket.socket:
    """A bound TCP socket, which does not listen yet.

    Raises:
        ConfigError: the address can't be bound; the text names it as ``where``.
    """
    try:
        # Where "localhost" has both an IPv4 and an IPv6 address, the IPv4 one, as most clients do.
        return _bound(min(_resolve(host, port), key=lambda info: info[0] != socket.AF_INET))
    except OSError as exc:
        raise cant_listen(where, exc) from exc


def check_free(host: str, port: int, where: str) -> None:
    """Checks that the port can be bound on all of the host's addresses, for a library that gives no reasons.

    Raises:
        ConfigError: it can't; the text names the address as ``where``.
    """
    failures: list[OSError] = []
    try:
        found = _resolve(host, port)
    except OSError as exc:
        raise cant_listen(where, exc) from exc
    for info in found:
        try:
            _bound(info).close()
        except OSError as exc:
            failures.append(exc)
    for failure in failures:
        if failure.errno in _ALWAYS_ERRORS or len(failures) == len(found):
            raise cant_listen(where, failure) from failure


_Info = tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[str | int, ...]]


def _resolve(host: str, port: int) -> list[_Info]:
    # The standard library's type has another form for Python builds without IPv6.
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)  # type: ignore[return-value]


def _bound(info: _Info) -> socket.socket:
    family, kind, protocol, _, address = info
    found = socket.socket(family, kind, protocol)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except BaseException:
        found.close()
        raise
    return found
