"""One service for each wire, which records the headers of its calls and accepts some of them."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from goplugins.transports.grpc.messages import EXECUTE, HEALTH, messages
from tests.integration.grpc.conftest import RawServer as GRPCServer, reply as grpc_reply
from tests.integration.unix.conftest import line, ok as line_ok, read_line
from tests.servers import Peer, RawServer, http_reply, ok as http_ok

WIRES = ("http-fast", "http-requests", "rest-fast", "rest-requests", "grpc", "unix", "exec")

_PROGRAM = """
import json, os, sys
for text in sys.stdin:
    request = json.loads(text)
    with open(sys.argv[1], "a") as log:
        log.write(json.dumps(request.get("headers", {})) + "\\n")
    with open(sys.argv[2]) as file:
        refused = file.read().split()
    value = request.get("headers", {}).get("Authorization", "").removeprefix("Bearer ")
    reply = {"type": request["type"], "request_id": request["request_id"]}
    if value in refused:
        reply.update(success=False, error="unknown token " + value, error_kind="unauthenticated")
    else:
        reply.update(success=True, data="ok")
    print(json.dumps(reply), flush=True)
"""

Fields = dict[str, str]


class Service:
    """A service on one wire.

    Attributes:
        refused: tokens that it refuses.
        config: of a plugin that calls it, without auth.
    """

    def __init__(self, wire: str) -> None:
        self.refused: set[str] = set()
        self._seen: list[Fields] = []
        self._folder = tempfile.TemporaryDirectory(prefix="gp-")
        kind, _, engine = wire.partition("-")
        self.config: dict[str, Any] = {"name": "p", "retry": {"max_retries": 0}, "health_check": {"enabled": False}}
        start: Callable[[], dict[str, Any]] = getattr(self, f"_{kind}")
        self.server: Any = None
        self.config.update(start())
        if engine:
            self.config.setdefault("options", {})["engine"] = engine

    def _accepts(self, headers: Fields) -> bool:
        self._seen.append(headers)
        return headers.get("authorization", "").removeprefix("Bearer ") not in self.refused

    def _http(self) -> dict[str, Any]:
        def answer(peer: Peer) -> None:
            while (request := peer.read_request()) is not None:
                good = self._accepts(request.headers)
                sent = request.headers.get("authorization", "")
                refusal = http_reply(f"unknown token {sent}", "401 Unauthorized", {"Content-Type": "text/plain"})
                peer.send(self._good(request) if good else refusal)

        self._good = http_ok
        self.server = RawServer(answer)
        return {"transport": "http", "endpoint": self.server.url}

    def _rest(self) -> dict[str, Any]:
        config = self._http()
        self._good = lambda request: http_reply(json.dumps("ok"))
        operations = {"get": {"method": "GET", "path": "/a/{id}"}, "post": {"method": "POST", "path": "/a"}}
        return {**config, "operations": operations}

    def _grpc(self) -> dict[str, Any]:
        def answer(request: bytes, context: Any) -> bytes:
            headers = {name: value for name, value in context.invocation_metadata() if isinstance(value, str)}
            if not self._accepts(headers):
                import grpc

                context.abort(grpc.StatusCode.UNAUTHENTICATED, f"unknown token {headers.get('authorization')}")
            return grpc_reply(request, payload=b'"ok"') if request else b""

        def health(request: bytes, context: Any) -> bytes:
            answer(b"", context)
            found: bytes = messages().HealthResponse(status="healthy").SerializeToString()
            return found

        self.server = GRPCServer({EXECUTE: answer, HEALTH: health})
        return {"transport": "grpc", "endpoint": self.server.address}

    def _unix(self) -> dict[str, Any]:
        def answer(peer: Peer) -> None:
            while (request := read_line(peer)) is not None:
                headers = {name.lower(): value for name, value in request.get("headers", {}).items()}
                kind, request_id, text = request["type"], request["request_id"], headers.get("authorization")
                refusal = {"type": kind, "request_id": request_id, "success": False}
                refusal |= {"error": f"unknown token {text}", "error_kind": "unauthenticated"}
                peer.send(line_ok(request) if self._accepts(headers) else line(refusal))

        path = os.path.join(self._folder.name, "s")
        self.server = RawServer(answer, unix=path)
        return {"transport": "unix", "endpoint": path}

    def _exec(self) -> dict[str, Any]:
        self._log, self._file = Path(self._folder.name, "log"), Path(self._folder.name, "refused")
        self._log.touch()
        self._file.touch()
        args = ["-I", "-S", "-c", _PROGRAM, str(self._log), str(self._file)]
        return {"transport": "exec", "executable": os.path.realpath(sys.executable), "args": args}

    @property
    def operation(self) -> dict[str, Any]:
        """The keyword of a call."""
        return {"operation": "post"} if "operations" in self.config else {}

    def check_by_message(self) -> None:
        """Has health checks send a request."""
        rest = "operations" in self.config
        self.config["health_check"] = {"enabled": False, **({"endpoint": "/health"} if rest else {"kind": "message"})}

    def refuse(self, token: str) -> None:
        self.refused.add(token)
        if self.config["transport"] == "exec":
            self._file.write_text(" ".join(self.refused))

    @property
    def seen(self) -> list[Fields]:
        """The headers of each request, by lower-case names."""
        if self.config["transport"] == "exec":
            found = map(json.loads, self._log.read_text().splitlines())
            return [{name.lower(): value for name, value in headers.items()} for headers in found]
        return self._seen

    def close(self) -> None:
        if self.server is not None:
            self.server.close()
        self._folder.cleanup()
