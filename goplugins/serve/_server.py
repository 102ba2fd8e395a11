"""Runs the servers of a plugin: on background threads, or until the process gets a signal to stop."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack

from goplugins.errors import InvalidArgumentError, PluginError
from goplugins.runtime.fork import create_lock
from goplugins.serve._listeners import ServerSettings, endpoint_of, open_server
from goplugins.serve._served import Served
from goplugins.serve._wsgi import MAX_REQUEST_BYTES

if TYPE_CHECKING:
    from goplugins.config.credentials import AuthConfig
    from goplugins.serve._grpc import ServerTLS
    from goplugins.serve._listeners import Server

_logger = logging.getLogger("goplugins.serve")

GRACE = 30.0
"""Seconds for calls in flight to end once a server stops."""

_SERVER_ENDED = 0
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """SIGTERM, SIGINT and the ends of servers, in the order in which they occur.

    They are bytes in a pipe, to which the interpreter's own signal handler writes. A thread that is about to wait for
    a queue or a lock does not notice a signal, and would keep waiting.

    On other threads than the main thread, which alone can install signal handlers, only the ends of servers occur.
    """

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._lock = create_lock(self)
        self._is_open = True
        self._previous: dict[signal.Signals, Any] = {}
        self._previous_descriptor = -1

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous_descriptor = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
            self._previous = {number: signal.signal(number, _ignore) for number in _STOP_SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._previous:
            for number, handler in self._previous.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(self._previous_descriptor)
        with self._lock:
            self._is_open = False
            os.close(self._writer)
        os.close(self._reader)

    def server_ended(self) -> None:
        """Records the end of a server; from any thread."""
        with self._lock, contextlib.suppress(BlockingIOError):
            if self._is_open:
                os.write(self._writer, bytes([_SERVER_ENDED]))

    def wait(self) -> bool:
        """Waits for the next one: True if a server has ended, False for a signal."""
        while True:
            (number,) = os.read(self._reader, 1)
            if number == _SERVER_ENDED:
                return True
            if number in _STOP_SIGNALS:  # other signals have handlers of the application
                return False


def _ignore(*_: object) -> None:
    """A Python handler: without one, the interpreter would not write the signal to the pipe."""


class RunningServer:
    """A server that runs on threads of its own; the end of its ``with`` block stops it.

    Attributes:
        url: its URL, with the real port in place of port 0.
        endpoint: the ``endpoint`` of a client's configuration: ``host:port`` for gRPC, the path of a Unix socket, the
            URL itself for HTTP.
    """

    def __init__(self, server: Server, url: str, grace: float, on_end: Callable[[], None]) -> None:
        self.url = url
        self.endpoint = endpoint_of(url)
        self._server = server
        self._grace = grace
        self._on_end = on_end
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="goplugins-serve", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<RunningServer {self.url}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self, grace: float | None = None) -> None:
        """Accepts no more calls, waits for the calls in flight, and returns once the server has ended. Idempotent.

        Args:
            grace: seconds for the calls in flight; the responses of later ones are dropped. The ``grace`` of the start
                when None; a repeated call can only shorten it.
        """
        self.request_stop(grace)
        self.wait()

    def request_stop(self, grace: float | None = None) -> None:
        """Like :meth:`stop`, but does not wait: the plugin's own function may call it."""
        self._server.stop(self._grace if grace is None else grace)

    def wait(self, timeout: float | None = None) -> bool:
        """Waits for the end, at most ``timeout`` seconds; whether the server has ended.

        Raises:
            PluginError: the server itself failed.
        """
        self._thread.join(timeout)
        if self._thread.is_alive():
            return False
        if self._failure is not None:
            raise PluginError(f"the server at {self.url} failed: {self._failure}") from self._failure
        return True

    def _run(self) -> None:
        try:
            self._server.run()
        except Exception as exc:
            _logger.exception("the server at %s failed", self.url)
            self._failure = exc
        finally:
            self._on_end()


def start(
    plugin: Served,
    url: str = "http://127.0.0.1:0",
    *,
    auth: AuthConfig | None = None,
    threads: int = 8,
    grace: float = GRACE,
    max_request_bytes: int = MAX_REQUEST_BYTES,
    tls: ServerTLS | None = None,
) -> RunningServer:
    """Serves a plugin on background threads, for tests and notebooks.

    Args:
        plugin: a function with :func:`~goplugins.serve.plugin`, or a :class:`~goplugins.serve.Plugin`.
        url: address to listen at: ``http://host:port`` (needs the extra ``serve``; a path is the only one that is
            called), ``grpc://host:port``, ``grpcs://host:port``, ``unix:///run/x.sock`` or ``unix:@name``. Port 0
            takes a free one.
        auth: credentials that every request must have.
        threads: maximum calls executed at once; further ones wait, within their callers' deadlines.
        grace: seconds that a stop waits for calls in flight.
        max_request_bytes: larger requests are refused.
        tls: the certificate files, for ``grpcs``.

    Raises:
        ConfigError: the address can't be used, ``auth`` lacks its credentials, or waitress is not installed.
        InvalidArgumentError: an argument can't be used.

    >>> import urllib.request
    >>> from goplugins import serve
    >>> @serve.plugin
    ... def echo(request: str) -> str:
    ...     return request
    >>> with serve.start(echo) as server:
    ...     urllib.request.urlopen(server.url + "/health").status
    200
    """
    return _start(
        plugin, url, tls, grace, lambda: None, auth=auth, threads=threads, max_request_bytes=max_request_bytes
    )


def _start(
    plugin: Served,
    url: str,
    tls: ServerTLS | None,
    grace: float,
    on_end: Callable[[], None],
    **settings: Unpack[ServerSettings],
) -> RunningServer:
    threads = settings["threads"]
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise InvalidArgumentError(f"threads: expected 1 or more, got {threads!r}")
    if not grace >= 0:
        raise InvalidArgumentError(f"grace: expected seconds of 0 or more, got {grace!r}")
    server, where = open_server(plugin, url, tls, **settings)
    return RunningServer(server, where, grace, on_end)


def _ensure_logging() -> None:
    """Logs to stderr if no handler is installed: a program without logging must still show why a call failed."""
    logger: logging.Logger | None = _logger
    while logger is not None:
        if not all(isinstance(handler, logging.NullHandler) for handler in logger.handlers):
            return
        logger = logger.parent if logger.propagate else None
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def run(
    plugin: Served,
    *urls: str,
    auth: AuthConfig | None = None,
    threads: int = 8,
    grace: float = GRACE,
    max_request_bytes: int = MAX_REQUEST_BYTES,
    tls: ServerTLS | None = None,
    ready: Callable[[RunningServer], None] | None = None,
    quiet: bool = False,
) -> None:
    """Serves a plugin until SIGTERM or SIGINT, then finishes the calls in flight and returns.

    A second signal aborts them. On other threads than the main thread, which alone receives signals, it runs until one
    of its servers, which ``ready`` gets, is stopped. Once a server listens, ``listening on`` and its endpoint are
    written to stdout, so that a parent process can read the port: ``http://host:port``, ``host:port`` for gRPC, the
    path of a socket. If no logging is set up, it logs to stderr.

    Args:
        plugin: a function with :func:`~goplugins.serve.plugin`, or a :class:`~goplugins.serve.Plugin`.
        urls: addresses to listen at, one or several; see :func:`start`. ``stdio:``, alone, serves stdin and stdout,
            for the exec transport. By default ``http://127.0.0.1:8000``.
        auth: see :func:`start`.
        threads: see :func:`start`; for each URL.
        grace: seconds for the calls in flight.
        max_request_bytes: see :func:`start`.
        tls: see :func:`start`; for the ``grpcs`` addresses among several.
        ready: called with each server once it listens.
        quiet: writes nothing to stdout.

    Raises:
        ConfigError: see :func:`start`.
        InvalidArgumentError: see :func:`start`.
        PluginError: a server itself failed.
    """
    urls = urls or ("http://127.0.0.1:8000",)
    if "stdio:" in urls and len(urls) > 1:
        raise InvalidArgumentError("stdio: can't be combined with other addresses: one client owns the process")
    secured = any(url.lower().startswith("grpcs:") for url in urls)
    settings = ServerSettings(auth=auth, threads=threads, max_request_bytes=max_request_bytes)
    _ensure_logging()
    with StopSignals() as signals, contextlib.ExitStack() as running:
        servers = []
        for url in urls:
            # Among several addresses only grpcs ones get tls; tls without any grpcs address is refused.
            own = tls if url.lower().startswith("grpcs:") or not secured else None
            server = _start(plugin, url, own, grace, signals.server_ended, **settings)
            servers.append(running.enter_context(server))
            if not quiet and url != "stdio:":  # stdout carries the replies
                sys.stdout.write(f"listening on {server.endpoint}\n")
                sys.stdout.flush()
            if ready is not None:
                ready(server)
        patience: float | None = None
        while True:
            ended = signals.wait()
            for server in servers:
                server.request_stop(None if ended else patience)
            if ended:
                return  # the exit stack waits for the others
            patience = 0.0
