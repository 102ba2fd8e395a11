"""Server process of the benchmarks, with minimal work of its own, since clients are measured.

A ``POST`` over TCP, optionally with TLS, is answered with an envelope whose data has ``size`` bytes, a line over a Unix
socket with a line. The answer carries the id of the request, as with real servers. Requests whose path begins with
``/users/`` are answered with the data alone. The process ends when its standard input does, so it can't outlive its
parent.

One loop over epoll and plain sockets: time spent in the server is added to every row and hides differences of clients.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import re
import select
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path

import attrs

from benchmarks.messages import answer_json

__all__ = ["LineAnswers", "Server", "running_server"]

_CHUNK = 262144
_NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)

Answer = Callable[[bytes], tuple[bytes, int] | None]
"""The answer to the first request in the received bytes, and the end of that request; None if it is incomplete."""


@attrs.frozen
class Server:
    """Addresses of a running server.

    Attributes:
        size: bytes of data in its answers and in the requests of its clients.
        ca_file: certificate of its authority for TLS; empty without TLS.
        unix: the path of its Unix socket.
    """

    host: str
    port: int
    size: int
    ca_file: str
    unix: str

    @property
    def path(self) -> str:
        return "/plugin"

    @property
    def origin(self) -> str:
        return f"{'https' if self.ca_file else 'http'}://{self.host}:{self.port}"

    @property
    def url(self) -> str:
        return self.origin + self.path


@contextlib.contextmanager
def running_server(size: int, *, tls: bool = False) -> Generator[Server, None, None]:
    """Starts a server process; it inherits the CPU affinity of this process."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gp-")))
        unix = str(folder / "socket")
        ca_file, chain = _certificates(folder) if tls else ("", "")
        command = [sys.executable, "-m", "benchmarks.server", str(size), unix, *([chain] if chain else [])]
        process = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        stack.callback(process.kill)
        assert process.stdout is not None
        yield Server("127.0.0.1", int(process.stdout.readline()), size, ca_file, unix)


def _certificates(folder: Path) -> tuple[str, str]:
    """Paths of the authority's certificate, and of the server's certificate with its key."""
    import trustme

    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
    return str(folder / "ca.pem"), str(folder / "server.pem")


# --- the server's side ---------------------------------------------------------------------------------------------


class HTTPAnswers:
    """Answers to HTTP requests."""

    def __init__(self, size: int) -> None:
        self._data = b'{"data":' + answer_json(size)
        self._plain = self._reply(self._data + b"}")
        self._rest = self._reply(answer_json(size))
        self._starts: dict[int, bytes] = {}  # start of the answer by length of the request id

    @staticmethod
    def _reply(body: bytes, more: int = 0) -> bytes:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        return head % (len(body) + more) + body

    def __call__(self, data: bytes) -> tuple[bytes, int] | None:
        end = data.find(b"\r\n\r\n")
        if end < 0:
            return None
        at = data.find(b"Content-Length: ", 0, end)
        if at >= 0:
            size = int(data[at + 16 : data.find(b"\r", at)])
        else:
            found = re.search(rb"\r\ncontent-length: *(\d+)", data[:end].lower())
            size = int(found[1]) if found else 0
        end += 4 + size
        if len(data) < end:
            return None
        if data.startswith(b"/users/", data.find(b" ", 0, end) + 1):
            return self._rest, end
        at = data.find(b"X-Request-ID: ")
        if at < 0 or at >= end - size:
            return self._plain, end
        name = data[at + 14 : data.find(b"\r", at)]
        start = self._starts.get(len(name))
        if start is None:
            start = self._starts[len(name)] = self._reply(self._data + b',"request_id":"', len(name) + 2)
        return start + name + b'"}', end


class LineAnswers:
    """Answers to lines."""

    def __init__(self, size: int) -> None:
        self._start = b'{"type":"execute","success":true,"data":' + answer_json(size) + b',"request_id":"'

    def __call__(self, data: bytes) -> tuple[bytes, int] | None:
        end = data.find(b"\n")
        if end < 0:
            return None
        at = data.find(b'"request_id":') + 13
        at = data.find(b'"', at) + 1
        return self._start + data[at : data.find(b'"', at)] + b'"}\n', end + 1


class _Peer:
    """The server's side of one connection."""

    def __init__(self, sock: socket.socket, answer: Answer) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._answer = answer
        self._incomplete: list[bytes] = []
        self._again = isinstance(sock, ssl.SSLSocket)  # epoll does not report bytes that TLS has already read

    def serve(self) -> bool:
        """Answers all received requests; False once the client has closed the connection."""
        while True:
            try:
                data = self.sock.recv(_CHUNK)
            except _NOT_NOW:
                return True
            if not data:
                return False
            if self._incomplete:
                self._incomplete.append(data)
                data = b"".join(self._incomplete)
                self._incomplete.clear()
            while data:
                found = self._answer(data)
                if found is None:
                    self._incomplete.append(data)
                    break
                reply, end = found
                data = data[end:]
                done = self.sock.send(reply)
                if done < len(reply):
                    self._send(reply, done)
            if not self._again:
                return True

    def _send(self, reply: bytes, done: int) -> None:
        while done < len(reply):
            try:
                done += self.sock.send(reply[done:])
            except _NOT_NOW:
                select.select([], [self.sock], [])


def _serve(size: int, unix: str, context: ssl.SSLContext | None) -> None:
    http = socket.create_server(("127.0.0.1", 0), backlog=128)
    lines = socket.socket(socket.AF_UNIX)
    lines.bind(unix)
    lines.listen(128)
    listeners: dict[int, tuple[socket.socket, Answer]] = {
        http.fileno(): (http, HTTPAnswers(size)),
        lines.fileno(): (lines, LineAnswers(size)),
    }
    epoll = select.epoll()
    for descriptor in (*listeners, sys.stdin.fileno()):  # stdin gets no data: readable means closed
        epoll.register(descriptor, select.EPOLLIN)
    peers: dict[int, _Peer] = {}
    sys.stdout.write(f"{http.getsockname()[1]}\n")
    sys.stdout.flush()
    gc.collect()
    gc.freeze()
    while True:
        for descriptor, _ in epoll.poll():
            peer = peers.get(descriptor)
            if peer is not None:
                try:
                    alive = peer.serve()
                except OSError:
                    alive = False
                if not alive:
                    epoll.unregister(descriptor)
                    peers.pop(descriptor).sock.close()
            elif descriptor in listeners:
                listener, answer = listeners[descriptor]
                with contextlib.suppress(OSError):
                    sock = _accept(listener, context)
                    peers[sock.fileno()] = _Peer(sock, answer)
                    epoll.register(sock, select.EPOLLIN)
            else:
                return


def _accept(listener: socket.socket, context: ssl.SSLContext | None) -> socket.socket:
    sock, _ = listener.accept()
    if listener.family is socket.AF_UNIX:
        return sock
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock if context is None else context.wrap_socket(sock, server_side=True)


def _context(chain: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    return context


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.server", description=__doc__)
    parser.add_argument("size", type=int)
    parser.add_argument("unix")
    parser.add_argument("chain", nargs="?")
    arguments = parser.parse_args()
    _serve(arguments.size, arguments.unix, _context(arguments.chain) if arguments.chain else None)


if __name__ == "__main__":
    main()
