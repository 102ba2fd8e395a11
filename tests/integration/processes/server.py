"""Serves over every transport until stdin ends: ``python -m tests.integration.processes.server FOLDER``.

Prints the addresses as one line of JSON.
"""

from __future__ import annotations

import json
import ssl
import sys
import time

import trustme

from goplugins import serve
from tests.integration.processes.plugins import echo
from tests.servers import Peer, RawServer, ok


def answer(peer: Peer) -> None:
    while (request := peer.read_request()) is not None:
        data = request.json.get("data") if request.body else None
        if isinstance(data, dict) and data.get("seconds"):
            time.sleep(data["seconds"])
        peer.send(ok(request, {"request": data}))


if __name__ == "__main__":
    folder = sys.argv[1]
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(f"{folder}/ca.pem")
    secure = RawServer(answer, tls=context)
    running = {
        "http": serve.start(echo, "http://127.0.0.1:0", threads=64),
        "grpc": serve.start(echo, "grpc://127.0.0.1:0", threads=64),
        "unix": serve.start(echo, f"unix://{folder}/plugin.sock", threads=64),
    }
    where = {name: server.url for name, server in running.items()}
    print(json.dumps({**where, "https": secure.url, "ca": f"{folder}/ca.pem"}), flush=True)
    sys.stdin.read()
    for server in running.values():
        server.stop()
    secure.close()
