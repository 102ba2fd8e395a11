"""Loopback servers whose behaviour, right or wrong, a test writes itself: raw sockets, one thread a connection."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Self

__all__ = [
    "Peer",
    "RawServer",
    "Request",
    "free_port",
    "http_reply",
    "ok",
    "read_http2_request",
    "reply_ok",
    "silent_address",
]


@dataclass
class Request:
    """One HTTP request as it came; ``raw`` is byte for byte."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    raw: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def http_reply(
    body: bytes | str | dict[str, Any] = b"",
    status: str = "200 OK",
    headers: dict[str, str] | None = None,
    *,
    length: int | None = None,
) -> bytes:
    """A whole HTTP reply. ``length`` overrides the announced one."""
    if isinstance(body, dict):
        body = json.dumps(body)
    if isinstance(body, str):
        body = body.encode()
    lines = [f"HTTP/1.1 {status}"]
    fields = {"Content-Type": "application/json", "Content-Length": str(len(body) if length is None else length)}
    fields.update(headers or {})
    lines += [f"{name}: {value}" for name, value in fields.items()]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def ok(request: Request, data: Any = "ok") -> bytes:
    """A valid reply to a call."""
    return http_reply({"data": data, "request_id": request.headers.get("x-request-id", "")})


class Peer:
    """The server's side of one connection."""

    def __init__(self, server: RawServer, sock: socket.socket, number: int) -> None:
        self.server = server
        self.sock = sock
        self.number = number
        self.buffer = b""

    def read_request(self) -> Request | None:
        """The next request; None once the client has closed the connection."""
        while b"\r\n\r\n" not in self.buffer:
            if not self._fill():
                return None
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ", 2)
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        length = int(headers.get("content-length", "0"))
        while len(self.buffer) < length:
            if not self._fill():
                return None
        body, self.buffer = self.buffer[:length], self.buffer[length:]
        request = Request(method, path, headers, body, head + b"\r\n\r\n" + body)
        self.server.requests.append(request)
        return request

    def _fill(self) -> bool:
        try:
            data = self.sock.recv(1 << 20)
        except OSError:
            return False
        self.buffer += data
        return bool(data)

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def drip(self, data: bytes, interval: float) -> None:
        """Sends one byte every ``interval`` seconds, until all are sent or the server closes."""
        for index in range(len(data)):
            self.sock.sendall(data[index : index + 1])
            if self.server.closing.wait(interval):
                return

    def hang(self) -> None:
        """Sends nothing until the server closes or the client closes the connection."""
        while not self.server.closing.is_set() and self._fill():
            pass

    def reset(self) -> None:
        """Closes with a TCP reset instead of a proper end."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        self.sock.close()


Handler = Callable[[Peer], None]


def reply_ok(peer: Peer) -> None:
    """Sends a valid reply to every request of a connection."""
    while (request := peer.read_request()) is not None:
        peer.send(ok(request))


@dataclass
class RawServer:
    """Runs ``handler`` for each connection, on a thread of its own. Usable as a context manager.

    The handler may be replaced while it runs; connections that are open keep theirs.
    """

    handler: Handler = reply_ok
    tls: ssl.SSLContext | None = None
    host: str = "127.0.0.1"
    unix: str | None = None
    bind_port: int = 0
    requests: list[Request] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)
    connections: int = 0
    open_now: int = 0
    open_most: int = 0
    """Most connections at a time that the client had not closed. ``open_now`` counts until the handler returns."""

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._peers: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        if self.unix is not None:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(self.unix)
        else:
            self._listener = socket.socket(socket.AF_INET6 if ":" in self.host else socket.AF_INET)
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.bind((self.host, self.bind_port))
        self._listener.listen(128)
        self.port = 0 if self.unix is not None else self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}/plugin"

    def _accept(self) -> None:
        while not self.closing.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                self.open_now += 1
                self._peers.add(sock)
                self.open_most = max(self.open_most, sum(map(_is_open, self._peers)))
                number = self.connections
            thread = threading.Thread(target=self._serve, args=(sock, number), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        plain = sock
        try:
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.tls is not None:
                sock = self.tls.wrap_socket(sock, server_side=True)
                with self._lock:
                    self._peers.add(sock)
            self.handler(Peer(self, sock, number))
        except OSError:
            pass  # the client closed the connection, or the test closed the server
        finally:
            with self._lock:
                self.open_now -= 1
                self._peers -= {sock, plain}
            sock.close()
            plain.close()

    def drop_connections(self) -> None:
        """Ends every open connection, as a server that restarts does."""
        with self._lock:
            peers = list(self._peers)
        for sock in peers:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._listener.close()
        self._acceptor.join(5)
        self.drop_connections()
        for thread in self._threads:
            thread.join(5)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _is_open(sock: socket.socket) -> bool:
    """Whether the client has not closed it; the handler's thread may notice that much later."""
    if sock.fileno() < 0:
        return False
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    return not poll.poll(0)


def read_http2_request(peer: Peer) -> None:
    """Receives the first request of an HTTP/2 client: sends SETTINGS and reads frames up to the request's HEADERS."""
    peer.send(b"\0\0\0\4\0\0\0\0\0")
    start = len(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    while True:
        while len(peer.buffer) < start + 9:
            if not peer._fill():
                return
        if peer.buffer[start + 3] == 1:
            return
        start += 9 + int.from_bytes(peer.buffer[start : start + 3], "big")


def free_port() -> int:
    """A port of 127.0.0.1 that refuses connections, for as long as this process lives.

    A socket stays bound to it without listening, so that no other process gets it. A server that sets SO_REUSEADDR, as
    servers do, can still listen there.
    """
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    port: int = sock.getsockname()[1]
    sock.detach()  # open until the process ends
    return port


@contextlib.contextmanager
def silent_address(host: str = "127.0.0.1", port: int = 0) -> Iterator[tuple[socket.AddressFamily, Any]]:
    """An address that answers no connection attempt, as behind a firewall that drops packets: its backlog is full."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.ExitStack() as sockets:
        listener = sockets.enter_context(socket.socket(family))
        listener.bind((host, port))
        listener.listen(0)
        for _ in range(4):
            filler = sockets.enter_context(socket.socket(family))
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield family, listener.getsockname()
