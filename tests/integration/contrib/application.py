"""The application of the servers under test: returns the detected facts of its server, and calls a plugin."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from typing import Any

from goplugins import Manager, PluginTimeoutError
from goplugins.contrib.wsgi import PluginCalls
from goplugins.doctor import host_here
from goplugins.doctor.this_process import server_limit

logging.basicConfig(level=logging.WARNING)
manager = Manager()
manager.load_from_config(json.loads(os.environ["APPLICATION_CONFIG"]))


def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    result: dict[str, Any] = {"pid": os.getpid()}
    if environ["PATH_INFO"] == "/host":
        found = host_here()
        result |= {name: getattr(found, name) for name in ("name", "workers", "threads", "gevent", "fork_hooks")}
        result["limit"] = server_limit()
    else:
        try:
            manager.execute("p", environ["PATH_INFO"].strip("/"))
        except PluginTimeoutError as error:
            result["error"] = str(error)
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(result).encode()]


application = answer if "APPLICATION_UNWRAPPED" in os.environ else PluginCalls(answer)
