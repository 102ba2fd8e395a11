"""Serves one of the plugins until SIGTERM: ``python -m tests.integration.conformance.server NAME URL AUTH``."""

from __future__ import annotations

import json
import sys
import time

from examples.custom_transport.server import serve as serve_framed
from goplugins import serve
from goplugins.config import AuthConfig
from goplugins.serve._line_server import LineService
from tests.integration.conformance import plugins

if __name__ == "__main__":
    name, url, credentials = sys.argv[1:4]
    auth = AuthConfig.from_mapping(json.loads(credentials)) if json.loads(credentials) else None
    scheme, _, path = url.partition(":")
    if scheme == "framed":
        service = LineService(getattr(plugins, name), auth=auth, max_request_bytes=64 << 20, threads=16)
        serve_framed(path, lambda message: service.answer(message, time.monotonic(), path))
    serve.run(getattr(plugins, name), url, auth=auth, threads=16)
