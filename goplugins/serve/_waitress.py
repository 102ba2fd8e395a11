"""The HTTP server of ``serve.run``: waitress, with a graceful stop. Imported when a server starts.

Changes to waitress, and their reasons:

- Graceful stop: the listener is closed, calls in flight are finished with ``Connection: close``, then idle connections
  are closed.
- Health and info have threads of their own: they are most important when calls keep a server busy.
- When the maximum of connections is open, the longest idle one is closed for a new one.
- The arrival time of a request is recorded: waiting for a thread counts against the caller's deadline.
- A call that ends with a BaseException closes its connection; waitress would leave the caller waiting.
- Refusals are envelopes, not plain text. A request that is too large is read to its end, or the caller would get a
  connection reset and not the reason.
- The warning about requests without a free thread is limited to one line per 10 s.
- Head and body of a reply are sent in one segment.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
from typing import TYPE_CHECKING, Any

from waitress import wasyncore  # type: ignore[import-untyped]
from waitress.channel import HTTPChannel  # type: ignore[import-untyped]
from waitress.parser import HTTPRequestParser  # type: ignore[import-untyped]
from waitress.server import create_server  # type: ignore[import-untyped]
from waitress.task import ErrorTask, ThreadedTaskDispatcher, WSGITask  # type: ignore[import-untyped]
from waitress.utilities import RequestEntityTooLarge  # type: ignore[import-untyped]

from goplugins.runtime.clock import SYSTEM_CLOCK, Clock
from goplugins.runtime.fork import create_lock
from goplugins.runtime.log_throttle import LogThrottle
from goplugins.runtime.polling import create_poll
from goplugins.serve._wsgi import ARRIVED, error_body

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication, WSGIEnvironment

_logger = logging.getLogger("goplugins.serve")

_CONNECTIONS = 500
"""Maximum open connections, safely below the usual limit of 1,024 files. For a further one the longest idle connection
is closed; if all have a request in flight, it waits in the listener's queue."""

_IDLE = 0.5
"""Seconds without a byte until a connection may be closed for another one: a request may be on its way."""

_NOT_CONNECTIONS = 2
"""Entries of waitress's map that are no connections: the listener and the trigger, which wakes the loop."""

_HEALTH_THREADS = 2
"""Threads for health and info: two, so that one health check that hangs does not block the next one."""

_LOOP_TIMEOUT = 1.0
"""Seconds between checks for idle connections; every other event wakes the loop."""

_LINGER = 0.1
"""Seconds that a stopping server keeps idle connections open: a request may be on its way."""

_MAX_DISCARDED = 64 * 1024 * 1024
"""Maximum bytes of a request that is too large that are read and dropped before its refusal."""


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
            # A client that sent "Expect: 100-continue" gets the refusal before it sends the body.
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
        """Whether a request is being read, executed or answered."""
        return bool(self.requests or self.request is not None or self.total_outbufs_len or self.close_when_flushed)

    def service(self) -> None:
        try:
            super().service()
        except BaseException:
            # waitress logs it, but would leave the connection open without a reply.
            with self.requests_lock:
                self.close_when_flushed = True
                self.requests = []
            self.server.pull_trigger()
            raise


class _QueueLogger:
    """Replaces the logger that waitress warns when a request waits for a thread."""

    def __init__(self, what: str, threads: int) -> None:
        self._what = what
        self._threads = threads
        self._throttle = LogThrottle()

    def warning(self, _text: str, waiting: int) -> None:
        if count := self._throttle.count():
            text = "%d %s had to wait: %s busy, with %d waiting at the last one"
            busy = "its thread was" if self._threads == 1 else f"all {self._threads} threads were"
            _logger.warning(text, count, self._what, busy, waiting)


class _Dispatcher(ThreadedTaskDispatcher):  # type: ignore[misc]
    """Threads for calls, and others for health, info and refusals."""

    def __init__(self, threads: int) -> None:
        super().__init__()
        self.queue_logger: Any = _QueueLogger("request(s)", threads)
        self.set_thread_count(threads)
        self._beside: Any = ThreadedTaskDispatcher()
        self._beside.queue_logger = _QueueLogger("request(s) for health or info", _HEALTH_THREADS)
        self._beside.set_thread_count(_HEALTH_THREADS)

    def add_task(self, task: Any) -> None:
        request = task.requests[0]
        if request.error is None and request.command == "POST":
            super().add_task(task)
        else:
            self._beside.add_task(task)

    def shutdown(self, cancel_pending: bool = True, timeout: Any = 5) -> bool:  # waitress accepts int and float
        self._beside.shutdown(cancel_pending, timeout)
        return bool(super().shutdown(cancel_pending, timeout))


class Server:
    """Serves HTTP on a bound socket: :meth:`run` on a thread of its own, :meth:`stop` from any other."""

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
        self._lock = create_lock(self)  # guards _stop_at and _ended: a closed trigger must not be pulled
        self._stop_at: float | None = None
        self._ended = False
        self._server: Any = create_server(
            app,
            map=self._map,
            sockets=[listener],
            _dispatcher=_Dispatcher(threads),
            connection_limit=_CONNECTIONS + _NOT_CONNECTIONS,
            # waitress refuses a body that reaches its limit, the application one that exceeds it.
            max_request_body_size=max_request_bytes + 1,
            asyncore_use_poll=True,
            clear_untrusted_proxy_headers=False,
            log_socket_errors=False,
            ident="",
        )
        self._server.channel_class = _Channel
        self._throttle = LogThrottle(clock=clock)

    def run(self) -> None:
        """Serves until :meth:`stop`, then finishes the calls in flight."""
        try:
            while self._stop_at is None:
                self._poll(_LOOP_TIMEOUT)
                if len(self._server.active_channels) >= _CONNECTIONS:
                    self._close_longest_idle()
            self._drain()
        finally:
            self._close()

    def stop(self, grace: float) -> None:
        """Ends :meth:`run` in ``grace`` seconds at the latest; a later call can only shorten that."""
        at = self._clock.monotonic() + grace
        with self._lock:
            self._stop_at = at if self._stop_at is None else min(at, self._stop_at)
            if not self._ended:
                self._server.pull_trigger()  # writes one byte to a pipe; does not wait

    def _poll(self, seconds: float) -> None:
        wasyncore.loop(timeout=seconds, use_poll=True, map=self._map, count=1)

    def _close_longest_idle(self) -> None:
        """Closes the longest idle connection, unless all are busy."""
        before = self._clock.time() - _IDLE  # the clock of last_activity
        idle = [channel for channel in self._channels() if not channel.busy and channel.last_activity <= before]
        for channel in sorted(idle, key=lambda channel: channel.last_activity):
            if not _has_unread_bytes(channel.socket):
                channel.handle_close()
                if count := self._throttle.count():
                    text = "%d idle connection(s) closed in favour of new ones: at most %d may be open"
                    _logger.warning(text, count, _CONNECTIONS)
                return

    def _channels(self) -> list[_Channel]:
        return [channel for channel in list(self._map.values()) if isinstance(channel, _Channel)]

    def _remaining(self) -> float:
        return (self._stop_at or 0.0) - self._clock.monotonic()

    def _drain(self) -> None:
        self._accept_rest()
        wasyncore.dispatcher.close(self._server)  # the listener alone, not the trigger
        # Only now: a caller whose connection is closed reconnects, and must not reach a listener that is closed then.
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
            _logger.warning("stopped with %d call(s) in flight, which did not end within the grace period", cut)

    def _accept_rest(self) -> None:
        """Accepts the connections in the listener's queue: closing the listener would reset them."""
        while len(self._map) < _CONNECTIONS + _NOT_CONNECTIONS:
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
            # An unfinished call continues, and at its end would wake a loop that has ended.
            self._server.pull_trigger = lambda: None
            self._server.trigger.close()


def _has_unread_bytes(sock: socket.socket) -> bool:
    """Whether bytes have arrived that are not read yet."""
    poll = create_poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))
