"""The other side, which needs nothing of goplugins: answers messages on a Unix socket."""

from __future__ import annotations

import contextlib
import json
import os
import socketserver
import struct
import sys
from collections.abc import Callable
from typing import Any

LENGTH = struct.Struct(">I")


def serve(path: str, answer: Callable[[bytes], bytes]) -> None:
    """Replies to each message with ``answer(message)`` until the process ends. Each connection has a thread."""

    class Connection(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(ConnectionError):  # the caller has closed: it no longer waits
                while len(head := self.rfile.read(LENGTH.size)) == LENGTH.size:
                    reply = answer(self.rfile.read(*LENGTH.unpack(head)))
                    self.wfile.write(LENGTH.pack(len(reply)) + reply)

    class Server(socketserver.ThreadingUnixStreamServer):
        daemon_threads = True
        request_queue_size = 128

    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    with Server(path, Connection) as server:
        print(f"listening on {path}", flush=True)
        server.serve_forever()


def shout(message: bytes) -> bytes:
    """A plugin: replies to ``execute`` with the text in capitals, and to ``health`` and ``info``."""
    request = json.loads(message)
    reply: dict[str, Any] = {"type": request["type"], "request_id": request["request_id"], "success": True}
    if request["type"] == "info":
        reply["data"] = {"name": "shout", "version": "1.0"}
    elif request["type"] == "execute" and isinstance(request["data"], str):
        reply["data"] = request["data"].upper()
    elif request["type"] == "execute":
        reply |= {"success": False, "error": "expected a string", "error_kind": "invalid"}
    return json.dumps(reply).encode()


if __name__ == "__main__":
    serve(sys.argv[1], shout)
