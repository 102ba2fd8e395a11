"""The HTTP server under ``serve.run``: waitress, with a stop that cuts no call. Imported when a server starts.

What is added to waitress, and why:

- It has no graceful stop: here the listener closes, calls in flight are finished and told ``Connection: close``,
  and connections that stay idle are closed.
- Health and info have threads of their own: they are asked for just when calls keep a server busy.
- Idle connections keep no newcomer out: the longest idle one is closed.
- A request that waits for a thread waits at its caller's cost, so its arrival is noted.
- An exception that is no Exception left its caller without an answer and without an end.
- Its own refusals are plain text, here the envelope's error; and a request that is too large is read to its end, or
  the caller would see a reset connection in place of the reason.
- It warns of each request that finds no free thread; one line now and then is enough.
- Head and body leave in one segment.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import threading
from typing import TYPE_CHECKING, Any

from waitress import wasyncore  # type: ignore[import-untyped]
from waitress.channel import HTTPChannel  # type: ignore[import-untyped]
from waitress.parser import HTTPRequestParser  # type: ignore[import-untyped]
from waitress.server import create_server  # type: ignore[import-untyped]
from waitress.task import ErrorTask, ThreadedTaskDispatcher, WSGITask  # type: ignore[import-untyped]
from waitress.utilities import RequestEntityTooLarge  # type: ignore[import-untyped]

from goplugins.runtime.clock import SYSTEM_CLOCK, Clock
from goplugins.serve._rate_limited_log import RareWarning
from goplugins.serve._wsgi import ARRIVED, error_body

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication, WSGIEnvironment

__all__ = ["Server"]

_logger = logging.getLogger("goplugins.serve")

_CONNECTIONS = 500
"""Open at once, safely below the usual limit of 1,024 files. One place is kept free by closing the longest idle; where
all have a request under way, further callers wait in the listener's queue."""

_IDLE = 0.5
"""Seconds without a byte after which a connection may be closed for another: before, a request may be on its way."""

_OWN = 2
"""What waitress counts among the connections: its listener and what wakes it."""

_ASIDE = 2
"""Threads beside those of the calls: one health check that hangs does not silence the next one."""

_LOOK = 1.0
"""Seconds between two looks at idle connections; all else wakes the loop."""

_LINGER = 0.1
"""Seconds that a stopping server leaves its idle connections: the next request may be on its way already."""

_MAX_DISCARDED = 64 * 1024 * 1024
"""Bytes of a request that is too large that are read, and dropped, before its refusal."""


class _Parser(HTTPRequestParser):  # type: ignore[misc]
    arrived = 0.0
    completed: bool
    error: Any
    expect_continue: bool
    _to_discard = 0

    def received(self, data: bytes) -> int:
        if self._to_discard:
            taken = min(len(data), self._to_discard)
            self._to_discard -= taken
            self.completed = not self._to_discard
            return taken
        taken = super().received(data)
        if isinstance(self.error, RequestEntityTooLarge):
            self.error = RequestEntityTooLarge(f"expected at most {self.adj.max_request_body_size - 1} bytes")
            # A client that asked first hears the refusal before it sends anything.
            if not self.chunked and not self.expect_continue and self.content_length <= _MAX_DISCARDED:
                self._to_discard = self.content_length
                self.completed = False
            self.expect_continue = False
        if self.completed:
            self.arrived = SYSTEM_CLOCK.monotonic()
        return int(taken)


class _Task(WSGITask):  # type: ignore[misc]
    channel: Any
    request: Any
    wrote_header: bool

    def get_environment(self) -> WSGIEnvironment:
        environ: WSGIEnvironment = super().get_environment()
        environ[ARRIVED] = self.request.arrived
        return environ

    def build_response_header(self) -> bytes:
        if self.channel.draining:
            self.set_close_on_finish()
        header: bytes = super().build_response_header()
        return header

    def write(self, data: bytes) -> None:
        if self.wrote_header or not self.has_body or self.content_length != len(data):
            super().write(data)
            return
        head = self.build_response_header()
        self.wrote_header = True
        self.content_bytes_written = len(data)
        self.channel.write_soon(head + data)


class _ErrorTask(ErrorTask):  # type: ignore[misc]
    request: Any

    def execute(self) -> None:
        error = self.request.error
        body = error_body(f"{error.reason}: {error.body}")
        self.status = f"{error.code} {error.reason}"
        self.response_headers = [("Content-Type", "application/json")]
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class _Channel(HTTPChannel):  # type: ignore[misc]
    parser_class = _Parser
    task_class = _Task
    error_task_class = _ErrorTask
    requests: Any
    requests_lock: Any
    socket: Any

    @property
    def draining(self) -> bool:
        return bool(getattr(self.server, "draining", False))

    @property
    def busy(self) -> bool:
        """A request is being read, worked on, or answered."""
        return bool(self.requests or self.request is not None or self.total_outbufs_len or self.close_when_flushed)

    def service(self) -> None:
        try:
            super().service()
        except BaseException:
            # waitress logs it, but would leave the caller waiting at an open and silent connection.
            with self.requests_lock:
                self.close_when_flushed = True
                self.requests = []
            self.server.pull_trigger()
            raise


class _QueueNews:
    """Stands where waitress has a logger."""

    def __init__(self, what: str, threads: int) -> None:
        self._threads = threads
        self._warn = RareWarning(f"%d {what} found all %d threads busy, the last with %d waiting")

    def warning(self, _text: str, waiting: int) -> None:
        self._warn(self._threads, waiting)


class _Dispatcher(ThreadedTaskDispatcher):  # type: ignore[misc]
    """The threads: some for calls, and others for all that is none, such as health, info and refusals."""

    def __init__(self, threads: int) -> None:
        super().__init__()
        self.queue_logger: Any = _QueueNews("request(s)", threads)
        self.set_thread_count(threads)
        self._aside: Any = ThreadedTaskDispatcher()
        self._aside.queue_logger = _QueueNews("request(s) for health or info", _ASIDE)
        self._aside.set_thread_count(_ASIDE)

    def add_task(self, task: Any) -> None:
        request = task.requests[0]
        if request.error is None and request.command == "POST":
            super().add_task(task)
        else:
            self._aside.add_task(task)

    def shutdown(self, cancel_pending: bool = True, timeout: Any = 5) -> bool:  # waitress takes seconds of any kind
        self._aside.shutdown(cancel_pending, timeout)
        return bool(super().shutdown(cancel_pending, timeout))


class Server:
    """Answers HTTP on a bound socket: :meth:`run` on a thread of its own, :meth:`stop` from any other."""

    def __init__(
        self,
        app: WSGIApplication,
        listener: socket.socket,
        *,
        threads: int,
        max_request_bytes: int,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._clock = clock
        self._map: dict[int, Any] = {}
        self._lock = threading.Lock()  # guards _stop_at, and the trigger from being pulled once it is closed
        self._stop_at: float | None = None
        self._ended = False
        self._server: Any = create_server(
            app,
            map=self._map,
            sockets=[listener],
            _dispatcher=_Dispatcher(threads),
            connection_limit=_CONNECTIONS + _OWN,
            # waitress counts what reaches its limit as too large; the app's limit is the largest that is not.
            max_request_body_size=max_request_bytes + 1,
            asyncore_use_poll=True,
            clear_untrusted_proxy_headers=False,
            log_socket_errors=False,
            ident="",
        )
        self._server.channel_class = _Channel
        self._let_go = RareWarning("%d idle connection(s) closed in favour of new ones: %d may be open", clock)

    def run(self) -> None:
        """Answers until :meth:`stop`, then finishes what is under way."""
        try:
            while self._stop_at is None:
                self._poll(_LOOK)
                if len(self._server.active_channels) >= _CONNECTIONS:
                    self._make_room()
            self._drain()
        finally:
            self._close()

    def stop(self, grace: float) -> None:
        """Makes :meth:`run` end, at the latest in ``grace`` seconds; a later call can only shorten that."""
        at = self._clock.monotonic() + grace
        with self._lock:
            self._stop_at = at if self._stop_at is None else min(at, self._stop_at)
            if not self._ended:
                self._server.pull_trigger()  # one byte into a pipe; never waits

    def _poll(self, seconds: float) -> None:
        wasyncore.loop(timeout=seconds, use_poll=True, map=self._map, count=1)

    def _make_room(self) -> None:
        """Closes the longest idle connection, unless all are in use."""
        before = self._clock.time() - _IDLE  # waitress reads that clock, too
        idle = [channel for channel in self._channels() if not channel.busy and channel.last_activity <= before]
        for channel in sorted(idle, key=lambda channel: channel.last_activity):
            if not _has_sent(channel.socket):
                channel.handle_close()
                self._let_go(_CONNECTIONS)
                return

    def _channels(self) -> list[_Channel]:
        return [channel for channel in list(self._map.values()) if isinstance(channel, _Channel)]

    def _remaining(self) -> float:
        return (self._stop_at or 0.0) - self._clock.monotonic()

    def _drain(self) -> None:
        self._accept_rest()
        wasyncore.dispatcher.close(self._server)  # the listener alone, not the trigger
        # Only now: a caller that is told to leave connects anew, and must find no listener that then goes.
        self._server.draining = True
        idle_until = self._clock.monotonic() + _LINGER
        while self._remaining() > 0:
            channels = self._channels()
            if self._clock.monotonic() >= idle_until:
                for channel in channels:
                    if not channel.busy:
                        channel.handle_close()
                channels = self._channels()
            if not channels:
                return
            self._poll(min(self._remaining(), _LINGER))
        cut = sum(1 for channel in self._channels() if channel.requests)
        if cut:
            _logger.warning("stopped with %d call(s) unfinished: the time to finish them was over", cut)

    def _accept_rest(self) -> None:
        """Takes in the connections that the listener's queue holds: closing it would reset them."""
        while len(self._map) < _CONNECTIONS + _OWN:
            before = len(self._map)
            self._server.handle_accept()
            if len(self._map) == before:
                return

    def _close(self) -> None:
        if self._server.socket is not None:
            wasyncore.dispatcher.close(self._server)
        self._server.task_dispatcher.shutdown(timeout=max(0.0, min(self._remaining(), 1.0)))
        for channel in self._channels():
            with contextlib.suppress(OSError):
                channel.handle_close()
        with self._lock:
            self._ended = True
            # A call that was cut goes on, and at its end wants to wake a loop that is no more.
            self._server.pull_trigger = lambda: None
            self._server.trigger.close()


def _has_sent(sock: socket.socket) -> bool:
    """Whether something came in that nobody has read yet."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))
