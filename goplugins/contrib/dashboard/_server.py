"""A small server for one operator's browser, of the standard library alone. Not for the open network."""

from __future__ import annotations

import logging
import socket
import socketserver
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import ServerHandler, WSGIRequestHandler, WSGIServer

from goplugins.errors import ConfigError

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

__all__ = ["PageServer"]

logger = logging.getLogger("goplugins.dashboard")

_LONGEST_LINE = 65536


class _Handler(WSGIRequestHandler):
    timeout = 30.0  # seconds for a silent peer: it holds a thread
    server_version = "goplugins"
    sys_version = ""

    def handle(self) -> None:
        """One request, as the standard library's does, but the application is told that there are threads."""
        try:
            self.raw_requestline = self.rfile.readline(_LONGEST_LINE + 1)
            if len(self.raw_requestline) > _LONGEST_LINE:
                self.requestline = self.request_version = self.command = ""
                self.send_error(414)
                return
            if not self.parse_request():
                return
            handler = ServerHandler(self.rfile, self.wfile, self.get_stderr(), self.get_environ(), multithread=True)  # type: ignore[arg-type]  # any stream will do
            handler.request_handler = self  # type: ignore[attr-defined]  # for its log
            handler.run(self.server.get_app())  # type: ignore[attr-defined]  # of PageServer
        except (ConnectionError, TimeoutError) as exc:
            logger.debug("a browser went away: %s", exc)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Requests are nobody's news."""
        logger.debug(format, *args)


class PageServer(socketserver.ThreadingMixIn, WSGIServer):
    """Answers requests on threads of their own: ``serve_forever()`` until ``shutdown()``.

    Args:
        app: what answers.
        host: a name or address to listen at.
        port: 0 takes a free one.

    Raises:
        ConfigError: nobody can listen there.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, app: WSGIApplication, host: str, port: int) -> None:
        try:
            family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            self.address_family = family
            super().__init__((str(address[0]), int(address[1])), _Handler)
        except OSError as exc:
            raise ConfigError(f"can't listen at {host} port {port}: {exc.strerror or exc}") from exc
        self.set_app(app)

    def server_bind(self) -> None:
        """Without the lookup of the machine's name, which may take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    @property
    def url(self) -> str:
        """Where it answers."""
        host = f"[{self.server_name}]" if ":" in self.server_name else self.server_name
        return f"http://{host}:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Into the log, not to stderr."""
        logger.exception("a request of %s failed", client_address)  # noqa: LOG004 - called while one is handled
