"""A small HTTP server for one operator's browser, on the standard library. Not for the open network."""

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
        """One request, as in the standard library, but with ``wsgi.multithread`` set."""
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
            logger.debug("the browser closed the connection: %s", exc)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Requests are logged at DEBUG only."""
        logger.debug(format, *args)


class PageServer(socketserver.ThreadingMixIn, WSGIServer):
    """Serves each request on its own thread: ``serve_forever()`` until ``shutdown()``.

    Args:
        app: the application.
        host: the name or address to listen on.
        port: 0 takes any free port.

    Raises:
        ConfigError: the address can't be used.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, app: WSGIApplication, host: str, port: int) -> None:
        try:
            family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            self.address_family = family
            super().__init__((str(address[0]), int(address[1])), _Handler)
        except OSError as exc:
            raise ConfigError(f"can't listen on {host} port {port}: {exc.strerror or exc}") from exc
        self.set_app(app)

    def server_bind(self) -> None:
        """Without the lookup of the machine's name, which may take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    @property
    def url(self) -> str:
        """The server's URL."""
        host = f"[{self.server_name}]" if ":" in self.server_name else self.server_name
        return f"http://{host}:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Logs the failure instead of printing it."""
        logger.exception("a request of %s failed", client_address)  # noqa: LOG004 - called while one is handled
