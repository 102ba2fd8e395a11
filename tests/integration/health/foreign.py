"""Plugins of other makers: they answer calls, and have no requests for health and info."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.integration.grpc import conftest as raw_grpc
from tests.integration.unix.conftest import line, read_line
from tests.servers import Peer, RawServer, http_reply, ok

PROGRAM = """
import json, os, sys
folder = sys.argv[1]
open(os.path.join(folder, "started"), "a").write("x\\n")
lock = os.open(os.path.join(folder, "lock"), os.O_CREAT | os.O_WRONLY)
try:
    os.lockf(lock, os.F_TLOCK, 0)
except OSError:
    sys.exit("another instance runs")
for line in sys.stdin:
    request = json.loads(line)
    open(os.path.join(folder, "seen"), "a").write(request["type"] + "\\n")
    known = request["type"] == "execute"
    reply = {"success": True, "data": request["data"]} if known else {"success": False, "error": "unknown type"}
    print(json.dumps({"request_id": request["request_id"], **reply}), flush=True)
"""


class Foreign:
    """A plugin of another maker.

    Attributes:
        config: the settings of a plugin's configuration that address it.
        seen: what it has received: types of lines, paths or methods.
        stop: ends it.
    """

    def __init__(self, config: Mapping[str, Any], seen: Callable[[], list[str]], stop: Callable[[], object]) -> None:
        self.config = {"name": "p", "retry": {"max_retries": 0}, **config}
        self.seen = seen
        self.stop = stop


@contextmanager
def program() -> Iterator[Foreign]:
    """A program that takes a lock, so that a second process of it ends at once."""
    with tempfile.TemporaryDirectory(prefix="gp-") as name:
        folder = Path(name)
        script = folder / "program"
        script.write_text(f"#!{sys.executable}\n{PROGRAM}")
        script.chmod(0o755)

        def seen() -> list[str]:
            started = (folder / "started").read_text().splitlines() if (folder / "started").exists() else []
            assert len(started) <= 1, "a second process was started"
            return (folder / "seen").read_text().split() if (folder / "seen").exists() else []

        yield Foreign({"transport": "exec", "executable": str(script), "args": [name]}, seen, lambda: None)


@contextmanager
def socket_server() -> Iterator[Foreign]:
    """A server behind a Unix socket; it serves several connections at a time."""
    with tempfile.TemporaryDirectory(prefix="gp-") as folder:
        types: list[str] = []

        def serve(peer: Peer) -> None:
            while (request := read_line(peer)) is not None:
                types.append(request["type"])
                known = request["type"] == "execute"
                reply = {"success": True, "data": request["data"]} if known else {"success": False, "error": "what?"}
                peer.send(line({"request_id": request["request_id"], **reply}))

        server = RawServer(serve, unix=f"{folder}/s")
        yield Foreign({"transport": "unix", "endpoint": f"{folder}/s"}, lambda: types, server.close)
        server.close()


def web_server(status: str) -> Callable[[], Any]:
    """An HTTP server that replies to all but POST with ``status``."""

    @contextmanager
    def running() -> Iterator[Foreign]:
        paths: list[str] = []

        def serve(peer: Peer) -> None:
            while (request := peer.read_request()) is not None:
                paths.append(f"{request.method} {request.path}")
                peer.send(ok(request, request.json["data"]) if request.method == "POST" else http_reply("", status))

        server = RawServer(serve)
        yield Foreign({"transport": "http", "endpoint": server.url}, lambda: paths, server.close)
        server.close()

    return running


@contextmanager
def grpc_server() -> Iterator[Foreign]:
    """A gRPC server with the method of calls alone."""

    def execute(request: bytes, _: Any) -> bytes:
        return raw_grpc.reply(request, payload=raw_grpc.payload(request))

    with ExitStack() as stack:
        server = raw_grpc.RawServer(execute)
        stack.callback(server.close)
        yield Foreign({"transport": "grpc", "endpoint": server.address}, list, server.close)
