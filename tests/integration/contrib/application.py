"""What servers are started with: says what it finds out about them, and calls a plugin that hangs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from typing import Any

from goplugins import Manager, PluginTimeoutError
from goplugins.contrib.wsgi import PluginCalls
from goplugins.doctor import host_here
from goplugins.doctor.host import server_limit

manager = Manager()
manager.load_from_config(json.loads(os.environ["APPLICATION_CONFIG"]))


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    said: dict[str, Any] = {"pid": os.getpid(), "limit": server_limit()}
    if environ["PATH_INFO"] == "/host":
        found = host_here()
        said |= {name: getattr(found, name) for name in ("name", "workers", "limit", "threads", "gevent", "fork_hooks")}
        said["room"] = server_limit()
    else:
        try:
            manager.execute("p", "hang")
        except PluginTimeoutError as error:
            said["error"] = str(error)
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(said).encode()]


if "--bare" in os.environ.get("APPLICATION_OPTIONS", ""):
    bare = application
else:
    application = PluginCalls(application)
sys.stdout.flush()
