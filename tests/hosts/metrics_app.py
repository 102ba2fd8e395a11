"""A WSGI application: calls a plugin, and returns the metrics of all workers at ``/metrics``."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from goplugins import Manager, PluginError, serve
from goplugins.contrib.prometheus import export


@serve.plugin(name="even")
def even(number: int) -> int:
    if number % 5 == 0:
        raise serve.Rejected("no")
    return number


manager = Manager(int, int)
manager.register(even)
export(manager)


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    if path == "/metrics":
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        body = generate_latest(registry)
    else:
        with contextlib.suppress(PluginError):
            manager.execute("even", int(path.strip("/")))
        body = str(os.getpid()).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
