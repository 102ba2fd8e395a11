"""Serves one of the plugins until SIGTERM: ``python -m tests.integration.conformance.server NAME URL AUTH``."""

from __future__ import annotations

import json
import sys

from goplugins import serve
from goplugins.config import AuthConfig
from tests.integration.conformance import plugins

if __name__ == "__main__":
    name, url, credentials = sys.argv[1:4]
    auth = AuthConfig.from_mapping(json.loads(credentials)) if json.loads(credentials) else None
    serve.run(getattr(plugins, name), url, auth=auth, threads=16)
