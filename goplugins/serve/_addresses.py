"""What keeps a server from listening at an address, said the same way on every wire."""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping

from goplugins.errors import ConfigError

__all__ = ["bind", "cant_listen", "check_free"]

_FIXES: Mapping[int | None, str] = {
    errno.EADDRINUSE: "stop what listens there, or take another port; 0 finds a free one",
    errno.EADDRNOTAVAIL: "name an address of this machine; 0.0.0.0 stands for all that it has",
    errno.EACCES: "take a port above 1023",
}
_UNKNOWN_HOST = "name a host that this machine can resolve, or an address"
_OURS = frozenset({errno.EADDRINUSE, errno.EACCES})
"""Of a name's several addresses, one that is taken is an error; one of a kind that the machine lacks is not."""


def cant_listen(where: str, exc: OSError, fix: str | None = None) -> ConfigError:
    """The error for an address that can't be had; ``fix`` is for where it is not about a host and a port."""
    if fix is None:
        fix = _UNKNOWN_HOST if isinstance(exc, socket.gaierror) else _FIXES.get(exc.errno, "")
    return ConfigError(f"can't listen on {where}: {exc.strerror or exc}", fix=fix)


def bind(host: str, port: int, where: str) -> socket.socket:
    """A TCP socket that is bound there, and does not listen yet.

    Raises:
        ConfigError: the address can't be had; ``where`` is what it is called.
    """
    try:
        # "localhost" is the IPv4 one, as for most clients, where the machine has both.
        return _bound(min(_resolve(host, port), key=lambda info: info[0] != socket.AF_INET))
    except OSError as exc:
        raise cant_listen(where, exc) from exc


def check_free(host: str, port: int, where: str) -> None:
    """Looks whether a library that says little would get the port, on all of the host's addresses.

    Raises:
        ConfigError: it would not; ``where`` is what the address is called.
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
        if failure.errno in _OURS or len(failures) == len(found):
            raise cant_listen(where, failure) from failure


_Info = tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[str | int, ...]]


def _resolve(host: str, port: int) -> list[_Info]:
    # The types of the standard library leave room for Python builds without IPv6.
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
