"""A small HTTP server in a process of its own: it answers as fast as asyncio can, so that clients are measured.

``POST /<size>`` answers with an envelope whose data has ``size`` bytes. A request id in the head comes back in the
envelope, as real servers do it. It serves until its standard input ends, so it can't outlive who started it.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Generator

import attrs

from benchmarks.messages import answer_json

__all__ = ["Server", "running_server"]

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


@attrs.frozen
class Server:
    """Where a server answers. ``size`` is what its clients ask it for."""

    host: str
    port: int
    size: int

    @property
    def path(self) -> str:
        return f"/{self.size}"

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}{self.path}"


@contextlib.contextmanager
def running_server(size: int) -> Generator[Server, None, None]:
    """A server process, on the CPUs that this process has now."""
    command = [sys.executable, "-m", "benchmarks.server"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield Server("127.0.0.1", int(process.stdout.readline()), size)
        finally:
            process.kill()


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._held = b""
        self._replies: dict[bytes, bytes] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._held += data
        while (end := self._held.find(b"\r\n\r\n")) >= 0:
            head = self._held[:end]
            body = end + 4 + int(_header(head, b"content-length:") or 0)
            if len(self._held) < body:
                return
            self._held = self._held[body:]
            self._transport.write(self._reply(head))

    def _reply(self, head: bytes) -> bytes:
        path = head.split(b" ", 2)[1]
        if path not in self._replies:
            self._replies[path] = answer_json(int(path[1:]))
        request_id = _header(head, b"x-request-id:")
        tail = b',"request_id":"%b"}' % request_id if request_id else b"}"
        body = b'{"data":%b%b' % (self._replies[path], tail)
        return _HEAD % len(body) + body


def _header(head: bytes, name: bytes) -> bytes:
    start = head.lower().find(b"\r\n" + name)
    return head[start + 2 + len(name) :].split(b"\r\n", 1)[0].strip() if start >= 0 else b""


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Connection, "127.0.0.1", 0)
    ended = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), ended.set)  # nothing is ever written there: readable means closed
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await ended.wait()


if __name__ == "__main__":
    asyncio.run(_serve())
