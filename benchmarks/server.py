"""A small HTTP server in a process of its own, with as little of its own to do as possible: clients are measured.

``POST /<size>`` answers with an envelope whose data has ``size`` bytes. A request id in the head comes back in the
envelope, as real servers do it. It serves until its standard input ends, so it can't outlive who started it.

One loop over epoll and plain sockets: what the server takes longer is added to every row, and hides what is to be seen.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path

import attrs

from benchmarks.messages import answer_json

__all__ = ["Server", "running_server"]

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
_NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


@attrs.frozen
class Server:
    """Where a server answers. ``size`` is what its clients ask it for; ``ca_file`` what vouches for it over TLS."""

    host: str
    port: int
    size: int
    ca_file: str = ""

    @property
    def path(self) -> str:
        return f"/{self.size}"

    @property
    def url(self) -> str:
        return f"{'https' if self.ca_file else 'http'}://{self.host}:{self.port}{self.path}"


@contextlib.contextmanager
def running_server(size: int, *, tls: bool = False) -> Generator[Server, None, None]:
    """A server process, on the CPUs that this process has now."""
    with contextlib.ExitStack() as stack:
        ca_file = chain = ""
        if tls:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            ca_file, chain = _certificates(folder)
        command = [sys.executable, "-m", "benchmarks.server", *([chain] if chain else [])]
        process = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        stack.callback(process.kill)
        assert process.stdout is not None
        yield Server("127.0.0.1", int(process.stdout.readline()), size, ca_file)


def _certificates(folder: Path) -> tuple[str, str]:
    """Files: the authority's certificate; the server's certificate with its key."""
    import trustme

    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
    return str(folder / "ca.pem"), str(folder / "server.pem")


class _Peer:
    """The server's side of one connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._held = b""
        self._needed = 0
        self._replies: dict[bytes, bytes] = {}

    def serve(self) -> bool:
        """Answers what has come; False once the client has gone."""
        while True:
            try:
                data = self.sock.recv(262144)
            except _NOT_NOW:
                return True
            if not data:
                return False
            self._held = data = self._held + data if self._held else data
            if len(data) < self._needed:
                continue
            self._answer(data)
            if not isinstance(self.sock, ssl.SSLSocket):
                return True  # what else there is, epoll tells

    def _answer(self, data: bytes) -> None:
        while (end := data.find(b"\r\n\r\n")) >= 0:
            head = data[:end]
            lower = head.lower()
            self._needed = end + 4 + int(_value(lower, lower, b"\r\ncontent-length:") or 0)
            if len(data) < self._needed:
                break
            self._send(self._reply(head, lower))
            data = data[self._needed :]
            self._needed = 0
        self._held = data

    def _send(self, reply: bytes) -> None:
        done = self.sock.send(reply)
        while done < len(reply):
            try:
                done += self.sock.send(reply[done:])
            except _NOT_NOW:
                select.select([], [self.sock], [])

    def _reply(self, head: bytes, lower: bytes) -> bytes:
        path = head[: head.index(b" ", 6)]
        data = self._replies.get(path)
        if data is None:
            data = self._replies[path] = b'{"data":' + answer_json(int(path.partition(b"/")[2]))
        request_id = _value(head, lower, b"\r\nx-request-id:")
        body = b'%b,"request_id":"%b"}' % (data, request_id) if request_id else data + b"}"
        return _HEAD % (len(body), body)


def _value(head: bytes, lower: bytes, name: bytes) -> bytes:
    start = lower.find(name)
    if start < 0:
        return b""
    start += len(name)
    end = lower.find(b"\r", start)
    return (head[start:end] if end > 0 else head[start:]).strip()


def _serve(context: ssl.SSLContext | None) -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    epoll = select.epoll()
    epoll.register(listener, select.EPOLLIN)
    epoll.register(sys.stdin, select.EPOLLIN)  # nothing is ever written there: readable means closed
    peers: dict[int, _Peer] = {}
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
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
            elif descriptor == listener.fileno():
                sock, _ = listener.accept()
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    if context is not None:
                        sock = context.wrap_socket(sock, server_side=True)
                    sock.setblocking(False)
                    peers[sock.fileno()] = _Peer(sock)
                    epoll.register(sock, select.EPOLLIN)
            else:
                return


def _context(chain: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    return context


if __name__ == "__main__":
    _serve(_context(sys.argv[1]) if len(sys.argv) > 1 else None)
