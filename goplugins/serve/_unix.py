"""The Unix socket server under ``serve.run``: a thread for each connection, and a stop that cuts no call."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import socket
import stat
import struct
import threading
from typing import TYPE_CHECKING

from goplugins._clock import SYSTEM_CLOCK, Clock
from goplugins.errors import ConfigError, InvalidArgumentError
from goplugins.serve._lines_server import LineService
from goplugins.serve._warning import RareWarning
from goplugins.transports.unix import socket_address

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from goplugins.config.sections import AuthConfig
    from goplugins.serve._plugin import ServedPlugin

__all__ = ["Listener", "UnixServer", "unix_server"]

_logger = logging.getLogger("goplugins.serve")

_CONNECTIONS = 500
"""Open at once, safely below the usual limit of 1,024 files; further callers wait in the listener's queue."""

_BACKLOG = 128
_CHUNK = 65536
_MODE = 0o600
_LOOK = 0.02
"""Seconds between looks at what is still under way while the server stops."""


class Listener:
    """A bound and listening socket that only this user can connect to.

    Args:
        endpoint: a path, or ``@name`` for an abstract socket.
        shared: admits other users to an abstract socket, which has no mode: they have to bring credentials.

    Raises:
        ConfigError: the address can't be used, or somebody listens there already.
    """

    def __init__(self, endpoint: str, *, shared: bool = False) -> None:
        address = socket_address(endpoint)
        self.endpoint = endpoint
        # Absolute: the socket is removed at the end, wherever the process has gone until then.
        self._path = os.path.abspath(address) if isinstance(address, str) else None
        self._private = self._path is None and not shared
        self._identity: tuple[int, int] | None = None
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if self._path is not None:
                self._replace_stale(self._path, endpoint)
                # The file takes the socket's own mode where the system lets it have one; where not, nobody can
                # connect before listen(). The umask, which belongs to all threads, is not touched.
                with contextlib.suppress(OSError):
                    os.fchmod(self.sock.fileno(), _MODE)
            self.sock.bind(address)
            if self._path is not None:
                os.chmod(self._path, _MODE)
                self._identity = _identity(self._path)
            self.sock.listen(_BACKLOG)
            self.sock.setblocking(False)
        except OSError as exc:
            self.close()
            raise ConfigError(f"can't listen on {endpoint}: {exc.strerror or exc}") from exc
        except BaseException:
            self.close()
            raise

    def _replace_stale(self, path: str, address: str) -> None:
        """Removes the socket that a server left which was killed; refuses to remove anything else."""
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(found.st_mode):
            raise ConfigError(f"can't listen on {path}: there is a file that is no socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            failure = probe.connect_ex(address)
        if failure not in {errno.ECONNREFUSED, errno.ENOENT}:
            raise ConfigError(f"can't listen on {path}: a server is listening there")
        if _identity(path) == (found.st_dev, found.st_ino):
            os.unlink(path)

    def admits(self, sock: socket.socket) -> bool:
        """Whether the peer may talk to us: what the mode 0600 does for a path."""
        option = getattr(socket, "SO_PEERCRED", None)
        if not self._private or option is None:
            return True
        credentials = sock.getsockopt(socket.SOL_SOCKET, option, struct.calcsize("3i"))
        return struct.unpack("3i", credentials)[1] in {os.geteuid(), 0}

    def close(self) -> None:
        """Listens no more, and removes the file unless another server has put its own in its place."""
        if self._path is not None and self._identity is not None and _identity(self._path) == self._identity:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)
        self._identity = None
        self.sock.close()


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


class _Connection:
    """One caller's connection, on a thread of its own."""

    def __init__(self, sock: socket.socket, server: UnixServer) -> None:
        self.sock = sock
        self.busy = False
        self._server = server
        self._reader = server.service.reader()
        self.thread = threading.Thread(target=self._run, name="goplugins-unix", daemon=True)

    @property
    def mid_line(self) -> bool:
        return self._reader.mid_line

    def _run(self) -> None:
        try:
            self._serve()
        except OSError:
            pass  # the caller went away, or the server stopped: nobody is left to be told
        except InvalidArgumentError as exc:
            _logger.warning("a caller of %s is cut off: %s", self._server.endpoint, exc.message)
        finally:
            self._server.forget(self)
            self.sock.close()

    def _serve(self) -> None:
        sock, server = self.sock, self._server
        clock = server.clock
        while chunk := sock.recv(_CHUNK):
            for line, whole in self._reader.feed(chunk):
                self.busy = True
                sock.sendall(server.service.answer(line, whole, clock.monotonic(), server.endpoint))
                self.busy = False


def unix_server(
    plugin: ServedPlugin[Any, Any],
    endpoint: str,
    *,
    auth: AuthConfig | None,
    threads: int,
    max_request_bytes: int,
) -> UnixServer:
    """A server that listens at ``endpoint`` already, and answers once it runs.

    Raises:
        ConfigError: the address can't be used, or ``auth`` lacks its credentials.
        InvalidArgumentError: another argument can't be used.
    """
    service = LineService(plugin, auth=auth, max_request_bytes=max_request_bytes, threads=threads)
    return UnixServer(service, Listener(endpoint, shared=service.asks_for_credentials))


class UnixServer:
    """Answers lines on a Unix socket: :meth:`run` on a thread of its own, :meth:`stop` from any other.

    Args:
        service: answers.
        listener: where callers come from; the server closes it.
        clock: measures.
    """

    def __init__(self, service: LineService, listener: Listener, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self.service = service
        self.endpoint = listener.endpoint
        self.clock = clock
        self._listener = listener
        self._lock = threading.Lock()  # guards the fields below
        self._connections: set[_Connection] = set()
        self._stop_at: float | None = None
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        self._stranger = RareWarning("%d connection(s) of other users refused, the last at %s", clock)
        self._refused = RareWarning("%d time(s) no connection could be taken at %s, the last: %s", clock)
        self._full = RareWarning("%d time(s) all connections were in use, %d of them", clock)

    # --- from any thread ---------------------------------------------------------------------------------------

    def stop(self, grace: float) -> None:
        """Makes :meth:`run` end, at the latest in ``grace`` seconds; a later call can only shorten that."""
        at = self.clock.monotonic() + grace
        with self._lock:
            self._stop_at = at if self._stop_at is None else min(at, self._stop_at)
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # full: it wakes as well; closed: nobody is left to wake
            self._wake_writer.send(b"w")

    def forget(self, connection: _Connection) -> None:
        """Takes a connection that has ended off the list."""
        with self._lock:
            was_full = len(self._connections) >= _CONNECTIONS
            self._connections.discard(connection)
            wake = was_full or self._stop_at is not None
        if wake:
            self._wake()

    # --- the server's thread -----------------------------------------------------------------------------------

    def run(self) -> None:
        """Answers until :meth:`stop`, then finishes what is under way."""
        try:
            while self._stop_at is None:
                self._wait(accepting=True)
                self._accept()
            self._drain()
        finally:
            self._close()

    def _wait(self, *, accepting: bool, timeout: float | None = None) -> None:
        poll = select.poll()
        poll.register(self._wake_reader, select.POLLIN)
        if accepting and len(self._connections) < _CONNECTIONS:
            poll.register(self._listener.sock, select.POLLIN)
        elif accepting:
            self._full(len(self._connections))
        poll.poll(None if timeout is None else max(0.0, timeout * 1000.0))
        with contextlib.suppress(BlockingIOError):
            self._wake_reader.recv(_CHUNK)

    def _accept(self) -> None:
        """Takes in all who wait."""
        while len(self._connections) < _CONNECTIONS:
            try:
                sock, _ = self._listener.sock.accept()
            except BlockingIOError:
                return
            except OSError as exc:
                self._refused(self.endpoint, exc.strerror)
                self.clock.wait(threading.Event(), _LOOK)  # such as too many open files: it would spin
                return
            if not self._listener.admits(sock):
                self._stranger(self.endpoint)
                sock.close()
                continue
            sock.setblocking(True)
            connection = _Connection(sock, self)
            with self._lock:
                self._connections.add(connection)
            try:
                connection.thread.start()
            except RuntimeError as exc:
                self._refused(self.endpoint, exc)
                self.forget(connection)
                sock.close()

    def _each(self, action: Callable[[_Connection], None]) -> int:
        """Does something with all connections; how many there are."""
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            with contextlib.suppress(OSError):
                action(connection)
        return len(connections)

    def _drain(self) -> None:
        self._accept()  # those in the queue: closing the listener would cut them
        self._listener.close()
        # Without our reading side the system refuses whatever a caller writes from now on, so that it knows that
        # nothing arrived; lines that are here already are still read, and answered.
        while self._each(lambda one: None if one.mid_line else one.sock.shutdown(socket.SHUT_RD)):
            left = (self._stop_at or 0.0) - self.clock.monotonic()
            if left <= 0:
                break
            self._wait(accepting=False, timeout=min(left, _LOOK))

    def _close(self) -> None:
        self._listener.close()
        with self._lock:
            cut = sum(connection.busy for connection in self._connections)
        if cut:
            _logger.warning("stopped with %d call(s) unfinished: the time to finish them was over", cut)
        self._each(lambda connection: connection.sock.shutdown(socket.SHUT_RDWR))
        self._wake_reader.close()
        self._wake_writer.close()
