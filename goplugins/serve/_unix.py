"""The Unix socket server of ``serve.run``: one thread per connection, and a graceful stop."""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import threading
from typing import TYPE_CHECKING

from goplugins.runtime.clock import SYSTEM_CLOCK, Clock
from goplugins.runtime.fork import create_lock
from goplugins.runtime.log_throttle import LogThrottle
from goplugins.runtime.polling import create_poll
from goplugins.serve._line_server import DISCARD_TIMEOUT, MAX_DISCARDED, LineService
from goplugins.serve._unix_listener import Listener

if TYPE_CHECKING:
    from collections.abc import Callable

    from goplugins.config.credentials import AuthConfig
    from goplugins.serve._served import Served

_logger = logging.getLogger("goplugins.serve")

_CONNECTIONS = 500
"""Maximum open connections, safely below the usual limit of 1,024 files. For a further one the longest idle connection
is closed; if all have a call in flight, it waits in the listener's queue."""

_CHUNK = 65536
_POLL_INTERVAL = 0.02
"""Seconds between checks of the connections, while the server stops or new connections wait."""


class _Connection:
    """A connection, served by a thread of its own."""

    def __init__(self, sock: socket.socket, server: UnixServer) -> None:
        self.sock = sock
        self.busy = False
        self.closing = False
        self.last_used = server.clock.monotonic()
        self._server = server
        self._reader = server.service.reader()
        self.thread = threading.Thread(target=self._run, name="goplugins-unix", daemon=True)

    @property
    def mid_line(self) -> bool:
        return self._reader.mid_line

    @property
    def idle(self) -> bool:
        """Whether it has neither a call in flight nor a part of a request."""
        return not self.busy and not self.mid_line

    def close_when_read(self) -> None:
        """Ends an idle connection. Called by the server's thread.

        Only the receiving side is shut down: a request that has arrived is still executed, and a later one fails in the
        caller's write, so that the caller can send it again elsewhere.
        """
        self.closing = True
        with contextlib.suppress(OSError):  # it has ended by itself
            self.sock.shutdown(socket.SHUT_RD)

    def _run(self) -> None:
        try:
            self._serve()
        except OSError:
            pass  # the caller has closed the connection, or the server has stopped
        finally:
            self._server.forget(self)
            self.sock.close()

    def _serve(self) -> None:
        sock, server = self.sock, self._server
        clock = server.clock
        while not self._reader.ended and (chunk := sock.recv(_CHUNK)):
            for line in self._reader.feed(chunk):
                self.busy = True
                reply = server.service.answer(line, clock.monotonic(), server.endpoint)
                self.last_used = clock.monotonic()
                sock.sendall(reply)
                self.busy = False
        if self._reader.ended:
            self._discard_rest()

    def _discard_rest(self) -> None:
        """Reads the rest of a line that was refused, so that the caller can read the refusal."""
        sock, now = self.sock, self._server.clock.monotonic
        self.closing = True
        sock.shutdown(socket.SHUT_WR)
        end, discarded = now() + DISCARD_TIMEOUT, 0
        while discarded < MAX_DISCARDED and (left := end - now()) > 0:
            sock.settimeout(left)
            chunk = sock.recv(_CHUNK)
            if not chunk:
                return
            discarded += len(chunk)


def unix_server(
    plugin: Served, endpoint: str, *, auth: AuthConfig | None, threads: int, max_request_bytes: int
) -> UnixServer:
    """A server that listens at ``endpoint``.

    Raises:
        ConfigError: the address can't be used, or ``auth`` lacks its credentials.
        InvalidArgumentError: another argument can't be used.
    """
    service = LineService(plugin, auth=auth, max_request_bytes=max_request_bytes, threads=threads)
    return UnixServer(service, Listener(endpoint, shared=service.requires_credentials))


class UnixServer:
    """Serves a Unix socket: :meth:`run` on a thread of its own, :meth:`stop` from any other.

    Args:
        service: executes requests.
        listener: accepts connections; closed by the server.
        clock: source of time.
    """

    def __init__(self, service: LineService, listener: Listener, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self.service = service
        self.endpoint = listener.endpoint
        self.clock = clock
        self._listener = listener
        self._lock = create_lock(self)  # guards the fields below
        self._connections: set[_Connection] = set()
        self._stop_at: float | None = None
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        self._full = False  # new connections wait for a slot; used by the server's thread only
        self._throttle = LogThrottle(clock=clock)

    # --- from any thread ---------------------------------------------------------------------------------------

    def stop(self, grace: float) -> None:
        """Ends :meth:`run` in ``grace`` seconds at the latest; a later call can only shorten that."""
        at = self.clock.monotonic() + grace
        with self._lock:
            self._stop_at = at if self._stop_at is None else min(at, self._stop_at)
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # a full buffer wakes as well; closed: the server has ended
            self._wake_writer.send(b"w")

    def forget(self, connection: _Connection) -> None:
        """Removes a connection that has ended."""
        with self._lock:
            was_full = len(self._connections) >= _CONNECTIONS
            self._connections.discard(connection)
            wake = was_full or self._stop_at is not None
        if wake:
            self._wake()

    # --- the server's thread -----------------------------------------------------------------------------------

    def run(self) -> None:
        """Serves until :meth:`stop`, then finishes the calls in flight."""
        try:
            while self._stop_at is None:
                self._wait(accepting=not self._full, timeout=_POLL_INTERVAL if self._full else None)
                self._accept()
            self._drain()
        finally:
            self._close()

    def _wait(self, *, accepting: bool, timeout: float | None = None) -> None:
        poll = create_poll()
        poll.register(self._wake_reader, select.POLLIN)
        if accepting:
            poll.register(self._listener.sock, select.POLLIN)
        poll.poll(None if timeout is None else max(0.0, timeout * 1000.0))
        with contextlib.suppress(BlockingIOError):
            self._wake_reader.recv(_CHUNK)

    def _accept(self) -> None:
        """Accepts waiting connections, up to the maximum."""
        while self._has_slot():
            try:
                sock, _ = self._listener.sock.accept()
            except BlockingIOError:
                return
            except OSError as exc:
                self._warn("accepting a connection failed %d time(s) at %s, the last: %s", self.endpoint, exc.strerror)
                self._close_longest_idle()  # the error may be a lack of file descriptors
                self.clock.wait(threading.Event(), _POLL_INTERVAL)  # no busy loop
                return
            if not self._listener.admits(sock):
                self._warn("%d connection(s) of other users refused, the last at %s", self.endpoint)
                sock.close()
                continue
            sock.setblocking(True)
            connection = _Connection(sock, self)
            with self._lock:
                self._connections.add(connection)
            try:
                connection.thread.start()
            except RuntimeError as exc:
                self._warn("accepting a connection failed %d time(s) at %s, the last: %s", self.endpoint, exc)
                self.forget(connection)
                sock.close()

    def _has_slot(self) -> bool:
        """Whether one more connection may be accepted; if not, and one waits, an idle one is closed."""
        self._full = False
        if len(self._connections) < _CONNECTIONS:
            return True
        waiting = create_poll()
        waiting.register(self._listener.sock, select.POLLIN)
        if waiting.poll(0):
            self._full = True
            self._close_longest_idle()
        return False

    def _close_longest_idle(self) -> None:
        """Closes the longest idle connection, unless none is idle or one is closing already."""
        with self._lock:
            idle = [connection for connection in self._connections if connection.idle]
        if not idle:
            text = "%d time(s) new connections had to wait: all %d connections have a call in flight"
            self._warn(text, _CONNECTIONS)
        elif not any(connection.closing for connection in idle):
            min(idle, key=lambda connection: connection.last_used).close_when_read()
            self._warn("%d idle connection(s) closed in favour of new ones: at most %d may be open", _CONNECTIONS)

    def _warn(self, text: str, *arguments: object) -> None:
        """Logs a warning that begins with the number of its occurrences, at a limited rate."""
        if count := self._throttle.count(text):
            _logger.warning(text, count, *arguments)

    def _each(self, action: Callable[[_Connection], None]) -> int:
        """Applies ``action`` to all connections; returns their number."""
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            with contextlib.suppress(OSError):
                action(connection)
        return len(connections)

    def _drain(self) -> None:
        self._accept()  # closing the listener would reset the connections in its queue
        self._listener.close()
        # With the receiving side shut down, a later request fails in the caller's write, so that the caller can send it
        # again elsewhere; requests that have arrived are still read and executed.
        while self._each(lambda one: None if one.mid_line else one.sock.shutdown(socket.SHUT_RD)):
            left = (self._stop_at or 0.0) - self.clock.monotonic()
            if left <= 0:
                break
            self._wait(accepting=False, timeout=min(left, _POLL_INTERVAL))

    def _close(self) -> None:
        self._listener.close()
        with self._lock:
            cut = sum(connection.busy for connection in self._connections)
        if cut:
            _logger.warning("stopped with %d call(s) in flight, which did not end within the grace period", cut)
        self._each(lambda connection: connection.sock.shutdown(socket.SHUT_RDWR))
        self._wake_reader.close()
        self._wake_writer.close()
