"""All plugin servers in one process: ``python -m tests.hosts.servers FOLDER`` serves until stdin ends.

Prints the configuration of the plugins as one line of JSON once all servers listen.
"""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import trustme

from goplugins import serve
from tests.hosts.plugins import Ask, twice
from tests.servers import Peer, RawServer, http_reply, ok

__all__ = ["ROOT", "PluginServers"]

ROOT = Path(__file__).resolve().parents[2]


def _answer(peer: Peer) -> None:
    """The same plugin over HTTPS, which ``goplugins.serve`` does not offer: behind a plain TLS server."""
    while (request := peer.read_request()) is not None:
        if request.method == "GET":
            peer.send(http_reply({"status": "healthy"}))
            continue
        try:
            answer = twice(Ask(**request.json["data"]))
        except serve.Rejected as error:
            peer.send(http_reply({"error": str(error), "metadata": {"error_code": "REFUSED"}}))
            continue
        peer.send(ok(request, {"value": answer.value, "pid": answer.pid}))


def _main(folder: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    ca, cert, key = (folder / name for name in ("ca.pem", "cert.pem", "key.pem"))
    authority.cert_pem.write_to_path(str(ca))
    certificate.cert_chain_pems[0].write_to_path(str(cert))
    certificate.private_key_pem.write_to_path(str(key))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    with ExitStack() as stack:

        def start(url: str, **options: Any) -> str:
            return stack.enter_context(serve.start(twice, url, threads=32, grace=1, **options)).endpoint

        web = "http://127.0.0.1:0"
        secure = stack.enter_context(RawServer(_answer, tls=context)).url
        tls = serve.ServerTLS(str(cert), str(key))
        trusted = {"method": "none", "ca_file": str(ca)}
        plugins = [
            {"name": "http", "transport": "http", "endpoint": start(web)},
            {"name": "https", "transport": "https", "endpoint": secure, "auth": trusted},
            {"name": "grpc", "transport": "grpc", "endpoint": start("grpc://127.0.0.1:0")},
            {
                "name": "grpc-tls",
                "transport": "grpc-tls",
                "endpoint": start("grpcs://127.0.0.1:0", tls=tls),
                "auth": trusted,
            },
            {"name": "unix", "transport": "unix", "endpoint": start(f"unix://{folder}/twice.sock")},
            {
                "name": "exec",
                "transport": "exec",
                # Explicit, since under uWSGI sys.executable is no Python interpreter.
                "executable": sys.executable,
                "args": ["-m", "goplugins", "serve", "tests.hosts.plugins:twice", "--stdio"],
                "work_dir": str(ROOT),
                "connection": {"max_connections": 2},
            },
            {
                "name": "python",
                "transport": "python",
                "endpoint": "tests.hosts.plugins:twice",
                "options": {"isolate": True},
            },
            {"name": "group", "transport": "http", "endpoints": [start(web), start(web)]},
        ]
        print(json.dumps(plugins), flush=True)
        sys.stdin.read()


class PluginServers:
    """A process that serves the plugins over all transports.

    Attributes:
        plugins: the configuration of the plugins.
    """

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.hosts.servers", str(folder)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        assert self._process.stdout is not None
        self.plugins: list[dict[str, Any]] = json.loads(self._process.stdout.readline())

    def close(self) -> None:
        try:
            self._process.communicate("", timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
