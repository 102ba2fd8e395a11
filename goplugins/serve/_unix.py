"""The Unix socket server under ``serve.run``: a thread for each connection, and a stop that cuts no call."""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import threading
from typing import TYPE_CHECKING

from goplugins.errors import InvalidArgumentError
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock
from goplugins.serve._line_server import LineService
from goplugins.serve._rate_limited_log import RareWarning
from goplugins.serve._unix_listener import Listener

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from goplugins.config.credentials import AuthConfig
    from goplugins.serve._plugin import ServedPlugin

__all__ = ["UnixServer", "unix_server"]

_logger = logging.getLogger("goplugins.serve")

_CONNECTIONS = 500
"""Open at once, safely below the usual limit of 1,024 files. For a further one the longest idle is let go; where all
are at work, it waits in the listener's queue."""

_CHUNK = 65536
_LOOK = 0.02
"""Seconds between looks at what is still under way, while the server stops or newcomers wait."""


class _Connection:
    """One caller's connection, on a thread of its own."""

    def __init__(self, sock: socket.socket, server: UnixServer) -> None:
        self.sock = sock
        self.busy = False
        self.leaving = False
        self.last_used = server.clock.monotonic()
        self._server = server
        self._reader = server.service.reader()
        self.thread = threading.Thread(target=self._run, name="goplugins-unix", daemon=True)

    @property
    def mid_line(self) -> bool:
        return self._reader.mid_line

    @property
    def idle(self) -> bool:
        """Nothing is asked, or being asked, on it."""
        return not self.busy and not self.mid_line

    def let_go(self) -> None:
        """Ends it, as a caller sees a connection end that was idle for long. Called by the server's thread.

        Only our reading side is shut: what had arrived by now is still answered, and what a caller writes from now
        on the system refuses, so that it knows that nothing arrived.
        """
        self.leaving = True
        with contextlib.suppress(OSError):  # it has ended by itself
            self.sock.shutdown(socket.SHUT_RD)

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
                reply = server.service.answer(line, whole, clock.monotonic(), server.endpoint)
                self.last_used = clock.monotonic()
                sock.sendall(reply)
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
        self._full = RareWarning("%d look(s) at newcomers that wait: all %d connections have a call in flight", clock)
        self._let_go = RareWarning("%d idle connection(s) closed in favour of new ones: %d may be open", clock)
        self._crowded = False  # newcomers wait for somebody to leave; read and written by the server's thread alone

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
                self._wait(accepting=not self._crowded, timeout=_LOOK if self._crowded else None)
                self._accept()
            self._drain()
        finally:
            self._close()

    def _wait(self, *, accepting: bool, timeout: float | None = None) -> None:
        poll = select.poll()
        poll.register(self._wake_reader, select.POLLIN)
        if accepting:
            poll.register(self._listener.sock, select.POLLIN)
        poll.poll(None if timeout is None else max(0.0, timeout * 1000.0))
        with contextlib.suppress(BlockingIOError):
            self._wake_reader.recv(_CHUNK)

    def _accept(self) -> None:
        """Takes in all who wait, as far as there is room."""
        while self._has_room():
            try:
                sock, _ = self._listener.sock.accept()
            except BlockingIOError:
                return
            except OSError as exc:
                self._refused(self.endpoint, exc.strerror)
                self._make_room()  # such as too many open files
                self.clock.wait(threading.Event(), _LOOK)  # it would spin
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

    def _has_room(self) -> bool:
        """Whether one more may come in; if not, and one waits, somebody is let go."""
        self._crowded = False
        if len(self._connections) < _CONNECTIONS:
            return True
        newcomers = select.poll()
        newcomers.register(self._listener.sock, select.POLLIN)
        if newcomers.poll(0):
            self._crowded = True
            self._make_room()
        return False

    def _make_room(self) -> None:
        """Lets the longest idle connection go, if there is one, and none is just leaving."""
        with self._lock:
            idle = [connection for connection in self._connections if connection.idle]
        if not idle:
            self._full(_CONNECTIONS)
        elif not any(connection.leaving for connection in idle):
            min(idle, key=lambda connection: connection.last_used).let_go()
            self._let_go(_CONNECTIONS)

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
