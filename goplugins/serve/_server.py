"""A served plugin's own servers: started for tests and notebooks, or run until the process is told to stop."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from goplugins.errors import InvalidArgumentError, PluginError
from goplugins.serve._listeners import endpoint_of, open_server
from goplugins.serve._plugin import ServedPlugin
from goplugins.serve._signals import Bids
from goplugins.serve._wsgi import MAX_REQUEST_BYTES

if TYPE_CHECKING:
    from goplugins.config.credentials import AuthConfig
    from goplugins.serve._grpc import ServerTLS
    from goplugins.serve._listeners import Server

__all__ = ["RunningServer", "run", "start"]

_logger = logging.getLogger("goplugins.serve")

GRACE = 30.0
"""Seconds for calls in flight to end once a server is told to stop."""


class RunningServer:
    """A server at work on threads of its own; leaving its ``with`` block stops it.

    Attributes:
        url: where it answers; with the real port if it was asked for port 0.
        endpoint: what the ``endpoint`` of a client's configuration calls that: ``host:port`` for gRPC, the path of a
            Unix socket, the URL itself for HTTP.
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
        """Takes no more calls, waits for those in flight, and returns once all has ended. Harmless when repeated.

        Args:
            grace: seconds for the calls in flight; what they still do then, they do unheard. The start's own
                ``grace`` when None; a repeated call can only shorten it.
        """
        self.request_stop(grace)
        self.wait()

    def request_stop(self, grace: float | None = None) -> None:
        """Like :meth:`stop`, but does not wait: what a plugin's own function may call."""
        self._server.stop(self._grace if grace is None else grace)

    def wait(self, timeout: float | None = None) -> bool:
        """Waits for the end, at most ``timeout`` seconds; True if it has come.

        Raises:
            PluginError: the server ended by a failure of its own.
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
    plugin: ServedPlugin[Any, Any],
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
        plugin: what :func:`~goplugins.serve.plugin` made.
        url: where: ``http://host:port`` (needs the extra ``serve``; with a path, calls are answered there alone),
            ``grpc://host:port``, ``grpcs://host:port``, ``unix:///run/x.sock`` or ``unix:@name``. Port 0 takes a
            free one.
        auth: credentials that every request must bring.
        threads: how many calls run at once; further ones wait, within their callers' deadlines.
        grace: seconds that a stop leaves to calls in flight.
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
    return _start(plugin, url, auth, threads, grace, max_request_bytes, tls, lambda: None)


def _start(
    plugin: ServedPlugin[Any, Any],
    url: str,
    auth: AuthConfig | None,
    threads: int,
    grace: float,
    max_request_bytes: int,
    tls: ServerTLS | None,
    on_end: Callable[[], None],
) -> RunningServer:
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise InvalidArgumentError(f"threads: expected 1 or more, got {threads!r}")
    if not grace >= 0:
        raise InvalidArgumentError(f"grace: expected seconds of 0 or more, got {grace!r}")
    server, where = open_server(plugin, url, auth=auth, threads=threads, max_request_bytes=max_request_bytes, tls=tls)
    return RunningServer(server, where, grace, on_end)


def _log_somewhere() -> None:
    """Sends logs to stderr if they would go nowhere: a program that set up none must still see why a call failed."""
    logger: logging.Logger | None = _logger
    while logger is not None:
        if not all(isinstance(handler, logging.NullHandler) for handler in logger.handlers):
            return
        logger = logger.parent if logger.propagate else None
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def run(
    plugin: ServedPlugin[Any, Any],
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

    A second signal cuts them. Off the main thread, which alone receives signals, it runs until a server that
    ``ready`` was given is stopped. As soon as it answers, it writes ``listening on`` and the endpoint to stdout, as a
    client's configuration names it: ``http://host:port``, ``host:port`` for gRPC, a socket's path. A parent process
    can so read the port. Where no logging is set up, it logs to stderr.

    Args:
        plugin: what :func:`~goplugins.serve.plugin` made.
        urls: where, one or several; see :func:`start`, as all that is not listed here. ``stdio:``, alone, answers
            lines on stdin and stdout, as a plugin of the exec transport. By default ``http://127.0.0.1:8000``.
        auth: see :func:`start`.
        threads: see :func:`start`; for each URL.
        grace: seconds for the calls in flight.
        max_request_bytes: see :func:`start`.
        tls: see :func:`start`; for the ``grpcs`` addresses among several.
        ready: called with each server once it answers.
        quiet: writes nothing.

    Raises:
        ConfigError: see :func:`start`.
        InvalidArgumentError: see :func:`start`.
        PluginError: a server ended by a failure of its own.
    """
    urls = urls or ("http://127.0.0.1:8000",)
    if "stdio:" in urls and len(urls) > 1:
        raise InvalidArgumentError("stdio: stands alone: its process belongs to the one caller that started it")
    secured = any(url.lower().startswith("grpcs:") for url in urls)
    _log_somewhere()
    with Bids() as bids, contextlib.ExitStack() as running:
        servers = []
        for url in urls:
            # One of several wires has TLS: the others are served without, and tls alone without any is refused.
            own = tls if url.lower().startswith("grpcs:") or not secured else None
            server = _start(plugin, url, auth, threads, grace, max_request_bytes, own, bids.ended)
            servers.append(running.enter_context(server))
            if not quiet and url != "stdio:":  # there, stdout is the wire
                sys.stdout.write(f"listening on {server.endpoint}\n")
                sys.stdout.flush()
            if ready is not None:
                ready(server)
        patience: float | None = None
        while True:
            ended = bids.wait()
            for server in servers:
                server.request_stop(None if ended else patience)
            if ended:
                return  # leaving the block waits for the others
            patience = 0.0
