"""A listening Unix socket: exclusive use of its path, and access for one user only."""

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

_BACKLOG = 128
_MODE = 0o600
_LOCK_TIMEOUT = 5.0
"""Seconds to wait for other servers that are binding the same path, which takes less than a millisecond."""

_POLL_INTERVAL = 0.005
_OCCUPIED = "stop it, or use another path"
_FIXES: Mapping[int | None, str] = {
    errno.EADDRINUSE: _OCCUPIED,
    errno.ENOENT: "create its directory first",
    errno.EACCES: "use a directory that this user may write to",
    errno.EROFS: "use a directory on a writable file system",
}


class Listener:
    """A bound and listening socket that only this user can connect to.

    Args:
        endpoint: a path, or ``@name`` for an abstract socket.
        shared: admits other users to an abstract socket, which has no file mode; for servers that check credentials.
        clock: source of time.

    Raises:
        ConfigError: the address can't be used, or another server listens there.
    """

    def __init__(self, endpoint: str, *, shared: bool = False, clock: Clock = SYSTEM_CLOCK) -> None:
        address = socket_address(endpoint)
        self.endpoint = endpoint
        # Absolute: the socket is removed at the end, even if the working directory has changed.
        self._path = os.path.abspath(address) if isinstance(address, str) else None
        self._private = self._path is None and not shared
        self._identity: tuple[int, int] | None = None
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if self._path is None:
                self.sock.bind(address)
                self.sock.listen(_BACKLOG)
            else:
                # A socket that is bound but does not listen yet is indistinguishable from one left by a killed server.
                with _exclusive(f"{self._path}.lock", self._path, clock):
                    _remove_stale(self._path, address)
                    self._bind(self._path, address)
                    self.sock.listen(_BACKLOG)
            self.sock.setblocking(False)
        except OSError as exc:
            self.close()
            # Perhaps the name of the lock file beside the socket.
            where = exc.filename if isinstance(exc.filename, str) else endpoint
            raise cant_listen(where, exc, _FIXES.get(exc.errno, "")) from exc
        except BaseException:
            self.close()
            raise

    def _bind(self, path: str, address: str | bytes) -> None:
        # Where the system supports a mode of the socket itself, the file has it from the beginning. Elsewhere no
        # connection is possible before listen(). The umask, which all threads share, is not changed.
        with contextlib.suppress(OSError):
            os.fchmod(self.sock.fileno(), _MODE)
        self.sock.bind(address)
        self._identity = _identity(path)
        if stat.S_IMODE(os.lstat(path).st_mode) != _MODE:
            os.chmod(path, _MODE)

    def admits(self, sock: socket.socket) -> bool:
        """Whether the peer may connect to an abstract socket: the same rule as mode 0600 of a file."""
        option = getattr(socket, "SO_PEERCRED", None)
        if not self._private or option is None:
            return True
        credentials = sock.getsockopt(socket.SOL_SOCKET, option, struct.calcsize("3i"))
        return struct.unpack("3i", credentials)[1] in {os.geteuid(), 0}

    def close(self) -> None:
        """Closes the socket, and removes its file unless it is another server's.

        While it listens no other server replaces the file, so nothing happens between the check and the removal.
        """
        if self._path is not None and self._identity is not None and _identity(self._path) == self._identity:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)
        self._identity = None
        self.sock.close()


def _remove_stale(path: str, address: str | bytes) -> None:
    """Removes the socket file of a killed server; refuses to remove anything else."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise ConfigError(f"can't listen on {path}: there is a file that is no socket", fix="use another path")
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
def _exclusive(lock: str, path: str, clock: Clock) -> Iterator[None]:
    """Keeps other servers from the path during the block, by a lock file.

    The server that holds the lock removes the file. One that waited then holds the lock of a removed file, and tries
    again.
    """
    until = clock.monotonic() + _LOCK_TIMEOUT
    while (descriptor := _locked(lock)) is None:
        if clock.monotonic() >= until:
            raise ConfigError(
                f"can't listen on {path}: the lock of another starting server was held for {_LOCK_TIMEOUT:g} s",
                fix=f"find the process that holds {lock}",
            )
        clock.wait(threading.Event(), _POLL_INTERVAL)
    try:
        yield
    finally:
        if _is_at(descriptor, lock):
            os.unlink(lock)
        os.close(descriptor)


def _locked(lock: str) -> int | None:
    """The lock file, open and locked; None while another process holds the lock."""
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
