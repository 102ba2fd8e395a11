"""A listening Unix socket: only one server gets a path, and only its user may connect."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
import struct
import threading
from collections.abc import Iterator, Mapping

from goplugins.errors import ConfigError
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock
from goplugins.serve._addresses import cant_listen
from goplugins.transports.unix import socket_address

__all__ = ["Listener"]

_BACKLOG = 128
_MODE = 0o600
_PATIENCE = 5.0
"""Seconds for other servers to make up their minds about the same path; it takes them less than a millisecond."""

_LOOK = 0.005
_OCCUPIED = "stop it, or take another path"
_FIXES: Mapping[int | None, str] = {
    errno.EADDRINUSE: _OCCUPIED,
    errno.ENOENT: "make its directory first",
    errno.EACCES: "take a directory that this user may write to",
    errno.EROFS: "take a directory that can be written to",
}


class Listener:
    """A bound and listening socket that only this user can connect to.

    Args:
        endpoint: a path, or ``@name`` for an abstract socket.
        shared: admits other users to an abstract socket, which has no mode: they have to bring credentials.
        clock: measures and waits.

    Raises:
        ConfigError: the address can't be used, or somebody listens there already.
    """

    def __init__(self, endpoint: str, *, shared: bool = False, clock: Clock = SYSTEM_CLOCK) -> None:
        address = socket_address(endpoint)
        self.endpoint = endpoint
        # Absolute: the socket is removed at the end, wherever the process has gone until then.
        self._path = os.path.abspath(address) if isinstance(address, str) else None
        self._private = self._path is None and not shared
        self._identity: tuple[int, int] | None = None
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if self._path is None:
                self.sock.bind(address)
                self.sock.listen(_BACKLOG)
            else:
                # A socket that is bound and does not listen yet looks as dead as one that a killed server left.
                with _alone(f"{self._path}.lock", self._path, clock):
                    _remove_stale(self._path, address)
                    self._bind(self._path, address)
                    self.sock.listen(_BACKLOG)
            self.sock.setblocking(False)
        except OSError as exc:
            self.close()
            # The file's name where it is not the socket's: of the lock beside it.
            where = exc.filename if isinstance(exc.filename, str) else endpoint
            raise cant_listen(where, exc, _FIXES.get(exc.errno, "")) from exc
        except BaseException:
            self.close()
            raise

    def _bind(self, path: str, address: str | bytes) -> None:
        # The file takes the socket's own mode, from its first moment, where the system lets sockets have one. Where
        # not, nobody can connect before listen(). The umask, which belongs to all threads, is not touched.
        with contextlib.suppress(OSError):
            os.fchmod(self.sock.fileno(), _MODE)
        self.sock.bind(address)
        self._identity = _identity(path)
        if stat.S_IMODE(os.lstat(path).st_mode) != _MODE:
            os.chmod(path, _MODE)

    def admits(self, sock: socket.socket) -> bool:
        """Whether the peer may talk to us: what the mode 0600 does for a path."""
        option = getattr(socket, "SO_PEERCRED", None)
        if not self._private or option is None:
            return True
        credentials = sock.getsockopt(socket.SOL_SOCKET, option, struct.calcsize("3i"))
        return struct.unpack("3i", credentials)[1] in {os.geteuid(), 0}

    def close(self) -> None:
        """Listens no more, and removes the file unless another server has put its own in its place.

        While it listens no other one does that, so nothing comes between the look and the removal.
        """
        if self._path is not None and self._identity is not None and _identity(self._path) == self._identity:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)
        self._identity = None
        self.sock.close()


def _remove_stale(path: str, address: str | bytes) -> None:
    """Removes the socket that a server left which was killed; refuses to remove anything else."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise ConfigError(f"can't listen on {path}: there is a file that is no socket", fix="take another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        failure = probe.connect_ex(address)
    if failure not in {errno.ECONNREFUSED, errno.ENOENT}:
        raise ConfigError(f"can't listen on {path}: a server is listening there", fix=_OCCUPIED)
    if _identity(path) == (found.st_dev, found.st_ino):
        os.unlink(path)


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


@contextlib.contextmanager
def _alone(lock: str, path: str, clock: Clock) -> Iterator[None]:
    """Keeps other servers from the path until the block is left.

    The file is removed by whoever holds it. One that waited for it finds that it holds a file that is not there any
    more, and takes the next.
    """
    until = clock.monotonic() + _PATIENCE
    while (descriptor := _locked(lock)) is None:
        if clock.monotonic() >= until:
            raise ConfigError(
                f"can't listen on {path}: another server has been starting there for {_PATIENCE:g} s",
                fix=f"see who holds {lock}",
            )
        clock.wait(threading.Event(), _LOOK)
    try:
        yield
    finally:
        if _is_at(descriptor, lock):
            os.unlink(lock)
        os.close(descriptor)


def _locked(lock: str) -> int | None:
    """The file, open and locked; None while another one holds it."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, _MODE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(descriptor, lock):
            return descriptor
    except BlockingIOError:
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _is_at(descriptor: int, path: str) -> bool:
    """Whether the open file is still the one at the path."""
    found = os.fstat(descriptor)
    return _identity(path) == (found.st_dev, found.st_ino)
